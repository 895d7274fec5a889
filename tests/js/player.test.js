/* A whole race: fed by updates or by a recording, compared token by token, its ratio the same on every way. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Player } from "../../assets/race/player.js";
import { ENGINE, MS, STOCK, at, race, recorded, rows, titled, tokens } from "./races.js";

/** @import { Figures, Pair, RaceChange, RecordedSide, Settings, Tokens } from "../../assets/race/types" */

/**
 * @param {RaceChange[]} updates
 * @returns {Player}
 */
function played(...updates) {
  const player = new Player();
  updates.forEach((update, nowMs) => player.apply(update, nowMs));
  return player;
}

/**
 * @param {number} side
 * @param {Tokens} columns
 * @returns {RaceChange}
 */
const write = (side, columns) => ({ kind: "tokens", side, ...columns });

/** @type {Figures} */
const NO_FIGURES = { metrics: [], speedup: null, parity: null };

/**
 * @param {RecordedSide[]} sides
 * @param {Pair} pair
 * @param {Partial<Settings>} settings
 * @param {Partial<Figures>} figures
 */
function loaded(sides, pair = [0, 1], settings = {}, figures = {}) {
  const player = new Player();
  const { settings: asked, hardware, software, prompt_tokens: prompt_ids } = race({}, settings);
  const trace = { settings: asked, hardware, software, prompt_ids, sides, parity: figures.parity ?? null };
  const kinds = sides.map((side) => titled(side.name));
  player.load({ trace, precision: "", kinds, pair, ...NO_FIGURES, ...figures }, 0);
  return player;
}

test("a race begins with what it is, and empty sides", () => {
  const player = played(race({ prompt_tokens: [[1, 2], [3]], notes: ["a note"], precision: "same" }, { batch: 2 }));
  assert.deepEqual(player.sides.map(({ kind, state }) => [kind, state]), [
    [STOCK, "waiting"],
    [ENGINE, "waiting"],
  ]);
  assert.deepEqual(player.promptTokens, [2, 1]);
  assert.equal(player.batch, 2);
  assert.equal(player.expectedTokens, 8);
  assert.deepEqual([player.notes, player.precision, player.durationNs], [["a note"], "same", 0]);
});

test("every kind of update finds its side", () => {
  const config = { engine: "engine", device: "cpu", dtype: "float32", weights: "dense" };
  const player = played(
    race(),
    { kind: "state", side: 1, state: "prefilling", detail: "reading" },
    { kind: "config", side: 1, config },
    { kind: "progress", side: 1, done: 1, total: 3 },
    write(1, tokens([10])),
    { kind: "memory", side: 1, time_ns: [0], process_bytes: [5] },
    { kind: "error", side: 1, message: "no memory" },
    { kind: "notes", notes: ["late"] },
  );
  const [stock, engine] = player.sides;
  assert.deepEqual([engine.state, engine.detail, engine.stateSinceMs], ["prefilling", "reading", 1]);
  assert.deepEqual([engine.config, engine.progress], [config, { done: 1, total: 3 }]);
  assert.deepEqual([engine.tokenId, engine.memoryPeak], [[0], 5]);
  assert.deepEqual(engine.error, { message: "no memory", remedy: "" });
  assert.deepEqual(player.notes, ["late"]);
  assert.deepEqual([stock.state, stock.config, stock.tokenId, stock.error], ["waiting", null, [], null]);
});

test("the next race leaves nothing of the last", () => {
  const player = played(race({}, { temperature: 1 }), write(0, tokens([1])), { kind: "result", ...NO_FIGURES });
  player.expect([STOCK], 5);
  assert.deepEqual({ ...player, sides: [] }, { ...new Player() });
  const [stock] = player.sides;
  assert.deepEqual([stock.kind, stock.tokenId, stock.stateSinceMs], [STOCK, [], 5]);
});

test("the texts are compared as far as both have written, and on from there", () => {
  const player = played(race(), write(0, tokens([1, 2, 3], [5, 6, 7])));
  assert.deepEqual(player.divergence, [Infinity]);
  player.apply(write(1, tokens([1, 2], [5, 6])), 0);
  assert.deepEqual([player.comparedTokens, player.divergence], [[2], [Infinity]]);
  player.apply(write(1, tokens([3], [9])), 0);
  assert.deepEqual([player.comparedTokens, player.divergence], [[2], [2]]);
  player.apply(write(0, tokens([4], [1])), 0);
  player.apply(write(1, tokens([4], [1])), 0);
  assert.deepEqual(player.divergence, [2], "the first difference stays");
});

