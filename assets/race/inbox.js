/* Puts a run's payloads in order: the browser may skip some (a hidden tab); the server keeps them and is asked. Pure,
 * but for the functions it is given.
 */

/** @import { Payload, Update } from "./types" */

/**
 * @typedef {object} Ends
 * @property {(asked: { run: string | null, from_seq: number }) => Promise<Payload[]>} resync of the server
 * @property {(update: Update) => void} act called for every update, in order
 * @property {(reason: string) => void} lost what is missing cannot be had
 */

export class Inbox {
  /** @type {string | null} */
  run = null;
  nextSeq = 0;
  resyncs = 0;
  /** @type {Map<number, Payload>} payloads that came before their turn */
  #early = new Map();
  #asking = false;

  /** @param {Ends} ends */
  constructor(ends) {
    this.ends = ends;
  }

  /**
   * Acts on a payload once its turn has come; one of another run begins anew.
   * @param {Payload} payload
   * @returns {Promise<void>} settled when nothing is missing any more, or is lost
   */
  async receive(payload) {
    this.#take(payload);
    if (this.#asking) return;
    this.#asking = true;
    try {
      while (this.#early.size) await this.#ask();
    } catch (error) {
      this.ends.lost(error instanceof Error ? error.message : String(error));
    } finally {
      this.#asking = false;
    }
  }

  async #ask() {
    const { run, nextSeq } = this;
    const missing = await this.ends.resync({ run, from_seq: nextSeq });
    this.resyncs += 1;
    for (const payload of missing) if (payload.run === this.run) this.#take(payload);
    if (this.run === run && this.nextSeq === nextSeq) throw new Error("the server no longer has them");
  }

  /** @param {Payload} payload */
  #take(payload) {
    if (payload.run !== this.run) {
      this.run = payload.run;
      this.nextSeq = 0;
      this.#early.clear();
    }
    if (payload.seq >= this.nextSeq) this.#early.set(payload.seq, payload);
    for (let next = this.#early.get(this.nextSeq); next; next = this.#early.get(this.nextSeq)) {
      this.#early.delete(this.nextSeq++);
      for (const update of next.updates) this.ends.act(update);
    }
  }
}
