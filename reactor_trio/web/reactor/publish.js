/** @import {Client} from "../reactor.js" */
/** @import {Json, Welcome} from "./protocol.js" */
import { ReactorError } from "./errors.js";
import { Blocks } from "./pcm.js";
import { Rate } from "./rate.js";

/** The most bytes that may wait for the network: with more, a frame would come too late and is not sent. */
const MAX_BUFFERED = 256 * 1024;
/** Blocks of audio in a second. */
const BLOCKS = 50;
/** Samples a second, if the welcome has no rate. */
const DEFAULT_RATE = 16_000;

/**
 * @typedef {object} PublishOptions
 * @property {number} [fps] At most so many frames a second (15).
 * @property {number} [width] Larger pictures are made smaller; pixels (640).
 * @property {number} [quality] Of the JPEGs, from 0 to 1 (0.8).
 * @property {Json} [metadata] A JSON object that the model gets with each frame.
 *
 * @typedef {object} PublisherStats
 * @property {number} fps Frames, or blocks of audio, sent in the last second.
 * @property {number} sent
 * @property {number} dropped Not sent: no session, the network is behind, or the last one is still being encoded.
 * @property {number} seq Of the next one.
 */

/**
 * See `Client.publish`.
 *
 * @param {Client} client
 * @param {string} track
 * @param {MediaStream} stream
 * @param {PublishOptions} options
 * @returns {Publisher}
 */
export function publish(client, track, stream, options) {
  const publisher = new Publisher(client, track, options);
  if (client.welcome) begin(publisher, client.welcome, stream, options);
  else {
    client.ready
      .then((welcome) => begin(publisher, welcome, stream, options))
      .catch((error) => publisher.failed(error));
  }
  return publisher;
}

/**
 * @param {Publisher} publisher
 * @param {Welcome} welcome
 * @param {MediaStream} stream
 * @param {PublishOptions} options
 */
function begin(publisher, welcome, stream, options) {
  const { track } = publisher;
  const info = welcome.tracks.find((each) => each.name === track && each.direction === "in");
  const [source] = info?.kind === "audio" ? stream.getAudioTracks() : stream.getVideoTracks();
  if (!info || !source) {
    publisher.stop();
    throw info
      ? new ReactorError({ code: "unsupported", message: `the stream has no ${info.kind} for the track ${track}` })
      : new ReactorError({ code: "unknown_track", message: `the model takes no track ${track}` });
  }
  // The camera was unplugged.
  source.addEventListener("ended", () => publisher.stop(), { signal: publisher.signal });
  if (info.kind === "audio") void publishAudio(publisher, source, info.rate ?? DEFAULT_RATE);
  else void publishVideo(publisher, source, options);
}

/** Sends a webcam or a microphone. Made by `Client.publish`. */
export class Publisher {
  /** The name of the track. */
  track;

  #client;
  #metadata;
  #stopped = new AbortController();
  #began = 0;
  #rate = new Rate();
  #stats = { sent: 0, dropped: 0, seq: 0 };

  /**
   * @param {Client} client
   * @param {string} track
   * @param {PublishOptions} options
   */
  constructor(client, track, { metadata }) {
    this.#client = client;
    this.track = track;
    this.#metadata = metadata;
    const begin = () => {
      this.#stats.seq = 0;
      this.#began = performance.now();
    };
    const release = [client.on("welcome", begin), client.on("state", (state) => state === "closed" && this.stop())];
    this.signal.addEventListener("abort", () => release.forEach((each) => each()));
    begin();
  }

  /** Aborts when the publisher is stopped. */
  get signal() {
    return this.#stopped.signal;
  }

  /** Send nothing more. The stream stays yours. */
  stop() {
    this.#stopped.abort();
  }

