import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";

import { ReactorError, connect } from "../../reactor_trio/web/reactor.js";
import { decodeBinary, encodeBinary } from "../../reactor_trio/web/reactor/protocol.js";
import { FakeSocket, WELCOME, settle, until } from "./socket.mjs";

/** Milliseconds. */
let now = 0;
const clients = [];

beforeEach(() => {
  now = 1000;
  FakeSocket.made = [];
  mock.method(performance, "now", () => now);
  mock.method(Math, "random", () => 0.5);
});

afterEach(() => {
  for (const client of clients.splice(0)) client.close();
  mock.restoreAll();
  mock.timers.reset();
});

function start(options = {}) {
  const client = connect("ws://127.0.0.1/ws", { WebSocket: FakeSocket, ...options });
  clients.push(client);
  return [client, FakeSocket.last()];
}

/** A client in a session. */
function begin(options) {
  const [client, socket] = start(options);
  socket.welcome();
  return [client, socket];
}

/** For tests of what takes time: nothing passes but by `pass`. */
function stopTime() {
  mock.timers.enable({ apis: ["setTimeout", "setInterval", "Date"] });
}

async function pass(milliseconds) {
  now += milliseconds;
  mock.timers.tick(milliseconds);
  await settle();
}

const code = (expected) => (error) => error instanceof ReactorError && error.code === expected;

// ---- the session

test("it connects at once, and is open with the welcome", async () => {
  const states = [];
  const [client, socket] = start({ token: "abc", onState: (state) => states.push(state) });
  assert.equal(socket.url, "ws://127.0.0.1/ws");
  assert.deepEqual(socket.protocols, ["reactor.v1", "reactor.token.YWJj"]);
  assert.equal(socket.binaryType, "arraybuffer");
  assert.equal(client.state, "connecting");
  assert.equal(client.welcome, null);
  socket.open();
  assert.equal(client.state, "connecting");
  socket.text("reactor.welcome", WELCOME);
  assert.equal(client.state, "open");
  assert.deepEqual(await client.ready, WELCOME);
  assert.deepEqual(client.welcome, WELCOME);
  assert.deepEqual(states, ["open"]);
});

test("it tells its place in the line", () => {
  const [client, socket] = start();
  const places = [];
  client.on("queued", (place) => places.push(place));
  socket.open();
  socket.text("reactor.queued", { position: 2 });
  socket.text("reactor.queued", { position: 1 });
  assert.equal(client.state, "queued");
  assert.equal(client.send("paint"), null);
  socket.text("reactor.welcome", WELCOME);
  assert.equal(client.state, "open");
  assert.deepEqual(places, [2, 1]);
});

test("a token may come from a function", async () => {
  const [, none] = start({ token: async () => "abc" });
  assert.equal(none, undefined);
  await settle();
  assert.deepEqual(FakeSocket.last().protocols, ["reactor.v1", "reactor.token.YWJj"]);
});

test("what is no URL is said at once", () => {
  assert.throws(() => connect("ftp://127.0.0.1", { WebSocket: FakeSocket }), SyntaxError);
});

// ---- commands

test("a call is answered by the handler's message, or by nothing", async () => {
  const [client, socket] = begin();
  const first = client.call("get_prompt", { a: 1 });
  const second = client.call("set_prompt");
  assert.deepEqual(socket.commands, [
    { type: "get_prompt", data: { a: 1 }, id: 1 },
    { type: "set_prompt", data: {}, id: 2 },
  ]);
  assert.equal(client.stats().queued, 2);
  socket.text("reactor.ack", {}, 2);
  socket.text("current_prompt", { prompt: "x" }, 1);
  assert.equal(await second, null);
  assert.deepEqual(await first, { type: "current_prompt", data: { prompt: "x" } });
  assert.equal(client.stats().queued, 0);
});

