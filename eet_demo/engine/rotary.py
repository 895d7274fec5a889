"""Rotary frequencies and their scalings beyond the trained context.

Source of the formulas: `ROPE_INIT_FUNCTIONS` of transformers' modeling_rope_utils.py; computed in float32 as there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

ScalingKind = Literal["linear", "llama3", "dynamic", "yarn", "longrope"]


@dataclass(frozen=True)
class RotaryScaling:
    """How rotary frequencies are stretched beyond the trained context of `original_max_positions`.

    Args:
        kind: `linear` divides every frequency by `factor`; `llama3` leaves short wavelengths, divides long ones and
            blends between, from `low_freq_factor` to `high_freq_factor`; `dynamic` raises the base with the context;
            `yarn` divides what turns fewer than `beta_slow` times within the trained context, leaves what turns more
            than `beta_fast` times and blends between; `longrope` divides each frequency by a factor of its own, from
            `short_factors` within the trained context and `long_factors` beyond.
        attention_factor: factor on cosine and sine.
        truncate: yarn rounds the ends of its blend to whole frequencies.
    """

    kind: ScalingKind
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192
    attention_factor: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()


def base_of(theta: float, rotary_dim: int, scaling: RotaryScaling | None, max_context: int) -> float:
    """The rotary base: `theta`, or what `dynamic` makes of it for a context of `max_context`."""
    if scaling is None or scaling.kind != "dynamic":
        return theta
    longer = max(max_context, scaling.original_max_positions) / scaling.original_max_positions
    raised: float = (scaling.factor * longer - (scaling.factor - 1)) ** (rotary_dim / (rotary_dim - 2))
    return theta * raised


def scaled_frequencies(
    theta: float, rotary_dim: int, scaling: RotaryScaling | None, max_context: int = 0
) -> NDArray[np.float32]:
    """float32 (rotary_dim / 2,): theta^(-2i / rotary_dim), scaled."""
    exponents = np.arange(0, rotary_dim, 2, dtype=np.float32) / np.float32(rotary_dim)
    periods = np.float32(theta) ** exponents
    frequencies = np.float32(1) / periods
    if scaling is None or scaling.kind == "dynamic":
        return frequencies
    if scaling.kind == "linear":
        return (frequencies / np.float32(scaling.factor)).astype(np.float32)
    if scaling.kind == "llama3":
        return _llama3(frequencies, scaling)
    if scaling.kind == "yarn":
        return _yarn(frequencies, theta, rotary_dim, scaling)
    beyond = max_context > scaling.original_max_positions
    factors = np.array(scaling.long_factors if beyond else scaling.short_factors, np.float32)
    return (np.float32(1) / (factors * periods)).astype(np.float32)


def _llama3(frequencies: Floats, scaling: RotaryScaling) -> Floats:
    wavelengths = 2 * np.pi / frequencies
    longest = scaling.original_max_positions / scaling.low_freq_factor
    shortest = scaling.original_max_positions / scaling.high_freq_factor
    divided = np.where(wavelengths > longest, frequencies / scaling.factor, frequencies)
    smooth = (scaling.original_max_positions / wavelengths - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    blended = (1 - smooth) * divided / scaling.factor + smooth * divided
    medium = (wavelengths >= shortest) & (wavelengths <= longest)
    return np.where(medium, blended, divided).astype(np.float32)


def _yarn(frequencies: Floats, theta: float, rotary_dim: int, scaling: RotaryScaling) -> Floats:
    """YaRN (arXiv 2309.00071), its "NTK by parts"."""

    def place(turns: float) -> float:
        """Index of the frequency that turns so many times within the trained context."""
        turned = math.log(scaling.original_max_positions / (turns * 2 * math.pi))
        return rotary_dim * turned / (2 * math.log(theta))

    low, high = place(scaling.beta_fast), place(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotary_dim - 1)
    if low == high:
        high += 0.001
    ramp = np.clip((np.arange(rotary_dim // 2, dtype=np.float32) - low) / (high - low), 0, 1)
    blended: Floats = (frequencies / scaling.factor * ramp + frequencies * (1 - ramp)).astype(np.float32)
    return blended


def yarn_attention_factor(factor: float, mscale: float | None = None, mscale_all_dim: float | None = None) -> float:
    """What YaRN multiplies cosine and sine by, unless the config names it."""

    def grown(scale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0

    return grown(mscale) / grown(mscale_all_dim) if mscale and mscale_all_dim else grown(1.0)


def longrope_attention_factor(factor: float, original_max_positions: int) -> float:
    """What LongRoPE (arXiv 2402.13753) multiplies cosine and sine by, unless the config names it."""
    return 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original_max_positions))
