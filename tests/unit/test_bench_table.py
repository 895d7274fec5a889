"""The table that `bench` and `race` print: units, and a dash for what is undefined."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from eet_demo.commands import race as commands
from eet_demo.results.metrics import FIGURES


def printed(found: dict[str, Any] | None = None, **changed: Any) -> str:
    run: dict[str, Any] = {"side": "stock", **dict.fromkeys(FIGURES, None), "memory": {}} | changed
    console = Console(record=True, width=200, file=open("/dev/null", "w"))  # noqa: SIM115 - closed with the console
    rest: dict[str, Any] = {"speedup": None, "parity": None, "settings": {}, "notes": []}
    console.print(commands._table([run], rest | (found or {})))
    return console.export_text()


def test_memory_is_in_mib() -> None:
    text = printed(memory={"process_peak_bytes": 3 * 2**20})
    assert "peak MiB" in text
    assert "3.00" in text


def test_undefined_figure_is_a_dash() -> None:
    cells = printed(tpot_ms=12.5).splitlines()[3].split()
    assert cells.count("-") == 6
    assert "12.50" in cells


def test_dispersion_stands_beside_a_median() -> None:
    text = printed({"settings": {"repeats": 3}}, tpot_ms=12.5, iqr={"tpot_ms": 0.25, "ttft_ms": None})
    assert "12.50 (0.25)" in text
    assert text.count("(") == 1
    assert "medians of 3 runs, in brackets the width of their middle half" in text


def test_notes_are_printed() -> None:
    words = "other programs took 0.75 of 2 cores while stock ran"
    assert words in printed({"notes": [words]})
