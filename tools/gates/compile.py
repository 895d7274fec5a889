"""Compiles kernels for every target architecture without a GPU: `python -m tools.gates.compile`.

Fills a folder of cubins that the CuPy launcher loads instead of compiling, and prints registers, static shared memory
and spills per instance and architecture. What is in the folder already, from the same sources, is not compiled again.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from eet_demo.engine.executors.cuda.compile.cubins import CubinFolder
from eet_demo.engine.executors.cuda.compile.launch import Instance
from eet_demo.engine.executors.cuda.compile.nvrtc import Nvrtc
from eet_demo.engine.executors.cuda.compile.resources import Usage, table
from eet_demo.engine.executors.cuda.compile.sources import read_source
from eet_demo.errors import EetError
from eet_demo.paths import kernel_cache
from tools.gates.instances import ARCHS, DTYPES, FORMATS, MANY_ROWS, check_stem, gate_instances, gate_specs, runs_on

GROUP = 16
"""Instances compiled together: headers are read once for them all, and both cores stay busy."""


def compile_all(grouped: Mapping[str, Sequence[Instance]], archs: Iterable[str], folder: Path) -> list[Usage]:
    """Brings every instance, for every architecture it runs on, into `folder`; only what is missing is compiled.

    Returns what each costs, by instance. Raises KernelCompileError at the first refusal.
    """
    cubins = CubinFolder(folder)
    sources = {stem: read_source(stem) for stem in grouped}
    wanted = [(arch, i) for arch in archs for stem in grouped for i in grouped[stem] if runs_on(i, arch)]
    missing: dict[tuple[str, str], list[Instance]] = {}
    for arch, instance in wanted:
        if not cubins.find(sources[instance.stem], instance, arch):
            missing.setdefault((instance.stem, arch), []).append(instance)
    calls = [(k, group[i : i + GROUP]) for k, group in missing.items() for i in range(0, len(group), GROUP)]
    compiler = Nvrtc() if calls else None

    def compile_one(call: tuple[tuple[str, str], list[Instance]]) -> None:
        (stem, arch), instances = call
        assert compiler is not None
        compiled = compiler.compile(sources[stem], [instance.expression for instance in instances], arch)
        with adding:
            cubins.add(sources[stem], instances, compiled)

    adding = threading.Lock()
    with ThreadPoolExecutor(max_workers=max(1, len(os.sched_getaffinity(0)))) as pool:
        list(pool.map(compile_one, calls))
    found = [cubins.find(sources[instance.stem], instance, arch) for arch, instance in wanted]
    return sorted((cubin.usage for cubin in found if cubin), key=lambda usage: usage.expression)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.gates.compile", description=__doc__)
    parser.add_argument("--shape", nargs="*", default=list(gate_specs()), choices=list(gate_specs()), metavar="SHAPE")
    parser.add_argument("--dtype", nargs="*", default=list(DTYPES), choices=DTYPES)
    parser.add_argument("--weights", nargs="*", default=list(FORMATS), choices=FORMATS)
    parser.add_argument("--arch", nargs="*", default=list(ARCHS), help="sm_90 ...")
    parser.add_argument("--stem", nargs="*", help="kernels to compile; all by default")
    parser.add_argument("--instance", nargs="*", help="name expressions of one --stem instead of the shapes' instances")
    parser.add_argument("--cubins", type=Path, default=kernel_cache("cubins"), help="the folder to fill")
    return parser.parse_args(arguments)


def instances_wanted(options: argparse.Namespace) -> dict[str, list[Instance]]:
    for stem in options.stem or []:
        check_stem(stem)
    if options.instance:
        (stem,) = options.stem
        return {stem: [named_instance(stem, expression) for expression in options.instance]}
    specs = gate_specs()
    return gate_instances([specs[name] for name in options.shape], options.dtype, options.weights, options.stem)


def named_instance(stem: str, expression: str) -> Instance:
    """The inverse of `Instance.expression`."""
    kernel, _, rest = expression.partition("<")
    words = [word.strip() for word in rest.rstrip(">").split(",") if word.strip()]
    names: dict[str, str | bool] = {"half": "float16", "float": "float32", "bfloat16": "bfloat16"}
    names |= {"true": True, "false": False}
    return Instance(stem, tuple(names[word] if word in names else int(word) for word in words), kernel)


def main(arguments: Sequence[str]) -> int:
    """Returns 1 when a kernel does not compile, 2 when a decode kernel spills registers; prints which."""
    try:
        options = parse(arguments)
        grouped = instances_wanted(options)
        found = compile_all(grouped, options.arch, options.cubins)
        CubinFolder(options.cubins).prune([read_source(stem) for stem in grouped])
    except EetError as error:
        print(error, file=sys.stderr)
        return 1
    print(table(found))
    spilling = [usage for usage in found if usage.spills]
    stem_of = {instance.expression: stem for stem, instances in grouped.items() for instance in instances}
    decode = [usage for usage in spilling if stem_of[usage.expression] not in MANY_ROWS]
    for usage in spilling:
        kind = "decode" if usage in decode else "prefill"
        print(f"spills: {usage.expression} ({kind}) on {usage.arch}: {usage.spill_store_bytes} bytes", file=sys.stderr)
    count = len({usage.expression for usage in found})
    prefill = len(spilling) - len(decode)
    print(f"{count} instances on {', '.join(options.arch)}: {len(decode)} decode and {prefill} prefill spill")
    return 2 if decode else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
