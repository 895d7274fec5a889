"""What the tests of the decode projections share: a norm with its weights, and torch's own half-precision answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from eet_demo.engine.executors.cuda.arrays import DType
from eet_demo.engine.executors.cuda.compile.launch import Launcher
from eet_demo.engine.executors.cuda.launchers.norms import NormKind, NormWeights
from eet_demo.engine.executors.reference import kernels as reference

EPS = 1e-5
TORCH = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class HostNorm:
    """A norm over n values: `apply` is the reference in float64, `torch` rounds its result as transformers does."""

    kind: NormKind
    weight: NDArray[np.float32]
    bias: NDArray[np.float32] | None

    def upload(self, device: Launcher) -> NormWeights:
        if self.kind == "none":
            return NormWeights()
        bias = None if self.bias is None else device.upload(self.bias, "float32")
        return NormWeights(self.kind, device.upload(self.weight, "float32"), bias, EPS)

    def apply(self, x: NDArray[Any]) -> NDArray[np.float64]:
        wide = x.astype(np.float64)
        return wide if self.kind == "none" else reference.normalise(wide, self.kind, EPS, self.weight, self.bias)

    def torch(self, x: torch.Tensor, dtype: DType) -> torch.Tensor:
        """In float32, then rounded to `dtype`."""
        wide = x.to(torch.float32).numpy()
        if self.kind != "none":
            wide = reference.normalise(wide, self.kind, EPS, self.weight, self.bias)
        return torch.from_numpy(wide).to(TORCH[dtype])


def make_norm(random: np.random.Generator, kind: NormKind, n: int) -> HostNorm:
    weight, bias = random.standard_normal((2, n)).astype(np.float32)
    return HostNorm(kind, weight, bias if kind == "layer" else None)


def torch_linear(x: torch.Tensor, weight: NDArray[Any], bias: NDArray[Any] | None, dtype: DType) -> torch.Tensor:
    """x W^T + b wholly in `dtype`, the weights rounded to it."""
    kind = TORCH[dtype]
    added = None if bias is None else torch.from_numpy(bias).to(kind)
    return torch.nn.functional.linear(x.to(kind), torch.from_numpy(weight).to(kind), added)


def to_numpy(x: torch.Tensor) -> NDArray[np.float32]:
    return x.to(torch.float32).numpy()
