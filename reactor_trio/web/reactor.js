/**
 * The JavaScript client of reactor_trio: commands, messages, uploads, video, audio, a webcam. See docs/browser.md.
 *
 * Plain ES modules without dependencies: serve this file and the folder `reactor/` beside it from any place.
 *
 *     import { connect } from "/reactor.js";
 *
 *     const client = connect();
 *     client.video("main_video", document.querySelector("canvas"));
 *     await client.ready;
 *     await client.call("set_prompt", { prompt: "rain on a tin roof" });
 */

/** @import {Frame, Id, Json, Message, Welcome} from "./reactor/protocol.js" */
/** @import {ConnectionOptions, ConnectionState} from "./reactor/connection.js" */
/** @import {LatencyStats} from "./reactor/latency.js" */
/** @import {AudioOptions} from "./reactor/audio.js" */
/** @import {PublishOptions, Publisher} from "./reactor/publish.js" */
/** @import {Upload, UploadOptions} from "./reactor/upload.js" */
/** @import {VideoOptions} from "./reactor/video.js" */
import { AudioSink } from "./reactor/audio.js";
import { Connection } from "./reactor/connection.js";
import { Emitter } from "./reactor/emitter.js";
import { ReactorError } from "./reactor/errors.js";
import { Latency } from "./reactor/latency.js";
import { MEDIA, decodeBinary, encodeBinary, encodeText, webSocketUrl } from "./reactor/protocol.js";
import { Settings } from "./reactor/settings.js";
import { publish } from "./reactor/publish.js";
import { upload } from "./reactor/upload.js";
import { VideoSink } from "./reactor/video.js";

export { AudioSink, ReactorError, VideoSink };

/** The least time between two `reactor.frame_shown` of a track for frames that reflect no command; milliseconds. */
const SHOWN_INTERVAL = 500;
/** The limit of a message before the first welcome is read; bytes. */
const DEFAULT_MAX_MESSAGE = 1024 * 1024;

/**
 * @typedef {ConnectionOptions & {onState?: (state: ConnectionState) => void}} ConnectOptions
 *
 * @typedef {object} ClientStats
 * @property {number | null} rtt To the session and back, in milliseconds.
 * @property {number} bytesIn Since the start; text counts one byte a character.
 * @property {number} bytesOut
 * @property {number} queued Calls that wait for their answer.
 * @property {number} bufferedAmount Bytes that wait for the network.
 */

/**
 * Connect, and stay connected. Returns at once; see `Client.ready` and `Client.state`.
 *
 * Throws `SyntaxError` if the text is no URL.
 *
 * @param {string | URL} [url] By default `ws` beside the page. `http` will do for `ws`, and a server's page for its socket.
 * @param {ConnectOptions} [options]
 * @returns {Client}
 */
export function connect(url, options = {}) {
  return new Client(webSocketUrl(url, globalThis.document?.baseURI ?? globalThis.location?.href), options);
}

/** Made by `connect`. */
export class Client {
  /**
   * The first welcome. Rejects with `ReactorError` if the client is closed before it.
   *
   * @type {Promise<Welcome>}
   */
  ready;

  #connection;
  #emitter = new Emitter();
  #latency = new Latency();
  /** The settings with which the server sends each track. The sinks use them. */
  settings = new Settings(this);
  #nextId = 1;
  /** @type {Map<Id, {event: string, resolve: (message: Message | null) => void, reject: (error: any) => void}>} */
  #calls = new Map();
  /** When each track's last `frame_shown` was sent. @type {Map<string, number>} */
  #shown = new Map();

