"""The reference of the kernels of many rows, each from the functions of `kernels.py` that make up its op.

Shapes as there; rows of several sequences lie one after the other: sequence b owns rows row_starts[b] ..
row_starts[b + 1], they go to slots cache_starts[b] .. of row cache_rows[b] of a cache (max_batch, num_kv_heads,
max_context, head_dim).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from eet_demo.engine import sampling
from eet_demo.engine.executors.reference import kernels as reference
from eet_demo.engine.executors.reference.kernels import Array
from eet_demo.engine.spec import Activation, NormKind
from eet_demo.records import Sampling


def add_norm(
    residual: Array, x: Array | None, bias: Array | None, scale: float, norm: Callable[[Array], Array]
) -> tuple[Array, Array]:
    """residual + scale * (x + bias), and its norm; x None leaves the residual."""
    if x is not None:
        residual = residual + residual.dtype.type(scale) * (x if bias is None else x + bias)
    return residual, norm(residual)


def qkv_post(
    qkv: Array,
    bias: Array | None,
    heads: tuple[int, int, int],
    positions: Array,
    frequencies: Array | None,
    pairs: str = "half",
    qk_norm: Callable[[Array, bool], Array] | None = None,
    norm_heads: bool = True,
) -> tuple[Array, Array, Array]:
    """`reference.norm_qkv` after its product: the same arguments, with q, k, v still to be split."""
    identity = np.eye(qkv.shape[1], dtype=qkv.dtype)
    return reference.norm_qkv(qkv, identity, bias, heads, positions, frequencies, pairs, qk_norm, norm_heads)


def sequences(row_starts: Array, cache_rows: Array, cache_starts: Array) -> Iterator[tuple[slice, int, int]]:
    """Rows, cache row and first slot of each sequence of a step."""
    for b, (cache_row, start) in enumerate(zip(cache_rows, cache_starts, strict=True)):
        yield slice(int(row_starts[b]), int(row_starts[b + 1])), int(cache_row), int(start)


def attention_prefill(
    q: Array,
    keys: Array,
    values: Array,
    row_starts: Array,
    cache_rows: Array,
    cache_starts: Array,
    scale: float,
    window: int | None = None,
    cap: float | None = None,
    slopes: Array | None = None,
) -> Array:
    """`reference.attention` of every sequence: q (rows, num_heads, head_dim) -> (rows, num_heads * head_dim)."""
    out = np.empty((len(q), q.shape[1] * q.shape[2]), q.dtype)
    for own, cache_row, start in sequences(row_starts, cache_rows, cache_starts):
        slots = start + own.stop - own.start
        filled = (keys[cache_row][:, :slots], values[cache_row][:, :slots])
        out[own] = reference.attention(q[own], *filled, np.arange(start, slots), scale, window, cap, slopes)
    return out


def activation(x: Array, bias: Array | None, gated: bool, kind: Activation) -> Array:
    """act(x + bias), or act(gate) * up with gate and up alternating."""
    y = x if bias is None else x + bias
    return reference.activate(y[:, ::2], kind) * y[:, 1::2] if gated else reference.activate(y, kind)


def last_rows(residual: Array, wanted: Array, kind: NormKind, eps: float, weight: Array, bias: Array | None) -> Array:
    """The norm of the rows wanted."""
    return reference.normalise(residual[wanted], kind, eps, weight, bias)


def dequantise(quants: Array, scales: Array, minima: Array | None) -> Array:
    """scale * quant (+ minimum): quants (rows, columns), scales and minima one for each 32 neighbours of a row."""
    blocks = quants.reshape(*scales.shape, -1).astype(np.float32) * scales.astype(np.float32)[..., None]
    values = blocks if minima is None else blocks + minima.astype(np.float32)[..., None]
    return values.reshape(quants.shape)


def sample(logits: Array, settings: Sampling, steps: Sequence[int], request_rows: Sequence[int]) -> list[int]:
    """The token drawn for each row of logits (rows, vocab_size), which has its own step and row of the request."""
    return [
        sampling.sample(row, settings, step, request_row)
        for row, step, request_row in zip(logits, steps, request_rows, strict=True)
    ]
