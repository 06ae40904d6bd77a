/** @import {Welcome} from "./protocol.js" */
import { ReactorError } from "./errors.js";
import { subprotocols } from "./protocol.js";
import { GOOD_AFTER, backOff, shouldReconnect } from "./retry.js";

/** Milliseconds. */
const PING_INTERVAL = 5_000;
/** The longest handshake, and the longest silence of the server after a ping; milliseconds. */
const PATIENCE = 20_000;
const MODEL_ERROR = 1011;

/**
 * @typedef {"connecting" | "queued" | "open" | "reconnecting" | "closed"} ConnectionState
 *
 * @typedef {object} ReconnectOptions
 * @property {number} [min] The shortest delay in milliseconds (500).
 * @property {number} [max] The longest (15000).
 *
 * @typedef {object} ConnectionOptions
 * @property {string | (() => string | Promise<string>)} [token] The token for the server; a function is
 *   asked before each attempt.
 * @property {typeof WebSocket} [WebSocket] Another implementation.
 * @property {boolean | ReconnectOptions} [reconnect] `false`: connect once.
 *
 * @typedef {object} ConnectionEvents
 * @property {(state: ConnectionState) => void} state
 * @property {(welcome: Welcome) => void} welcome
 * @property {(position: number) => void} queued
 * @property {(reason: string) => void} goodbye
 * @property {(message: {type: string, data: any, reply_to?: any}) => void} message All others.
 * @property {(data: ArrayBuffer) => void} binary
 * @property {(error: ReactorError) => void} lost The session has ended: nothing that was asked will be answered.
 */

/** One WebSocket after the other, and the state of the connection. */
export class Connection {
  /** @type {ConnectionState} */
  state = "connecting";
  /** @type {Welcome | null} */
  welcome = null;
  /** @type {string | null} */
  goodbye = null;
  /** @type {ReactorError | null} The error because of which there is no session. */
  error = null;
  /** @type {number | null} The time of the next attempt, on the clock of `Date.now()`. */
  retryAt = null;
  /** @type {number | null} Milliseconds. */
  rtt = null;
  bytesIn = 0;
  bytesOut = 0;

  #url;
  #options;
  #events;
  #WebSocket;
  /** @type {WebSocket | null} */
  #socket = null;
  #attempt = 0;
  #modelErrors = 0;
  /** Whether the present socket's handshake was completed. */
  #opened = false;
  #openSince = 0;
  #heard = 0;
  /** The time of the oldest ping after which no byte has come; 0: there is none. */
  #pinged = 0;
  /** Bytes that waited for the network at the last beat. */
  #buffered = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} Timer of the handshake, or of the next attempt. */
  #timer;
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #heartbeat;
  #onVisible = () => this.#beat();

  /**
   * @param {URL} url
   * @param {ConnectionOptions} options
   * @param {ConnectionEvents} events
   */
  constructor(url, options, events) {
    this.#url = url;
    this.#options = options;
    this.#events = events;
    this.#WebSocket = options.WebSocket ?? globalThis.WebSocket;
  }

