/* Races by hand for the tests: columns as the server sends them. */

/** @import { Kind, Memory, RaceUpdate, RecordedSide, Settings, Tokens } from "../../assets/race/types" */

export const MS = 1e6;

/** @type {Kind} */
export const STOCK = { title: "Stock generate", hue: "stock", dense: true, silence: "it cannot tell" };

/** @type {Kind} */
export const ENGINE = { title: "Engine", hue: "engine", dense: false, silence: "" };

/**
 * @param {string} title
 * @returns {Kind}
 */
export const titled = (title) => ({ ...ENGINE, title });

/** @type {Settings} */
const SETTINGS = {
  model: "tiny",
  device: "cpu",
  dtype: "float32",
  weights: "dense",
  context: 3,
  new_tokens: 4,
  batch: 1,
  schedule: "in_turn",
  temperature: 0,
};

/**
 * One row's tokens: stamps in ms, ids, texts `<id>`.
 * @param {number[]} times_ms
 * @param {number[]} id
 * @param {number} row
 * @returns {Tokens}
 */
export function tokens(times_ms, id = times_ms.map((_, place) => place), row = 0) {
  return {
    row: times_ms.map(() => row),
    time_ns: times_ms.map((time) => time * MS),
    id,
    text: id.map((each) => `<${each}>`),
  };
}

/**
 * A batch's tokens: each step stamps every row.
 * @param {number[]} times_ms
 * @param {number[][]} ids of each row
 * @returns {Tokens}
 */
export function rows(times_ms, ids) {
  const steps = times_ms.map((time, step) => ids.map((row, index) => tokens([time], [row[step]], index)));
  const cells = steps.flat();
  return {
    row: cells.flatMap((cell) => cell.row),
    time_ns: cells.flatMap((cell) => cell.time_ns),
    id: cells.flatMap((cell) => cell.id),
    text: cells.flatMap((cell) => cell.text),
  };
}

/**
 * @param {Partial<RaceUpdate>} changed
 * @param {Partial<Settings>} settings
 * @returns {RaceUpdate}
 */
export function race(changed = {}, settings = {}) {
  return {
    kind: "race",
    settings: { ...SETTINGS, ...settings },
    hardware: { cpu: "CPU", cores: 2, memory_bytes: 2 ** 33 },
    software: { python: "3.11" },
    prompt_tokens: [[1, 2, 3]],
    kinds: [STOCK, ENGINE],
    pair: [0, 1],
    ...changed,
  };
}

/** @type {Memory} */
export const NO_MEMORY = { time_ns: [] };

/**
 * @param {string} name
 * @param {Tokens} columns
 * @param {Partial<RecordedSide>} changed
 * @returns {RecordedSide}
 */
export function recorded(name, columns, changed = {}) {
  return { name, state: "done", config: null, tokens: columns, memory: NO_MEMORY, error: null, ...changed };
}

/**
 * @param {number} ns
 */
export const at = (ns) => ({ replay: true, ns, nowMs: 0 });

/**
 * @param {number} nowMs
 */
export const live = (nowMs = 0) => ({ replay: false, ns: Infinity, nowMs });
