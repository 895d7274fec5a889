/* The replay's buttons, its position, the row of a batch that is shown, and the trace to take home. */

import { make, setText } from "./dom.js";

/** @import { View } from "./types" */
/** @import { Player } from "./player.js" */

/**
 * @typedef {object} Actions what the visitor can do to a race that has been run
 * @property {() => void} toggle
 * @property {() => void} restart
 * @property {(factor: number) => void} setSpeed
 * @property {(ns: number) => void} seek
 * @property {(row: number) => void} showRow
 * @property {() => void} download
 */

const SPEEDS = [0.25, 0.5, 1, 2, 4];
const SCRUB_STEPS = 1000;
const WORDS = "Replay on one clock, at true speed";

export class TransportView {
  #time = make("span", { class: "eet-time" });

  /**
   * @param {Player} player
   * @param {Actions} actions
   */
  constructor(player, actions) {
    this.player = player;
    const { toggle, restart, download } = actions;
    this.play = make("button", { type: "button", class: "eet-play", onclick: toggle }, "Play");
    this.speed = make("select", {
      "aria-label": "Replay speed",
      onchange: () => actions.setSpeed(Number(this.speed.value)),
    });
    this.speed.append(...SPEEDS.map((value) => make("option", { value }, `${value}×`)));
    this.speed.value = "1";
    this.scrub = make("input", {
      type: "range",
      min: 0,
      max: SCRUB_STEPS,
      value: 0,
      step: 1,
      "aria-label": "Replay position",
      oninput: () => actions.seek((Number(this.scrub.value) / SCRUB_STEPS) * player.durationNs),
    });
    this.rows = make("select", {
      "aria-label": "Row of the batch",
      onchange: () => actions.showRow(Number(this.rows.value)),
    });
    this.rowLabel = make("label", { class: "eet-rows", hidden: true }, "Row ", this.rows);
    this.download = make("button", { type: "button", class: "eet-download", onclick: download }, "Download trace");
    const again = make("button", { type: "button", onclick: restart }, "Restart");
    this.replaying = [this.play, again, this.speed, this.scrub];
    const words = make("span", { class: "eet-transport-words" }, WORDS);
    const nodes = [...this.replaying, this.#time, words, this.rowLabel, this.download];
    this.root = make("div", { class: "eet-transport" }, ...nodes);
  }

  /** @param {number} rows */
  setRows(rows) {
    this.rowLabel.hidden = rows < 2;
    const options = Array.from({ length: rows }, (_, row) => make("option", { value: row }, String(row + 1)));
    this.rows.replaceChildren(...options);
  }

  /**
   * @param {View} view
   * @param {{ playing: boolean, traceReady: boolean }} stage
   */
  draw(view, { playing, traceReady }) {
    const { durationNs, result } = this.player;
    const ready = Boolean(result) && durationNs > 0;
    for (const control of this.replaying) control.disabled = !ready;
    this.download.disabled = !traceReady;
    this.root.classList.toggle("eet-ready", ready);
    setText(this.play, playing ? "Pause" : "Play");
    const atNs = Math.min(view.ns, durationNs);
    setText(this.#time, ready ? `${(atNs / 1e9).toFixed(2)} / ${(durationNs / 1e9).toFixed(2)} s` : "");
    if (ready) this.scrub.value = String(Math.round((atNs / durationNs) * SCRUB_STEPS));
    this.scrub.setAttribute("aria-valuetext", `${(atNs / 1e9).toFixed(1)} seconds`);
  }
}
