/** The client, shared by the parts of the page; every message is also written to the log. */

/** @typedef {import("../reactor.js").Client} Client */
/** @typedef {import("./log.js").Log} Log */
/** @typedef {{type: string, data: any} | null} Reply */
/** @typedef {{onProgress?: (sent: number, total: number) => void, signal?: AbortSignal}} UploadOptions */

export class Session {
  /**
   * @param {Client} client
   * @param {Log} log
   * @param {(text: string) => void} announce tells users of assistive technology
   */
  constructor(client, log, announce) {
    this.client = client;
    this.announce = announce;
    this.#log = log;
  }

  #log;

  /** The id of the present session, or of the last one. */
  get id() {
    return this.client.welcome?.session_id ?? null;
  }

  get isOpen() {
    return this.client.state === "open";
  }

  get limits() {
    return this.client.welcome?.limits ?? { max_upload_bytes: Infinity };
  }

  /**
   * Send a command and wait for its answer. Rejects with a `ReactorError`.
   * @param {string} event
   * @param {Record<string, any>} data
   * @returns {Promise<Reply>}
   */
  async call(event, data) {
    this.#log.add({ way: "out", kind: "command", type: event, data });
    const began = performance.now();
    try {
      const reply = await this.client.call(event, data);
      const took = performance.now() - began;
      this.#log.add({ way: "in", kind: "reply", type: reply?.type ?? "reactor.ack", data: reply?.data ?? {}, to: event, took });
      return reply;
    } catch (error) {
      const { code = "error", message = String(error), errors } = /** @type {any} */ (error);
      const kind = code === "superseded" ? "reply" : "error";
      const shown = kind === "reply" ? {} : { code, message, ...(errors?.length ? { errors } : {}) };
      const type = kind === "reply" ? "reactor.superseded" : "reactor.error";
      this.#log.add({ way: "in", kind, type, data: shown, to: event, took: performance.now() - began });
      throw error;
    }
  }

  /**
   * @param {File} file
   * @param {UploadOptions} options
   */
  async upload(file, options) {
    const described = { name: file.name, mime_type: file.type, size: file.size };
    this.#log.add({ way: "out", kind: "upload", type: "reactor.upload_start", data: described });
    const began = performance.now();
    try {
      const handle = await this.client.upload(file, options);
      this.#log.add({ way: "in", kind: "upload", type: "reactor.upload_complete", data: handle, took: performance.now() - began });
      return handle;
    } catch (error) {
      const { code = "error", message = String(error) } = /** @type {any} */ (error);
      this.#log.add({ way: "in", kind: "error", type: "reactor.error", data: { code, message }, to: file.name });
      throw error;
    }
  }

  /**
   * Log an event of the connection that is no message.
   * @param {string} text
   * @param {unknown} [data]
   */
  note(text, data) {
    this.#log.add({ way: "note", kind: "session", type: text, data });
  }
}
