"""gpucheck as far as a machine without a GPU can go: its parts, its time, its report, and what it needs to start."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from eet_demo.engine import shapes
from eet_demo.engine.executors.cuda.compile.sources import read_source
from eet_demo.engine.executors.sim.launcher import SimLauncher
from eet_demo.errors import EetError, RequestError, UnsupportedError
from eet_demo.results.trace import load_trace
from tests.kernels.ptx import ptx_of
from tools.gpucheck import benches, command, environment, floors, loading, micro, precision, processes, report, suite
from tools.gpucheck.catalogue import HEADLINES, OTHERS, all_parts
from tools.gpucheck.parts import Context, Part, Settings, read_records, run_parts, select
from tools.gpucheck.write import write_report

INVENTED = Path(__file__).parents[1] / "fixtures" / "gpucheck_invented.json"
"""Records with invented figures, of no GPU: they try the report and say nothing of any machine."""


def context_for(folder: Path, seconds: float = 300, **changed: Any) -> Context:
    settings = Settings(folder, device="cpu", dtype="float32", repeats=1)
    return Context(replace(settings, **changed), time.perf_counter() + seconds, lambda line: None)


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


BLOCK = """
import importlib.abc, sys, traceback
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('pydantic', 'pydantic_settings', 'gradio', 'gguf', 'fastjsonschema'):
            if not any('/typer/' in frame.filename for frame in traceback.extract_stack()):
                raise ModuleNotFoundError(f'No module named {name!r}: this test blocks it', name=name)
