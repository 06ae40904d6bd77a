/** The log of all messages: rows that fold streams, a filter, a pause. At most `MOST_ROWS` rows. */

import { h, icon, relabel, setText } from "./dom.js";
import { ago, cut, milliseconds, pretty } from "./words.js";

/** @typedef {"command" | "reply" | "message" | "error" | "upload" | "session"} Kind */

/**
 * @typedef {object} Entry
 * @property {"in" | "out" | "note"} way
 * @property {Kind} kind
 * @property {string} type the wire's, or a sentence where the way is "note"
 * @property {unknown} [data]
 * @property {string} [to] the command that is answered
 * @property {number} [took] milliseconds
 */

const MOST_ROWS = 500;
/**
 * An entry that follows one of its kind within this many milliseconds, and this many rows, is counted in its row: a
 * stream of messages, a slider that is dragged. @type {Partial<Record<Kind, number>>}
 */
const FOLD_WITHIN = { message: 1000, command: 300, reply: 300 };
const FOLD_ROWS = 6;
/** The number of the newest entries of a folded row that are kept. */
const MOST_KEPT = 20;
/** The most characters of JSON: of all rows together, beyond which the oldest lose theirs; of an opened row; to search. */
const MOST_CHARACTERS = 8_000_000;
const MOST_SHOWN = 50_000;
const MOST_SEARCHED = 2_000;
/** Pixels from the bottom that still count as the bottom. */
const BOTTOM = 24;

const KINDS = /** @type {Kind[]} */ (["command", "reply", "message", "error", "upload", "session"]);
const CHIPS = { command: "Commands", reply: "Replies", message: "Messages", error: "Errors", upload: "Uploads", session: "Session" };
const ARROWS = { in: "←", out: "→", note: "·" };
const SPOKEN = { in: "received", out: "sent", note: "" };

