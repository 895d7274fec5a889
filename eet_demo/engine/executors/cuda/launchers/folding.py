"""Thread-block folding: one rule that fits any row length to a block (EET, arXiv 2104.12470, section 4.2).

A thread moves 16 bytes at a time and a block has at most 512 threads; a longer row is folded: every thread takes
`fold` vectors. EET doubled its fold and so wasted up to half the threads; here `fold` is the least that fits, and the
threads are then evened out over it.
"""

from __future__ import annotations

from dataclasses import dataclass

from eet_demo.errors import UnsupportedError
from eet_demo.sizes import ceil_div, round_up

VECTOR_BYTES = 16
MAX_THREADS = 512
MAX_LENGTH = 65536


@dataclass(frozen=True)
class Folding:
    """Thread t takes values `(f * threads + t) * vec` and the `vec - 1` after, for f < fold, where they are below n."""

    n: int
    vec: int
    threads: int
    fold: int


def fold_row(n: int, itemsize: int) -> Folding:
    """How a block covers a row of `n` values of `itemsize` bytes.

    Raises:
        UnsupportedError: n is not a multiple of 8, or is larger than 65536.
    """
    if n < 8 or n % 8 or n > MAX_LENGTH:
        raise UnsupportedError(
            f"a row of {n} values is not supported: kernels move {VECTOR_BYTES} bytes a thread, so a row must be a "
            f"multiple of 8, at most {MAX_LENGTH}; pad the weights or pick another model"
        )
    vec = VECTOR_BYTES // itemsize
    fold = ceil_div(n, vec * MAX_THREADS)
    threads = round_up(ceil_div(n, vec * fold), 32)
    return Folding(n, vec, threads, fold)
