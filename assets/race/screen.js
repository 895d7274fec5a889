/* Everything the stage shows, from the notice down to the strip: lanes, the verdict between them, chart, transport. */

import { ChartView } from "./chart.js";
import { make, setText } from "./dom.js";
import { count, sentence } from "./format.js";
import { LaneView } from "./lane.js";
import { Side } from "./side.js";
import { StripView } from "./strip.js";
import { TransportView } from "./transport.js";
import { VerdictView } from "./verdict.js";

/** @import { Kind, Planned, View } from "./types" */
/** @import { Player } from "./player.js" */
/** @import { Actions } from "./transport.js" */

const HIGHEST_TOP_PX = 220; // a phone's controls are higher than that; the race then needs scrolling anyhow
const OPTIONS_TOP_PX = 140;
const PROMPT_TAIL = 160; // characters

export class ScreenView {
  #notice = make("div", { class: "eet-notice", role: "alert", hidden: true });
  #live = make("p", { class: "eet-sr", role: "status", "aria-live": "polite" });
  #promptSummary = make("summary", {}, "Prompt");
  #promptText = make("p", { class: "eet-prompt-text", tabindex: "0" });
  #prompt = make("details", { class: "eet-prompt", hidden: true }, this.#promptSummary, this.#promptText);
  #precision = make("p", { class: "eet-precision" });
  #lanesNode = make("div", { class: "eet-lanes" });
  /** @type {LaneView[]} */
  #lanes = [];
  strip = new StripView();

  /**
   * @param {Player} player
   * @param {Actions} actions
   */
  constructor(player, actions) {
    this.player = player;
    this.verdict = new VerdictView(player);
    this.chart = new ChartView(player, actions.seek);
    this.transport = new TransportView(player, actions);
    const above = [this.#notice, this.#prompt, this.#precision, this.#lanesNode];
    const below = [this.chart.root, this.transport.root, this.strip.root, this.#live];
    this.root = make("div", { class: "eet-stage" }, ...above, ...below);
  }

  /** The race fills what the controls leave of the window, so that 1280x720 needs no scrolling. */
  fit() {
    const topPx = Math.round(this.root.getBoundingClientRect().top + window.scrollY);
    const open = document.body.classList.contains("eet-more-open");
    this.root.style.setProperty("--eet-top", `${open ? OPTIONS_TOP_PX : Math.min(topPx, HIGHEST_TOP_PX)}px`);
  }

  /**
   * New lanes, one a side; those of `kinds` stand empty before the first race.
   * @param {Kind[]} kinds
   */
  showSides(kinds = []) {
    const { sides } = this.player;
    const shown = sides.length ? sides : kinds.map((kind, index) => new Side(kind, index, 0));
    this.#lanes = shown.map((side) => new LaneView(side, this.player));
    const [first, ...others] = this.#lanes.map((lane) => lane.root);
    this.#lanesNode.replaceChildren(first, this.verdict.root, ...others);
    this.#lanesNode.dataset.sides = String(this.#lanes.length);
    this.verdict.reset();
    this.chart.reset();
    this.transport.setRows(this.player.batch);
  }

  /**
   * @param {boolean} queued
   * @param {Planned | null} planned
   */
  drawIdle(queued, planned) {
    for (const lane of this.#lanes) lane.drawIdle(queued, planned);
  }

  /**
   * Whether both sides compute with the same numbers, and what it costs where they do not.
   * @param {string} words
   */
  drawPrecision(words) {
    setText(this.#precision, words);
    this.#precision.title = words;
  }

  drawPrompt() {
    const { promptTokens, promptText, batch } = this.player;
    const [shortest, longest] = [Math.min(...promptTokens), Math.max(...promptTokens)].map(count);
    const lengths = shortest === longest ? shortest : `${shortest} to ${longest}`;
    const tail = promptText.length > PROMPT_TAIL ? `…${promptText.slice(-PROMPT_TAIL)}` : promptText;
    const head = batch > 1 ? `Prompt, ${batch} rows of ${lengths} tokens` : `Prompt, ${lengths} tokens`;
    this.#promptSummary.replaceChildren(make("b", {}, head), ` ${tail.replace(/\s+/g, " ")}`);
    setText(this.#promptText, promptText);
    this.#prompt.hidden = false;
  }

  /** @param {number} row */
  showRow(row) {
    for (const lane of this.#lanes) lane.text.show(row);
    this.verdict.row = row;
  }

  get noticed() {
    return !this.#notice.hidden;
  }

  /**
   * A notice above everything.
   * @param {string} message
   * @param {string} remedy
   */
  say(message, remedy = "") {
    this.#notice.replaceChildren(make("strong", {}, sentence(message)), remedy ? ` ${sentence(remedy)}` : "");
    this.#notice.hidden = false;
  }

  hush() {
    this.#notice.hidden = true;
  }

  /**
   * For who cannot see the page: states, never the text.
   * @param {string} words
   */
  announce(words) {
    setText(this.#live, words);
  }

  bringIntoView() {
    const { top, bottom } = this.#lanesNode.getBoundingClientRect();
    if (top < 0 || bottom > window.innerHeight) this.#lanesNode.scrollIntoView({ block: "start" });
  }

  /**
   * @param {View} view
   * @param {{ state: string, playing: boolean, traceReady: boolean }} stage
   */
  draw(view, stage) {
    if (this.player.sides.length) {
      for (const lane of this.#lanes) lane.draw(view);
      this.verdict.draw(view);
      this.chart.draw(view);
    }
    this.transport.draw(view, stage);
    this.root.dataset.state = stage.state;
  }
}
