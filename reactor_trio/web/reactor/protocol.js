/**
 * The wire, protocol version 1: the types of its messages, and bytes <-> frames. Pure; see docs/wire.md.
 */

/**
 * @typedef {string | number} Id
 *
 * @typedef {{[name: string]: any}} Json A JSON object.
 *
 * @typedef {object} Message A model's message.
 * @property {string} type
 * @property {any} data
 *
 * @typedef {object} EventInfo
 * @property {string} name
 * @property {string} description
 * @property {boolean} dedupe Whether a later command replaces one that still waits.
 * @property {Json} schema JSON Schema of `data`.
 *
 * @typedef {object} MessageInfo
 * @property {string} name
 * @property {string} description
 * @property {Json} schema
 *
 * @typedef {object} TrackInfo
 * @property {string} name
 * @property {"video" | "audio"} kind
 * @property {"out" | "in"} direction As the model sees it: "out" is from the model to the browser.
 * @property {string[]} [codecs] The codecs that the server can send, or takes; the first is the default.
 * @property {number} [rate] Samples a second, of audio.
 *
 * @typedef {object} LimitsInfo All in bytes, but `max_queued_events`.
 * @property {number} max_message_bytes
 * @property {number} max_upload_bytes
 * @property {number} upload_chunk_bytes
 * @property {number} max_queued_events
 *
 * @typedef {object} Welcome The data of `reactor.welcome`.
 * @property {number} protocol
 * @property {string} session_id
 * @property {{name: string, description: string}} model
 * @property {EventInfo[]} events
 * @property {MessageInfo[]} messages
 * @property {TrackInfo[]} tracks
 * @property {LimitsInfo} limits
 *
 * @typedef {object} Fault The fault of one field of a payload.
 * @property {string} path
 * @property {string} message
 *
 * @typedef {object} ErrorData The data of `reactor.error`.
 * @property {string} code
 * @property {string} message
 * @property {string} [event]
 * @property {string} [upload_id]
 * @property {Fault[]} [errors]
 * @property {number} [retry_after] Seconds.
 * @property {string} [reason] Why the connection was closed; not on the wire.
 *
 * @typedef {object} Timing Where the time went between a command and its frame; seconds.
 * @property {number} wait From its arrival until its handler began.
 * @property {number} handle The handler.
 * @property {number} emit Until the model emitted the frame.
 * @property {number} pace Until the frame's turn came.
 * @property {number} encode
 *
 * @typedef {object} FrameHeader
 * @property {string} track
 * @property {number} seq Counts the frames that the model emitted on this track, from 0: a gap is a dropped frame.
 * @property {number} pts Seconds since the session began.
 * @property {string} codec "jpeg", "raw" (RGB), "h264" (Annex B), "pcm_s16le" (interleaved).
 * @property {number} [width] Pixels.
 * @property {number} [height]
 * @property {number} [rate] Samples a second.
 * @property {number} [channels]
 * @property {boolean} [key] An H.264 frame that needs no earlier one.
 * @property {Id[]} [applied] The commands that this frame is the first to reflect.
 * @property {Timing} [timing] Of the last of them.
 * @property {Json} [metadata] The author's.
 *
 * @typedef {FrameHeader & {payload: Uint8Array<ArrayBuffer>, received: number}} Frame
 *   `payload` is a view of the message's bytes; `received` is on the clock of `performance.now()`.
 */

export const SUBPROTOCOL = "reactor.v1";
export const MEDIA = 1;
export const UPLOAD_CHUNK = 2;

const PREFIX_BYTES = 3;
const MAX_HEADER_BYTES = 0xffff;

/**
 * Read a binary message. Copies no payload. Throws `SyntaxError` if the bytes are no such message.
 *
 * @param {ArrayBuffer} data
 * @returns {{kind: number, header: Json, payload: Uint8Array<ArrayBuffer>}}
 */
export function decodeBinary(data) {
  if (data.byteLength < PREFIX_BYTES) throw new SyntaxError(`a binary message of ${data.byteLength} bytes`);
  const view = new DataView(data);
  const end = PREFIX_BYTES + view.getUint16(1);
  if (end > data.byteLength) throw new SyntaxError("the header is longer than the message");
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, PREFIX_BYTES, end - PREFIX_BYTES)));
  if (typeof header !== "object" || header === null) throw new SyntaxError("the header is no object");
  return { kind: view.getUint8(0), header, payload: new Uint8Array(data).subarray(end) };
}

/**
 * Write a binary message, copying its payload once. Throws `RangeError` if the header is over 65535 bytes.
 *
 * @param {number} kind
 * @param {Json} header
 * @param {Uint8Array} payload
 * @returns {Uint8Array<ArrayBuffer>}
 */
export function encodeBinary(kind, header, payload) {
  const encoded = new TextEncoder().encode(JSON.stringify(header));
  if (encoded.length > MAX_HEADER_BYTES) throw new RangeError(`a header of ${encoded.length} bytes`);
  const message = new Uint8Array(PREFIX_BYTES + encoded.length + payload.length);
  message[0] = kind;
  new DataView(message.buffer).setUint16(1, encoded.length);
  message.set(encoded, PREFIX_BYTES);
  message.set(payload, PREFIX_BYTES + encoded.length);
  return message;
}

/**
 * Write a command. Throws `TypeError` for a number that JSON does not have, at its name.
 *
 * @param {string} type
 * @param {Json} data
 * @param {Id} [id]
 * @returns {string}
 */
export function encodeText(type, data, id) {
  const finite = (/** @type {string} */ name, /** @type {unknown} */ value) => {
    // JSON would have null in the place of the number, which is another value.
    if (typeof value === "number" && !Number.isFinite(value)) throw new TypeError(`${name} is ${value}`);
    return value;
  };
  return JSON.stringify(id === undefined ? { type, data } : { type, data, id }, finite);
}

/**
 * The subprotocols to offer; a token is the second, as a browser can set no header.
 *
 * @param {string | undefined} token
 * @returns {string[]}
 */
export function subprotocols(token) {
  if (!token) return [SUBPROTOCOL];
  const bytes = String.fromCharCode(...new TextEncoder().encode(token));
  const base64url = btoa(bytes).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
  return [SUBPROTOCOL, `reactor.token.${base64url}`];
}

/**
 * The WebSocket's URL. `http` and `https` become `ws` and `wss`.
 *
 * A URL that ends with a slash, or an `http` URL with another path than `.../ws`, is that of a server's page: the
 * WebSocket is at `ws` below it. Without a URL, the WebSocket is the one beside the page.
 *
 * @param {string | URL | undefined} url
 * @param {string} [base] The page's own URL, or that of its `<base>`.
 * @returns {URL}
 */
export function webSocketUrl(url, base) {
  const given = String(url ?? "ws");
  const found = new URL(given, base);
  const isPage = /^https?:/i.test(given) && !found.pathname.endsWith("/ws");
  found.protocol = found.protocol.replace(/^http/, "ws");
  if (found.protocol !== "ws:" && found.protocol !== "wss:") throw new SyntaxError(`no WebSocket: ${found}`);
  if (found.pathname.endsWith("/")) found.pathname += "ws";
  else if (isPage) found.pathname += "/ws";
  found.hash = "";
  return found;
}
