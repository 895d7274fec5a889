/* What the server sends (one payload is one value of the stage) and what a recording holds: trace.schema.json. */

export type SideState =
  | "waiting"
  | "loading"
  | "warming"
  | "prefilling"
  | "decoding"
  | "done"
  | "failed"
  | "stopped";

export interface Precision {
  device: string;
  dtype: string;
  weights: string;
}

export interface Planned extends Precision {
  model: string;
}

export interface Settings extends Planned {
  context: number;
  new_tokens: number;
  batch: number;
  schedule: string;
  ragged?: boolean;
  temperature?: number;
  top_k?: number;
  top_p?: number;
  seed?: number;
}

export interface Hardware {
  cpu: string;
  cores: number;
  memory_bytes: number;
  gpu?: string | null;
  gpu_memory_bytes?: number | null;
  driver?: string | null;
}

export type Software = Record<string, string>;

export interface Config extends Precision {
  engine: string;
  threads?: number | null;
  details?: Record<string, unknown>;
}

/** What a side is, whatever it has done; the server says it of each side of a race. */
export interface Kind {
  title: string;
  /** A name of the style sheet: `--eet-<hue>`, `.eet-hue-<hue>`. */
  hue: string;
  /** Its weights are dense, whatever the race's are. */
  dense: boolean;
  /** Said of a prefill that cannot tell how far it is; empty for one that does. */
  silence: string;
}

/** Columns: entry i of each belongs to one token. Nanoseconds from the side's t0. */
export interface Tokens {
  row: number[];
  time_ns: number[];
  id: number[];
  text: string[];
  after_end?: boolean[];
}

/** Columns: `<kind>_bytes` for every kind of memory. A sample taken before t0 has no time yet. */
export type Memory = { time_ns: (number | null)[] } & Record<`${string}_bytes`, (number | null)[]>;

export interface Progress {
  time_ns: number[];
  done: number[];
  total: number[];
}

export interface Problem {
  message: string;
  remedy?: string;
}

export interface Metrics {
  ttft_ms: number | null;
  prefill_tok_s: number | null;
  decode_tok_s: number | null;
}

/** Each above 1 favours the contender. */
export interface Speedup {
  decode: number | null;
  prefill: number | null;
  ttft: number | null;
}

export interface RowParity {
  first_divergence: number | null;
  margin_at_divergence: number | null;
}

/** Indices of the sides that are compared: the baseline's, the contender's. */
export type Pair = [number, number] | null;

export interface RaceUpdate {
  kind: "race";
  settings: Settings;
  hardware: Hardware;
  software: Software;
  /** Ids of each row. */
  prompt_tokens: number[][];
  prompt_text?: string;
  notes?: string[];
  precision?: string;
  kinds: Kind[];
  pair: Pair;
}

export interface Figures {
  metrics: Metrics[];
  speedup: Speedup | null;
  parity: RowParity[] | null;
}

/** What changes a race; `Update` adds what only the stage acts upon. */
export type RaceChange =
  | RaceUpdate
  | { kind: "state"; side: number; state: SideState; detail?: string }
  | { kind: "config"; side: number; config: Config }
  | { kind: "progress"; side: number; done: number; total: number }
  | ({ kind: "tokens"; side: number } & Tokens)
  | ({ kind: "memory"; side: number } & Memory)
  | ({ kind: "error"; side: number } & Problem)
  | { kind: "notes"; notes: string[] }
  | ({ kind: "result"; notes?: string[] } & Figures);

export type Update =
  | RaceChange
  | { kind: "queued"; kinds: Kind[] }
  | { kind: "go" }
  | { kind: "leave" }
  | { kind: "end" }
  | ({ kind: "error"; side?: undefined } & Problem);

export interface Payload {
  run: string;
  /** -1 for a sign of life, which says nothing; `beat` numbers these */
  seq: number;
  beat?: number;
  updates: Update[];
}

export interface RecordedSide {
  name: string;
  state?: SideState;
  config: Config | null;
  tokens: Tokens;
  progress?: Progress;
  memory: Memory;
  error: Problem | null;
}

export interface Trace {
  settings: Settings;
  hardware: Hardware;
  software: Software;
  prompt_ids: number[][];
  prompt_text?: string;
  notes?: string[];
  sides: RecordedSide[];
  parity: RowParity[] | null;
}

export interface Recording extends Figures {
  trace: Trace;
  precision: string;
  kinds: Kind[];
  pair: Pair;
}

export interface Plan {
  planned: Planned;
  precision: string;
  kinds: Kind[];
}

export interface Idle extends Plan {
  hardware: Hardware;
  software: Software;
  notice?: Problem;
}

/** The stage's value: one of these. */
export type Value = Payload | Plan | { idle: Idle } | { replay: Recording };

/** What is drawn: everything there is (live), or the race as it stood at an instant (replay). */
export interface View {
  replay: boolean;
  /** Nanoseconds on the race's clock; Infinity when live. */
  ns: number;
  /** performance.now() of this drawing. */
  nowMs: number;
}

/** Functions of the server that the page may call. */
export interface Server {
  resync(asked: { run: string | null; from_seq: number }): Promise<Payload[]>;
  trace(asked: { run: string | null }): Promise<Trace | null>;
}

/** What Gradio hands to a component's js_on_load. */
export interface Parts {
  element: HTMLElement;
  props: { value?: { json: string } };
  server: Server;
  watch: (name: string, changed: () => void) => void;
  trigger: (event: "go" | "leave") => void;
}

declare global {
  interface Window {
    __race: {
      stage: import("./stage.js").Stage;
      format: typeof import("./format.js");
      readonly player: import("./player.js").Player;
      readonly state: string;
    };
    __clock: {
      set(ns: number): void;
      readonly ns: number | null;
      readonly durationNs: number;
    };
  }
}
