/** JSON Schema of an event's payload -> the descriptions of its controls. Pure: no element is made here. */

import { pretty } from "./words.js";

/** @typedef {Record<string, any>} Schema */

/** @typedef {"range" | "number" | "text" | "multiline" | "choice" | "switch" | "upload" | "json"} Kind */

/**
 * @typedef {object} FieldSpec
 * @property {string} name the wire's
 * @property {string} label
 * @property {string} description
 * @property {Kind} kind
 * @property {Schema} schema without its null and its references
 * @property {boolean} required
 * @property {boolean} nullable
 * @property {boolean} hasDefault
 * @property {unknown} initial the default
 * @property {string} hint bounds or type in a few words, for where the control does not show them
 */

/** A text whose limit is more than this many characters has a field of several lines. */
const LONG_TEXT = 120;

/**
 * The fields of an event, in the order of its signature.
 * @param {Schema} document an event's `schema`
 * @returns {FieldSpec[]}
 */
export function fieldsOf(document) {
  const required = new Set(document.required ?? []);
  const defs = document.$defs ?? {};
  return Object.entries(document.properties ?? {}).map(([name, raw]) => {
    const { schema, nullable } = withoutNull(resolved(/** @type {Schema} */ (raw), defs), defs);
    return {
      name,
      label: pretty(name),
      description: String(schema.description ?? ""),
      kind: kindOf(schema),
      schema: { ...schema, $defs: defs },
      required: required.has(name),
      nullable,
      hasDefault: "default" in schema,
      initial: schema.default,
      hint: hintOf(schema, defs),
    };
  });
}

/**
 * Follow a reference; keys beside the reference take precedence.
 * @param {Schema} schema
 * @param {Schema} defs
 * @returns {Schema}
 */
function resolved(schema, defs) {
  if (typeof schema.$ref !== "string") return schema;
  const { $ref, ...beside } = schema;
  const { title, ...target } = defs[$ref.replace("#/$defs/", "")] ?? {};
  return { ...target, ...beside };
}

/**
 * `T | None` -> T, and whether null is allowed. Larger unions are returned unchanged.
 * @param {Schema} schema
 * @param {Schema} defs
 */
function withoutNull(schema, defs) {
  const members = /** @type {Schema[] | undefined} */ (schema.anyOf);
  let inner = schema;
  let nullable = false;
  if (members) {
    const others = members.filter((member) => member.type !== "null");
    nullable = others.length < members.length;
    if (others.length === 1 && nullable) {
      const { anyOf, ...beside } = schema;
      inner = { ...resolved(/** @type {Schema} */ (others[0]), defs), ...beside };
    }
  }
  if (Array.isArray(inner.enum) && inner.enum.includes(null) && inner.enum.length > 1) {
    nullable = true;
    inner = { ...inner, enum: inner.enum.filter((/** @type {unknown} */ value) => value !== null) };
  }
  return { schema: inner, nullable };
}

/**
 * @param {Schema} schema
 * @returns {Kind}
 */
function kindOf(schema) {
  if (isUpload(schema) || (schema.type === "array" && isUpload(schema.items))) return "upload";
  if (Array.isArray(schema.enum) && schema.enum.every((value) => typeof value !== "object")) return "choice";
  if (schema.type === "boolean") return "switch";
  if (schema.type === "integer" || schema.type === "number") return boundsOf(schema) ? "range" : "number";
  if (schema.type !== "string") return "json";
  return (schema.maxLength ?? 0) > LONG_TEXT ? "multiline" : "text";
}

/**
 * @param {unknown} schema
 * @returns {boolean}
 */
function isUpload(schema) {
  return typeof schema === "object" && schema !== null && "x-reactor-upload" in schema;
}

/**
 * The rules for files of a field: its own, or those of its items.
 * @param {Schema} schema
 * @returns {{several: boolean, maxSize: number | null, mimeTypes: string[]}}
 */
export function uploadRules(schema) {
  const several = schema.type === "array";
  const rules = (several ? schema.items : schema)["x-reactor-upload"] ?? {};
  return { several, maxSize: rules.max_size ?? null, mimeTypes: rules.mime_types ?? [] };
}

/**
 * Both bounds and a step that divides the range; null if a bound is missing, so that there can be no slider.
 * @param {Schema} schema
 * @returns {{min: number, max: number, step: number} | null}
 */
export function boundsOf(schema) {
  const low = schema.minimum ?? schema.exclusiveMinimum;
  const high = schema.maximum ?? schema.exclusiveMaximum;
  if (typeof low !== "number" || typeof high !== "number" || !(low < high)) return null;
  const isWhole = schema.type === "integer";
  const step = isWhole ? 1 : fineStep(high - low);
  const min = schema.minimum ?? (isWhole ? Math.floor(low) : low) + step;
  const max = schema.maximum ?? (isWhole ? Math.ceil(high) : high) - step;
  const bounds = { min: isWhole ? Math.ceil(min) : tidy(min), max: isWhole ? Math.floor(max) : tidy(max), step };
  // No slider for integers that a browser cannot represent, nor for a single value.
  const isCountable = !isWhole || (Number.isSafeInteger(bounds.min) && Number.isSafeInteger(bounds.max));
  return isCountable && bounds.min < bounds.max ? bounds : null;
}

