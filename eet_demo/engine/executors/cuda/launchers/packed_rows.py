"""Packed rows of several sequences and the cache they go to, as the kernels of many rows take them."""

from __future__ import annotations

from dataclasses import dataclass

from eet_demo.engine.executors.cuda.arrays import DeviceArray, DType
from eet_demo.engine.executors.cuda.compile.launch import check_array
from eet_demo.errors import UnsupportedError

MAX_HEAD_DIM = 256


@dataclass(frozen=True)
class PackedRows:
    """Sequence b owns rows row_starts[b] .. row_starts[b + 1]; see `Step`, whose fields these are, on the device.

    Args:
        row_starts: (batch + 1,) int32.
        cache_rows, cache_starts: (batch,) int32.
    """

    row_starts: DeviceArray
    cache_rows: DeviceArray
    cache_starts: DeviceArray

    @property
    def batch(self) -> int:
        return self.cache_rows.size

    def check(self) -> None:
        check_array("cache_rows", self.cache_rows, (None,), "int32")
        check_array("row_starts", self.row_starts, (self.batch + 1,), "int32")
        check_array("cache_starts", self.cache_starts, (self.batch,), "int32")


def check_cache(keys: DeviceArray, values: DeviceArray, num_heads: int, head_dim: int, dtype: DType) -> None:
    """Both are (max_batch, num_kv_heads, max_context, head_dim) of `dtype`, and the heads fit each other.

    Raises:
        UnsupportedError: shapes, dtypes, a head_dim that is no multiple of 8 up to 256, or an uneven ratio of heads.
    """
    check_array("keys", keys, (None, None, None, head_dim), dtype)
    check_array("values", values, keys.shape, dtype)
    if head_dim % 8 or not 8 <= head_dim <= MAX_HEAD_DIM:
        raise UnsupportedError(f"head_dim {head_dim} is not supported: any multiple of 8 up to {MAX_HEAD_DIM} is")
    if num_heads % keys.shape[1]:
        raise UnsupportedError(f"{num_heads} query heads cannot share {keys.shape[1]} KV heads evenly")
