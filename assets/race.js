/* The race on the page. One file, no framework; it owns everything inside the stage's element.
 *
 * Player   columns of one race, filled by live updates or by a recorded trace; rates come from stamps alone.
 * Views    a lane a side, the verdict between them, the chart, the transport, the strip of hardware and versions.
 * Stage    order of updates (with resync), the clock, one drawing a frame at most.
 *
 * Text of models and visitors only ever becomes a text node. `window.__race` is for tests, `window.__clock.set(ns)`
 * draws any instant of a finished race, so that a video can be rendered frame by frame.
 */
(() => {
  "use strict";

  // ---------------------------------------------------------------------------------------------- words and numbers

  const MIB = 2 ** 20;
  const GIB = 2 ** 30;
  const NONE = "–";
  const RATE_WINDOW_NS = 1e9; // "now" is the rate over the last second of stamps
  const READOUT_NS = 200e6; // digits change five times a second, so that they can be read

  const count = (value) => Math.round(value).toLocaleString("en-US");

  const format = {
    count,
    rate: (value) => (value == null ? NONE : value < 10 ? value.toFixed(2) : value < 100 ? value.toFixed(1) : count(value)),
    ratio: (value) => (value == null ? NONE : `${value < 10 ? value.toFixed(2) : value.toFixed(1)}×`),
    seconds: (ns) => {
      if (ns == null) return NONE;
      if (ns < 1e9) return `${Math.round(ns / 1e6)} ms`;
      if (ns < 60e9) return `${(ns / 1e9).toFixed(2)} s`;
      return `${Math.floor(ns / 60e9)} min ${Math.floor((ns % 60e9) / 1e9)} s`;
    },
    /** "7.4 of 8.2 MiB": both in the unit of the whole. */
    part: (used, whole) => {
      const [unit, name] = whole >= GIB ? [GIB, "GiB"] : [MIB, "MiB"];
      const digits = whole >= GIB ? 2 : whole >= 100 * MIB ? 0 : 1;
      return `${(used / unit).toFixed(digits)} of ${(whole / unit).toFixed(digits)} ${name}`;
    },
    bytes: (value) => {
      if (value == null) return NONE;
      if (value >= GIB) return `${(value / GIB).toFixed(2)} GiB`;
      return value >= 10 * MIB ? `${Math.round(value / MIB)} MiB` : `${(value / MIB).toFixed(1)} MiB`;
    },
  };

  const STATE_WORDS = {
    waiting: "waiting",
    loading: "loading",
    warming: "warming up",
    prefilling: "prefill",
    decoding: "decode",
    done: "done",
    failed: "failed",
    stopped: "stopped",
  };
  const WAIT_WORDS = "Waits so that each side has the machine alone.";
  const DEAF_PREFILL_WORDS = "stock generate cannot report from inside its prefill";
  const END_WORDS = "end of sequence: what follows is only written so that both sides do equal work";
  const DIVERGE_WORDS = "texts differ from here";

  function sideTitle(name) {
    const [kind, option] = name.split(":");
    const titles = {
      stock: "Stock generate",
      "stock-eager": "Stock generate, eager",
      "stock-static": "Stock generate, static cache",
      engine: "Engine",
      scripted: "Scripted side",
    };
    return (titles[kind] ?? kind) + (option && kind === "engine" ? ` (${option})` : "");
  }

  /** What a side that has not loaded yet will be: stock's weights are dense whatever the engine's are. */
  const plannedConfig = (name, { device, dtype, weights }) => ({ device, dtype, weights: name.startsWith("stock") ? "dense" : weights });

  const SHOWN_VERSIONS = ["eet_demo", "transformers", "torch", "python", "cupy-cuda12x", "cupy-cuda13x"]; // all of them in the tooltip

  /** Lane colours belong to what a side is, so that the same side has the same colour everywhere. */
  const sideHue = (name, index) => (name.startsWith("stock") ? "stock" : name.startsWith("engine") ? "engine" : ["stock", "engine"][index % 2]);

  // ---------------------------------------------------------------------------------------------- small tools

  /** An element. Children that are strings become text nodes: nothing is ever parsed as markup. */
  function make(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) {
      if (value == null) continue;
      if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
      else if (key === "hidden" || key === "disabled") node[key] = value;
      else node.setAttribute(key, value);
    }
    node.append(...children);
    return node;
  }

  /** Sets text only when it changes: no layout for nothing, no repeated announcements. */
  function setText(node, text) {
    if (node.textContent !== text) node.textContent = text;
  }

  /** Number of entries of the sorted `values` that are <= `limit`. */
  function countUpTo(values, limit) {
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

  /** Messages of the lower layers as sentences. */
  const sentence = (text) => text && text[0].toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");

  const prefersLessMotion = () => window.matchMedia("(prefers-reduced-motion: reduce)").matches;

  // ---------------------------------------------------------------------------------------------- the player

  /** Everything known about one side, as columns. `steps` are distinct stamps: one decode step of all rows. */
  class SideData {
    constructor(name, index, device = "cpu") {
      this.name = name;
      this.index = index;
      this.device = device;
      this.hue = sideHue(name, index);
      this.state = "waiting";
      this.detail = "";
      this.stateSinceMs = performance.now();
      this.config = null;
      this.progress = null; // the latest report, live
      this.progressLog = { time_ns: [], done: [], total: [] }; // every report, in a recording
      this.error = null;
      this.metrics = null;
      this.tokenText = [];
      this.tokenId = [];
      this.tokenAfterEnd = [];
      this.rowTokens = []; // per row: indexes into the columns above
      this.stepTimeNs = [];
      this.stepTokens = []; // tokens of all rows up to and including that step
      this.memoryTimeNs = [];
      this.memory = {}; // kind -> column
      this.memoryPeak = 0;
    }

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

    addMemory(columns) {
      for (let i = 0; i < columns.time_ns.length; i++) {
        const place = this.memoryTimeNs.length;
        this.memoryTimeNs.push(columns.time_ns[i] ?? -Infinity); // a sample taken before t0
        for (const key of Object.keys(columns)) {
          if (!key.endsWith("_bytes")) continue;
          const kind = key.slice(0, -"_bytes".length);
          (this.memory[kind] ??= [])[place] = columns[key][i];
        }
        const total = this.heldBytes({ process: columns.process_bytes?.[i], device_process: columns.device_process_bytes?.[i] }) ?? 0;
        this.memoryPeak = Math.max(this.memoryPeak, total, this.namedBytes(place));
      }
    }

    /** What the process holds where it runs: on the GPU as NVML counts it (which says 0 inside some containers). */
    heldBytes(sample) {
      return this.device === "cuda" ? sample.device_process || null : sample.process;
    }

    /** Sum of the kinds that exclude each other (the used part of the cache lies inside the reserved one). */
    namedBytes(place) {
      let sum = 0;
      for (const [kind, column] of Object.entries(this.memory)) {
        if (!/^(process|device|kv_cache_used)/.test(kind)) sum += column[place] ?? 0;
      }
      if (!this.memory.kv_cache_reserved) sum += this.memory.kv_cache_used?.[place] ?? 0;
      return sum;
    }

    /** Memory by kind at an instant, or null. */
    memoryAt(clockNs) {
      const place = countUpTo(this.memoryTimeNs, clockNs) - 1;
      if (place < 0) return this.memoryTimeNs.length ? this.memorySample(0) : null;
      return this.memorySample(place);
    }

    memorySample(place) {
      return Object.fromEntries(Object.entries(this.memory).map(([kind, column]) => [kind, column[place] ?? null]));
    }

    /** The last prefill report before `clockNs` of a recording, or null. */
    progressAt(clockNs) {
      const { time_ns, done, total } = this.progressLog;
      const place = countUpTo(time_ns, clockNs) - 1;
      return place < 0 ? null : { done: done[place], total: total[place] };
    }

    stepsAt(clockNs) {
      return countUpTo(this.stepTimeNs, clockNs);
    }

    get ttftNs() {
      return this.stepTimeNs.length ? this.stepTimeNs[0] : null;
    }

    get endNs() {
      return this.stepTimeNs.length ? this.stepTimeNs[this.stepTimeNs.length - 1] : 0;
    }

    /** Decode tokens/s of all rows from the first stamp to step `steps`: first tokens belong to the prefill. */
    averageRate(steps) {
      if (steps < 2) return null;
      const spanNs = this.stepTimeNs[steps - 1] - this.stepTimeNs[0];
      return ((this.stepTokens[steps - 1] - this.stepTokens[0]) / spanNs) * 1e9;
    }

    /** Decode tokens/s over the last second before step `steps`; a slower side takes its last gap. */
    recentRate(steps) {
      if (steps < 2) return null;
      const endNs = this.stepTimeNs[steps - 1];
      const from = Math.min(countUpTo(this.stepTimeNs, endNs - RATE_WINDOW_NS), steps - 2);
      return ((this.stepTokens[steps - 1] - this.stepTokens[from]) / (endNs - this.stepTimeNs[from])) * 1e9;
    }

    /** Tokens of `row` among the first `steps` steps. */
    rowTokensAt(row, steps) {
      const tokens = this.rowTokens[row];
      if (!tokens || steps === 0) return 0;
      return countUpTo(tokens, this.stepTokens[steps - 1] - 1);
    }
  }

  /** One race: settings and two sides. Fed by updates (live) or by a trace (replay); knows nothing of the screen. */
  class Player {
    constructor() {
      this.reset();
    }

    reset() {
      this.settings = null;
      this.hardware = null;
      this.software = null;
      this.promptTokens = [];
      this.promptText = "";
      this.notes = [];
      this.precision = "";
      this.sides = [];
      this.result = null;
      this.divergence = []; // per row: index of the first differing token, Infinity while equal
      this.comparedTokens = [];
    }

    apply(update) {
      const side = this.sides[update.side];
      if (update.kind === "race") this.begin(update);
      else if (update.kind === "state") Object.assign(side, { state: update.state, detail: update.detail ?? "", stateSinceMs: performance.now() });
      else if (update.kind === "config") side.config = update.config;
      else if (update.kind === "progress") side.progress = { done: update.done, total: update.total };
      else if (update.kind === "tokens") {
        side.addTokens(update);
        this.compare();
      } else if (update.kind === "memory") side.addMemory(update);
      else if (update.kind === "error" && side) side.error = { message: update.message, remedy: update.remedy ?? "" };
      else if (update.kind === "notes") this.notes = update.notes;
      else if (update.kind === "result") this.finish(update);
    }

    begin(update) {
      this.reset();
      this.settings = update.settings;
      this.hardware = update.hardware;
      this.software = update.software;
      this.promptTokens = update.prompt_tokens.map((row) => (Array.isArray(row) ? row.length : row));
      this.promptText = update.prompt_text ?? "";
      this.notes = update.notes ?? [];
      this.precision = update.precision ?? "";
      this.sides = update.sides.map((name, index) => new SideData(name, index, update.settings.device));
    }

    /** Two empty lanes of a race that has not begun: it waits, or its model is fetched. */
    expect(names) {
      this.reset();
      this.sides = names.map((name, index) => new SideData(name, index));
    }

    finish(update) {
      this.notes = update.notes ?? this.notes;
      this.result = { metrics: update.metrics ?? [], speedup: update.speedup ?? null, parity: update.parity ?? null };
      this.sides.forEach((side, index) => (side.metrics = update.metrics?.[index] ?? null));
      this.result.parity?.forEach((row, index) => {
        if (row) this.divergence[index] = row.first_divergence ?? Infinity;
      });
    }

    /** A recorded race, with what the server computed from it. */
    load({ trace, metrics, speedup, precision }) {
      this.begin({
        settings: trace.settings,
        hardware: trace.hardware,
        software: trace.software,
        prompt_tokens: trace.prompt_ids,
        prompt_text: trace.prompt_text,
        notes: trace.notes,
        precision,
        sides: trace.sides.map((side) => side.name),
      });
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
      this.finish({ metrics, speedup, parity: trace.parity });
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

    get memoryScale() {
      return Math.max(1, ...this.sides.map((side) => side.memoryPeak));
    }

    /** Continues the token-by-token comparison where it stopped: O(new tokens). */
    compare() {
      if (this.sides.length < 2 || !this.greedy) return;
      const [left, right] = this.sides;
      for (let row = 0; row < this.batch; row++) {
        if ((this.divergence[row] ?? Infinity) !== Infinity) continue;
        const a = left.rowTokens[row] ?? [];
        const b = right.rowTokens[row] ?? [];
        const both = Math.min(a.length, b.length);
        let place = this.comparedTokens[row] ?? 0;
        while (place < both && left.tokenId[a[place]] === right.tokenId[b[place]]) place++;
        this.comparedTokens[row] = place;
        this.divergence[row] = place < both ? place : Infinity;
      }
    }

    stateAt(side, view) {
      if (!view.replay) return side.state === "prefilling" && side.stepTimeNs.length ? "decoding" : side.state;
      if (side.ttftNs == null) return side.state === "done" ? "waiting" : side.state;
      if (view.ns < side.ttftNs) return "prefilling";
      return view.ns < side.endNs ? "decoding" : side.state;
    }
  }

  // ---------------------------------------------------------------------------------------------- a lane

  const MEMORY_WORDS = { weights: "weights", kv_cache_used: "KV", workspace: "workspace", allocator_slack: "allocator slack", other: "runtime", host: "host process" };

  class LaneView {
    constructor(side, player) {
      this.side = side;
      this.player = player;
      this.row = 0;
      this.numbers = {};
      this.segments = {};
      this.follow = true;
      this.build();
      this.clearText();
    }

    build() {
      const { side } = this;
      const titleId = `eet-lane-title-${side.index}`;
      this.stateNode = make("span", { class: "eet-state" });
      this.configNode = make("p", { class: "eet-config" });
      this.textNode = make("div", { class: "eet-text", tabindex: "0", role: "group", "aria-label": `Text by ${sideTitle(side.name)}` });
      this.textNode.addEventListener("scroll", () => {
        this.follow = this.textNode.scrollHeight - this.textNode.scrollTop - this.textNode.clientHeight < 32;
      });
      this.overlayNode = make("p", { class: "eet-overlay" });
      this.errorNode = make("div", { class: "eet-lane-error", hidden: true });
      this.fillNode = make("div", { class: "eet-fill" });
      this.phaseNode = make("p", { class: "eet-phase" });
      this.root = make(
        "section",
        { class: `eet-lane eet-hue-${side.hue}`, "data-side": String(side.index), "aria-labelledby": titleId },
        make("header", { class: "eet-lane-head" }, make("h2", { id: titleId }, sideTitle(side.name)), this.configNode, this.stateNode),
        this.buildNumbers(),
        this.buildMemory(),
        make("div", { class: "eet-phase-row" }, make("div", { class: "eet-track" }, this.fillNode), this.phaseNode),
        make("div", { class: "eet-text-box" }, this.textNode, this.overlayNode, this.errorNode),
      );
    }

    buildNumbers() {
      const cells = [
        ["now", "tokens/s now"],
        ["average", "tokens/s average"],
        ["ttft", "first token (TTFT)"],
      ];
      const list = make("dl", { class: "eet-numbers" });
      for (const [key, label] of cells) {
        const value = make("dd", { "data-number": key, "data-text": NONE }, NONE);
        const caption = make("dt", {}, label);
        this.numbers[key] = { value, caption };
        list.append(make("div", { class: `eet-number eet-number-${key}` }, caption, value));
      }
      return list;
    }

    buildMemory() {
      this.memoryTotal = make("span", { class: "eet-memory-total", "data-number": "process" }, NONE);
      this.memoryBar = make("div", { class: "eet-memory-bar", role: "img" });
      this.memoryLegend = make("ul", { class: "eet-memory-legend" });
      for (const kind of ["weights", "kv_cache_used", "kv_free", "workspace", "allocator_slack", "other"]) {
        this.segments[kind] = make("div", { class: `eet-segment eet-kind-${kind}` });
        this.memoryBar.append(this.segments[kind]);
      }
      this.legendItems = {};
      for (const kind of Object.keys(MEMORY_WORDS)) {
        const value = make("b", { "data-memory": kind });
        const item = make("li", { class: `eet-kind-${kind}`, hidden: true }, `${MEMORY_WORDS[kind]} `, value);
        this.legendItems[kind] = { item, value };
        this.memoryLegend.append(item);
      }
      return make(
        "div",
        { class: "eet-memory" },
        make("div", { class: "eet-memory-row" }, make("span", { class: "eet-memory-word" }, this.side.device === "cuda" ? "GPU memory" : "process memory"), this.memoryTotal, this.memoryBar),
        this.memoryLegend,
      );
    }

    draw(view) {
      const { side, player } = this;
      const state = player.stateAt(side, view);
      const steps = side.stepsAt(view.ns);
      this.root.dataset.state = state;
      setText(this.stateNode, STATE_WORDS[state] ?? state);
      this.drawConfig();
      this.drawNumbers(view, state, steps);
      this.drawMemory(view);
      this.drawPhase(view, state, steps);
      this.drawText(steps);
      this.drawOverlay(view, state, steps);
    }

    /** What the side is, its precision first; until it has loaded, what it was asked to be. */
    drawConfig(settings = this.player.settings) {
      const config = this.side.config ?? (settings && plannedConfig(this.side.name, settings));
      if (!config || this.drawnConfig === config) return;
      this.drawnConfig = config;
      const details = config.details ?? {};
      const words = [config.dtype, config.weights && `${config.weights} weights`, config.device, details.attention];
      if (config.device === "cpu" && config.threads) words.push(`${config.threads} thread${config.threads === 1 ? "" : "s"}`);
      if (config.engine !== "engine") words.push(config.engine);
      setText(this.configNode, words.filter(Boolean).join(" · "));
      const all = Object.entries(details).map(([key, value]) => `${key}: ${typeof value === "object" ? JSON.stringify(value) : value}`);
      this.configNode.title = [this.configNode.textContent, ...all].join("\n");
    }

    /** Digits change every READOUT_NS of stamped time; the last step always shows. */
    drawNumbers(view, state, steps) {
      const { side, player, numbers } = this;
      const finished = ["done", "stopped", "failed"].includes(state);
      const lastNs = steps ? side.stepTimeNs[steps - 1] : -1;
      const readout = finished ? `end ${steps}` : `${Math.floor(lastNs / READOUT_NS)} ${Math.min(steps, 2)}`;
      const complete = state === "done" && side.metrics && steps === side.stepTimeNs.length;
      const key = `${readout} ${complete}`;
      if (this.drawnNumbers === key) return;
      this.drawnNumbers = key;
      const average = complete ? side.metrics.decode_tok_s : side.averageRate(steps);
      const ttftNs = !steps ? null : complete && side.metrics.ttft_ms != null ? side.metrics.ttft_ms * 1e6 : side.ttftNs;
      const recent = side.recentRate(steps);
      this.setNumber("now", recent, format.rate(recent));
      this.setNumber("average", average, format.rate(average));
      this.setNumber("ttft", ttftNs, format.seconds(ttftNs));
      const rows = player.batch > 1 ? ` · ${player.batch} rows` : "";
      setText(numbers.now.caption, (finished ? "tokens/s last" : "tokens/s now") + rows);
      setText(numbers.average.caption, "tokens/s average" + rows);
      this.root.dataset.finished = String(finished);
    }

    setNumber(key, raw, text) {
      const { value } = this.numbers[key];
      const [, digits, unit] = /^(.*?)( (?:ms|s|min.*))?$/.exec(text);
      value.dataset.value = raw ?? "";
      if (value.dataset.text === text) return;
      value.dataset.text = text;
      value.replaceChildren(digits, ...(unit ? [make("small", {}, unit)] : []));
    }

    drawMemory(view) {
      const sample = this.side.memoryAt(view.ns);
      const scale = this.player.memoryScale;
      const key = sample && `${Object.values(sample)} ${scale}`;
      if (!sample || this.drawnMemory === key) return;
      this.drawnMemory = key;
      const known = (kind) => sample[kind] ?? 0;
      const used = known("kv_cache_used");
      const reserved = Math.max(known("kv_cache_reserved"), used);
      const named = known("weights") + reserved + known("workspace") + known("allocator_slack");
      const parts = {
        weights: known("weights"),
        kv_cache_used: used,
        kv_free: reserved - used,
        workspace: known("workspace"),
        allocator_slack: known("allocator_slack"),
        other: Math.max(0, (this.side.heldBytes(sample) ?? 0) - named),
      };
      for (const [kind, bytes] of Object.entries(parts)) this.segments[kind].style.width = `${(bytes / scale) * 100}%`;
      parts.host = this.side.device === "cuda" ? known("process") : 0; // beside the bar, which is the GPU's
      const words = [];
      for (const [kind, { item, value }] of Object.entries(this.legendItems)) {
        item.hidden = !(parts[kind] > 0 || (kind === "kv_cache_used" && reserved > 0));
        const both = kind === "kv_cache_used" && reserved > used;
        setText(value, both ? format.part(used, reserved) : format.bytes(parts[kind]));
        if (!item.hidden) words.push(item.textContent);
      }
      const total = this.side.heldBytes(sample) ?? named;
      setText(this.memoryTotal, format.bytes(total));
      this.memoryTotal.dataset.value = total;
      this.memoryBar.setAttribute("aria-label", `${this.side.device === "cuda" ? "GPU memory" : "Memory"}: process ${format.bytes(total)}; ${words.join(", ")}`);
    }

    drawPhase(view, state, steps) {
      const { side, player } = this;
      const promptTokens = player.promptTokens.reduce((sum, length) => sum + length, 0);
      const expected = player.newTokens * player.batch;
      const written = steps ? side.stepTokens[steps - 1] : 0;
      const elapsedNs = view.replay ? view.ns : (performance.now() - side.stateSinceMs) * 1e6;
      let share = null;
      let words = "";
      if (state === "prefilling") {
        const report = view.replay ? side.progressAt(view.ns) : side.progress;
        const elapsed = `${(elapsedNs / 1e9).toFixed(1)} s`;
        share = report ? report.done / report.total : view.replay ? view.ns / side.ttftNs : null;
        words = report
          ? `Prefill ${count(report.done)} of ${count(report.total)} prompt tokens, ${elapsed}`
          : `Prefill ${count(promptTokens)} prompt tokens, ${elapsed}`;
        if (!report && side.name.startsWith("stock")) words += ` (${DEAF_PREFILL_WORDS})`;
      } else if (steps) {
        share = expected ? written / expected : 1;
        const rate = side.metrics?.prefill_tok_s ?? (promptTokens / side.ttftNs) * 1e9;
        words = `Prefill ${count(promptTokens)} tokens at ${format.rate(rate)} tokens/s · ${count(written)} of ${count(expected)} new tokens`;
      } else if (state === "loading" || state === "warming") {
        words = `${side.detail || STATE_WORDS[state]} ${(elapsedNs / 1e9).toFixed(1)} s`;
      }
      const busy = ["loading", "warming", "prefilling"].includes(state);
      this.fillNode.parentNode.classList.toggle("eet-busy", busy && share == null);
      this.fillNode.classList.toggle("eet-fill-prefill", state === "prefilling");
      this.fillNode.style.transform = `scaleX(${Math.min(1, share ?? 0)})`;
      setText(this.phaseNode, words);
    }

    drawOverlay(view, state, steps) {
      const { side } = this;
      const words = state === "waiting" ? side.detail || WAIT_WORDS : state === "stopped" && !steps ? side.detail || "Stopped before the first token." : "";
      setText(this.overlayNode, words);
      this.overlayNode.hidden = !words || Boolean(side.error);
      if (side.error && this.drawnError !== side.error) {
        this.drawnError = side.error;
        this.errorNode.replaceChildren(make("strong", {}, sentence(side.error.message)), sentence(side.error.remedy));
        this.errorNode.hidden = false;
      }
    }

    // The text: spans of one class each, and a last span that holds the newest token.

    clearText() {
      this.fresh = make("span", { class: "eet-fresh" });
      this.textNode.replaceChildren(this.fresh);
      this.freshText = "";
      this.span = null;
      this.drawnTokens = 0;
      this.follow = true;
    }

    showRow(row) {
      this.row = row;
      this.clearText();
    }

    drawText(steps) {
      const { side, player } = this;
      const visible = side.rowTokensAt(this.row, steps);
      const divergence = player.divergence[this.row] ?? Infinity;
      if (visible < this.drawnTokens || (divergence < this.drawnTokens && this.drawnDivergence !== divergence)) this.clearText();
      this.drawnDivergence = divergence;
      if (visible === this.drawnTokens) return;
      const tokens = side.rowTokens[this.row];
      this.settle();
      let pending = "";
      for (let place = this.drawnTokens; place < visible; place++) {
        const token = tokens[place];
        const afterEnd = side.tokenAfterEnd[token];
        if (!this.span || afterEnd !== this.spanAfterEnd || place === divergence) {
          this.write(pending);
          pending = "";
          if (afterEnd && !this.spanAfterEnd) this.mark("eet-mark-end", END_WORDS);
          if (place === divergence) this.mark("eet-mark-diverge", DIVERGE_WORDS);
          this.openSpan(afterEnd);
        }
        if (place === visible - 1) {
          this.write(pending);
          this.freshText = side.tokenText[token];
          this.fresh.textContent = this.freshText;
        } else pending += side.tokenText[token];
      }
      this.drawnTokens = visible;
      if (this.follow) this.textNode.scrollTop = this.textNode.scrollHeight;
    }

    openSpan(afterEnd) {
      this.spanAfterEnd = afterEnd;
      this.span = document.createTextNode("");
      this.textNode.insertBefore(make("span", { class: afterEnd ? "eet-after-end" : "eet-written" }, this.span), this.fresh);
      this.fresh.classList.toggle("eet-after-end", afterEnd);
    }

    write(text) {
      if (text) this.span.appendData(text);
    }

    settle() {
      if (!this.freshText) return;
      this.write(this.freshText);
      this.freshText = "";
      this.fresh.textContent = "";
    }

    mark(className, words) {
      this.textNode.insertBefore(make("span", { class: `eet-mark ${className}` }, words), this.fresh);
    }
  }

  // ---------------------------------------------------------------------------------------------- between the lanes

  class VerdictView {
    constructor(player) {
      this.player = player;
      this.row = 0;
      this.number = make("p", { class: "eet-speedup eet-empty", "data-number": "speedup" }, NONE);
      this.caption = make("p", { class: "eet-speedup-caption" }, "decode speed-up");
      this.others = make("p", { class: "eet-speedup-others" });
      this.equal = make("b", { "data-number": "parity" }, NONE);
      this.parityFill = make("div", { class: "eet-parity-fill" });
      this.parityMark = make("div", { class: "eet-parity-mark", hidden: true });
      this.parityWords = make("p", { class: "eet-parity-words" });
      this.notes = make("ul", { class: "eet-notes" });
      this.root = make(
        "section",
        { class: "eet-verdict", "aria-label": "Speed-up and parity" },
        make("div", { class: "eet-speedup-box" }, this.number, this.caption, this.others),
        make(
          "div",
          { class: "eet-parity" },
          make("p", { class: "eet-parity-head" }, "same tokens ", this.equal),
          make("div", { class: "eet-parity-track" }, this.parityFill, this.parityMark),
          this.parityWords,
        ),
        this.notes,
      );
    }

    /** Which side is compared with which: the engine over stock, or the second over the first. */
    pair() {
      const { sides } = this.player;
      const engine = sides.find((side) => side.name.startsWith("engine")) ?? sides[1];
      return [sides.find((side) => side !== engine), engine];
    }

    draw(view) {
      this.drawSpeedup(view);
      this.drawParity(view);
      if (this.drawnNotes !== this.player.notes) {
        this.drawnNotes = this.player.notes;
        const shared = this.player.settings?.schedule === "together" ? ["Both at once: these rates share the hardware."] : [];
        this.notes.replaceChildren(...[...shared, ...this.player.notes].map((note) => make("li", {}, note)));
      }
    }

    drawSpeedup(view) {
      const { player } = this;
      const [base, engine] = this.pair();
      if (!base || !engine) return;
      const complete = player.result?.speedup && view.ns >= player.durationNs;
      const rates = [base, engine].map((side) => side.averageRate(side.stepsAt(view.ns)));
      const live = rates[0] && rates[1] ? rates[1] / rates[0] : null;
      const decode = complete ? player.result.speedup.decode : live;
      const stampedNs = Math.min(view.ns, base.endNs) + Math.min(view.ns, engine.endNs);
      const readout = `${Math.floor(stampedNs / READOUT_NS)} ${complete} ${decode == null ? this.waitingWords() : ""}`;
      if (this.drawnSpeedup === readout) return;
      this.drawnSpeedup = readout;
      setText(this.number, format.ratio(decode));
      this.number.dataset.value = decode ?? "";
      this.number.classList.toggle("eet-empty", decode == null);
      setText(this.caption, decode == null ? this.waitingWords() : "decode speed-up");
      const { prefill, ttft } = complete ? player.result.speedup : {};
      const words = [prefill != null && `prefill ${format.ratio(prefill)}`, ttft != null && `first token ${format.ratio(ttft)}`];
      setText(this.others, words.filter(Boolean).join(" · "));
    }

    waitingWords() {
      const { sides, result } = this.player;
      if (sides.length < 2) return "one side, no ratio";
      const over = (result && result.speedup?.decode == null) || sides.some((side) => side.state === "failed" || side.state === "stopped");
      return over ? "no speed-up: a side did not write" : "decode speed-up, once both write";
    }

    drawParity(view) {
      const { player, row } = this;
      const [base, engine] = this.pair();
      if (!base || !engine) return;
      this.root.dataset.parity = player.greedy ? "greedy" : "sampling";
      if (!player.greedy) {
        setText(this.equal, NONE);
        setText(this.parityWords, "Not compared: with sampling each side draws its own text.");
        return;
      }
      const both = Math.min(base.rowTokensAt(row, base.stepsAt(view.ns)), engine.rowTokensAt(row, engine.stepsAt(view.ns)));
      const divergence = player.divergence[row] ?? Infinity;
      const equal = Math.min(both, divergence);
      const final = player.result?.parity?.[row];
      const differs = divergence < both;
      setText(this.equal, both ? `${count(equal)} of ${count(both)}` : NONE);
      this.equal.dataset.value = both ? equal : "";
      this.parityFill.style.transform = `scaleX(${player.newTokens ? equal / player.newTokens : 0})`;
      this.parityMark.hidden = !differs;
      if (differs) this.parityMark.style.left = `${(divergence / player.newTokens) * 100}%`;
      setText(this.parityWords, this.parityText({ both, differs, divergence, margin: final?.margin_at_divergence }));
    }

    parityText({ both, differs, divergence, margin }) {
      if (!both) return "token by token, greedy";
      if (!differs) return both === this.player.newTokens ? "every token equal" : "equal as far as both have written";
      const words = `first differs at token ${count(divergence + 1)}`;
      return margin == null ? words : `${words}; stock's logit margin there ${margin.toPrecision(2)}`;
    }
  }

  // ---------------------------------------------------------------------------------------------- the chart

  const CHART_STEPS_S = [1, 2, 3, 5, 8, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300, 600, 1200, 3600];
  const CHART_PAD = { left: 44, right: 12, top: 8, bottom: 34 };

  /** Tokens written over time, each side on its own clock from t0; below, one tick a step. Draws only what is new. */
  class ChartView {
    constructor(player, seek) {
      this.player = player;
      this.canvas = make("canvas", { class: "eet-canvas", role: "img", "aria-label": "Tokens written over time, both sides" });
      this.head = make("div", { class: "eet-playhead", hidden: true });
      this.root = make("div", { class: "eet-chart" }, this.canvas, make("p", { class: "eet-chart-words" }, "tokens written since each side began, one tick a step"), this.head);
      this.canvas.addEventListener("pointerdown", (event) => {
        if (player.result) seek(((event.offsetX - CHART_PAD.left) / this.plotWidth) * this.rangeNs);
      });
      this.drawn = [];
    }

    rangeFor(view) {
      const longest = this.player.durationNs;
      if (this.player.result) return Math.max(longest * 1.02, 1e6);
      const needed = longest * 1.1;
      return (CHART_STEPS_S.find((step) => step * 1e9 >= needed) ?? Math.ceil(needed / 600e9) * 600) * 1e9;
    }

    get plotWidth() {
      return this.width - CHART_PAD.left - CHART_PAD.right;
    }

    x(ns) {
      return CHART_PAD.left + (ns / this.rangeNs) * this.plotWidth;
    }

    y(tokens) {
      return this.height - CHART_PAD.bottom - (tokens / this.maxTokens) * (this.height - CHART_PAD.top - CHART_PAD.bottom);
    }

    draw(view) {
      const rangeNs = this.rangeFor(view);
      const maxTokens = Math.max(1, this.player.newTokens * this.player.batch);
      const { clientWidth: width, clientHeight: height } = this.root;
      if (!width || !height) return;
      const scale = `${width} ${height} ${rangeNs} ${maxTokens} ${this.player.sides.length} ${document.body.classList.contains("dark")} ${view.replay}`;
      const steps = this.player.sides.map((side) => side.stepsAt(view.ns));
      const backwards = steps.some((value, index) => value < (this.drawn[index] ?? 0));
      if (scale !== this.drawnScale || backwards) {
        this.drawnScale = scale;
        Object.assign(this, { width, height, rangeNs, maxTokens });
        this.drawFrame(view);
        this.drawn = this.player.sides.map(() => 0);
      }
      this.player.sides.forEach((side, index) => {
        this.drawSteps(side, this.drawn[index], steps[index], 1);
        this.drawn[index] = steps[index];
      });
      this.head.hidden = !view.replay;
      if (view.replay) this.head.style.transform = `translateX(${this.x(Math.min(view.ns, this.rangeNs))}px)`;
    }

    drawFrame(view) {
      const ratio = Math.min(window.devicePixelRatio || 1, 3);
      const canvas = this.canvas;
      canvas.width = this.width * ratio;
      canvas.height = this.height * ratio;
      const style = getComputedStyle(this.root);
      this.colors = {
        stock: style.getPropertyValue("--eet-stock"),
        engine: style.getPropertyValue("--eet-engine"),
        line: style.getPropertyValue("--eet-line"),
        ink: style.getPropertyValue("--eet-ink-2"),
      };
      const pen = (this.pen = canvas.getContext("2d"));
      pen.setTransform(ratio, 0, 0, ratio, 0, 0);
      pen.clearRect(0, 0, this.width, this.height);
      pen.font = `11px ${style.fontFamily}`;
      this.drawAxes(pen);
      if (view.replay) this.player.sides.forEach((side) => this.drawSteps(side, 0, side.stepTimeNs.length, 0.22));
    }

    drawAxes(pen) {
      pen.strokeStyle = this.colors.line;
      pen.fillStyle = this.colors.ink;
      pen.lineWidth = 1;
      pen.textBaseline = "middle";
      pen.textAlign = "right";
      for (const share of [0, 0.5, 1]) {
        const y = Math.round(this.y(this.maxTokens * share)) + 0.5;
        pen.beginPath();
        pen.moveTo(CHART_PAD.left, y);
        pen.lineTo(this.width - CHART_PAD.right, y);
        pen.stroke();
        pen.fillText(count(this.maxTokens * share), CHART_PAD.left - 8, y);
      }
      const seconds = this.rangeNs / 1e9;
      const step = [0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600].find((value) => seconds / value <= 8) ?? seconds / 6;
      pen.textBaseline = "alphabetic";
      for (let tick = 0; tick <= seconds + 1e-9; tick += step) {
        const x = this.x(tick * 1e9);
        if (x > this.width - 20) break;
        pen.textAlign = tick === 0 ? "left" : "center";
        pen.fillText(`${Number(tick.toFixed(2))} s`, x, this.height - 3);
      }
    }

    drawSteps(side, from, to, alpha) {
      if (to <= from) return;
      const pen = this.pen;
      pen.globalAlpha = alpha;
      pen.strokeStyle = this.colors[side.hue];
      pen.lineWidth = 2.25;
      pen.lineJoin = "round";
      pen.beginPath();
      if (from === 0) {
        pen.moveTo(this.x(0), this.y(0));
        pen.lineTo(this.x(side.stepTimeNs[0]), this.y(0));
      } else pen.moveTo(this.x(side.stepTimeNs[from - 1]), this.y(side.stepTokens[from - 1]));
      for (let step = from; step < to; step++) pen.lineTo(this.x(side.stepTimeNs[step]), this.y(side.stepTokens[step]));
      pen.stroke();
      const top = this.height - CHART_PAD.bottom + 5 + side.index * 7;
      pen.lineWidth = 1;
      pen.beginPath();
      for (let step = from, last = -9; step < to; step++) {
        const x = this.x(side.stepTimeNs[step]);
        if (x - last < 0.5) continue; // closer than a pixel: already inked
        last = x;
        pen.moveTo(x, top);
        pen.lineTo(x, top + 5);
      }
      pen.stroke();
      pen.globalAlpha = 1;
    }
  }

  // ---------------------------------------------------------------------------------------------- replay controls

  class TransportView {
    constructor(stage) {
      this.stage = stage;
      this.playButton = make("button", { type: "button", class: "eet-play", onclick: () => stage.toggle() }, "Play");
      this.restart = make("button", { type: "button", onclick: () => stage.restart() }, "Restart");
      this.speed = make("select", { "aria-label": "Replay speed", onchange: () => stage.setSpeed(Number(this.speed.value)) });
      for (const value of [0.25, 0.5, 1, 2, 4]) this.speed.append(make("option", { value }, `${value}×`));
      this.speed.value = "1";
      this.scrub = make("input", { type: "range", min: "0", max: "1000", value: "0", step: "1", "aria-label": "Replay position" });
      this.scrub.addEventListener("input", () => stage.seek((Number(this.scrub.value) / 1000) * stage.player.durationNs));
      this.time = make("span", { class: "eet-time" });
      this.words = make("span", { class: "eet-transport-words" }, "Replay on one clock, at true speed");
      this.rows = make("select", { "aria-label": "Row of the batch", onchange: () => stage.showRow(Number(this.rows.value)) });
      this.rowLabel = make("label", { class: "eet-rows", hidden: true }, "Row ", this.rows);
      this.download = make("button", { type: "button", class: "eet-download", onclick: () => stage.download() }, "Download trace");
      this.controls = [this.playButton, this.restart, this.speed, this.scrub];
      this.root = make("div", { class: "eet-transport" }, this.playButton, this.restart, this.speed, this.scrub, this.time, this.words, this.rowLabel, this.download);
    }

    setRows(rows) {
      this.rowLabel.hidden = rows < 2;
      this.rows.replaceChildren(...Array.from({ length: rows }, (_, row) => make("option", { value: row }, String(row + 1))));
    }

    draw(view) {
      const { stage } = this;
      const ready = Boolean(stage.player.result) && stage.player.durationNs > 0;
      for (const control of this.controls) control.disabled = !ready;
      this.download.disabled = !stage.traceReady;
      this.root.classList.toggle("eet-ready", ready);
      setText(this.playButton, stage.playing ? "Pause" : "Play");
      const atNs = view.replay ? Math.min(view.ns, stage.player.durationNs) : stage.player.durationNs;
      setText(this.time, ready ? `${(atNs / 1e9).toFixed(2)} / ${(stage.player.durationNs / 1e9).toFixed(2)} s` : "");
      if (ready) this.scrub.value = String(Math.round((atNs / stage.player.durationNs) * 1000));
      this.scrub.setAttribute("aria-valuetext", `${(atNs / 1e9).toFixed(1)} seconds`);
    }
  }

  // ---------------------------------------------------------------------------------------------- hardware and versions

  class StripView {
    constructor() {
      this.facts = make("ul", {});
      this.root = make("footer", { class: "eet-strip", "aria-label": "Hardware, precision and versions" }, this.facts);
    }

    draw({ hardware, software, settings, planned, sides, recorded }) {
      const facts = [];
      const { device } = settings ?? planned ?? {};
      if (recorded) facts.push(["recording", "played back, not running now"]);
      if (hardware && device) facts.push(["device", deviceWords(device, hardware)]);
      if (hardware) facts.push(["machine", hardwareWords(hardware)]);
      if (settings) {
        facts.push(["model", settings.model], ["precision", precisionWords(settings, sides)], ["work", workWords(settings)]);
        facts.push(["measured", settings.schedule === "together" ? "both at once, sharing the machine" : "in turn, each side alone"]);
      }
      const named = (names) => names.map((name) => `${name} ${software[name]}`).join(", ");
      if (software) facts.push(["versions", named(SHOWN_VERSIONS.filter((name) => software[name])), named(Object.keys(software))]);
      this.facts.replaceChildren(...facts.map(([name, words, title]) => make("li", { title }, make("b", {}, name), ` ${words}`)));
    }
  }

  /** Both sides run on the same device. */
  function deviceWords(device, hardware) {
    if (device === "cuda") return `both sides on the GPU (cuda): ${hardware.gpu ?? "unknown"}`;
    return device === "cpu" ? "both sides on the processor (cpu)" : `the engine on ${device}, stock on the processor`;
  }

  function hardwareWords(hardware) {
    const words = [`${hardware.cpu}, ${hardware.cores} core${hardware.cores === 1 ? "" : "s"}`, `${format.bytes(hardware.memory_bytes)} RAM`];
    words.push(hardware.gpu ? `${hardware.gpu} (${format.bytes(hardware.gpu_memory_bytes)}, driver ${hardware.driver})` : "no GPU");
    return words.join(", ");
  }

  function precisionWords(settings, sides) {
    const configs = (sides ?? []).filter((side) => side.config);
    if (!configs.length) return `${settings.dtype}, engine weights ${settings.weights}`;
    const words = configs.map((side) => `${sideTitle(side.name)} ${side.config.dtype} ${side.config.weights}`);
    return words.join(", ");
  }

  function workWords(settings) {
    const sampling = settings.temperature ? `temperature ${settings.temperature}, top-k ${settings.top_k}, top-p ${settings.top_p}, seed ${settings.seed}` : "greedy";
    return `${count(settings.context)} prompt + ${count(settings.new_tokens)} new tokens, batch ${settings.batch}${settings.ragged ? " ragged" : ""}, ${sampling}`;
  }

  // ---------------------------------------------------------------------------------------------- the stage

  const SILENCE_MS = 10000; // the server sends a sign of life every second
  const REPLAY_DELAY_MS = 1500;

  class Stage {
    constructor({ element, props, server, watch, trigger }) {
      Object.assign(this, { element, props, server, trigger });
      this.player = new Player();
      this.state = "idle"; // idle, queued, live, done, replay, failed
      this.run = null;
      this.nextSeq = 0;
      this.early = new Map(); // payloads that came before their turn
      this.clockNs = null; // null: everything there is
      this.playing = false;
      this.speedFactor = 1;
      this.traceReady = false;
      this.recording = null;
      this.build();
      const read = () => this.props.value?.json && this.receive(JSON.parse(this.props.value.json));
      watch("value", read);
      read();
      this.ticker = setInterval(() => this.tick(), 100);
      new ResizeObserver(() => this.fit()).observe(document.documentElement);
      this.fit();
    }

    build() {
      this.notice = make("div", { class: "eet-notice", role: "alert", hidden: true });
      this.live = make("p", { class: "eet-sr", role: "status", "aria-live": "polite" });
      this.promptSummary = make("summary", {}, "Prompt");
      this.promptText = make("p", { class: "eet-prompt-text", tabindex: "0" });
      this.prompt = make("details", { class: "eet-prompt", hidden: true }, this.promptSummary, this.promptText);
      this.precision = make("p", { class: "eet-precision" });
      this.lanesNode = make("div", { class: "eet-lanes" });
      this.verdict = new VerdictView(this.player);
      this.chart = new ChartView(this.player, (ns) => this.seek(ns));
      this.transport = new TransportView(this);
      this.strip = new StripView();
      this.lanes = [];
      this.root = make("div", { class: "eet-stage" }, this.notice, this.prompt, this.precision, this.lanesNode, this.chart.root, this.transport.root, this.strip.root, this.live);
      this.element.replaceChildren(this.root);
      this.showSides(["stock", "engine"]);
    }

    /** The race fills what the controls leave of the window, so that 1280x720 needs no scrolling. */
    fit() {
      const top = Math.round(this.root.getBoundingClientRect().top + window.scrollY);
      this.root.style.setProperty("--eet-top", `${document.body.classList.contains("eet-more-open") ? 140 : Math.min(top, 220)}px`);
      this.schedule();
    }

    /** Empty lanes before the first race; filled ones when a race begins. */
    showSides(names) {
      const sides = this.player.sides.length ? this.player.sides : names.map((name, index) => new SideData(name, index));
      this.lanes = sides.map((side) => new LaneView(side, this.player));
      const nodes = this.lanes.map((lane) => lane.root);
      this.lanesNode.replaceChildren(nodes[0], this.verdict.root, ...nodes.slice(1));
      this.lanesNode.dataset.sides = String(nodes.length);
      this.verdict.drawnNotes = null;
      this.verdict.drawnSpeedup = null;
      this.chart.drawnScale = null;
      this.transport.setRows(this.player.batch);
      this.verdict.row = 0;
      this.drawIdle();
    }

    drawIdle() {
      if (this.player.sides.length) return;
      for (const lane of this.lanes) {
        lane.root.dataset.state = "idle";
        lane.drawConfig(this.planned);
        setText(lane.stateNode, this.state === "queued" ? "queued" : "ready");
        const words = lane.side.index ? "The same text, by the engine." : "Press Race: the text appears here as it is written.";
        setText(lane.overlayNode, this.state === "queued" ? "Waits until the machine is free; the place in the queue is shown above." : words);
      }
    }

    // Updates, in order.

    receive(value) {
      if (value.idle) return this.rest(value.idle);
      if (value.replay) return this.openRecording(value.replay);
      if (value.planned) return this.plan(value);
      if (value.run !== this.run) {
        this.run = value.run;
        this.nextSeq = 0;
        this.early.clear();
      }
      if (value.seq < this.nextSeq) return;
      this.early.set(value.seq, value);
      this.drain();
      if (this.early.size) this.resync();
    }

    drain() {
      while (this.early.has(this.nextSeq)) {
        const value = this.early.get(this.nextSeq);
        this.early.delete(this.nextSeq++);
        this.heardMs = performance.now();
        for (const update of value.updates) this.apply(update);
      }
      this.schedule();
    }

    /** The browser may skip updates (a hidden tab): the server keeps them and sends what is missing. */
    async resync() {
      if (this.resyncing) return;
      this.resyncing = true;
      try {
        const missing = await this.server.resync({ run: this.run, from_seq: this.nextSeq });
        for (const value of missing) if (value.run === this.run && value.seq >= this.nextSeq) this.early.set(value.seq, value);
        this.resyncs = (this.resyncs ?? 0) + 1;
        this.drain();
        if (this.early.size) throw new Error("the server no longer has them");
      } catch (error) {
        this.say(`Some updates of this race were lost (${error.message ?? error})`, "Press Race to run it again.");
      } finally {
        this.resyncing = false;
      }
    }

    apply(update) {
      if (update.kind === "queued") return this.enqueue(update.sides);
      if (update.kind === "end") return this.end();
      if (update.kind === "go") return this.trigger("go");
      if (update.kind === "leave") {
        this.state = this.player.result ? "done" : "idle";
        this.drawIdle();
        return this.trigger("leave");
      }
      if (update.kind === "error" && update.side == null) return this.fail(update);
      if (update.kind === "state" && this.state === "queued") this.expect();
      this.player.apply(update);
      if (update.kind === "race") this.begin();
      else if (update.kind === "state") this.announceState(update);
      else if (update.kind === "config" || update.kind === "result") this.drawStrip();
      if (update.kind === "error") this.announce(update.message);
      if (update.kind === "result") this.finish();
    }

    rest(idle) {
      this.idle = idle;
      this.strip.draw(idle);
      this.plan(idle);
      if (idle.notice) this.say(idle.notice.message, idle.notice.remedy);
      this.schedule();
    }

    /** What the controls would start: shown until the first race begins, then each race says its own. */
    plan({ planned, precision }) {
      this.planned = planned;
      this.plannedPrecision = precision;
      this.drawIdle();
      this.drawPrecision();
    }

    /** Whether both sides compute with the same numbers, and what it costs where they do not. */
    drawPrecision() {
      setText(this.precision, (this.player.sides.length ? this.player.precision : this.plannedPrecision) ?? "");
      this.precision.title = this.precision.textContent;
    }

    enqueue(sides) {
      this.state = "queued";
      this.expectedSides = sides;
      this.hush();
      this.halt();
      this.drawIdle();
      this.announce("Your race is in the queue.");
    }

    /** The race has its turn but no prompt yet: it waits for another one, or its model is fetched. */
    expect() {
      this.player.expect(this.expectedSides);
      this.clear();
    }

    clear() {
      this.state = "live";
      this.clockNs = null;
      this.traceReady = false;
      this.recording = null;
      this.showSides();
    }

    /** The server has sent everything there is. */
    end() {
      if (this.state === "queued" || this.state === "live") this.state = this.player.result ? "done" : "idle";
    }

    begin() {
      this.hush();
      this.halt();
      this.clear();
      this.drawPrecision();
      this.drawPrompt();
      this.drawStrip();
      requestAnimationFrame(() => this.bringIntoView()); // once the lanes have their size
    }

    bringIntoView() {
      const { top, bottom } = this.lanesNode.getBoundingClientRect();
      if (top < 0 || bottom > window.innerHeight) this.lanesNode.scrollIntoView({ block: "start" });
    }

    finish() {
      this.state = "done";
      this.traceReady = true;
      const { player } = this;
      const whole = player.sides.length > 1 && player.sides.every((side) => side.state === "done");
      const speedup = player.result.speedup?.decode;
      const failed = player.sides.some((side) => side.error);
      this.announce(whole && speedup ? `Race finished. Engine decode speed-up ${format.ratio(speedup)}.` : failed ? "The race ended with an error." : "The race ended.");
      if (whole && !prefersLessMotion()) this.autoplay = setTimeout(() => this.state === "done" && this.restart(), REPLAY_DELAY_MS);
    }

    fail(update) {
      this.state = "failed";
      this.say(update.message, update.remedy);
    }

    openRecording(replay) {
      this.player.load(replay);
      this.recording = replay.trace;
      this.begin();
      this.state = "done";
      this.traceReady = true;
      this.recording = replay.trace;
      this.drawStrip();
      if (!prefersLessMotion()) this.restart();
      this.schedule();
    }

    say(message, remedy) {
      this.notice.replaceChildren(make("strong", {}, sentence(message)), remedy ? ` ${sentence(remedy)}` : "");
      this.notice.hidden = false;
      this.fit();
    }

    hush() {
      this.notice.hidden = true;
      this.fit();
    }

    announce(words) {
      setText(this.live, words);
    }

    announceState({ side, state }) {
      if (!["prefilling", "done", "failed", "stopped"].includes(state)) return;
      const data = this.player.sides[side];
      const rate = data.averageRate(data.stepTimeNs.length);
      const words = state === "done" && rate ? `done, ${format.rate(rate)} tokens per second` : STATE_WORDS[state];
      this.announce(`${sideTitle(data.name)}: ${words}.`);
    }

    drawPrompt() {
      const { promptTokens, promptText, batch } = this.player;
      const lengths = new Set(promptTokens).size > 1 ? `${count(Math.min(...promptTokens))} to ${count(Math.max(...promptTokens))}` : count(promptTokens[0] ?? 0);
      const tail = promptText.length > 160 ? `…${promptText.slice(-160)}` : promptText;
      const head = make("b", {}, batch > 1 ? `Prompt, ${batch} rows of ${lengths} tokens` : `Prompt, ${lengths} tokens`);
      this.promptSummary.replaceChildren(head, ` ${tail.replace(/\s+/g, " ")}`);
      setText(this.promptText, promptText);
      this.prompt.hidden = false;
      this.fit();
    }

    drawStrip() {
      const { hardware, software, settings, sides } = this.player;
      this.strip.draw({ hardware, software, settings, sides, recorded: Boolean(this.recording) });
    }

    // The clock.

    get view() {
      const replay = this.clockNs != null;
      return { replay, ns: replay ? this.clockNs : Infinity };
    }

    toggle() {
      if (this.playing) this.halt();
      else if (this.clockNs == null || this.clockNs >= this.player.durationNs) this.restart();
      else this.play();
    }

    restart() {
      this.clockNs = 0;
      this.play();
    }

    play() {
      clearTimeout(this.autoplay);
      this.playing = true;
      this.state = "replay";
      this.lastFrameMs = null;
      this.schedule();
    }

    halt() {
      clearTimeout(this.autoplay);
      this.playing = false;
      if (this.state === "replay") this.state = "done";
      this.schedule();
    }

    seek(ns) {
      this.halt();
      this.clockNs = Math.max(0, Math.min(ns, this.player.durationNs));
      this.schedule();
    }

    setSpeed(factor) {
      this.speedFactor = factor;
    }

    advance(nowMs) {
      const passedMs = this.lastFrameMs == null ? 0 : Math.min(nowMs - this.lastFrameMs, 250);
      this.lastFrameMs = nowMs;
      this.clockNs += passedMs * 1e6 * this.speedFactor;
      if (this.clockNs < this.player.durationNs) return;
      this.clockNs = this.player.durationNs;
      this.halt();
    }

    // Drawing: once a frame at most, and only when something moved.

    schedule() {
      this.frame ??= requestAnimationFrame((nowMs) => {
        this.frame = null;
        if (this.playing) this.advance(nowMs);
        this.draw();
        if (this.playing) this.schedule();
      });
    }

    draw() {
      if (this.player.sides.length) {
        const view = this.view;
        for (const lane of this.lanes) lane.draw(view);
        this.verdict.draw(view);
        this.chart.draw(view);
      }
      this.transport.draw(this.view);
      this.root.dataset.state = this.state;
    }

    /** Elapsed seconds move while nothing arrives; a silent server is said, not hidden. */
    tick() {
      if (this.state !== "live") return;
      this.schedule();
      if (performance.now() - this.heardMs > SILENCE_MS && this.notice.hidden) {
        this.say("No word from the server for ten seconds.", "If it was stopped, start it again (python app.py) and reload this page.");
      }
    }

    showRow(row) {
      for (const lane of this.lanes) lane.showRow(row);
      this.verdict.row = row;
      this.schedule();
    }

    async download() {
      const trace = this.recording ?? (await this.server.trace({ run: this.run }));
      const blob = new Blob([JSON.stringify(trace)], { type: "application/json" });
      const link = make("a", { href: URL.createObjectURL(blob), download: `race-${trace.settings.model}.json` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    }
  }

  /** Called by the component's js_on_load with what Gradio hands out. */
  function mount(parts) {
    const stage = new Stage(parts);
    window.__race = {
      stage,
      format,
      get state() {
        return stage.state;
      },
      get player() {
        return stage.player;
      },
    };
    window.__clock = {
      set(ns) {
        stage.seek(ns);
        stage.chart.drawnScale = null; // drawn whole: the same instant is the same picture, however it was reached
        stage.draw();
      },
      get durationNs() {
        return stage.player.durationNs;
      },
    };
    return stage;
  }

  // ---------------------------------------------------------------------------------------------- around the stage

  /** A native list: models that cannot run here stand in it greyed out, with the reason. Its value is a model's id. */
  function mountModelPicker({ element, props, watch }) {
    const list = make("select", { id: "eet-model-list" });
    const details = make("small", {});
    const describe = () => setText(details, props.choices.find((choice) => choice.id === list.value)?.details ?? "none can race here yet");
    const fill = () => {
      const options = props.choices.map(({ id, title, reason }) =>
        make("option", { value: id, disabled: Boolean(reason) }, reason ? `${title}: ${reason}` : title),
      );
      list.replaceChildren(...options);
      list.value = props.value;
      describe();
    };
    fill();
    watch("choices", fill);
    list.addEventListener("change", () => {
      props.value = list.value;
      describe();
    });
    element.replaceChildren(make("div", { class: "eet-field" }, make("label", { for: "eet-model-list" }, "Model ", details), list));
  }

  /** The page's head: what this is, the folded options, and light or dark (first from ?__theme or the system). */
  function mountHead({ element, props }) {
    const options = make("button", { type: "button", class: "eet-head-button", "aria-expanded": "false", "aria-controls": "eet-more" }, "Options");
    options.addEventListener("click", () => {
      const open = document.body.classList.toggle("eet-more-open");
      options.setAttribute("aria-expanded", String(open));
      window.__race?.stage.fit();
    });
    const theme = make("button", { type: "button", class: "eet-head-button" });
    const nameTheme = () => setText(theme, document.body.classList.contains("dark") ? "Light" : "Dark");
    theme.addEventListener("click", () => {
      document.body.classList.toggle("dark");
      nameTheme();
      window.__race?.stage.schedule();
    });
    nameTheme();
    const title = make("div", { class: "eet-title" }, make("h1", {}, props.title), make("p", {}, props.tagline));
    element.replaceChildren(make("div", { class: "eet-head" }, title, ...(props.options ? [options] : []), theme));
  }

  window.eetRace = { mount, mountModelPicker, mountHead, Player, format };
})();
