/* The few things the views need of the document. Strings become text nodes: nothing is ever parsed as markup. */

/**
 * An element. Attributes named on... are listeners; `hidden` and `disabled` are properties.
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Record<string, unknown>} attributes
 * @param {(Node | string)[]} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (value == null) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), /** @type {EventListener} */ (value));
    else if (key === "hidden" || key === "disabled") Object.assign(node, { [key]: value });
    else node.setAttribute(key, String(value));
  }
  node.append(...children);
  return node;
}

/**
 * Sets text only when it changes: no layout for nothing, no repeated announcements.
 * @param {Node} node
 * @param {string} text
 */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export const prefersLessMotion = () => window.matchMedia("(prefers-reduced-motion: reduce)").matches;

/** Sent to the window by what moves or recolours the stage from outside. */
export const LAYOUT_EVENT = "eet-layout";