test("a refusal has all that the server said", async () => {
  const [client, socket] = begin();
  const call = client.call("set_prompt", { prompt: "" });
  const errors = [{ path: "prompt", message: "must have at least 1 character, not 0" }];
  socket.text("reactor.error", { code: "overloaded", message: "no", errors, retry_after: 0.5 }, 1);
  await assert.rejects(call, { code: "overloaded", message: "no", event: "set_prompt", errors, retryAfter: 0.5 });
});

test("a call that was superseded says so", async () => {
  const [client, socket] = begin();
  const call = client.call("set_prompt");
  socket.text("reactor.superseded", {}, 1);
  await assert.rejects(call, code("superseded"));
});

test("without a session nothing is sent", async () => {
  const [client] = start();
  await assert.rejects(client.call("paint"), code("not_connected"));
  assert.equal(client.send("paint"), null);
  assert.equal(client.sendFrame({ track: "webcam", seq: 0, pts: 0, codec: "raw" }, new Uint8Array(3)), false);
});

test("a call can be given up; its late answer is nobody's", async () => {
  const [client, socket] = begin();
  const errors = [];
  client.on("error", (error) => errors.push(error));
  const abort = new AbortController();
  const call = client.call("paint", {}, { signal: abort.signal });
  abort.abort(new Error("enough"));
  await assert.rejects(call, /enough/);
  socket.text("reactor.error", { code: "internal_error", message: "x" }, 1);
  assert.deepEqual(errors, []);
  await assert.rejects(client.call("paint", {}, { signal: abort.signal }), /enough/);
  assert.equal(socket.commands.length, 1);
});

test("what is too large, or no JSON, is not sent", async () => {
  const [client, socket] = begin();
  const text = "x".repeat(WELCOME.limits.max_message_bytes);
  assert.throws(() => client.send("paint", { text }), code("too_large"));
  await assert.rejects(client.call("paint", { text: "ü".repeat(490) }), code("too_large"));
  assert.throws(() => client.send("paint", { zoom: NaN }), TypeError);
  assert.deepEqual(socket.commands, []);
  assert.equal(client.send("paint", { text: "x".repeat(900) }), 1);
});

test("commands of `send` have an id, and their acknowledgement is no message", () => {
  const [client, socket] = begin();
  const told = [];
  client.on("*", (message) => told.push(message));
  client.on("error", (error) => told.push(error.code));
  const id = client.send("paint");
  assert.equal(socket.commands[0].id, id);
  socket.text("reactor.ack", {}, id);
  socket.text("reactor.superseded", {}, id);
  assert.deepEqual(told, []);
  socket.text("current_prompt", { prompt: "x" }, id);
  socket.text("reactor.error", { code: "internal_error", message: "x" }, id);
  assert.deepEqual(told, [{ type: "current_prompt", data: { prompt: "x" } }, "internal_error"]);
});

// ---- messages

test("handlers are told by type, and can be taken away", () => {
  const [client, socket] = begin();
  const told = [];
  const release = client.on("progress", ({ data }) => told.push(data.step));
  client.on("*", ({ type }) => told.push(type));
  socket.text("progress", { step: 1 });
  release();
  socket.text("progress", { step: 2 });
  assert.deepEqual(told, [1, "progress", "progress"]);
});

test("a model's message that is called like one of the client's does not pass for it", () => {
  const [client, socket] = begin();
  const told = [];
  for (const name of ["state", "error", "welcome", "frame", "queued", "goodbye"]) {
    client.on(name, () => told.push("own"));
    client.on(`message:${name}`, ({ type }) => told.push(type));
    socket.text(name, {});
  }
  assert.deepEqual(told, ["state", "error", "welcome", "frame", "queued", "goodbye"]);
});

test("a handler that throws stops no other", () => {
  const [client, socket] = begin();
  const reported = [];
  mock.method(console, "error", (error) => reported.push(error.message));
  const told = [];
  client.on("progress", () => {
    throw new Error("a bug");
  });
  client.on("progress", () => told.push(1));
  socket.text("progress", {});
  assert.deepEqual([told, reported], [[1], ["a bug"]]);
});

