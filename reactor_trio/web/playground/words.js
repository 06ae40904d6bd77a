/** The texts of the page: names made readable, numbers with units, reasons and errors in words. */

/**
 * A wire name as a label: `set_prompt` -> `Set prompt`.
 * @param {string} name
 */
export function pretty(name) {
  const words = name.replaceAll("_", " ").replace(/([a-z])([A-Z])/g, "$1 $2").trim();
  return words.charAt(0).toUpperCase() + words.slice(1);
}

/**
 * @param {number} count bytes
 */
export function bytes(count) {
  if (count < 1000) return `${Math.round(count)} B`;
  const power = Math.min(3, Math.floor(Math.log(count) / Math.log(1024)));
  const amount = count / 1024 ** Math.max(1, power);
  return `${amount < 10 ? amount.toFixed(1) : Math.round(amount)} ${["KiB", "KiB", "MiB", "GiB"][power]}`;
}

/**
 * @param {number | null | undefined} time milliseconds
 */
export function milliseconds(time) {
  if (time === null || time === undefined || !Number.isFinite(time)) return "–";
  if (time >= 10_000) return `${(time / 1000).toFixed(1)} s`;
  return `${time < 10 ? time.toFixed(1) : Math.round(time)} ms`;
}

/**
 * How long ago: `now`, `12 s`, `3 min`.
 * @param {number} seconds
 */
export function ago(seconds) {
  if (seconds < 1) return "now";
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  return `${Math.floor(seconds / 3600)} h`;
}

/** @type {Record<string, string>} */
const REASONS = {
  finished: "The model has finished.",
  idle: "The server ended the session, since nothing was done in it for a while.",
  shutting_down: "The server is shutting down.",
  too_many_errors: "The server closed the connection: it could not read too many messages in a row.",
  queue_timeout: "No session became free in time.",
  model_error: "The model failed. The server's log says why.",
};

/**
 * Why the server said goodbye, or closed.
 * @param {string | null | undefined} reason
 */
export function goodbye(reason) {
  if (!reason) return "The connection was closed.";
  return wordsFor(REASONS, reason) ?? `The server closed the connection: ${pretty(reason).toLowerCase()}.`;
}

/** @type {Record<string, string>} */
const CODES = {
  overloaded: "Too much at once",
  internal_error: "The handler failed",
  model_error: "The model failed",
  invalid_payload: "This does not fit",
  unknown_event: "No such command",
  unresolved_upload: "The file is not there",
  upload_too_large: "The file is too large",
  upload_quota: "No room for more files",
  upload_type: "Not a file of this type",
  upload_rejected: "The upload was refused",
  not_connected: "Not connected",
  connection_lost: "The connection was lost",
  too_large: "More than the server takes",
  unauthorised: "The token was not accepted",
  unknown_track: "No such track",
  unsupported: "This browser cannot do that",
};

/**
 * The text for an error code.
 * @param {string} code
 */
export function errorTitle(code) {
  return wordsFor(CODES, code) ?? pretty(code);
}

/**
 * Own properties only, since an author's code may be `constructor`.
 * @param {Record<string, string>} table
 * @param {string} name
 */
function wordsFor(table, name) {
  return Object.hasOwn(table, name) ? table[name] : undefined;
}

/**
 * JSON on one line, cut to a length that is fit to be shown.
 * @param {unknown} value
 * @param {number} limit characters
 */
export function brief(value, limit = 160) {
  return cut(JSON.stringify(value) ?? "", limit);
}

/**
 * @param {string} text
 * @param {number} limit characters
 */
export function cut(text, limit = 160) {
  return text.length > limit ? `${text.slice(0, limit)}…` : text;
}
