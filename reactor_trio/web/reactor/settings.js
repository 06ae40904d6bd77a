/** @import {Client} from "../reactor.js" */

/**
 * The settings with which the server sends one track. A setting that is left out, or null, has the server's default.
 *
 * @typedef {object} TrackSettings
 * @property {string | null} [codec]
 * @property {number | null} [max_fps]
 * @property {number | null} [max_width] Pixels.
 * @property {boolean | null} [paused]
 */

const NAMES = /** @type {const} */ (["codec", "max_fps", "max_width", "paused"]);

/** The settings of a client's tracks: changes are sent to the server, and all of them again after a reconnect. */
export class Settings {
  #client;
  /** @type {Map<string, TrackSettings>} */
  #wanted = new Map();
  /** The settings that the server has in this session. @type {Map<string, TrackSettings>} */
  #told = new Map();
  /** The number of sinks of each track. @type {Map<string, number>} */
  #users = new Map();

  /** @param {Client} client */
  constructor(client) {
    this.#client = client;
  }

  /** Begin a session: the server has none of the settings yet. */
  begin() {
    this.#told.clear();
    for (const track of this.#wanted.keys()) this.#tell(track);
  }

  /**
   * Someone takes the track from now on.
   *
   * @param {string} track
   */
  enter(track) {
    this.#users.set(track, (this.#users.get(track) ?? 0) + 1);
  }

  /**
   * Someone no longer takes it; when nobody does, it is paused.
   *
   * @param {string} track
   */
  leave(track) {
    const users = (this.#users.get(track) ?? 1) - 1;
    this.#users.set(track, users);
    if (users === 0) this.want(track, { ...this.#wanted.get(track), paused: true });
  }

  /**
   * @param {string} track
   * @param {TrackSettings} settings All of them.
   */
  want(track, settings) {
    this.#wanted.set(track, settings);
    this.#tell(track);
  }

  /** @param {string} track */
  #tell(track) {
    const known = this.#client.welcome?.tracks.some((each) => each.name === track && each.direction === "out");
    if (this.#client.state !== "open" || !known) return;
    const wanted = this.#wanted.get(track) ?? {};
    const told = this.#told.get(track) ?? {};
    const changes = NAMES.filter((name) => value(wanted, name) !== value(told, name));
    if (changes.length === 0) return;
    this.#told.set(track, wanted);
    const data = Object.fromEntries(changes.map((name) => [name, value(wanted, name)]));
    this.#client.ask("reactor.configure_track", { track, ...data });
  }
}

/**
 * @param {TrackSettings} settings
 * @param {typeof NAMES[number]} name
 */
function value(settings, name) {
  const given = settings[name] ?? null;
  return name === "paused" && given === false ? null : given;
}
