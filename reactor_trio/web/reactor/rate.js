/** Counts the events of the last second. */
export class Rate {
  /** @type {number[]} The times of the last second's events, in milliseconds. */
  #times = [];

  count(now = performance.now()) {
    this.#times.push(now);
    this.#forget(now);
  }

  /** @returns {number} */
  perSecond(now = performance.now()) {
    this.#forget(now);
    return this.#times.length;
  }

  /** @param {number} now */
  #forget(now) {
    while ((this.#times[0] ?? now) <= now - 1000) this.#times.shift();
  }
}
