/* A side on the page: what it is, what it does, its numbers, its memory, its text. */

import { make, setText } from "./dom.js";
import { NONE, READOUT_NS, count, rate, seconds, sentence } from "./format.js";
import { MemoryView } from "./memory.js";
import { TextView } from "./text.js";
import { STATE_WORDS, plannedConfig } from "./words.js";

/** @import { Config, Planned, Problem, SideState, View } from "./types" */
/** @import { Player } from "./player.js" */
/** @import { Side } from "./side.js" */

const WAIT_WORDS = "Waits so that each side has the machine alone.";
const STOPPED_WORDS = "Stopped before the first token.";

/** @type {SideState[]} */
const OVER = ["done", "stopped", "failed"];
/** @type {SideState[]} */
const BUSY = ["loading", "warming", "prefilling"];

/** @param {number} ns */
const tenths = (ns) => `${(ns / 1e9).toFixed(1)} s`;

/**
 * @param {string} key
 * @param {string} words
 */
function numberCell(key, words) {
  const value = make("dd", { "data-number": key, "data-text": NONE }, NONE);
  const caption = make("dt", {}, words);
  return { value, caption, root: make("div", { class: `eet-number eet-number-${key}` }, caption, value) };
}

export class LaneView {
  #state = make("span", { class: "eet-state" });
  #config = make("p", { class: "eet-config" });
  #now = numberCell("now", "tokens/s now");
  #average = numberCell("average", "tokens/s average");
  #ttft = numberCell("ttft", "first token (TTFT)");
  #fill = make("div", { class: "eet-fill" });
  #track = make("div", { class: "eet-track" }, this.#fill);
  #phase = make("p", { class: "eet-phase" });
  #overlay = make("p", { class: "eet-overlay" });
  #error = make("div", { class: "eet-lane-error", hidden: true });
  #drawnNumbers = "";
  /** @type {Config | Planned | null} */
  #drawnConfig = null;
  /** @type {Problem | null} */
  #drawnError = null;