test("a frame is told with its header and a view of its payload", () => {
  const [client, socket] = begin();
  const frames = [];
  client.on("frame", (frame) => frames.push(frame));
  const header = { track: "main_video", seq: 3, pts: 0.5, codec: "raw", width: 1, height: 1 };
  socket.binary(encodeBinary(1, header, Uint8Array.from([1, 2, 3])));
  assert.deepEqual(frames, [{ ...header, payload: Uint8Array.from([1, 2, 3]), received: 1000 }]);
});

test("that a frame is shown is said for commands at once, and else twice a second", () => {
  const [client, socket] = begin();
  const frame = (seq, more = {}) => ({ track: "main_video", seq, received: now, ...more });
  client.frameShown(frame(0));
  now += 100;
  client.frameShown(frame(1));
  client.frameShown(frame(2, { applied: [7] }));
  now += 400;
  client.frameShown(frame(3));
  now += 100;
  client.frameShown(frame(4));
  assert.deepEqual(
    socket.commands,
    [0, 2, 4].map((seq) => ({ type: "reactor.frame_shown", data: { track: "main_video", seq } })),
  );
});

test("a command is measured from its sending to its frame", () => {
  const [client] = begin();
  const id = client.send("paint");
  now += 80;
  client.frameShown({ track: "main_video", seq: 0, applied: [id], received: now - 10 });
  assert.deepEqual([client.latency().count, client.latency().p50], [1, 80]);
});

test("frames go to the server as long as they are not too large", () => {
  const [client, socket] = begin();
  const header = { track: "webcam", seq: 0, pts: 0, codec: "jpeg" };
  assert.equal(client.sendFrame(header, new Uint8Array(100)), true);
  assert.equal(client.sendFrame(header, new Uint8Array(1000)), false);
  const sent = socket.sent.filter((each) => typeof each !== "string");
  assert.equal(sent.length, 1);
  assert.deepEqual(decodeBinary(sent[0].buffer).header, header);
});

// ---- uploads

const PHOTO = new File([Uint8Array.from({ length: 1000 }, (_, index) => index)], "photo.png", { type: "image/png" });

test("a file goes in chunks of the server's size, and its handle stands for it", async () => {
  const [client, socket] = begin();
  const progress = [];
  const upload = client.upload(PHOTO, { onProgress: (sent, total) => progress.push([sent, total]) });
  await until(() => socket.sent.filter((each) => typeof each !== "string").length === 3);
  const [start] = socket.commands;
  assert.equal(start.type, "reactor.upload_start");
  assert.deepEqual({ ...start.data, upload_id: 0 }, { upload_id: 0, name: "photo.png", mime_type: "image/png", size: 1000 });
  assert.match(start.data.upload_id, /^[0-9a-f]{32}$/);
  const chunks = socket.sent.filter((each) => typeof each !== "string").map((each) => decodeBinary(each.buffer));
  assert.deepEqual(chunks.map(({ kind, header }) => [kind, header.upload_id, header.offset]), [
    [2, start.data.upload_id, 0],
    [2, start.data.upload_id, 400],
    [2, start.data.upload_id, 800],
  ]);
  assert.deepEqual(Buffer.concat(chunks.map((each) => each.payload)), Buffer.from(await PHOTO.arrayBuffer()));
  assert.deepEqual(progress, [[400, 1000], [800, 1000], [1000, 1000]]);
  socket.text("reactor.upload_ready", { upload_id: start.data.upload_id });
  socket.text("reactor.upload_complete", start.data, start.id);
  const handle = await upload;
  assert.equal(handle.size, 1000);
  client.send("set_image", { images: [handle] });
  assert.deepEqual(socket.commands.at(-1).data, { images: [{ upload_id: start.data.upload_id }] });
});

test("an empty file has no chunks", async () => {
  const [client, socket] = begin();
  const upload = client.upload(new Blob([]));
  const [start] = socket.commands;
  assert.deepEqual(start.data, {
    upload_id: start.data.upload_id,
    name: "blob",
    mime_type: "application/octet-stream",
    size: 0,
  });
  socket.text("reactor.upload_complete", start.data, start.id);
  assert.equal((await upload).upload_id, start.data.upload_id);
});

