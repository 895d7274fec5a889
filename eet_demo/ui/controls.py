"""The controls: built from the offer and from what is declared of each setting, read back into `RaceSettings`.

Their values arrive raw and go on as they are: they are checked with everybody's, in `race.inputs.check_settings`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from eet_demo.declared import Setting, settings_of
from eet_demo.records import RaceSettings, as_json
from eet_demo.text.prompts import OWN_TEXT
from eet_demo.ui.assets import mounting
from eet_demo.ui.offer import BASELINES, ModelChoice, Offer

_SETTINGS = settings_of(RaceSettings)
WEIGHTS_WORDS = {
    "packed": "packed: as in the model's file",
    "dense": "dense: every value in full",
    "q8_0": "q8_0: 8 bits, quantised here",
}

Values = Mapping[Any, Any]


@dataclass(frozen=True)
class Controls:
    """The components that say what to race.

    Args:
        parts: setting -> its component; those of `model`, `prompt` (a document) and `sides` (the stock variant) hold
            less than the setting.
        own_text: what the visitor wrote, where the document is their own text.
    """

    offer: Offer
    parts: Mapping[str, Any]
    own_text: gr.Textbox

    @property
    def inputs(self) -> set[Any]:
        """Every component whose value a race needs."""
        return {*self.parts.values(), self.own_text}

    def settings(self, values: Values) -> RaceSettings:
        """What the visitor asked for, unchecked: whatever a client sent."""
        asked = {name: values[part] for name, part in self.parts.items()}
        for name in ("model", "question"):
            asked[name] = "" if asked[name] is None else asked[name]  # a list where nothing is chosen
        if asked["prompt"] == OWN_TEXT:
            own = values[self.own_text]
            asked["prompt"] = OWN_TEXT + (own or "") if isinstance(own, str | None) else own
        sides = tuple(asked["sides"] if side in BASELINES else side for side in self.offer.sides)
        return RaceSettings(**{**asked, "sides": sides, "device": self.offer.device})

    def listen(self) -> None:
        """Keeps the controls consistent: none of these waits in the queue."""
        quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        model, weights, document = (self.parts[name] for name in ("model", "weights", "prompt"))
        document.input(
            self._choose_document, document, [self.parts["question"], self.own_text], preprocess=False, **quiet
        )
        model.change(self._choose_weights, [model, weights], weights, preprocess=False, **quiet)
        new_tokens, context = self.parts["new_tokens"], self.parts["context"]
        for component, event in ((model, "change"), (new_tokens, "release")):
            getattr(component, event)(
                self._limit_context, [model, new_tokens, context], context, preprocess=False, **quiet
            )

    def tell(self, stage: gr.HTML, seal: Callable[[Mapping[str, Any]], Any]) -> None:
        """Lets the panes say the precision of the race that these controls would start."""
        inputs = [self.parts[name] for name in ("model", "dtype", "weights")]

        def planned(model_id: Any, dtype: Any, weights: Any) -> Any:
            if dtype not in self.offer.dtypes or not model_id or weights not in self.offer.weights(model_id):
                return gr.skip()  # the weights follow the model in a moment
            settings = replace(self.offer.default_settings, model=model_id, dtype=dtype, weights=weights)
            return seal(self.offer.planned(as_json(settings)))

        for component in inputs:
            component.change(
                planned, inputs, stage, preprocess=False, queue=False, show_progress="hidden", api_visibility="private"
            )

    def _choose_weights(self, model_id: Any, chosen: Any) -> Any:
        return gr.update(**weights_choices(self.offer, model_id, chosen)) if model_id else gr.skip()

    def _choose_document(self, chosen: Any) -> dict[Any, Any]:
        document = next((each for each in self.offer.documents.values() if each.id == chosen), None)
        questions = document.questions if document is not None else ()
        return {
            self.parts["question"]: gr.update(choices=list(questions), value=questions[0] if questions else ""),
            self.own_text: gr.update(visible=chosen == OWN_TEXT),
        }

    def _limit_context(self, model_id: Any, new_tokens: Any, context: Any) -> Any:
        model = next((model for model in self.offer.list_models() if model.id == model_id), None)
        if model is None or not isinstance(new_tokens, int):
            return gr.skip()
        limit = longest_context(self.offer, model, new_tokens)
        # The value is left alone where it can be: the visitor may be typing another one meanwhile.
        beyond = isinstance(context, int) and context > limit
        return gr.update(maximum=limit, value=limit) if beyond else gr.update(maximum=limit)


def longest_context(offer: Offer, model: ModelChoice, new_tokens: int) -> int:
    """The slider's end: what the model has beside the new tokens, and the owner allows; not below its beginning."""
    allowed = offer.limits.context
    return min(allowed, max(int(_slider_from(_SETTINGS["context"], allowed)), model.context_limit - new_tokens))


