/* The clock of the replay: one for both sides, from each side's t0, at true speed unless told otherwise. Pure. */

const LONGEST_FRAME_MS = 250; // a tab that was hidden goes on where it was

export class Clock {
  /** @type {number | null} null: everything there is */
  ns = null;
  playing = false;
  speed = 1;
  /** @type {number | null} */
  #lastFrameMs = null;

  /**
   * Goes on from where it stands; from the beginning when it stands at the end, or nowhere.
   * @param {number} durationNs of the race
   */
  play(durationNs) {
    if (this.ns == null || this.ns >= durationNs) this.ns = 0;
    this.playing = true;
    this.#lastFrameMs = null;
  }

  halt() {
    this.playing = false;
  }

  /**
   * @param {number} ns
   * @param {number} durationNs of the race
   */
  seek(ns, durationNs) {
    this.ns = Math.max(0, Math.min(ns, durationNs));
  }

  /**
   * Goes on by the time since the last frame, and stops at the end.
   * @param {number} nowMs
   * @param {number} durationNs of the race
   */
  advance(nowMs, durationNs) {
    const passedMs = this.#lastFrameMs == null ? 0 : Math.min(nowMs - this.#lastFrameMs, LONGEST_FRAME_MS);
    this.#lastFrameMs = nowMs;
    this.ns = Math.min(durationNs, (this.ns ?? 0) + passedMs * 1e6 * this.speed);
    this.playing = this.ns < durationNs;
  }
}
