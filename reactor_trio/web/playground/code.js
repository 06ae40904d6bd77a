/** Snippets of code that use this server as the page does. */

import { byId, h, icon, setText } from "./dom.js";

/** @typedef {import("../reactor/protocol.js").Welcome} Welcome */

export class CodeDialog {
  constructor() {
    this.#dialog = byId("code", HTMLDialogElement);
    byId("code-open").addEventListener("click", () => this.#dialog.showModal());
    byId("code-close").addEventListener("click", () => this.#dialog.close());
    this.#dialog.addEventListener("click", (event) => event.target === this.#dialog && this.#dialog.close());
    this.show(null, false);
  }

  #dialog;

  /**
   * @param {Welcome | null} welcome
   * @param {boolean} needsToken
   */
  show(welcome, needsToken) {
    const { event, data } = exampleCall(welcome);
    const track = welcome?.tracks.find((each) => each.kind === "video" && each.direction === "out")?.name;
    byId("code-snippets").replaceChildren(
      snippet("Python", python(event, data, needsToken, track !== undefined)),
      snippet("JavaScript", javascript(event, data, needsToken, track)),
      snippet("Terminal", terminal(event, data, needsToken)),
    );
  }
}

/** The URL of this page, which may be below a path of its host; without the last slash. */
function page() {
  return new URL(".", document.baseURI).href.replace(/\/$/, "");
}

/**
 * The first command that can be called with its defaults, or a short text.
 * @param {Welcome | null} welcome
 */
function exampleCall(welcome) {
  const event = (welcome?.events ?? []).find(({ schema }) => {
    const required = schema.required ?? [];
    return required.every((/** @type {string} */ name) => schema.properties[name].type === "string" && !schema.properties[name].enum && !schema.properties[name].format);
  });
  if (!event) return { event: null, data: {} };
  const names = /** @type {string[]} */ (event.schema.required ?? []);
  return { event: event.name, data: Object.fromEntries(names.map((name) => [name, "rain on a tin roof"])) };
}

/**
 * @param {string | null} event
 * @param {Record<string, string>} data
 * @param {boolean} needsToken
 * @param {boolean} hasVideo
 */
function python(event, data, needsToken, hasVideo) {
  const call = event && `    print(client.call(${[JSON.stringify(event), ...Object.entries(data).map(([name, value]) => `${name}=${JSON.stringify(value)}`)].join(", ")}))`;
  return [
    "from reactor_trio.client import connect",
    "",
    `with connect("${page()}"${needsToken ? ', token="..."' : ""}) as client:`,
    call || "    print(client.welcome)",
    hasVideo && "    print(client.frame().array().shape)",
  ].filter((line) => line !== false).join("\n");
}

/**
 * @param {string | null} event
 * @param {Record<string, string>} data
 * @param {boolean} needsToken
 * @param {string | undefined} track
 */
function javascript(event, data, needsToken, track) {
  const socket = `${page().replace(/^http/, "ws")}/ws`;
  return [
    `import { connect } from "${page()}/reactor.js";`,
    "",
    `const client = connect("${socket}"${needsToken ? ', { token: "..." }' : ""});`,
    track && `client.video("${track}", document.querySelector("canvas"));`,
    "await client.ready;",
    event && `console.log(await client.call("${event}", ${JSON.stringify(data)}));`,
  ].filter((line) => line !== undefined && line !== null).join("\n");
}

/**
 * @param {string | null} event
 * @param {Record<string, string>} data
 * @param {boolean} needsToken
 */
function terminal(event, data, needsToken) {
  const fields = Object.entries(data).map(([name, value]) => ` ${name}="${value}"`).join("");
  return `python -m reactor_trio call ${page()} ${event ?? "EVENT"}${fields}${needsToken ? " --token ..." : ""}`;
}

/**
 * @param {string} title
 * @param {string} text
 */
function snippet(title, text) {
  const label = h("span", { text: "Copy" });
  const code = h("pre", { class: "code-text", tabindex: 0, "aria-label": `${title} code` }, h("code", { text }));
  const copy = h("button", {
    type: "button", class: "button is-quiet", "aria-label": `Copy the ${title} code`,
    onclick: async () => {
      try {
        await navigator.clipboard.writeText(text);
        setText(label, "Copied");
      } catch {
        getSelection()?.selectAllChildren(code); // no clipboard without https: it is selected instead
        setText(label, "Selected");
      }
      setTimeout(() => setText(label, "Copy"), 2000);
    },
  }, icon("copy"), label);
  return h("section", { class: "snippet" }, h("div", { class: "snippet-head" }, h("h3", { text: title }), copy), code);
}
