/** A command: its form, or its button, and the state of the last command that was sent. */

import { FieldError } from "./controls.js";
import { h, icon, setText, uniqueId } from "./dom.js";
import { Field } from "./field.js";
import { drawReply } from "./reply.js";
import { fieldsOf } from "./schema.js";
import { errorTitle, pretty } from "./words.js";

/** @typedef {import("./controls.js").Change} Change */
/** @typedef {import("./session.js").Session} Session */

/** @typedef {{name: string, description?: string, dedupe: boolean, schema: Record<string, any>}} EventSpec */

/**
 * The most commands of one card that may be unanswered while a control is dragged. The server collapses the commands
 * of a deduplicated event; it would queue all others, so here the newest value waits.
 */
const MOST_UNANSWERED = { dedupe: 32, plain: 3 };

/** Milliseconds until a command is shown as under way: a quick command should not flicker. */
const BUSY_AFTER = 150;

export class CommandCard {
  /**
   * @param {EventSpec} event
   * @param {Session} session
   */
  constructor(event, session) {
    this.event = event;
    this.#session = session;
    const specs = fieldsOf(event.schema);
    const [only] = specs;
    const isAlone = specs.length === 1 && only !== undefined && `_${event.name}`.endsWith(`_${only.name}`);
    if (isAlone && only.description === event.description) only.description = "";
    this.fields = specs.map((spec) => new Field(spec, session, (change) => this.#changed(change), isAlone));
    const single = this.fields.length === 1 ? this.fields[0] : undefined;
    /** Whether the control itself sends, so that no button is needed. */
    this.#isDirect = single !== undefined && (single.isContinuous || single.spec.kind === "upload");
    this.#isLive = event.dedupe || this.#isDirect;
    /** Whether moving the one control sends the command, as in `set_speed(speed)`, so that a button is superfluous. */
    this.#isSetter = this.#isDirect && isAlone;
    this.#button = this.#makeButton();
    this.element = this.#draw(isAlone && only ? only.name : null);
  }

  #session;
  #isDirect;
  #isLive;
  #isSetter;
  #foot = h("div", { class: "card-foot" });
  #button;
  #outcome = h("span", { class: "outcome" });
  #badge = h("span", { class: "badge", title: "A newer one replaces those that wait.", text: "newest wins" });
  #problem = h("p", { class: "card-error", role: "alert", hidden: true });
  #reply = h("div", { class: "reply", hidden: true });
  #unanswered = 0;
  #superseded = 0;
  #number = 0;
  #answered = 0;
  #frame = 0;
  #isWaiting = false;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  /** @param {boolean} isOpen whether there is a session to send to */
  enable(isOpen) {
    this.#button.setAttribute("aria-disabled", String(!isOpen));
    if (!isOpen) this.#show("idle");
  }

  /** Begin a session: until this card sends something, its values may differ from those of the model. */
  renew() {
    this.#show("idle");
    this.#problem.hidden = true;
    if (this.#number > 0 && this.#isSetter) this.#foot.hidden = false;
  }

  /** Read the form and send it. */
  async send() {
    if (!this.#session.isOpen) {
      this.#fail("not_connected", "There is no session. Nothing was sent.");
      return;
    }
    this.fields.forEach((field) => field.fault(null));
    const number = ++this.#number;
    this.#unanswered += 1;
    this.#foot.hidden = this.#isSetter;
    this.#busy();
    try {
      const preparations = this.fields.map((field) => field.control.prepare?.() ?? null).filter(Boolean);
      // No await unless a field needs it, so that commands leave in the order of the movements.
      if (preparations.length > 0) await Promise.all(preparations);
      const answer = await this.#session.call(this.event.name, this.#payload());
      if (number > this.#answered) this.#succeed(answer, number);
    } catch (error) {
      this.#refused(error, number);
    } finally {
      this.#unanswered -= 1;
      if (this.#unanswered === 0) this.#settle();
      if (this.#isWaiting) this.#soon();
    }
  }

  #payload() {
    const faults = /** @type {unknown[]} */ ([]);
    const entries = /** @type {[string, unknown][]} */ ([]);
    for (const field of this.fields) {
      try {
        const value = field.read();
        if (value !== undefined) entries.push([field.spec.name, value]);
      } catch (error) {
        faults.push(error);
      }
    }
    if (faults.length > 0) throw faults[0];
    // An assignment to `data.__proto__` would not create a field.
    return Object.fromEntries(entries);
  }

  /** @param {Change} change */
  #changed(change) {
    this.#problem.hidden = true;
    if (change === "submit") void this.send();
    else if (change === "moved" && this.#isLive && this.#session.isOpen && this.fields.every((field) => field.isFilled())) this.#soon();
  }

  /** Send with the next picture of the screen: the user does not see an earlier effect. */
  #soon() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      const most = this.event.dedupe ? MOST_UNANSWERED.dedupe : MOST_UNANSWERED.plain;
      this.#isWaiting = this.#unanswered >= most;
      if (!this.#isWaiting && this.#session.isOpen) void this.send();
    });
  }

  /**
   * @param {{type: string, data: any} | null} answer
   * @param {number} number
   */
  #succeed(answer, number) {
    this.#answered = number;
    this.#problem.hidden = true;
    this.#show("ok");
    if (answer && !answer.type.startsWith("reactor.")) {
      this.#reply.hidden = false;
      drawReply(this.#reply, answer);
    }
  }

  /**
   * @param {unknown} error
   * @param {number} number
   */
  #refused(error, number) {
    if (error instanceof FieldError) {
      this.#show("error");
      if (!this.#isLive) this.#firstWrong?.focus();
      return;
    }
    const { code = "error", message = String(error), errors = [], retryAfter } = /** @type {any} */ (error);
    if (code === "superseded") {
      this.#superseded += 1;
      setText(this.#badge, `newest wins, ${this.#superseded}`);
      this.#badge.title = `${this.#superseded} were replaced by a newer one while they waited.`;
      return;
    }
    if (number < this.#answered) return;
    this.#answered = number;
    if (code === "overloaded" && this.#isLive) setTimeout(() => this.#soon(), 1000 * (retryAfter ?? 0.25));
    const rest = errors.filter((/** @type {{path: string, message: string}} */ fault) => !this.#blame(fault));
    if (errors.length > 0 && rest.length === 0) {
      this.#show("error");
      this.#session.announce(`${pretty(this.event.name)}: ${message}`);
      if (!this.#isLive) this.#firstWrong?.focus();
    } else {
      const faults = rest.map((/** @type {any} */ fault) => `${fault.path}: ${fault.message}`);
      this.#fail(code, faults.join("; ") || message);
    }
  }

  get #firstWrong() {
    return this.fields.find((field) => field.isWrong)?.control.target;
  }

  /**
   * Show a fault at the field that its path begins with.
   * @param {{path: string, message: string}} fault
   */
  #blame({ path, message }) {
    const [, name = "", rest = ""] = /^([^.[]*)(.*)$/s.exec(path) ?? [];
    const field = this.fields.find((each) => each.spec.name === name);
    field?.fault(rest ? `${rest.replace(/^\./, "")}: ${message}` : message);
    return field !== undefined;
  }

  /**
   * @param {string} code
   * @param {string} message
   */
  #fail(code, message) {
    this.#show("error");
    this.#problem.hidden = false;
    const title = errorTitle(code);
    const saysMore = message.toLowerCase() !== title.toLowerCase();
    this.#problem.replaceChildren(h("strong", { text: saysMore ? `${title}:` : title }), saysMore ? ` ${message}` : "");
  }

  #busy() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#show("busy"), BUSY_AFTER);
  }

  #settle() {
    clearTimeout(this.#timer);
    if (this.#outcome.dataset.state === "busy") this.#show("idle");
  }

  /** @param {"idle" | "busy" | "ok" | "error"} state */
  #show(state) {
    clearTimeout(this.#timer);
    if (this.#outcome.dataset.state === state && state !== "idle") return;
    this.#outcome.dataset.state = state;
    const words = { idle: "", busy: "sending", ok: "done", error: "failed" };
    const picture = state === "ok" ? icon("check") : state === "error" ? icon("cross") : "";
    this.#outcome.replaceChildren(picture, h("span", { class: "sr-only", text: words[state] }));
    this.element.classList.toggle("is-failed", state === "error");
  }

  #makeButton() {
    const text = this.fields.length === 0 ? "Run" : this.#isSetter ? "Send again" : "Send";
    return h("button", { type: "submit", class: `button${this.#isSetter ? " is-again" : ""}`, "aria-label": `${text}: ${pretty(this.event.name)}` }, h("span", { text }));
  }

  /** @param {string | null} parameter the only one, if its label is left out */
  #draw(parameter) {
    const { name, description, dedupe } = this.event;
    const titleId = uniqueId("card");
    const wire = h("code", { class: "wire", text: parameter ? `${name}(${parameter})` : name });
    const title = h("h3", { id: titleId, class: "card-title", text: pretty(name) });
    const isBare = this.fields.length === 0;
    const [first] = this.fields;
    const isSwitch = parameter !== null && first?.spec.kind === "switch" && !first.spec.nullable && !first.spec.description;
    const head = h("div", { class: "card-head" },
      h("div", { class: "card-names" }, title, h("span", { class: "wire-line" }, wire, dedupe && this.#badge)),
      h("span", { class: "card-status" }, this.#outcome));
    const text = description ? h("p", { class: "card-description", text: description }) : null;
    const onsubmit = (/** @type {Event} */ event) => {
      event.preventDefault();
      void this.send();
    };
    const hint = parameter !== null && first !== undefined && !first.isContinuous ? first.hint : null;
    if (!isBare) this.#foot.append(hint ?? "", this.#button);
    this.#foot.hidden = isBare || this.#isSetter;
    return h("form", { class: `card${isBare ? " is-bare" : ""}${isSwitch ? " is-switch" : ""}`, "aria-labelledby": titleId, novalidate: true, onsubmit },
      head, text, isBare && this.#button, ...this.fields.map((field) => field.element), this.#problem, this.#foot, this.#reply);
  }
}
