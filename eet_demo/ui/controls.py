"""The controls: built from the offer, read back into `RaceSettings`. Their values arrive raw and are checked here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import gradio as gr

from eet_demo.errors import RequestError
from eet_demo.records import RaceSettings, Schedule, as_json
from eet_demo.text.prompts import OWN_TEXT
from eet_demo.ui.assets import mounting
from eet_demo.ui.offer import BASELINES, DEFAULT_CONTEXT, DEFAULT_NEW_TOKENS, ModelChoice, Offer

MAX_NEW_TOKENS = 1024
MAX_BATCH = 8
MIN_CONTEXT = 32
WEIGHTS_WORDS = {
    "packed": "packed: as in the model's file",
    "dense": "dense: every value in full",
    "q8_0": "q8_0: 8 bits, quantised here",
}

Values = Mapping[Any, Any]


@dataclass(frozen=True)
class Controls:
    """The components that say what to race."""

    offer: Offer
    model: gr.HTML
    document: gr.Dropdown
    question: gr.Dropdown
    own_text: gr.Textbox
    context: gr.Slider
    new_tokens: gr.Slider
    batch: gr.Slider
    ragged: gr.Checkbox
    dtype: gr.Dropdown
    weights: gr.Dropdown
    baseline: gr.Dropdown
    schedule: gr.Radio
    free_running: gr.Checkbox
    temperature: gr.Slider
    top_k: gr.Number
    top_p: gr.Slider
    seed: gr.Number

    @property
    def inputs(self) -> set[Any]:
        """Every component whose value a race needs."""
        return {value for name, value in vars(self).items() if name != "offer"}

    def settings(self, values: Values) -> RaceSettings:
        """What the visitor asked for.

        Raises:
            RequestError: a value that is missing or is no number; the limits are checked by the race itself.
        """
        model_id = str(values[self.model] or "")
        baseline = str(values[self.baseline])
        sides = tuple(baseline if side in BASELINES else side for side in self.offer.sides)
        return RaceSettings(
            model=model_id,
            device=self.offer.device,
            dtype=str(values[self.dtype]),
            weights=str(values[self.weights]),
            context=_whole(values[self.context], "context length"),
            new_tokens=_whole(values[self.new_tokens], "number of new tokens"),
            batch=_whole(values[self.batch], "batch"),
            ragged=bool(values[self.ragged]),
            prompt=self._prompt(values),
            question=str(values[self.question] or ""),
            sides=sides,
            schedule=cast(Schedule, values[self.schedule]),
            temperature=_number(values[self.temperature], "temperature"),
            top_k=_whole(values[self.top_k], "top-k"),
            top_p=_number(values[self.top_p], "top-p"),
            seed=_whole(values[self.seed], "seed"),
            free_running=bool(values[self.free_running]),
        )

    def _prompt(self, values: Values) -> str:
        document = str(values[self.document] or "")
        return OWN_TEXT + str(values[self.own_text] or "") if document == OWN_TEXT else document

    def listen(self) -> None:
        """Keeps the controls consistent: none of these waits in the queue."""
        quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        self.document.input(self._choose_document, self.document, [self.question, self.own_text], **quiet)
        self.model.change(self._choose_weights, [self.model, self.weights], self.weights, **quiet)
        for component, event in ((self.model, "change"), (self.new_tokens, "release")):
            getattr(component, event)(
                self._limit_context,
                [self.model, self.new_tokens, self.context],
                self.context,
                preprocess=False,
                **quiet,
            )

    def tell(self, stage: gr.HTML, seal: Callable[[Mapping[str, Any]], Any]) -> None:
        """Lets the panes say the precision of the race that these controls would start."""
        inputs: list[Any] = [self.model, self.dtype, self.weights]

        def planned(model_id: str, dtype: str, weights: str) -> Any:
            if not model_id or weights not in self.offer.weights(model_id):
                return gr.skip()  # the weights follow the model in a moment
            settings = replace(self.offer.default_settings, model=model_id, dtype=dtype, weights=weights)
            return seal(self.offer.planned(as_json(settings)))

        for component in inputs:
            component.change(planned, inputs, stage, queue=False, show_progress="hidden", api_visibility="private")

    def _choose_weights(self, model_id: str, chosen: str) -> Any:
        return gr.update(**weights_choices(self.offer, model_id, chosen)) if model_id else gr.skip()

    def _choose_document(self, document: str) -> dict[Any, Any]:
        own = document == OWN_TEXT
        questions = () if own else self.offer.documents[document].questions
        return {
            self.question: gr.update(choices=list(questions), value=questions[0] if questions else ""),
            self.own_text: gr.update(visible=own),
        }

    def _limit_context(self, model_id: str, new_tokens: float | None, context: float | None) -> Any:
        model = next((model for model in self.offer.list_models() if model.id == model_id), None)
        if model is None or not new_tokens:
            return gr.skip()
        limit = max(MIN_CONTEXT, model.context_limit - int(new_tokens))
        # The value is left alone where it can be: the visitor may be typing another one meanwhile.
        return gr.update(maximum=limit, value=limit) if (context or 0) > limit else gr.update(maximum=limit)


def build_deck(offer: Offer) -> dict[str, Any]:
    """The row that is always seen: model, document, question, lengths."""
    model = offer.default_model
    first = next(iter(offer.documents.values()))
    choices = [(document.title, document.id) for document in offer.documents.values()]
    limit = model.context_limit - DEFAULT_NEW_TOKENS
    return {
        "model": build_model_picker(offer.list_models(), "" if model.reason else model.id),
        "document": gr.Dropdown(
            [*choices, ("Your own text", OWN_TEXT)], value=first.id, label="Document", filterable=False
        ),
        "question": gr.Dropdown(
            list(first.questions), value=first.questions[0], label="Question, pick or write", allow_custom_value=True
        ),
        "context": gr.Slider(MIN_CONTEXT, limit, DEFAULT_CONTEXT, step=1, label="Context, tokens", buttons=[]),
        "new_tokens": gr.Slider(1, MAX_NEW_TOKENS, DEFAULT_NEW_TOKENS, step=1, label="New tokens", buttons=[]),
    }


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
    baselines = [(words, name) for name, words in BASELINES.items()]
    more: dict[str, Any] = {}
    with gr.Row():
        more["batch"] = gr.Slider(1, MAX_BATCH, 1, step=1, label="Batch", info="Prompts at once.", buttons=[])
        more["ragged"] = gr.Checkbox(False, label="Ragged rows", info="Prompts of different lengths in one batch.")
        dtypes = list(offer.dtypes)
        more["dtype"] = gr.Dropdown(dtypes, value=dtypes[0], label="Precision, both sides", filterable=False)
        more["weights"] = gr.Dropdown(
            **weights_choices(offer, offer.default_model.id), label="Engine's weights", filterable=False
        )
        more["baseline"] = gr.Dropdown(baselines, value="stock", label="Stock variant", filterable=False)
    with gr.Row():
        schedules = [("In turn, each alone", "in_turn"), ("Together", "together")]
        more["schedule"] = gr.Radio(schedules, value="in_turn", label="Schedule")
        more["free_running"] = gr.Checkbox(
            False, label="Stop at the end of text", info="Compares seconds, not equal work."
        )
        more["temperature"] = gr.Slider(0, 2, 0, step=0.05, label="Temperature", info="0 is greedy.", buttons=[])
        more["top_k"] = gr.Number(0, label="Top-k", info="0 keeps all.", precision=0, minimum=0)
        more["top_p"] = gr.Slider(0.01, 1, 1, step=0.01, label="Top-p", buttons=[])
        more["seed"] = gr.Number(0, label="Seed", precision=0, minimum=0)
    return more


def _number(value: Any, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise RequestError(f"The {name} is {value!r}, which is no number; type one.") from None
    if not math.isfinite(number):
        raise RequestError(f"The {name} must be a finite number.")
    return number


def _whole(value: Any, name: str) -> int:
    number = _number(value, name)
    if number != int(number):
        raise RequestError(f"The {name} must be a whole number, not {value}.")
    return int(number)
