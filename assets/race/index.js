/* What the page's components call when Gradio has put them in place; the modules below know nothing of Gradio.
 *
 * player, side     one race in columns, filled by live updates or by a recorded trace; rates come from stamps alone
 * inbox, clock     the order of updates, and the clock of the replay
 * format, words    numbers and sentences
 * stage            updates become a race on the screen, then its replay (playback)
 * screen           what is seen: a lane a side, the verdict between them, chart, transport, strip
 * controls         the page's head and the list of models
 *
 * Text of models and visitors only ever becomes a text node. `window.__race` is for tests, `window.__clock.set(ns)`
 * draws any instant of a finished race, so that a video can be rendered frame by frame.
 */

import * as format from "./format.js";
import { Stage } from "./stage.js";

/** @import { Parts } from "./types" */

export { mountHead, mountModelPicker } from "./controls.js";

/** @param {Parts} parts */
export function mountStage(parts) {
  const stage = new Stage(parts);
  window.__race = {
    stage,
    format,
    get player() {
      return stage.player;
    },
    get state() {
      return stage.state;
    },
  };
  window.__clock = {
    set: (ns) => stage.drawAt(ns),
    get ns() {
      return stage.playback.clock.ns;
    },
    get durationNs() {
      return stage.player.durationNs;
    },
  };
}
