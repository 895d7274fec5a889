/* One side of a race as columns, filled by updates or from a recording; rates come from stamps alone. Pure. */

/** @import { Config, Kind, Memory, Metrics, Problem, Progress, SideState, Tokens, View } from "./types" */

const RATE_WINDOW_NS = 1e9; // "now" is the rate over the last second of stamps

/**
 * Number of entries of the ascending `values` that are <= `limit`.
 * @param {number[]} values
 * @param {number} limit
 */
export function countUpTo(values, limit) {
  if (limit === Infinity) return values.length;
  let low = 0;
  let high = values.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] <= limit) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Everything known about one side. Steps are distinct stamps: one decode step of all rows. */
export class Side {
  /** @type {SideState} */
  state = "waiting";
  detail = "";
  /** @type {Config | null} */
  config = null;
  /** @type {{ done: number, total: number } | null} the latest report, live */
  progress = null;
  /** @type {Progress} every report, in a recording */
  progressLog = { time_ns: [], done: [], total: [] };
  /** @type {Problem | null} */
  error = null;
  /** @type {Metrics | null} */
  metrics = null;

  /** @type {string[]} */
  tokenText = [];
  /** @type {number[]} */
  tokenId = [];
  /** @type {boolean[]} */
  tokenAfterEnd = [];
  /** @type {number[][]} per row: indexes into the columns above */
  rowTokens = [];
  /** @type {number[]} */
  stepTimeNs = [];
  /** @type {number[]} tokens of all rows up to and including that step */
  stepTokens = [];

  /** @type {number[]} */
  memoryTimeNs = [];
  /** @type {Record<string, (number | null)[]>} kind -> column */
  memory = {};
  memoryPeak = 0;

  /**
   * @param {Kind} kind
   * @param {number} index its place on the page
   * @param {number} nowMs
   * @param {string} device
   */
  constructor(kind, index, nowMs, device = "cpu") {
    this.kind = kind;
    this.index = index;
    this.device = device;
    this.stateSinceMs = nowMs;
  }

  /**
   * The server repeats a state to say how far it is; its clock goes on.
   * @param {SideState} state
   * @param {string} detail
   * @param {number} nowMs
   */
  enter(state, detail, nowMs) {
    if (this.state !== state) this.stateSinceMs = nowMs;
    this.state = state;
    this.detail = detail;
  }

  /** @param {Tokens} columns */
  addTokens({ row, time_ns, id, text, after_end }) {
    for (let i = 0; i < row.length; i++) {
      const token = this.tokenText.length;
      this.tokenText.push(text[i] ?? "");
      this.tokenId.push(id[i]);
      this.tokenAfterEnd.push(Boolean(after_end?.[i]));
      (this.rowTokens[row[i]] ??= []).push(token);
      const last = this.stepTimeNs.length - 1;
      if (last >= 0 && this.stepTimeNs[last] === time_ns[i]) this.stepTokens[last] = token + 1;
      else {
        this.stepTimeNs.push(time_ns[i]);
        this.stepTokens.push(token + 1);
      }
    }
  }

  /** @param {Memory} columns */
  addMemory(columns) {
    columns.time_ns.forEach((timeNs, i) => {
      const place = this.memoryTimeNs.length;
      this.memoryTimeNs.push(timeNs ?? -Infinity); // a sample taken before t0
      for (const [key, column] of Object.entries(columns)) {
        if (key.endsWith("_bytes")) (this.memory[key.slice(0, -"_bytes".length)] ??= [])[place] = column[i];
      }
      const held = this.heldBytes(this.memorySample(place)) ?? 0;
      this.memoryPeak = Math.max(this.memoryPeak, held, this.namedBytes(place));
    });
  }

  /**
   * What the process holds where it runs: on the GPU as NVML counts it (which says 0 inside some containers).
   * @param {Record<string, number | null>} sample
   */
  heldBytes(sample) {
    return this.device === "cuda" ? sample.device_process || null : sample.process;
  }

