/* One side's columns: what they say at an instant, and how fast it was. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Side, countUpTo } from "../../assets/race/side.js";
import { ENGINE, MS, STOCK, at, live, rows, tokens } from "./races.js";

/** @import { Memory, Tokens } from "../../assets/race/types" */

const MIB = 2 ** 20;

/** @param {...Tokens} columns */
function written(...columns) {
  const side = new Side(ENGINE, 1, 0);
  for (const each of columns) side.addTokens(each);
  return side;
}

/**
 * A batch of two: each step stamps both rows at once.
 * @param {number} steps
 */
function batchOfTwo(steps) {
  const times = Array.from({ length: steps }, (_, step) => 100 + 50 * step);
  return written(rows(times, [times, times]));
}

test("countUpTo counts entries up to a limit, included", () => {
  const values = [1, 3, 3, 7];
  for (const [limit, count] of [[0, 0], [1, 1], [2, 1], [3, 3], [6.9, 3], [7, 4], [Infinity, 4]]) {
    assert.equal(countUpTo(values, limit), count, `up to ${limit}`);
  }
  assert.equal(countUpTo([], 5), 0);
});

test("tokens come in columns, however they are cut into updates", () => {
  const whole = written(tokens([100, 150, 200], [7, 8, 9]));
  const cut = written(tokens([100], [7]), tokens([150, 200], [8, 9]));
  assert.deepEqual(cut, whole);
  assert.deepEqual(whole.tokenId, [7, 8, 9]);
  assert.deepEqual(whole.tokenText, ["<7>", "<8>", "<9>"]);
  assert.deepEqual(whole.rowTokens, [[0, 1, 2]]);
  assert.deepEqual(whole.stepTokens, [1, 2, 3]);
  assert.deepEqual(whole.tokenAfterEnd, [false, false, false]);
});

test("what stands after the end of sequence is known a token", () => {
  const side = written({ ...tokens([1, 2, 3]), after_end: [false, true, true] });
  assert.deepEqual(side.tokenAfterEnd, [false, true, true]);
});

test("one stamp of all rows is one step, also across two updates", () => {
  const side = written(tokens([100], [1], 0), tokens([100], [2], 1), tokens([150], [3], 0), tokens([150], [4], 1));
  assert.deepEqual(side.stepTimeNs, [100 * MS, 150 * MS]);
  assert.deepEqual(side.stepTokens, [2, 4]);
  assert.deepEqual(side.rowTokens, [[0, 2], [1, 3]]);
});

test("rows of a batch are counted each for itself", () => {
  const side = batchOfTwo(3);
  for (const [steps, count] of [[0, 0], [1, 1], [2, 2], [3, 3]]) {
    assert.equal(side.rowTokensAt(0, steps), count);
    assert.equal(side.rowTokensAt(1, steps), count);
    assert.equal(side.tokensAt(steps), 2 * count);
  }
  assert.equal(side.rowTokensAt(5, 3), 0, "a row that has written nothing");
});

test("a row that ended early keeps its count while the other goes on", () => {
  const side = written(tokens([100], [1], 0), tokens([100], [2], 1), tokens([150, 200], [3, 4], 1));
  assert.deepEqual([1, 2, 3].map((steps) => side.rowTokensAt(0, steps)), [1, 1, 1]);
  assert.deepEqual([1, 2, 3].map((steps) => side.rowTokensAt(1, steps)), [1, 2, 3]);
});

test("steps are counted on the clock, their own instant included", () => {
  const side = written(tokens([100, 150, 200]));
  assert.deepEqual([99, 100, 149, 150, 1e6].map((ms) => side.stepsAt(ms * MS)), [0, 1, 1, 2, 3]);
  assert.equal(side.ttftNs, 100 * MS);
  assert.equal(side.endNs, 200 * MS);
  assert.deepEqual([new Side(STOCK, 0, 0).ttftNs, new Side(STOCK, 0, 0).endNs], [null, 0]);
});

test("the average rate leaves the first tokens to the prefill", () => {
  const side = written(tokens([5000, 5100, 5200]));
  assert.deepEqual([0, 1].map((steps) => side.averageRate(steps)), [null, null], "one stamp is no rate");
  assert.equal(side.averageRate(2), 10);
  assert.equal(side.averageRate(3), 10);
  assert.equal(batchOfTwo(3).averageRate(3), 40, "all rows of a batch");
});

test("the recent rate is that of the last second", () => {
  const slowThenFast = [0, 500, 1000, 1500, ...Array.from({ length: 10 }, (_, step) => 1600 + 100 * step)];
  const side = written(tokens(slowThenFast));
  const steps = slowThenFast.length;
  assert.equal(side.recentRate(steps), 10);
  assert.ok(Number(side.averageRate(steps)) < 8);
  assert.equal(side.recentRate(4), 2);
  assert.equal(side.recentRate(1), null);
});

test("a side slower than the window shows its last gap", () => {
  const side = written(tokens([0, 2000, 6000]));
  assert.equal(side.recentRate(2), 0.5);
  assert.equal(side.recentRate(3), 0.25);
});

