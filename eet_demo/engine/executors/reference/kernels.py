"""The reference: every op in NumPy, written to be read; the twin all other executors are tested against.

Functions take and return plain arrays, rows without pads. Shapes: x (rows, hidden), weights (out_features,
in_features), a cache (num_kv_heads, max_context, head_dim) for keys and one for values. Computed in the arrays' own
dtype, float32 or float64. Gate and up rows of a gated projection alternate: row 2i is gate i, row 2i + 1 is up i.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eet_demo.engine.spec import Activation, NormKind

Array = NDArray[Any]

_erf = np.vectorize(math.erf, otypes=[np.float64])


def normalise(x: Array, kind: NormKind, eps: float, weight: Array, bias: Array | None) -> Array:
    """LayerNorm: (x - mean) / sqrt(var + eps) * weight + bias; RMSNorm: x / sqrt(mean(x^2) + eps) * weight."""
    if kind == "layer":
        x = x - x.mean(axis=-1, keepdims=True)
    scaled: Array = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + x.dtype.type(eps)) * weight
    return scaled if bias is None else scaled + bias


def linear(x: Array, weight: Array, bias: Array | None) -> Array:
    """x W^T + b."""
    y = x @ weight.T
    return y if bias is None else y + bias


def activate(x: Array, activation: Activation) -> Array:
    """gelu_tanh is Hugging Face's gelu_new; gelu_erf the exact one."""
    y: Array
    if activation == "relu":
        y = np.maximum(x, 0)
    elif activation == "silu":
        y = x / (1 + np.exp(-x))
    elif activation == "gelu_erf":
        y = (0.5 * x * (1 + _erf(x / math.sqrt(2)))).astype(x.dtype)
    else:
        cubic = x.dtype.type(math.sqrt(2 / math.pi)) * (x + x.dtype.type(0.044715) * x**3)
        y = x.dtype.type(0.5) * x * (1 + np.tanh(cubic))
    return y


def soft_cap(x: Array, cap: float | None) -> Array:
    """cap * tanh(x / cap); x itself without a cap."""
    return x if cap is None else (cap * np.tanh(x / cap)).astype(x.dtype)


def rotate(x: Array, positions: Array, frequencies: Array, pairs: str) -> Array:
    """Rotary embedding of x (rows, heads, head_dim) at positions (rows,); the first 2 * len(frequencies) elements turn.

    Source: RoFormer (arXiv 2104.09864); `half` pairs (i, i + d/2) as Hugging Face's Llama, `interleaved` (2i, 2i + 1)
    as GPT-J.
    Angles are float32 whatever x is, as every implementation we compare with computes them.
    """
    turned = x.copy()
    half = len(frequencies)
    angles = positions.astype(np.float32)[:, None] * frequencies.astype(np.float32)
    cos, sin = np.cos(angles).astype(x.dtype)[:, None], np.sin(angles).astype(x.dtype)[:, None]
    first = slice(0, half) if pairs == "half" else slice(0, 2 * half, 2)
    second = slice(half, 2 * half) if pairs == "half" else slice(1, 2 * half, 2)
    turned[..., first] = x[..., first] * cos - x[..., second] * sin
    turned[..., second] = x[..., second] * cos + x[..., first] * sin
    return turned


def embed(token_ids: Array, positions: Array, tokens: Array, position_table: Array | None, scale: float) -> Array:
    """residual (rows, hidden) = tokens[id] * scale (+ position_table[position])."""
    rows: Array = tokens[token_ids] * tokens.dtype.type(scale)
    return rows if position_table is None else rows + position_table[positions]


