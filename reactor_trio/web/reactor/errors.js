/** @import {ErrorData, Fault} from "./protocol.js" */

/**
 * An error with a `code`: one of the server's (docs/wire.md), one of the model's, or one of
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
    /** @type {Fault[]} The faults of an `invalid_payload`, one for each wrong field. */
    this.errors = data.errors ?? [];
    /** @type {number | undefined} Seconds after which to try again. */
    this.retryAfter = data.retry_after;
    /** @type {string | undefined} The server's reason for a `connection_lost`, such as "model_error". */
    this.reason = data.reason;
  }
}
