"""What the page says of precision: the same numbers, or what the difference costs, or how to measure it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eet_demo.records import RaceSettings, as_json
from eet_demo.results.quality import text_hash
from eet_demo.text.prompts import load_documents
from eet_demo.ui.precision import (
    RECORDS,
    load_records,
    planned_saving,
    precision_words,
    recorded_saving,
)

RECORD = {
    "model": "smollm2-135m",
    "device": "cpu",
    "dtype": "float32",
    "weights": "q8_0",
    "options": {"quantised_activations": False},
    "perplexity": 12.5,
    "reference_perplexity": 12.0,
    "perplexity_ratio": 12.5 / 12.0,
    "kl_mean": 0.0012,
    "top1_agreement": 0.975,
    "tokens": 2048,
}


def words(records: list[Any] | None = None, saving: float | None = None, **changed: Any) -> str:
    settings = as_json(RaceSettings("smollm2-135m", **changed))
    return precision_words(settings, saving, records if records is not None else [])


def test_same_numbers_are_said_to_be_the_same() -> None:
    assert words() == "Both sides compute with the same numbers: dense weights in float32."
    assert words(dtype="bfloat16") == "Both sides hold the same numbers, dense weights in bfloat16."
    record = RECORD | {"weights": "dense", "dtype": "bfloat16"}
    assert "in bfloat16; the engine's, against float32: perplexity" in words([record], dtype="bfloat16")
    packed = words(weights="packed", saving=5.571)
    assert packed.startswith("Both sides compute with the same numbers: packed weights are exactly those that stock")
    assert packed.endswith("read at 5.6 times fewer bytes.")
    assert "times" not in words(weights="packed"), "no figure that nobody computed"


def test_other_numbers_show_what_they_cost() -> None:
    assert words([RECORD], weights="q8_0") == (
        "The engine's q8_0 weights in float32, against float32: perplexity 12.50 against 12.00 (+4.17 %), "
        "KL divergence 1.2e-03 nats, same most likely token 97.5 % of 2,048."
    )


@pytest.mark.parametrize(
    ("changed", "command"),
    [
        ({"weights": "q8_0", "model": "gpt2"}, "--model gpt2 --device cpu --dtype float32 --weights q8_0"),
        ({"weights": "q8_0", "device": "cuda"}, "--device cuda --dtype float32 --weights q8_0"),
        ({"weights": "packed", "dtype": "float16"}, "--dtype float16 --weights packed"),  # stock rounds its weights
        (
            {"weights": "q8_0", "sides": ("stock", "engine:quantised_activations=on")},
            "--weights q8_0 --side engine:quantised_activations=on",
        ),
    ],
)
def test_what_was_not_measured_names_the_command_that_does(changed: dict[str, Any], command: str) -> None:
    settings = as_json(RaceSettings(**{"model": "smollm2-135m", **changed}))
    said = precision_words(settings, None, [RECORD])
    assert "has not been measured" in said
    assert said.endswith(command)
    assert "python -m eet_demo quality --model" in said


def test_two_stocks_have_no_line() -> None:
    assert words(sides=("stock", "stock-eager")) == ""


def test_the_records_that_are_shipped_are_of_these_texts_and_within_bounds() -> None:
    records = load_records()
    assert records
    assert all(record["texts"]["sha256"] == text_hash(load_documents().values()) for record in records)
    found = {(r["dtype"], r["weights"], r["options"]["quantised_activations"]): r for r in records}
    assert len(found) == len(records), "one record for each precision"
    packed, q8_0 = found["float32", "packed", False], found["float32", "q8_0", False]
    assert packed["top1_agreement"] == 1.0
    assert packed["kl_max"] < 1e-6
    assert abs(q8_0["perplexity_ratio"] - 1) < 0.005
    assert "perplexity" in words(list(records), weights="q8_0")


def test_records_of_other_texts_do_not_count(tmp_path: Path) -> None:
    other = tmp_path / "quality.json"
    now = text_hash(load_documents().values())
    other.write_text(RECORDS.read_text(encoding="utf-8").replace(now, "0" * 64), encoding="utf-8")
    assert load_records(other) == []


def test_saving_is_that_of_the_plans(models_dir: Path, tmp_path: Path) -> None:
    saving = planned_saving("smollm2-135m", models_dir)
    assert saving == pytest.approx(5.57, abs=0.01)
    assert planned_saving("smollm2-135m", tmp_path) is None


def test_saving_of_a_recording_is_what_its_sides_held() -> None:
    sides = [{"memory": {"weights_bytes": [None, 500, 560]}}, {"memory": {"weights_bytes": [100]}}]
    assert recorded_saving({"sides": sides}) == 5.6
    assert recorded_saving({"sides": [sides[0], {"memory": {}}]}) is None