export class Log {
  /** @param {HTMLElement} place */
  constructor(place) {
    this.#list = h("div", { class: "log-rows", role: "log", "aria-live": "off", "aria-label": "Messages", tabindex: 0 });
    this.#empty = h("p", { class: "empty", text: "Nothing was said yet." });
    this.#list.append(this.#empty);
    this.#list.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    place.append(this.#toolbar(place), this.#list);
    setInterval(() => this.#age(), 1000);
  }

  #list;
  #empty;
  /** @type {Row[]} */
  #rows = [];
  /** @type {Set<Row>} */
  #changed = new Set();
  #frame = 0;
  #text = "";
  #shown = new Set(KINDS);
  #isPaused = false;
  #isAtBottom = true;
  #counter = h("span", { class: "log-count" });
  #pause = h("button", { type: "button", class: "icon-button", onclick: () => this.#togglePause() });

  /** @param {Entry} entry */
  add(entry) {
    const row = this.#foldable(entry);
    if (row) {
      row.fold(entry);
      this.#changed.add(row);
    } else {
      this.#rows.push(new Row(entry));
      if (this.#rows.length > MOST_ROWS) this.#rows.shift()?.element?.remove();
    }
    this.#forget();
    this.#frame ||= requestAnimationFrame(() => this.#draw());
  }

  /** Drop the data of the oldest rows if all rows together hold too much. */
  #forget() {
    let kept = 0;
    for (let at = this.#rows.length - 1; at >= 0; at -= 1) {
      const row = /** @type {Row} */ (this.#rows[at]);
      kept += row.size;
      if (kept > MOST_CHARACTERS) row.forget();
    }
  }

  /** @param {Entry} entry */
  #foldable(entry) {
    const within = FOLD_WITHIN[entry.kind] ?? 0;
    const recent = this.#rows.slice(-FOLD_ROWS).reverse();
    const row = recent.find(({ entry: { kind, type, to } }) => kind === entry.kind && type === entry.type && to === entry.to);
    return row && performance.now() - row.last < within ? row : null;
  }

  #draw() {
    this.#frame = 0;
    const waiting = this.#rows.filter((row) => row.element === null);
    if (this.#isPaused) {
      setText(this.#counter, waiting.length > 0 ? `${waiting.length} new` : "paused");
      return;
    }
    setText(this.#counter, "");
    for (const row of this.#changed) row.update();
    this.#changed.clear();
    if (waiting.length > 0) {
      this.#empty.remove();
      this.#list.append(...waiting.map((row) => this.#filter(row, row.draw())));
    }
    if (this.#isAtBottom) this.#list.scrollTop = this.#list.scrollHeight;
  }

  /**
   * @param {Row} row
   * @param {HTMLElement} element
   */
  #filter(row, element) {
    element.hidden = !this.#shown.has(row.entry.kind) || !row.says(this.#text);
    return element;
  }

  #refilter() {
    for (const row of this.#rows) if (row.element) this.#filter(row, row.element);
    if (this.#isAtBottom) this.#list.scrollTop = this.#list.scrollHeight;
  }

  #scrolled() {
    const { scrollTop, clientHeight, scrollHeight } = this.#list;
    this.#isAtBottom = scrollHeight - scrollTop - clientHeight < BOTTOM;
  }

  #togglePause() {
    this.#isPaused = !this.#isPaused;
    this.#showPause();
    this.#draw();
  }

  #showPause() {
    relabel(this.#pause, this.#isPaused ? "play" : "pause", this.#isPaused ? "Go on showing messages" : "Pause the log");
    this.#pause.setAttribute("aria-pressed", String(this.#isPaused));
  }

  #clear() {
    this.#rows = [];
    this.#changed.clear();
    this.#list.replaceChildren(this.#empty);
    this.#isAtBottom = true;
  }

  #age() {
    const now = performance.now();
    for (const row of this.#rows) row.age(now);
  }

  /** @param {HTMLElement} place */
  #toolbar(place) {
    this.#showPause();
    const fold = h("button", {
      type: "button", class: "log-fold", "aria-expanded": "true",
      onclick: () => fold.setAttribute("aria-expanded", String(!place.classList.toggle("is-folded"))),
    }, icon("chevron"), "Log");
    const search = h("input", {
      type: "search", class: "input log-search", placeholder: "Filter", "aria-label": "Filter the log by text",
      oninput: () => {
        this.#text = search.value.toLowerCase();
        this.#refilter();
      },
    });
    const chips = KINDS.map((kind) => {
      const box = h("input", {
        type: "checkbox", class: "sr-only", checked: true,
        onchange: () => {
          if (box.checked) this.#shown.add(kind);
          else this.#shown.delete(kind);
          this.#refilter();
        },
      });
      return h("label", { class: `chip kind-${kind}` }, box, h("span", { text: CHIPS[kind] }));
    });
    const clear = h("button", { type: "button", class: "icon-button", "aria-label": "Clear the log", title: "Clear the log", onclick: () => this.#clear() }, icon("clear"));
    return h("div", { class: "log-bar" }, h("h2", { class: "panel-title log-fold-title", id: "log-title" }, fold), search,
      h("div", { class: "chips", role: "group", "aria-label": "Kinds of messages" }, ...chips),
      h("div", { class: "log-tools" }, this.#counter, this.#pause, clear));
  }
}

/** One row of the log; it opens to the whole JSON. */
class Row {
  /** @param {Entry} entry */
  constructor(entry) {
    this.entry = entry;
    this.#text = textOf(entry);
  }

  /** The data as JSON, which takes less memory than the values. */
  #text;
  last = performance.now();
  /** @type {HTMLDetailsElement | null} */
  element = null;
  #count = 1;
  /** @type {string[]} */
  #earlier = [];
  #time = h("time", { class: "log-time", text: "now", title: new Date().toLocaleTimeString() });
  #brief = h("span", { class: "log-brief" });
  #about = h("span", { class: "log-about" });
  #badge = h("span", { class: "log-times", hidden: true });
  #json = h("pre", { class: "log-json", tabindex: 0 });

  /** @param {Entry} entry the next of the same type */
  fold(entry) {
    this.#earlier = [...this.#earlier, cut(this.#text, MOST_SEARCHED)].slice(1 - MOST_KEPT);
    this.entry = entry;
    this.#text = textOf(entry);
    this.last = performance.now();
    this.#count += 1;
  }

  /** The number of characters that the row holds, approximately. */
  get size() {
    return this.#text.length;
  }

  forget() {
    if (!this.#text.endsWith("…")) this.#text = cut(this.#text, MOST_SEARCHED);
  }

  draw() {
    const { way, kind, type } = this.entry;
    const name = h("span", { class: "log-type", text: type });
    const summary = h("summary", { class: "log-line" }, this.#time,
      h("span", { class: "log-way", "aria-hidden": "true", text: ARROWS[way] }), h("span", { class: "sr-only", text: SPOKEN[way] }),
      name, this.#badge, this.#brief, this.#about);
    const element = h("details", { class: `log-row kind-${kind} way-${way}` }, summary, this.#json);
    element.addEventListener("toggle", () => this.update());
    if (kind === "error") element.setAttribute("aria-label", `${pretty(kind)}: ${type}`);
    this.element = element;
    this.update();
    return element;
  }

  update() {
    const { to, took } = this.entry;
    setText(this.#about, [to && `to ${to}`, took !== undefined && milliseconds(took)].filter(Boolean).join(", "));
    setText(this.#brief, this.#text === "{}" ? "" : cut(this.#text));
    this.#badge.hidden = this.#count === 1;
    setText(this.#badge, `×${this.#count}`);
    if (!this.element?.open) return;
    const earlier = [...this.#earlier].reverse();
    const heading = earlier.length > 0 ? ["", `before it${this.#count > MOST_KEPT ? `, the newest of ${this.#count - 1}` : ""}:`] : [];
    setText(this.#json, [indented(this.#text), ...heading, ...earlier].join("\n"));
  }

  /** @param {string} text lower case */
  says(text) {
    return text === "" || `${this.entry.type} ${this.entry.to ?? ""} ${cut(this.#text, MOST_SEARCHED)}`.toLowerCase().includes(text);
  }

  /** @param {number} now */
  age(now) {
    if (this.element && !this.element.hidden) setText(this.#time, ago((now - this.last) / 1000));
  }
}

/** @param {Entry} entry no reference to its data is kept */
function textOf(entry) {
  const text = JSON.stringify(entry.data) ?? "";
  delete entry.data;
  return text;
}

/**
 * JSON for reading. Very long data is neither laid out nor shown in full, since that would delay the pictures.
 * @param {string} text
 */
function indented(text) {
  if (text === "" || text.endsWith("…")) return text;
  if (text.length <= MOST_SHOWN) return JSON.stringify(JSON.parse(text), null, 2);
  return `${text.slice(0, MOST_SHOWN)}…\n\n${text.length - MOST_SHOWN} more characters`;
}
