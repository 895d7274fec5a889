"""What may be asked of an engine, checked before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from eet_demo.engine.executors import Int32
from eet_demo.engine.plan import Limits
from eet_demo.errors import RequestError


def prompt_ids(prompts: Sequence[Sequence[int]], new_tokens: int, limits: Limits, vocab_size: int) -> list[Int32]:
    """The prompts as int32 arrays.

    Raises:
        RequestError: too many rows or tokens, an empty prompt, an id that is no whole number or outside the vocabulary.
    """
    if not 1 <= len(prompts) <= limits.max_batch:
        raise RequestError(f"{len(prompts)} prompts given; this engine takes 1 to {limits.max_batch} (max_batch)")
    for row, prompt in enumerate(prompts):
        if not isinstance(prompt, Sequence | np.ndarray) or isinstance(prompt, str | bytes):
            given = f"{_shown(prompt)}, {_kind(prompt)}"
            raise RequestError(f"prompt {row} is {given}; a prompt is a sequence of token ids")
        if len(prompt) == 0:
            raise RequestError(f"prompt {row} is empty; a prompt needs at least one token id")
        if len(prompt) + new_tokens > limits.max_context:
            raise RequestError(
                f"prompt {row} has {len(prompt)} tokens and {new_tokens} new ones are asked for; "
                f"together at most {limits.max_context} (max_context) fit"
            )
        check_ids(f"prompt {row}", prompt)
        low, high = min(prompt), max(prompt)
        if low < 0 or high >= vocab_size:
            outside = low if low < 0 else high
            raise RequestError(f"prompt {row} holds token id {outside}; ids are 0 to {vocab_size - 1}")
    return [np.asarray(prompt, np.int32) for prompt in prompts]


def check_new_tokens(max_new_tokens: int) -> None:
    """Raises RequestError for what is no number of tokens."""
    if not _is_whole(max_new_tokens):
        raise RequestError(f"max_new_tokens is {_shown(max_new_tokens)}; it must be a whole number")
    if max_new_tokens < 1:
        raise RequestError(f"max_new_tokens is {max_new_tokens}; it must be at least 1")


def check_ids(what: str, ids: Sequence[int]) -> None:
    """Raises RequestError naming the first of `ids` that NumPy would cut to a whole number, or take for one."""
    for place, token_id in enumerate(ids):
        if not _is_whole(token_id):
            given = f"{_shown(token_id)} at place {place}, {_kind(token_id)}"
            raise RequestError(f"{what} holds {given}; token ids are whole numbers")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _kind(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _shown(value: Any) -> str:
    text = str(value) if isinstance(value, np.generic) else repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