/**
 * A step of about a two-hundredth of the range, as 1, 2 or 5 times a power of ten, if that divides the range.
 * @param {number} span
 */
function fineStep(span) {
  const raw = span / 200;
  const power = 10 ** Math.floor(Math.log10(raw));
  const nice = [1, 2, 5, 10].map((factor) => tidy(factor * power));
  const fitting = nice.find((step) => step >= raw && Math.abs(span / step - Math.round(span / step)) < 1e-9);
  return fitting ?? tidy(raw);
}

/**
 * A number without the rounding errors of binary fractions.
 * @param {number} value
 */
export function tidy(value) {
  return Number(value.toPrecision(12));
}

/**
 * @param {Schema} schema
 * @param {Schema} defs
 */
function hintOf(schema, defs) {
  if (kindOf(schema) === "json") return shapeOf(schema, defs);
  if (kindOf(schema) === "number") return numberHint(schema);
  const { minLength: least = 0, maxLength: most } = schema;
  if (schema.pattern) return `must match ${schema.pattern}`;
  if (most !== undefined) return `${least}–${most} characters`;
  return least > 0 ? `at least ${least} character${least > 1 ? "s" : ""}` : "";
}

/**
 * @param {Schema} schema
 */
function numberHint(schema) {
  const signs = { minimum: "≥", exclusiveMinimum: ">", maximum: "≤", exclusiveMaximum: "<" };
  const bounds = Object.entries(signs).filter(([key]) => key in schema).map(([key, sign]) => `${sign} ${schema[key]}`);
  return [schema.type === "integer" ? "whole number" : "number", ...bounds].join(", ");
}

/**
 * A schema as one line in the style of TypeScript, for users who write JSON.
 * @param {Schema} schema
 * @param {Schema} defs
 * @param {number} depth how many more levels to open
 * @returns {string}
 */
export function shapeOf(schema, defs, depth = 3) {
  if (depth < 0) return "…";
  const full = resolved(schema, defs);
  if (isUpload(full)) return '{"upload_id"}';
  if (Array.isArray(full.enum)) return full.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (full.anyOf) return full.anyOf.map((/** @type {Schema} */ each) => shapeOf(each, defs, depth - 1)).join(" | ");
  if (full.prefixItems) {
    return `[${full.prefixItems.map((/** @type {Schema} */ each) => shapeOf(each, defs, depth - 1)).join(", ")}]`;
  }
  if (full.type === "array") return `[${shapeOf(full.items || {}, defs, depth - 1)}, …]`;
  if (full.properties) {
    const parts = Object.entries(full.properties).map(([name, each]) => {
      const optional = (full.required ?? []).includes(name) ? "" : "?";
      return `${name}${optional}: ${shapeOf(/** @type {Schema} */ (each), defs, depth - 1)}`;
    });
    return `{ ${parts.join(", ")} }`;
  }
  if (full.type === "object") return `{ key: ${shapeOf(full.additionalProperties || {}, defs, depth - 1)}, … }`;
  const bounds = boundsOf(full);
  return bounds ? `${full.type} ${bounds.min}–${bounds.max}` : String(full.type ?? "any JSON");
}

/**
 * A value of about the right shape to start from, for a required field without a default.
 * @param {Schema} schema
 * @param {Schema} defs
 * @param {number} depth
 * @returns {unknown}
 */
export function exampleOf(schema, defs, depth = 4) {
  const full = resolved(schema, defs);
  if ("default" in full) return full.default;
  if (Array.isArray(full.enum)) return full.enum[0];
  if (full.anyOf) return exampleOf(full.anyOf[0], defs, depth - 1);
  if (depth <= 0) return null;
  if (full.prefixItems) return full.prefixItems.map((/** @type {Schema} */ each) => exampleOf(each, defs, depth - 1));
  if (full.type === "array") return full.items ? [exampleOf(full.items, defs, depth - 1)] : [];
  if (full.properties) {
    const entries = Object.entries(full.properties).filter(([name]) => (full.required ?? []).includes(name));
    return Object.fromEntries(entries.map(([name, each]) => [name, exampleOf(/** @type {Schema} */ (each), defs, depth - 1)]));
  }
  if (full.type === "number" || full.type === "integer") return boundsOf(full)?.min ?? full.minimum ?? (full.exclusiveMinimum ?? -1) + 1;
  return { object: {}, string: "", boolean: false }[String(full.type)] ?? null;
}
