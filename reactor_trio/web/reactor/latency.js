/** @import {Id, Timing} from "./protocol.js" */

/** The most commands that wait for their frame, and the most measurements that are kept. */
const MAX_WAITING = 256;
const MAX_SAMPLES = 500;

/**
 * From sending a command to drawing the first frame that reflects it, in milliseconds.
 *
 * @typedef {object} Sample
 * @property {number} total
 * @property {number} wait In the server's queue.
 * @property {number} handle In the handler.
 * @property {number} emit Until the model emitted a frame.
 * @property {number} pace Until the frame's turn came.
 * @property {number} encode
 * @property {number} network The way there and back, and the waiting of data at the sockets.
 * @property {number} display From the frame's arrival until it was drawn: decoding, and the screen's rhythm.
 *
 * @typedef {object} LatencyStats
 * @property {number} count Commands measured so far.
 * @property {number | null} p50 Of `total`, over the last 500.
 * @property {number | null} p95
 * @property {Sample | null} last
 * @property {Sample | null} median Of each stage by itself.
 */

const STAGES = /** @type {const} */ (["total", "wait", "handle", "emit", "pace", "encode", "network", "display"]);

/** The latencies of one client. All times are on the clock of `performance.now()`. */
export class Latency {
  /** @type {Map<Id, number>} */
  #sent = new Map();
  /** @type {number[]} */
  #totals = [];
  /** @type {Sample[]} */
  #samples = [];
  #count = 0;

  /**
   * @param {Id} id
   * @param {number} now
   */
  sent(id, now) {
    this.#sent.set(id, now);
    if (this.#sent.size > MAX_WAITING) this.#sent.delete(/** @type {Id} */ (this.#sent.keys().next().value));
  }

  /** Forget the commands that wait: the session has ended, so no frame will reflect them. */
  forget() {
    this.#sent.clear();
  }

  /**
   * Note that a frame was drawn.
   *
   * @param {{applied?: Id[], timing?: Timing, received: number}} frame
   * @param {number} now
   */
  drawn({ applied = [], timing, received }, now) {
    applied.forEach((id, index) => {
      const sent = this.#sent.get(id);
      if (sent === undefined) return;
      this.#sent.delete(id);
      this.#count += 1;
      push(this.#totals, now - sent);
      // The times are those of the newest command.
      if (timing && index === applied.length - 1) push(this.#samples, sample(sent, received, now, timing));
    });
  }

  /** @returns {LatencyStats} */
  stats() {
    const medians = STAGES.map((stage) => [stage, quantile(this.#samples.map((each) => each[stage]), 0.5)]);
    const median = this.#samples.length ? Object.fromEntries(medians) : null;
    return {
      count: this.#count,
      p50: quantile(this.#totals, 0.5),
      p95: quantile(this.#totals, 0.95),
      last: this.#samples.at(-1) ?? null,
      median,
    };
  }
}

/**
 * @param {number} sent
 * @param {number} received
 * @param {number} drawn
 * @param {Timing} timing
 * @returns {Sample}
 */
function sample(sent, received, drawn, timing) {
  const milliseconds = {
    wait: 1000 * timing.wait,
    handle: 1000 * timing.handle,
    emit: 1000 * timing.emit,
    pace: 1000 * timing.pace,
    encode: 1000 * timing.encode,
  };
  const total = drawn - sent;
  const display = drawn - received;
  const inServer = Object.values(milliseconds).reduce((sum, each) => sum + each);
  return { total, ...milliseconds, network: Math.max(0, total - display - inServer), display };
}

/**
 * @template T
 * @param {T[]} list
 * @param {T} value
 */
function push(list, value) {
  list.push(value);
  if (list.length > MAX_SAMPLES) list.shift();
}

/**
 * The nearest rank.
 *
 * @param {number[]} values
 * @param {number} q From 0 to 1.
 * @returns {number | null} None of none.
 */
export function quantile(values, q) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(q * sorted.length) - 1)] ?? null;
}
