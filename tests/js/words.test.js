/* What the page calls sides, devices and work. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Side } from "../../assets/race/side.js";
import * as words from "../../assets/race/words.js";
import { ENGINE, STOCK, race } from "./races.js";

test("a side that has not loaded is what it will be: some weights are dense whatever is asked", () => {
  const settings = { device: "cpu", dtype: "float32", weights: "packed" };
  assert.equal(words.plannedConfig(STOCK, settings).weights, "dense");
  assert.equal(words.plannedConfig(ENGINE, settings).weights, "packed");
});

test("device and machine in words", () => {
  const machine = { cpu: "CPU", cores: 1, memory_bytes: 2 ** 33 };
  assert.equal(words.hardwareWords(machine), "CPU, 1 core, 8.00 GiB RAM, no GPU");
  const card = { gpu: "H100", gpu_memory_bytes: 80 * 2 ** 30, driver: "580.1" };
  const whole = words.hardwareWords({ ...machine, cores: 2, ...card });
  assert.equal(whole, "CPU, 2 cores, 8.00 GiB RAM, H100 (80.00 GiB, driver 580.1)");
  assert.equal(words.deviceWords("cuda", { ...machine, ...card }), "both sides on the GPU (cuda): H100");
  assert.equal(words.deviceWords("cuda", machine), "both sides on the GPU (cuda): unknown");
  assert.equal(words.deviceWords("cpu", machine), "both sides on the processor (cpu)");
  assert.equal(words.deviceWords("sim", machine), "the engine on sim, stock on the processor");
});

test("precision is what the sides say, else what was asked", () => {
  const { settings } = race();
  const engine = new Side(ENGINE, 1, 0);
  assert.equal(words.precisionWords(settings, [engine]), "float32, engine weights dense");
  engine.config = { engine: "engine", device: "cpu", dtype: "float16", weights: "q8_0" };
  assert.equal(words.precisionWords(settings, [engine]), "Engine float16 q8_0");
});

test("work says what was asked of both sides", () => {
  const { settings } = race({}, { context: 1024, new_tokens: 64 });
  assert.equal(words.workWords(settings), "1,024 prompt + 64 new tokens, batch 1, greedy");
  const drawn = { ...settings, batch: 2, ragged: true, temperature: 0.8, top_k: 0, top_p: 0.9, seed: 7 };
  const sampling = "temperature 0.8, top-k 0, top-p 0.9, seed 7";
  assert.equal(words.workWords(drawn), `1,024 prompt + 64 new tokens, batch 2 ragged, ${sampling}`);
});
