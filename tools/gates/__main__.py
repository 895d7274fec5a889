"""Gates over every kernel's machine code, without a GPU: `python -m tools.gates`.

Compiles for every target architecture into a folder of cubins (which the CuPy launcher loads instead of compiling),
prints registers, shared memory and spills, then what of the rules of gates.py is broken, then for each architecture
what the kernels of a decode step cost. The exit status is 1 when a kernel does not compile, 2 when a decode kernel
spills registers, 3 when a rule is broken. `--explain KERNEL` prints listings with their loads named instead.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from eet_demo.engine.executors.cuda.compile.cubins import Cubin, CubinFolder
from eet_demo.engine.executors.cuda.compile.launch import Instance
from eet_demo.engine.executors.cuda.compile.resources import Usage, table
from eet_demo.engine.executors.cuda.compile.sources import read_source
from eet_demo.errors import EetError
from eet_demo.paths import kernel_cache
from tools.gates import report
from tools.gates.check import check_all
from tools.gates.compile import compile_all, named_instance
from tools.gates.instances import (
    ARCHS,
    DTYPES,
    FORMATS,
    MANY_ROWS,
    check_stem,
    gate_instances,
    gate_specs,
    has_dtype,
    has_format,
)

ROWS = (1, 8)
"""Sequences of the decode steps in the tables."""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.gates", description=__doc__)
    parser.add_argument("--shape", nargs="*", default=list(gate_specs()), choices=list(gate_specs()), metavar="SHAPE")
    parser.add_argument("--dtype", nargs="*", default=list(DTYPES), choices=DTYPES)
    parser.add_argument("--weights", nargs="*", default=list(FORMATS), choices=FORMATS)
    parser.add_argument("--arch", nargs="*", default=list(ARCHS), help="sm_90 ...")
    parser.add_argument("--stem", nargs="*", help="kernels to compile; all by default")
    parser.add_argument("--instance", nargs="*", help="name expressions of one --stem instead of the shapes' instances")
    parser.add_argument("--cubins", type=Path, default=kernel_cache("cubins"), help="the folder to fill")
    parser.add_argument("--explain", metavar="KERNEL", help="print the annotated machine code of this kernel")
    return parser.parse_args(arguments)


def instances_wanted(options: argparse.Namespace) -> dict[str, list[Instance]]:
    stems = [options.explain] if options.explain and not options.stem else options.stem
    for stem in stems or []:
        check_stem(stem)
    if options.instance:
        (stem,) = stems
        return {stem: [named_instance(stem, expression) for expression in options.instance]}
    specs = gate_specs()
    return gate_instances([specs[name] for name in options.shape], options.dtype, options.weights, stems)


def main(arguments: Sequence[str]) -> int:
    """Returns the exit status; prints what it stands for."""
    try:
        options = parse(arguments)
        grouped = instances_wanted(options)
        found = compile_all(grouped, options.arch, options.cubins)
        folder = CubinFolder(options.cubins)
        folder.prune([read_source(stem) for stem in grouped])
        if options.explain:
            for instance, cubin in _compiled(grouped, options.arch, folder):
                print(report.explain(cubin, instance, cubin.usage.arch))
            return 0
        print(table(found))
        status = _spills(found, grouped, options.arch)
        broken = check_all(_compiled(grouped, options.arch, folder))
        for sentence in broken:
            print(sentence, file=sys.stderr)
        print(f"{len(broken)} rules broken")
        if not options.stem and not options.instance:
            status = status or 3 * bool(_steps(options, folder))
    except EetError as error:
        print(error, file=sys.stderr)
        return 1
    return status or 3 * bool(broken)


def _compiled(
    grouped: Mapping[str, Sequence[Instance]], archs: Sequence[str], folder: CubinFolder
) -> Iterator[tuple[Instance, Cubin]]:
    """Each instance for each architecture that it runs on."""
    for stem, instances in grouped.items():
        source = read_source(stem)
        for instance in instances:
            for arch in archs:
                cubin = folder.find(source, instance, arch)
                if cubin is not None:
                    yield instance, cubin


def _spills(found: Sequence[Usage], grouped: Mapping[str, Sequence[Instance]], archs: Sequence[str]) -> int:
    """2 when a decode kernel spills registers; prints which instances do."""
    spilling = [usage for usage in found if usage.spills]
    stem_of = {instance.expression: stem for stem, instances in grouped.items() for instance in instances}
    decode = [usage for usage in spilling if stem_of[usage.expression] not in MANY_ROWS]
    for usage in spilling:
        kind = "decode" if usage in decode else "prefill"
        print(f"spills: {usage.expression} ({kind}) on {usage.arch}: {usage.spill_store_bytes} bytes", file=sys.stderr)
    count = len({usage.expression for usage in found})
    print(
        f"{count} instances on {', '.join(archs)}: {len(decode)} decode and {len(spilling) - len(decode)} prefill spill"
    )
    return 2 if decode else 0


def _steps(options: argparse.Namespace, folder: CubinFolder) -> int:
    """Prints the tables of decode steps; returns how many launches on an H100 break a rule of the whole step."""

    def find(instance: Instance, arch: str) -> Cubin:
        cubin = folder.find(read_source(instance.stem), instance, arch)
        assert cubin is not None, f"{instance.expression} was not compiled: its launcher's instances() leaves it out"
        return cubin

    broken = 0
    for gpu in (gpu for arch in options.arch for gpu in report.gpus_of(arch)):
        for name, dtype, weights, rows in itertools.product(options.shape, options.dtype, options.weights, ROWS):
            spec = gate_specs()[name]
            if not has_dtype(dtype, gpu.arch) or not has_format(spec, weights):
                continue
            found = report.rows_of(spec, dtype, weights, rows, gpu, find)
            print("\n" + report.table(f"{name}, {dtype}, {weights} weights, {rows} rows", found, gpu))
            for row in found if gpu is report.JUDGED else ():
                for sentence in row.breaches():
                    broken += 1
                    print(f"{name}, {rows} rows: {row.expression} on {gpu.name}: {sentence}", file=sys.stderr)
    return broken


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