def _slider_from(setting: Setting, largest: float) -> float:
    """Where a slider begins: as declared, unless the owner allows less than that."""
    return min(setting.slider[0], largest) if setting.slider is not None else 0


def build_deck(offer: Offer) -> dict[str, Any]:
    """The row that is always seen: model, document, question, lengths."""
    model = offer.default_model
    first = next(iter(offer.documents.values()))
    choices = [(document.title, document.id) for document in offer.documents.values()]
    deck = {
        "model": build_model_picker(offer.list_models(), "" if model.reason else model.id),
        "prompt": gr.Dropdown(
            [*choices, ("Your own text", OWN_TEXT)], value=first.id, label=_SETTINGS["prompt"].label, filterable=False
        ),
        "question": gr.Dropdown(
            list(first.questions),
            value=first.questions[0],
            label=_SETTINGS["question"].label,
            allow_custom_value=True,
        ),
    } | _controls("deck", offer)
    deck["context"].maximum = longest_context(offer, model, offer.default_settings.new_tokens)
    return deck


def build_own_text(offer: Offer) -> gr.Textbox:
    """Seen where the document is the visitor's own text."""
    return gr.Textbox(
        label="Your own text",
        lines=3,
        max_lines=6,
        max_length=offer.limits.text_characters - len(OWN_TEXT),
        visible=False,
        elem_id="eet-own-text",
    )


def build_model_picker(models: tuple[ModelChoice, ...], chosen: str) -> gr.HTML:
    """A native list, because only that can show a model greyed out with its reason."""
    return scripted_html(chosen, "mountModelPicker", choices=picker_choices(models), elem_id="eet-model")


def picker_choices(models: tuple[ModelChoice, ...]) -> list[dict[str, str]]:
    """The picker's property."""
    return [
        {"id": model.id, "title": model.title, "details": model.details, "reason": model.reason} for model in models
    ]


def scripted_html(value: Any, function: str, events: Iterable[str] = (), **props: Any) -> gr.HTML:
    """An element that `function` of assets/race/index.js fills and owns; `events` are those it triggers."""
    js = mounting(function, events)
    return gr.HTML(value, html_template="", js_on_load=js, apply_default_css=False, **props)


def weights_choices(offer: Offer, model_id: str, chosen: str = "") -> dict[str, Any]:
    """Properties of the dropdown; the visitor's choice stays where it was none of the defaults."""
    weights = offer.weights(model_id)
    value = chosen if chosen in weights and chosen not in ("packed", "dense") else weights[0]
    return {"choices": [(WEIGHTS_WORDS[name], name) for name in weights], "value": value}


def build_more(offer: Offer) -> dict[str, Any]:
    """Everything else, folded away; the defaults race fairly."""
    with gr.Row():
        more = _controls("work", offer)
    with gr.Row():
        more |= _controls("rules", offer)
    return more


def _controls(place: str, offer: Offer) -> dict[str, Any]:
    """The components of every setting declared to stand there."""
    return {name: _control(setting, offer) for name, setting in _SETTINGS.items() if setting.place == place}


def _control(setting: Setting, offer: Offer) -> Any:
    """What a visitor sets it with, at what it is unless they do."""
    words: dict[str, Any] = {"label": setting.label, "info": setting.info}
    if setting.name == "dtype":
        return gr.Dropdown(list(offer.dtypes), value=offer.dtypes[0], filterable=False, **words)
    if setting.name == "weights":
        return gr.Dropdown(**weights_choices(offer, offer.default_model.id), filterable=False, **words)
    if setting.name == "sides":
        variants = [(title, name) for name, title in BASELINES.items()]
        return gr.Dropdown(variants, value="stock", filterable=False, **words)
    value = setting.within(offer.limits)
    if setting.choices:
        return gr.Radio([(setting.words.get(name, name), name) for name in setting.choices], value=value, **words)
    if setting.kind is bool:
        return gr.Checkbox(value, **words)
    if setting.kind is str:
        return gr.Textbox(value, **words)
    largest = setting.largest(offer.limits)
    if setting.slider is not None and largest is not None:
        return gr.Slider(_slider_from(setting, largest), largest, value, step=setting.slider[1], buttons=[], **words)
    return gr.Number(value, precision=0 if setting.kind is int else None, minimum=setting.least, **words)
