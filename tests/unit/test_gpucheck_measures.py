"""What the parts of gpucheck run and measure, each as far as it goes without a GPU."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eet_demo.engine import shapes
from eet_demo.engine.executors.cuda.compile.sources import read_source
from eet_demo.engine.executors.sim.launcher import SimLauncher
from eet_demo.errors import EetError, UnsupportedError
from eet_demo.results.trace import load_trace
from tests.gpucheck_context import context_for
from tests.kernels.ptx import ptx_of
from tools.gpucheck import benches, environment, loading, micro, precision, processes, report, suite
from tools.gpucheck.clock import Work


def test_query_of_nvidia_smi_is_read_by_field() -> None:
    line = ", ".join(f"value of {name}" for name in environment.QUERY)
    assert environment.parse_query(line + "\nsecond GPU\n") == {name: f"value of {name}" for name in environment.QUERY}
    assert environment.parse_query("No devices were found\n") is None
    assert environment.parse_query("") is None


def test_child_process_is_ended_in_time_and_quoted() -> None:
    begin_s = time.perf_counter()
    with pytest.raises(processes.ProcessFailed, match=r"ran past 2 s and was ended: begun"):
        processes.run(["sh", "-c", "echo begun; exec sleep 3000"], 2)
    assert time.perf_counter() - begin_s < 300
    with pytest.raises(processes.ProcessFailed, match="ended with code 3: words"):
        processes.run([sys.executable, "-c", "print('words'); raise SystemExit(3)"], 300)
    with pytest.raises(processes.ProcessFailed, match="wrote no result"):
        processes.run_module("platform", [], 300)


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


@pytest.mark.slow
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

    def host_s(self, work: Work, calls: int) -> float:
        work()
        return 1e-6

    def device_s(self, work: Work) -> float:
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_trace_part_writes_a_trace(tmp_path: Path) -> None:
    result = benches.trace("distilgpt2", context=16, new_tokens=3)(context_for(tmp_path))
    assert load_trace(tmp_path / result["file"])["settings"]["model"] == "shape:distilgpt2"


@pytest.mark.slow
def test_part_whose_time_is_up_fails(tmp_path: Path) -> None:
    with pytest.raises(EetError, match="the time was up before it had ended"):
        benches.decode("distilgpt2", context=16, new_tokens=500)(context_for(tmp_path, seconds=5.5))


@pytest.mark.slow
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
