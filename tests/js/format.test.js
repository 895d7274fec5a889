/* Numbers as the page shows them, at the edges of every unit. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { NONE, bytes, count, part, rate, ratio, seconds, sentence } from "../../assets/race/format.js";

const MIB = 2 ** 20;
const GIB = 2 ** 30;

/**
 * @template Value
 * @param {(value: Value) => string} shown
 * @param {[value: Value, words: string][]} cases
 */
function check(shown, cases) {
  for (const [value, words] of cases) assert.equal(shown(value), words, `of ${value}`);
}

test("what is not known is a dash, never a zero", () => {
  for (const shown of [rate, ratio, seconds, bytes]) {
    check(shown, [[null, NONE], [undefined, NONE]]);
    assert.notEqual(shown(0), NONE);
  }
});

test("counts are grouped by thousands and rounded", () => {
  check(count, [[0, "0"], [999.4, "999"], [999.5, "1,000"], [1234567, "1,234,567"]]);
});

test("rates have three digits that matter", () => {
  check(rate, [[0, "0.00"], [9.994, "9.99"], [9.996, "10.0"], [12.34, "12.3"], [99.96, "100"], [1234.5, "1,235"]]);
});

test("ratios have three digits that matter", () => {
  check(ratio, [[0.5, "0.50×"], [1, "1.00×"], [9.994, "9.99×"], [9.996, "10.0×"], [123.45, "123.5×"]]);
});

test("durations take the unit that suits them", () => {
  check(seconds, [[0, "0 ms"], [1.4e6, "1 ms"], [999.4e6, "999 ms"], [999.6e6, "1.00 s"], [59.99e9, "59.99 s"]]);
  check(seconds, [[59.996e9, "1 min 0 s"], [60e9, "1 min 0 s"], [119.6e9, "2 min 0 s"], [3725e9, "62 min 5 s"]]);
});

test("bytes are MiB until they are GiB", () => {
  check(bytes, [[0, "0.0 MiB"], [9.94 * MIB, "9.9 MiB"], [9.96 * MIB, "10 MiB"], [513.2 * MIB, "513 MiB"]]);
  check(bytes, [[1023.4 * MIB, "1023 MiB"], [1023.6 * MIB, "1.00 GiB"], [80 * GIB, "80.00 GiB"]]);
});

test("a part is said in the unit of the whole", () => {
  assert.equal(part(7.4 * MIB, 8.2 * MIB), "7.4 of 8.2 MiB");
  assert.equal(part(7.4 * MIB, 120 * MIB), "7 of 120 MiB");
  assert.equal(part(512 * MIB, 2 * GIB), "0.50 of 2.00 GiB");
  assert.equal(part(0, 0), "0.0 of 0.0 MiB");
});

test("a message becomes a sentence, once", () => {
  check(sentence, [["", ""], ["no driver", "No driver."], ["Stop!", "Stop!"], ["why?", "Why?"], ["Done.", "Done."]]);
});
