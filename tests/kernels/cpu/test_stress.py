"""Members that fall behind on purpose, under ThreadSanitizer: what may not be touched between phases is found out.

The rule is in threads.h. Each fault breaks it in a copy of the tree; every seed must find it, and none of them finds
anything in the tree as it is.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from eet_demo.engine.executors.cpu.compiler import library
from tests.kernels.mutation import copy_tree
from tests.kernels.sanitizers import run

Result = CompletedProcess[str]

MODULE = "tests.kernels.cpu.stressed"
SEEDS = ("1", "2", "3")
REPORT = "WARNING: ThreadSanitizer: data race"
REPORTED = 66
"""ThreadSanitizer's exit status."""

FAULTS = {
    "a row's highest value, read once for all items": (
        "sample.h",
        """\
  member.for_each(kSlices, [&](int64_t slice) {
    const float highest = highest_value(row, *shared);
    fill_bins""",
        """\
  const float highest = highest_value(row, *shared);
  member.for_each(kSlices, [&](int64_t slice) {
    fill_bins""",
    ),
    "a count, set to zero before its item": (
        "sample.h",
        "  member.for_each(1, [&](int64_t) { choose_bins(step, keep, shared); });",
        "  shared->collected = 0;\n  member.for_each(1, [&](int64_t) { choose_bins(step, keep, shared); });",
    ),
    "a projection's input, read and not prefetched": (
        "matmul.h",
        "__builtin_prefetch(x + i, 0, 3);",
        "static_cast<void>(*static_cast<const volatile float*>(x + i));",
    ),
    "a look at what an op wrote, before the next": (
        "engine.cpp",
        "for (int i = first; i < last; ++i) eet::run_op(engine->model, engine->ops[i], *step, member);",
        """\
for (int i = first; i < last; ++i) {
      eet::run_op(engine->model, engine->ops[i], *step, member);
      if (engine->ops[i].target) static_cast<void>(*static_cast<const volatile float*>(engine->ops[i].target));
    }""",
    ),
    "items of a phase that is over": ("threads.h", "if (now.phase > phase || left <= 0)", "if (left <= 0)"),
}


def test_late_members_change_nothing() -> None:
    """No report, and the same tokens whoever is late."""
    result = run("thread", MODULE, [",".join(SEEDS)])
    assert REPORT not in result.stderr, result.stderr[:4000]
    seeds, digests = zip(*(line.split(": sampled ") for line in result.stdout.splitlines()), strict=True)
    assert seeds == SEEDS
    assert len(set(digests)) == 1, result.stdout


def run_with(fault: str, tree: Path) -> Result:
    """All seeds on a copy of the tree with the fault in it."""
    file, find, replace = FAULTS[fault]
    copy_tree(tree)
    source = tree / "kernels" / "cpu" / file
    text = source.read_text(encoding="utf-8")
    assert text.count(find) == 1, f"{fault}: the text occurs {text.count(find)} times in {file}"
    source.write_text(text.replace(find, replace), encoding="utf-8")
    return run("thread", MODULE, [",".join(SEEDS)], root=tree)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Result]]]:
    """Two faults at a time: compiling them takes longest."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        yield {fault: pool.submit(run_with, fault, tmp_path_factory.mktemp("tree")) for fault in FAULTS}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_found_by_every_seed(fault: str, results: dict[str, Future[Result]]) -> None:
    result = results[fault].result()
    assert result.stdout.splitlines() == [f"{seed}: ended with {REPORTED}" for seed in SEEDS], result.stderr[-4000:]
    assert result.stderr.count(REPORT) == len(SEEDS)


def test_ordinary_build_has_no_stress_mode() -> None:
    assert not hasattr(ctypes.CDLL(str(library())), "eet_stress")