  /**
   * Sum of the kinds that exclude each other (the used part of the cache lies inside the reserved one).
   * @param {number} place of the sample
   */
  namedBytes(place) {
    let sum = 0;
    for (const [kind, column] of Object.entries(this.memory)) {
      if (!/^(process|device|kv_cache_used)/.test(kind)) sum += column[place] ?? 0;
    }
    if (!this.memory.kv_cache_reserved) sum += this.memory.kv_cache_used?.[place] ?? 0;
    return sum;
  }

  /**
   * Memory by kind at an instant: the first sample before there is one, null without any.
   * @param {number} clockNs
   */
  memoryAt(clockNs) {
    if (!this.memoryTimeNs.length) return null;
    return this.memorySample(Math.max(0, countUpTo(this.memoryTimeNs, clockNs) - 1));
  }

  /**
   * @param {number} place
   * @returns {Record<string, number | null>}
   */
  memorySample(place) {
    return Object.fromEntries(Object.entries(this.memory).map(([kind, column]) => [kind, column[place] ?? null]));
  }

  /**
   * The last prefill report before `clockNs` of a recording, or null.
   * @param {number} clockNs
   */
  progressAt(clockNs) {
    const { time_ns, done, total } = this.progressLog;
    const place = countUpTo(time_ns, clockNs) - 1;
    return place < 0 ? null : { done: done[place], total: total[place] };
  }

  /** @param {number} clockNs */
  stepsAt(clockNs) {
    return countUpTo(this.stepTimeNs, clockNs);
  }

  get ttftNs() {
    return this.stepTimeNs.length ? this.stepTimeNs[0] : null;
  }

  get endNs() {
    return this.stepTimeNs.length ? this.stepTimeNs[this.stepTimeNs.length - 1] : 0;
  }

  /**
   * What the side does at an instant; live, the first token ends a prefill whatever the server has said.
   * @param {View} view
   * @returns {SideState}
   */
  stateAt(view) {
    if (!view.replay) return this.state === "prefilling" && this.stepTimeNs.length ? "decoding" : this.state;
    if (this.ttftNs == null) return this.state === "done" ? "waiting" : this.state;
    if (view.ns < this.ttftNs) return "prefilling";
    return view.ns < this.endNs ? "decoding" : this.state;
  }

  /**
   * Time in its state, or on the replay's clock.
   * @param {View} view
   */
  elapsedNs(view) {
    return view.replay ? view.ns : (view.nowMs - this.stateSinceMs) * 1e6;
  }

  /**
   * Decode tokens/s of all rows from the first stamp to step `steps`: first tokens belong to the prefill.
   * @param {number} steps
   */
  averageRate(steps) {
    return this.#rate(0, steps);
  }

  /**
   * Decode tokens/s over the last second before step `steps`; a slower side takes its last gap.
   * @param {number} steps
   */
  recentRate(steps) {
    if (steps < 2) return null;
    const from = countUpTo(this.stepTimeNs, this.stepTimeNs[steps - 1] - RATE_WINDOW_NS);
    return this.#rate(Math.min(from, steps - 2), steps);
  }

  /**
   * @param {number} from index of a step
   * @param {number} steps
   */
  #rate(from, steps) {
    if (steps < 2) return null;
    const spanNs = this.stepTimeNs[steps - 1] - this.stepTimeNs[from];
    return ((this.stepTokens[steps - 1] - this.stepTokens[from]) / spanNs) * 1e9;
  }

  /** @param {number} steps */
  tokensAt(steps) {
    return steps ? this.stepTokens[steps - 1] : 0;
  }

  /**
   * Tokens of `row` among the first `steps` steps.
   * @param {number} row
   * @param {number} steps
   */
  rowTokensAt(row, steps) {
    const tokens = this.rowTokens[row];
    return tokens && steps ? countUpTo(tokens, this.stepTokens[steps - 1] - 1) : 0;
  }
}
