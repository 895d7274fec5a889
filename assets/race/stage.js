/* The stage: updates in their order become a race on the screen, then its replay. It ends when its element has gone. */

import { LAYOUT_EVENT, prefersLessMotion } from "./dom.js";
import { download } from "./download.js";
import { rate, ratio } from "./format.js";
import { Inbox } from "./inbox.js";
import { Playback } from "./playback.js";
import { Player } from "./player.js";
import { ScreenView } from "./screen.js";
import { STATE_WORDS } from "./words.js";

/** @import { Idle, Kind, Parts, Plan, Planned, RaceChange, Recording, SideState } from "./types" */
/** @import { Trace, Update, Value } from "./types" */

const TICK_MS = 100;
const SILENCE_MS = 10000; // the server gives a sign of life every quarter of a second
const REPLAY_DELAY_MS = 1500;
const SILENT_WORDS = "No word from the server for ten seconds.";
const SILENT_REMEDY = "If it was stopped, start it again (python -m eet_demo) and reload this page.";

/** @type {SideState[]} */
const ANNOUNCED = ["prefilling", "done", "failed", "stopped"];

export class Stage {
  player = new Player();
  traceReady = false;
  /** @type {"idle" | "queued" | "live" | "done" | "failed"} */
  #state = "idle";
  #heardMs = 0;
  /** @type {Trace | null} the recording that is played */
  #recording = null;
  /** @type {Planned | null} */
  #planned = null;
  #plannedPrecision = "";
  /** @type {Kind[]} */
  #expected = [];
  #life = new AbortController();

  /** @param {Parts} parts */
  constructor({ element, props, server, watch, trigger }) {
    this.element = element;
    this.server = server;
    this.trigger = trigger;
    this.inbox = new Inbox({
      resync: (asked) => server.resync(asked),
      act: (update) => this.#apply(update),
      lost: (reason) => this.say(`Some updates of this race were lost (${reason})`, "Press Race to run it again."),
    });
    this.playback = new Playback(this.player, (view) => this.screen.draw(view, this), this.#life.signal);
    const { playback } = this;
    this.screen = new ScreenView(this.player, {
      toggle: () => playback.toggle(),
      restart: () => playback.restart(),
      setSpeed: (factor) => void (playback.clock.speed = factor),
      seek: (ns) => playback.seek(ns),
      showRow: (row) => this.#showRow(row),
      download: () => this.#download(),
    });
    element.replaceChildren(this.screen.root);
    this.#live();
    const read = () => props.value?.json && this.receive(JSON.parse(props.value.json));
    watch("value", read);
    read();
    this.fit();
  }

  /** What goes on beside the updates, until the element has gone. */
  #live() {
    const { signal } = this.#life;
    const ticker = setInterval(() => this.#tick(), TICK_MS);
    const sizes = new ResizeObserver(() => this.fit());
    sizes.observe(document.documentElement);
    window.addEventListener(LAYOUT_EVENT, () => this.fit(), { signal });
    document.fonts.addEventListener("loadingdone", () => this.fit(), { signal });
    signal.addEventListener("abort", () => {
      clearInterval(ticker);
      sizes.disconnect();
    });
  }

  /** Gradio tells nobody that a component has gone; elapsed seconds move; a silent server is said, not hidden. */
  #tick() {
    if (!this.element.isConnected) return this.#life.abort();
    if (this.#state !== "live") return;
    this.playback.schedule();
    if (performance.now() - this.#heardMs > SILENCE_MS && !this.screen.noticed) this.say(SILENT_WORDS, SILENT_REMEDY);
  }

  get closed() {
    return this.#life.signal.aborted;
  }

  get playing() {
    return this.playback.clock.playing;
  }

  get state() {
    return this.playing ? "replay" : this.#state;
  }

  fit() {
    this.screen.fit();
    this.playback.schedule();
  }

  // Updates, in order.

  /** @param {Value} value */
  receive(value) {
    this.#heardMs = performance.now();
    if ("idle" in value) return this.#rest(value.idle);
    if ("replay" in value) return this.#open(value.replay);
    if ("planned" in value) return this.#plan(value);
    this.inbox.receive(value);
  }

  /** @param {Update} update */
  #apply(update) {
    if (update.kind === "queued") this.#enqueue(update.kinds);
    else if (update.kind === "end") this.#end();
    else if (update.kind === "go") this.trigger("go");
    else if (update.kind === "leave") this.#leave();
    else if (update.kind === "error" && update.side == null) this.#fail(update.message, update.remedy);
    else this.#change(update);
    this.playback.schedule();
  }

  /** @param {RaceChange} update */
  #change(update) {
    if (update.kind === "state" && this.#state === "queued") this.#expect();
    this.player.apply(update, performance.now());
    if (update.kind === "race") this.#begin();
    else if (update.kind === "state") this.#announceState(update.side, update.state);
    else if (update.kind === "config") this.#drawStrip();
    else if (update.kind === "error") this.screen.announce(update.message);
    else if (update.kind === "result") this.#finish();
  }

  /** @param {Idle} idle */
  #rest(idle) {
    this.screen.strip.draw({ ...idle, settings: null, sides: [], recorded: false });
    this.#plan(idle);
    if (idle.notice) this.say(idle.notice.message, idle.notice.remedy);
  }

