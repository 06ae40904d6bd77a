/** @import {Client} from "../reactor.js" */
/** @import {Frame} from "./protocol.js" */
import { ReactorError } from "./errors.js";
import { H264Decoder, canDecodeH264 } from "./h264.js";
import { Rate } from "./rate.js";

/** H.264 decoders that may fail before the track is asked for as JPEG. */
const MAX_DECODER_ERRORS = 3;
/** Between two requests for a key frame; milliseconds. */
const KEY_FRAME_INTERVAL = 500;
/** Dropped frames whose commands the next one shows. */
const MAX_CARRIED = 16;

/**
 * @typedef {object} VideoSettings
 * @property {string | null} [codec] One of the track's; null: the server's default.
 * @property {number | null} [maxFps]
 * @property {number | null} [maxWidth] Pixels.
 *
 * @typedef {object} MoreVideoOptions
 * @property {boolean} [pauseHidden] Ask for no frames while the page is hidden (true).
 * @property {((frame: Frame) => void) | null} [onFrame] Called when a frame has been drawn.
 *
 * @typedef {VideoSettings & MoreVideoOptions} VideoOptions
 *
 * @typedef {object} VideoStats
 * @property {number} fps Frames drawn in the last second.
 * @property {number} width Of the last frame, in pixels.
 * @property {number} height
 * @property {string | null} codec
 * @property {number} drawn
 * @property {number} dropped Frames that arrived, and were not drawn because a newer one was there, or as undecodable.
 * @property {number} errors Frames that could not be decoded.
 * @property {number} seq Of the last frame; -1 before the first.
 *
 * @typedef {object} Picture A frame, decoded.
 * @property {Frame} frame
 * @property {ImageBitmap | VideoFrame | ImageData} image
 */

/** Draws a video track on a canvas. Never more than one decoded frame waits: the newest. Made by `Client.video`. */
export class VideoSink {
  /** @type {((frame: Frame) => void) | null} Called when a frame has been drawn. */
  onFrame;

  #client;
  #track;
  #canvas;
  #context;
  /** @type {VideoSettings} The settings of the caller; the server is sent those of them that it can do. */
  #settings;
  #pauseHidden;
  #paused = false;
  #stopped = false;
  #avoidsH264 = !canDecodeH264();
  /** @type {(() => void)[]} */
  #release = [];

