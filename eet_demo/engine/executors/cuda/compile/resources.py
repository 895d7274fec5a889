"""What ptxas says a kernel costs: registers, shared memory, stack and spills, per instance and architecture."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from eet_demo.engine.executors.cuda.compile.nvrtc import Compiled
from eet_demo.errors import CudaCompileError


@dataclass(frozen=True)
class Usage:
    """One instance on one architecture; bytes are per thread, shared memory per block (static)."""

    expression: str
    arch: str
    registers: int
    shared_bytes: int
    stack_bytes: int
    spill_store_bytes: int
    spill_load_bytes: int

    @property
    def spills(self) -> bool:
        return self.spill_store_bytes > 0 or self.spill_load_bytes > 0


_ENTRY = re.compile(r"Compiling entry function '(\S+)' for")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers(.*)")
_SHARED = re.compile(r"(\d+) bytes smem")


def usage_of(compiled: Compiled) -> list[Usage]:
    """Reads `-Xptxas -v` out of the compiler's log.

    Raises:
        CudaCompileError: an instance is not in the log, so nothing may be said of it.
    """
    stack: tuple[int, int, int] = (0, 0, 0)
    symbol, found = "", {}
    for line in compiled.log.splitlines():
        if match := _ENTRY.search(line):
            symbol, stack = match[1], (0, 0, 0)
        elif match := _STACK.search(line):
            stack = (int(match[1]), int(match[2]), int(match[3]))
        elif match := _USED.search(line):
            shared = _SHARED.search(match[2])
            found[symbol] = (int(match[1]), int(shared[1]) if shared else 0, *stack)
    missing = [expression for expression, name in compiled.lowered.items() if name not in found]
    if missing:
        raise CudaCompileError(f"ptxas reported nothing of {', '.join(missing)} for {compiled.arch}")
    return [Usage(expression, compiled.arch, *found[name]) for expression, name in compiled.lowered.items()]


def table(usages: Iterable[Usage]) -> str:
    """One line an instance; one column an architecture: registers / shared bytes, and spilled bytes if any."""
    usages = list(usages)
    archs = sorted({usage.arch for usage in usages}, key=lambda arch: int(arch.removeprefix("sm_")))
    cells = {(usage.expression, usage.arch): _cell(usage) for usage in usages}
    expressions = list(dict.fromkeys(usage.expression for usage in usages))
    width = max(len(expression) for expression in expressions)
    lines = [f"{'registers / shared bytes':<{width}}" + "".join(f"{arch:>20}" for arch in archs)]
    for expression in expressions:
        row = "".join(f"{cells.get((expression, arch), '-'):>20}" for arch in archs)
        lines.append(f"{expression:<{width}}{row}")
    return "\n".join(lines)


def _cell(usage: Usage) -> str:
    cell = f"{usage.registers} / {usage.shared_bytes}"
    return f"{cell} spill {usage.spill_store_bytes}" if usage.spills else cell
