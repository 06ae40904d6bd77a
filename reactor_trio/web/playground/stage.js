/** The model's video tracks: the first, or the one that was picked, drawn large, the others beside it. */

import { h, icon, iconButton, relabel, setText } from "./dom.js";
import { AudioTrack } from "./audio.js";
import { pretty } from "./words.js";

/** @typedef {import("../reactor.js").Client} Client */
/** @typedef {import("../reactor/protocol.js").TrackInfo} TrackInfo */

/** The size of the stage before the first picture; pixels. */
const PLACEHOLDER = { width: 640, height: 480 };

export class Stage {
  /**
   * @param {HTMLElement} place
   * @param {Client} client
   * @param {TrackInfo[]} tracks those from the model
   */
  constructor(place, client, tracks) {
    this.#screens = tracks.filter((track) => track.kind === "video").map((track) => new Screen(client, track, (screen) => this.#pick(screen)));
    this.#audio = tracks.filter((track) => track.kind === "audio").map((track) => new AudioTrack(client, track));
    const screens = h("div", { class: "screens" }, ...this.#screens.map((screen) => screen.element));
    screens.classList.toggle("is-several", this.#screens.length > 1);
    screens.style.setProperty("--others", String(this.#screens.length - 1));
    const speakers = this.#audio.length > 0 && h("div", { class: "speakers" }, ...this.#audio.map((track) => track.element));
    place.classList.toggle("is-bare", this.#screens.length === 0);
    place.replaceChildren(this.#screens.length > 0 ? screens : this.#nothing(this.#audio.length > 0), speakers || "");
    this.#pick(this.#screens[0]);
  }

  #screens;
  #audio;

  /** The screen of the large picture; null: there is none. */
  get main() {
    return this.#screens.find((screen) => screen.isMain) ?? null;
  }

  update() {
    for (const screen of this.#screens) screen.update();
    for (const track of this.#audio) track.update();
  }

  stop() {
    for (const screen of this.#screens) screen.sink.stop();
    for (const track of this.#audio) track.stop();
  }

  /** @param {Screen | undefined} screen */
  #pick(screen) {
    for (const each of this.#screens) each.setMain(each === screen);
  }

  /** @param {boolean} hasAudio */
  #nothing(hasAudio) {
    const text = hasAudio ? "This model sends sound and no video." : "This model sends no video. It answers commands: see the log.";
    return h("div", { class: "stage-empty" }, icon("picture"), h("p", { text }));
  }
}

/** One video track. */
class Screen {
  /**
   * @param {Client} client
   * @param {TrackInfo} track
   * @param {(screen: Screen) => void} pick
   */
  constructor(client, track, pick) {
    this.track = track;
    this.#label = pretty(track.name);
    this.#canvas = h("canvas", { ...PLACEHOLDER, class: "canvas", role: "img", "aria-label": `${this.#label}: no picture yet` });
    this.sink = client.video(track.name, this.#canvas);
    this.sink.onFrame = () => this.#first();
    this.#pause = iconButton("pause", `Pause ${this.#label}`, () => this.#togglePause());
    this.#enlarge = h("button", { type: "button", class: "enlarge", "aria-label": `Show ${this.#label} large`, onclick: () => pick(this) });
    this.element = this.#draw();
  }

  isMain = false;
  #label;
  #canvas;
  #pause;
  #enlarge;
  #facts = h("span", { class: "screen-facts" });
  #wait = h("div", { class: "screen-wait" }, h("span", { class: "pulse", "aria-hidden": "true" }), h("span", { text: "No picture yet" }));

  /** @param {boolean} isMain */
  setMain(isMain) {
    this.isMain = isMain;
    this.element.classList.toggle("is-main", isMain);
    this.#enlarge.hidden = isMain;
  }

  /** Show the first picture when it is drawn, and not at the next update of the numbers. */
  #first() {
    this.sink.onFrame = null;
    this.update();
  }

  update() {
    const { width, height, drawn, fps } = this.sink.stats();
    this.#wait.hidden = drawn > 0;
    if (drawn === 0) return;
    const size = `${width} × ${height}`;
    setText(this.#facts, this.sink.paused ? `${size}, paused` : `${size}, ${Math.round(fps)} fps`);
    const label = `${this.#label}, ${width} by ${height} pixels`;
    if (this.#canvas.getAttribute("aria-label") !== label) this.#canvas.setAttribute("aria-label", label);
  }

  #togglePause() {
    this.sink.paused = !this.sink.paused;
    const label = this.sink.paused ? `Resume ${this.#label}` : `Pause ${this.#label}`;
    relabel(this.#pause, this.sink.paused ? "play" : "pause", label);
    this.update();
  }

  #save() {
    this.#canvas.toBlob((blob) => {
      if (!blob) return;
      const url = URL.createObjectURL(blob);
      h("a", { href: url, download: `${this.track.name}.png` }).click();
      setTimeout(() => URL.revokeObjectURL(url), 1000);
    });
  }

  #expand() {
    if (document.fullscreenElement) void document.exitFullscreen();
    else void this.element.requestFullscreen?.();
  }

  #draw() {
    const bar = h("div", { class: "screen-bar" },
      h("span", { class: "screen-name", text: this.#label }), this.#facts,
      h("span", { class: "screen-tools" }, this.#codecs(), this.#pause,
        iconButton("save", `Save a picture of ${this.#label}`, () => this.#save()),
        iconButton("expand", `${this.#label}: full screen`, () => this.#expand())));
    return h("div", { class: "screen" }, h("div", { class: "picture" }, this.#canvas, this.#wait), this.#enlarge, bar);
  }

  #codecs() {
    const codecs = this.track.codecs ?? [];
    if (codecs.length < 2) return null;
    const options = codecs.map((codec) => h("option", { value: codec, text: codec }));
    const list = h("select", {
      class: "mini-select", "aria-label": `Codec of ${this.#label}`, title: "Codec",
      onchange: () => this.sink.configure({ codec: list.value }),
    }, ...options);
    return list;
  }
}
