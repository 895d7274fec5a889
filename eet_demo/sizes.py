"""Sizes of memory: rounded up, and in words."""

from __future__ import annotations


def ceil_div(count: int, unit: int) -> int:
    """Units that hold `count`."""
    return -(-count // unit)


def round_up(size: int, multiple: int) -> int:
    """The least multiple that is not below `size`."""
    return ceil_div(size, multiple) * multiple


def size_text(size: int) -> str:
    """Bytes for people: `1.50 GiB`, below half a GiB `15.0 MiB`."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**29 else f"{size / 2**20:.1f} MiB"