  /**
   * @param {Side} side
   * @param {Player} player
   */
  constructor(side, player) {
    this.side = side;
    this.player = player;
    this.text = new TextView(side);
    this.memory = new MemoryView(side);
    const titleId = `eet-lane-title-${side.index}`;
    const title = make("h2", { id: titleId }, side.kind.title);
    this.root = make(
      "section",
      { class: `eet-lane eet-hue-${side.kind.hue}`, "data-side": side.index, "aria-labelledby": titleId },
      make("header", { class: "eet-lane-head" }, title, this.#config, this.#state),
      make("dl", { class: "eet-numbers" }, this.#now.root, this.#average.root, this.#ttft.root),
      this.memory.root,
      make("div", { class: "eet-phase-row" }, this.#track, this.#phase),
      make("div", { class: "eet-text-box" }, this.text.root, this.#overlay, this.#error),
    );
  }

  /** @param {View} view */
  draw(view) {
    const { side, player } = this;
    const state = side.stateAt(view);
    const steps = side.stepsAt(view.ns);
    this.root.dataset.state = state;
    setText(this.#state, STATE_WORDS[state]);
    this.#drawConfig(player.settings);
    this.#drawNumbers(state, steps);
    this.memory.draw(view.ns, player.memoryScale);
    this.#drawPhase(view, state, steps);
    this.text.draw(steps, player.divergence[this.text.row] ?? Infinity);
    this.#drawOverlay(state, steps);
  }

  /**
   * The lane before any race.
   * @param {boolean} queued
   * @param {Planned | null} planned what the controls would start
   */
  drawIdle(queued, planned) {
    this.root.dataset.state = "idle";
    this.#drawConfig(planned);
    setText(this.#state, queued ? "queued" : "ready");
    const first = "Press Race: the text appears here as it is written.";
    const words = this.side.index ? "The same text, by the engine." : first;
    const waits = "Waits until the machine is free; the place in the queue is shown above.";
    setText(this.#overlay, queued ? waits : words);
  }

  /**
   * What the side is, its precision first; until it has loaded, what it was asked to be.
   * @param {Planned | null} settings
   */
  #drawConfig(settings) {
    const known = this.side.config ?? settings;
    if (!known || this.#drawnConfig === known) return;
    this.#drawnConfig = known;
    /** @type {Partial<Config>} */
    const config = this.side.config ?? plannedConfig(this.side.kind, known);
    const { dtype, weights, device, threads, engine, details = {} } = config;
    const words = [dtype, weights && `${weights} weights`, device, details.attention];
    if (device === "cpu" && threads) words.push(`${threads} thread${threads === 1 ? "" : "s"}`);
    if (engine && !this.side.kind.title.toLowerCase().startsWith(engine)) words.push(engine);
    setText(this.#config, words.filter(Boolean).join(" · "));
    const all = Object.entries(details).map(([key, value]) => {
      return `${key}: ${typeof value === "object" ? JSON.stringify(value) : value}`;
    });
    this.#config.title = [this.#config.textContent, ...all].join("\n");
  }

  /**
   * Digits change every READOUT_NS of stamped time; the last step always shows.
   * @param {SideState} state
   * @param {number} steps
   */
  #drawNumbers(state, steps) {
    const { side, player } = this;
    const finished = OVER.includes(state);
    const lastNs = steps ? side.stepTimeNs[steps - 1] : -1;
    const readout = finished ? `end ${steps}` : `${Math.floor(lastNs / READOUT_NS)} ${Math.min(steps, 2)}`;
    const metrics = state === "done" && steps === side.stepTimeNs.length ? side.metrics : null;
    const key = `${readout} ${Boolean(metrics)}`;
    if (this.#drawnNumbers === key) return;
    this.#drawnNumbers = key;
    const recent = side.recentRate(steps);
    const average = metrics ? metrics.decode_tok_s : side.averageRate(steps);
    const ttftNs = !steps ? null : metrics?.ttft_ms != null ? metrics.ttft_ms * 1e6 : side.ttftNs;
    setNumber(this.#now.value, recent, rate(recent));
    setNumber(this.#average.value, average, rate(average));
    setNumber(this.#ttft.value, ttftNs, seconds(ttftNs));
    const rows = player.batch > 1 ? ` · ${player.batch} rows` : "";
    setText(this.#now.caption, (finished ? "tokens/s last" : "tokens/s now") + rows);
    setText(this.#average.caption, "tokens/s average" + rows);
    this.root.dataset.finished = String(finished);
  }

  /**
   * @param {View} view
   * @param {SideState} state
   * @param {number} steps
   */
  #drawPhase(view, state, steps) {
    const { share, words } = this.#phaseOf(view, state, steps);
    this.#track.classList.toggle("eet-busy", BUSY.includes(state) && share == null);
    this.#fill.classList.toggle("eet-fill-prefill", state === "prefilling");
    this.#fill.style.transform = `scaleX(${Math.min(1, share ?? 0)})`;
    setText(this.#phase, words);
  }

  /**
   * How far the side is, as a share (null: nobody knows) and in words.
   * @param {View} view
   * @param {SideState} state
   * @param {number} steps
   */
  #phaseOf(view, state, steps) {
    const { side, player } = this;
    const promptTokens = player.promptTokens.reduce((sum, length) => sum + length, 0);
    const elapsed = tenths(side.elapsedNs(view));
    if (state === "prefilling") {
      const report = view.replay ? side.progressAt(view.ns) : side.progress;
      const tokens = report ? `${count(report.done)} of ${count(report.total)}` : count(promptTokens);
      const silent = !report && side.kind.silence ? ` (${side.kind.silence})` : "";
      const replayed = view.replay && side.ttftNs ? view.ns / side.ttftNs : null;
      const share = report ? report.done / report.total : replayed;
      return { share, words: `Prefill ${tokens} prompt tokens, ${elapsed}${silent}` };
    }
    if (steps && side.ttftNs != null) {
      const [written, expected] = [side.tokensAt(steps), player.expectedTokens];
      const speed = rate(side.metrics?.prefill_tok_s ?? (promptTokens / side.ttftNs) * 1e9);
      const prefill = `Prefill ${count(promptTokens)} tokens at ${speed} tokens/s`;
      const words = `${prefill} · ${count(written)} of ${count(expected)} new tokens`;
      return { share: expected ? written / expected : 1, words };
    }
    const preparing = state === "loading" || state === "warming";
    return { share: null, words: preparing ? `${side.detail || STATE_WORDS[state]} ${elapsed}` : "" };
  }

  /**
   * @param {SideState} state
   * @param {number} steps
   */
  #drawOverlay(state, steps) {
    const { detail, error } = this.side;
    const stopped = state === "stopped" && !steps;
    const words = state === "waiting" ? detail || WAIT_WORDS : stopped ? detail || STOPPED_WORDS : "";
    setText(this.#overlay, words);
    this.#overlay.hidden = !words || Boolean(error);
    if (!error || this.#drawnError === error) return;
    this.#drawnError = error;
    this.#error.replaceChildren(make("strong", {}, sentence(error.message)), sentence(error.remedy ?? ""));
    this.#error.hidden = false;
  }
}

/**
 * Shows a number, its unit smaller; the raw one goes along for tests.
 * @param {HTMLElement} node
 * @param {number | null | undefined} raw
 * @param {string} text
 */
function setNumber(node, raw, text) {
  node.dataset.value = String(raw ?? "");
  if (node.dataset.text === text) return;
  node.dataset.text = text;
  const unit = / (?:ms|s|min.*)$/.exec(text)?.[0] ?? "";
  const digits = text.slice(0, text.length - unit.length);
  node.replaceChildren(digits, ...(unit ? [make("small", {}, unit)] : []));
}