test("no more chunks are handed over than the network takes", async () => {
  const [client, socket] = begin();
  socket.bufferedAmount = 2 * 1024 * 1024;
  const upload = client.upload(PHOTO);
  await new Promise((resolve) => setTimeout(resolve, 30));
  assert.equal(socket.sent.filter((each) => typeof each !== "string").length, 0);
  socket.bufferedAmount = 0;
  await until(() => socket.sent.filter((each) => typeof each !== "string").length === 3);
  socket.text("reactor.upload_complete", socket.commands[0].data, socket.commands[0].id);
  await upload;
});

test("an upload that is refused ends, and sends no more", async () => {
  const [client, socket] = begin();
  socket.bufferedAmount = 2 * 1024 * 1024;
  const upload = client.upload(PHOTO);
  socket.text("reactor.error", { code: "upload_too_large", message: "no", upload_id: "u" }, 1);
  await assert.rejects(upload, { code: "upload_too_large", uploadId: "u" });
  socket.bufferedAmount = 0;
  await new Promise((resolve) => setTimeout(resolve, 30));
  assert.equal(socket.sent.filter((each) => typeof each !== "string").length, 0);
});

test("an upload can be given up, which the server is told", async () => {
  const [client, socket] = begin();
  const abort = new AbortController();
  const upload = client.upload(PHOTO, { signal: abort.signal, onProgress: () => abort.abort() });
  await assert.rejects(upload, { name: "AbortError" });
  const [start, given] = socket.commands;
  assert.deepEqual([given.type, given.data], ["reactor.upload_abort", { upload_id: start.data.upload_id }]);
  const errors = [];
  client.on("error", (error) => errors.push(error));
  socket.text("reactor.error", { code: "upload_rejected", message: "the client gave it up" }, start.id);
  socket.text("reactor.ack", {}, given.id);
  assert.deepEqual(errors, []);
});

test("an upload ends with its connection", async () => {
  const [client, socket] = begin();
  const upload = client.upload(PHOTO);
  socket.drop(1006);
  await assert.rejects(upload, code("connection_lost"));
});

// ---- endings and new beginnings

test("a lost connection is made again, and what waited is told", async () => {
  stopTime();
  const [client, socket] = begin();
  const states = [];
  client.on("state", (state) => states.push(state));
  const call = client.call("paint");
  socket.drop(1006);
  await assert.rejects(call, code("connection_lost"));
  assert.equal(client.state, "reconnecting");
  assert.equal(client.error.code, "connection_lost");
  assert.equal(client.retryAt, Date.now() + 750);
  await pass(749);
  assert.equal(FakeSocket.made.length, 1);
  await pass(1);
  assert.equal(FakeSocket.made.length, 2);
  FakeSocket.last().welcome({ session_id: "session-2" });
  assert.equal(client.welcome.session_id, "session-2");
  assert.deepEqual([client.error, client.retryAt], [null, null]);
  assert.deepEqual(states, ["reconnecting", "open"]);
  assert.deepEqual(FakeSocket.last().commands, [], "nothing is sent again");
  assert.equal(client.send("paint"), 2, "ids are not used twice");
});

test("what an earlier socket still says is not heard", async () => {
  stopTime();
  const [client, socket] = begin();
  socket.drop(1006);
  await pass(1000);
  FakeSocket.last().welcome();
  const told = [];
  client.on("*", (message) => told.push(message));
  socket.text("progress");
  socket.drop(1011);
  assert.deepEqual([told, client.state], [[], "open"]);
});

