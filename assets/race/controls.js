/* Around the stage: the page's head, and the list of models. */

import { LAYOUT_EVENT, make, setText } from "./dom.js";

/**
 * The page's head: what this is, the folded options, and light or dark (first from ?__theme or the system).
 * @param {{ element: HTMLElement, props: { title: string, tagline: string, options: boolean } }} parts
 */
export function mountHead({ element, props }) {
  const title = make("div", { class: "eet-title" }, make("h1", {}, props.title), make("p", {}, props.tagline));
  const buttons = props.options ? [optionsButton(), themeButton()] : [themeButton()];
  element.replaceChildren(make("div", { class: "eet-head" }, title, ...buttons));
}

function optionsButton() {
  const state = { type: "button", class: "eet-head-button", "aria-expanded": "false", "aria-controls": "eet-more" };
  const button = make("button", state, "Options");
  button.addEventListener("click", () => {
    const open = document.body.classList.toggle("eet-more-open");
    button.setAttribute("aria-expanded", String(open));
    window.dispatchEvent(new Event(LAYOUT_EVENT));
  });
  return button;
}

function themeButton() {
  const button = make("button", { type: "button", class: "eet-head-button" });
  const name = () => setText(button, document.body.classList.contains("dark") ? "Light" : "Dark");
  button.addEventListener("click", () => {
    document.body.classList.toggle("dark");
    name();
    window.dispatchEvent(new Event(LAYOUT_EVENT));
  });
  name();
  return button;
}

/**
 * @typedef {object} Choice one model; it cannot race here when there is a reason
 * @property {string} id
 * @property {string} title
 * @property {string} details
 * @property {string} reason
 */

/**
 * @typedef {object} PickerParts
 * @property {HTMLElement} element
 * @property {{ value: string, choices: Choice[] }} props its value is a model's id
 * @property {(name: string, changed: () => void) => void} watch
 */

/**
 * A native list: models that cannot run here stand in it greyed out, with the reason.
 * @param {PickerParts} parts
 */
export function mountModelPicker({ element, props, watch }) {
  const list = make("select", { id: "eet-model-list" });
  const details = make("small");
  const describe = () => {
    const chosen = props.choices.find((choice) => choice.id === list.value);
    setText(details, chosen?.details ?? "none can race here yet");
  };
  const fill = () => {
    const options = props.choices.map(({ id, title, reason }) =>
      make("option", { value: id, disabled: Boolean(reason) }, reason ? `${title}: ${reason}` : title),
    );
    list.replaceChildren(...options);
    list.value = props.value;
    describe();
  };
  fill();
  watch("choices", fill);
  list.addEventListener("change", () => {
    props.value = list.value;
    describe();
  });
  const label = make("label", { for: "eet-model-list" }, "Model ", details);
  element.replaceChildren(make("div", { class: "eet-field" }, label, list));
}
