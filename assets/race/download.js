/* The trace as a file: the recording that is played, or what the server keeps of the race. */

import { make } from "./dom.js";

/** @import { Trace } from "./types" */

const FORGOTTEN_WORDS = "The server no longer keeps this race, only newer ones.";
const FORGOTTEN_REMEDY = "Press Race to run it again, then download its trace.";
const SILENT_REMEDY = "If the server was stopped, start it again (python -m eet_demo) and reload this page.";

/**
 * @param {() => Promise<Trace | null>} ask for the trace; null when it is not kept any more
 * @param {(message: string, remedy: string) => void} say why there is none
 */
export async function download(ask, say) {
  try {
    const trace = await ask();
    if (trace) save(trace, `race-${trace.settings.model}.json`);
    else say(FORGOTTEN_WORDS, FORGOTTEN_REMEDY);
  } catch (error) {
    say(`The trace could not be had (${error instanceof Error ? error.message : error})`, SILENT_REMEDY);
  }
}

/**
 * @param {unknown} value
 * @param {string} name of the file
 */
function save(value, name) {
  const blob = new Blob([JSON.stringify(value)], { type: "application/json" });
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