test("the delay grows until a connection was good", async () => {
  stopTime();
  const [client] = start();
  const delays = [];
  const drop = () => {
    FakeSocket.last().drop(1006);
    return settle().then(() => delays.push(client.retryAt - Date.now()));
  };
  await drop();
  for (const wait of [750, 1250]) {
    await pass(wait);
    await drop();
  }
  assert.equal(client.state, "connecting", "there was no session yet");
  await pass(2250);
  FakeSocket.last().welcome();
  await pass(9000);
  await drop();
  await pass(4250);
  FakeSocket.last().welcome();
  await pass(10_001);
  await drop();
  assert.deepEqual(delays, [750, 1250, 2250, 4250, 750]);
});

for (const [reason, close, state] of [
  ["finished", 1000, "closed"],
  ["too_many_errors", 1008, "closed"],
  ["shutting_down", 1001, "reconnecting"],
]) {
  test(`after the goodbye "${reason}" it is ${state}`, () => {
    stopTime();
    const [client, socket] = begin();
    const told = [];
    client.on("goodbye", (why) => told.push(why));
    socket.text("reactor.goodbye", { reason });
    socket.drop(close, reason);
    assert.deepEqual([client.state, client.goodbye, told], [state, reason, [reason]]);
  });
}

test("a model that fails five times in a row is left alone", async () => {
  stopTime();
  const [client] = start();
  const errors = [];
  client.on("error", (error) => errors.push(error.code));
  for (let session = 1; session <= 5; session += 1) {
    assert.notEqual(client.state, "closed");
    FakeSocket.last().welcome();
    FakeSocket.last().text("reactor.error", { code: "model_error", message: "the model failed" });
    FakeSocket.last().drop(1011, "model_error");
    assert.equal(client.error.reason, "model_error");
    await pass(15_000);
  }
  assert.equal(client.state, "closed");
  assert.deepEqual(errors, Array(5).fill("model_error"));
});

test("with `reconnect: false` it connects once", async () => {
  const [client, socket] = start({ reconnect: false });
  socket.drop(1006);
  await assert.rejects(client.ready, code("connection_lost"));
  assert.equal(client.state, "closed");
});

test("a token that is not accepted is asked for in another way, and ends it", async () => {
  stopTime();
  const asked = [];
  mock.method(globalThis, "fetch", async (url, { headers }) => {
    asked.push([String(url), headers.Authorization]);
    return new Response(null, { status: 401 });
  });
  globalThis.location = new URL("http://127.0.0.1/");
  try {
    const [client, socket] = start({ token: "wrong" });
    const errors = [];
    client.on("error", (error) => errors.push(error.code));
    socket.drop(1006);
    await settle();
    assert.deepEqual(asked, [["http://127.0.0.1/schema", "Bearer wrong"]]);
    assert.deepEqual([client.state, client.error.code, errors], ["closed", "unauthorised", ["unauthorised"]]);
  } finally {
    delete globalThis.location;
  }
});

test("a server that says when to come again is not asked before", async () => {
  stopTime();
  mock.method(globalThis, "fetch", async () => new Response(null, { status: 503, headers: { "Retry-After": "5" } }));
  globalThis.location = new URL("http://127.0.0.1/");
  try {
    const [client, socket] = start();
    socket.drop(1006);
    await settle();
    assert.equal(client.retryAt - Date.now(), 5750);
  } finally {
    delete globalThis.location;
  }
});

test("the round trip is measured by pings", async () => {
  stopTime();
  const [client, socket] = begin();
  const pings = () => socket.sent.filter((each) => String(each).includes("reactor.ping")).map((each) => JSON.parse(each));
  assert.deepEqual(pings(), [{ type: "reactor.ping", data: { t: 1000 } }]);
  now += 30;
  socket.text("reactor.pong", { t: 1000, server_time: 1 });
  assert.equal(client.stats().rtt, 30);
  await pass(5000);
  assert.equal(pings().length, 2);
});

test("a server that is silent is left, without waiting for its close", async () => {
  stopTime();
  const [client, socket] = begin();
  now += 1;
  for (let seconds = 0; seconds < 20; seconds += 5) await pass(5000);
  assert.equal(client.state, "open");
  await pass(5000);
  await pass(5000);
  assert.equal(client.state, "reconnecting");
  assert.notEqual(socket.closed, null);
});

