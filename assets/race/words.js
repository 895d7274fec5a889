/* What the page says about sides, states and settings. Pure. */

import { bytes, count } from "./format.js";

/** @import { Hardware, Kind, Precision, Settings, SideState } from "./types" */
/** @import { Side } from "./side.js" */

/** @type {Record<SideState, string>} */
export const STATE_WORDS = {
  waiting: "waiting",
  loading: "loading",
  warming: "warming up",
  prefilling: "prefill",
  decoding: "decode",
  done: "done",
  failed: "failed",
  stopped: "stopped",
};

/**
 * What a side that has not loaded yet will be.
 * @param {Kind} kind
 * @param {Precision} settings
 */
export function plannedConfig({ dense }, { device, dtype, weights }) {
  return { device, dtype, weights: dense ? "dense" : weights };
}

/**
 * Both sides run on the same device.
 * @param {string} device
 * @param {Hardware} hardware
 */
export function deviceWords(device, hardware) {
  if (device === "cuda") return `both sides on the GPU (cuda): ${hardware.gpu ?? "unknown"}`;
  return device === "cpu" ? "both sides on the processor (cpu)" : `the engine on ${device}, stock on the processor`;
}

/** @param {Hardware} hardware */
export function hardwareWords({ cpu, cores, memory_bytes, gpu, gpu_memory_bytes, driver }) {
  const processor = `${cpu}, ${cores} core${cores === 1 ? "" : "s"}`;
  const card = gpu ? `${gpu} (${bytes(gpu_memory_bytes)}, driver ${driver})` : "no GPU";
  return [processor, `${bytes(memory_bytes)} RAM`, card].join(", ");
}

/**
 * @param {Settings} settings
 * @param {Side[]} sides
 */
export function precisionWords(settings, sides) {
  const words = sides.flatMap(({ kind, config }) => {
    return config ? [`${kind.title} ${config.dtype} ${config.weights}`] : [];
  });
  return words.length ? words.join(", ") : `${settings.dtype}, engine weights ${settings.weights}`;
}

/** @param {Settings} settings */
export function workWords({ context, new_tokens, batch, ragged, temperature, top_k, top_p, seed }) {
  const sampling = temperature ? `temperature ${temperature}, top-k ${top_k}, top-p ${top_p}, seed ${seed}` : "greedy";
  const rows = `batch ${batch}${ragged ? " ragged" : ""}`;
  return `${count(context)} prompt + ${count(new_tokens)} new tokens, ${rows}, ${sampling}`;
}
