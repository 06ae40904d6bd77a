import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import {
  decodeBinary,
  encodeBinary,
  encodeText,
  subprotocols,
  webSocketUrl,
} from "../../reactor_trio/web/reactor/protocol.js";

/** Written by the Python encoder; tests/test_web.py compares. */
const GOLDEN = JSON.parse(readFileSync(new URL("golden.json", import.meta.url), "utf8"));

const bytesOf = (hex) => Uint8Array.from(Buffer.from(hex, "hex"));

for (const { name, message, kind, header, payload } of GOLDEN.messages) {
  test(`${name} is read as Python wrote it`, () => {
    const found = decodeBinary(bytesOf(message).buffer);
    assert.equal(found.kind, kind);
    assert.deepEqual(found.header, header);
    assert.deepEqual(found.payload, bytesOf(payload));
  });

  test(`${name} is written as Python writes it`, () => {
    const found = encodeBinary(kind, header, bytesOf(payload));
    assert.equal(Buffer.from(found).toString("hex"), message);
  });
}

test("a payload is no copy", () => {
  const data = bytesOf(GOLDEN.messages[0].message).buffer;
  assert.equal(decodeBinary(data).payload.buffer, data);
});

for (const hex of ["", "01", "0100", "01000a7b7d", "0100017b", "01000131", "0100046e756c6c"]) {
  test(`the bytes "${hex}" are no message`, () => {
    assert.throws(() => decodeBinary(bytesOf(hex).buffer), SyntaxError);
  });
}

test("a header has its bound", () => {
  assert.throws(() => encodeBinary(1, { text: "x".repeat(70_000) }, new Uint8Array()), RangeError);
});

test("a token stands in base64url without padding, as the second subprotocol", () => {
  assert.deepEqual(subprotocols(undefined), ["reactor.v1"]);
  assert.deepEqual(subprotocols(GOLDEN.token.text), ["reactor.v1", GOLDEN.token.subprotocol]);
});

test("a number that JSON does not have is refused, not written as null", () => {
  assert.equal(encodeText("paint", { x: [1.5] }, 3), '{"type":"paint","data":{"x":[1.5]},"id":3}');
  assert.equal(encodeText("paint", {}), '{"type":"paint","data":{}}');
  assert.throws(() => encodeText("paint", { x: [NaN] }, 3), { name: "TypeError", message: "0 is NaN" });
  assert.throws(() => encodeText("paint", { zoom: Infinity }), /zoom is Infinity/);
});

for (const [url, base, expected] of [
  [undefined, "http://127.0.0.1:8080/?a=b#token=x", "ws://127.0.0.1:8080/ws"],
  [undefined, "https://example.org/app/", "wss://example.org/app/ws"],
  [undefined, "https://example.org/app/page.html?x#y", "wss://example.org/app/ws"],
  [undefined, "https://example.org/app", "wss://example.org/ws"],
  ["https://example.org/app", undefined, "wss://example.org/app/ws"],
  ["https://example.org/app/?x=1", undefined, "wss://example.org/app/ws?x=1"],
  ["https://example.org/app/ws", undefined, "wss://example.org/app/ws"],
  ["HTTPS://example.org/laws", undefined, "wss://example.org/laws/ws"],
  ["wss://example.org/app/", undefined, "wss://example.org/app/ws"],
  ["wss://example.org/paint", undefined, "wss://example.org/paint"],
  ["/paint", "http://127.0.0.1/app/", "ws://127.0.0.1/paint"],
  ["/app1/", "http://127.0.0.1/", "ws://127.0.0.1/app1/ws"],
  ["http://127.0.0.1:8080", undefined, "ws://127.0.0.1:8080/ws"],
  ["wss://example.org/models/1/ws?x=1#y", undefined, "wss://example.org/models/1/ws?x=1"],
  ["/other/ws", "http://127.0.0.1/", "ws://127.0.0.1/other/ws"],
]) {
  test(`${url} on ${base} is ${expected}`, () => assert.equal(String(webSocketUrl(url, base)), expected));
}

test("another scheme is no WebSocket", () => {
  assert.throws(() => webSocketUrl("file:///etc/passwd"), SyntaxError);
  assert.throws(() => webSocketUrl(undefined), TypeError);
});
