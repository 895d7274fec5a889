"""Launcher of kernels/cuda/embed.cu."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np

from eet_demo.engine.dtypes import DTYPE_BYTES
from eet_demo.engine.executors.cuda.arrays import DeviceArray, DType
from eet_demo.engine.executors.cuda.compile.launch import Instance, LaunchConfig, Launcher, check_array
from eet_demo.engine.executors.cuda.launchers.folding import Folding, fold_row
from eet_demo.engine.executors.cuda.launchers.matrices import FORMAT_CODE, Matrix, WeightFormat, check_matrix
from eet_demo.engine.executors.cuda.launchers.norms import NORM_CODE, NormKind
from eet_demo.engine.spec import ModelSpec


@cache
def instance(dtype: DType, weights: WeightFormat, norm: NormKind, n: int) -> tuple[Instance, Folding]:
    """The kernel for rows of `n` values in `dtype`, and how a block covers them."""
    folding = fold_row(n, DTYPE_BYTES[dtype])
    arguments = (dtype, FORMAT_CODE[weights], NORM_CODE[norm], folding.threads, folding.fold)
    return Instance("embed", arguments), folding


def instances(spec: ModelSpec, dtype: DType, weights: WeightFormat) -> Iterator[Instance]:
    """Every instance the model needs when its table is held in `weights`."""
    yield instance(dtype, weights, spec.norm if spec.embedding_norm else "none", spec.hidden_size)[0]


def embed(
    launcher: Launcher,
    token_ids: DeviceArray,
    position_ids: DeviceArray,
    tokens: Matrix,
    *,
    dtype: DType,
    out: DeviceArray,
    positions: DeviceArray | None = None,
    norm: NormKind = "none",
    norm_weight: DeviceArray | None = None,
    norm_bias: DeviceArray | None = None,
    scale: float = 1.0,
    eps: float = 1e-5,
) -> DeviceArray:
    """residual[r] = norm(scale * tokens[token_ids[r]] + positions[position_ids[r]]).

    Args:
        token_ids, position_ids: (rows,) int32; ids are checked by the caller, on the host.
        tokens: (vocab, n) table in `dtype` or quantised.
        dtype: compute dtype: float32, float16 or bfloat16.
        out: (rows, n) float32; written and returned.
        positions: (max_positions, n) `dtype`, or None.
        norm_weight, norm_bias: (n,) float32; the bias for LayerNorm only.
    """
    rows, n = token_ids.shape[0], tokens.columns
    kernel, folding = instance(dtype, tokens.format, norm, n)
    check_array("token_ids", token_ids, (None,), "int32")
    check_array("position_ids", position_ids, (rows,), "int32")
    check_matrix("tokens", tokens, dtype)
    check_array("out", out, (rows, n), "float32")
    if positions is not None:
        check_array("positions", positions, (None, n), dtype)
    for name, vector, needed in (
        ("norm_weight", norm_weight, norm != "none"),
        ("norm_bias", norm_bias, norm == "layer"),
    ):
        if (vector is not None) != needed:
            raise ValueError(f"embed with norm {norm!r} {'needs' if needed else 'takes no'} {name}")
        if vector is not None:
            check_array(name, vector, (n,), "float32")
    launcher.launch(
        kernel,
        LaunchConfig(folding.threads, (rows, 1, 1), overlaps=True),
        (token_ids, position_ids, tokens.values, tokens.scales, positions, norm_weight, norm_bias, out,
         np.int32(n), np.float32(scale), np.float32(eps)),
    )  # fmt: skip
    return out
