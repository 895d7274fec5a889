/* Numbers as the page shows them: three digits that matter, an en dash for what is not known. Pure. */

export const NONE = "–";
export const READOUT_NS = 200e6; // digits change five times a second, so that they can be read

const MIB = 2 ** 20;
const GIB = 2 ** 30;

/** @param {number} value */
export const count = (value) => Math.round(value).toLocaleString("en-US");

/**
 * Tokens a second.
 * @param {number | null | undefined} value
 */
export function rate(value) {
  if (value == null) return NONE;
  if (value < 9.995) return value.toFixed(2);
  return value < 99.95 ? value.toFixed(1) : count(value);
}

/** @param {number | null | undefined} value */
export function ratio(value) {
  if (value == null) return NONE;
  return `${value.toFixed(value < 9.995 ? 2 : 1)}×`;
}

/**
 * A duration, in the unit that suits it.
 * @param {number | null | undefined} ns
 */
export function seconds(ns) {
  if (ns == null) return NONE;
  if (ns < 999.5e6) return `${Math.round(ns / 1e6)} ms`;
  if (ns < 59.995e9) return `${(ns / 1e9).toFixed(2)} s`;
  const whole = Math.round(ns / 1e9);
  return `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

/** @param {number | null | undefined} value */
export function bytes(value) {
  if (value == null) return NONE;
  if (value >= 1023.5 * MIB) return `${(value / GIB).toFixed(2)} GiB`;
  return value >= 9.95 * MIB ? `${Math.round(value / MIB)} MiB` : `${(value / MIB).toFixed(1)} MiB`;
}

/**
 * "7.4 of 8.2 MiB": both in the unit of the whole.
 * @param {number} used bytes
 * @param {number} whole bytes
 */
export function part(used, whole) {
  const large = whole >= 1023.5 * MIB;
  const unit = large ? GIB : MIB;
  const digits = large ? 2 : whole >= 99.95 * MIB ? 0 : 1;
  return `${(used / unit).toFixed(digits)} of ${(whole / unit).toFixed(digits)} ${large ? "GiB" : "MiB"}`;
}

/**
 * A message of the lower layers as a sentence.
 * @param {string} text
 */
export const sentence = (text) => text && text[0].toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
