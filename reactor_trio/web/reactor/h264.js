/** @import {Frame} from "./protocol.js" */

const SPS = 7;

/**
 * The codec string of an H.264 stream, such as "avc1.42e01f": profile, constraints and level of its first SPS (RFC
 * 6381, 3.3).
 *
 * @param {Uint8Array} data Annex B: NAL units behind start codes.
 * @returns {string | null} None if there is no SPS.
 */
export function codecString(data) {
  for (let at = 0; at + 7 <= data.length; at += 1) {
    // 00 00 01, then the header of the unit, whose last five bits are its type.
    if (data[at] !== 0 || data[at + 1] !== 0 || data[at + 2] !== 1) continue;
    if (((data[at + 3] ?? 0) & 0x1f) !== SPS) continue;
    const hex = [...data.subarray(at + 4, at + 7)].map((byte) => byte.toString(16).padStart(2, "0"));
    return `avc1.${hex.join("")}`;
  }
  return null;
}

/** Whether this browser decodes H.264 frame by frame. Browsers do so on secure pages only (https, or this machine). */
export function canDecodeH264() {
  return typeof VideoDecoder === "function";
}

/** The most frames that may wait in the decoder; with more, a new decoder and a key frame are quicker. */
const MAX_QUEUE = 8;

/** Decodes the frames of one track, from the first key frame on. */
export class H264Decoder {
  /** @type {VideoDecoder | null} */
  #decoder = null;
  #codec = "";
  /** The frames that are being decoded, by the timestamp that identifies each in the decoder. @type {Map<number, Frame>} */
  #frames = new Map();
  #time = 0;
  #onPicture;
  #onError;

  /**
   * @param {(frame: Frame, picture: VideoFrame) => void} onPicture The picture is the callee's, to close.
   * @param {(error: Error) => void} onError The next frame to decode must be a key frame.
   */
  constructor(onPicture, onError) {
    this.#onPicture = onPicture;
    this.#onError = onError;
  }

  /**
   * @param {Frame} frame
   * @returns {boolean} Whether it is being decoded; false: only a key frame can be.
   */
  decode(frame) {
    try {
      if (frame.key) this.#begin(frame);
      if (!this.#decoder) return false;
      if (this.#decoder.decodeQueueSize > MAX_QUEUE) {
        this.reset();
        return false;
      }
      this.#time += 1;
      this.#frames.set(this.#time, frame);
      const type = frame.key ? "key" : "delta";
      this.#decoder.decode(new EncodedVideoChunk({ type, timestamp: this.#time, data: frame.payload }));
      return true;
    } catch (error) {
      this.#failed(/** @type {Error} */ (error));
      return false;
    }
  }

  /** Forget the frames that are being decoded. */
  reset() {
    if (this.#decoder && this.#decoder.state !== "closed") this.#decoder.close();
    this.#decoder = null;
    this.#frames.clear();
  }

  /** @param {Frame} frame */
  #begin(frame) {
    const codec = codecString(frame.payload);
    if (!codec) throw new Error(`frame ${frame.seq} of track ${frame.track} is called a key frame, and has no SPS`);
    if (this.#decoder && codec === this.#codec) return;
    this.reset();
    this.#codec = codec;
    /** @type {VideoDecoder} */
    const decoder = new VideoDecoder({
      output: (picture) => this.#decoded(decoder, picture),
      error: (error) => decoder === this.#decoder && this.#failed(error),
    });
    this.#decoder = decoder;
    decoder.configure({ codec, optimizeForLatency: true });
  }

  /**
   * @param {VideoDecoder} decoder
   * @param {VideoFrame} picture
   */
  #decoded(decoder, picture) {
    const frame = this.#frames.get(picture.timestamp);
    if (decoder !== this.#decoder || !frame) {
      picture.close();
      return;
    }
    this.#frames.delete(picture.timestamp);
    this.#onPicture(frame, picture);
  }

  /** @param {Error} error */
  #failed(error) {
    this.reset();
    this.#onError(error);
  }
}
