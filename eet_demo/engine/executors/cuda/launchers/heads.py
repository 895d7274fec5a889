"""What the kernels that know heads ask of them, of the KV cache and of a window."""

from __future__ import annotations

import numpy as np

from eet_demo.engine.executors.cuda.arrays import DeviceArray, DType
from eet_demo.engine.executors.cuda.compile.launch import check_array
from eet_demo.errors import UnsupportedError

MAX_HEAD_DIM = 256
NO_WINDOW = 2**30
"""Slots: more than any cache has."""


def check_head_dim(head_dim: int) -> None:
    """Raises UnsupportedError for heads that no kernel has."""
    if head_dim % 8 or not 8 <= head_dim <= MAX_HEAD_DIM:
        raise UnsupportedError(f"head_dim {head_dim} is not supported: any multiple of 8 up to {MAX_HEAD_DIM} is")


def check_cache(keys: DeviceArray, values: DeviceArray, num_heads: int, head_dim: int, dtype: DType) -> None:
    """Both are (max_batch, num_kv_heads, max_context, head_dim) of `dtype`, and the heads fit each other.

    Raises:
        UnsupportedError: shapes, dtypes, a head_dim that is no multiple of 8 up to 256, or an uneven ratio of heads.
    """
    check_array("keys", keys, (None, None, None, head_dim), dtype)
    check_array("values", values, keys.shape, dtype)
    check_head_dim(head_dim)
    if num_heads % keys.shape[1]:
        raise UnsupportedError(f"{num_heads} query heads cannot share {keys.shape[1]} KV heads evenly")


def window_argument(window: int | None) -> np.int32:
    """Slots a row sees, itself included, as kernels take them; None for all. Raises UnsupportedError for none."""
    if window is not None and window < 1:
        raise UnsupportedError(f"a window of {window} slots: at least 1 is supported")
    return np.int32(NO_WINDOW if window is None else min(window, NO_WINDOW))