test("each row of a batch has a divergence of its own", () => {
  const player = played(
    race({ prompt_tokens: [[1], [2]] }, { batch: 2 }),
    write(0, rows([1, 2], [[5, 6], [5, 6]])),
    write(1, rows([1, 2], [[5, 6], [5, 0]])),
  );
  assert.deepEqual(player.divergence, [Infinity, 1]);
  assert.deepEqual(player.parityAt(1, Infinity), { both: 2, equal: 1, divergence: 1, differs: true });
  assert.deepEqual(player.parityAt(0, 1 * MS), { both: 1, equal: 1, divergence: Infinity, differs: false });
});

test("sampled texts and one side alone are not compared", () => {
  const sampled = played(race({}, { temperature: 0.8 }), write(0, tokens([1], [1])), write(1, tokens([1], [2])));
  assert.deepEqual(sampled.divergence, []);
  const alone = played(race({ kinds: [ENGINE], pair: null }), write(0, tokens([1, 2])));
  assert.deepEqual([alone.compared, alone.parityAt(0, Infinity), alone.ratioAt(Infinity)], [null, null, null]);
});

test("the ratio needs a rate of both sides", () => {
  const player = played(race(), write(0, tokens([100, 200, 300])), write(1, tokens([100])));
  assert.equal(player.ratioAt(Infinity), null);
  player.apply(write(1, tokens([125, 150])), 0);
  assert.equal(player.ratioAt(Infinity), 4);
  assert.equal(player.ratioAt(160 * MS), null, "the first side has one stamp by then");
});

test("the ratio is the contender's over the baseline's, whichever stands first and whatever they are called", () => {
  const [slow, fast] = [tokens([100, 200, 300]), tokens([50, 75, 100])];
  /** @type {[string[], Pair, Tokens[], number][]} */
  const cases = [
    [["stock", "engine"], [0, 1], [slow, fast], 4],
    [["engine", "stock"], [1, 0], [fast, slow], 4],
    [["engine:graph=off", "engine"], [0, 1], [slow, fast], 4],
    [["engine", "engine:graph=off"], [1, 0], [slow, fast], 0.25],
    [["stock", "stock-eager", "engine"], [0, 2], [slow, slow, fast], 4],
  ];
  for (const [sides, pair, columns, ratio] of cases) {
    const live = played(race({ kinds: sides.map(titled), pair }), ...columns.map((each, side) => write(side, each)));
    const replayed = loaded(sides.map((name, side) => recorded(name, columns[side])), pair);
    assert.equal(live.ratioAt(Infinity), ratio, `${sides} live`);
    assert.equal(replayed.ratioAt(replayed.durationNs), ratio, `${sides} in the replay`);
  }
});

test("a recording becomes the same columns as its updates", () => {
  const columns = [tokens([100, 200], [5, 6]), tokens([50, 60], [5, 7])];
  const player = loaded(columns.map((each, index) => recorded(["stock", "engine"][index], each)));
  const live = played(race(), write(0, columns[0]), write(1, columns[1]));
  assert.deepEqual(player.sides.map((side) => side.tokenId), live.sides.map((side) => side.tokenId));
  assert.deepEqual(player.divergence, live.divergence);
  assert.equal(player.durationNs, 200 * MS);
  assert.deepEqual(player.sides.map((side) => side.stateAt(at(70 * MS))), ["prefilling", "done"]);
});

test("a recorded side that failed says why", () => {
  const error = { message: "no memory", remedy: "take less" };
  const player = loaded([recorded("stock", tokens([])), recorded("engine", tokens([1]), { state: undefined, error })]);
  assert.deepEqual(player.sides.map((side) => side.state), ["done", "failed"]);
  assert.deepEqual(player.sides[1].error, error);
});

test("the server's figures end a race: metrics a side, its parity over ours", () => {
  const metrics = [1, 2].map((rate) => ({ ttft_ms: 1, prefill_tok_s: 1, decode_tok_s: rate }));
  const speedup = { decode: 2, prefill: 1, ttft: 1 };
  const player = played(race({ notes: ["first"] }), write(0, tokens([1], [5])), write(1, tokens([1], [5])));
  const parity = [{ first_divergence: 3, margin_at_divergence: 0.25 }];
  player.apply({ kind: "result", metrics, speedup, parity }, 0);
  assert.deepEqual(player.sides.map((side) => side.metrics?.decode_tok_s), [1, 2]);
  assert.deepEqual([player.result?.speedup, player.divergence, player.notes], [speedup, [3], ["first"]]);
  player.apply({ kind: "result", ...NO_FIGURES, notes: ["last"] }, 0);
  assert.deepEqual(player.notes, ["last"]);
});
