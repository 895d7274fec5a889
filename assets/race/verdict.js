/* Between the lanes: the speed-up, how far the texts are equal, and what must be known to read both. */

import { make, setText } from "./dom.js";
import { NONE, READOUT_NS, count, ratio } from "./format.js";

/** @import { View } from "./types" */
/** @import { Player } from "./player.js" */

const TOGETHER_WORDS = "Both at once: these rates share the hardware.";
const SAMPLING_WORDS = "Not compared: with sampling each side draws its own text.";

export class VerdictView {
  row = 0;
  #number = make("p", { class: "eet-speedup eet-empty", "data-number": "speedup" }, NONE);
  #caption = make("p", { class: "eet-speedup-caption" }, "decode speed-up");
  #others = make("p", { class: "eet-speedup-others" });
  #equal = make("b", { "data-number": "parity" }, NONE);
  #fill = make("div", { class: "eet-parity-fill" });
  #mark = make("div", { class: "eet-parity-mark", hidden: true });
  #words = make("p", { class: "eet-parity-words" });
  #notes = make("ul", { class: "eet-notes" });
  /** @type {string[] | null} */
  #drawnNotes = null;
  #drawnSpeedup = "";

  /** @param {Player} player */
  constructor(player) {
    this.player = player;
    this.root = make(
      "section",
      { class: "eet-verdict", "aria-label": "Speed-up and parity" },
      make("div", { class: "eet-speedup-box" }, this.#number, this.#caption, this.#others),
      make(
        "div",
        { class: "eet-parity" },
        make("p", { class: "eet-parity-head" }, "same tokens ", this.#equal),
        make("div", { class: "eet-parity-track" }, this.#fill, this.#mark),
        this.#words,
      ),
      this.#notes,
    );
  }

  /** Another race: its first row, drawn anew. */
  reset() {
    this.row = 0;
    this.#drawnNotes = null;
    this.#drawnSpeedup = "";
  }

  /** @param {View} view */
  draw(view) {
    this.#drawSpeedup(view);
    this.#drawParity(view);
    const { notes, settings } = this.player;
    if (this.#drawnNotes === notes) return;
    this.#drawnNotes = notes;
    const shared = settings?.schedule === "together" ? [TOGETHER_WORDS] : [];
    this.#notes.replaceChildren(...[...shared, ...notes].map((note) => make("li", {}, note)));
  }

  /**
   * From the stamps so far; at the end of a finished race the server's figures.
   * @param {View} view
   */
  #drawSpeedup(view) {
    const { player } = this;
    const final = view.ns >= player.durationNs ? player.result?.speedup : null;
    const decode = final ? final.decode : player.ratioAt(view.ns);
    const stampedNs = player.sides.reduce((sum, side) => sum + Math.min(view.ns, side.endNs), 0);
    const words = decode == null ? this.#waitingWords() : "decode speed-up";
    const readout = `${Math.floor(stampedNs / READOUT_NS)} ${Boolean(final)} ${words}`;
    if (this.#drawnSpeedup === readout) return;
    this.#drawnSpeedup = readout;
    setText(this.#number, ratio(decode));
    this.#number.dataset.value = String(decode ?? "");
    this.#number.classList.toggle("eet-empty", decode == null);
    setText(this.#caption, words);
    const others = [
      final?.prefill != null && `prefill ${ratio(final.prefill)}`,
      final?.ttft != null && `first token ${ratio(final.ttft)}`,
    ];
    setText(this.#others, others.filter(Boolean).join(" · "));
  }

  #waitingWords() {
    const { sides, result } = this.player;
    if (sides.length < 2) return "one side, no ratio";
    const gone = sides.some((side) => side.state === "failed" || side.state === "stopped");
    const over = gone || (result && result.speedup?.decode == null);
    return over ? "no speed-up: a side did not write" : "decode speed-up, once both write";
  }

  /** @param {View} view */
  #drawParity(view) {
    const { player, row } = this;
    const { newTokens } = player;
    this.root.dataset.parity = player.greedy ? "greedy" : "sampling";
    const found = player.greedy ? player.parityAt(row, view.ns) : null;
    const { both = 0, equal = 0, divergence = 0, differs = false } = found ?? {};
    setText(this.#equal, both ? `${count(equal)} of ${count(both)}` : NONE);
    this.#equal.dataset.value = String(both ? equal : "");
    this.#fill.style.transform = `scaleX(${newTokens ? equal / newTokens : 0})`;
    this.#mark.hidden = !differs;
    if (differs) this.#mark.style.left = `${(divergence / newTokens) * 100}%`;
    setText(this.#words, this.#parityWords(both, differs, divergence));
  }

  /**
   * @param {number} both tokens that both sides have written
   * @param {boolean} differs
   * @param {number} divergence
   */
  #parityWords(both, differs, divergence) {
    const { sides, greedy, newTokens, result } = this.player;
    if (!greedy) return SAMPLING_WORDS;
    if (sides.length < 2) return "one side, nothing to compare";
    if (!both) return "token by token, greedy";
    if (!differs) return both === newTokens ? "every token equal" : "equal as far as both have written";
    const words = `first differs at token ${count(divergence + 1)}`;
    const margin = result?.parity?.[this.row]?.margin_at_divergence;
    return margin == null ? words : `${words}; stock's logit margin there ${margin.toPrecision(2)}`;
  }
}
