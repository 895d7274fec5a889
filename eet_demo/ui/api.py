"""`/race`: a race without a browser, through the same queue."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gradio as gr

from eet_demo.declared import Setting, settings_of
from eet_demo.records import RaceSettings
from eet_demo.sides.names import split_sides
from eet_demo.ui.handlers import Handlers, session_of
from eet_demo.ui.offer import Offer
from eet_demo.ui.visitors import explained

Endpoint = Callable[..., Iterator[dict[str, Any] | None]]


def make_race_endpoint(offer: Offer, handlers: Handlers) -> Endpoint:
    """The function behind `/race`; its parameters are the settings that visitors have, by name, all with defaults.

    It yields None until the trace, so that Gradio can close it, and thereby the race, once its client is gone.
    """
    settings = {name: setting for name, setting in settings_of(RaceSettings).items() if setting.visitors}

    def race(request: gr.Request, *values: Any) -> Iterator[dict[str, Any] | None]:
        try:
            asked = _asked(offer, dict(zip(settings, values, strict=True)))
            with contextlib.closing(handlers.race(session_of(request), asked)) as answers:
                yield from answers
        except Exception as error:  # Gradio would send whatever it says, and a visitor may not read everything
            message, remedy = explained(error)
            raise gr.Error(f"{message.rstrip('.')}. {remedy}", print_exception=False) from error

    _declare(race, [_parameter(setting, offer) for setting in settings.values()])
    race.__doc__ = _description(settings)
    return race


def _asked(offer: Offer, values: Mapping[str, Any]) -> RaceSettings:
    """What a client sent, unchecked, but for two conveniences: sides in one text, and the page's weights for none."""
    sides, weights = values["sides"], values["weights"]
    if isinstance(sides, str):
        sides = split_sides(sides)  # like the command line's list; a list has one side an entry
    elif isinstance(sides, list):
        sides = tuple(side.strip() if isinstance(side, str) else side for side in sides)
    if weights == "":
        weights = offer.weights(values["model"])[0]
    return RaceSettings(**{**values, "sides": sides, "weights": weights, "device": offer.device})


def _parameter(setting: Setting, offer: Offer) -> inspect.Parameter:
    kind = str | list[str] if setting.kind is tuple else setting.kind
    defaults = {"weights": "", "sides": ",".join(offer.sides)}
    default = defaults.get(setting.name, getattr(offer.default_settings, setting.name))
    return inspect.Parameter(setting.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=kind)


def _declare(race: Endpoint, parameters: list[inspect.Parameter]) -> None:
    """Gives `race` the signature that Gradio reads the endpoint's parameters from; it passes them by position."""
    request = inspect.Parameter("request", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=gr.Request)
    everything = [request, *parameters]
    race.__signature__ = inspect.Signature(everything, return_annotation=dict)  # type: ignore[attr-defined]
    race.__annotations__ = {parameter.name: parameter.annotation for parameter in everything}


def _description(settings: Mapping[str, Setting]) -> str:
    lines = [f"    {name}: {setting.help}" for name, setting in settings.items()]
    return "\n".join(["Runs one race and returns its trace.", "", "Args:", *lines])
