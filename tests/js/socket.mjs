/** A server in memory: `connect(url, { WebSocket: FakeSocket })`. */

export class FakeSocket {
  /** All that were made, oldest first. */
  static made = [];

  static last() {
    return FakeSocket.made.at(-1);
  }

  constructor(url, protocols) {
    Object.assign(this, { url: String(url), protocols, bufferedAmount: 0, sent: [], closed: null });
    FakeSocket.made.push(this);
  }

  send(message) {
    this.sent.push(message);
  }

  close(code) {
    this.closed = code ?? true;
  }

  // ---- what the server does

  open() {
    this.onopen();
  }

  text(type, data = {}, replyTo) {
    this.onmessage({ data: JSON.stringify({ type, data, ...(replyTo === undefined ? {} : { reply_to: replyTo }) }) });
  }

  binary(bytes) {
    this.onmessage({ data: bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength) });
  }

  drop(code, reason = "") {
    this.onclose({ code, reason });
  }

  welcome(changes = {}) {
    this.open();
    this.text("reactor.welcome", { ...WELCOME, ...changes });
  }

  /** What the client sent, but for its pings. */
  get commands() {
    const texts = this.sent.filter((each) => typeof each === "string").map((each) => JSON.parse(each));
    return texts.filter((each) => each.type !== "reactor.ping");
  }
}

export const WELCOME = {
  protocol: 1,
  session_id: "session-1",
  model: { name: "Painter", description: "" },
  events: [],
  messages: [],
  tracks: [
    { name: "main_video", kind: "video", direction: "out", codecs: ["jpeg", "raw"] },
    { name: "webcam", kind: "video", direction: "in", codecs: ["jpeg", "raw"] },
  ],
  limits: { max_message_bytes: 1000, max_upload_bytes: 100_000, upload_chunk_bytes: 400, max_queued_events: 64 },
};

/** Let all that is ready run. */
export async function settle() {
  for (let turn = 0; turn < 20; turn += 1) await Promise.resolve();
}

/** Let what reads files, or waits for a timer of a few milliseconds, run. */
export async function until(condition) {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 1));
}
