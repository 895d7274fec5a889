/* The replay on the page: the clock's buttons, and drawing, once a frame at most and only when something moved. */

import { Clock } from "./clock.js";

/** @import { View } from "./types" */
/** @import { Player } from "./player.js" */

export class Playback {
  clock = new Clock();
  /** @type {number | null} */
  #frame = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #autoplay;

  /**
   * @param {Player} player
   * @param {(view: View) => void} draw
   * @param {AbortSignal} ended aborted when nothing may be drawn any more
   */
  constructor(player, draw, ended) {
    this.player = player;
    this.drawView = draw;
    this.ended = ended;
    ended.addEventListener("abort", () => {
      this.halt();
      if (this.#frame != null) cancelAnimationFrame(this.#frame);
    });
  }

  toggle() {
    if (this.clock.playing) this.halt();
    else this.play();
  }

  restart() {
    this.clock.ns = 0;
    this.play();
  }

  /** @param {number} delayMs */
  restartIn(delayMs) {
    this.#autoplay = setTimeout(() => this.restart(), delayMs);
  }

  play() {
    clearTimeout(this.#autoplay);
    this.clock.play(this.player.durationNs);
    this.schedule();
  }

  halt() {
    clearTimeout(this.#autoplay);
    this.clock.halt();
    this.schedule();
  }

  /** Back to everything there is: another race. */
  clear() {
    this.halt();
    this.clock.ns = null;
  }

  /** @param {number} ns */
  seek(ns) {
    this.halt();
    this.clock.seek(ns, this.player.durationNs);
  }

  schedule() {
    if (this.ended.aborted) return;
    this.#frame ??= requestAnimationFrame((nowMs) => {
      this.#frame = null;
      if (this.clock.playing) this.clock.advance(nowMs, this.player.durationNs);
      this.draw();
      if (this.clock.playing) this.schedule();
    });
  }

  draw() {
    const { ns } = this.clock;
    this.drawView({ replay: ns != null, ns: ns ?? Infinity, nowMs: performance.now() });
  }
}
