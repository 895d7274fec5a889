"""gpucheck as far as a machine without a GPU can go: its parts, their time and its command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from eet_demo.engine import shapes
from eet_demo.errors import RequestError
from tests.gpucheck_context import context_for
from tools.gpucheck import benches, command
from tools.gpucheck.catalogue import HEADLINES, OTHERS, all_parts
from tools.gpucheck.parts import Context, Part, Settings, read_records, run_parts, select
from tools.gpucheck.write import write_report


class FakeParts:
    """Parts that count their runs; `broken` raises until `mended`."""

    def __init__(self) -> None:
        self.runs: list[str] = []
        self.mended = False
        self.all = [
            Part("first", "works", 1, self._works("first")),
            Part("broken", "raises", 1, self._breaks),
            Part("long", "takes longer than there is", 3000, self._works("long")),
            Part("last", "works too", 1, self._works("last"), default=False),
        ]

    def _works(self, name: str) -> Any:
        def run(context: Context) -> dict[str, Any]:
            self.runs.append(name)
            return {"answer": len(self.runs)}

        return run

    def _breaks(self, context: Context) -> dict[str, Any]:
        self.runs.append("broken")
        if not self.mended:
            raise ValueError("out of order")
        return {}


def test_parts_that_fail_or_do_not_fit_leave_the_others(tmp_path: Path) -> None:
    fakes = FakeParts()
    told: list[str] = []
    skipped = run_parts(fakes.all, Settings(tmp_path), 1, told.append)
    assert fakes.runs == ["first", "broken", "last"]
    assert skipped == ["long"]
    assert any("long: skipped, it needs about 3000 s and 5" in line for line in told)
    records = read_records(tmp_path, fakes.all)
    assert list(records) == ["first", "broken", "last"]
    assert (records["first"]["status"], records["first"]["result"]) == ("done", {"answer": 1})
    assert records["broken"]["status"] == "failed"
    assert records["broken"]["error"] == "ValueError: out of order"
    assert "_breaks" in "".join(records["broken"]["traceback"])
    assert records["broken"]["seconds"] >= 0


def test_second_call_goes_on_where_the_first_ended(tmp_path: Path) -> None:
    fakes = FakeParts()
    run_parts(fakes.all, Settings(tmp_path), 1, lambda line: None)
    fakes.mended = True
    run_parts(fakes.all, Settings(tmp_path), 1, lambda line: None)
    assert fakes.runs == ["first", "broken", "last", "broken"], "finished parts are not repeated, failed ones are"
    run_parts(fakes.all, Settings(tmp_path), 1, lambda line: None, again=True)
    assert fakes.runs[4:] == ["first", "broken", "last"]
    assert read_records(tmp_path, fakes.all)["first"]["result"] == {"answer": 5}


def test_report_is_written_after_every_part(tmp_path: Path) -> None:
    fakes, seen = FakeParts(), []

    def after_each() -> None:
        write_report(tmp_path, fakes.all, ["long"])
        seen.append(list(json.loads((tmp_path / "gpucheck.json").read_text())["parts"]))

    run_parts(fakes.all, Settings(tmp_path), 1, lambda line: None, after_each=after_each)
    assert seen == [["first"], ["first", "broken"], ["first", "broken", "last"]]
    text = (tmp_path / "report.md").read_text()
    assert "- broken failed: ValueError: out of order" in text
    assert "- not run yet: long; run the same command again" in text


def test_time_left_shrinks_and_never_ends(tmp_path: Path) -> None:
    assert 100 < context_for(tmp_path, 120).left_s() < 120
    assert context_for(tmp_path, -5).left_s() == 1


def test_selection_by_name_pattern_and_set() -> None:
    fakes = FakeParts()
    assert [part.name for part in select(fakes.all, "default")] == ["first", "broken", "long"]
    assert len(select(fakes.all, "all")) == 4
    assert [part.name for part in select(fakes.all, "l*, first")] == ["first", "long", "last"]
    with pytest.raises(RequestError, match="no part is called 'middle'; there are first, broken"):
        select(fakes.all, "first,middle")


def test_default_parts_fit_in_nine_minutes_and_names_are_unique() -> None:
    parts = all_parts()
    assert sum(part.estimate_s for part in parts if part.default) <= 9 * 60
    assert len({part.name for part in parts}) == len(parts)
    assert set(HEADLINES) | set(OTHERS) <= set(shapes.SHAPES)


@pytest.mark.parametrize("name", [*HEADLINES, *OTHERS])
def test_prefill_fits_in_every_models_positions(name: str) -> None:
    work = benches.prefill(name)
    assert work["context"] >= 1023
    assert work["context"] + work["new_tokens"] <= shapes.shape(name).max_positions


def test_command_lists_its_parts() -> None:
    app = typer.Typer()
    app.command()(command.gpucheck)
    result = CliRunner().invoke(app, ["--list"], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    for part in all_parts():
        assert part.name in result.output


def test_command_without_a_folder_is_refused() -> None:
    with pytest.raises(RequestError, match="needs --out DIR"):
        command.gpucheck()


def test_real_weights_are_pairs_of_name_and_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert command.real_folders([f"gpt2={tmp_path}"]) == {"gpt2": tmp_path.resolve()}
    for wrong in ("gpt2", f"gpt2={tmp_path}/none"):
        with pytest.raises(RequestError, match="is not NAME=FOLDER"):
            command.real_folders([wrong])
