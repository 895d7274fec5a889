"""What a race is run on: the model's folder with its limits, and the prompt ids that every side gets."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eet_demo.declared import LIMIT_VARIABLE, Limits, settings_of
from eet_demo.engine.families import spec_from_config
from eet_demo.engine.families.fields import Fields
from eet_demo.engine.shapes import config_of
from eet_demo.engine.tensor_files import read_json
from eet_demo.errors import CheckpointError, RequestError, UnsupportedError
from eet_demo.records import RaceSettings
from eet_demo.sides.build import check_side
from eet_demo.sides.names import parse_side
from eet_demo.text.prompts import build_prompt, row_lengths
from eet_demo.text.tokens import IncrementalDecoder, Tokenizer

PROMPT_TEXT_CHARACTERS = 2000
KEPT_PROMPTS = 16
"""Of the newest requests: those of a visitor who races again, and of a few who wait."""
NO_TOKENIZER_NOTE = "the model folder has no tokenizer.json: the prompt is random ids and tokens have no text"
RANDOM_WEIGHTS_NOTE = (
    "random weights on each side, drawn by itself: prompts are random ids, tokens have no text, and what stock and "
    "engine write is not compared"
)


@dataclass(frozen=True)
class RaceModel:
    """A model folder as a race needs it.

    Args:
        path: absolute, or `shape:NAME`.
        tokenizer: None for a folder without tokenizer.json: prompts are random ids then, and tokens have no text.
        end_ids: ids that end an answer.
        context_limit: prompt and new tokens together.
        random_weights: each side draws weights of its own, so that what they write cannot be compared.
    """

    path: Path
    tokenizer: Tokenizer | None
    end_ids: tuple[int, ...]
    context_limit: int
    vocab_size: int
    random_weights: bool = False

    @property
    def notes(self) -> list[str]:
        """What must be said of every race of this model."""
        if self.random_weights:
            return [RANDOM_WEIGHTS_NOTE]
        return [NO_TOKENIZER_NOTE] if self.tokenizer is None else []

    def new_decoder(self) -> IncrementalDecoder:
        return self.tokenizer.incremental() if self.tokenizer is not None else _NoText()

    def same_weights(self, one: str, other: str) -> bool:
        """Whether two sides, by their names, compute with the same values, so that their tokens can be compared."""
        return not self.random_weights or parse_side(one).kind.random == parse_side(other).kind.random

    def text(self, token_ids: Sequence[int]) -> str:
        """Decoded ids, the middle cut out beyond PROMPT_TEXT_CHARACTERS."""
        text = self.tokenizer.decode(token_ids) if self.tokenizer is not None else ""
        half = PROMPT_TEXT_CHARACTERS // 2
        return text if len(text) <= 2 * half else text[: half - 3] + " … " + text[-half:]


class _NoText:
    """The decoder of a model without a tokenizer."""

    def push(self, token_id: int) -> str:
        return ""

    def flush(self) -> str:
        return ""


def open_model(folder: Path) -> RaceModel:
    """The model in `folder`, or of `shape:NAME`.

    Raises:
        CheckpointError: config.json is missing, broken or names no limits; the tokenizer cannot be read.
    """
    shape = config_of(folder)
    if shape is not None:
        return RaceModel(folder, None, (), *_limits(shape), random_weights=True)
    folder = folder.resolve()
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} has no config.json; a model folder holds config.json and *.safetensors")
    limit, vocab_size = _limits(read_json(folder / "config.json"))
    tokenizer = Tokenizer(folder) if (folder / "tokenizer.json").is_file() else None
    end_ids = tokenizer.stop_ids if tokenizer is not None else ()
    return RaceModel(folder, tokenizer, end_ids, limit, vocab_size)


def _limits(config: Mapping[str, Any]) -> tuple[int, int]:
    """Positions and vocabulary: the engine's, or for a model that stock alone can run what its config names."""
    try:
        spec = spec_from_config(config)
    except UnsupportedError:
        fields = Fields(config, str(config.get("model_type", "missing")))
        positions = "n_positions" if fields.has("n_positions") else "max_position_embeddings"
        if not (fields.has(positions) and fields.has("vocab_size")):
            raise CheckpointError("config.json names no context limit or no vocab_size") from None
        return fields.count(positions), fields.count("vocab_size")
    return spec.max_positions, spec.vocab_size


def check_settings(settings: RaceSettings, limits: Limits, allow_scripted: bool = False, most_sides: int = 2) -> None:
    """What can be said of a request before anything is built for it; whoever asks, this is the one check there is.

    Raises:
        RequestError: a value of another type or beyond a limit, an unknown side or option of one, too many sides; each
            with what is possible.
    """
    for name, setting in settings_of(RaceSettings).items():
        setting.check(getattr(settings, name), limits)
    if settings.batch * settings.context > limits.prompt_ids:
        raise RequestError(
            f"{settings.batch} rows of {settings.context:,} ids are {settings.batch * settings.context:,}; all rows "
            f"together may have {limits.prompt_ids:,} ({LIMIT_VARIABLE}PROMPT_IDS)"
        )
    if not 1 <= len(settings.sides) <= most_sides:
        raise RequestError(f"{len(settings.sides)} sides are given; there can be 1 to {most_sides}")
    for side in settings.sides:
        check_side(side)
        if parse_side(side).kind.scripted and not allow_scripted:
            raise RequestError(f"unknown side {side!r}; scripted sides race in tests only")


@functools.lru_cache(maxsize=KEPT_PROMPTS)
def prompt_ids(settings: RaceSettings, model: RaceModel) -> tuple[tuple[int, ...], ...]:
    """The ids of every row, the same for all sides. Without a tokenizer they are random, from the settings' seed.

    Built once for a race, although the press of its button, its check and its sides ask for them.

    Raises:
        RequestError: a request the model cannot serve, with the figures.
    """
    if settings.context + settings.new_tokens > model.context_limit:
        raise RequestError(
            f"a context of {settings.context} and {settings.new_tokens} new tokens are "
            f"{settings.context + settings.new_tokens} together; the model's limit is {model.context_limit}"
        )
    if model.tokenizer is not None:
        rows = build_prompt(
            model.tokenizer, settings.prompt, settings.question, settings.context, settings.batch, settings.ragged
        )
        return tuple(map(tuple, rows))
    lengths = row_lengths(settings.context, settings.batch, settings.ragged)
    random = np.random.default_rng(settings.seed)
    return tuple(tuple(random.integers(0, model.vocab_size, length).tolist()) for length in lengths)
