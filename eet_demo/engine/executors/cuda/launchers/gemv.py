"""How a decode projection covers its weight: the launch rule of kernels/cuda/gemv.cuh, for every kernel built on it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from eet_demo.engine.dtypes import DTYPE_BYTES
from eet_demo.engine.executors.cuda.arrays import DType
from eet_demo.engine.executors.cuda.compile.launch import Launcher
from eet_demo.engine.executors.cuda.launchers.matrices import BLOCK_VALUES, FORMAT_CODE, WeightFormat
from eet_demo.errors import UnsupportedError
from eet_demo.sizes import ceil_div, round_up

BATCHES = (1, 2, 4, 8, 16)
"""Activation rows an instance is compiled for; a request takes the next larger one."""

MAX_ROWS = BATCHES[-1]
STAGE_BYTES = 32 * 1024
"""`kStageBytes` of gemv.cuh: activations in shared memory at a time."""

MAX_WARPS = 8

SPLIT_FOR = 132
"""Multiprocessors that tiles are cut for (an H100's). A row's sum depends on how its columns are split, so the split is
the same on every GPU; how many blocks share the tiles is not."""

REGISTERS = 65536
"""Of a multiprocessor."""

SIMULATED = 90
"""What the simulator, which has no registers, is dealt blocks as."""

TILE_COST = 0.5
"""What a tile's end takes (sums over lanes and warps, a barrier, the epilogue), in steps of 16 bytes a lane."""


@dataclass(frozen=True)
class GemvPlan:
    """Template arguments and launch of a projection of up to 16 rows.

    Args:
        batch: activation rows a block computes, the request's rows rounded up to 1, 2, 4, 8 or 16.
        groups: groups of warps in a block, each with its own weight rows.
        split: warps of a group, which share its columns.
        tile: weight rows of a block at a time.
        units: groups' rows (`kWarpRows`) in the whole weight: what is dealt to blocks.
        registers: of a thread, at most, before sm_80 and from there on: `kRegisters` of gemv.cuh.
        shared_bytes: dynamic shared memory for the staged activations.
    """

    arguments: tuple[str | int, ...]
    batch: int
    groups: int
    split: int
    tile: int
    units: int
    registers: tuple[int, ...]
    shared_bytes: int

    @property
    def threads(self) -> int:
        return 32 * self.groups * self.split

    @property
    def tiles(self) -> int:
        """The most blocks there can be work for."""
        return ceil_div(self.units, self.groups)

    def resident(self, capability: int | None = None) -> int:
        """Blocks that are on a multiprocessor at once: `kMinBlocks`."""
        return resident_blocks(self.registers[(capability or SIMULATED) >= 80], self.threads)

    def blocks(self, launcher: Launcher) -> int:
        """Blocks of a launch: as many as there are tiles, and no more than are resident at once."""
        return min(self.tiles, launcher.processors * self.resident(launcher.capability))


def resident_blocks(registers: int, threads: int) -> int:
    """Blocks whose registers a multiprocessor has, in quarters of it, each of which serves a quarter of the warps."""
    return max(1, min(16, REGISTERS // 4 // (32 * registers) * 4 // (threads // 32)))


@cache
def plan_gemv(out_features: int, in_features: int, rows: int, dtype: DType, weights: WeightFormat) -> GemvPlan:
    """The plan for `rows` activation rows times a weight `(out_features, in_features)`.

    As many warps as leave every multiprocessor a tile, up to MAX_WARPS, are divided between weight rows (groups) and
    columns (split) so that the longest share takes the fewest steps. `arguments` are the leading template arguments:
    dtype, format, batch, groups, split.

    Raises:
        UnsupportedError: more than 16 rows, or columns that are no multiple of 8 (of 32 for quantised weights).
    """
    if dtype not in ("float32", "float16", "bfloat16"):
        raise UnsupportedError(f"projections compute in float32, float16 or bfloat16, not in {dtype}")
    if not 1 <= rows <= MAX_ROWS:
        raise UnsupportedError(f"{rows} rows: these kernels take 1 to {MAX_ROWS}; more rows are a GEMM's work")
    unit = 8 if weights == "dense" else BLOCK_VALUES
    if in_features < unit or in_features % unit:
        raise UnsupportedError(
            f"a projection of {in_features} values in {weights} is not supported: kernels move 16 bytes a thread, so "
            f"it must be a multiple of {unit}; pad the weights or pick another model"
        )
    itemsize = DTYPE_BYTES[dtype]
    batch = next(size for size in BATCHES if size >= rows)
    tensor = itemsize == 2 and (batch >= 8 or weights != "dense")
    vec = {"dense": 16 // itemsize, "q8_0": 16, "q4_0": 32, "q4_1": 32}[weights]
    plain_rows = 2 if weights != "dense" and batch >= 8 else 4
    warp_rows, warp_columns = (16, 2 * 4 * vec) if tensor else (plain_rows, 32 * vec)
    chunk = STAGE_BYTES // (batch * itemsize)
    units = ceil_div(out_features, warp_rows)
    registers = _registers(batch, weights, tensor)

    def cost(shape: tuple[int, int]) -> tuple[bool, int, float]:
        """Whether multiprocessors stay idle, then fewer warps, then the steps of the longest share."""
        groups, split = shape
        tiles = ceil_div(units, groups)
        share = ceil_div(units, min(tiles, SPLIT_FOR * resident_blocks(registers[1], 32 * groups * split)))
        steps = ceil_div(share, groups) * (ceil_div(in_features, split * warp_columns) + TILE_COST)
        return tiles < min(units, SPLIT_FOR), -groups * split, steps

    widest = ceil_div(min(in_features, chunk), warp_columns)
    powers = (1, 2, 4, 8)
    shapes = [(g, s) for g in powers for s in powers if g * s <= MAX_WARPS and s < 2 * widest]
    groups, split = min(shapes, key=cost)
    group_columns = 8 * 16 // itemsize
    stride = round_up(min(in_features, chunk), group_columns) + group_columns // 2
    return GemvPlan(
        (dtype, FORMAT_CODE[weights], batch, groups, split),
        batch, groups, split, groups * warp_rows, units, registers, batch * stride * itemsize,
    )  # fmt: skip


def _registers(batch: int, weights: WeightFormat, tensor: bool) -> tuple[int, int]:
    """`kRegisters` of gemv.cuh, before sm_80 and from there on."""
    if tensor:
        most = 168 if weights == "q4_1" and batch <= 2 else 128
    elif batch >= 8:
        most = 255
    else:
        most = 168 if weights != "dense" and batch >= 2 else 80 if weights == "dense" and batch == 1 else 128
    return most + 16 * (most == 80), most


MAX_HELD_ROWS = 2
"""Normalised rows that a thread has registers for a part of."""


def holds_rows(plan: GemvPlan, in_features: int, dtype: DType) -> bool:
    """`kHeld` of normed_rows.cuh: 16 bytes a thread cover a row, and there are few of them."""
    return plan.batch <= MAX_HELD_ROWS and in_features <= plan.threads * (16 // DTYPE_BYTES[dtype])
