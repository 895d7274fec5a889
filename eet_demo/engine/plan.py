"""The memory plan: every byte of a loaded model decided before anything is allocated. Pure Python, no device.

One arena holds three regions: weights, KV cache, workspace. Workspace buffers get offsets by first fit over their
lifetimes in the program, so every layer's buffers land on the same bytes (EET's "activation cache" and "result
buffers", csrc/op/mmanager.hpp, decided before the run instead of during it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from eet_demo.engine.families import weights_of
from eet_demo.engine.program import LOGITS, RESIDUAL, TOKEN_IDS, Op, Program
from eet_demo.engine.weights import Weight
from eet_demo.errors import MemoryPlanError
from eet_demo.records import MemoryReport
from eet_demo.sizes import round_up, size_text

ALIGNMENT = 64
"""Bytes: a cache line, and enough for every vector load."""


@dataclass(frozen=True)
class Limits:
    """The largest request an engine is built for. `prefill_chunk` bounds the rows of one pass."""

    max_batch: int
    max_context: int
    prefill_chunk: int

    @property
    def rows(self) -> int:
        """Most rows in one pass: a chunk, or one token for each sequence."""
        return max(self.max_batch, min(self.prefill_chunk, self.max_batch * self.max_context))

    @property
    def logit_rows(self) -> int:
        """Most rows that get logits in one pass of the head."""
        return max(self.max_batch, min(16, self.rows))


class Layout(Protocol):
    """What an executor decides about memory; asked before it exists, so an implementation holds no device."""

    activation_bytes: int
    kv_bytes: int
    library_bytes: int
    """Workspace that a GEMM library allocates for itself, outside the arena."""

    def weight_bytes(self, weight: Weight) -> int:
        """Stored bytes of a weight, padding included."""

    def scratch_bytes(self, op: Op, limits: Limits) -> int:
        """Bytes `op` needs beside its buffers while it runs."""

    def state_bytes(self, program: Program, limits: Limits) -> int:
        """Bytes of workspace that outlive a step: what lengths, samplers and counters of the device need."""


@dataclass(frozen=True)
class Block:
    """Bytes `offset .. offset + size` of the arena; `first_op .. last_op` is when a workspace block is live."""

    name: str
    offset: int
    size: int
    first_op: int = 0
    last_op: int = 0

    @property
    def end(self) -> int:
        return self.offset + self.size


@dataclass(frozen=True)
class Plan:
    """Where every block lies. `blocks` maps a weight, `kv_cache`, a buffer or `scratch.<op name>` to its place.

    `library_bytes` of the report's workspace are a library's own and lie outside the arena.
    """

    limits: Limits
    report: MemoryReport
    blocks: dict[str, Block]
    library_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        return self.report.total_bytes

    @property
    def arena_bytes(self) -> int:
        """What the executor allocates."""
        return self.report.total_bytes - self.library_bytes

    def gaps(self) -> list[tuple[int, int]]:
        """Byte ranges of the arena that belong to no block at any time: guards and padding."""
        edges = sorted((block.offset, block.end) for block in self.blocks.values())
        gaps, reached = [], 0
        for offset, end in [*edges, (self.arena_bytes, self.arena_bytes)]:
            if offset > reached:
                gaps.append((reached, offset))
            reached = max(reached, end)
        return gaps

    def block_before(self, offset: int) -> str:
        """Name of the block that ends last before `offset`: the one whose overrun a broken guard shows."""
        return max((b for b in self.blocks.values() if b.end <= offset), key=lambda b: b.end).name

    def check_fits(self, available_bytes: int) -> None:
        """Raises MemoryPlanError when the arena is larger than `available_bytes`."""
        if self.total_bytes > available_bytes:
            report = self.report
            raise MemoryPlanError(
                f"needs {self.total_bytes:,} bytes ({size_text(self.total_bytes)}): "
                f"weights {size_text(report.weights_bytes)}, KV cache {size_text(report.kv_cache_bytes)}, "
                f"workspace {size_text(report.workspace_bytes)}; "
                f"available are {size_text(available_bytes)}. Choose a smaller model, context or batch."
            )

    def table(self) -> str:
        """The plan as text: one line a region, then the workspace blocks in arena order."""
        report = self.report
        lines = [f"{'region':<28}{'offset':>16}{'bytes':>16}"]
        kv = self.blocks["kv_cache"]
        workspace = report.weights_bytes + report.kv_cache_bytes
        for name, offset, size in (
            ("weights", 0, report.weights_bytes),
            ("KV cache", kv.offset, report.kv_cache_bytes),
            ("workspace", workspace, report.workspace_bytes - self.library_bytes),
        ):
            lines.append(f"{name:<28}{offset:>16,}{size:>16,}")
        shared: dict[tuple[str, int, int], None] = {}
        for block in sorted(self.blocks.values(), key=lambda block: (block.offset, block.name)):
            if block.offset >= workspace:
                stem = block.name.split(".")[0] if not block.name.startswith("scratch") else "scratch"
                shared[(f"  {stem}", block.offset, block.size)] = None
        lines += [f"{name:<28}{offset:>16,}{size:>16,}" for name, offset, size in shared]
        if self.library_bytes:
            lines.append(f"{'cuBLAS workspace':<28}{'its own':>16}{self.library_bytes:>16,}")
        return "\n".join(lines)


def plan_memory(
    program: Program, layout: Layout, limits: Limits, guard_bytes: int = 0, shared_workspace: bool = True
) -> Plan:
    """Places weights, KV cache and workspace of `program`.

    Args:
        guard_bytes: between blocks, in debug mode.
        shared_workspace: buffers that are never live at once share bytes; False gives each bytes of its own.
    """
    blocks: dict[str, Block] = {}
    offset = 0
    for weight in weights_of(program.spec):
        size = layout.weight_bytes(weight)
        blocks[weight.name] = Block(weight.name, offset, size)
        offset += _aligned(size + guard_bytes)
    weights_bytes = offset

    spec = program.spec
    slots = spec.num_layers * 2 * limits.max_batch * spec.num_kv_heads * limits.max_context
    kv_size = slots * spec.head_dim * layout.kv_bytes
    blocks["kv_cache"] = Block("kv_cache", offset, kv_size)
    kv_cache_bytes = _aligned(kv_size + guard_bytes)

    base = weights_bytes + kv_cache_bytes
    placed = _first_fit(_workspace(program, layout, limits, shared_workspace), guard_bytes)
    workspace_bytes = max((_aligned(block.end + guard_bytes) for block in placed), default=0)
    for block in placed:
        blocks[block.name] = Block(block.name, base + block.offset, block.size, block.first_op, block.last_op)
    library = layout.library_bytes
    return Plan(limits, MemoryReport(weights_bytes, kv_cache_bytes, workspace_bytes + library), blocks, library)


def _workspace(program: Program, layout: Layout, limits: Limits, shared: bool) -> list[Block]:
    """Every workspace buffer with its size and lifetime, unplaced, in order of first use."""
    last_op = len(program.ops) - 1
    live: dict[str, tuple[int, int]] = {}
    for index, op in enumerate(program.ops):
        for name in (*op.reads, *op.writes):
            first, _ = live.get(name, (index, index))
            live[name] = (first, index)
    blocks = [
        Block(name, 0, _buffer_bytes(program, layout, limits, name), first, last)
        for name, (first, last) in live.items()
    ]
    for index, op in enumerate(program.ops):
        size = layout.scratch_bytes(op, limits)
        if size:
            blocks.append(Block(f"scratch.{op.name}", 0, size, index, index))
    if not shared:
        blocks = [Block(block.name, 0, block.size, 0, last_op) for block in blocks]
    state = layout.state_bytes(program, limits)
    if state:
        blocks.append(Block("state", 0, state, 0, last_op))
    return sorted(blocks, key=lambda block: (block.first_op, -block.size, block.name))


def _buffer_bytes(program: Program, layout: Layout, limits: Limits, name: str) -> int:
    width = program.buffer_width(name)
    if name == LOGITS:
        return 4 * limits.logit_rows * width
    if name == TOKEN_IDS:
        return 4 * limits.rows * width
    if name == RESIDUAL:  # float32 at least: it sums every layer's output
        return max(4, layout.activation_bytes) * limits.rows * width
    return layout.activation_bytes * limits.rows * width


def _first_fit(blocks: Sequence[Block], guard_bytes: int) -> list[Block]:
    """Gives each block the lowest offset free for its whole lifetime."""
    placed: list[Block] = []
    for block in blocks:
        neighbours = sorted(
            (other for other in placed if other.first_op <= block.last_op and block.first_op <= other.last_op),
            key=lambda other: other.offset,
        )
        offset = 0
        for other in neighbours:
            if offset + block.size + guard_bytes <= other.offset:
                break
            offset = max(offset, _aligned(other.end + guard_bytes))
        placed.append(Block(block.name, offset, block.size, block.first_op, block.last_op))
    return placed


def _aligned(size: int) -> int:
    return round_up(size, ALIGNMENT)
