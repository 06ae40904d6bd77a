/** @import {Client} from "../reactor.js" */
/** @import {Frame} from "./protocol.js" */
import { ReactorError } from "./errors.js";
import { toFloats } from "./pcm.js";

/** Time between the arrival of a block and its playing, against an unsteady network; seconds. */
const BUFFER = 0.1;
/** Deviation from that time at which the clock is set anew; seconds. */
const MAX_DRIFT = 0.25;

/**
 * @typedef {object} AudioOptions
 * @property {AudioContext} [context] Yours, to mix the track with other sounds; by default one at the track's rate.
 * @property {AudioNode} [destination] Where the sound goes; by default the context's own.
 *
 * @typedef {object} AudioStats
 * @property {number} rate Samples a second; 0 before the first block.
 * @property {number} channels
 * @property {number} played Blocks.
 * @property {number} dropped Blocks that came while the sink was not running, or when the clock was set anew.
 * @property {number} resyncs How often the clock was set anew: after a gap, or when it had drifted by over 250 ms.
 * @property {number} buffered Milliseconds between now and the end of the last block that has arrived.
 * @property {AudioContextState | "stopped"} state
 */

/** Plays an audio track by the times of its blocks. Silent until `start`. Made by `Client.audio`. */
export class AudioSink {
  #client;
  #track;
  /** @type {AudioContext | null} */
  #context;
  #isOwn;
  #destination;
  /** @type {GainNode | null} */
  #gain = null;
  #volume = 1;
  #started = false;
  #stopped = false;
  /** The context's time at which the session's second 0 is played; null: to be set by the next block. @type {number | null} */
  #zero = null;
  /** The end of the last block, on the context's clock. */
  #end = 0;
  /** Blocks that were handed to the context and have not ended. @type {Set<AudioBufferSourceNode>} */
  #sources = new Set();
  #stats = { rate: 0, channels: 0, played: 0, dropped: 0, resyncs: 0 };
  /** @type {(() => void)[]} */
  #release = [];

  /**
   * @param {Client} client
   * @param {string} track
   * @param {AudioOptions} options
   */
  constructor(client, track, { context, destination }) {
    this.#client = client;
    this.#track = track;
    this.#context = context ?? null;
    this.#isOwn = !context;
    this.#destination = destination ?? null;
    this.#release.push(
      client.on("frame", (frame) => frame.track === track && this.#arrived(frame)),
      client.on("welcome", () => this.#begin()),
      client.on("state", (state) => state === "closed" && this.stop()),
    );
    client.settings.enter(track);
    client.settings.want(track, { paused: true });
    if (client.state === "open") this.#begin();
  }

  /**
   * Begin to play. Browsers play a page's sound only after its user has touched the page: call this from a click's
   * handler.
   *
   * @returns {Promise<void>} Done when it is heard.
   */
  async start() {
    if (this.#stopped) return;
    this.#started = true;
    this.#client.settings.want(this.#track, { paused: false });
    const rate = this.#info?.rate;
    if (rate) this.#prepare(rate);
    await this.#context?.resume();
  }

  /** Stop for good. */
  stop() {
    if (this.#stopped) return;
    this.#stopped = true;
    this.#client.settings.leave(this.#track);
    for (const release of this.#release) release();
    this.#silence();
    this.#gain?.disconnect();
    if (this.#isOwn) void this.#context?.close();
  }

  /** Volume from 0 to 1; more amplifies. */
  get volume() {
    return this.#volume;
  }

  set volume(value) {
    this.#volume = value;
    if (this.#gain) this.#gain.gain.value = value;
  }

  /** @returns {AudioStats} */
  stats() {
    const now = this.#context?.currentTime ?? 0;
    const state = this.#stopped ? "stopped" : (this.#context?.state ?? "suspended");
    return { ...this.#stats, buffered: 1000 * Math.max(0, this.#end - now), state };
  }

  get #info() {
    const tracks = this.#client.welcome?.tracks ?? [];
    return tracks.find((each) => each.name === this.#track && each.kind === "audio" && each.direction === "out");
  }

  /** A session begins, with a clock of its own. */
  #begin() {
    if (!this.#info) {
      const message = `the model sends no audio track ${this.#track}`;
      this.#client.report(new ReactorError({ code: "unknown_track", message }));
    }
    this.#zero = null;
  }

  /**
   * @param {number} rate
   * @returns {{context: AudioContext, gain: GainNode}}
   */
  #prepare(rate) {
    // At the track's own rate: resampling each block by itself is audible at the seams.
    this.#context ??= new AudioContext({ sampleRate: rate, latencyHint: "interactive" });
    if (!this.#gain) {
      this.#gain = this.#context.createGain();
      this.#gain.gain.value = this.#volume;
      this.#gain.connect(this.#destination ?? this.#context.destination);
    }
    return { context: this.#context, gain: this.#gain };
  }

  /** @param {Frame} frame */
  #arrived(frame) {
    const { codec, rate = 0, channels = 0 } = frame;
    if (codec !== "pcm_s16le" || !rate || !channels || !frame.payload.length) return;
    Object.assign(this.#stats, { rate, channels });
    if (!this.#started) {
      this.#stats.dropped += 1;
      return;
    }
    const { context, gain } = this.#prepare(rate);
    // The context's state is "running" before its clock runs.
    if (context.state !== "running" || context.currentTime === 0) {
      this.#stats.dropped += 1;
      this.#zero = null;
      return;
    }
    const samples = toFloats(frame.payload, channels);
    const length = samples[0]?.length ?? 0;
    if (length === 0) return;
    const when = this.#when(frame.pts, context.currentTime, rate);
    const buffer = context.createBuffer(channels, length, rate);
    samples.forEach((each, channel) => buffer.copyToChannel(each, channel));
    const source = context.createBufferSource();
    source.buffer = buffer;
    source.connect(gain);
    source.onended = () => this.#sources.delete(source);
    this.#sources.add(source);
    source.start(when);
    this.#end = when + length / rate;
    this.#stats.played += 1;
    if (frame.applied?.length) {
      const heard = () => !this.#stopped && this.#client.frameShown(frame);
      setTimeout(heard, 1000 * Math.max(0, when - context.currentTime));
    }
  }

  /**
   * The time at which a block is to be played, on the context's clock.
   *
   * @param {number} pts
   * @param {number} now
   * @param {number} rate
   */
  #when(pts, now, rate) {
    const lead = this.#zero === null ? null : this.#zero + pts - now;
    if (lead === null || lead < 0 || lead > BUFFER + MAX_DRIFT) {
      if (lead !== null) this.#stats.resyncs += 1;
      this.#silence();
      this.#zero = now + BUFFER - pts;
    }
    // A whole number of samples, or the browser interpolates between two of them.
    return Math.round(((this.#zero ?? 0) + pts) * rate) / rate;
  }

  /** Stop the blocks that were handed to the context and have not ended. */
  #silence() {
    for (const source of this.#sources) {
      source.onended = null;
      source.stop();
      source.disconnect();
    }
    this.#stats.dropped += this.#sources.size;
    this.#sources.clear();
    this.#end = 0;
  }
}
