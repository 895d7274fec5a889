"""What the launchers of kernels/cuda/row_norm.cuh check about a norm's vectors."""

from __future__ import annotations

from eet_demo.engine.executors.cuda.arrays import DeviceArray
from eet_demo.engine.executors.cuda.compile.launch import check_array


def check_norm(what: str, wanted: bool, weight: DeviceArray | None, bias: DeviceArray | None, n: int) -> None:
    """A norm of `n` values has a float32 weight (n,) and may have a bias (n,); without a norm there is neither.

    Raises:
        ValueError: a weight is missing, or a vector is given that nothing would read.
        UnsupportedError: a vector's shape or dtype.
    """
    if (weight is not None) != wanted or (bias is not None and not wanted):
        raise ValueError(f"{what} {'needs a weight' if wanted else 'takes no weight and no bias'}")
    for name, vector in (("weight", weight), ("bias", bias)):
        if vector is not None:
            check_array(f"{what} {name}", vector, (n,), "float32")
