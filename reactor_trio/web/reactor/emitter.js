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
    // Wrapped, so that a handler that was added twice is called twice, and each removal removes one.
    const entry = (/** @type {any} */ value) => handler(value);
    const handlers = this.#handlers.get(name) ?? new Set();
    this.#handlers.set(name, handlers.add(entry));
    return () => void handlers.delete(entry);
  }

  /**
   * Call the handlers. An exception of one is reported to the browser's console; the others are called all the same.
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