def norm_qkv(
    normed: Array,
    weight: Array,
    bias: Array | None,
    heads: tuple[int, int, int],
    positions: Array,
    frequencies: Array | None,
    pairs: str = "half",
    qk_norm: Callable[[Array, bool], Array] | None = None,
    norm_heads: bool = True,
) -> tuple[Array, Array, Array]:
    """q, k, v of already normalised rows, rotated, before k and v are appended to the cache.

    Args:
        heads: (num_heads, num_kv_heads, head_dim).
        frequencies: (rotary_dim / 2,) radians a position; None for families without rotary.
        qk_norm: normalises q (its flag False) and k (True): each head alone, or all at once when not `norm_heads`.

    Returns:
        q (rows, num_heads, head_dim), k and v (rows, num_kv_heads, head_dim).
    """
    num_heads, num_kv_heads, head_dim = heads
    y = linear(normed, weight, bias)
    q, k, v = np.split(y, [num_heads * head_dim, (num_heads + num_kv_heads) * head_dim], axis=1)
    if qk_norm and not norm_heads:
        q, k = qk_norm(q, False), qk_norm(k, True)
    q, k, v = (part.reshape(len(y), -1, head_dim) for part in (q, k, v))
    if qk_norm and norm_heads:
        q, k = qk_norm(q, False), qk_norm(k, True)
    if frequencies is not None:
        q, k = rotate(q, positions, frequencies, pairs), rotate(k, positions, frequencies, pairs)
    return q, k, v


def append_cache(cache: Array, rows: Array, start: int) -> None:
    """Writes rows (n, num_kv_heads, head_dim) into slots start .. of cache (num_kv_heads, max_context, head_dim)."""
    cache[:, start : start + len(rows)] = rows.transpose(1, 0, 2)


def attention(
    q: Array,
    keys: Array,
    values: Array,
    positions: Array,
    scale: float,
    window: int | None = None,
    cap: float | None = None,
    slopes: Array | None = None,
) -> Array:
    """Causal attention of one sequence's rows over its own slots.

    Args:
        q: (rows, num_heads, head_dim); query head h reads KV head h // (num_heads // num_kv_heads).
        keys, values: (num_kv_heads, slots, head_dim), the filled slots only.
        positions: (rows,) slot of each row's own token; it attends to slots 0 .. position.
        window: attend to the last `window` of these only.
        cap: soft cap on scores. slopes: (num_heads,) ALiBi slopes.

    Returns:
        (rows, num_heads * head_dim).
    """
    rows, num_heads, head_dim = q.shape
    group = num_heads // len(keys)
    slots = np.arange(keys.shape[1])
    out = np.empty_like(q)
    distance = positions[:, None] - slots[None]
    masked = distance < 0 if window is None else (distance < 0) | (distance >= window)
    for head in range(num_heads):
        scores = soft_cap(q[:, head] @ keys[head // group].T * q.dtype.type(scale), cap)
        if slopes is not None:
            scores = scores - slopes[head].astype(q.dtype) * distance.astype(q.dtype)
        scores = np.where(masked, -np.inf, scores)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        out[:, head] = weights @ values[head // group] / weights.sum(axis=1, keepdims=True)
    return out.reshape(rows, num_heads * head_dim)


def linear_residual(residual: Array, x: Array, weight: Array, bias: Array | None, scale: float) -> Array:
    """residual + scale * (x W^T + b)."""
    total: Array = residual + residual.dtype.type(scale) * linear(x, weight, bias)
    return total


def norm_add(residual: Array, normed: Array, scale: float) -> Array:
    """residual + scale * norm(x), the norm already applied."""
    total: Array = residual + residual.dtype.type(scale) * normed
    return total


def norm_mlp(normed: Array, weight: Array, bias: Array | None, gated: bool, activation: Activation) -> Array:
    """act(up), or act(gate) * up with gate and up rows alternating: (rows, intermediate)."""
    y = linear(normed, weight, bias)
    return activate(y[:, ::2], activation) * y[:, 1::2] if gated else activate(y, activation)


def norm_lm_head(normed: Array, weight: Array, bias: Array | None, scale: float, cap: float | None) -> Array:
    """Logits of already normalised rows: soft_cap(scale * (x W^T + b))."""
    return soft_cap(normed.dtype.type(scale) * linear(normed, weight, bias), cap)
