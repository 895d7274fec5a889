"""What gpucheck writes of its records: verdicts against the floors, and a report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tools.gpucheck import floors, report

INVENTED = Path(__file__).parents[1] / "fixtures" / "gpucheck_invented.json"
"""Records with invented figures, of no GPU: they try the report and say nothing of any machine."""


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
