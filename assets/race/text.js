/* The text of one side: spans of one class each, the marks between them, and a last span with the newest token. */

import { make } from "./dom.js";

/** @import { Side } from "./side.js" */

const END_WORDS = "end of sequence: what follows is only written so that both sides do equal work";
const DIVERGE_WORDS = "texts differ from here";
const FOLLOW_PX = 32; // closer to the end than this, the view follows the text

export class TextView {
  row = 0;
  #fresh = make("span", { class: "eet-fresh" });
  #freshText = "";
  /** @type {Text | null} */
  #span = null;
  #spanAfterEnd = false;
  #drawnTokens = 0;
  #drawnDivergence = Infinity;
  #follow = true;

  /** @param {Side} side */
  constructor(side) {
    this.side = side;
    this.root = make("div", {
      class: "eet-text",
      tabindex: "0",
      role: "group",
      "aria-label": `Text by ${side.kind.title}`,
      onscroll: () => {
        const { scrollHeight, scrollTop, clientHeight } = this.root;
        this.#follow = scrollHeight - scrollTop - clientHeight < FOLLOW_PX;
      },
    });
    this.#clear();
  }

  /** @param {number} row */
  show(row) {
    this.row = row;
    this.#clear();
  }

  /**
   * Draws the tokens that are new; all of them when the clock went back or a divergence was found among the drawn.
   * @param {number} steps
   * @param {number} divergence index of the first token that differs from the other side's
   */
  draw(steps, divergence) {
    const visible = this.side.rowTokensAt(this.row, steps);
    const moved = divergence < this.#drawnTokens && this.#drawnDivergence !== divergence;
    if (visible < this.#drawnTokens || moved) this.#clear();
    this.#drawnDivergence = divergence;
    if (visible === this.#drawnTokens) return;
    this.#settle();
    this.#append(this.#drawnTokens, visible, divergence);
    this.#drawnTokens = visible;
    if (this.#follow) this.root.scrollTop = this.root.scrollHeight;
  }

  /**
   * @param {number} from
   * @param {number} to
   * @param {number} divergence
   */
  #append(from, to, divergence) {
    const { rowTokens, tokenAfterEnd, tokenText } = this.side;
    let pending = "";
    for (let place = from; place < to; place++) {
      const token = rowTokens[this.row][place];
      const afterEnd = tokenAfterEnd[token];
      if (!this.#span || afterEnd !== this.#spanAfterEnd || place === divergence) {
        this.#write(pending);
        pending = "";
        if (afterEnd && !this.#spanAfterEnd) this.#mark("eet-mark-end", END_WORDS);
        if (place === divergence) this.#mark("eet-mark-diverge", DIVERGE_WORDS);
        this.#openSpan(afterEnd);
      }
      if (place < to - 1) pending += tokenText[token];
      else this.#freshText = tokenText[token];
    }
    this.#write(pending);
    this.#fresh.textContent = this.#freshText;
  }

  #clear() {
    this.root.replaceChildren(this.#fresh);
    this.#fresh.textContent = this.#freshText = "";
    this.#fresh.className = "eet-fresh";
    this.#span = null;
    this.#spanAfterEnd = false;
    this.#drawnTokens = 0;
    this.#follow = true;
  }

  /** @param {boolean} afterEnd */
  #openSpan(afterEnd) {
    this.#spanAfterEnd = afterEnd;
    this.#span = document.createTextNode("");
    const node = make("span", { class: afterEnd ? "eet-after-end" : "eet-written" }, this.#span);
    this.root.insertBefore(node, this.#fresh);
    this.#fresh.classList.toggle("eet-after-end", afterEnd);
  }

  /** @param {string} text */
  #write(text) {
    if (text) this.#span?.appendData(text);
  }

  /** The newest token becomes one of the written. */
  #settle() {
    this.#write(this.#freshText);
    this.#fresh.textContent = this.#freshText = "";
  }

  /**
   * @param {string} className
   * @param {string} words
   */
  #mark(className, words) {
    this.root.insertBefore(make("span", { class: `eet-mark ${className}` }, words), this.#fresh);
  }
}
