import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { boundsOf, exampleOf, fieldsOf, shapeOf, uploadRules } from "../../reactor_trio/web/playground/schema.js";
import { ago, brief, bytes, errorTitle, goodbye, milliseconds, pretty } from "../../reactor_trio/web/playground/words.js";

/** The one field of an event, with this schema. */
const field = (schema, { required = [], $defs = {} } = {}) =>
  fieldsOf({ type: "object", properties: { it: schema }, required, $defs })[0];

const BOX = {
  title: "Box",
  type: "object",
  properties: {
    x: { type: "integer", minimum: 0, maximum: 100 },
    width: { type: "number", exclusiveMinimum: 0 },
    label: { anyOf: [{ type: "string" }, { type: "null" }], default: null },
  },
  required: ["x", "width"],
  additionalProperties: false,
};

for (const [what, schema, kind] of [
  ["a number with both bounds", { type: "number", minimum: 0, maximum: 1 }, "range"],
  ["an integer with exclusive bounds", { type: "integer", exclusiveMinimum: 0, exclusiveMaximum: 9 }, "range"],
  ["a number with one bound", { type: "number", minimum: 0 }, "number"],
  ["a number without room between its bounds", { type: "number", minimum: 1, maximum: 1 }, "number"],
  ["a short text", { type: "string", maxLength: 40 }, "text"],
  ["a long text", { type: "string", maxLength: 500 }, "multiline"],
  ["a choice of words", { type: "string", enum: ["a", "b"] }, "choice"],
  ["a choice of several types", { enum: ["a", 1, true] }, "choice"],
  ["a boolean", { type: "boolean" }, "switch"],
  ["a list", { type: "array", items: { type: "integer" } }, "json"],
  ["a tuple", { type: "array", items: false, prefixItems: [{ type: "integer" }] }, "json"],
  ["a dict", { type: "object", additionalProperties: { type: "integer" } }, "json"],
  ["anything", {}, "json"],
  ["a union of more than null", { anyOf: [{ type: "integer" }, { type: "string" }] }, "json"],
  ["a file", { type: "object", "x-reactor-upload": {} }, "upload"],
  ["several files", { type: "array", items: { type: "object", "x-reactor-upload": {} } }, "upload"],
]) {
  test(`${what} gets the control "${kind}"`, () => assert.equal(field(schema).kind, kind));
}

test("null beside a type is a property of its field, and bounds beside the union count", () => {
  const spec = field({ anyOf: [{ type: "number" }, { type: "null" }], minimum: 0, maximum: 2, default: null });
  assert.equal(spec.kind, "range");
  assert.equal(spec.nullable, true);
  assert.equal(spec.hasDefault, true);
  assert.equal(spec.initial, null);
});

test("null among the values of a choice is no value of it", () => {
  const spec = field({ anyOf: [{ type: "integer" }, { type: "null" }], enum: [1, 2, null] });
  assert.deepEqual(spec.schema.enum, [1, 2]);
  assert.equal(spec.nullable, true);
  assert.equal(spec.hasDefault, false);
});

test("a reference is followed, and what stands beside it wins", () => {
  const spec = field({ $ref: "#/$defs/Box", description: "where" }, { required: ["it"], $defs: { Box: BOX } });
  assert.equal(spec.kind, "json");
  assert.equal(spec.required, true);
  assert.equal(spec.description, "where");
  assert.equal(spec.hint, "{ x: integer 0–100, width: number, label?: string | null }");
});

test("a class that contains itself is described, but not without end", () => {
  const $defs = { Tree: { type: "object", properties: { child: { $ref: "#/$defs/Tree" } }, required: ["child"] } };
  assert.match(shapeOf({ $ref: "#/$defs/Tree" }, $defs), /^\{ child: .*….*\}$/);
  assert.ok(JSON.stringify(exampleOf({ $ref: "#/$defs/Tree" }, $defs)).length < 100);
});

test("an example has the required fields, at their lowest", () => {
  assert.deepEqual(exampleOf({ type: "array", items: { $ref: "#/$defs/Box" } }, { Box: BOX }), [{ x: 0, width: 1 }]);
});

