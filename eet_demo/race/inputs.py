"""What a race is run on: the model's folder with its limits, and the prompt ids that every side gets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eet_demo import catalog
from eet_demo.errors import CheckpointError, RequestError, SourceError
from eet_demo.prompts import build_prompt, row_lengths
from eet_demo.records import RaceSettings
from eet_demo.tokens import IncrementalDecoder, Tokenizer

PROMPT_TEXT_CHARACTERS = 2000


@dataclass(frozen=True)
class RaceModel:
    """A model folder as a race needs it.

    Args:
        tokenizer: None for a folder without tokenizer.json: prompts are random ids then, and tokens have no text.
        end_ids: ids that end an answer.
        context_limit: prompt and new tokens together.
    """

    path: Path
    tokenizer: Tokenizer | None
    end_ids: tuple[int, ...]
    context_limit: int
    vocab_size: int

    def new_decoder(self) -> IncrementalDecoder:
        return self.tokenizer.incremental() if self.tokenizer is not None else _NoText()

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


def open_model(model: str, models_dir: Path) -> RaceModel:
    """The model called `model`: a catalogue id whose folder is in `models_dir`, or a local folder.

    Raises:
        RequestError: no such id or folder. SourceError: known, but not on this machine yet.
        CheckpointError: the folder lacks config.json or its limits.
    """
    folder = Path(model).expanduser().resolve()
    if not folder.is_dir():
        folder = models_dir / catalog.find(model).id
    if not (folder / "config.json").is_file():
        if folder.parent == models_dir:
            raise SourceError(f"{model} is not on this machine; fetch it: python -m eet_demo fetch {model}")
        raise CheckpointError(f"{folder} has no config.json; a model folder holds config.json and *.safetensors")
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    limit = config.get("max_position_embeddings") or config.get("n_positions")
    if not limit or not config.get("vocab_size"):
        raise CheckpointError(f"{folder}/config.json names no context limit or no vocab_size")
    tokenizer = Tokenizer(folder) if (folder / "tokenizer.json").is_file() else None
    end_ids = tokenizer.stop_ids if tokenizer is not None else ()
    return RaceModel(folder, tokenizer, end_ids, int(limit), int(config["vocab_size"]))


def prompt_ids(settings: RaceSettings, model: RaceModel) -> list[list[int]]:
    """The ids of every row, the same for all sides. Without a tokenizer they are random, from the settings' seed.

    Raises:
        RequestError: a request the model cannot serve, with the figures.
    """
    for name in ("context", "new_tokens", "batch"):
        if getattr(settings, name) < 1:
            raise RequestError(f"{name} is {getattr(settings, name)}; it must be at least 1")
    if settings.context + settings.new_tokens > model.context_limit:
        raise RequestError(
            f"a context of {settings.context} and {settings.new_tokens} new tokens are "
            f"{settings.context + settings.new_tokens} together; the model's limit is {model.context_limit}"
        )
    if model.tokenizer is not None:
        return build_prompt(
            model.tokenizer, settings.prompt, settings.question, settings.context, settings.batch, settings.ragged
        )
    lengths = row_lengths(settings.context, settings.batch, settings.ragged)
    random = np.random.default_rng(settings.seed)
    return [random.integers(0, model.vocab_size, length).tolist() for length in lengths]
