"""GPUs that the gates speak of, and how many blocks of a kernel one of their multiprocessors holds at once."""

from __future__ import annotations

from dataclasses import dataclass

from eet_demo.engine.executors.cuda.compile.resources import Usage


@dataclass(frozen=True)
class Gpu:
    """A GPU as its data sheet has it; `bandwidth_tb_s` is its memory's, 1e12 bytes a second, `clock_ghz` its boost."""

    name: str
    capability: int
    processors: int
    bandwidth_tb_s: float
    clock_ghz: float

    @property
    def arch(self) -> str:
        return f"sm_{self.capability}"


H100 = Gpu("H100 SXM", 90, 132, 3.35, 1.755)
GPUS = (
    H100,
    Gpu("A100 40 GB", 80, 108, 1.555, 1.41),
    Gpu("A10G", 86, 80, 0.6, 1.71),
    Gpu("L4", 89, 58, 0.3, 2.04),
    Gpu("B200", 100, 148, 8.0, 1.85),
    Gpu("RTX PRO 6000", 120, 188, 1.79, 2.4),
    Gpu("RTX PRO 6000, half", 120, 94, 0.9, 2.4),
)


@dataclass(frozen=True)
class Multiprocessor:
    """What one has for its blocks (CUDA programming guide, technical specifications by capability)."""

    warps: int
    blocks: int
    shared_bytes: int
    reserved_bytes: int = 1024
    """Of shared memory, a block, for the system."""


MULTIPROCESSORS = {
    75: Multiprocessor(32, 16, 64 * 1024, 0),
    80: Multiprocessor(64, 32, 164 * 1024),
    86: Multiprocessor(48, 16, 100 * 1024),
    89: Multiprocessor(48, 24, 100 * 1024),
    90: Multiprocessor(64, 32, 228 * 1024),
    100: Multiprocessor(64, 32, 228 * 1024),
    120: Multiprocessor(48, 24, 100 * 1024),
}
REGISTERS_A_QUARTER = 16384
"""A multiprocessor is four quarters, each with registers of its own for every fourth warp."""


def resident(usage: Usage, threads: int, dynamic_bytes: int, capability: int) -> int:
    """Blocks of a kernel that are on a multiprocessor at once."""
    has, warps = MULTIPROCESSORS[capability], threads // 32
    registers = -(-usage.registers // 8) * 8 * 32
    by_registers = REGISTERS_A_QUARTER // registers * 4 // warps
    by_shared = has.shared_bytes // (usage.shared_bytes + dynamic_bytes + has.reserved_bytes)
    return min(by_registers, by_shared, has.warps // warps, has.blocks)
