/** The playground: one page for any model, made from the server's welcome. */

import { byId, h, icon, relabel, setText } from "./playground/dom.js";
import { CodeDialog } from "./playground/code.js";
import { CommandCard } from "./playground/card.js";
import { InputTrack } from "./playground/inputs.js";
import { Log } from "./playground/log.js";
import { Notice } from "./playground/notice.js";
import { Session } from "./playground/session.js";
import { Stage } from "./playground/stage.js";
import { Status } from "./playground/status.js";
import { acceptDropsAnywhere } from "./playground/upload.js";
import { goodbye } from "./playground/words.js";
import { connect } from "./reactor.js";

/** @typedef {import("./reactor.js").Client} Client */
/** @typedef {import("./reactor/protocol.js").Welcome} Welcome */

/** The time between two updates of the numbers; milliseconds. */
const TICK = 500;
const TOKEN_KEY = "reactor-token";

const log = new Log(byId("log"));
const status = new Status(byId("status"));
const code = new CodeDialog();
const notice = new Notice(byId("notice"), { retry: () => open(), enter: (entered) => enter(entered), hasToken: () => token !== "" });

let token = rememberedToken();
let session = /** @type {Session | null} */ (null);
let stage = /** @type {Stage | null} */ (null);
let cards = /** @type {CommandCard[]} */ ([]);
let inputs = /** @type {InputTrack[]} */ ([]);
/** The events, as JSON, from which the controls were made. */
let contract = "";
/** Whether the tracks on the page belong to an earlier client. */
let isStale = true;

/** Begin anew, with another client; the controls stay. */
function open() {
  session?.client.close();
  const client = connect(undefined, token ? { token } : {});
  if (session) session.client = client;
  else session = new Session(client, log, announce);
  const present = session;
  isStale = true;
  /** @param {(value: any) => void} handler is not called for an abandoned client */
  const heard = (handler) => (/** @type {any} */ value) => present.client === client && handler(value);
  client.on("welcome", heard((welcome) => welcomed(present, welcome)));
  client.on("state", heard(() => changed(present)));
  client.on("queued", heard((place) => {
    notice.queued(place);
    present.note(`waiting in line, place ${place}`);
  }));
  client.on("goodbye", heard((reason) => present.note(goodbye(reason))));
  client.on("*", heard(({ type, data }) => log.add({ way: "in", kind: "message", type, data })));
  client.on("error", heard(({ code: name, message, event, errors }) => {
    if (name === "unauthorised") {
      present.note(token ? "the server did not accept the token" : "the server wants a token");
      return;
    }
    log.add({ way: "in", kind: "error", type: "reactor.error", data: { code: name, message, ...(errors?.length ? { errors } : {}) }, to: event });
    announce(message);
  }));
  changed(present);
}

/**
 * @param {Session} present
 * @param {Welcome} welcome
 */
function welcomed(present, welcome) {
  const { model, events, tracks } = welcome;
  const news = JSON.stringify([model.name, events, tracks]);
  const isFirst = contract === "";
  if (news !== contract) {
    if (!isFirst) present.note("another contract: the controls were made anew");
    contract = news;
    isStale = true;
    drawControls(present, welcome);
  } else {
    present.note("connected again: the controls keep their values, and none of them was sent");
    for (const card of cards) card.renew();
  }
  if (isStale) drawTracks(present, welcome);
  if (isFirst) present.note("connected", { session_id: welcome.session_id, model });
  document.body.classList.toggle("has-no-video", !tracks.some(({ kind, direction }) => kind === "video" && direction === "out"));
  document.title = `${model.name} · reactor_trio`;
  setText(byId("model-name"), model.name);
  setText(byId("model-description"), model.description ?? "");
  byId("model-description").title = model.description ?? "";
  code.show(welcome, token !== "");
  changed(present);
}

/**
 * @param {Session} present
 * @param {Welcome} welcome
 */
function drawControls(present, { events }) {
  cards = events.map((event) => new CommandCard(event, present));
  const place = byId("cards");
  place.removeAttribute("aria-busy");
  const nothing = h("p", { class: "empty", text: "This model takes no commands." });
  place.replaceChildren(...(cards.length > 0 ? cards.map((card) => card.element) : [nothing]));
}

/**
 * The parts of the page that refer to a client.
 * @param {Session} present
 * @param {Welcome} welcome
 */
function drawTracks(present, { tracks }) {
  isStale = false;
  stage?.stop();
  for (const input of inputs) {
    input.stop();
    input.element.remove();
  }
  const place = byId("stage");
  place.classList.remove("is-waiting");
  stage = new Stage(place, present.client, tracks.filter((track) => track.direction === "out"));
  inputs = tracks.filter((track) => track.direction === "in").map((track) => new InputTrack(track, present));
  byId("cards").prepend(...inputs.map((input) => input.element));
}

/** @param {Session} present */
function changed(present) {
  for (const part of [...cards, ...inputs]) part.enable(present.isOpen);
  document.body.classList.toggle("is-offline", !present.isOpen);
  notice.update(present.client);
  const text = notice.state(present.client);
  announce(text);
  tick();
}

function tick() {
  if (!session) return;
  const { client } = session;
  byId("state").dataset.state = client.state;
  setText(byId("state-text"), notice.state(client));
  notice.countDown(client);
  if (!stage) setText(byId("stage-text"), notice.state(client));
  stage?.update();
  for (const input of inputs) input.update();
  status.update(client, stage);
}

/** @param {string} text for a screen reader, which says it when it is idle */
function announce(text) {
  setText(byId("live"), text);
}

/** @param {string} entered */
function enter(entered) {
  token = entered;
  try {
    sessionStorage.setItem(TOKEN_KEY, token);
  } catch {
    // Storage may be switched off; the token then lasts as long as the page.
  }
  open();
}

/** From the address (`#token=...`, which is taken out of it) or from this tab's storage, not kept for longer. */
function rememberedToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given !== null) {
    history.replaceState(null, "", location.pathname + location.search);
    return given;
  }
  try {
    return sessionStorage.getItem(TOKEN_KEY) ?? "";
  } catch {
    return "";
  }
}

const THEMES = /** @type {const} */ (["auto", "light", "dark"]);
const THEME_ICONS = /** @type {const} */ ({ auto: "auto", light: "sun", dark: "moon" });

function setUpTheme() {
  const button = byId("theme");
  const present = () => THEMES.find((theme) => theme === document.documentElement.dataset.theme) ?? "auto";
  const show = () => relabel(button, THEME_ICONS[present()], `Theme: ${present() === "auto" ? "as the system" : present()}`);
  button.addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf(present()) + 1) % THEMES.length];
    document.documentElement.dispatchEvent(new CustomEvent("reactor-theme", { detail: next }));
    show();
    announce(button.title);
  });
  show();
}

byId("code-open").prepend(icon("code"));
byId("code-close").append(icon("cross"));
setUpTheme();
acceptDropsAnywhere();
open();
setInterval(tick, TICK);
