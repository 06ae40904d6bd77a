/** One control for one field: its element, and the reading of its value. field.js has labels and errors. */

import { h, uniqueId } from "./dom.js";
import { boundsOf, exampleOf, tidy } from "./schema.js";

/** @typedef {import("./schema.js").FieldSpec} FieldSpec */

/**
 * An event of a control: "moved", a value was picked or dragged (a live command is sent then); "typed", a text is
 * being written; "submit", Enter was pressed in it.
 * @typedef {"moved" | "typed" | "submit"} Change
 */

/**
 * @typedef {object} Control
 * @property {HTMLElement} element
 * @property {HTMLElement} target the element that the label, the description and the error belong to
 * @property {boolean} isGroup whether the target is a group, which a `<label for>` cannot name
 * @property {() => unknown} read the value; undefined: leave the field out. Throws `FieldError`
 * @property {(() => Promise<void> | null)} [prepare] work before the value is read; null: there is none
 * @property {(isDisabled: boolean) => void} [disable]
 */

/** The value of a control cannot be sent; the message is shown beside it. */
export class FieldError extends Error {}

/**
 * A slider with a number field beside it.
 * @param {FieldSpec} spec
 * @param {(change: Change) => void} changed
 * @returns {Control}
 */
export function rangeControl(spec, changed) {
  const bounds = /** @type {NonNullable<ReturnType<typeof boundsOf>>} */ (boundsOf(spec.schema));
  const { min, max, step } = bounds;
  const initial = typeof spec.initial === "number" ? spec.initial : min;
  const slider = h("input", { type: "range", class: "slider", min, max, step, value: initial });
  const exact = h("input", {
    type: "number", class: "input number", step: spec.schema.type === "integer" ? 1 : "any", value: initial,
    inputmode: keyboard(spec), "aria-label": `${spec.label}, exact value`,
  });
  const fill = () => {
    const part = (Number(slider.value) - min) / (max - min);
    slider.style.setProperty("--part", String(Math.min(1, Math.max(0, part))));
  };
  slider.addEventListener("input", () => {
    exact.value = String(tidy(Number(slider.value)));
    fill();
    changed("moved");
  });
  exact.addEventListener("input", () => {
    slider.value = exact.value;
    fill();
    changed("typed");
  });
  exact.addEventListener("change", () => changed("moved"));
  submitOnEnter(exact, changed);
  fill();
  const ends = h("div", { class: "ends", "aria-hidden": "true" }, h("span", { text: min }), h("span", { text: max }));
  return {
    element: h("div", { class: "range" }, h("div", { class: "range-slider" }, slider, ends), exact),
    target: slider,
    isGroup: false,
    read: () => numberIn(exact, spec),
    disable: (isDisabled) => {
      slider.disabled = isDisabled;
      exact.disabled = isDisabled;
    },
  };
}

/**
 * @param {FieldSpec} spec
 * @param {(change: Change) => void} changed
 * @returns {Control}
 */
export function numberControl(spec, changed) {
  const input = h("input", {
    type: "number", class: "input number-wide", inputmode: keyboard(spec),
    step: spec.schema.type === "integer" ? 1 : "any", value: /** @type {number | undefined} */ (spec.initial),
    required: spec.required,
  });
  input.addEventListener("input", () => changed("typed"));
  submitOnEnter(input, changed);
  return simple(input, () => numberIn(input, spec));
}

/**
 * @param {HTMLInputElement} input
 * @param {FieldSpec} spec
 */
function numberIn(input, spec) {
  if (input.validity.badInput) throw new FieldError("this is no number");
  if (input.value !== "") return exactly(input, spec);
  if (spec.required || spec.hasDefault) throw new FieldError("a number is needed");
  return undefined;
}

/**
 * @param {HTMLInputElement} input
 * @param {FieldSpec} spec
 */
function exactly(input, spec) {
  const value = Number(input.value);
  if (spec.schema.type !== "integer" || !Number.isInteger(value) || Number.isSafeInteger(value)) return value;
  // The server has the default already, so the field need not be sent.
  if (spec.hasDefault && value === spec.initial) return undefined;
  throw new FieldError(`a browser can send no whole numbers beyond ${Number.MAX_SAFE_INTEGER}`);
}

/**
 * The keyboard mode of a number field: a telephone's keyboard for decimals has no minus.
 * @param {FieldSpec} spec
 */
function keyboard({ schema }) {
  return (schema.minimum ?? schema.exclusiveMinimum ?? -1) < 0 ? null : "decimal";
}

/**
 * One line, or several. Enter sends in both; Shift and Enter begin a new line where there are several.
 * @param {FieldSpec} spec
 * @param {(change: Change) => void} changed
 * @returns {Control}
 */
export function textControl(spec, changed) {
  const initial = typeof spec.initial === "string" ? spec.initial : "";
  const several = spec.kind === "multiline";
  const input = several
    ? h("textarea", { class: "input text", rows: 2, enterkeyhint: "send", text: initial })
    : h("input", { type: "text", class: "input text", value: initial });
  input.setAttribute("autocomplete", "off");
  if (spec.required) input.setAttribute("aria-required", "true");
  input.addEventListener("input", () => changed("typed"));
  submitOnEnter(input, changed);
  return simple(input, () => {
    if (input.value === "" && !spec.required && !spec.hasDefault) return undefined;
    return input.value;
  });
}

/**
 * @param {HTMLInputElement | HTMLTextAreaElement} input
 * @param {(change: Change) => void} changed
 */
