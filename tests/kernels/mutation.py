"""Plants one fault at a time in the kernels and shows that the tests catch it: `python -m tests.kernels.mutation`.

The faults are data: `mutations_<stem>.py` beside this file holds `MUTATIONS`, each (text to find, replacement, test),
for `kernels/cuda/<stem>.cu` or `.cuh`. Every fault gets a copy of the tree of its own; the test must pass without it
and fail with it. Ends with `mutations: N caught, M survived`; the exit status is 1 when one
survives and 2 when one could not be planted, did not compile, or its test fails without it.
"""

from __future__ import annotations

import argparse
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("eet_demo", "kernels", "tools", "tests/kernels", "tests/__init__.py", "pyproject.toml")
TIMEOUT_S = 240
"""A fault may make a kernel run for ever: that counts as caught."""

Outcome = Literal["caught", "survived", "invalid"]


@dataclass(frozen=True)
class Mutation:
    """`find`, which occurs once in `file`, becomes `replace`; `test` (a pytest node) must then fail."""

    file: str
    find: str
    replace: str
    test: str

    def __str__(self) -> str:
        return f"{self.file}: {_shortened(self.find)!r} -> {_shortened(self.replace)!r}"


def _shortened(text: str) -> str:
    return " ".join(text.split())[:60]


@dataclass(frozen=True)
class Result:
    """What became of one mutation; `detail` says why it is not simply caught."""

    mutation: Mutation
    outcome: Outcome
    detail: str = ""


def load_mutations(folder: Path = Path(__file__).parent, root: Path = ROOT) -> list[Mutation]:
    """All faults, by kernel, in the order they are written."""
    found = []
    for path in sorted(folder.glob("mutations_*.py")):
        stem = path.stem.removeprefix("mutations_")
        suffix = "cu" if (root / f"kernels/cuda/{stem}.cu").is_file() else "cuh"
        module = runpy.run_path(str(path))
        found += [Mutation(f"kernels/cuda/{stem}.{suffix}", *entry) for entry in module["MUTATIONS"]]
    return found


def sample(mutations: Sequence[Mutation], per_file: int) -> list[Mutation]:
    """The first faults of each file."""
    counts: dict[str, int] = {}
    chosen = []
    for mutation in mutations:
        counts[mutation.file] = counts.get(mutation.file, 0) + 1
        if counts[mutation.file] <= per_file:
            chosen.append(mutation)
    return chosen


def copy_tree(target: Path, root: Path = ROOT) -> None:
    """What the kernel tests need."""
    for name in COPIED:
        if (root / name).is_dir():
            shutil.copytree(root / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(root / name, target / name)


def run_test(tree: Path, test: str, build: Path) -> tuple[int, str]:
    """pytest's exit status and output; 1 and a word when it took too long.

    `build` is the cache that all copies of the tree share: binaries are keyed by their sources.
    """
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-n", "0", "-m", "not gpu", test]
    process = subprocess.Popen(
        command, cwd=tree, env=os.environ | {"EET_DEMO_CACHE_DIR": str(build)}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.communicate()
        return 1, f"ended after {TIMEOUT_S} s"
    return process.returncode, output


def judge(mutation: Mutation, build: Path, root: Path = ROOT) -> Result:
    """Plants the fault in a fresh copy and runs its test."""
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch)
        copy_tree(tree, root)
        source = tree / mutation.file
        text = source.read_text(encoding="utf-8")
        if text.count(mutation.find) != 1:
            return Result(mutation, "invalid", f"the text to find occurs {text.count(mutation.find)} times")
        source.write_text(text.replace(mutation.find, mutation.replace), encoding="utf-8")
        status, output = run_test(tree, mutation.test, build)
    if "KernelCompileError" in output:
        return Result(mutation, "invalid", f"does not compile\n{_tail(output)}")
    if status == 0:
        return Result(mutation, "survived", mutation.test)
    if status == 1 or status < 0:  # a test failed, or the process died of the fault
        return Result(mutation, "caught")
    return Result(mutation, "invalid", f"pytest ended with status {status}\n{_tail(output)}")


def failing_without_fault(tests: Iterable[str], build: Path, jobs: int, root: Path = ROOT) -> dict[str, str]:
    """Tests that fail on the tree as it is, with the end of their output: nothing they say would mean anything."""
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch)
        copy_tree(tree, root)
        names = list(dict.fromkeys(tests))
        with ThreadPoolExecutor(max_workers=jobs) as pool:
            results = pool.map(lambda test: run_test(tree, test, build), names)
            return {name: _tail(output) for name, (status, output) in zip(names, results, strict=True) if status}


def run(mutations: Sequence[Mutation], jobs: int = 2, build: Path | None = None, root: Path = ROOT) -> int:
    """Judges all, printing each and the last line; returns the exit status. `build` keeps binaries for another run."""
    with tempfile.TemporaryDirectory() as scratch:
        build = build or Path(scratch)
        broken = failing_without_fault([mutation.test for mutation in mutations], build, jobs, root)
        for test, output in broken.items():
            print(f"fails without any fault: {test}\n{output}")
        sound = [mutation for mutation in mutations if mutation.test not in broken]
        results = []
        with ThreadPoolExecutor(max_workers=jobs) as pool:
            for result in pool.map(lambda mutation: judge(mutation, build, root), sound):
                results.append(result)
                detail = f": {result.detail}" if result.detail else ""
                print(f"{result.outcome:>9} {result.mutation}{detail}", flush=True)
    count = {outcome: sum(r.outcome == outcome for r in results) for outcome in ("caught", "survived", "invalid")}
    invalid = count["invalid"] + len(mutations) - len(sound)
    if invalid:
        print(f"not judged: {invalid}")
    print(f"mutations: {count['caught']} caught, {count['survived']} survived")
    return 1 if count["survived"] else 2 if invalid else 0


def _tail(output: str) -> str:
    return "\n".join(output.splitlines()[-15:])


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="kernels whose faults to plant")
    parser.add_argument("--per-kernel", type=int, default=0, metavar="N", help="only the first N of each kernel")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--list", action="store_true", help="print the faults and plant none")
    options = parser.parse_args(arguments)
    mutations = [m for m in load_mutations() if not options.only or Path(m.file).stem in options.only]
    if options.per_kernel:
        mutations = sample(mutations, options.per_kernel)
    if options.list:
        print("\n".join(map(str, mutations)))
        return 0
    return run(mutations, options.jobs)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
