"""bench: order, medians and the object that `--json` writes, between scripted sides; and once for real, small."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from eet_demo.commands import race as commands
from eet_demo.errors import RequestError
from eet_demo.paths import IMPORT_ROOT
from eet_demo.race.bench import Bench
from eet_demo.race.resources import RaceResources
from eet_demo.records import RaceSettings
from eet_demo.results.trace import load_trace
from eet_demo.sides.names import parse_side, split_sides
from eet_demo.sides.pairing import compared_pair
from tests.parity.checkpoints import make_checkpoint

SLOW, FAST = "scripted:rate=200,waits=off", "scripted:rate=800,waits=off,differ_at=4"


def run_bench(
    resources: RaceResources, model_dir: Path, *sides: str, repeats: int = 2, **changed: Any
) -> tuple[dict[str, Any], list[str]]:
    """The result and the lines it told."""
    asked = {"context": 64, "new_tokens": 8, "prompt": "bread", **changed}
    settings = RaceSettings("smollm2-135m", sides=sides or (SLOW, FAST), **asked)
    lines: list[str] = []
    return Bench(settings, repeats, model_dir, resources).run(lines.append), lines


def test_bench_between_real_workers_has_every_sample(race_resources: RaceResources, model_dir: Path) -> None:
    result, _ = run_bench(race_resources, model_dir, repeats=3)
    for run, rate in zip(result["runs"], (200, 800), strict=True):
        assert [sample["decode_tok_s"] for sample in run["samples"]] == [pytest.approx(rate)] * 3
        assert run["decode_tok_s"] == pytest.approx(rate)
        assert all(len(sample["tokens"]["time_ns"]) == 8 for sample in run["samples"])
        assert run["memory"]["weights_bytes"] == 100 * 2**20
        assert run["memory"]["process_peak_bytes"] >= run["memory"]["process_base_bytes"] > 2**20
    assert result["speedup"]["decode"] == pytest.approx(4)
    assert result["parity"] == [{"equal_tokens": 4, "first_divergence": 4, "margin_at_divergence": 0.25}]
    assert result["settings"]["repeats"] == 3


def test_bench_says_when_fewer_threads_run_than_were_asked_for(race_resources: RaceResources, model_dir: Path) -> None:
    notes = run_bench(race_resources, model_dir, SLOW, repeats=1, threads=99)[0]["notes"]
    words = f"99 threads were asked for; {race_resources.threads} can run at once here"
    assert any(note.startswith(words) for note in notes), notes


def test_bench_of_one_side_compares_nothing(race_resources: RaceResources, model_dir: Path) -> None:
    result, _ = run_bench(race_resources, model_dir, FAST, repeats=1)
    assert result["speedup"] is None
    assert result["parity"] is None
    assert result["runs"][0]["decode_tok_s"] == pytest.approx(800)


def test_bench_when_sampling_has_no_parity(race_resources: RaceResources, model_dir: Path) -> None:
    result, _ = run_bench(race_resources, model_dir, repeats=1, temperature=0.8)
    assert result["parity"] is None
    assert result["speedup"]["decode"] == pytest.approx(4)


def test_bench_of_one_token_leaves_decode_undefined(race_resources: RaceResources, model_dir: Path) -> None:
    result, lines = run_bench(race_resources, model_dir, repeats=1, new_tokens=1)
    assert result["runs"][0]["tpot_ms"] is None
    assert result["speedup"]["decode"] is None
    assert "no decode" in lines[0]


@pytest.mark.parametrize(
    ("text", "sides"),
    [
        ("stock,engine", ("stock", "engine")),
        (" stock , engine:debug=on,prefill_chunk=64,engine", ("stock", "engine:debug=on,prefill_chunk=64", "engine")),
        ("engine:graph=off", ("engine:graph=off",)),
    ],
)
def test_sides_are_split_at_commas_between_sides_only(text: str, sides: tuple[str, ...]) -> None:
    assert split_sides(text) == sides


def test_side_names_are_parsed_or_refused() -> None:
    assert parse_side("engine:debug=on,prefill_chunk=64").options == {"debug": "on", "prefill_chunk": "64"}
    for name in ("", "stocks", "engine:", "engine:debug", "engine:=on", "stock:debug=on"):
        with pytest.raises(RequestError):
            parse_side(name)


def test_compared_pair_of_more_than_two_sides() -> None:
    assert compared_pair(["stock-eager", "stock", "engine:debug=on", "engine"]) == (0, 3)
    assert compared_pair(["engine", "stock"]) == (1, 0)
    assert compared_pair(["engine"]) is None


def test_every_setting_is_an_option() -> None:
    assert set(commands.OPTIONS) == {field.name for field in fields(RaceSettings)}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / "llama"
    make_checkpoint(folder, "llama", seed=3)
    return folder


SIZES = ("--context", "20", "--new-tokens", "12", "--batch", "2", "--ragged", "--repeats", "1")


def command_line() -> typer.Typer:
    app = typer.Typer()
    commands.register(app)
    return app


@pytest.mark.slow
def test_bench_command_writes_the_contracts_object(tiny: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "bench.json"
    arguments = ["bench", "--model", str(tiny), *SIZES, "--sides", "stock,engine:prefill_chunk=8", "--threads", "1"]
    done = CliRunner().invoke(command_line(), [*arguments, "--json", str(target)])
    assert done.exit_code == 0, done.output
    result = json.loads(target.read_text())
    assert set(result) >= {"runs", "speedup", "parity", "roofline", "hardware", "software", "settings"}
    assert [run["side"] for run in result["runs"]] == ["stock", "engine:prefill_chunk=8"]
    figures = {"ttft_ms", "tpot_ms", "itl_ms_p50", "itl_ms_p95", "itl_ms_p99", "prefill_tok_s", "decode_tok_s"}
    for run in result["runs"]:
        assert {"side", "config", "memory", "samples"} | figures <= set(run)
        assert all(run[name] > 0 for name in figures)
        assert run["config"]["threads"] == 1
        assert len(run["samples"]) == 1
    assert set(result["speedup"]) >= {"decode", "prefill", "ttft"}
    assert [row["equal_tokens"] for row in result["parity"]] == [12, 12]
    roofline = result["roofline"]
    assert set(roofline["mbu"]) == {"stock", "engine:prefill_chunk=8"}
    step_bytes = 2 * roofline["bytes_per_token"]
    tpot_s = result["runs"][1]["tpot_ms"] / 1e3
    assert roofline["mbu"]["engine:prefill_chunk=8"] == pytest.approx(
        step_bytes / tpot_s / (roofline["bandwidth_gb_s"] * 1e9), rel=1e-4
    ), "what test_session proves with known figures"
    assert result["settings"]["ragged"] is True
    assert result["settings"]["batch"] == 2


@pytest.mark.slow
def test_race_command_writes_a_trace_and_its_figures(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "race.trace.json"
    arguments = ["race", "--model", str(tiny), *SIZES, "--sides", "engine", "--out", str(out), "--json", "-"]
    done = CliRunner().invoke(command_line(), arguments)
    assert done.exit_code == 0, done.output
    trace = load_trace(out)
    assert len(trace["sides"][0]["tokens"]["id"]) == 24
    figures = json.loads(done.stdout)
    assert figures["runs"][0]["side"] == "engine"
    assert figures["speedup"] is None


def test_bench_of_the_engine_runs_where_only_its_own_packages_are(tiny: Path, tmp_path: Path) -> None:
    """A GPU host as it is: no page, no settings, no schema library (typer itself brings pydantic)."""
    script = (
        "import sys\n"
        "from importlib.abc import MetaPathFinder\n"
        "ABSENT = {'gradio', 'fastapi', 'pydantic_settings', 'fastjsonschema', 'huggingface_hub', 'gguf', 'pandas'}\n"
        "class Absent(MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ABSENT:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "import importlib.util\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, package=None: None if name in ABSENT else find(name, package)\n"
        "import typer\n"
        "from eet_demo.commands import race as commands\n"
        "app = typer.Typer(); commands.register(app); app()\n"
    )
    arguments = ["bench", "--model", str(tiny), *SIZES, "--sides", "engine", "--json", "-"]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, cwd=IMPORT_ROOT, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["runs"][0]["decode_tok_s"] > 0
