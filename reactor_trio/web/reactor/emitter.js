/** Handlers by name. */
export class Emitter {
  /** @type {Map<string, Set<(value: any) => void>>} */
  #handlers = new Map();

  /**
   * @param {string} name
   * @param {(value: any) => void} handler
   * @returns {() => void} Takes the handler away again.
   */
  on(name, handler) {
    // Wrapped, so that a handler that is given twice is called twice, and taken away once.
    const entry = (/** @type {any} */ value) => handler(value);
    const handlers = this.#handlers.get(name) ?? new Set();
    this.#handlers.set(name, handlers.add(entry));
    return () => void handlers.delete(entry);
  }

  /**
   * Call the handlers. One that throws is reported to the browser's console, and stops no other.
   *
   * @param {string} name
   * @param {unknown} value
   */
  emit(name, value) {
    for (const handler of [...(this.#handlers.get(name) ?? [])]) {
      try {
        handler(value);
      } catch (error) {
        report(error);
      }
    }
  }
}

/** @param {unknown} error */
function report(error) {
  if (typeof reportError === "function") reportError(error);
  else console.error(error);
}
