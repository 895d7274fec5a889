/* A side's memory by kind, as a bar on the scale of both sides and a legend in words. */

import { make, setText } from "./dom.js";
import { NONE, bytes, part } from "./format.js";

/** @import { Side } from "./side.js" */

const SEGMENTS = ["weights", "kv_cache_used", "kv_free", "workspace", "allocator_slack", "other"];

const LEGEND = {
  weights: "weights",
  kv_cache_used: "KV",
  workspace: "workspace",
  allocator_slack: "allocator slack",
  other: "runtime",
  host: "host process",
};

/**
 * Bytes of what the bar and its legend show; `named` is what the kinds add up to, `total` what the process holds.
 * @param {Side} side
 * @param {Record<string, number | null>} sample
 */
function memoryParts(side, sample) {
  /** @param {string} kind */
  const known = (kind) => sample[kind] ?? 0;
  const used = known("kv_cache_used");
  const reserved = Math.max(known("kv_cache_reserved"), used);
  const named = known("weights") + reserved + known("workspace") + known("allocator_slack");
  const held = side.heldBytes(sample);
  /** @type {Record<string, number>} */
  const kinds = {
    weights: known("weights"),
    kv_cache_used: used,
    kv_free: reserved - used,
    workspace: known("workspace"),
    allocator_slack: known("allocator_slack"),
    other: Math.max(0, (held ?? 0) - named),
    host: side.device === "cuda" ? known("process") : 0, // beside the bar, which is the GPU's
  };
  return { kinds, reserved, total: held ?? named };
}

export class MemoryView {
  #total = make("span", { class: "eet-memory-total", "data-number": "process" }, NONE);
  #bar = make("div", { class: "eet-memory-bar", role: "img" });
  #segments = SEGMENTS.map((kind) => ({ kind, node: make("div", { class: `eet-segment eet-kind-${kind}` }) }));
  #legend = Object.entries(LEGEND).map(([kind, word]) => {
    const value = make("b", { "data-memory": kind });
    return { kind, value, item: make("li", { class: `eet-kind-${kind}`, hidden: true }, `${word} `, value) };
  });
  #drawn = "";

  /** @param {Side} side */
  constructor(side) {
    this.side = side;
    const onGpu = side.device === "cuda";
    this.name = onGpu ? "GPU memory" : "Memory";
    this.#bar.append(...this.#segments.map(({ node }) => node));
    this.root = make(
      "div",
      { class: "eet-memory" },
      make(
        "div",
        { class: "eet-memory-row" },
        make("span", { class: "eet-memory-word" }, onGpu ? "GPU memory" : "process memory"),
        this.#total,
        this.#bar,
      ),
      make("ul", { class: "eet-memory-legend" }, ...this.#legend.map(({ item }) => item)),
    );
  }

  /**
   * @param {number} clockNs
   * @param {number} scale bytes of the whole bar
   */
  draw(clockNs, scale) {
    const sample = this.side.memoryAt(clockNs);
    const key = sample && `${Object.values(sample)} ${scale}`;
    if (!sample || !key || this.#drawn === key) return;
    this.#drawn = key;
    const { kinds, reserved, total } = memoryParts(this.side, sample);
    for (const { kind, node } of this.#segments) node.style.width = `${(kinds[kind] / scale) * 100}%`;
    const words = [];
    for (const { kind, value, item } of this.#legend) {
      const cache = kind === "kv_cache_used" && reserved > 0;
      const both = cache && reserved > kinds[kind];
      item.hidden = !(kinds[kind] > 0 || cache);
      setText(value, both ? part(kinds[kind], reserved) : bytes(kinds[kind]));
      if (!item.hidden) words.push(item.textContent);
    }
    setText(this.#total, bytes(total));
    this.#total.dataset.value = String(total);
    this.#bar.setAttribute("aria-label", `${this.name}: process ${bytes(total)}; ${words.join(", ")}`);
  }
}
