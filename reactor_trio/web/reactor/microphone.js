/** The part of a `Publisher` that runs in the browser's audio thread. */
import { Blocks } from "./pcm.js";

class Microphone extends AudioWorkletProcessor {
  /** @param {{processorOptions: {size: number}}} options */
  constructor({ processorOptions: { size } }) {
    super();
    this.blocks = new Blocks(size, (block) => this.port.postMessage(block, [block.buffer]));
  }

  /** @param {Float32Array[][]} inputs */
  process([input]) {
    if (input?.[0]) this.blocks.push(input[0]);
    return true;
  }
}

registerProcessor("reactor-microphone", Microphone);
