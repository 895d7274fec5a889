"""One stem, four places: a kernel, its launcher, its function in the reference, its test."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from eet_demo.engine.executors.cuda.compile.sources import CUDA_SOURCES
from eet_demo.engine.executors.reference import kernels as reference
from eet_demo.engine.executors.reference import many_rows as reference_many_rows
from tools.gates.instances import launcher_of, stems

ROOT = Path(__file__).parents[2]

REFERENCE = {"attention_decode": "attention"}
"""Kernels whose function in the reference has another name: there, attention knows no split."""


@pytest.mark.parametrize("stem", stems())
def test_kernel_has_launcher_reference_and_test(stem: str) -> None:
    launcher = launcher_of(stem)
    assert callable(getattr(launcher, stem)), f"{stem}.py offers no function {stem}"
    assert callable(launcher.instances)
    test = ast.parse((ROOT / "tests" / "kernels" / f"test_{stem}.py").read_text())
    called = {ast.unparse(node.func) for node in ast.walk(test) if isinstance(node, ast.Call)}
    twins = {
        f"{name}.{function}"
        for name, module in (("reference", reference), ("reference_many_rows", reference_many_rows))
        for function in (stem, REFERENCE.get(stem, stem))
        if hasattr(module, function)
    }
    assert twins, f"no reference function for {stem}"
    assert twins & called, f"test_{stem}.py calls none of {', '.join(sorted(twins))}"


@pytest.mark.parametrize("stem", stems())
def test_kernel_opens_with_the_header_block(stem: str) -> None:
    head = (CUDA_SOURCES / f"{stem}.cu").read_text().split("#include", 1)[0]
    places = [head.find(f"\n// {word}") for word in ("in: ", "out:", "launch:", "needs:", "moves:", "source:")]
    assert head.startswith(f"// {stem}")
    assert -1 not in places, f"{stem}.cu lacks a line of the header block"
    assert places == sorted(places)


@pytest.mark.parametrize("stem", stems())
def test_overlapping_launches_wait_for_their_predecessor(stem: str) -> None:
    """A launch may overlap only if its kernel calls pdl_wait: otherwise it reads what is not yet written."""
    kernel = (CUDA_SOURCES / f"{stem}.cu").read_text()
    launcher = Path(str(launcher_of(stem).__file__)).read_text()
    assert ("overlaps=True" in launcher) == ("pdl_wait()" in kernel)
