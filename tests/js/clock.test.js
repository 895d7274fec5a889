/* The replay's clock: true speed, bounds, and what happens at the end. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Clock } from "../../assets/race/clock.js";

const RACE_NS = 1e9;

/**
 * @param {Clock} clock
 * @param {...number} framesMs
 */
function run(clock, ...framesMs) {
  for (const nowMs of framesMs) clock.advance(nowMs, RACE_NS);
}

test("it begins at 0 with its first frame and goes on by the time between frames", () => {
  const clock = new Clock();
  clock.play(RACE_NS);
  run(clock, 5000);
  assert.deepEqual([clock.ns, clock.playing], [0, true]);
  run(clock, 5016, 5040);
  assert.equal(clock.ns, 40e6);
});

test("its speed multiplies the time", () => {
  const clock = new Clock();
  clock.speed = 0.5;
  clock.play(RACE_NS);
  run(clock, 0, 100);
  assert.equal(clock.ns, 50e6);
});

test("it stops at the end, and begins anew from there", () => {
  const clock = new Clock();
  clock.seek(0.9e9, RACE_NS);
  clock.play(RACE_NS);
  run(clock, 0, 200);
  assert.deepEqual([clock.ns, clock.playing], [RACE_NS, false]);
  clock.play(RACE_NS);
  assert.deepEqual([clock.ns, clock.playing], [0, true]);
});

test("it goes on from where it was stopped, without the pause", () => {
  const clock = new Clock();
  clock.play(RACE_NS);
  run(clock, 0, 100);
  clock.halt();
  clock.play(RACE_NS);
  run(clock, 90_000, 90_010);
  assert.equal(clock.ns, 110e6);
});

test("a hidden tab costs a quarter of a second at most", () => {
  const clock = new Clock();
  clock.play(RACE_NS);
  run(clock, 0, 60_000);
  assert.equal(clock.ns, 250e6);
});

test("it stays inside the race", () => {
  const clock = new Clock();
  clock.seek(-5, RACE_NS);
  assert.equal(clock.ns, 0);
  clock.seek(2e9, RACE_NS);
  assert.equal(clock.ns, RACE_NS);
});