test("a server that says anything is not silent", async () => {
  stopTime();
  const [client, socket] = begin();
  for (let seconds = 0; seconds < 100; seconds += 5) {
    await pass(5000);
    socket.text("progress");
  }
  assert.equal(client.state, "open");
});

test("a server to which an upload still gets through is not silent", async () => {
  stopTime();
  const [client, socket] = begin();
  socket.bufferedAmount = 1_000_000;
  for (let seconds = 0; seconds < 100; seconds += 5) {
    await pass(5000);
    socket.bufferedAmount -= 1000;
  }
  assert.equal(client.state, "open");
  for (let seconds = 0; seconds < 40; seconds += 5) await pass(5000);
  assert.equal(client.state, "reconnecting");
});

test("what the browser refuses to connect to is said, and not tried again", async () => {
  class Refusing {
    constructor() {
      throw new Error("An insecure WebSocket connection may not be initiated from a page loaded over HTTPS.");
    }
  }
  const [client] = start({ WebSocket: Refusing });
  assert.equal(client.state, "closed");
  await assert.rejects(client.ready, { code: "unsupported", message: /^ws:\/\/127.0.0.1\/ws: Error: An insecure/ });
});

test("a handshake that takes too long is given up", async () => {
  stopTime();
  const [client, socket] = start();
  await pass(20_000);
  assert.notEqual(socket.closed, null);
  assert.notEqual(client.retryAt, null);
});

test("to close ends it all", async () => {
  stopTime();
  const [client, socket] = begin();
  const call = client.call("paint");
  client.close();
  client.close();
  assert.equal(socket.closed, 1000);
  assert.equal(client.state, "closed");
  await assert.rejects(call, code("connection_lost"));
  socket.drop(1006);
  await pass(60_000);
  assert.equal(FakeSocket.made.length, 1);
  assert.equal(client.send("paint"), null);
});

test("to close before the welcome rejects `ready`", async () => {
  const [client] = start();
  client.close();
  await assert.rejects(client.ready, code("connection_lost"));
});

test("how a track is sent is said when it changes, and again in the next session", async () => {
  stopTime();
  const [client, socket] = begin();
  const told = (from) => from.commands.map(({ type, data }) => (type === "reactor.configure_track" ? data : type));
  client.settings.enter("main_video");
  client.settings.want("main_video", { codec: undefined, max_fps: null, paused: false });
  assert.deepEqual(told(socket), []);
  client.settings.want("main_video", { codec: "raw", max_fps: 5 });
  client.settings.want("main_video", { codec: "raw", max_fps: 5 });
  client.settings.want("main_video", { max_fps: 5, paused: true });
  client.settings.want("nothing", { paused: true });
  assert.deepEqual(told(socket), [
    { track: "main_video", codec: "raw", max_fps: 5 },
    { track: "main_video", codec: null, paused: true },
  ]);
  socket.drop(1006);
  await pass(1000);
  FakeSocket.last().welcome();
  assert.deepEqual(told(FakeSocket.last()), [{ track: "main_video", max_fps: 5, paused: true }]);
});

test("a track is paused when the last of those who take it has gone", () => {
  const [client, socket] = begin();
  client.settings.enter("main_video");
  client.settings.enter("main_video");
  client.settings.leave("main_video");
  assert.deepEqual(socket.commands, []);
  client.settings.leave("main_video");
  assert.deepEqual(socket.commands[0].data, { track: "main_video", paused: true });
});

test("a setting that the server refuses is an error that the client tells", async () => {
  const [client, socket] = begin();
  const errors = [];
  client.on("error", (error) => errors.push(error.code));
  client.settings.want("main_video", { codec: "gif" });
  socket.text("reactor.error", { code: "invalid_payload", message: "codec: no" }, 1);
  await settle();
  assert.deepEqual(errors, ["invalid_payload"]);
});