sys.meta_path.insert(0, Block())
"""
"""What a GPU host lacks; newer versions of typer itself want pydantic, and a host that has those has it."""


def blocked(code: str, limit_s: float = 60) -> str:
    command = [sys.executable, "-c", BLOCK + code]
    done = subprocess.run(command, cwd=processes.PROJECT_ROOT, capture_output=True, text=True, timeout=limit_s)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_imports_where_packages_are_absent() -> None:
    walk = (
        "import importlib, pathlib\n"
        "for path in sorted(pathlib.Path('tools/gpucheck').glob('*.py')):\n"
        "    if path.stem != '__main__':\n"
        "        importlib.import_module('tools.gpucheck.' + path.stem)\n"
        "print('cupy' in sys.modules, 'torch' in sys.modules)"
    )
    assert blocked(walk).split() == ["False", "False"], "the check itself holds no GPU; its children do"


def test_command_runs_where_packages_are_absent(tmp_path: Path) -> None:
    """The parts that need no GPU, for real: the environment, and one that must fail and say why."""
    arguments = [
        "gpucheck",
        "--out",
        str(tmp_path),
        "--parts",
        "environment,long-context",
        "--device",
        "cpu",
    ]
    blocked(
        f"sys.argv = {[*arguments, '--dtype', 'float64', '--minutes', '1']!r}\n"
        "import runpy\nrunpy.run_module('tools.gpucheck', run_name='__main__')"
    )
    found = json.loads((tmp_path / "gpucheck.json").read_text())
    assert found["format"] == "eet-gpucheck"
    record = found["parts"]["environment"]
    assert record["status"] == "done", record
    assert record["result"]["hardware"]["cores"] >= 1
    assert "torch" in record["result"]["software"]
    assert found["parts"]["long-context"]["status"] == "failed"
    assert "does not support dtype 'float64'" in found["parts"]["long-context"]["error"]
    assert {line["verdict"] for line in found["verdicts"]} == {"not measured"}
    assert "long-context failed" in (tmp_path / "report.md").read_text()


def test_gpu_tests_collect_where_packages_are_absent(tmp_path: Path) -> None:
    arguments = suite.pytest_command(tmp_path, "-m", "gpu", *suite.TESTS, "--collect-only")[3:]
    output = blocked(f"import pytest\npytest.main({arguments!r})", 120)
    assert "::" in output
    assert "error" not in output.lower().splitlines()[-1]


def test_every_gpu_test_is_among_those_that_are_run() -> None:
    root = processes.PROJECT_ROOT
    marked = [path for path in (root / "tests").rglob("test_*.py") if "mark" + ".gpu" in path.read_text("utf-8")]
    assert marked
    for path in marked:
        assert any(path.is_relative_to(root / run) for run in suite.TESTS), f"{path} has tests that gpucheck never runs"


def test_query_of_nvidia_smi_is_read_by_field() -> None:
    line = ", ".join(f"value of {name}" for name in environment.QUERY)
    assert environment.parse_query(line + "\nsecond GPU\n") == {name: f"value of {name}" for name in environment.QUERY}
    assert environment.parse_query("No devices were found\n") is None
    assert environment.parse_query("") is None


def test_child_process_is_ended_in_time_and_quoted() -> None:
    begin_s = time.perf_counter()
    with pytest.raises(processes.ProcessFailed, match=r"ran past 1 s and was ended: begun"):
        processes.run([sys.executable, "-uc", "print('begun'); import time; time.sleep(60)"], 1)
    assert time.perf_counter() - begin_s < 20
    with pytest.raises(processes.ProcessFailed, match="ended with code 3: words"):
        processes.run([sys.executable, "-c", "print('words'); raise SystemExit(3)"], 30)
    with pytest.raises(processes.ProcessFailed, match="wrote no result"):
        processes.run_module("platform", [], 30)


def test_pytest_output_is_counted() -> None:
    output = (
        "..F.s\nFAILED tests/kernels/test_sample.py::test_one[gpu] - assert 1 == 2\n"
        "ERROR tests/kernels/test_x.py\n1 failed, 3 passed, 1 skipped, 40 deselected, 1 error in 3.2s\n"
    )
    found = suite.parse_pytest(output)
    assert found["counts"] == {"failed": 1, "passed": 3, "skipped": 1, "deselected": 40, "error": 1}
    assert found["failures"] == [
        "tests/kernels/test_sample.py::test_one[gpu] - assert 1 == 2",
        "tests/kernels/test_x.py",
    ]
    with pytest.raises(processes.ProcessFailed, match="no test ran: nothing here"):
        suite.parse_pytest("nothing here")


def test_pytest_runs_with_an_ini_of_its_own(tmp_path: Path) -> None:
    output = processes.run(suite.pytest_command(tmp_path / "ini", "tests/unit/test_folding.py"), 60)
    assert suite.parse_pytest(output)["counts"]["passed"] > 0


def test_sanitizer_is_found_in_the_toolkit_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(Path, "is_file", lambda path: str(path).startswith(str(tmp_path)))
    assert suite.find_sanitizer(tmp_path) == tmp_path / "bin" / "compute-sanitizer"
    with pytest.raises(UnsupportedError, match="neither on PATH nor under --cuda-home"):
        suite.find_sanitizer(None)


class NoClock:
    """Runs the work once; time means nothing in the simulator."""

    def host_s(self, work: micro.Work, calls: int) -> float:
        work()
        return 1e-6

    def device_s(self, work: micro.Work) -> float:
        work()
        return 2e-6

    graph_s = device_s


def test_microbenchmarks_launch_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(micro, "GRAPH_NODES", 3)
    monkeypatch.setattr(micro, "HOST_LAUNCHES", 3)
    monkeypatch.setattr(micro, "BARRIERS", 5)
    sim = SimLauncher("plain", folder=micro.BENCH_SOURCES)
    assert micro.launch_cost(sim, NoClock())["host_us"] == pytest.approx(1)
    nodes = micro.graph_node_cost(sim, NoClock(), blocks=4)
    assert set(nodes) == {"plain_1_blocks_us", "pdl_1_blocks_us", "plain_4_blocks_us", "pdl_4_blocks_us"}
    assert micro.barrier_cost(sim, NoClock(), blocks=3)["blocks"] == 3


@pytest.mark.parametrize("weights", ["dense", "q8_0"])
def test_streaming_reads_as_many_copies_as_a_cache_cannot_hold(weights: Any) -> None:
    found = micro.streaming(SimLauncher("plain"), NoClock(), 64, 96, "float16", weights, 40_000)
    size = 64 * 96 * 2 if weights == "dense" else 64 * 96 // 32 * 34
    assert found["copies"] == -(-40_000 // size)
    assert found["gb_s"] == pytest.approx(size * found["copies"] / 2e-6 / 1e9)


def test_projections_are_those_of_the_model() -> None:
    assert micro.projections(shapes.shape("llama-3.2-1b")) == {
        "qkv": (3072, 2048),
        "attention_out": (2048, 2048),
        "up": (16384, 2048),
        "down": (2048, 8192),
        "head": (128256, 2048),
    }


@pytest.mark.parametrize("stem", ["empty", "barriers"])
def test_bench_kernels_compile_for_hopper(stem: str) -> None:
    ptx = ptx_of(read_source(stem, micro.BENCH_SOURCES), stem)
    assert {"empty": "griddepcontrol.wait", "barriers": "ld.acquire.gpu"}[stem] in ptx


TINY = shapes._llama(64, 160, 2, 4, 2, 331, 96)


def test_written_checkpoint_is_the_random_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of it and the shape itself are one model, but for float16 on the way."""
    from eet_demo.engine.engine import Engine

    for name, config in (("tiny", TINY), ("tiny-gpt2", shapes._gpt2(64, 2, 4, 96, 331))):
        monkeypatch.setitem(shapes._CONFIGS, name, config)
        loading.write_random_checkpoint(name, tmp_path / name)
        logits = []
        for model in (f"shape:{name}", str(tmp_path / name)):
            engine = Engine.from_pretrained(model, device="reference", max_batch=1, max_context=16)
            logits.append(engine.prefill_logits([[5, 6, 7]]))
        np.testing.assert_allclose(logits[0], logits[1], atol=0.01)
        assert np.abs(logits[0]).max() > 0.05


