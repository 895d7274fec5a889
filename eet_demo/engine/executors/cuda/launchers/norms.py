"""The norm in front of a decode projection, as its launchers take it."""

from __future__ import annotations

from dataclasses import dataclass

from eet_demo.engine.executors.cuda.arrays import DeviceArray
from eet_demo.engine.executors.cuda.launchers.embed import NORM_CODE, NormKind
from eet_demo.engine.executors.cuda.launchers.row_norm import check_norm
from eet_demo.engine.spec import ModelSpec


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

    @property
    def code(self) -> int:
        """`enum NormKind` of row_norm.cuh."""
        return NORM_CODE[self.kind]

    def check(self, name: str, n: int) -> None:
        """Raises ValueError for a missing or superfluous weight, UnsupportedError for a wrong shape or dtype."""
        check_norm(name, self.kind != "none", self.weight, self.bias, n)


NO_NORM = NormWeights()


def input_norm(spec: ModelSpec) -> NormKind:
    """The norm in front of a block's first projection: none where a family normalises outputs alone."""
    return "none" if spec.norm_placement == "post" else spec.norm
