/* One race: settings, sides, result. Fed by updates (live) or a trace (replay); knows nothing of the screen. Pure. */

import { Side } from "./side.js";

/** @import { Figures, Hardware, Kind, Pair, RaceChange, RaceUpdate, Recording, Settings, Software } from "./types" */

export class Player {
  /** @type {Settings | null} */
  settings = null;
  /** @type {Hardware | null} */
  hardware = null;
  /** @type {Software | null} */
  software = null;
  /** @type {number[]} prompt tokens of each row */
  promptTokens = [];
  promptText = "";
  /** @type {string[]} */
  notes = [];
  precision = "";
  /** @type {Side[]} */
  sides = [];
  /** @type {Pair} */
  pair = null;
  /** @type {Figures | null} */
  result = null;
  /** @type {number[]} per row: index of the first differing token, Infinity while equal */
  divergence = [];
  /** @type {number[]} per row: how far the comparison has come */
  comparedTokens = [];

  /**
   * @param {RaceChange} update
   * @param {number} nowMs
   */
  apply(update, nowMs) {
    if (update.kind === "race") return this.begin(update, nowMs);
    if (update.kind === "notes") return void (this.notes = update.notes);
    if (update.kind === "result") return this.finish(update);
    const side = this.sides[update.side];
    if (update.kind === "state") side.enter(update.state, update.detail ?? "", nowMs);
    else if (update.kind === "config") side.config = update.config;
    else if (update.kind === "progress") side.progress = { done: update.done, total: update.total };
    else if (update.kind === "memory") side.addMemory(update);
    else if (update.kind === "error") side.error = { message: update.message, remedy: update.remedy ?? "" };
    else if (update.kind === "tokens") {
      side.addTokens(update);
      this.compare();
    }
  }

  /**
   * @param {Omit<RaceUpdate, "kind">} update
   * @param {number} nowMs
   */
  begin(update, nowMs) {
    this.expect(update.kinds, nowMs, update.settings.device);
    this.settings = update.settings;
    this.hardware = update.hardware;
    this.software = update.software;
    this.promptTokens = update.prompt_tokens.map((row) => row.length);
    this.promptText = update.prompt_text ?? "";
    this.notes = update.notes ?? [];
    this.precision = update.precision ?? "";
    this.pair = update.pair;
  }

  /**
   * Empty lanes of a race that has not begun: it waits, or its model is fetched.
   * @param {Kind[]} kinds
   * @param {number} nowMs
   */
  expect(kinds, nowMs, device = "cpu") {
    Object.assign(this, new Player());
    this.sides = kinds.map((kind, index) => new Side(kind, index, nowMs, device));
  }

  /** @param {Figures & { notes?: string[] }} update */
  finish({ notes, metrics, speedup, parity }) {
    this.notes = notes ?? this.notes;
    this.result = { metrics, speedup, parity };
    this.sides.forEach((side, index) => (side.metrics = metrics[index] ?? null));
    parity?.forEach((row, index) => (this.divergence[index] = row.first_divergence ?? Infinity));
  }

  /**
   * A recorded race, with what the server computed from it.
   * @param {Recording} recording
   * @param {number} nowMs
   */
  load({ trace, metrics, speedup, parity, precision, kinds, pair }, nowMs) {
    const { settings, hardware, software, prompt_ids: prompt_tokens, prompt_text, notes } = trace;
    this.begin({ settings, hardware, software, prompt_tokens, prompt_text, notes, precision, kinds, pair }, nowMs);
    trace.sides.forEach((recorded, index) => {
      const side = this.sides[index];
      side.config = recorded.config;
      side.state = recorded.state ?? (recorded.error ? "failed" : "done");
      side.error = recorded.error;
      side.progressLog = recorded.progress ?? side.progressLog;
      side.addTokens(recorded.tokens);
      side.addMemory(recorded.memory);
    });
    this.compare();
    this.finish({ metrics, speedup, parity });
  }

  get greedy() {
    return !this.settings?.temperature;
  }

  get batch() {
    return this.promptTokens.length || 1;
  }

  get durationNs() {
    return Math.max(0, ...this.sides.map((side) => side.endNs));
  }

  get newTokens() {
    return this.settings?.new_tokens ?? 0;
  }

  /** Tokens that a side writes, all rows. */
  get expectedTokens() {
    return this.newTokens * this.batch;
  }

  get memoryScale() {
    return Math.max(1, ...this.sides.map((side) => side.memoryPeak));
  }

  /** The sides that are compared, [baseline, contender]; null when one runs alone, or until the race has begun. */
  get compared() {
    return this.pair && [this.sides[this.pair[0]], this.sides[this.pair[1]]];
  }

  /**
   * The contender's decode rate over the baseline's from the stamps up to an instant; null until both have one.
   * @param {number} clockNs
   */
  ratioAt(clockNs) {
    const [base, contender] = (this.compared ?? []).map((side) => side.averageRate(side.stepsAt(clockNs)));
    return base && contender ? contender / base : null;
  }

  /**
   * How far the texts of a row are equal at an instant; null when nothing is compared.
   * @param {number} row
   * @param {number} clockNs
   */
  parityAt(row, clockNs) {
    if (!this.compared) return null;
    const both = Math.min(...this.compared.map((side) => side.rowTokensAt(row, side.stepsAt(clockNs))));
    const divergence = this.divergence[row] ?? Infinity;
    return { both, equal: Math.min(both, divergence), divergence, differs: divergence < both };
  }

  /** Continues the token-by-token comparison where it stopped: O(new tokens). */
  compare() {
    if (!this.compared || !this.greedy) return;
    const [base, contender] = this.compared;
    for (let row = 0; row < this.batch; row++) {
      if ((this.divergence[row] ?? Infinity) !== Infinity) continue;
      const a = base.rowTokens[row] ?? [];
      const b = contender.rowTokens[row] ?? [];
      const both = Math.min(a.length, b.length);
      let place = this.comparedTokens[row] ?? 0;
      while (place < both && base.tokenId[a[place]] === contender.tokenId[b[place]]) place++;
      this.comparedTokens[row] = place;
      this.divergence[row] = place < both ? place : Infinity;
    }
  }
}