for (const [schema, bounds] of [
  [{ type: "integer", minimum: 1, maximum: 24 }, { min: 1, max: 24, step: 1 }],
  [{ type: "integer", exclusiveMinimum: 0, exclusiveMaximum: 10 }, { min: 1, max: 9, step: 1 }],
  [{ type: "number", minimum: 0, maximum: 1 }, { min: 0, max: 1, step: 0.005 }],
  [{ type: "number", minimum: 0, maximum: 4 }, { min: 0, max: 4, step: 0.02 }],
  [{ type: "number", exclusiveMinimum: 0, maximum: 1 }, { min: 0.005, max: 1, step: 0.005 }],
  [{ type: "number", minimum: 0 }, null],
  [{ type: "integer", exclusiveMinimum: 0, exclusiveMaximum: 2 }, null],
  [{ type: "integer", exclusiveMinimum: 0, exclusiveMaximum: 1 }, null],
  [{ type: "integer", minimum: 0, maximum: 2 ** 63 }, null],
  [{ type: "integer", minimum: 0, maximum: 2 ** 32 - 1 }, { min: 0, max: 2 ** 32 - 1, step: 1 }],
]) {
  test(`a slider of ${JSON.stringify(schema)}`, () => assert.deepEqual(boundsOf(schema), bounds));
}

test("a step always divides its range, so that the end can be reached", () => {
  for (const max of [0.7, 1.25, 3, Math.PI, 10, 720, 1e6]) {
    const { step } = boundsOf({ type: "number", minimum: 0, maximum: max });
    assert.ok(Math.abs(max / step - Math.round(max / step)) < 1e-6, `${max} by ${step}`);
  }
});

test("the rules for files are those of the field, or of its items", () => {
  const rule = { "x-reactor-upload": { max_size: 10, mime_types: ["image/*"] } };
  assert.deepEqual(uploadRules(rule), { several: false, maxSize: 10, mimeTypes: ["image/*"] });
  assert.deepEqual(uploadRules({ type: "array", items: rule }), { several: true, maxSize: 10, mimeTypes: ["image/*"] });
  assert.deepEqual(uploadRules({ "x-reactor-upload": {} }), { several: false, maxSize: null, mimeTypes: [] });
});

test("names, sizes and times are written for people", () => {
  assert.equal(pretty("set_prompt"), "Set prompt");
  assert.deepEqual([0, 999, 1024, 16 * 2 ** 20].map(bytes), ["0 B", "999 B", "1.0 KiB", "16 MiB"]);
  assert.deepEqual([0.04, 9.96, 84.4, 12_345, null].map(milliseconds), ["0.0 ms", "10.0 ms", "84 ms", "12.3 s", "–"]);
  assert.deepEqual([0.2, 12, 200, 7300].map(ago), ["now", "12 s", "3 min", "2 h"]);
  assert.equal(brief({ a: "x".repeat(50) }, 12), '{"a":"xxxxxx…');
});

test("reasons and codes that nobody has foreseen are said as they are", () => {
  assert.equal(goodbye("finished"), "The model has finished.");
  assert.match(goodbye("tea_time"), /tea time/);
  assert.equal(errorTitle("overloaded"), "Too much at once");
  assert.equal(errorTitle("not_free"), "Not free");
  assert.equal(errorTitle("constructor"), "Constructor");
});

const WEB = new URL("../../reactor_trio/web/", import.meta.url);

/** The module's file, and those that it needs, from there on. */
function needed(url, found = new Set()) {
  if (found.has(url.href)) return found;
  found.add(url.href);
  const imports = readFileSync(url, "utf8").matchAll(/^import [^;]*?from "(\.[^"]+)";/gms);
  for (const [, path] of imports) needed(new URL(path, url), found);
  return found;
}

test("every module of the page is asked for at once, and none that it does not need", () => {
  const page = readFileSync(new URL("index.html", WEB), "utf8");
  const preloaded = [...page.matchAll(/<link rel="modulepreload" href="([^"]+)">/g)].map(([, path]) => new URL(path, WEB).href);
  const wanted = [...needed(new URL("playground.js", WEB))].filter((href) => !href.endsWith("/playground.js"));
  assert.deepEqual([...preloaded].sort(), wanted.sort());
});