def test_bench_part_on_this_machine(tmp_path: Path) -> None:
    """A part as it runs on a GPU, but on the CPU and small: the records of it give a line of the report."""
    context = context_for(tmp_path)
    record = benches.decode("distilgpt2", context=16, new_tokens=3)(context)
    sides = [run["side"] for run in record["decode"]["runs"]]
    assert sides == ["stock", "engine"]
    assert record["decode"]["speedup"]["decode"] > 0
    assert "tokens" not in record["decode"]["runs"][0]["samples"][0]
    json.dumps(record)
    text = report.markdown({"model-distilgpt2": {"status": "done", "result": record}}, [])
    assert "| model-distilgpt2 decode | 16 + 3 | engine |" in text


def test_trace_part_writes_a_trace(tmp_path: Path) -> None:
    result = benches.trace("distilgpt2", context=16, new_tokens=3)(context_for(tmp_path))
    assert load_trace(tmp_path / result["file"])["settings"]["model"] == "shape:distilgpt2"


def test_part_whose_time_is_up_fails(tmp_path: Path) -> None:
    with pytest.raises(EetError, match="the time was up before it had ended"):
        benches.decode("distilgpt2", context=16, new_tokens=500)(context_for(tmp_path, seconds=5.5))


def test_first_token_probe_runs_in_a_process_of_its_own(tmp_path: Path) -> None:
    found = loading.first_token(context_for(tmp_path), "shape:distilgpt2", tmp_path)
    assert 0 < found["load_s"] < found["first_token_s"]
    assert found["weights_bytes"] >= 4 * 81_912_576
    assert found["load_bytes_per_s"] == pytest.approx(found["weights_bytes"] / found["load_s"])
    assert found["allocations_in_second_run"] == {}


