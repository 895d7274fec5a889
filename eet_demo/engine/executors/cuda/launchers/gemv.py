"""How a decode projection covers its weight: the launch rule of kernels/cuda/gemv.cuh, for every kernel built on it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from eet_demo.engine.dtypes import DTYPE_BYTES
from eet_demo.engine.executors.cuda.arrays import DType
from eet_demo.engine.executors.cuda.launchers.matrices import BLOCK_VALUES, FORMAT_CODE, WeightFormat
from eet_demo.errors import UnsupportedError
from eet_demo.sizes import ceil_div, round_up

BATCHES = (1, 2, 4, 8, 16)
"""Activation rows an instance is compiled for; a request takes the next larger one."""

MAX_ROWS = BATCHES[-1]
STAGE_BYTES = 32 * 1024
"""`kStageBytes` of gemv.cuh: activations in shared memory at a time."""

MAX_WARPS = 8
ENOUGH_BLOCKS = 256
"""Two blocks for each multiprocessor of an H100: below that, tiles are kept small."""


@dataclass(frozen=True)
class GemvPlan:
    """Template arguments and launch of a projection of up to 16 rows.

    Args:
        batch: activation rows a block computes, the request's rows rounded up to 1, 2, 4, 8 or 16.
        groups: groups of warps in a block, each with its own weight rows.
        split: warps of a group, which share its columns.
        tile: weight rows of a block.
        blocks: blocks that cover all weight rows.
        shared_bytes: dynamic shared memory for the staged activations.
    """

    arguments: tuple[str | int, ...]
    batch: int
    groups: int
    split: int
    tile: int
    blocks: int
    shared_bytes: int

    @property
    def threads(self) -> int:
        return 32 * self.groups * self.split


@cache
def plan_gemv(out_features: int, in_features: int, rows: int, dtype: DType, weights: WeightFormat) -> GemvPlan:
    """The plan for `rows` activation rows times a weight `(out_features, in_features)`.

    Groups grow while enough blocks are left; then K is split over the warps still free, as far as it feeds them.
    `arguments` are the leading template arguments: dtype, format, batch, groups, split.

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
    tensor = itemsize == 2 and batch >= 8
    vec = {"dense": 16 // itemsize, "q8_0": 16, "q4_0": 32, "q4_1": 32}[weights]
    plain_rows = 2 if (batch == 16 and weights != "dense") or (batch == 8 and weights in ("q4_0", "q4_1")) else 4
    warp_rows, warp_columns = (16, 2 * 4 * vec) if tensor else (plain_rows, 32 * vec)
    chunk = STAGE_BYTES // (batch * itemsize)
    groups = split = 1
    while groups < MAX_WARPS and out_features >= 2 * groups * warp_rows * ENOUGH_BLOCKS:
        groups *= 2
    while groups * split < MAX_WARPS and min(in_features, chunk) > split * warp_columns:
        split *= 2
    tile = groups * warp_rows
    group_columns = 8 * 16 // itemsize
    stride = round_up(min(in_features, chunk), group_columns) + group_columns // 2
    return GemvPlan(
        (dtype, FORMAT_CODE[weights], batch, groups, split),
        batch, groups, split, tile, ceil_div(out_features, tile), batch * stride * itemsize,
    )  # fmt: skip
