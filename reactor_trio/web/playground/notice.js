/** The notice while there is no session: the model loads, a queue, a lost server, a token that is needed, the end. */

import { h, icon, setText, uniqueId } from "./dom.js";
import { goodbye } from "./words.js";

/** @typedef {import("../reactor.js").Client} Client */
/** @typedef {{retry: () => void, enter: (token: string) => void, hasToken: () => boolean}} Actions */
/** @typedef {"loading" | "draining" | "failed" | "ready" | "gone"} Health */

export class Notice {
  /**
   * @param {HTMLElement} place
   * @param {Actions} actions
   */
  constructor(place, actions) {
    this.#place = place;
    this.#actions = actions;
  }

  #place;
  #actions;
  #shown = "";
  #inLine = 0;
  /** @type {Health | null} The server's status, requested after a refused handshake, as a browser gives no reason. */
  #health = null;
  /** The number of tokens that were entered: each attempt has a new form. */
  #entered = 0;
  /** The attempt for which the status was requested. @type {number | null} */
  #asked = null;
  #countdown = h("span", { class: "countdown" });

  /**
   * The connection in two or three words.
   * @param {Client} client
   */
  state(client) {
    const wait = secondsUntil(client.retryAt);
    switch (client.state) {
      case "open":
        return "Connected";
      case "queued":
        return this.#inLine > 0 ? `Place ${this.#inLine} in line` : "Waiting in line";
      case "closed":
        return client.error?.code === "unauthorised" ? "Token needed" : "Closed";
      default:
        if (this.#health === "loading") return "Model is loading";
        return wait === null ? "Connecting" : `Trying again in ${wait} s`;
    }
  }

  /** @param {Client} client */
  update(client) {
    if (client.state === "queued") {
      this.#show("queued");
    } else if (client.state === "open") {
      this.#health = null;
      this.#show("");
    } else if (client.state === "closed") {
      this.#show(client.error?.code === "unauthorised" ? "token" : "closed", client);
    } else if (client.retryAt !== null) {
      void this.#ask(client);
    }
  }

  /** @param {Client} client */
  countDown(client) {
    const wait = secondsUntil(client.retryAt);
    setText(this.#countdown, wait === null ? "Trying now." : `Trying again in ${wait} s.`);
    const isWaiting = client.state === "connecting" || client.state === "reconnecting";
    if (isWaiting && wait !== null && this.#asked !== client.retryAt) void this.#ask(client);
  }

  /** @param {number} place in line; 1 is next */
  queued(place) {
    this.#inLine = place;
    this.#show("queued");
  }

  /**
   * The reason why there is no session: the page's own server tells it without a token.
   * @param {Client} client
   */
  async #ask(client) {
    this.#asked = client.retryAt;
    this.#health = await health();
    if (client.state !== "connecting" && client.state !== "reconnecting") return;
    this.#show(this.#health === "ready" ? this.#whyNone(client) : this.#health);
  }

  /**
   * The reason why there is no session although the server is ready.
   * @param {Client} client
   */
  #whyNone({ welcome, error }) {
    if (!welcome) return "refused";
    return error?.reason === "model_error" ? "crashed" : "lost";
  }

  /**
   * @param {string} kind
   * @param {Client} [client]
   */
  #show(kind, client) {
    const key = `${kind} ${this.#entered} ${kind === "queued" ? this.#inLine : ""} ${client?.error?.message ?? ""}`;
    if (key === this.#shown) return;
    this.#shown = key;
    this.#place.hidden = kind === "";
    this.#place.className = `notice is-${kind}`;
    this.#place.replaceChildren(...this.#content(kind, client));
  }

  /**
   * @param {string} kind
   * @param {Client} [client]
   * @returns {Node[]}
   */
  #content(kind, client) {
    const again = (/** @type {string} */ text) => h("button", { type: "button", class: "button", onclick: this.#actions.retry }, text);
    switch (kind) {
      case "token":
        return this.#tokenForm();
      case "queued":
        return words("plug", `You are number ${this.#inLine || "…"} in line.`, "All sessions are taken. Yours begins by itself, as soon as one is free.");
      case "loading":
        return words("plug", "The model is loading.", "The server is up. This page connects as soon as the model is ready.", this.#countdown);
      case "draining":
        return words("plug", "The server is shutting down.", "", this.#countdown);
      case "failed":
        return words("alert", "The model's device hangs.", "The server takes no sessions until it is back.", this.#countdown);
      case "gone":
        return words("alert", "The server does not answer.", "Is it still running?", this.#countdown, again("Try now"));
      case "lost":
        return words("plug", "The connection was lost.", "The controls keep their values.", this.#countdown, again("Try now"));
      case "crashed":
        return words("alert", goodbye("model_error"), "The controls keep their values.", this.#countdown, again("Try now"));
      case "refused":
        return words("alert", "The server takes no session now.", "It may be full.", this.#countdown, again("Try now"));
      case "closed":
        return words("plug", goodbye(client?.error?.reason), client?.error?.reason ? "" : client?.error?.message ?? "", again("Connect again"));
      default:
        return [];
    }
  }

  #tokenForm() {
    const id = uniqueId("token");
    const input = h("input", { type: "password", class: "input", id, autocomplete: "off", required: true });
    const text = this.#actions.hasToken() ? "The server did not accept this token." : "It was printed, or chosen, when the server was started. It stays in this tab.";
    const onsubmit = (/** @type {Event} */ event) => {
      event.preventDefault();
      this.#entered += 1;
      this.#actions.enter(input.value.trim());
    };
    queueMicrotask(() => input.focus());
    return [
      icon("key"),
      h("form", { class: "token", onsubmit },
        h("label", { for: id, class: "notice-words" }, h("strong", { text: "This server wants a token." }), " ", h("span", { text })),
        input, h("button", { type: "submit", class: "button is-primary", text: "Connect" })),
    ];
  }
}

/**
 * @param {import("./dom.js").IconName} name
 * @param {string} title
 * @param {string} text
 * @param {...Node} more
 */
function words(name, title, text, ...more) {
  const [last] = more.slice(-1);
  const button = last instanceof HTMLButtonElement ? last : null;
  const rest = more.filter((node) => node !== button);
  const spaced = rest.flatMap((node) => [" ", node]);
  return [icon(name), h("p", { class: "notice-words" }, h("strong", { text: title }), " ", text, ...spaced), ...(button ? [button] : [])];
}

/** @param {number | null} time on the clock of `Date.now()` */
function secondsUntil(time) {
  return time === null ? null : Math.max(0, Math.ceil((time - Date.now()) / 1000));
}

/** @returns {Promise<Health>} */
async function health() {
  try {
    const answer = await fetch("health", { cache: "no-store" });
    return /** @type {Health} */ ((await answer.json()).status);
  } catch {
    return "gone";
  }
}