  /** Connect for the first time; to be called once. */
  start() {
    globalThis.document?.addEventListener("visibilitychange", this.#onVisible);
    void this.#connect();
  }

  get bufferedAmount() {
    return this.#socket?.bufferedAmount ?? 0;
  }

  /**
   * Hand a message to the socket, if there is one.
   *
   * @param {string | Uint8Array<ArrayBuffer>} message
   */
  send(message) {
    if (!this.#opened || !this.#socket) return;
    this.bytesOut += message.length;
    this.#socket.send(message);
  }

  /** End the connection, and connect no more. */
  close() {
    if (this.state === "closed") return;
    const socket = this.#socket;
    this.#forget();
    socket?.close(1000);
    this.#end(new ReactorError({ code: "connection_lost", message: "the client was closed" }));
  }

  async #connect() {
    this.retryAt = null;
    const { token } = this.#options;
    let shown;
    try {
      shown = typeof token === "function" ? await token() : token;
    } catch (error) {
      this.#lost(1006, `no token: ${error}`);
      return;
    }
    if (this.state === "closed") return;
    let socket;
    try {
      socket = new this.#WebSocket(this.#url, subprotocols(shown));
    } catch (error) {
      // For example, a secure page may not use ws: another attempt would fail as well.
      this.#end(new ReactorError({ code: "unsupported", message: `${this.#url}: ${error}` }));
      return;
    }
    socket.binaryType = "arraybuffer";
    this.#socket = socket;
    this.#opened = false;
    this.#timer = setTimeout(() => this.#abandon("the handshake took too long"), PATIENCE);
    // Events of a socket after `#forget` are ignored.
    socket.onopen = () => {
      if (socket === this.#socket) this.#open();
    };
    socket.onmessage = ({ data }) => {
      if (socket === this.#socket) this.#receive(data);
    };
    socket.onclose = ({ code, reason }) => {
      if (socket !== this.#socket) return;
      this.#forget();
      if (this.#opened) this.#lost(code, reason);
      else void this.#refused(shown);
    };
  }

  #open() {
    clearTimeout(this.#timer);
    this.#opened = true;
    this.#openSince = this.#heard = performance.now();
    this.#pinged = 0;
    this.goodbye = null;
    this.#heartbeat = setInterval(() => this.#beat(), PING_INTERVAL);
  }

  /** Forget the socket: its further events are ignored. */
  #forget() {
    clearTimeout(this.#timer);
    clearInterval(this.#heartbeat);
    this.#socket = null;
  }

  /** @param {string} reason */
  #abandon(reason) {
    const socket = this.#socket;
    this.#forget();
    // The closing handshake may never end, so nothing waits for it.
    socket?.close();
    this.#lost(1006, reason);
  }

  #beat() {
    // The timers of a hidden page are slowed down, so the beat says nothing about the server.
    if (!this.#opened || !this.#socket || globalThis.document?.visibilityState === "hidden") {
      this.#pinged = 0;
      return;
    }
    const now = performance.now();
    // A ping waits behind the data sent before it. As long as that data leaves, the server is there.
    if (this.bufferedAmount !== this.#buffered) this.#heard = now;
    this.#buffered = this.bufferedAmount;
    if (this.#pinged > this.#heard && now - this.#pinged > PATIENCE) {
      this.#abandon("the server is silent");
      return;
    }
    if (this.#pinged <= this.#heard) this.#pinged = now;
    this.send(JSON.stringify({ type: "reactor.ping", data: { t: now } }));
  }

  /** @param {string | ArrayBuffer} data */
  #receive(data) {
    this.#heard = performance.now();
    if (typeof data === "string") {
      this.bytesIn += data.length;
      this.#text(JSON.parse(data));
    } else {
      this.bytesIn += data.byteLength;
      this.#events.binary(data);
    }
  }

  /** @param {{type: string, data: any, reply_to?: any}} message */
  #text(message) {
    const { type, data } = message;
    if (type === "reactor.welcome") {
      this.welcome = data;
      this.error = null;
      this.#set("open");
      this.#events.welcome(data);
      this.#beat();
    } else if (type === "reactor.queued") {
      this.#set("queued");
      this.#events.queued(data.position);
    } else if (type === "reactor.goodbye") {
      this.goodbye = data.reason;
      this.#events.goodbye(data.reason);
    } else if (type === "reactor.pong") {
      this.rtt = this.#heard - data.t;
    } else {
      this.#events.message(message);
    }
  }

  /**
   * Find out why the handshake failed: a browser does not tell a page the status of a WebSocket's handshake.
   *
   * @param {string | undefined} token
   */
  async #refused(token) {
    const { status, retryAfter } = await this.#probe(token);
    if (this.state === "closed") return;
    if (status === 401) {
      this.#end(new ReactorError({ code: "unauthorised", message: "the server does not accept the token" }));
    } else {
      this.#lost(1006, "", retryAfter);
    }
  }

  /**
   * Request a page that needs the same token as the WebSocket, if the server is the page's own.
   *
   * @param {string | undefined} token
   * @returns {Promise<{status: number, retryAfter?: number}>} Status 0: unknown.
   */
  async #probe(token) {
    const url = new URL("schema", this.#url);
    url.protocol = url.protocol.replace(/^ws/, "http");
    if (url.origin !== globalThis.location?.origin) return { status: 0 };
    try {
      const answer = await fetch(url, {
        method: "HEAD",
        headers: token ? { Authorization: `Bearer ${token}` } : {},
        signal: AbortSignal.timeout(PATIENCE),
      });
      return { status: answer.status, retryAfter: Number(answer.headers.get("Retry-After")) || undefined };
    } catch {
      return { status: 0 };
    }
  }

  /**
   * Handle the end of a connection or attempt: connect again, or close.
   *
   * @param {number} code The close code.
   * @param {string} reason
   * @param {number} [retryAfter] Seconds that the server wants.
   */
  #lost(code, reason, retryAfter = 0) {
    const wasGood = this.#opened && performance.now() - this.#openSince > GOOD_AFTER;
    if (wasGood) this.#attempt = 0;
    this.#modelErrors = code === MODEL_ERROR ? (wasGood ? 1 : this.#modelErrors + 1) : 0;
    this.#opened = false;
    const why = this.goodbye ?? (reason || `code ${code}`);
    const message = `the connection has ended: ${why}`;
    const error = new ReactorError({ code: "connection_lost", message, reason: this.goodbye ?? (reason || undefined) });
    const { reconnect = true } = this.#options;
    if (!reconnect || !shouldReconnect(code, this.goodbye, this.#modelErrors)) {
      this.#end(error);
      return;
    }
    const bounds = reconnect === true ? {} : reconnect;
    const delay = backOff(this.#attempt, bounds) + 1000 * retryAfter;
    this.#attempt += 1;
    this.retryAt = Date.now() + delay;
    this.#timer = setTimeout(() => void this.#connect(), delay);
    this.#leave(error);
    this.#set(this.welcome === null ? "connecting" : "reconnecting");
  }

  /** @param {ReactorError} error */
  #end(error) {
    clearTimeout(this.#timer);
    globalThis.document?.removeEventListener("visibilitychange", this.#onVisible);
    this.retryAt = null;
    this.#leave(error);
    this.#set("closed");
  }

  /** @param {ReactorError} error */
  #leave(error) {
    this.error = error;
    this.rtt = null;
    this.#events.lost(error);
  }

  /** @param {ConnectionState} state */
  #set(state) {
    if (state === this.state) return;
    this.state = state;
    this.#events.state(state);
  }
}
