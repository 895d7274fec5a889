"""Which instances a model needs, asked of every launcher: one answer for compile gates, cubins and warm-up."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from types import ModuleType

from eet_demo.engine.executors.cuda import launchers
from eet_demo.engine.executors.cuda.arrays import DType
from eet_demo.engine.executors.cuda.compile.launch import Instance
from eet_demo.engine.executors.cuda.compile.sources import CUDA_SOURCES
from eet_demo.engine.executors.cuda.launchers.matrices import BLOCK_VALUES, FORMAT_CODE, WeightFormat
from eet_demo.engine.shapes import SHAPES, shape
from eet_demo.engine.spec import ModelSpec
from eet_demo.errors import UnsupportedError

DTYPES: tuple[DType, ...] = ("float32", "float16", "bfloat16")
FORMATS: tuple[WeightFormat, ...] = tuple(FORMAT_CODE)
ARCHS = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")

MANY_ROWS = ("activation", "add_norm", "attention_prefill", "dequantise", "last_rows", "qkv_post")
"""Prefill kernels: bound by arithmetic, they may spill; all others run once a token and may not."""

HALF_ONLY_ARCH = "sm_75"
"""Turing has no bfloat16 arithmetic in its tensor cores; the launchers refuse bfloat16 there."""


def stems() -> tuple[str, ...]:
    """Every kernel file, in alphabetical order."""
    return tuple(sorted(path.stem for path in CUDA_SOURCES.glob("*.cu")))


def launcher_of(stem: str) -> ModuleType:
    """The launcher module of a kernel; it has the kernel's name."""
    return importlib.import_module(f"{launchers.__name__}.{stem}")


def model_instances(
    spec: ModelSpec, dtype: DType, weights: WeightFormat, only: Iterable[str] | None = None
) -> Iterator[Instance]:
    """Every instance of every kernel that the model needs in one precision, each once."""
    seen: set[Instance] = set()
    for stem in only or stems():
        for instance in launcher_of(stem).instances(spec, dtype, weights):
            if instance not in seen:
                seen.add(instance)
                yield instance


def odd_specs() -> dict[str, ModelSpec]:
    """Shapes that no listed model has, for the corners of the templates: names say what is odd."""
    base = shape("llama-3.2-1b")
    tiny = replace(base, num_layers=1, positions=("rotary",), vocab_size=1000)
    return {
        "head-dim-8": replace(tiny, hidden_size=64, num_heads=8, num_kv_heads=8, head_dim=8, rotary_dim=8,
                              intermediate_size=96),
        "head-dim-80": replace(tiny, hidden_size=2560, num_heads=32, num_kv_heads=32, head_dim=80, rotary_dim=80,
                               intermediate_size=6912),
        "head-dim-96-interleaved": replace(tiny, hidden_size=768, num_heads=8, num_kv_heads=2, head_dim=96,
                                           rotary_dim=64, rope_pairs="interleaved", intermediate_size=2048),
        "head-dim-256-gelu": replace(tiny, hidden_size=2048, num_heads=8, num_kv_heads=1, head_dim=256, rotary_dim=256,
                                     intermediate_size=16384, activation="gelu_tanh", norm_placement="both",
                                     attention_soft_cap=50.0, logit_soft_cap=30.0, windows=(4096,)),
        "group-of-7-qk-norm": replace(tiny, hidden_size=896, num_heads=14, num_kv_heads=2, head_dim=64,
                                      intermediate_size=4864, qk_norm="head", qkv_bias=True),
        "alibi-embedding-norm": replace(shape("gpt2"), num_layers=1, positions=("alibi",), embedding_norm=True),
        "hidden-12288": replace(shape("gpt2"), num_layers=1, positions=("learned",), hidden_size=12288, num_heads=96,
                                num_kv_heads=96, head_dim=128, intermediate_size=49152),
        "hidden-16384": replace(tiny, hidden_size=16384, num_heads=128, num_kv_heads=8, head_dim=128, rotary_dim=128,
                                intermediate_size=53248),
    }  # fmt: skip


def gate_specs() -> dict[str, ModelSpec]:
    """Everything the compile gates cover: the catalogue's models and the measured shapes, then the odd set."""
    return {**{name: shape(name) for name in SHAPES}, **odd_specs()}


def gate_instances(
    specs: Iterable[ModelSpec],
    dtypes: Iterable[DType] = DTYPES,
    formats: Iterable[WeightFormat] = FORMATS,
    only: Iterable[str] | None = None,
) -> dict[str, list[Instance]]:
    """Instances by stem, each once. A format that a shape's columns do not divide into is not one of its instances."""
    found: dict[Instance, None] = {}
    only = tuple(only) if only is not None else stems()
    dtypes, formats = tuple(dtypes), tuple(formats)
    for spec in specs:
        for dtype in dtypes:
            for weights in (weights for weights in formats if has_format(spec, weights)):
                found.update(dict.fromkeys(model_instances(spec, dtype, weights, only)))
    grouped: dict[str, list[Instance]] = {}
    for instance in found:
        grouped.setdefault(instance.stem, []).append(instance)
    return grouped


def runs_on(instance: Instance, arch: str) -> bool:
    """Whether the instance is meant for the architecture at all."""
    return "bfloat16" not in instance.arguments or has_dtype("bfloat16", arch)


def has_dtype(dtype: DType, arch: str) -> bool:
    """Whether the architecture computes in it."""
    return dtype != "bfloat16" or arch != HALF_ONLY_ARCH


def has_format(spec: ModelSpec, weights: WeightFormat) -> bool:
    """Whether the model's columns divide into the format's blocks."""
    return weights == "dense" or (spec.hidden_size % BLOCK_VALUES == 0 and spec.intermediate_size % BLOCK_VALUES == 0)


def check_stem(stem: str) -> None:
    """Raises UnsupportedError for a kernel that does not exist."""
    if stem not in stems():
        raise UnsupportedError(f"no kernel {stem!r}; there are: {', '.join(stems())}")