  /** @returns {PublisherStats} */
  stats() {
    return { fps: this.#rate.perSecond(), ...this.#stats };
  }

  /** Whether a frame would be sent now. */
  get hasRoom() {
    return this.#client.state === "open" && this.#client.stats().bufferedAmount <= MAX_BUFFERED;
  }

  drop() {
    this.#stats.dropped += 1;
  }

  /**
   * @param {Uint8Array} payload
   * @param {Json} header Codec and sizes.
   * @param {number} [taken] When it was taken, on the clock of `performance.now()`.
   */
  send(payload, header, taken = performance.now()) {
    if (this.signal.aborted) return;
    const { seq } = this.#stats;
    const pts = Math.max(0, taken - this.#began) / 1000;
    const metadata = this.#metadata && { metadata: this.#metadata };
    const frame = { track: this.track, seq, pts, ...metadata, ...header, codec: header.codec };
    if (!this.hasRoom || !this.#client.sendFrame(frame, payload)) {
      this.drop();
      return;
    }
    this.#stats.seq += 1;
    this.#stats.sent += 1;
    this.#rate.count();
  }

  /** @param {unknown} error */
  failed(error) {
    if (this.signal.aborted) return;
    this.stop();
    const known = error instanceof ReactorError;
    const message = `track ${this.track}: ${error}`;
    this.#client.report(known ? error : new ReactorError({ code: "unsupported", message }));
  }
}

/**
 * @param {Publisher} publisher
 * @param {MediaStreamTrack} source
 * @param {PublishOptions} options
 */
async function publishVideo(publisher, source, { fps = 15, width: maxWidth = 640, quality = 0.8 }) {
  let isEncoding = false;
  let next = 0;
  const canvas = new OffscreenCanvas(1, 1);
  const context = canvas.getContext("2d", { alpha: false });

  const encode = async (/** @type {number} */ taken) => {
    const blob = await canvas.convertToBlob({ type: "image/jpeg", quality });
    const { width, height } = canvas;
    publisher.send(new Uint8Array(await blob.arrayBuffer()), { codec: "jpeg", width, height }, taken);
  };
  /** @type {(image: CanvasImageSource, width: number, height: number) => void} */
  const take = (image, fullWidth, fullHeight) => {
    const now = performance.now();
    // A tolerance of half a frame, or a camera with exactly this rate would be sent at half of it.
    if (!context || now < next - 500 / fps) return;
    next = Math.max(next + 1000 / fps, now);
    if (isEncoding || !publisher.hasRoom) {
      publisher.drop();
      return;
    }
    const scale = Math.min(1, maxWidth / fullWidth);
    canvas.width = Math.max(1, Math.round(fullWidth * scale));
    canvas.height = Math.max(1, Math.round(fullHeight * scale));
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    isEncoding = true;
    encode(now)
      .catch((error) => publisher.failed(error))
      .finally(() => (isEncoding = false));
  };
  try {
    if (typeof MediaStreamTrackProcessor === "function") await readFrames(publisher.signal, source, take);
    else await playFrames(publisher.signal, source, fps, take);
  } catch (error) {
    publisher.failed(error);
  }
}

/**
 * @param {AbortSignal} signal
 * @param {MediaStreamTrack} source
 * @param {(image: VideoFrame, width: number, height: number) => void} take
 */
async function readFrames(signal, source, take) {
  // A copy: the end of the reading must not end the caller's track.
  const track = source.clone();
  const reader = new MediaStreamTrackProcessor({ track }).readable.getReader();
  const cancel = () => void reader.cancel().catch(() => {});
  signal.addEventListener("abort", cancel);
  try {
    for (;;) {
      const { value: frame, done } = await reader.read();
      if (done) return;
      if (!signal.aborted) take(frame, frame.displayWidth, frame.displayHeight);
      frame.close();
    }
  } finally {
    signal.removeEventListener("abort", cancel);
    track.stop();
  }
}

/**
 * Read a video track in browsers that give no access to its frames.
 *
 * @param {AbortSignal} signal
 * @param {MediaStreamTrack} source
 * @param {number} fps
 * @param {(image: HTMLVideoElement, width: number, height: number) => void} take
 */
async function playFrames(signal, source, fps, take) {
  const video = document.createElement("video");
  video.muted = true;
  video.playsInline = true;
  video.srcObject = new MediaStream([source]);
  await video.play();
  const timer = setInterval(() => {
    if (video.videoWidth) take(video, video.videoWidth, video.videoHeight);
  }, 1000 / fps);
  const stop = () => {
    clearInterval(timer);
    video.srcObject = null;
  };
  if (signal.aborted) stop();
  else signal.addEventListener("abort", stop);
}

/**
 * @param {Publisher} publisher
 * @param {MediaStreamTrack} source
 * @param {number} rate Samples a second.
 */
async function publishAudio(publisher, source, rate) {
  const size = Math.floor(rate / BLOCKS);
  // The time comes from a count of samples, since the time at which a block is delivered varies.
  let taken = performance.now();
  const send = (/** @type {Uint8Array} */ block) => {
    publisher.send(block, { codec: "pcm_s16le", rate, channels: 1 }, taken);
    taken += (1000 * size) / rate;
  };
  try {
    // The browser resamples the input to the context's rate.
    const context = new AudioContext({ sampleRate: rate });
    publisher.signal.addEventListener("abort", () => void context.close());
    const input = context.createMediaStreamSource(new MediaStream([source]));
    const node = await blockNode(context, size, send);
    if (publisher.signal.aborted) return;
    input.connect(node);
    // The destination plays silence; without a destination the browser does not run the node.
    node.connect(context.destination);
    await context.resume();
  } catch (error) {
    publisher.failed(error);
  }
}

/**
 * @param {AudioContext} context
 * @param {number} size Samples.
 * @param {(block: Uint8Array<ArrayBuffer>) => void} onBlock
 * @returns {Promise<AudioNode>} Takes one channel and gives silence.
 */
async function blockNode(context, size, onBlock) {
  // Browsers have worklets on secure pages only (https, or this machine).
  if (!context.audioWorklet) {
    const node = context.createScriptProcessor(1024, 1, 1);
    const blocks = new Blocks(size, onBlock);
    node.onaudioprocess = ({ inputBuffer }) => blocks.push(inputBuffer.getChannelData(0));
    return node;
  }
  await context.audioWorklet.addModule(new URL("./microphone.js", import.meta.url));
  const node = new AudioWorkletNode(context, "reactor-microphone", {
    channelCount: 1,
    channelCountMode: "explicit",
    processorOptions: { size },
  });
  node.port.onmessage = ({ data }) => onBlock(data);
  return node;
}