  /**
   * @param {URL} url
   * @param {ConnectOptions} options
   */
  constructor(url, options) {
    if (options.onState) this.on("state", options.onState);
    this.ready = new Promise((resolve, reject) => {
      this.on("welcome", resolve);
      this.on("state", (state) => state === "closed" && reject(this.error));
    });
    this.ready.catch(() => {}); // a rejection that no caller waits for is no error
    const emit = (/** @type {string} */ name) => (/** @type {any} */ value) => this.#emitter.emit(name, value);
    this.#connection = new Connection(url, options, {
      state: emit("state"),
      welcome: (welcome) => {
        this.settings.begin();
        this.#emitter.emit("welcome", welcome);
      },
      queued: emit("queued"),
      goodbye: emit("goodbye"),
      message: (message) => this.#message(message),
      binary: (data) => this.#binary(data),
      lost: (error) => this.#lost(error),
    });
    this.#connection.start();
  }

  /** @returns {ConnectionState} */
  get state() {
    return this.#connection.state;
  }

  /** The data of the last `reactor.welcome`; null before the first. */
  get welcome() {
    return this.#connection.welcome;
  }

  /** The server's reason when it closed by itself: "finished", "idle", "shutting_down", "too_many_errors". */
  get goodbye() {
    return this.#connection.goodbye;
  }

  /** The error because of which there is no session; null while there is one. */
  get error() {
    return this.#connection.error;
  }

  /** When the next attempt to connect is made, on the clock of `Date.now()`; null: none waits. */
  get retryAt() {
    return this.#connection.retryAt;
  }

  /**
   * Send a command without waiting for an answer. If the server refuses it, the handlers of "error" are called.
   *
   * @param {string} event
   * @param {Json} [data]
   * @returns {Id | null} Its id; null: there is no session, and nothing was sent. Throws `ReactorError`
   *   (`too_large`), and `TypeError` for a value that JSON does not have, such as NaN.
   */
  send(event, data = {}) {
    if (this.state !== "open") return null;
    return this.#command(event, data);
  }

  /**
   * Send a command and wait for its answer: the handler's message, or null if it returned nothing.
   *
   * Rejects with `ReactorError`, and with the signal's reason if the signal aborts: the command may be carried out
   * all the same. A command whose answer was lost with the connection is not sent again.
   *
   * @param {string} event
   * @param {Json} [data]
   * @param {{signal?: AbortSignal}} [options]
   * @returns {Promise<Message | null>}
   */
  async call(event, data = {}, { signal } = {}) {
    signal?.throwIfAborted();
    if (this.state !== "open") {
      throw new ReactorError({ code: "not_connected", message: `${event}: there is no session now`, event });
    }
    const id = this.#command(event, data);
    let abort = () => {};
    try {
      return await new Promise((resolve, reject) => {
        this.#calls.set(id, { event, resolve, reject });
        // The entry stays: the answer is looked up there.
        abort = () => reject(signal?.reason);
        signal?.addEventListener("abort", abort);
      });
    } finally {
      signal?.removeEventListener("abort", abort);
    }
  }

  /**
   * Register a handler. Its argument depends on `type`:
   *
   * - a model's message type, or `"*"` for all of them: the `Message`; answers to calls are not among them;
   * - `"state"`: the new state; `"welcome"`: the `Welcome`; `"queued"`: the place in line, 1 is next;
   *   `"goodbye"`: the reason; `"error"`: a `ReactorError` that belongs to no call;
   *   `"frame"`: each `Frame` that arrives, decoded or not.
   *
   * A model's message with one of these names goes to the handlers of `"message:state"` and so on.
   *
   * @param {string} type
   * @param {(value: any) => void} handler
   * @returns {() => void} Takes the handler away.
   */
  on(type, handler) {
    return this.#emitter.on(type, handler);
  }

  /**
   * Upload a file. The handle may stand anywhere in a command's data, as often as you like.
   *
   * Rejects with `ReactorError`, with the signal's reason (the upload is given up), and with the error of reading
   * the file.
   *
   * @param {Blob} file
   * @param {UploadOptions} [options]
   * @returns {Promise<Upload>}
   */
  upload(file, options = {}) {
    return upload(this, file, options);
  }

  /**
   * Draw a video track.
   *
   * @param {string} track
   * @param {HTMLCanvasElement} canvas It is resized to the frames.
   * @param {VideoOptions} [options]
   * @returns {VideoSink}
   */
  video(track, canvas, options = {}) {
    return new VideoSink(this, track, canvas, options);
  }

  /**
   * Play an audio track, from `AudioSink.start()` on.
   *
   * @param {string} track
   * @param {AudioOptions} [options]
   * @returns {AudioSink}
   */
  audio(track, options = {}) {
    return new AudioSink(this, track, options);
  }

  /**
   * Send a webcam, a screen or a microphone to an input track of the model. The stream stays yours: `stop` does not
   * end it.
   *
   * @param {string} track
   * @param {MediaStream} stream
   * @param {PublishOptions} [options]
   * @returns {Publisher}
   */
  publish(track, stream, options = {}) {
    return publish(this, track, stream, options);
  }

  /**
   * Send one frame to an input track.
   *
   * @param {{track: string, seq: number, pts: number, codec: string, [name: string]: any}} header
   * @param {Uint8Array} payload
   * @returns {boolean} Whether it was sent: not without a session, and not if it is larger than the server takes.
   */
  sendFrame(header, payload) {
    if (this.state !== "open") return false;
    const message = encodeBinary(MEDIA, header, payload);
    if (message.length > this.#maxMessage) return false;
    this.#connection.send(message);
    return true;
  }

  /**
   * Send a binary message as it is.
   *
   * @param {Uint8Array<ArrayBuffer>} message
   */
  sendBinary(message) {
    this.#connection.send(message);
  }

  /**
   * Tell the server that a frame is on the screen. `VideoSink` does so by itself; call this if your code draws the
   * frames of `on("frame")`.
   *
   * @param {Pick<Frame, "track" | "seq" | "applied" | "timing" | "received">} frame
   */
  frameShown(frame) {
    const now = performance.now();
    this.#latency.drawn(frame, now);
    const last = this.#shown.get(frame.track) ?? -Infinity;
    if (this.state !== "open" || (!frame.applied?.length && now - last < SHOWN_INTERVAL)) return;
    this.#shown.set(frame.track, now);
    const data = { track: frame.track, seq: frame.seq };
    this.#connection.send(encodeText("reactor.frame_shown", data));
  }

  /**
   * The times from commands to the drawing of their frames.
   *
   * @returns {LatencyStats}
   */
  latency() {
    return this.#latency.stats();
  }

  /** @returns {ClientStats} */
  stats() {
    const { rtt, bytesIn, bytesOut, bufferedAmount } = this.#connection;
    return { rtt, bytesIn, bytesOut, queued: this.#calls.size, bufferedAmount };
  }

  /** End the session, its sinks and its publishers. */
  close() {
    this.#connection.close();
  }

  /**
   * Send a message to the runtime. An error as its answer goes to the handlers of "error"; other answers are ignored.
   *
   * @param {string} type
   * @param {Json} data
   */
  ask(type, data) {
    this.call(type, data).catch((error) => {
      if (error.code !== "connection_lost") this.report(error);
    });
  }

  /**
   * Call the handlers of "error".
   *
   * @param {ReactorError} error
   */
  report(error) {
    this.#emitter.emit("error", error);
  }

  get #maxMessage() {
    return this.welcome?.limits.max_message_bytes ?? DEFAULT_MAX_MESSAGE;
  }

  /**
   * @param {string} event
   * @param {Json} data
   * @returns {number} Its id.
   */
  #command(event, data) {
    const id = this.#nextId;
    const text = encodeText(event, data, id);
    // A character has at most three bytes.
    const isLarge = text.length > this.#maxMessage / 3;
    if (isLarge && new TextEncoder().encode(text).length > this.#maxMessage) {
      throw new ReactorError({ code: "too_large", message: `${event}: over ${this.#maxMessage} bytes`, event });
    }
    this.#nextId += 1;
    this.#latency.sent(id, performance.now());
    this.#connection.send(text);
    return id;
  }

  /** @param {{type: string, data: any, reply_to?: Id}} message */
  #message({ type, data, reply_to: replyTo }) {
    const call = replyTo === undefined ? undefined : this.#calls.get(replyTo);
    if (call) {
      this.#calls.delete(/** @type {Id} */ (replyTo));
      if (type === "reactor.error") call.reject(new ReactorError({ event: call.event, ...data }));
      else if (type === "reactor.superseded") call.reject(supersededBy(call.event));
      else call.resolve(type === "reactor.ack" ? null : { type, data });
    } else if (type === "reactor.error") {
      this.report(new ReactorError(data));
    } else if (!type.startsWith("reactor.")) {
      const message = { type, data };
      this.#emitter.emit(OWN.has(type) ? `message:${type}` : type, message);
      this.#emitter.emit("*", message);
    }
  }

  /** @param {ArrayBuffer} data */
  #binary(data) {
    const { kind, header, payload } = decodeBinary(data);
    if (kind !== MEDIA) return;
    this.#emitter.emit("frame", /** @type {Frame} */ ({ ...header, payload, received: performance.now() }));
  }

  /** @param {ReactorError} error */
  #lost(error) {
    this.#latency.forget();
    this.#shown.clear();
    const calls = [...this.#calls.values()];
    this.#calls.clear();
    for (const { event, reject } of calls) {
      reject(new ReactorError({ code: "connection_lost", message: `${event}: ${error.message}`, event }));
    }
    if (error.code !== "connection_lost") this.report(error);
  }
}

/** Names of `Client.on` that are no model's messages. */
const OWN = new Set(["*", "state", "welcome", "queued", "goodbye", "error", "frame"]);

/** @param {string} event */
function supersededBy(event) {
  return new ReactorError({ code: "superseded", message: `a later ${event} replaced this one`, event });
}
