"""Rows of several sequences, one after the other without pads, and the cache rows they go to, as kernels take them."""

from __future__ import annotations

from dataclasses import dataclass

from eet_demo.engine.executors.cuda.arrays import DeviceArray
from eet_demo.engine.executors.cuda.compile.launch import check_array


@dataclass(frozen=True)
class RaggedRows:
    """Sequence b owns rows row_starts[b] .. row_starts[b + 1]; see `Step`, whose fields these are, on the device.

    Args:
        row_starts: (batch + 1,) int32, FlashAttention's cu_seqlens.
        cache_rows, cache_starts: (batch,) int32; cache_starts is its cache_seqlens.
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
