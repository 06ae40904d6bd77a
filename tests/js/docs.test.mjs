/** The code in docs/browser.md fits the client's types, and its tables name what there is. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { test } from "node:test";

import { Client, VideoSink } from "../../reactor_trio/web/reactor.js";

const ROOT = new URL("../../", import.meta.url);
const DOCUMENT = readFileSync(new URL("docs/browser.md", ROOT), "utf8");

/** The first cells of the table whose heading this is. */
function rows(heading, after = "") {
  const lines = DOCUMENT.slice(DOCUMENT.indexOf(after)).split("\n");
  const start = lines.findIndex((line) => line.startsWith(`| ${heading} |`));
  assert.notEqual(start, -1, heading);
  const found = [];
  for (const line of lines.slice(start + 2)) {
    if (!line.startsWith("|")) break;
    found.push(line.split("|")[1].trim().replaceAll("`", ""));
  }
  return found;
}

const typed = (file, pattern) =>
  [...readFileSync(new URL(`reactor_trio/web/reactor/${file}`, ROOT), "utf8").matchAll(pattern)].map((found) => found[1]);

test("the code is right by its types", { skip: !process.env.TYPESCRIPT && "nox -s web says where TypeScript is" }, () => {
  const ts = createRequire(import.meta.url)(process.env.TYPESCRIPT);
  const codes = [...DOCUMENT.matchAll(/^```js\n(.*?)^```/gms)].map((found) => found[1]);
  assert.ok(codes.length > 5);
  const web = fileURLToPath(new URL("reactor_trio/web/", ROOT));
  const files = new Map(codes.map((code, index) => [`${web}docs-${index}.js`, code]));
  const { options, fileNames } = ts.parseJsonConfigFileContent(
    ts.readConfigFile(`${web}jsconfig.json`, ts.sys.readFile).config,
    ts.sys,
    web,
  );
  // Not strict: a page knows that its canvas is there.
  Object.assign(options, { strict: false, noUnusedLocals: false });
  const host = ts.createCompilerHost(options);
  const read = host.readFile;
  const exists = host.fileExists;
  host.readFile = (name) => files.get(name) ?? read(name);
  host.fileExists = (name) => files.has(name) || exists(name);
  const libraries = fileNames.filter((name) => name.endsWith(".d.ts"));
  const program = ts.createProgram([...files.keys(), ...libraries], options, host);
  const faults = [...files.keys()].flatMap((name) => [
    ...program.getSyntacticDiagnostics(program.getSourceFile(name)),
    ...program.getSemanticDiagnostics(program.getSourceFile(name)),
  ]);
  assert.deepEqual(
    faults.map(({ file, messageText }) => `${file.fileName}: ${ts.flattenDiagnosticMessageText(messageText, "\n")}`),
    [],
  );
});

test("the table of states has them all", () => {
  const [line] = typed("connection.js", /@typedef \{(.*)\} ConnectionState/g);
  assert.deepEqual(rows("state"), [...line.matchAll(/"(\w+)"/g)].map((found) => found[1]));
});

test("the tables of options have them all", () => {
  assert.deepEqual(rows("option").sort(), ["WebSocket", "onState", "reconnect", "token"]);
  const documented = rows("option", "## Video");
  const known = typed("video.js", /^ \* @property \{.*\} \[(\w+)\]/gm);
  assert.deepEqual(documented, known);
});

test("the table of error codes has those of the client", () => {
  assert.deepEqual(rows("code"), typed("errors.js", /^ \* - `(\w+)`/gm));
});

test("the table of stages has them all", () => {
  const [line] = typed("latency.js", /const STAGES = .*\(\[(.*)\]\)/g);
  assert.deepEqual(rows("stage"), [...line.matchAll(/"(\w+)"/g)].map((found) => found[1]));
});

test("what the text names is there", () => {
  const names = [...DOCUMENT.matchAll(/`?client\.(\w+)\(/g)].map((found) => found[1]);
  for (const name of names) assert.equal(typeof Client.prototype[name], "function", name);
  for (const name of ["configure", "stop", "stats"]) assert.equal(typeof VideoSink.prototype[name], "function");
});
