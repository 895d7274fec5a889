/* Tokens written over time, each side on its own clock from t0; below, one tick a step. Draws only what is new. */

import { make } from "./dom.js";
import { count } from "./format.js";

/** @import { View } from "./types" */
/** @import { Player } from "./player.js" */
/** @import { Side } from "./side.js" */

const RANGES_S = [1, 2, 3, 5, 8, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300, 600, 1200, 3600];
const TICKS_S = [0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600];
const MOST_TICKS = 8;
const PAD = { left: 44, right: 12, top: 8, bottom: 34 };
const AHEAD = 0.22; // opacity, in a replay, of what is still to come
const WORDS = "tokens written since each side began, one tick a step";

export class ChartView {
  #canvas = make("canvas", { class: "eet-canvas", role: "img", "aria-label": "Tokens written over time, both sides" });
  #pen = /** @type {CanvasRenderingContext2D} */ (this.#canvas.getContext("2d"));
  #head = make("div", { class: "eet-playhead", hidden: true });
  #width = 0;
  #height = 0;
  #rangeNs = 1e9;
  #maxTokens = 1;
  #colors = { line: "", ink: "" };
  /** @type {string[]} of each side */
  #hues = [];
  #drawnScale = "";
  /** @type {number[]} steps drawn of each side */
  #drawnSteps = [];

  /**
   * @param {Player} player
   * @param {(ns: number) => void} seek called when a place on the finished chart is pressed
   */
  constructor(player, seek) {
    this.player = player;
    const words = make("p", { class: "eet-chart-words" }, WORDS);
    this.root = make("div", { class: "eet-chart" }, this.#canvas, words, this.#head);
    this.#canvas.addEventListener("pointerdown", (event) => {
      if (player.result) seek(((event.offsetX - PAD.left) / this.#plotWidth) * this.#rangeNs);
    });
  }

  /** The next drawing is whole: the same instant is the same picture, however it was reached. */
  reset() {
    this.#drawnScale = "";
  }

  /** @param {View} view */
  draw(view) {
    const { sides } = this.player;
    const { clientWidth, clientHeight } = this.root;
    if (!clientWidth || !clientHeight) return;
    const rangeNs = this.#rangeFor();
    const maxTokens = Math.max(1, this.player.expectedTokens);
    const dark = document.body.classList.contains("dark");
    const scale = [clientWidth, clientHeight, rangeNs, maxTokens, sides.length, dark, view.replay].join(" ");
    const steps = sides.map((side) => side.stepsAt(view.ns));
    const backwards = steps.some((value, index) => value < (this.#drawnSteps[index] ?? 0));
    if (scale !== this.#drawnScale || backwards) {
      this.#drawnScale = scale;
      [this.#width, this.#height, this.#rangeNs, this.#maxTokens] = [clientWidth, clientHeight, rangeNs, maxTokens];
      this.#drawFrame(view.replay);
      this.#drawnSteps = sides.map(() => 0);
    }
    sides.forEach((side, index) => this.#drawSteps(side, this.#drawnSteps[index], steps[index], 1));
    this.#drawnSteps = steps;
    this.#head.hidden = !view.replay;
    if (view.replay) this.#head.style.transform = `translateX(${this.#x(Math.min(view.ns, this.#rangeNs))}px)`;
  }

  #rangeFor() {
    const longestNs = this.player.durationNs;
    if (this.player.result) return Math.max(longestNs * 1.02, 1e6);
    const needed = (longestNs * 1.1) / 1e9;
    return (RANGES_S.find((range) => range >= needed) ?? Math.ceil(needed / 600) * 600) * 1e9;
  }

  get #plotWidth() {
    return this.#width - PAD.left - PAD.right;
  }

  /** @param {number} ns */
  #x(ns) {
    return PAD.left + (ns / this.#rangeNs) * this.#plotWidth;
  }

  /** @param {number} tokens */
  #y(tokens) {
    return this.#height - PAD.bottom - (tokens / this.#maxTokens) * (this.#height - PAD.top - PAD.bottom);
  }

  /** @param {boolean} replay */
  #drawFrame(replay) {
    const dots = Math.min(window.devicePixelRatio || 1, 3);
    this.#canvas.width = this.#width * dots;
    this.#canvas.height = this.#height * dots;
    const style = getComputedStyle(this.root);
    this.#colors = {
      line: style.getPropertyValue("--eet-line"),
      ink: style.getPropertyValue("--eet-ink-2"),
    };
    this.#hues = this.player.sides.map((side) => style.getPropertyValue(`--eet-${side.kind.hue}`));
    this.#pen.setTransform(dots, 0, 0, dots, 0, 0);
    this.#pen.clearRect(0, 0, this.#width, this.#height);
    this.#pen.font = `11px ${style.fontFamily}`;
    this.#pen.fillStyle = this.#colors.ink;
    this.#drawTokenAxis();
    this.#drawTimeAxis();
    if (replay) for (const side of this.player.sides) this.#drawSteps(side, 0, side.stepTimeNs.length, AHEAD);
  }

  #drawTokenAxis() {
    const pen = this.#pen;
    pen.strokeStyle = this.#colors.line;
    pen.lineWidth = 1;
    pen.textBaseline = "middle";
    pen.textAlign = "right";
    for (const share of [0, 0.5, 1]) {
      const y = Math.round(this.#y(this.#maxTokens * share)) + 0.5;
      pen.beginPath();
      pen.moveTo(PAD.left, y);
      pen.lineTo(this.#width - PAD.right, y);
      pen.stroke();
      pen.fillText(count(this.#maxTokens * share), PAD.left - 8, y);
    }
  }

  #drawTimeAxis() {
    const pen = this.#pen;
    const range = this.#rangeNs / 1e9;
    const step = TICKS_S.find((tick) => range / tick <= MOST_TICKS) ?? range / 6;
    pen.textBaseline = "alphabetic";
    for (let tick = 0; tick <= range + 1e-9; tick += step) {
      const x = this.#x(tick * 1e9);
      if (x > this.#width - 20) break;
      pen.textAlign = tick === 0 ? "left" : "center";
      pen.fillText(`${Number(tick.toFixed(2))} s`, x, this.#height - 3);
    }
  }

  /**
   * The line and the ticks of steps `from` to `to`.
   * @param {Side} side
   * @param {number} from
   * @param {number} to
   * @param {number} alpha
   */
  #drawSteps(side, from, to, alpha) {
    if (to <= from) return;
    const pen = this.#pen;
    const { stepTimeNs, stepTokens } = side;
    pen.globalAlpha = alpha;
    pen.strokeStyle = this.#hues[side.index];
    pen.lineWidth = 2.25;
    pen.lineJoin = "round";
    pen.beginPath();
    if (from === 0) {
      pen.moveTo(this.#x(0), this.#y(0));
      pen.lineTo(this.#x(stepTimeNs[0]), this.#y(0));
    } else pen.moveTo(this.#x(stepTimeNs[from - 1]), this.#y(stepTokens[from - 1]));
    for (let step = from; step < to; step++) pen.lineTo(this.#x(stepTimeNs[step]), this.#y(stepTokens[step]));
    pen.stroke();
    const top = this.#height - PAD.bottom + 5 + side.index * 7;
    pen.lineWidth = 1;
    pen.beginPath();
    for (let step = from, last = -9; step < to; step++) {
      const x = this.#x(stepTimeNs[step]);
      if (x - last < 0.5) continue; // closer than a pixel: already inked
      last = x;
      pen.moveTo(x, top);
      pen.lineTo(x, top + 5);
    }
    pen.stroke();
    pen.globalAlpha = 1;
  }
}
