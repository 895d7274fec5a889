"""What the machine code of a kernel must be, each rule a pure function over its listing.

A rule returns sentences, one for each breach. Why these rules: a decode step is a chain of short kernels that each
begin while their predecessor ends (programmatic dependent launch). That hides memory latency only if weights and
constants are asked for before the wait (`order`), nothing is asked for in a kernel's last moments (`epilogue`) and no
load waits for another's use (`loads_first`); and it is legal only if what a predecessor writes is read after the wait,
and not through the read-only path, which is outside the memory model that the wait belongs to.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from eet_demo.engine.executors.cuda.compile.sources import CUDA_SOURCES
from tools.gates.sass import Function, Instruction, parameters_behind, read_registers, written_registers

WRITTEN = frozenset((
    "residual", "x", "q", "qkv", "q_out", "keys", "values", "out", "hidden", "product", "logits", "best_logits",
    "best_ids", "token_ids", "position_ids", "positions", "row_starts", "cache_rows", "cache_starts", "wanted", "steps",
    "finished", "sequences", "ring", "partials", "workspace", "counters",
))  # fmt: skip
"""Parameters whose memory a kernel of a step may write, by the names that all kernels share."""

SETTLED = frozenset(("positions", "row_starts", "cache_rows", "cache_starts", "wanted"))
"""Of these, what was written at least two launches ago: a kernel starts when all of its predecessor has passed its own
wait, so whatever came before that is complete and may be read early. Where it was not (`late`), the kernel waits."""

PARAMETER_BASE = {"sm_75": 0x160, "sm_80": 0x160, "sm_86": 0x160, "sm_89": 0x160, "sm_90": 0x210, "sm_100": 0x380,
                  "sm_120": 0x380}  # fmt: skip
"""Where parameters begin in constant bank 0."""

PROJECTIONS = ("linear_residual", "norm_lm_head", "norm_mlp", "norm_qkv")
"""Kernels that stream a weight matrix."""

ARITHMETIC = ("FFMA", "FMUL", "HFMA2", "HMMA", "FADD", "DFMA", "IMMA")
MOST_INSTRUCTIONS_A_BYTE = 0.19
"""Of a warp, for each byte of weights: 3.0 TB/s (0.9 of an H100's bandwidth) on 132 multiprocessors at 1.755 GHz are 13
bytes a cycle and multiprocessor, for which it has 2.5 instructions."""

BANDWIDTH_SHARE = {"dense": 0.9, "q8_0": 0.7, "q4_0": 0.6, "q4_1": 0.6}
"""Of an H100's bandwidth that the instructions of each format must leave time for."""


@dataclass(frozen=True)
class Parameter:
    """A kernel parameter and its place behind PARAMETER_BASE."""

    name: str
    offset: int
    pointer: bool
    read_only: bool = False
    """Declared `const` and `__restrict__`: a promise that nothing writes there during the launch."""


@cache
def parameters(stem: str, kernel: str = "") -> tuple[Parameter, ...]:
    """Parameters of a kernel as its source declares them."""
    text = re.sub(r"//[^\n]*", "", (CUDA_SOURCES / f"{stem}.cu").read_text(encoding="utf-8"))
    match = re.search(rf"\bvoid {kernel or stem}\(([^)]*)\)\s*{{", text)
    if match is None:
        raise ValueError(f"{stem}.cu declares no kernel {kernel or stem}")
    found, offset = [], 0
    for declaration in match[1].split(","):
        name, pointer = declaration.split()[-1].lstrip("*"), "*" in declaration
        size = 8 if pointer or "int64_t" in declaration else 4
        offset = -(-offset // size) * size
        found.append(Parameter(name, offset, pointer, "const " in declaration and "__restrict__" in declaration))
        offset += size
    return tuple(found)


def pointers_behind(function: Function, index: int, arch: str, known: Sequence[Parameter]) -> set[str]:
    """Names of the pointers that an access may go through; none for a table of the compiler's own."""
    by_offset = {PARAMETER_BASE[arch] + p.offset + half: p.name for p in known if p.pointer for half in (0, 4)}
    return {by_offset[offset] for offset in parameters_behind(function, index) if offset in by_offset}


def declared(known: Sequence[Parameter]) -> list[str]:
    """Nothing that a kernel of a step writes is promised to be read-only."""
    promised = (parameter.name for parameter in known if parameter.read_only)
    return [f"{name}, which kernels write, is declared const __restrict__" for name in promised if name in WRITTEN]


def order(function: Function, arch: str, known: Sequence[Parameter], streamed: int) -> list[str]:
    """Around the wait: `streamed` loads of weights before it, no store, and no read of what the predecessor writes.

    After it nothing that a kernel writes is read through the read-only path.
    """
    wait = function.first("ACQBULK")
    if wait is None:
        return ["there is no griddepcontrol.wait"]
    found = []
    early = sum(i.is_load and i.has("NA") for i in function.code[:wait])
    if early < streamed:
        found.append(f"{early} of {streamed} weight loads stand before the wait")
    for index, instruction in enumerate(function.code):
        if not instruction.is_load and index < wait and instruction.name in ("STG", "ST", "ATOMG", "RED", "ATOM"):
            found.append(f"{instruction.text} stands before the wait")
        if not instruction.is_load:
            continue
        behind = pointers_behind(function, index, arch, known) & WRITTEN
        if index < wait and behind - SETTLED:
            found.append(f"{instruction.text} reads {_names(behind - SETTLED)} before the wait")
        if instruction.has("CONSTANT") and behind:
            found.append(f"{instruction.text} reads {_names(behind)}, which kernels write, as read-only")
    return found


def early_constants(function: Function, arch: str, known: Sequence[Parameter], names: Sequence[str]) -> list[str]:
    """Each of the named constants is loaded, or prefetched, before the wait."""
    wait = function.first("ACQBULK") or 0
    seen: set[str] = set()
    for index in range(wait):
        if function.code[index].is_load or function.code[index].name == "CCTL":
            seen |= pointers_behind(function, index, arch, known)
    return [f"{name} is not asked for before the wait" for name in names if name not in seen]


def epilogue(function: Function, arch: str, known: Sequence[Parameter]) -> list[str]:
    """No load from a parameter after the last barrier: what a kernel ends with was on its way long before."""
    last = function.last("BAR")
    if last is None:
        return ["there is no barrier"]
    return [
        f"{function.code[index].text} comes after the last barrier ({_names(behind)})"
        for index in range(last, len(function.code))
        if function.code[index].is_load and (behind := pointers_behind(function, index, arch, known))
    ]


def streaming_loop(function: Function) -> range | None:
    """The innermost loop with streamed loads."""
    return next((loop for loop in function.loops() if any(_streams(function.code[i]) for i in loop)), None)


def loads_first(function: Function) -> list[str]:
    """In the innermost loop with streamed loads, all of them stand before the first use of what one of them loads."""
    loop = streaming_loop(function)
    if loop is None:
        return ["there is no loop of streamed loads"]
    loaded: set[str] = set()
    use, late, total = "", 0, 0
    for instruction in (function.code[i] for i in loop):
        if _streams(instruction):
            total += 1
            late += bool(use)
            loaded |= written_registers(instruction)
        elif not use and loaded & read_registers(instruction):
            use = instruction.text
    return [f"{late} of {total} streamed loads of the loop stand behind {use}, which uses one"] if late else []


def under_way(function: Function) -> list[str]:
    """In the innermost loop with streamed loads, a third of the arithmetic or more is done while they are under way."""
    loop = streaming_loop(function)
    if loop is None:
        return ["there is no loop of streamed loads"]
    last = max(i for i in loop if _streams(function.code[i]))
    arithmetic = [i for i in loop if _computes(function.code[i])]
    idle = sum(i < last for i in arithmetic)
    if 3 * idle <= 2 * len(arithmetic):
        return []
    return [f"{idle} of {len(arithmetic)} arithmetic instructions of the loop stand before its last streamed load"]


def copies_ahead(function: Function) -> list[str]:
    """In the innermost loop with asynchronous copies, the wait lets the newest group of them be under way."""
    loops = (loop for loop in function.loops() if any(function.code[i].name == "LDGSTS" for i in loop))
    loop = next(loops, None)
    if loop is None:
        return ["there is no loop of asynchronous copies"]
    waits = [function.code[i] for i in loop if function.code[i].name == "DEPBAR"]
    late = [wait.text for wait in waits if int(wait.operands.split(",")[1], 16) < 1]
    return [f"{text} waits for every copy" for text in late] or ([] if waits else ["no copy is waited for"])


def no_retries(function: Function) -> list[str]:
    """No compare-and-swap: an atomic operation of hardware does not try again."""
    return [
        f"{i.text} is tried until it succeeds" for i in function.code if i.name.startswith("ATOM") and "CAS" in i.text
    ]


def instructions_a_byte(function: Function) -> float | None:
    """Warp instructions of the streaming loop's usual way around, for each byte that it streams."""
    loop = streaming_loop(function)
    if loop is None:
        return None
    streamed = sum(32 * function.code[i].bytes_a_lane for i in loop if _streams(function.code[i]))
    return _way_around(function, loop) / streamed


def issue(function: Function, most: float = MOST_INSTRUCTIONS_A_BYTE) -> list[str]:
    """The loop issues no more instructions a byte than the memory leaves time for."""
    found = instructions_a_byte(function)
    if found is None:
        return ["there is no loop of streamed loads"]
    return [f"{found:.3f} warp instructions a streamed byte; {most} keep up with the memory"] * (found > most)


def _way_around(function: Function, loop: range) -> int:
    """Fewest instructions from the loop's start to its end that leave out no streamed load and no arithmetic.

    So what happens once a tile, behind a branch, does not count.
    """
    cost: dict[int, int] = {loop.start: 0}
    for index in loop:
        here = cost.get(index)
        if here is None:
            continue
        instruction = function.code[index]
        ways = [index + 1] if not (instruction.name == "BRA" and not instruction.predicate) else []
        target = instruction.target
        if instruction.name == "BRA" and target is not None and index < target <= loop.stop - 1:
            skipped = (function.code[i] for i in range(index + 1, target))
            if not any(_streams(other) or _computes(other) for other in skipped):
                ways.append(target)
        for way in ways:
            cost[way] = min(cost.get(way, here + 1), here + 1)
    return cost.get(loop.stop, len(loop))


def _computes(instruction: Instruction) -> bool:
    """Arithmetic on floats, and not the move of a constant that is written as one."""
    return instruction.name in ARITHMETIC and "RZ, RZ" not in instruction.operands


def _streams(instruction: Instruction) -> bool:
    return instruction.is_load and instruction.has("NA")


def _names(names: set[str] | frozenset[str]) -> str:
    return ", ".join(sorted(names))