@pytest.mark.parametrize("weights", ["dense", "q8_0"])
def test_precision_probe_on_the_reference(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(shapes._CONFIGS, "tiny", TINY)
    monkeypatch.setattr(precision, "WINDOW", 24)
    found = precision.probe("shape:tiny", "reference", "float32", weights)
    assert 0 <= found["logit_error_rms"] <= found["logit_error_max"]
    assert (found["logit_error_max"] == 0) is (weights == "dense")
    assert found["logit_error_max"] < 0.5
    assert found["top1_agreement"] > 0.8


@pytest.fixture
def invented() -> dict[str, Any]:
    records: dict[str, Any] = json.loads(INVENTED.read_text())["parts"]
    return records


def test_verdicts_of_invented_figures(invented: dict[str, Any]) -> None:
    found = {line.name: line for line in floors.verdicts(invented)}
    words = {name: line.words for name, line in found.items() if line.value is not None}
    assert words == {
        "GPT-2 small, decode against stock": "pass, target reached",
        "GPT-2 small, decode": "pass, target reached",
        "SmolLM2-135M, decode against stock": "fail",
        "SmolLM2-135M, decode": "short of the target",
        "Llama-3.2-1B shape, share of spec bandwidth": "pass, short of the target",
        "gpt2, decode against stock-static, compiled": "pass, short of the target",
        "GPT-3 125M, batch 4, prompt 512 of 1,024": "pass, short of the target",
        "SmolLM2-135M, time a token at context 8,128 over 128": "pass, target reached",
        "gpt2, prefill of 1,024 tokens against stock": "fail",
        "gpt2, prefill of 8 ragged prompts against stock": "pass",
        "gpt2, process beyond plan and an empty context": "pass",
        "gpt2, memory beside weights and cache, over stock's": "pass",
        "SmolLM2-135M, first token with a cold kernel cache": "pass",
        "SmolLM2-135M, first token with a warm kernel cache": "fail",
        "SmolLM2-135M, allocations after load": "pass",
    }
    assert found["Llama-3.2-1B shape, share of spec bandwidth"].value == pytest.approx(60)
    assert found["GPT-2 small, decode against stock"].value == 20
    assert found["gpt2, process beyond plan and an empty context"].value == pytest.approx(40)
    assert found["gpt2, memory beside weights and cache, over stock's"].value == pytest.approx(0.2)
    assert found["SmolLM2-135M, time a token at context 8,128 over 128"].value == pytest.approx(1.5)


def test_report_of_invented_figures(invented: dict[str, Any]) -> None:
    text = report.markdown(invented, ["sanitizer"])
    for line in (
        "- GPU: Invented GPU, driver 0.0",
        "- spec bandwidth 1000 GB/s (5000 bit, 800 MHz, two transfers a clock)",
        "| GPT-2 small, decode against stock | 20.00x | 10.00x | 18.00x | pass, target reached |",
        "| GPT-3 125M, batch 4, prompt 512 of 1,024 | 0.50 ms/token | at most 0.60 ms/token | "
        "at most 0.35 ms/token | pass, short of the target |",
        "| gpt2 | graph=off | 1.75 |",
        "| gpt2 float16 q8_0 | 2.00e-02 | 3.00e-03 | 1.00e-04 | 99.50 % |",
        "| launch host us | 4.00 |",
        "| gpt2 qkv dense | 2304 x 768 | 2.00 | 900.00 |",
        "barrier failed: the machine has no such thing",
        "- GPU tests: 7 passed, 1 failed",
        "  - tests/kernels/test_invented.py::test_it",
        "- compute-sanitizer: not run",
        "- broken failed: an invented failure",
        "- not run yet: sanitizer; run the same command again",
    ):
        assert line in text, line
    whole = report.as_json(invented, [])
    assert json.loads(json.dumps(whole))["verdicts"][0]["verdict"] == "pass, target reached"


def test_report_of_nothing_says_so() -> None:
    text = report.markdown({}, ["environment"])
    assert "The environment was not read." in text
    assert text.count("Nothing measured.") == 3
    assert "not measured" in text
