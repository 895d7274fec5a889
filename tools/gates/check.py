"""Which rules of gates.py hold for which kernels, and what a compiled instance breaks."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from eet_demo.engine.dtypes import DTYPE_BYTES
from eet_demo.engine.executors.cuda.compile.cubins import Cubin
from eet_demo.engine.executors.cuda.compile.launch import Instance
from eet_demo.engine.executors.cuda.launchers.attention_decode import TILE_HEADS
from eet_demo.engine.executors.cuda.launchers.matrices import FORMAT_CODE
from eet_demo.engine.executors.cuda.launchers.norms import NORM_CODE
from tools.gates import gates
from tools.gates.sass import Function, disassemble

FIRST_COPYING = 80
FIRST_OVERLAPPING = 90
"""sm_90 is the first architecture whose launches overlap."""

JUDGED_ARCH, FEW = "sm_90", 2
"""Instructions a byte are a rule on an H100 at 1 and 2 rows, where memory alone should set the pace; elsewhere they are
in the tables."""

EARLY = {
    "norm_qkv": ("norm_weight", "bias", "frequencies", "positions", "row_starts", "cache_rows", "cache_starts"),
    "norm_mlp": ("norm_weight", "bias"),
    "norm_lm_head": ("norm_weight", "bias"),
    "linear_residual": ("bias",),
    "attention_decode": ("positions", "cache_rows"),
}
"""What a kernel asks for before it waits, beside weights."""


def check(function: Function, instance: Instance, arch: str) -> list[str]:
    """Sentences, one for each rule that the instance's listing breaks."""
    stem, overlaps = instance.stem, int(arch.removeprefix("sm_")) >= FIRST_OVERLAPPING
    known = gates.parameters(stem)
    found = gates.declared(known) + gates.no_retries(function)
    if overlaps:
        found += gates.order(function, arch, known, streamed_before_wait(instance))
    if overlaps and stem in EARLY:
        found += gates.early_constants(function, arch, known, early_names(instance))
    if stem == "attention_decode":
        found += attention_rules(function, instance, arch)
    if stem in gates.PROJECTIONS:
        found += gates.epilogue(function, arch, known)
        found += gates.loads_first(function) + gates.under_way(function)
        if arch == JUDGED_ARCH and rows_of(instance) <= FEW:
            found += gates.issue(function, most_instructions(instance))
    return found


def attention_rules(function: Function, instance: Instance, arch: str) -> list[str]:
    """Keys and values of the next slots are under way: loaded by lanes, or copied where tensor cores multiply."""
    dtype, _, heads = instance.arguments[:3]
    if dtype == "float32" or not isinstance(heads, int) or heads < TILE_HEADS:
        return gates.loads_first(function) + (gates.under_way(function) if arch == JUDGED_ARCH else [])
    return gates.copies_ahead(function) if int(arch.removeprefix("sm_")) >= FIRST_COPYING else []


def check_all(cubins: Iterable[tuple[Instance, Cubin]]) -> list[str]:
    """What is broken, each sentence after its instance and architecture."""
    return [
        f"{instance.expression} on {cubin.usage.arch}: {sentence}"
        for instance, cubin in cubins
        for sentence in check(listing(cubin), instance, cubin.usage.arch)
    ]


def listing(cubin: Cubin) -> Function:
    """The machine code of one instance."""
    return functions(cubin.path)[cubin.symbol]


@cache
def functions(path: Path) -> dict[str, Function]:
    return disassemble(path)


def streamed_before_wait(instance: Instance) -> int:
    """Weight loads of a lane's first step: `kVecs * kLaneRows` of gemv.cuh."""
    if instance.stem not in gates.PROJECTIONS:
        return 0
    dtype, weights = instance.arguments[:2]
    assert isinstance(dtype, str)
    plain = DTYPE_BYTES[dtype] == 4
    return 2 if plain and weights != FORMAT_CODE["dense"] and rows_of(instance) >= 8 else 4


def most_instructions(instance: Instance) -> float:
    """A byte, for the share of bandwidth that the instance's format is to reach."""
    share = next(gates.BANDWIDTH_SHARE[name] for name, code in FORMAT_CODE.items() if code == instance.arguments[1])
    return round(gates.MOST_INSTRUCTIONS_A_BYTE * gates.BANDWIDTH_SHARE["dense"] / share, 3)


def rows_of(instance: Instance) -> int:
    """Activation rows that a projection is compiled for."""
    batch = instance.arguments[2]
    assert isinstance(batch, int)
    return batch


def early_names(instance: Instance) -> tuple[str, ...]:
    """Of EARLY, what the instance has."""
    normed = instance.stem not in ("norm_qkv", "norm_mlp", "norm_lm_head") or instance.arguments[5] != NORM_CODE["none"]
    streams = instance.stem == "attention_decode" and instance.arguments[4]  # its rows come out as it goes
    missing = {"norm_weight": not normed, "cache_rows": streams}
    return tuple(name for name in EARLY[instance.stem] if not missing.get(name))