test("live, the first token ends the prefill; a replay goes by the stamps", () => {
  const side = new Side(STOCK, 0, 0);
  side.enter("prefilling", "", 0);
  assert.equal(side.stateAt(live()), "prefilling");
  side.addTokens(tokens([100, 200]));
  assert.equal(side.stateAt(live()), "decoding");
  side.enter("done", "", 0);
  assert.equal(side.stateAt(live()), "done");
  const states = [0, 99, 100, 199, 200].map((ms) => side.stateAt(at(ms * MS)));
  assert.deepEqual(states, ["prefilling", "prefilling", "decoding", "decoding", "done"]);
});

test("in a replay a side without tokens is what it was, but for one that is done", () => {
  const side = new Side(STOCK, 0, 0);
  side.enter("failed", "", 0);
  assert.equal(side.stateAt(at(0)), "failed");
  side.enter("done", "", 0);
  assert.equal(side.stateAt(at(0)), "waiting");
});

test("the clock of a state goes on while the server repeats it in other words", () => {
  const side = new Side(ENGINE, 1, 1000);
  side.enter("loading", "downloading 25 %", 2000);
  side.enter("loading", "downloading 50 %", 7000);
  assert.equal(side.detail, "downloading 50 %");
  assert.equal(side.elapsedNs(live(9000)), 7e9);
  side.enter("warming", "", 9000);
  assert.equal(side.elapsedNs(live(9500)), 0.5e9);
  assert.equal(side.elapsedNs(at(3e9)), 3e9, "a replay has a clock of its own");
});

/** @type {Memory} */
const MEMORY = {
  time_ns: [null, 100 * MS, 300 * MS],
  process_bytes: [10 * MIB, 20 * MIB, 30 * MIB],
  weights_bytes: [null, 12 * MIB, 12 * MIB],
  kv_cache_used_bytes: [null, 1 * MIB, 2 * MIB],
  kv_cache_reserved_bytes: [null, 4 * MIB, 4 * MIB],
};

test("memory is that of the last sample before an instant, the first one before there is any", () => {
  const side = new Side(ENGINE, 1, 0);
  assert.equal(side.memoryAt(0), null);
  side.addMemory(MEMORY);
  const held = [-1, 0, 99, 100, 299, 300, 1e6].map((ms) => Number(side.memoryAt(ms * MS)?.process) / MIB);
  assert.deepEqual(held, [10, 10, 10, 20, 20, 30, 30]);
  assert.equal(side.memoryAt(0)?.weights, null);
  assert.equal(side.memoryAt(Infinity)?.kv_cache_used, 2 * MIB);
});

test("before the clock began the latest sample is shown, before any the first", () => {
  const side = new Side(ENGINE, 1, 0);
  side.addMemory({ time_ns: [null, null, 100 * MS], process_bytes: [1, 2, 3] });
  assert.equal(side.memoryAt(0)?.process, 2);
  const late = new Side(ENGINE, 1, 0);
  late.addMemory({ time_ns: [100 * MS], process_bytes: [3] });
  assert.equal(late.memoryAt(0)?.process, 3);
});

test("a kind of memory that comes later leaves the earlier samples empty", () => {
  const side = new Side(ENGINE, 1, 0);
  side.addMemory({ time_ns: [0], process_bytes: [1] });
  side.addMemory({ time_ns: [1], process_bytes: [2], workspace_bytes: [3] });
  assert.deepEqual(side.memoryAt(0), { process: 1, workspace: null });
  assert.deepEqual(side.memoryAt(1), { process: 2, workspace: 3 });
});

test("the memory's peak is what the process held, or what is named where that is more", () => {
  const side = new Side(ENGINE, 1, 0);
  side.addMemory(MEMORY);
  assert.equal(side.memoryPeak, 30 * MIB);
  side.addMemory({ time_ns: [400 * MS], process_bytes: [1 * MIB], weights_bytes: [50 * MIB] });
  assert.equal(side.memoryPeak, 50 * MIB);
});

test("the used cache counts once: inside the reserved one, or alone", () => {
  const side = new Side(ENGINE, 1, 0);
  side.addMemory(MEMORY);
  assert.equal(side.namedBytes(1), 16 * MIB);
  const stock = new Side(STOCK, 0, 0);
  stock.addMemory({ time_ns: [0], weights_bytes: [12 * MIB], kv_cache_used_bytes: [1 * MIB] });
  assert.equal(stock.namedBytes(0), 13 * MIB);
});

test("on a GPU a process holds what the device says, where it says anything", () => {
  const side = new Side(ENGINE, 1, 0, "cuda");
  side.addMemory({ time_ns: [0, 1], process_bytes: [9 * MIB, 9 * MIB], device_process_bytes: [3 * MIB, 0] });
  assert.equal(side.heldBytes(side.memorySample(0)), 3 * MIB);
  assert.equal(side.heldBytes(side.memorySample(1)), null);
});

test("a recording's prefill reports are those before the instant", () => {
  const side = new Side(ENGINE, 1, 0);
  assert.equal(side.progressAt(5), null);
  side.progressLog = { time_ns: [10, 20], done: [64, 128], total: [128, 128] };
  assert.equal(side.progressAt(9), null);
  assert.deepEqual(side.progressAt(10), { done: 64, total: 128 });
  assert.deepEqual(side.progressAt(1e9), { done: 128, total: 128 });
});
