import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { codecString } from "../../reactor_trio/web/reactor/h264.js";
import { Latency, quantile } from "../../reactor_trio/web/reactor/latency.js";
import { Blocks, toFloats } from "../../reactor_trio/web/reactor/pcm.js";
import { Rate } from "../../reactor_trio/web/reactor/rate.js";
import { backOff, shouldReconnect } from "../../reactor_trio/web/reactor/retry.js";
import { withAlpha } from "../../reactor_trio/web/reactor/video.js";

const GOLDEN = JSON.parse(readFileSync(new URL("golden.json", import.meta.url), "utf8"));

// ---- when to connect again

test("the delay grows, is bounded, and is never the same for all", () => {
  assert.equal(backOff(0, { random: 0 }), 500);
  assert.equal(backOff(0, { random: 1 }), 1000);
  assert.equal(backOff(3, { random: 1 }), 8000);
  assert.equal(backOff(4, { random: 1 }), 15_000);
  assert.equal(backOff(5000, { random: 0.5 }), 7750);
  assert.equal(backOff(0, { min: 10, max: 15, random: 1 }), 15);
});

for (const [code, goodbye, modelErrors, expected] of [
  [1001, "shutting_down", 0, true],
  [1000, "finished", 0, false],
  [1008, "too_many_errors", 0, false],
  [1006, "finished", 0, false],
  [1000, null, 0, false],
  [1001, null, 0, true],
  [1005, null, 0, true],
  [1006, null, 0, true],
  [1012, null, 0, true],
  [1013, null, 0, true],
  [1002, null, 0, false],
  [1008, null, 0, false],
  [1011, null, 1, true],
  [1011, null, 4, true],
  [1011, null, 5, false],
]) {
  test(`after ${code}, goodbye ${goodbye}, ${modelErrors} model errors: ${expected ? "again" : "the end"}`, () => {
    assert.equal(shouldReconnect(code, goodbye, modelErrors), expected);
  });
}

// ---- H.264

test("the codec string is that of the SPS", () => {
  const { key, codec, delta } = GOLDEN.h264;
  assert.equal(codecString(Uint8Array.from(Buffer.from(key, "hex"))), codec);
  assert.equal(codecString(Uint8Array.from(Buffer.from(delta, "hex"))), null);
});

for (const [name, bytes, expected] of [
  ["a start code of three bytes", [0, 0, 1, 0x67, 0x42, 0xe0, 0x1f, 0x8c], "avc1.42e01f"],
  ["an access unit delimiter first", [0, 0, 0, 1, 9, 0xf0, 0, 0, 0, 1, 0x27, 0x64, 0, 0x0a], "avc1.64000a"],
  ["an SPS that is cut off", [0, 0, 1, 0x67, 0x42], null],
  ["nothing", [], null],
]) {
  test(`of ${name} it is ${expected}`, () => assert.equal(codecString(Uint8Array.from(bytes)), expected));
}

// ---- samples and pixels

test("interleaved samples are taken apart", () => {
  // At an odd address, as behind a header.
  const data = Uint8Array.from([99, 0, 0, 0, 0x40, 0xff, 0xff, 0, 0x80]).subarray(1);
  const [left, right] = toFloats(data, 2);
  assert.deepEqual([...left], [0, -1 / 32768]);
  assert.deepEqual([...right], [0.5, -1]);
});

test("samples come in blocks of one size, however they were delivered, and are clipped", () => {
  const blocks = [];
  const maker = new Blocks(3, (block) => blocks.push(new Int16Array(block.buffer)));
  maker.push(Float32Array.from([0.5, -1, 2, -2]));
  maker.push(Float32Array.from([]));
  maker.push(Float32Array.from([1, 0, 0.25]));
  assert.deepEqual(blocks.map((block) => [...block]), [[16384, -32768, 32767], [-32768, 32767, 0]]);
});

test("what was taken apart is put together again", () => {
  const samples = Int16Array.from([0, 1, -1, 12345, -32768, 32767]);
  let found;
  const [floats] = toFloats(new Uint8Array(samples.buffer), 1);
  new Blocks(samples.length, (block) => (found = new Int16Array(block.buffer))).push(floats);
  assert.deepEqual(found, samples);
});

test("RGB becomes opaque RGBA", () => {
  assert.deepEqual([...withAlpha(Uint8Array.from([1, 2, 3, 4, 5, 6]))], [1, 2, 3, 255, 4, 5, 6, 255]);
});

// ---- what is measured

test("a rate is of the last second", () => {
  const rate = new Rate();
  for (const time of [0, 100, 900, 1000]) rate.count(time);
  assert.equal(rate.perSecond(1000), 3);
  assert.equal(rate.perSecond(1899), 2);
  assert.equal(rate.perSecond(5000), 0);
});

test("quantiles are nearest ranks", () => {
  assert.equal(quantile([], 0.5), null);
  assert.equal(quantile([7], 0.95), 7);
  const hundred = Array.from({ length: 100 }, (_, index) => 100 - index);
  assert.equal(quantile(hundred, 0.5), 50);
  assert.equal(quantile(hundred, 0.95), 95);
});

const TIMING = { wait: 0.001, handle: 0.002, emit: 0.003, pace: 0.004, encode: 0.005 };

test("the stages add up to the total", () => {
  const latency = new Latency();
  latency.sent(1, 1000);
  latency.drawn({ applied: [1], timing: TIMING, received: 1040 }, 1050);
  const { count, p50, last, median } = latency.stats();
  assert.deepEqual([count, p50], [1, 50]);
  assert.deepEqual(last, { total: 50, wait: 1, handle: 2, emit: 3, pace: 4, encode: 5, network: 25, display: 10 });
  assert.deepEqual(median, last);
});

test("of several commands each counts, and the times are the newest one's", () => {
  const latency = new Latency();
  latency.sent(1, 0);
  latency.sent("b", 10);
  latency.drawn({ applied: [1, "b"], timing: TIMING, received: 30 }, 40);
  const { count, p50, p95, last } = latency.stats();
  assert.deepEqual([count, p50, p95, last.total], [2, 30, 40, 30]);
});

test("a command counts once, and one that is not ours or of an earlier session never", () => {
  const latency = new Latency();
  latency.sent(1, 0);
  latency.drawn({ applied: [1, 99], timing: TIMING, received: 5 }, 6);
  latency.drawn({ applied: [1], timing: TIMING, received: 7 }, 8);
  latency.sent(2, 9);
  latency.forget();
  latency.drawn({ applied: [2], received: 10 }, 11);
  assert.equal(latency.stats().count, 1);
  assert.equal(latency.stats().last, null);
});

test("commands whose frame never comes are forgotten, the oldest first", () => {
  const latency = new Latency();
  for (let id = 0; id < 1000; id += 1) latency.sent(id, id);
  latency.drawn({ applied: Array.from({ length: 1000 }, (_, id) => id), received: 1000 }, 1000);
  assert.equal(latency.stats().count, 256);
});
