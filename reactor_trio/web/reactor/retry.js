/** When to connect again, and whether at all. Pure. */

export const MIN_DELAY = 500;
export const MAX_DELAY = 15_000;
/** A connection that was open for so long was a good one: the next delay is short again. Milliseconds. */
export const GOOD_AFTER = 10_000;
/** Sessions that may fail in a row. */
export const MAX_MODEL_ERRORS = 5;

/** The server shuts down or restarts, a proxy gave up, the network was lost. */
const PASSING = new Set([1001, 1005, 1006, 1009, 1012, 1013, 1014]);
const MODEL_ERROR = 1011;

/**
 * How long to wait before the attempt, in milliseconds: exponential, with full jitter, so that the clients of a
 * server that comes back do not all come at once.
 *
 * @param {number} attempt Attempts since the last good connection, from 0.
 * @param {{min?: number, max?: number, random?: number}} [options] `random`: from 0 to 1.
 * @returns {number}
 */
export function backOff(attempt, { min = MIN_DELAY, max = MAX_DELAY, random = Math.random() } = {}) {
  const ceiling = Math.min(max, min * 2 ** (Math.min(attempt, 30) + 1));
  return min + random * (ceiling - min);
}

/**
 * Whether it makes sense to connect again.
 *
 * @param {number} code The close code.
 * @param {string | null} goodbye The reason that the server gave, if it gave one.
 * @param {number} modelErrors Sessions that the model has failed in, in a row, this one included.
 * @returns {boolean}
 */
export function shouldReconnect(code, goodbye, modelErrors) {
  if (goodbye === "shutting_down") return true;
  if (goodbye !== null) return false;
  if (code === MODEL_ERROR) return modelErrors < MAX_MODEL_ERRORS;
  return PASSING.has(code);
}
