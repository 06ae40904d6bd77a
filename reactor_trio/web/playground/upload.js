/** A field for files: drop, choose, see how far the upload is, and a preview of pictures. */

import { FieldError } from "./controls.js";
import { h, icon, iconButton, setText } from "./dom.js";
import { uploadRules } from "./schema.js";
import { bytes } from "./words.js";

/** @typedef {import("./controls.js").Change} Change */
/** @typedef {import("./controls.js").Control} Control */
/** @typedef {import("./schema.js").FieldSpec} FieldSpec */
/** @typedef {import("./session.js").Session} Session */

/** @typedef {{take: (files: File[]) => void, accepts: (file: File) => boolean, zone: HTMLElement}} Taker */

/** Every field for files that is on the page, so that a file dropped beside them all finds one. */
const takers = /** @type {Set<Taker>} */ (new Set());

/**
 * @param {FieldSpec} spec
 * @param {Session} session
 * @param {(change: Change) => void} changed
 * @param {(message: string) => void} complain of a file that is not taken
 * @returns {Control}
 */
export function uploadControl(spec, session, changed, complain) {
  const rules = uploadRules(spec.schema);
  const most = Math.min(rules.maxSize ?? Infinity, session.limits.max_upload_bytes);
  let items = /** @type {Item[]} */ ([]);
  const list = h("ul", { class: "files" });
  const input = h("input", {
    type: "file", class: "drop-input", title: "", multiple: rules.several, accept: rules.mimeTypes.join(",") || null,
    onchange: () => {
      take([...(input.files ?? [])]);
      input.value = "";
    },
  });
  const taken = [named(rules.mimeTypes), `up to ${bytes(most)}`].filter(Boolean).join(", ");
  const zone = h(
    "label", { class: "drop" }, input, icon("upload"),
    h("span", { class: "drop-text" },
      h("span", { class: "drop-main" }, `Drop ${rules.several ? "files" : "a file"} here, or `, h("u", { text: "choose" })),
      h("span", { class: "drop-rules", text: taken })),
  );

  /** @param {File} file */
  const refusal = (file) => {
    if (file.size > most) return `${file.name} has ${bytes(file.size)}; at most ${bytes(most)} are taken.`;
    if (accepts(file)) return null;
    return `${file.name} is ${file.type || "of no known type"}; this takes ${named(rules.mimeTypes)}.`;
  };
  /** @param {File} file */
  const accepts = (file) => rules.mimeTypes.length === 0 || rules.mimeTypes.some((pattern) => fits(file.type, pattern));

  /** @param {File[]} files */
  const take = (files) => {
    const chosen = rules.several ? files : files.slice(0, 1);
    const refusals = chosen.map(refusal).filter((text) => text !== null);
    const fine = chosen.filter((file) => refusal(file) === null);
    if (fine.length > 0) add(fine);
    if (refusals.length === 0) return;
    complain(refusals.join(" "));
    session.announce(refusals.join(" "));
  };

  /** @param {File[]} fine */
  const add = (fine) => {
    if (!rules.several) items.forEach((item) => item.remove());
    const added = fine.map((file) => new Item(file, session, drop));
    items = rules.several ? [...items, ...added] : added;
    list.append(...added.map((item) => item.element));
    changed("typed");
    Promise.all(added.map((item) => item.upload())).then(() => changed("moved"), () => undefined);
  };
  /** @param {Item} item */
  const drop = (item) => {
    item.remove();
    items = items.filter((other) => other !== item);
    changed("typed");
  };

  acceptDrops(zone, take);
  takers.add({ take, accepts: (file) => refusal(file) === null, zone });
  return {
    element: h("div", { class: "upload" }, zone, list),
    target: input,
    isGroup: false,
    prepare: () => (items.every((item) => item.isThere()) ? null : settle(items)),
    read: () => {
      if (rules.several) return items.map((item) => item.handle());
      const [only] = items;
      if (only) return only.handle();
      if (spec.required) throw new FieldError("choose a file");
      return spec.nullable ? null : undefined;
    },
  };
}

/** @param {Item[]} items */
async function settle(items) {
  try {
    await Promise.all(items.map((item) => item.upload()));
  } catch (error) {
    throw new FieldError(error instanceof Error ? error.message : String(error));
  }
}

