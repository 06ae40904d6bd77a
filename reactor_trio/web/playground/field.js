/** A field of a command: its control with label, wire name, description, null switch and error. */

import { choiceControl, FieldError, jsonControl, numberControl, rangeControl, switchControl, textControl } from "./controls.js";
import { h, setText, uniqueId } from "./dom.js";
import { uploadControl } from "./upload.js";

/** @typedef {import("./controls.js").Change} Change */
/** @typedef {import("./controls.js").Control} Control */
/** @typedef {import("./schema.js").FieldSpec} FieldSpec */
/** @typedef {import("./session.js").Session} Session */

/** Kinds of controls without an empty value, so that null needs a switch beside the control. */
const WITH_NULL_SWITCH = new Set(["range", "number", "text", "multiline"]);

/** Kinds of controls of which each change is a whole value, so that a command can be sent at once. */
const CONTINUOUS = new Set(["range", "choice", "switch"]);

export class Field {
  /**
   * @param {FieldSpec} spec
   * @param {Session} session
   * @param {(change: Change) => void} changed
   * @param {boolean} isAlone whether the command's title makes a label superfluous
   */
  constructor(spec, session, changed, isAlone) {
    this.spec = spec;
    this.isContinuous = CONTINUOUS.has(spec.kind);
    this.control = makeControl(spec, session, (change) => this.#changed(change), (message) => this.fault(message));
    this.#notify = changed;
    this.#error = h("p", { class: "field-error", id: uniqueId("error"), hidden: true });
    /** The bounds, or the length of the text; a card may place the element elsewhere. */
    this.hint = h("span", { class: "hint", text: spec.hint });
    this.#null = this.#makeNullSwitch();
    this.element = this.#draw(isAlone);
    this.#count();
  }

  /** @type {(change: Change) => void} */
  #notify;
  #error;
  #null;

  /**
   * The value, or undefined to leave the field out. Shows and throws a `FieldError` if there is no valid value.
   * @returns {unknown}
   */
  read() {
    if (this.#null?.checked) return null;
    try {
      return this.control.read();
    } catch (error) {
      if (error instanceof FieldError) this.fault(error.message);
      throw error;
    }
  }

  get isWrong() {
    return !this.#error.hidden;
  }

  /** Whether there is a value that could be sent; shows nothing. */
  isFilled() {
    try {
      return this.#null?.checked || this.control.read() !== undefined || !this.spec.required;
    } catch {
      return false;
    }
  }

  /**
   * Show the fault of the value; null: there is none.
   * @param {string | null} message
   */
  fault(message) {
    this.#error.hidden = message === null;
    setText(this.#error, message ?? "");
    if (message === null) this.control.target.removeAttribute("aria-invalid");
    else this.control.target.setAttribute("aria-invalid", "true");
    this.element.classList.toggle("is-wrong", message !== null);
  }

  /** @param {Change} change */
  #changed(change) {
    this.fault(null);
    this.#count();
    if (this.spec.kind === "json" && change === "typed") this.#checkSyntax();
    this.#notify(change);
  }

  #checkSyntax() {
    try {
      this.control.read();
    } catch (error) {
      if (error instanceof FieldError) this.fault(error.message);
    }
  }

  /** Show the length of a text in the hint while it is near its limit. */
  #count() {
    const most = this.spec.schema.maxLength;
    const target = this.control.target;
    if (most === undefined || !("value" in target)) return;
    const length = [...String(target.value)].length;
    setText(this.hint, `${length} / ${most}`);
    this.hint.classList.toggle("is-over", length > most);
  }

  #makeNullSwitch() {
    if (!this.spec.nullable || !WITH_NULL_SWITCH.has(this.spec.kind)) return null;
    const box = h("input", {
      type: "checkbox", class: "check", checked: this.spec.initial === null,
      "aria-label": `${this.spec.label}: send null`,
    });
    const apply = () => this.control.disable?.(box.checked);
    box.addEventListener("change", () => {
      apply();
      this.#changed("moved");
    });
    apply();
    return box;
  }

  /** @param {boolean} isAlone */
  #draw(isAlone) {
    const { spec, control } = this;
    control.target.id ||= uniqueId("field");
    const labelId = uniqueId("label");
    const required = spec.required ? h("span", { class: "required", title: "required", text: "required" }) : null;
    const words = [h("span", { class: "label-text", text: spec.label }), h("code", { class: "wire", "aria-hidden": "true", text: spec.name })];
    const label = control.isGroup
      ? h("span", { id: labelId, class: "label" }, ...words)
      : h("label", { id: labelId, class: "label", for: control.target.id }, ...words);
    if (control.isGroup) control.target.setAttribute("aria-labelledby", labelId);
    const description = spec.description
      ? h("p", { class: "field-description", id: uniqueId("description"), text: spec.description })
      : null;
    if (spec.hint) this.hint.id = uniqueId("hint");
    const described = [description?.id, this.hint.id, this.#error.id].filter(Boolean).join(" ");
    control.target.setAttribute("aria-describedby", described);
    const nullLabel = this.#null && h("label", { class: "null-switch" }, h("span", { text: "null" }), this.#null);
    const side = h("span", { class: "label-side" }, isAlone ? null : this.hint, nullLabel, isAlone ? null : required);
    const row = h("div", { class: "label-row" }, label, side);
    row.classList.toggle("sr-only", isAlone && !nullLabel);
    if (isAlone) label.classList.add("sr-only");
    const inline = spec.kind === "switch" && !control.isGroup;
    return h("div", { class: `field field-${spec.kind}${inline ? " is-inline" : ""}` }, row, description, control.element, this.#error);
  }
}

/**
 * @param {FieldSpec} spec
 * @param {Session} session
 * @param {(change: Change) => void} changed
 * @param {(message: string) => void} complain
 * @returns {Control}
 */
function makeControl(spec, session, changed, complain) {
  switch (spec.kind) {
    case "range":
      return rangeControl(spec, changed);
    case "number":
      return numberControl(spec, changed);
    case "choice":
      return choiceControl(spec, changed);
    case "switch":
      return switchControl(spec, changed);
    case "upload":
      return uploadControl(spec, session, changed, complain);
    case "json":
      return jsonControl(spec, changed);
    default:
      return textControl(spec, changed);
  }
}
