/* The strip below: hardware, model, precision, work and versions. */

import { make } from "./dom.js";
import { deviceWords, hardwareWords, precisionWords, workWords } from "./words.js";

/** @import { Hardware, Planned, Settings, Software } from "./types" */
/** @import { Side } from "./side.js" */

/* The tooltip has all of them. */
const SHOWN_VERSIONS = ["eet_demo", "transformers", "torch", "python", "cupy-cuda12x", "cupy-cuda13x"];

/**
 * @typedef {object} Facts
 * @property {Hardware | null} hardware
 * @property {Software | null} software
 * @property {Settings | null} settings of a race that has begun
 * @property {Planned | null} planned what the controls would start
 * @property {Side[]} sides
 * @property {boolean} recorded
 */

/** @param {Facts} facts */
function wordsOf({ hardware, software, settings, planned, sides, recorded }) {
  /** @type {[name: string, words: string, title?: string][]} */
  const facts = [];
  const device = (settings ?? planned)?.device;
  if (recorded) facts.push(["recording", "played back, not running now"]);
  if (hardware && device) facts.push(["device", deviceWords(device, hardware)]);
  if (hardware) facts.push(["machine", hardwareWords(hardware)]);
  if (settings) {
    facts.push(["model", settings.model], ["precision", precisionWords(settings, sides)]);
    facts.push(["work", workWords(settings)]);
    const together = settings.schedule === "together";
    facts.push(["measured", together ? "both at once, sharing the machine" : "in turn, each side alone"]);
  }
  if (software) {
    /** @param {string[]} names */
    const versions = (names) => names.map((name) => `${name} ${software[name]}`).join(", ");
    const shown = SHOWN_VERSIONS.filter((name) => software[name]);
    facts.push(["versions", versions(shown), versions(Object.keys(software))]);
  }
  return facts;
}

export class StripView {
  #facts = make("ul");
  root = make("footer", { class: "eet-strip", "aria-label": "Hardware, precision and versions" }, this.#facts);

  /** @param {Facts} facts */
  draw(facts) {
    const items = wordsOf(facts).map(([name, words, title]) => make("li", { title }, make("b", {}, name), ` ${words}`));
    this.#facts.replaceChildren(...items);
  }
}