/** One file: where its upload is. */
class Item {
  /**
   * @param {File} file
   * @param {Session} session
   * @param {(item: Item) => void} onremove
   */
  constructor(file, session, onremove) {
    this.#file = file;
    this.#session = session;
    this.#bar = h("progress", { class: "progress", max: 1, value: 0, "aria-label": `Upload of ${file.name}` });
    this.#state = h("span", { class: "file-state", text: bytes(file.size) });
    this.#preview = file.type.startsWith("image/") ? URL.createObjectURL(file) : null;
    const picture = this.#preview
      ? h("img", { class: "thumbnail", src: this.#preview, alt: "" })
      : h("span", { class: "thumbnail" }, icon("picture"));
    const words = h("span", { class: "file-words" }, h("span", { class: "file-name", text: file.name }), this.#state, this.#bar);
    this.element = h("li", { class: "file" }, picture, words, iconButton("cross", `Remove ${file.name}`, () => onremove(this)));
  }

  #file;
  #session;
  #bar;
  #state;
  #preview;
  #abort = new AbortController();
  /** @type {Promise<void> | null} */
  #under_way = null;
  /** @type {{upload_id: string} | null} */
  #handle = null;
  /** @type {string | null} */
  #owner = null;

  /** Whether the server has it: an upload is gone when its session is. */
  isThere() {
    return this.#handle !== null && this.#owner === this.#session.id;
  }

  handle() {
    if (!this.#handle) throw new FieldError("the file is still on its way");
    return { upload_id: this.#handle.upload_id };
  }

  /** @returns {Promise<void>} */
  upload() {
    if (this.isThere()) return Promise.resolve();
    this.#under_way ??= this.#send().finally(() => {
      this.#under_way = null;
    });
    return this.#under_way;
  }

  async #send() {
    const owner = this.#session.id;
    this.element.className = "file is-sending";
    try {
      this.#handle = await this.#session.upload(this.#file, {
        signal: this.#abort.signal,
        onProgress: (sent, total) => {
          this.#bar.value = total > 0 ? sent / total : 1;
          setText(this.#state, `${bytes(sent)} of ${bytes(total)}`);
        },
      });
    } catch (error) {
      this.element.className = "file is-failed";
      setText(this.#state, error instanceof Error ? error.message : String(error));
      throw error;
    }
    this.#owner = owner;
    this.element.className = "file is-there";
    setText(this.#state, `${bytes(this.#file.size)}, uploaded`);
  }

  remove() {
    this.#abort.abort();
    if (this.#preview) URL.revokeObjectURL(this.#preview);
    this.element.remove();
  }
}

/**
 * @param {HTMLElement} zone
 * @param {(files: File[]) => void} take
 */
function acceptDrops(zone, take) {
  zone.addEventListener("dragover", () => zone.classList.add("is-over"));
  zone.addEventListener("dragleave", () => zone.classList.remove("is-over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    event.stopPropagation();
    endDrag();
    take([...(event.dataTransfer?.files ?? [])]);
  });
}

function endDrag() {
  document.body.classList.remove("is-dragging");
  takers.forEach((taker) => taker.zone.classList.remove("is-over"));
}

/** A file dropped anywhere goes to the first field that takes it, instead of being opened by the browser. */
export function acceptDropsAnywhere() {
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.toggle("is-dragging", event.dataTransfer?.types.includes("Files") ?? false);
  });
  document.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) endDrag();
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    endDrag();
    const files = [...(event.dataTransfer?.files ?? [])];
    for (const taker of takers) if (!taker.zone.isConnected) takers.delete(taker);
    const all = [...takers];
    const taker = all.find((each) => files.some(each.accepts)) ?? all[0];
    if (taker && files.length > 0) {
      taker.take(files);
      taker.zone.scrollIntoView({ block: "nearest" });
    }
  });
}

/**
 * @param {string} type
 * @param {string} pattern such as `image/*`
 */
function fits(type, pattern) {
  const escaped = pattern.replace(/[.+^${}()|[\]\\]/g, "\\$&").replaceAll("*", ".*").replaceAll("?", ".");
  return new RegExp(`^${escaped}$`, "i").test(type);
}

/** @param {string[]} mimeTypes */
function named(mimeTypes) {
  return mimeTypes.map((type) => type.replace(/^image\/\*$/, "any image").replace(/^(image|audio|video)\/([a-z0-9]+)$/, (_, _kind, what) => what.toUpperCase())).join(" or ");
}
