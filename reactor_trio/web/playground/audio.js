/** An audio track from the model: play, volume, and a meter of its level. */

import { h, iconButton, relabel, setText } from "./dom.js";
import { pretty } from "./words.js";

/** @typedef {import("../reactor.js").Client} Client */
/** @typedef {import("../reactor/protocol.js").TrackInfo} TrackInfo */
/** @typedef {import("../reactor/protocol.js").Frame} Frame */

/** The lowest level that the meter shows. */
const QUIETEST = -60; // dB
/** The part of a peak that is left after a block of 20 ms: the needle falls slowly and does not flicker. */
const FALL = 0.92;

export class AudioTrack {
  /**
   * @param {Client} client
   * @param {TrackInfo} track
   */
  constructor(client, track) {
    this.#client = client;
    this.#track = track;
    this.#label = pretty(track.name);
    this.#play = iconButton("play", `Play ${this.#label}`, () => this.#toggle());
    this.#play.classList.add("is-round");
    this.#meter = h("div", { class: "level", role: "meter", "aria-label": `Level of ${this.#label}`, "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": 0 }, this.#bar);
    this.element = this.#draw();
    this.#release = client.on("frame", (frame) => frame.track === track.name && this.#hear(frame));
    this.#frame = requestAnimationFrame(() => this.#show());
  }

  #client;
  #track;
  #label;
  #play;
  #meter;
  #release;
  #frame;
  #bar = h("span", { class: "level-bar" });
  #facts = h("span", { class: "screen-facts" });
  #peak = 0;
  #volume = 0.8;
  #problem = "";
  /** @type {import("../reactor.js").AudioSink | null} */
  #sink = null;

  update() {
    const { rate } = this.#track;
    const blocked = this.#problem || (this.#sink ? "playing" : "muted");
    setText(this.#facts, [rate ? `${rate / 1000} kHz` : "", blocked].filter(Boolean).join(", "));
  }

  stop() {
    this.#release();
    cancelAnimationFrame(this.#frame);
    this.#sink?.stop();
    this.#sink = null;
  }

  async #toggle() {
    this.#problem = "";
    if (this.#sink) {
      this.#sink.stop();
      this.#sink = null;
    } else {
      this.#sink = this.#client.audio(this.#track.name);
      this.#sink.volume = this.#volume;
      try {
        await this.#sink.start();
      } catch (error) {
        this.#problem = error instanceof Error ? error.message : String(error);
        this.#sink = null;
      }
    }
    relabel(this.#play, this.#sink ? "stop" : "play", this.#sink ? `Stop ${this.#label}` : `Play ${this.#label}`);
    this.update();
  }

  /** @param {Frame} frame */
  #hear({ codec, payload }) {
    if (codec !== "pcm_s16le") return;
    const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
    let sum = 0;
    const count = payload.byteLength >> 1;
    for (let index = 0; index < count; index += 1) sum += (view.getInt16(2 * index, true) / 32768) ** 2;
    this.#peak = Math.max(Math.sqrt(sum / Math.max(1, count)), this.#peak * FALL);
  }

  #show() {
    const decibels = Math.max(QUIETEST, 20 * Math.log10(this.#peak || 1e-6));
    const part = 1 - decibels / QUIETEST;
    this.#bar.style.setProperty("--part", part.toFixed(3));
    const level = String(Math.round(100 * part));
    if (this.#meter.getAttribute("aria-valuenow") !== level) {
      this.#meter.setAttribute("aria-valuenow", level);
      this.#meter.setAttribute("aria-valuetext", `${Math.round(decibels)} dB`);
    }
    this.#peak *= 0.97;
    this.#frame = requestAnimationFrame(() => this.#show());
  }

  #draw() {
    const slider = h("input", {
      type: "range", class: "slider is-small", min: 0, max: 1, step: 0.01, value: this.#volume,
      "aria-label": `Volume of ${this.#label}`,
      oninput: () => {
        this.#volume = Number(slider.value);
        slider.style.setProperty("--part", slider.value);
        if (this.#sink) this.#sink.volume = this.#volume;
      },
    });
    slider.style.setProperty("--part", slider.value);
    return h("div", { class: "speaker" }, this.#play,
      h("div", { class: "speaker-words" }, h("span", { class: "screen-name", text: this.#label }), this.#facts),
      this.#meter, slider);
  }
}
