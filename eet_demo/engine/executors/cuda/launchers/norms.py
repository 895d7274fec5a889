"""Norms as the launchers take them: the kinds of kernels/cuda/row_norm.cuh, their weights and what is checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from eet_demo.engine.executors.cuda.arrays import DeviceArray
from eet_demo.engine.executors.cuda.compile.launch import check_array
from eet_demo.engine.spec import ModelSpec

NormKind = Literal["none", "layer", "rms"]
NORM_CODE: dict[NormKind, int] = {"none": 0, "layer": 1, "rms": 2}
"""`enum NormKind` of row_norm.cuh."""


@dataclass(frozen=True)
class NormWeights:
    """LayerNorm or RMSNorm over n values; `kind` none has no weight and changes nothing.

    Args:
        weight: (n,) float32, None for kind none.
        bias: (n,) float32, or None.
    """

    kind: NormKind = "none"
    weight: DeviceArray | None = None
    bias: DeviceArray | None = None
    eps: float = 1e-5

    def check(self, name: str, n: int) -> None:
        """Raises ValueError for a missing or superfluous weight, UnsupportedError for a wrong shape or dtype."""
        check_norm(name, self.kind != "none", self.weight, self.bias, n)


NO_NORM = NormWeights()


@dataclass(frozen=True)
class QkNorm:
    """The norm of q and of k: over each head's head_dim, or (`whole`) over all heads of q, or of k, at once.

    Args:
        q_weight, q_bias: (head_dim,), or (num_heads * head_dim,) when `whole`, float32; the bias may be None.
        k_weight, k_bias: the same for k, with num_kv_heads.
    """

    kind: NormKind
    whole: bool
    q_weight: DeviceArray
    k_weight: DeviceArray
    q_bias: DeviceArray | None = None
    k_bias: DeviceArray | None = None
    eps: float = 1e-5

    def check(self, num_heads: int, num_kv_heads: int, head_dim: int) -> None:
        """Raises as `check_norm`."""
        for name, weight, bias, heads in (
            ("q norm", self.q_weight, self.q_bias, num_heads),
            ("k norm", self.k_weight, self.k_bias, num_kv_heads),
        ):
            check_norm(name, True, weight, bias, heads * head_dim if self.whole else head_dim)


def input_norm(spec: ModelSpec) -> NormKind:
    """The norm in front of a block's first projection: none where a family normalises outputs alone."""
    return "none" if spec.norm_placement == "post" else spec.norm


def head_norm(spec: ModelSpec) -> NormKind:
    """The norm of q and k."""
    return "none" if spec.qk_norm == "none" else spec.norm


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