  #h264 = new H264Decoder(
    (frame, picture) => this.#ready({ frame, image: picture }),
    (error) => this.#decoderFailed(error),
  );
  #decoderErrors = 0;
  #keyFrameAsked = -Infinity;
  #isDecoding = false;
  /** @type {Frame | null} The newest that came while one was being decoded. */
  #next = null;
  /** @type {Picture | null} */
  #picture = null;
  #animation = 0;
  /** Counts the sessions, so that a picture of an earlier one is not drawn. */
  #session = 0;
  /** Frames that were dropped, and the first to reflect a command: the next one shows it. @type {Frame[]} */
  #carried = [];

  #rate = new Rate();
  #stats = { width: 0, height: 0, codec: /** @type {string | null} */ (null), drawn: 0, dropped: 0, errors: 0, seq: -1 };

  /**
   * @param {Client} client
   * @param {string} track
   * @param {HTMLCanvasElement} canvas
   * @param {VideoOptions} options
   */
  constructor(client, track, canvas, { codec, maxFps, maxWidth, pauseHidden = true, onFrame = null }) {
    const context = canvas.getContext("2d", { alpha: false });
    if (!context) throw new ReactorError({ code: "unsupported", message: "the canvas has no 2d context" });
    this.#client = client;
    this.#track = track;
    this.#canvas = canvas;
    this.#context = context;
    this.#settings = { codec, maxFps, maxWidth };
    this.#pauseHidden = pauseHidden;
    this.onFrame = onFrame;
    const onVisibility = () => this.#configure();
    document.addEventListener("visibilitychange", onVisibility);
    this.#release.push(
      () => document.removeEventListener("visibilitychange", onVisibility),
      client.on("frame", (frame) => frame.track === track && this.#arrived(frame)),
      client.on("welcome", () => this.#begin()),
      client.on("state", (state) => state === "closed" && this.stop()),
    );
    client.settings.enter(track);
    this.#configure();
    if (client.state === "open") this.#begin();
  }

  /** While it is true the server sends no frames. */
  get paused() {
    return this.#paused;
  }

  set paused(value) {
    this.#paused = value;
    this.#configure();
  }

  /**
   * Change the settings of the track; a setting that is left out stays as it is. If the server refuses, the client's
   * "error" handlers are called.
   *
   * @param {VideoSettings} settings
   */
  configure(settings) {
    this.#settings = { ...this.#settings, ...settings };
    this.#configure();
  }

  /** Draw no more, and ask for no more frames. The canvas stays as it is. */
  stop() {
    if (this.#stopped) return;
    this.#stopped = true;
    this.#client.settings.leave(this.#track);
    for (const release of this.#release) release();
    cancelAnimationFrame(this.#animation);
    this.#h264.reset();
    this.#next = null;
    this.#discard();
  }

  /** @returns {VideoStats} */
  stats() {
    return { fps: this.#rate.perSecond(), ...this.#stats };
  }

  /** A session begins: it knows nothing of this sink. */
  #begin() {
    const info = this.#info;
    if (!info) {
      const message = `the model sends no video track ${this.#track}`;
      this.#client.report(new ReactorError({ code: "unknown_track", message }));
    }
    this.#session += 1;
    this.#decoderErrors = 0;
    this.#h264.reset();
    this.#next = null;
    this.#discard();
    this.#carried = [];
    this.#configure();
  }

  get #info() {
    const tracks = this.#client.welcome?.tracks ?? [];
    return tracks.find((each) => each.name === this.#track && each.kind === "video" && each.direction === "out");
  }

  /** Tell the server how to send the track. */
  #configure() {
    const { codec, maxFps, maxWidth } = this.#settings;
    const wanted = codec ?? this.#info?.codecs?.[0];
    const isHidden = this.#pauseHidden && document.visibilityState === "hidden";
    this.#client.settings.want(this.#track, {
      codec: wanted === "h264" && this.#avoidsH264 ? "jpeg" : codec,
      max_fps: maxFps,
      max_width: maxWidth,
      paused: this.#paused || isHidden,
    });
  }

  /** @param {Frame} frame */
  #arrived(frame) {
    if (frame.codec === "h264" && this.#avoidsH264) {
      // A frame that was on its way when the codec was changed.
      this.#drop(frame);
    } else if (frame.codec === "h264") {
      if (!this.#h264.decode(frame)) {
        this.#drop(frame);
        this.#requestKeyFrame();
      }
    } else if (this.#isDecoding) {
      if (this.#next) this.#drop(this.#next);
      this.#next = frame;
    } else {
      void this.#decode(frame);
    }
  }

  /** @param {Frame} first */
  async #decode(first) {
    this.#isDecoding = true;
    for (let frame = /** @type {Frame | null} */ (first); frame; frame = this.#next, this.#next = null) {
      const session = this.#session;
      try {
        const image = await decodeWhole(frame);
        if (session === this.#session && !this.#stopped) this.#ready({ frame, image });
        else close(image);
      } catch {
        this.#stats.errors += 1;
        this.#drop(frame);
      }
    }
    this.#isDecoding = false;
  }

  /** @param {Error} error */
  #decoderFailed(error) {
    this.#stats.errors += 1;
    this.#decoderErrors += 1;
    if (this.#decoderErrors < MAX_DECODER_ERRORS) {
      this.#requestKeyFrame();
      return;
    }
    const message = `track ${this.#track} is asked for as JPEG, since its H.264 cannot be decoded: ${error.message}`;
    this.#client.report(new ReactorError({ code: "unsupported", message }));
    this.#avoidsH264 = true;
    this.#configure();
  }

  #requestKeyFrame() {
    const now = performance.now();
    if (this.#avoidsH264 || now - this.#keyFrameAsked < KEY_FRAME_INTERVAL) return;
    this.#keyFrameAsked = now;
    this.#client.ask("reactor.request_key_frame", { track: this.#track });
  }

  /** @param {Picture} picture */
  #ready(picture) {
    if (this.#picture) {
      this.#drop(this.#picture.frame);
      this.#discard();
    }
    this.#picture = picture;
    this.#animation ||= requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    this.#animation = 0;
    const picture = this.#picture;
    if (!picture) return;
    const { frame, image } = picture;
    const [width, height] = sizeOf(image);
    if (this.#canvas.width !== width) this.#canvas.width = width;
    if (this.#canvas.height !== height) this.#canvas.height = height;
    if (image instanceof ImageData) this.#context.putImageData(image, 0, 0);
    else this.#context.drawImage(image, 0, 0);
    this.#discard();
    this.#decoderErrors = 0;
    this.#rate.count();
    this.#stats.drawn += 1;
    Object.assign(this.#stats, { width, height, codec: frame.codec, seq: frame.seq });
    const shown = [...this.#carried, frame];
    this.#carried = [];
    for (const each of shown) this.#client.frameShown(each);
    this.onFrame?.(frame);
  }

  /** @param {Frame} frame */
  #drop(frame) {
    this.#stats.dropped += 1;
    if (frame.applied?.length) this.#carried = [...this.#carried, frame].slice(-MAX_CARRIED);
  }

  /** Free the memory of the picture that waits. */
  #discard() {
    if (this.#picture) close(this.#picture.image);
    this.#picture = null;
  }
}

/**
 * Decode a frame that needs no other.
 *
 * @param {Frame} frame
 * @returns {Promise<ImageBitmap> | ImageData}
 */
function decodeWhole(frame) {
  if (frame.codec === "jpeg") return createImageBitmap(new Blob([frame.payload], { type: "image/jpeg" }));
  if (frame.codec === "raw") return imageOf(frame.payload, frame.width ?? 0, frame.height ?? 0);
  throw new TypeError(`codec ${frame.codec}`);
}

/**
 * @param {Uint8Array} rgb Row by row.
 * @param {number} width
 * @param {number} height
 * @returns {ImageData}
 */
export function imageOf(rgb, width, height) {
  if (rgb.length !== 3 * width * height) throw new RangeError(`${rgb.length} bytes for ${width} x ${height}`);
  const image = new ImageData(width, height);
  image.data.set(withAlpha(rgb));
  return image;
}

/**
 * @param {Uint8Array} rgb
 * @returns {Uint8ClampedArray} RGBA, opaque.
 */
export function withAlpha(rgb) {
  const rgba = new Uint8ClampedArray((rgb.length / 3) * 4).fill(255);
  for (let from = 0, to = 0; from < rgb.length; from += 3, to += 4) {
    rgba[to] = rgb[from] ?? 0;
    rgba[to + 1] = rgb[from + 1] ?? 0;
    rgba[to + 2] = rgb[from + 2] ?? 0;
  }
  return rgba;
}

/**
 * @param {Picture["image"]} image
 * @returns {[number, number]}
 */
function sizeOf(image) {
  if ("displayWidth" in image) return [image.displayWidth, image.displayHeight];
  return [image.width, image.height];
}

/** @param {Picture["image"]} image */
function close(image) {
  if (!(image instanceof ImageData)) image.close();
}