function submitOnEnter(input, changed) {
  input.addEventListener("keydown", (/** @type {Event} */ event) => {
    if (!(event instanceof KeyboardEvent) || event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    changed("submit");
  });
}

/**
 * @param {HTMLInputElement | HTMLTextAreaElement} input
 * @param {() => unknown} read
 * @returns {Control}
 */
function simple(input, read) {
  return {
    element: input,
    target: input,
    isGroup: false,
    read,
    disable: (isDisabled) => {
      input.disabled = isDisabled;
    },
  };
}

/** @typedef {{text: string, value: unknown}} Option */

/** The most values, and characters of all values together, that are shown as buttons side by side. */
const MOST_BUTTONS = 4;
const MOST_CHARACTERS = 30;

/**
 * Buttons side by side for a few short values, a list to open for more.
 * @param {FieldSpec} spec
 * @param {(change: Change) => void} changed
 * @param {Option[]} [given] instead of the schema's values
 * @returns {Control}
 */
export function choiceControl(spec, changed, given) {
  const values = /** @type {unknown[]} */ (spec.schema.enum ?? []);
  const options = given ?? values.map((value) => ({ text: String(value), value }));
  if (spec.nullable) options.push({ text: "null", value: null });
  const characters = options.reduce((sum, option) => sum + option.text.length, 0);
  const isShort = options.length <= MOST_BUTTONS && characters <= MOST_CHARACTERS;
  return isShort ? segments(spec, options, changed) : select(spec, options, changed);
}

/**
 * @param {FieldSpec} spec
 * @param {Option[]} options
 * @param {(change: Change) => void} changed
 * @returns {Control}
 */
function segments(spec, options, changed) {
  const name = uniqueId("choice");
  const radios = options.map((option) =>
    h("input", {
      type: "radio", name, class: "sr-only", onchange: () => changed("moved"),
      checked: spec.hasDefault && option.value === spec.initial,
    }),
  );
  const labels = options.map((option, index) =>
    h("label", { class: "segment" }, /** @type {HTMLElement} */ (radios[index]), h("span", { text: option.text })),
  );
  const element = h("div", { class: "segments", role: "radiogroup" }, ...labels);
  return {
    element,
    target: element,
    isGroup: true,
    read: () => picked(options[radios.findIndex((radio) => radio.checked)], spec),
  };
}

/**
 * @param {FieldSpec} spec
 * @param {Option[]} options
 * @param {(change: Change) => void} changed
 * @returns {Control}
 */
function select(spec, options, changed) {
  const items = options.map((option, index) =>
    h("option", { value: index, text: option.text, selected: spec.hasDefault && option.value === spec.initial }),
  );
  const none = spec.hasDefault ? null : h("option", { value: -1, text: "Choose…", selected: true });
  const list = h("select", { class: "input select", onchange: () => changed("moved") }, none, ...items);
  return {
    element: h("div", { class: "select-box" }, list),
    target: list,
    isGroup: false,
    read: () => picked(options[Number(list.value)], spec),
  };
}

/**
 * @param {Option | undefined} option
 * @param {FieldSpec} spec
 */
function picked(option, spec) {
  if (option) return option.value;
  if (spec.required) throw new FieldError("choose one");
  return undefined;
}

/**
 * @param {FieldSpec} spec
 * @param {(change: Change) => void} changed
 * @returns {Control}
 */
export function switchControl(spec, changed) {
  if (spec.nullable) {
    return choiceControl(spec, changed, [{ text: "on", value: true }, { text: "off", value: false }]);
  }
  const box = h("input", {
    type: "checkbox", role: "switch", class: "switch", checked: spec.initial === true,
    onchange: () => changed("moved"),
  });
  return { element: box, target: box, isGroup: false, read: () => box.checked };
}

/**
 * A field for JSON. Its syntax is checked while the user types.
 * @param {FieldSpec} spec
 * @param {(change: Change) => void} changed
 * @returns {Control}
 */
export function jsonControl(spec, changed) {
  const value = spec.hasDefault ? spec.initial : spec.required ? exampleOf(spec.schema, spec.schema.$defs) : undefined;
  const text = value === undefined ? "" : JSON.stringify(value, null, isFlat(value) ? 0 : 2);
  const area = h("textarea", {
    class: "input json", rows: Math.min(10, Math.max(2, text.split("\n").length)), spellcheck: "false",
    autocapitalize: "off", autocomplete: "off", text,
  });
  area.addEventListener("input", () => changed("typed"));
  area.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) changed("submit");
  });
  return simple(area, () => {
    if (area.value.trim() === "" && !spec.required) return undefined;
    try {
      return JSON.parse(area.value);
    } catch (error) {
      throw new FieldError(syntaxFault(error));
    }
  });
}

/**
 * @param {unknown} value
 */
function isFlat(value) {
  return JSON.stringify(value).length <= 32;
}

/**
 * The message of `JSON.parse`, without its quotation of the text.
 * @param {unknown} error
 */
function syntaxFault(error) {
  const text = error instanceof Error ? error.message : String(error);
  const place = /\(line (\d+) column (\d+)\)/.exec(text);
  const what = text.replace(/^JSON\.parse: /, "").replace(/, "?\.{0,3}[\s\S]*is not valid JSON.*/, "").replace(/ in JSON at .*/, "");
  return `not JSON yet: ${what}${place ? `, line ${place[1]}, column ${place[2]}` : ""}`;
}
