/* The order of updates, and what is asked for again when some do not come. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Inbox } from "../../assets/race/inbox.js";

/** @import { Payload, Update } from "../../assets/race/types" */

/**
 * @param {number} seq
 * @param {string} run
 * @returns {Payload}
 */
const payload = (seq, run = "a") => ({ run, seq, updates: [{ kind: "notes", notes: [`${run}${seq}`] }] });

/**
 * A page's end of the line, and a server that answers with `kept`.
 * @param {(asked: { run: string | null, from_seq: number }) => Promise<Payload[]>} resync
 */
function connected(resync = async () => []) {
  /** @type {string[]} */
  const acted = [];
  /** @type {string[]} */
  const lost = [];
  /** @type {{ run: string | null, from_seq: number }[]} */
  const asked = [];
  /** @param {Update} update */
  const act = (update) => void (update.kind === "notes" && acted.push(...update.notes));
  const inbox = new Inbox({
    resync: (question) => {
      asked.push(question);
      return resync(question);
    },
    act,
    lost: (reason) => lost.push(reason),
  });
  return { inbox, acted, asked, lost };
}

test("payloads in order are acted upon at once", () => {
  const { inbox, acted, asked } = connected();
  for (const seq of [0, 1, 2]) inbox.receive(payload(seq));
  assert.deepEqual([acted, asked], [["a0", "a1", "a2"], []]);
});

test("a payload that comes twice acts once", async () => {
  const { inbox, acted } = connected();
  for (const seq of [0, 0, 1, 0, 1]) await inbox.receive(payload(seq));
  assert.deepEqual(acted, ["a0", "a1"]);
});

test("what is missing is asked for, and acted upon in order", async () => {
  const { inbox, acted, asked, lost } = connected(async () => [1, 2, 3].map((seq) => payload(seq)));
  await inbox.receive(payload(0));
  await inbox.receive(payload(3));
  assert.deepEqual(asked, [{ run: "a", from_seq: 1 }]);
  assert.deepEqual([acted, lost, inbox.resyncs], [["a0", "a1", "a2", "a3"], [], 1]);
});

test("what comes while the server is asked is not asked for twice", async () => {
  /** @type {(kept: Payload[]) => void} */
  let answer = () => {};
  const { inbox, acted, asked } = connected(() => new Promise((resolve) => (answer = resolve)));
  const settled = inbox.receive(payload(1));
  await inbox.receive(payload(2));
  answer([payload(0), payload(1)]);
  await settled;
  assert.deepEqual([acted, asked.length], [["a0", "a1", "a2"], 1]);
});

test("another gap that opens meanwhile is asked for as well", async () => {
  /** @type {((kept: Payload[]) => void)[]} */
  const answers = [];
  const { inbox, acted, asked, lost } = connected(() => new Promise((resolve) => void answers.push(resolve)));
  const settled = inbox.receive(payload(1));
  inbox.receive(payload(4));
  answers[0]([payload(0)]);
  await new Promise(setImmediate);
  answers[1]([2, 3].map((seq) => payload(seq)));
  await settled;
  assert.deepEqual(asked.map(({ from_seq }) => from_seq), [0, 2]);
  assert.deepEqual([acted, lost], [["a0", "a1", "a2", "a3", "a4"], []]);
});

test("a payload of another run begins anew, and answers about the old one change nothing", async () => {
  /** @type {(kept: Payload[]) => void} */
  let answer = () => {};
  const { inbox, acted, lost } = connected(() => new Promise((resolve) => (answer = resolve)));
  const settled = inbox.receive(payload(5));
  inbox.receive(payload(0, "b"));
  answer([payload(0), payload(1)]);
  await settled;
  inbox.receive(payload(1, "b"));
  assert.deepEqual([acted, lost, inbox.run, inbox.nextSeq], [["b0", "b1"], [], "b", 2]);
});

test("a run that begins with a gap while the server is asked about the last is asked for next", async () => {
  /** @type {((kept: Payload[]) => void)[]} */
  const answers = [];
  const { inbox, acted, asked, lost } = connected(() => new Promise((resolve) => void answers.push(resolve)));
  const settled = inbox.receive(payload(5));
  inbox.receive(payload(1, "b"));
  answers[0]([]);
  await new Promise(setImmediate);
  answers[1]([payload(0, "b")]);
  await settled;
  assert.deepEqual(asked.map(({ run, from_seq }) => [run, from_seq]), [["a", 0], ["b", 0]]);
  assert.deepEqual([acted, lost], [["b0", "b1"], []]);
});

test("what the server no longer has is said, as is a server that does not answer", async () => {
  const forgotten = connected(async () => [payload(7)]);
  await forgotten.inbox.receive(payload(3));
  assert.deepEqual(forgotten.lost, ["the server no longer has them"]);
  const gone = connected(() => Promise.reject(new Error("network")));
  await gone.inbox.receive(payload(3));
  assert.deepEqual([gone.lost, gone.acted], [["network"], []]);
  await gone.inbox.receive(payload(4));
  assert.equal(gone.asked.length, 2, "it asks again with the next payload");
});
