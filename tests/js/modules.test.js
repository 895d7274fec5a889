/* The page's modules say what they are, import one way, and those called pure know no document. */

import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { test } from "node:test";

const FOLDER = new URL("../../assets/race/", import.meta.url);

/** @type {Map<string, string>} name -> source */
const MODULES = new Map(
  readdirSync(FOLDER)
    .filter((name) => name.endsWith(".js"))
    .map((name) => [name, readFileSync(new URL(name, FOLDER), "utf8")]),
);

/** @param {string} name */
function importsOf(name) {
  const found = (MODULES.get(name) ?? "").matchAll(/^(?:im|ex)port [^;]* from "\.\/([^"]+)";/gm);
  return [...found].map(([, imported]) => imported);
}

/** @param {string} name */
const isPure = (name) => /^\/\*[^]*? Pure\b[^]*?\*\//.test(MODULES.get(name) ?? "");

test("every module begins with what it is", () => {
  for (const [name, source] of MODULES) assert.match(source, /^\/\* [A-Z][^]{20,}\*\//, name);
});

test("imports go one way", () => {
  /** @param {string[]} way */
  const follow = (way) => {
    for (const next of importsOf(way[way.length - 1])) {
      assert.ok(MODULES.has(next), `${next} is no module`);
      assert.ok(!way.includes(next), `a circle: ${[...way, next].join(" -> ")}`);
      follow([...way, next]);
    }
  };
  for (const name of MODULES.keys()) follow([name]);
});

test("the pure modules touch no document and import only their like", () => {
  const pure = [...MODULES.keys()].filter(isPure);
  assert.deepEqual(pure, ["clock.js", "format.js", "inbox.js", "player.js", "side.js", "words.js"]);
  for (const name of pure) {
    assert.doesNotMatch(MODULES.get(name) ?? "", /\b(document|window|performance|requestAnimationFrame)\b\./, name);
    assert.deepEqual(importsOf(name).filter((imported) => !isPure(imported)), [], name);
  }
});
