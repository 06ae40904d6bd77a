/** Whether to connect again, and after which delay. Pure. */

export const MIN_DELAY = 500;
export const MAX_DELAY = 15_000;
/** After a connection of at least this duration the next delay is short again; milliseconds. */
export const GOOD_AFTER = 10_000;
/** The most sessions that may fail in a row. */
export const MAX_MODEL_ERRORS = 5;

/** Close codes after which another attempt makes sense: a shutdown, a restart, a proxy's timeout, a lost network. */
const PASSING = new Set([1001, 1005, 1006, 1009, 1012, 1013, 1014]);
const MODEL_ERROR = 1011;

/**
 * The delay before the next attempt, in milliseconds: exponential, with full jitter, so that the clients of a
 * restarted server do not all connect at once.
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
 * Whether another attempt makes sense.
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
