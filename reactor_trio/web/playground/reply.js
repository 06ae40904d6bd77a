/** A model's message in a few lines: names and values, colours as colours. */

import { h } from "./dom.js";
import { brief } from "./words.js";

/** The most fields that are shown; the log has all of them. */
const MOST_FIELDS = 8;
const MOST_ITEMS = 16;

/**
 * @param {HTMLElement} place
 * @param {{type: string, data: any}} message
 */
export function drawReply(place, { type, data }) {
  const entries = Object.entries(data ?? {});
  const rows = entries.slice(0, MOST_FIELDS).flatMap(([name, value]) => [
    h("dt", { text: name }),
    h("dd", {}, ...drawValue(value)),
  ]);
  const more = entries.length > MOST_FIELDS ? h("p", { class: "hint", text: `and ${entries.length - MOST_FIELDS} more, in the log` }) : null;
  place.replaceChildren(h("code", { class: "reply-type", text: type }), h("dl", { class: "values" }, ...rows), more ?? "");
}

/**
 * @param {unknown} value
 * @returns {Node[]}
 */
function drawValue(value) {
  if (Array.isArray(value) && value.length > 0 && value.every(isColour)) {
    return value.slice(0, MOST_ITEMS).map(swatch);
  }
  if (isColour(value)) return [swatch(value)];
  if (typeof value === "number" && !Number.isInteger(value)) return [h("span", { text: Number(value.toFixed(4)) })];
  if (typeof value === "string") return [h("span", { text: value.length > 240 ? `${value.slice(0, 240)}…` : value })];
  return [h("span", { class: "mono", text: brief(value, 240) })];
}

/**
 * @param {unknown} value
 * @returns {value is string}
 */
function isColour(value) {
  return typeof value === "string" && /^#[0-9a-f]{6}$/i.test(value);
}

/** @param {string} colour */
function swatch(colour) {
  const chip = h("span", { class: "swatch-chip" });
  chip.style.background = colour;
  return h("span", { class: "swatch", title: colour }, chip, h("span", { text: colour }));
}