  /**
   * What the controls would start: shown until the first race begins, then each race says its own.
   * @param {Plan} plan
   */
  #plan({ planned, precision, kinds }) {
    this.#planned = planned;
    this.#plannedPrecision = precision;
    if (!this.player.sides.length) this.screen.showSides(kinds);
    this.#drawIdle();
    this.#drawPrecision();
    this.playback.schedule();
  }

  /** @param {Kind[]} kinds */
  #enqueue(kinds) {
    this.#state = "queued";
    this.#expected = kinds;
    this.playback.halt();
    this.hush();
    this.#drawIdle();
    this.screen.announce("Your race is in the queue.");
  }

  #leave() {
    this.#state = this.player.result ? "done" : "idle";
    this.#drawIdle();
    this.trigger("leave");
  }

  /** The race has its turn but no prompt yet: it waits for another one, or its model is fetched. */
  #expect() {
    this.player.expect(this.#expected, performance.now());
    this.#clear();
  }

  #clear() {
    this.playback.clear();
    this.#state = "live";
    this.traceReady = false;
    this.#recording = null;
    this.screen.showSides();
  }

  #begin() {
    this.hush();
    this.#clear();
    this.#drawPrecision();
    this.screen.drawPrompt();
    this.#drawStrip();
    this.fit();
    requestAnimationFrame(() => this.screen.bringIntoView()); // once the lanes have their size
  }

  #finish() {
    this.#state = "done";
    this.traceReady = true;
    this.#drawStrip();
    const { sides, result } = this.player;
    const whole = sides.length > 1 && sides.every((side) => side.state === "done");
    const speedup = result?.speedup?.decode;
    const ended = sides.some((side) => side.error) ? "The race ended with an error." : "The race ended.";
    this.screen.announce(whole && speedup ? `Race finished. Engine decode speed-up ${ratio(speedup)}.` : ended);
    if (whole && !prefersLessMotion()) this.playback.restartIn(REPLAY_DELAY_MS);
  }

  /** The server has sent everything there is. */
  #end() {
    if (this.#state === "queued" || this.#state === "live") this.#state = this.player.result ? "done" : "idle";
  }

  /**
   * @param {string} message
   * @param {string} [remedy]
   */
  #fail(message, remedy) {
    this.#state = "failed";
    this.playback.halt();
    this.say(message, remedy);
  }

  /** @param {Recording} recording */
  #open(recording) {
    this.player.load(recording, performance.now());
    this.#begin();
    this.#state = "done";
    this.traceReady = true;
    this.#recording = recording.trace;
    this.#drawStrip();
    if (!prefersLessMotion()) this.playback.restart();
  }

  // What it says and shows.

  /**
   * @param {string} message
   * @param {string} [remedy]
   */
  say(message, remedy) {
    this.screen.say(message, remedy);
    this.fit();
  }

  hush() {
    this.screen.hush();
    this.fit();
  }

  /**
   * @param {number} index
   * @param {SideState} state
   */
  #announceState(index, state) {
    if (!ANNOUNCED.includes(state)) return;
    const side = this.player.sides[index];
    const speed = side.averageRate(side.stepTimeNs.length);
    const words = state === "done" && speed ? `done, ${rate(speed)} tokens per second` : STATE_WORDS[state];
    this.screen.announce(`${side.kind.title}: ${words}.`);
  }

  #drawIdle() {
    if (!this.player.sides.length) this.screen.drawIdle(this.#state === "queued", this.#planned);
  }

  #drawPrecision() {
    this.screen.drawPrecision(this.player.sides.length ? this.player.precision : this.#plannedPrecision);
  }

  #drawStrip() {
    const { hardware, software, settings, sides } = this.player;
    this.screen.strip.draw({ hardware, software, settings, planned: null, sides, recorded: this.#recording != null });
  }

  /**
   * Draws the race as it stood at an instant: the same instant is the same picture, however it was reached.
   * @param {number} ns
   */
  drawAt(ns) {
    this.playback.seek(ns);
    this.screen.chart.reset();
    this.playback.draw();
  }

  /** @param {number} row */
  #showRow(row) {
    this.screen.showRow(row);
    this.playback.schedule();
  }

  async #download() {
    const ask = async () => this.#recording ?? (await this.server.trace({ run: this.inbox.run }));
    await download(ask, (message, remedy) => this.say(message, remedy));
  }
}
