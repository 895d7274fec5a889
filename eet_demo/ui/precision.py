"""Do both sides compute with the same numbers? In words, with the measured cost in quality where they do not.

Stock holds its weights dense in the race's dtype, the engine as the visitor chose. `assets/quality.json` is a list of
records as `python -m eet_demo quality --json` writes them; a record counts while the texts it was measured on are still
those of this repository.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eet_demo.engine.engine import Engine
from eet_demo.errors import EetError
from eet_demo.models import catalog
from eet_demo.paths import ASSETS
from eet_demo.results.quality import text_hash
from eet_demo.sides.names import parse_side
from eet_demo.text.prompts import load_documents

RECORDS = ASSETS / "quality.json"

Records = Sequence[Mapping[str, Any]]


@functools.cache
def load_records(path: Path = RECORDS) -> Records:
    """The records of the texts as they are now."""
    texts = text_hash(load_documents().values())
    return [record for record in json.loads(path.read_text(encoding="utf-8")) if record["texts"]["sha256"] == texts]


def precision_words(settings: Mapping[str, Any], saving: float | None = None, records: Records | None = None) -> str:
    """One or two sentences for the page; empty where every side's weights are dense whatever the race's are.

    Args:
        settings: a race's, in JSON.
        saving: how many times fewer bytes the packed weights are than float32; None while that is not known.
    """
    sides = [parse_side(name) for name in settings["sides"]]
    if all(side.kind.dense for side in sides):
        return ""
    dtype, weights = settings["dtype"], settings["weights"]
    quantised = any(side.options.get("quantised_activations") == "on" for side in sides)
    if not quantised and weights == "dense" and dtype == "float32":
        return "Both sides compute with the same numbers: dense weights in float32."
    if not quantised and weights == "packed" and dtype == "float32":
        fewer = f"{saving:.1f} times fewer bytes" if saving is not None else "a fraction of the bytes"
        return (
            "Both sides compute with the same numbers: packed weights are exactly those that stock computes with in "
            f"float32, read at {fewer}."
        )
    chosen = f"{weights} weights in {dtype}" + (", 8-bit activations" if quantised else "")
    found = find_record(settings, quantised, load_records() if records is None else records)
    if not quantised and weights == "dense":
        cost = f"; the engine's, against float32: {quality_words(found)}" if found is not None else ""
        return f"Both sides hold the same numbers, dense weights in {dtype}{cost}."
    if found is None:
        return (
            f"The engine's {chosen} are not the numbers that stock computes with, and what that costs here has not "
            f"been measured: {command(settings, quantised)}"
        )
    return f"The engine's {chosen}, against float32: {quality_words(found)}."


def find_record(settings: Mapping[str, Any], quantised: bool, records: Records) -> Mapping[str, Any] | None:
    """The record of this model, device, dtype, weights and kind of activations."""
    same = ("model", "device", "dtype", "weights")
    return next(
        (
            record
            for record in records
            if all(record[name] == settings[name] for name in same)
            and record["options"]["quantised_activations"] == quantised
        ),
        None,
    )


def quality_words(record: Mapping[str, Any]) -> str:
    """Perplexity, divergence and agreement of a record."""
    return (
        f"perplexity {record['perplexity']:.2f} against {record['reference_perplexity']:.2f} "
        f"({100 * (record['perplexity_ratio'] - 1):+.2f} %), KL divergence {record['kl_mean']:.1e} nats, "
        f"same most likely token {100 * record['top1_agreement']:.1f} % of {record['tokens']:,}"
    )


def command(settings: Mapping[str, Any], quantised: bool) -> str:
    """What measures the missing record."""
    side = " --side engine:quantised_activations=on" if quantised else ""
    return (
        f"python -m eet_demo quality --model {settings['model']} --device {settings['device']} "
        f"--dtype {settings['dtype']} --weights {settings['weights']}{side}"
    )


def planned_saving(model: str, models_dir: Path) -> float | None:
    """Bytes of the engine's float32 weights over those of its packed ones; None while the model is not here."""
    folder = catalog.local_folder(model, models_dir)
    return _saving(folder) if folder is not None else None


@functools.cache
def _saving(folder: Path) -> float | None:
    """From the plans of both; nothing is allocated."""
    try:
        dense, packed = (
            Engine.plan(folder, weights=weights, max_batch=1, max_context=1) for weights in ("dense", "packed")
        )
    except EetError:
        return None  # no GGUF, or no model: the race says what is wrong with it
    return dense.weights_bytes / packed.weights_bytes


def recorded_saving(trace: Mapping[str, Any]) -> float | None:
    """The same of a recorded race, from what its sides said of their weights; None where one said nothing."""
    said = [max(filter(None, side["memory"].get("weights_bytes", [])), default=0) for side in trace["sides"]]
    return said[0] / said[-1] if len(said) == 2 and all(said) else None
