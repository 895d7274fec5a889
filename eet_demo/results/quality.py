"""What a precision costs in quality: perplexity, and how far the logits move from float32 dense on the same positions.

The text is the repository's own documents, cut into windows of WINDOW tokens that do not overlap, the first window of
each document, then the second of each, until there are enough. A window begins with what the tokenizer puts before a
text, if anything (`<s>`); every other token of it but the very first is predicted from those before it in the window.
Both engines read a window side by side, and only the rows of one pass are held.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eet_demo.engine.engine import Engine
from eet_demo.errors import NumericsError, RequestError
from eet_demo.machine.gpu import Gpu
from eet_demo.machine.hardware import read_hardware
from eet_demo.records import EngineOptions, as_json
from eet_demo.text.prompts import Document, load_documents
from eet_demo.text.tokens import Tokenizer

WINDOW = 256
TOKENS = 2048
"""Predicted tokens by default: within a minute on two cores for 135 M parameters."""

Logits = NDArray[np.float32]
Tell = Callable[[int, int], None]
"""Called after every window with the tokens scored and in all."""


@dataclass(frozen=True)
class PositionScores:
    """One predicted position: negative log-likelihoods and KL(reference || tested) in nats, same most likely id."""

    reference_nll: float
    nll: float
    kl: float
    agrees: bool


def score(reference: Logits, tested: Logits, target: int) -> PositionScores:
    """Compares two logits (vocab,) of one position whose next token is `target`; sums in float64.

    Raises:
        NumericsError: a logit is not finite.
    """
    one, other = _log_softmax(reference), _log_softmax(tested)
    kl = float(np.sum(np.exp(one) * (one - other)))
    return PositionScores(
        -float(one[target]), -float(other[target]), max(0.0, kl), bool(reference.argmax() == tested.argmax())
    )


def _log_softmax(logits: Logits) -> NDArray[np.float64]:
    values = logits.astype(np.float64)
    values -= values.max()
    values -= np.log(np.sum(np.exp(values)))
    if not np.isfinite(values).all():
        raise NumericsError("a logit is NaN or infinite: no quality can be told")
    return values


def summary(scores: Sequence[PositionScores]) -> dict[str, float]:
    """`perplexity`, the reference's and their ratio, `kl_mean`, `kl_p99` and `kl_max` in nats, `top1_agreement`."""
    nll, reference = (float(np.mean([getattr(each, name) for each in scores])) for name in ("nll", "reference_nll"))
    divergences = np.array([each.kl for each in scores])
    return {
        "perplexity": math.exp(nll),
        "reference_perplexity": math.exp(reference),
        "perplexity_ratio": math.exp(nll - reference),
        "kl_mean": float(divergences.mean()),
        "kl_p99": float(np.percentile(divergences, 99)),
        "kl_max": float(divergences.max()),
        "top1_agreement": float(np.mean([each.agrees for each in scores])),
    }


@dataclass(frozen=True)
class Windows:
    """What is read: `texts` are the ids of each window, of which the first `given` (1 or more) are not predicted."""

    texts: tuple[tuple[int, ...], ...]
    given: int

    @property
    def tokens(self) -> int:
        """Predicted tokens."""
        return sum(len(text) - self.given for text in self.texts)


def cut(documents: Sequence[Sequence[int]], tokens: int, window: int = WINDOW, prefix: Sequence[int] = ()) -> Windows:
    """Windows that predict `tokens` tokens together, the last one cut to what is missing; or all there is.

    Args:
        documents: the ids of each.
        prefix: ids that every window begins with.

    Raises:
        RequestError: a window in which nothing is predicted, or no token asked for.
    """
    given = max(1, len(prefix))
    if window <= given or tokens < 1:
        raise RequestError(f"window {window}, tokens {tokens}: at least {given + 1} and 1, so that one is predicted")
    size = window - len(prefix)
    cuts = [[ids[start : start + size] for start in range(0, len(ids), size)] for ids in documents]
    chosen: list[tuple[int, ...]] = []
    left = tokens
    for turn in range(max(map(len, cuts), default=0)):
        for text in (document[turn] for document in cuts if turn < len(document)):
            ids = (*prefix, *text)[: given + left]
            if len(ids) > given:
                chosen.append(ids)
                left -= len(ids) - given
    return Windows(tuple(chosen), given)


