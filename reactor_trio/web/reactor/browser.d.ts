// What browsers have and TypeScript's own library has not (yet).

/** Chromium, and Safari in workers: https://www.w3.org/TR/mediacapture-transform/ */
declare class MediaStreamTrackProcessor {
  constructor(init: { track: MediaStreamTrack });
  readonly readable: ReadableStream<VideoFrame>;
}

/** In an AudioWorklet: https://www.w3.org/TR/webaudio/#audioworkletprocessor */
declare class AudioWorkletProcessor {
  readonly port: MessagePort;
}

declare function registerProcessor(name: string, processor: new (options: any) => AudioWorkletProcessor): void;
