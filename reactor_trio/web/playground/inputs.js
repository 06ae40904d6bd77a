/** Tracks to the model: the webcam, the screen or the microphone, sent only after a click. */

import { h, icon, setText } from "./dom.js";
import { pretty } from "./words.js";

/** @typedef {import("./session.js").Session} Session */
/** @typedef {import("../reactor/protocol.js").TrackInfo} TrackInfo */
/** @typedef {{text: string, icon: import("./dom.js").IconName, open: () => Promise<MediaStream>, isMirror?: boolean}} Source */

const WIDTHS = [320, 480, 640, 960, 1280];
const RATES = [5, 10, 15, 24, 30];

/** @type {Record<string, string>} */
const PROBLEMS = {
  NotAllowedError: "The browser was not allowed to use it. Allow it beside the address, and try again.",
  NotFoundError: "No such device is connected.",
  NotReadableError: "The device is in use by another program.",
  OverconstrainedError: "The device cannot do that.",
  SecurityError: "A browser gives its devices only to pages of https or of this computer.",
};

export class InputTrack {
  /**
   * @param {TrackInfo} track
   * @param {Session} session
   */
  constructor(track, session) {
    this.#track = track;
    this.#session = session;
    this.#label = pretty(track.name);
    this.#preview = h("video", { class: "self-view", hidden: true, muted: true, autoplay: true, playsinline: true, "aria-label": `${this.#label}: your own picture` });
    this.#preview.muted = true;
    this.#buttons = this.#sources().map((source) =>
      h("button", { type: "button", class: "button", onclick: () => this.#start(source) }, icon(source.icon), h("span", { text: source.text })));
    this.#stop = h("button", { type: "button", class: "button is-stop", hidden: true, onclick: () => this.stop() }, icon("stop"), h("span", { text: "Stop" }));
    this.element = this.#draw();
  }

  #track;
  #session;
  #label;
  #preview;
  #buttons;
  #stop;
  #width = h("select", { class: "input select", "aria-label": "Width" });
  #fps = h("select", { class: "input select", "aria-label": "Pictures a second" });
  #facts = h("p", { class: "hint input-facts", hidden: true });
  #problem = h("p", { class: "card-error", role: "alert", hidden: true });
  /** @type {MediaStream | null} */
  #stream = null;
  /** @type {import("../reactor/publish.js").Publisher | null} */
  #publisher = null;
  /** The number of the click for which the stream was opened; a stream that comes after another click is closed. */
  #click = 0;

  get #isVideo() {
    return this.#track.kind === "video";
  }

  update() {
    if (!this.#publisher) return;
    if (this.#publisher.signal.aborted) {
      // The publisher gave up, or the client was closed: a camera that is not used is switched off.
      this.stop();
      return;
    }
    const { sent, dropped } = this.#publisher.stats();
    setText(this.#facts, `${sent} ${this.#isVideo ? "pictures" : "blocks"} sent${dropped ? `, ${dropped} left out` : ""}`);
  }

  stop() {
    this.#click += 1;
    this.#publisher?.stop();
    this.#publisher = null;
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    if (this.#stream) this.#session.note(`${this.#label}: stopped`);
    this.#stream = null;
    this.#preview.srcObject = null;
    this.#show();
  }

  /** @param {boolean} isOpen */
  enable(isOpen) {
    for (const button of this.#buttons) button.disabled = !isOpen;
  }

  /** @param {Source} source */
  async #start(source) {
    this.#problem.hidden = true;
    const click = ++this.#click;
    try {
      const stream = await source.open();
      if (click !== this.#click) {
        for (const track of stream.getTracks()) track.stop();
        return;
      }
      this.#stream = stream;
      stream.getTracks()[0]?.addEventListener("ended", () => this.#stream === stream && this.#ended(source));
      this.#publish();
      this.#session.note(`${this.#label}: sending, ${source.text.toLowerCase()}`);
      if (this.#isVideo) this.#preview.srcObject = stream;
      // The user expects the picture of a mirror; the frames that are sent are not mirrored.
      this.#preview.classList.toggle("is-mirror", source.isMirror === true);
    } catch (error) {
      if (click !== this.#click) return;
      const { name, message } = /** @type {Error} */ (error);
      this.stop();
      this.#complain(PROBLEMS[name] ?? message);
    }
    this.#show();
  }

  /** @param {Source} source it was unplugged, or the visitor has stopped it in the browser */
  #ended(source) {
    this.stop();
    this.#complain(`${source.text}: no longer there. It was unplugged, or stopped in the browser.`);
  }

  /** @param {string} text */
  #complain(text) {
    this.#problem.hidden = false;
    setText(this.#problem, text);
  }

  /** Apply the chosen size and rate to the device, which still has those it was switched on with. */
  async #reconfigure() {
    const stream = this.#stream;
    if (!stream) return;
    this.#publisher?.stop();
    this.#publisher = null;
    // The constraints are optional: a device ignores those that it cannot fulfil.
    const [video] = stream.getVideoTracks();
    await video?.applyConstraints(this.#wanted()).catch(() => undefined);
    if (this.#stream === stream) this.#publish();
  }

  #wanted() {
    return { width: { ideal: Number(this.#width.value) }, frameRate: { ideal: Number(this.#fps.value) } };
  }

  #publish() {
    if (!this.#stream) return;
    this.#publisher?.stop();
    const options = this.#isVideo ? { fps: Number(this.#fps.value), width: Number(this.#width.value) } : {};
    this.#publisher = this.#session.client.publish(this.#track.name, this.#stream, options);
  }

  #show() {
    const isOn = this.#stream !== null;
    this.#preview.hidden = !isOn || !this.#isVideo;
    this.#stop.hidden = !isOn;
    this.#facts.hidden = !isOn;
    for (const button of this.#buttons) button.hidden = isOn;
    this.element.classList.toggle("is-on", isOn);
    if (isOn) this.#stop.focus();
  }

  /** @returns {Source[]} */
  #sources() {
    const devices = navigator.mediaDevices;
    if (!devices) {
      const insecure = () => Promise.reject(new DOMException("", "SecurityError"));
      return [{ text: this.#isVideo ? "Webcam" : "Microphone", icon: this.#isVideo ? "camera" : "microphone", open: insecure }];
    }
    const audio = { channelCount: 1, echoCancellation: true, noiseSuppression: true };
    if (!this.#isVideo) return [{ text: "Microphone", icon: "microphone", open: () => devices.getUserMedia({ audio }) }];
    const webcam = /** @type {Source} */ ({ text: "Webcam", icon: "camera", isMirror: true, open: () => devices.getUserMedia({ video: this.#wanted() }) });
    const screen = /** @type {Source} */ ({ text: "Screen", icon: "screen", open: () => devices.getDisplayMedia({ video: true }) });
    return "getDisplayMedia" in devices ? [webcam, screen] : [webcam];
  }

  #draw() {
    const { name, kind, rate } = this.#track;
    const fill = (/** @type {HTMLSelectElement} */ list, /** @type {number[]} */ values, /** @type {number} */ chosen, /** @type {string} */ unit) => {
      list.append(...values.map((value) => h("option", { value, text: `${value} ${unit}`, selected: value === chosen })));
      list.addEventListener("change", () => void this.#reconfigure());
    };
    fill(this.#width, WIDTHS, 640, "px");
    fill(this.#fps, RATES, 15, "fps");
    const choices = this.#isVideo && h("div", { class: "input-choices" }, h("div", { class: "select-box" }, this.#width), h("div", { class: "select-box" }, this.#fps));
    const about = kind === "audio" && rate ? `${kind}, ${rate / 1000} kHz` : kind;
    return h("div", { class: "card is-input" },
      h("div", { class: "card-head" }, h("div", { class: "card-names" }, h("h3", { class: "card-title", text: this.#label }), h("div", { class: "wire-line" }, h("code", { class: "wire", text: name }), h("span", { class: "badge", text: about })))),
      this.#preview, this.#facts, this.#problem, choices,
      h("div", { class: "card-foot" }, ...this.#buttons, this.#stop));
  }
}
