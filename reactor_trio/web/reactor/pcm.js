/** Samples: integers on the wire, floats in the browser. Pure; also loaded by the worklet. */

/**
 * Take interleaved samples apart.
 *
 * @param {Uint8Array} data Signed, 16 bits, little-endian.
 * @param {number} channels
 * @returns {Float32Array<ArrayBuffer>[]} One a channel, from -1 to 1.
 */
export function toFloats(data, channels) {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const length = Math.floor(data.byteLength / 2 / channels);
  return Array.from({ length: channels }, (_, channel) => {
    const samples = new Float32Array(length);
    for (let at = 0; at < length; at += 1) {
      samples[at] = view.getInt16(2 * (at * channels + channel), true) / 32768;
    }
    return samples;
  });
}

/** Joins and cuts the pieces that the browser delivers into blocks of one size; one channel. */
export class Blocks {
  #block;
  #filled = 0;
  #onBlock;

  /**
   * @param {number} size Samples.
   * @param {(block: Uint8Array<ArrayBuffer>) => void} onBlock Given signed samples of 16 bits, little-endian.
   */
  constructor(size, onBlock) {
    this.#block = new DataView(new ArrayBuffer(2 * size));
    this.#onBlock = onBlock;
  }

  /** @param {Float32Array} samples From -1 to 1; values beyond are clipped. */
  push(samples) {
    for (const sample of samples) {
      const clipped = Math.max(-1, Math.min(1, sample));
      this.#block.setInt16(2 * this.#filled, Math.max(-32768, Math.min(32767, Math.round(clipped * 32768))), true);
      this.#filled += 1;
      if (2 * this.#filled === this.#block.byteLength) {
        this.#onBlock(new Uint8Array(this.#block.buffer.slice(0)));
        this.#filled = 0;
      }
    }
  }
}
