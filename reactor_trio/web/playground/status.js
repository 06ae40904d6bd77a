/** The status line, and the way of a command from the slider to the picture. */

import { h, setText } from "./dom.js";
import { bytes, milliseconds } from "./words.js";

/** @typedef {import("../reactor.js").Client} Client */
/** @typedef {import("./stage.js").Stage} Stage */
/** @typedef {import("../reactor/latency.js").Sample} Sample */

/** @typedef {Exclude<keyof Sample, "total">} Part */

/** In the order of time. @type {Record<Part, string>} */
const PARTS = {
  wait: "in the server's queue, until the handler began",
  handle: "in the handler",
  emit: "until the model emitted a picture that reflects it",
  pace: "until the picture's turn came",
  encode: "to encode the picture",
  network: "on the way there and back",
  display: "to decode and show the picture",
};
const NAMES = /** @type {Part[]} */ (Object.keys(PARTS));

export class Status {
  /** @param {HTMLElement} place */
  constructor(place) {
    this.#facts = h("dl", { class: "facts" }, ...Object.entries(this.#values).flatMap(([name, value]) => [
      h("div", { class: `fact fact-${name.toLowerCase().replace(" ", "-")}` }, h("dt", { text: name }), value),
    ]));
    this.#legend = h("ul", { class: "legend" }, ...NAMES.map((name) => this.#legendItem(name)));
    this.#bar = h("div", { class: "bar", "aria-hidden": "true" }, ...NAMES.map((name) => this.#segments[name]));
    place.replaceChildren(
      h("div", { class: "latency" },
        h("div", { class: "latency-head" }, h("h2", { class: "latency-title", text: "Slider to picture" }), this.#total, this.#typical),
        h("div", { class: "latency-body" }, this.#bar, this.#legend, this.#invitation)),
      this.#facts,
    );
    this.#showLatency(null, 0, null, null);
  }

  #total = h("p", { class: "latency-total" });
  #typical = h("p", { class: "latency-typical" });
  #invitation = h("p", { class: "hint", text: "Change something: the time until it is seen is measured and split up here." });
  #segments = /** @type {Record<Part, HTMLElement>} */ (Object.fromEntries(NAMES.map((name) => [name, h("span", { class: `part part-${name}` })])));
  #legendValues = /** @type {Record<Part, HTMLElement>} */ (Object.fromEntries(NAMES.map((name) => [name, h("span", { class: "legend-value" })])));
  #bar;
  #legend;
  #facts;
  #values = {
    Frames: h("dd", { text: "–" }),
    Picture: h("dd", { text: "–" }),
    Codec: h("dd", { text: "–" }),
    "Round trip": h("dd", { text: "–" }),
    Queue: h("dd", { text: "–" }),
    Data: h("dd", { text: "–" }),
    Session: h("dd", { class: "mono", text: "–" }),
  };
  #bytes = { at: performance.now(), count: 0 };

  /**
   * @param {Client} client
   * @param {Stage | null} stage
   */
  update(client, stage) {
    const { rtt, bytesIn, queued } = client.stats();
    const isOpen = client.state === "open";
    const screen = stage?.main?.sink.stats();
    const values = this.#values;
    const isDrawn = screen !== undefined && screen.drawn > 0;
    setText(values.Frames, isDrawn && isOpen ? `${Math.round(screen.fps)} fps` : "–");
    setText(values.Picture, isDrawn ? `${screen.width} × ${screen.height}` : "–");
    setText(values.Codec, (isDrawn && screen.codec) || "–");
    setText(values["Round trip"], isOpen ? milliseconds(rtt) : "–");
    setText(values.Queue, isOpen ? String(queued) : "–");
    setText(values.Data, isOpen ? `${bytes(this.#rate(bytesIn))}/s` : "–");
    setText(values.Session, client.welcome?.session_id ?? "–");
    values.Session.title = client.welcome?.session_id ?? "";
    const { last, count, p50, p95 } = client.latency();
    this.#showLatency(last, count, p50, p95);
  }

  /** @param {number} count bytes that came so far */
  #rate(count) {
    const now = performance.now();
    const rate = (count - this.#bytes.count) / Math.max(0.001, (now - this.#bytes.at) / 1000);
    this.#bytes = { at: now, count };
    return Math.max(0, rate);
  }

  /**
   * @param {Sample | null} last
   * @param {number} count
   * @param {number | null} p50
   * @param {number | null} p95
   */
  #showLatency(last, count, p50, p95) {
    this.#invitation.hidden = last !== null;
    this.#legend.hidden = last === null;
    this.#bar.classList.toggle("is-empty", last === null);
    this.#total.hidden = last === null;
    setText(this.#total, last ? milliseconds(last.total) : "");
    setText(this.#typical, count > 1 ? `median ${milliseconds(p50)}, 95 % within ${milliseconds(p95)}, of ${count}` : "");
    for (const name of NAMES) {
      const part = last ? last[name] / Math.max(last.total, 0.001) : 0;
      const segment = this.#segments[name];
      segment.style.flexGrow = part.toFixed(4);
      segment.title = last ? `${name} ${milliseconds(last[name])}: ${PARTS[name]}` : "";
      setText(this.#legendValues[name], last ? milliseconds(last[name]) : "–");
    }
  }

  /** @param {Part} name */
  #legendItem(name) {
    const mark = (/** @type {boolean} */ isOn) => () => this.#segments[name].classList.toggle("is-marked", isOn);
    return h("li", { class: "legend-item", title: PARTS[name], onpointerenter: mark(true), onpointerleave: mark(false) },
      h("span", { class: `legend-key part-${name}`, "aria-hidden": "true" }),
      h("span", { class: "legend-name", text: name }), h("span", { class: "sr-only", text: `, ${PARTS[name]}: ` }),
      this.#legendValues[name]);
  }
}
