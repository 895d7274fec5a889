"""`/race`: a race without a browser, through the same queue."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from eet_demo.records import RaceSettings
from eet_demo.sides.names import split_sides
from eet_demo.ui.handlers import Handlers, explained, session_of
from eet_demo.ui.offer import DEFAULT_CONTEXT, DEFAULT_NEW_TOKENS, Offer

Endpoint = Callable[..., Iterator[dict[str, Any] | None]]


def make_race_endpoint(offer: Offer, handlers: Handlers) -> Endpoint:
    """The function behind `/race`; its parameters' names and defaults are the endpoint's.

    It yields None until the trace, so that Gradio can close it, and thereby the race, once its client is gone.
    """
    default_model = offer.default_model.id
    default_sides = ",".join(offer.sides)

    def race(
        request: gr.Request,  # given by Gradio, no parameter of the endpoint
        model: str = default_model,
        context: int = DEFAULT_CONTEXT,
        new_tokens: int = DEFAULT_NEW_TOKENS,
        batch: int = 1,
        dtype: str = offer.dtypes[0],
        weights: str = "",
        sides: str | list[str] = default_sides,
        schedule: str = "in_turn",
        prompt: str = "",
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> Iterator[dict[str, Any] | None]:
        """Runs one race and returns its trace.

        Args:
            model: a model's id.
            context: ids of the whole prompt.
            new_tokens: tokens each side writes, per row.
            batch: rows.
            dtype: what both sides compute in.
            weights: how the engine stores its weights: dense, q8_0, or packed as a GGUF has them; empty takes the
                page's default for the model.
            sides: names separated by commas, or a list.
            schedule: in_turn or together.
            prompt: a document's id, or `text:` and your own text; empty takes the first document.
            temperature: 0 is greedy.
            top_k: 0 keeps all.
            top_p: 1 keeps all.
            seed: of the sampler.
        """
        settings = RaceSettings(
            model=model,
            device=offer.device,
            dtype=dtype,
            weights=weights or offer.weights(model)[0],
            context=context,
            new_tokens=new_tokens,
            batch=batch,
            prompt=prompt,
            sides=_side_names(sides),
            schedule=schedule,  # type: ignore[arg-type]  # checked with the rest
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
        )
        try:
            with contextlib.closing(handlers.race(session_of(request), settings)) as answers:
                yield from answers
        except Exception as error:  # Gradio would send whatever it says, and a visitor may not read everything
            raise gr.Error(" ".join(explained(error)), print_exception=False) from error

    return race


def _side_names(sides: str | list[str]) -> tuple[str, ...]:
    """One text is a list like the command line's; a list has one side an entry."""
    return split_sides(sides) if isinstance(sides, str) else tuple(side.strip() for side in sides)
