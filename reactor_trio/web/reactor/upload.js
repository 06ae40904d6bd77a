/** @import {Client} from "../reactor.js" */
import { ReactorError } from "./errors.js";
import { UPLOAD_CHUNK, encodeBinary } from "./protocol.js";

/** So much may wait for the network, so that a command never waits behind more; bytes. */
const MAX_BUFFERED = 1024 * 1024;
/** Browsers have no event for a socket that has room again; milliseconds. */
const POLL = 10;

/**
 * @typedef {object} UploadOptions
 * @property {(sent: number, total: number) => void} [onProgress] Told after each chunk, in bytes.
 * @property {AbortSignal} [signal] Gives the upload up.
 * @property {string} [name] By default the file's.
 * @property {string} [mimeType]
 */

/** A file that the session has. As JSON, and so in a command, it is `{"upload_id": "..."}`. */
export class Upload {
  /** @param {{upload_id: string, name: string, mime_type: string, size: number}} info */
  constructor(info) {
    this.upload_id = info.upload_id;
    this.name = info.name;
    this.mime_type = info.mime_type;
    this.size = info.size;
  }

  toJSON() {
    return { upload_id: this.upload_id };
  }
}

/**
 * See `Client.upload`.
 *
 * @param {Client} client
 * @param {Blob} file
 * @param {UploadOptions} options
 * @returns {Promise<Upload>}
 */
export async function upload(client, file, { onProgress, signal, name, mimeType }) {
  signal?.throwIfAborted();
  const uploadId = randomId();
  const given = /** @type {Partial<File>} */ (file).name;
  const start = {
    upload_id: uploadId,
    name: name ?? given ?? "blob",
    mime_type: mimeType ?? (file.type || "application/octet-stream"),
    size: file.size,
  };
  // Aborts when the server has answered, for good or for ill: no more chunks then.
  const answered = new AbortController();
  const complete = client.call("reactor.upload_start", start, { signal }).finally(() => answered.abort());
  const sending = sendChunks(client, file, uploadId, onProgress, answered.signal);
  try {
    // Whichever fails first; `sendChunks` ends when `complete` has.
    const [message] = await Promise.all([complete, sending]);
    if (!message) throw new ReactorError({ code: "upload_rejected", message: "no answer", upload_id: uploadId });
    return new Upload(message.data);
  } catch (error) {
    complete.catch(() => {});
    sending.catch(() => {});
    if (!(error instanceof ReactorError)) {
      // An answer would come too late for anyone.
      client.call("reactor.upload_abort", { upload_id: uploadId }).catch(() => {});
    }
    throw error;
  } finally {
    answered.abort();
  }
}

/**
 * @param {Client} client
 * @param {Blob} file
 * @param {string} uploadId
 * @param {UploadOptions["onProgress"]} onProgress
 * @param {AbortSignal} answered
 */
async function sendChunks(client, file, uploadId, onProgress, answered) {
  const chunkBytes = client.welcome?.limits.upload_chunk_bytes ?? 0;
  for (let offset = 0; offset < file.size; ) {
    const chunk = new Uint8Array(await file.slice(offset, offset + chunkBytes).arrayBuffer());
    while (client.stats().bufferedAmount > MAX_BUFFERED && !answered.aborted) await sleep(POLL);
    if (answered.aborted) return;
    client.sendBinary(encodeBinary(UPLOAD_CHUNK, { upload_id: uploadId, offset }, chunk));
    offset += chunk.length;
    onProgress?.(offset, file.size);
  }
}

/** 128 bits. `crypto.randomUUID` is for secure pages only. */
function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** @param {number} milliseconds */
function sleep(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
