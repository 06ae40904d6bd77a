/** @import {ErrorData, Fault} from "./protocol.js" */

/**
 * What went wrong, by `code`: the server's own (docs/wire.md), a model's own, or one of
 *
 * - `superseded`: a later command of the same deduplicated event replaced this one;
 * - `connection_lost`: the connection ended before the answer; whether the command was carried out is unknown;
 * - `not_connected`: there is no session now, and nothing was sent;
 * - `too_large`: the message is larger than the server takes, and was not sent;
 * - `unauthorised`: the server does not accept the token;
 * - `unknown_track`: the model has no such track;
 * - `unsupported`: this browser cannot do it.
 */
export class ReactorError extends Error {
  /** @param {ErrorData} data */
  constructor(data) {
    super(data.message);
    this.name = "ReactorError";
    this.code = data.code;
    /** @type {string | undefined} The event of the command that was refused. */
    this.event = data.event;
    /** @type {string | undefined} */
    this.uploadId = data.upload_id;
    /** @type {Fault[]} Each field that is wrong, of an `invalid_payload`. */
    this.errors = data.errors ?? [];
    /** @type {number | undefined} Seconds after which to try again. */
    this.retryAfter = data.retry_after;
    /** @type {string | undefined} Of a `connection_lost`: what the server closed it with, such as "model_error". */
    this.reason = data.reason;
  }
}