def rows_of(engine: Engine, window: Sequence[int]) -> Iterator[tuple[int, Logits]]:
    """(position, logits (vocab,)) of one window, in order."""
    for _, start, block in engine.logits([window]):
        for offset, row in enumerate(block):
            yield start + offset, row


def compare(reference: Engine, tested: Engine, windows: Windows, tell: Tell) -> list[PositionScores]:
    """Scores of every predicted token of every window."""
    scores: list[PositionScores] = []
    for window in windows.texts:
        pairs = zip(rows_of(reference, window), rows_of(tested, window), strict=True)
        for (position, one), (other_position, other) in pairs:
            assert position == other_position, "both engines give the positions in order"
            if windows.given <= position + 1 < len(window):
                scores.append(score(one, other, window[position + 1]))
        tell(len(scores), windows.tokens)
    return scores


def text_hash(documents: Iterable[Document]) -> str:
    """sha256 over the texts in their order, each followed by a zero byte."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(document.text.encode() + b"\0")
    return digest.hexdigest()


def measure_quality(
    model: str | Path,
    device: str = "cpu",
    dtype: str = "float32",
    weights: str = "dense",
    options: EngineOptions | None = None,
    tokens: int = TOKENS,
    window: int = WINDOW,
    tell: Tell = lambda done, total: None,
    gpu: Gpu | None = None,
) -> dict[str, Any]:
    """The record of one precision against float32 dense on the same device, as `quality --json` writes it.

    Args:
        model: a folder with a tokenizer.
        options: of the engine that is tested; the reference has the same threads and nothing else of them.
        gpu: the one that CUDA uses here, for the record.

    Raises:
        EetError: the folder, the precision or the device cannot be had, or there is no tokenizer.
    """
    folder = Path(model)
    if not (folder / "tokenizer.json").is_file():
        raise RequestError(f"{model} has no tokenizer.json: perplexity is of text, so quality needs a tokenizer")
    documents = load_documents()
    tokenizer = Tokenizer(folder)
    ids = [tokenizer.encode(document.text) for document in documents.values()]
    windows = cut(ids, tokens, window, tokenizer.prefix_ids)
    options = options or EngineOptions()
    limits: dict[str, Any] = {"device": device, "max_batch": 1, "max_context": max(map(len, windows.texts))}
    plain = EngineOptions(threads=options.threads)
    with (
        Engine.from_pretrained(folder, dtype="float32", weights="dense", options=plain, **limits) as reference,
        Engine.from_pretrained(folder, dtype=dtype, weights=weights, options=options, **limits) as tested,
    ):
        found = summary(compare(reference, tested, windows, tell))
    return {
        "model": folder.name,
        "device": device,
        "dtype": dtype,
        "weights": weights,
        "options": as_json(options),
        "reference": {"dtype": "float32", "weights": "dense"},
        "texts": {"documents": list(documents), "sha256": text_hash(documents.values())},
        "window": window,
        "stride": window,
        "tokens": windows.tokens,
        **found,
        "hardware": as_json(read_hardware(gpu=gpu)),
    }


def lines_of(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what, value) in words, for a table."""
    return [
        ("perplexity", f"{record['perplexity']:.4f}"),
        ("perplexity of float32 dense", f"{record['reference_perplexity']:.4f}"),
        ("difference", f"{100 * (record['perplexity_ratio'] - 1):+.3f} %"),
        ("KL divergence, mean", f"{record['kl_mean']:.2e} nats"),
        ("KL divergence, 99th percentile", f"{record['kl_p99']:.2e} nats"),
        ("same most likely token", f"{100 * record['top1_agreement']:.2f} %"),
        ("predicted tokens", f"{record['tokens']} in windows of {record['window']}"),
    ]
