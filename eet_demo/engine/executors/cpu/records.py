"""ctypes mirrors of `kernels/cpu/program.h` and the library's functions."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_double, c_float, c_int, c_int32, c_int64, c_uint64, c_void_p
from pathlib import Path

from eet_demo.engine.executors.cpu.layout import Stored
from eet_demo.engine.spec import QkNorm
from eet_demo.errors import KernelCompileError

STEMS = ("embed", "norm_qkv", "attention", "linear_residual", "norm_add", "norm_mlp", "norm_lm_head", "sample")
NORMS = ("layer", "rms")
FORMATS: tuple[Stored, ...] = ("float32", "float16", "bfloat16", "q8_0", "q4_0", "q4_1")
QK_NORMS: tuple[QkNorm, ...] = ("none", "head", "heads", "full")
ACTIVATIONS = ("gelu_tanh", "gelu_erf", "silu", "relu")
MAX_THREADS = 64
"""More than any machine this is meant for; a typing error in a thread count should not start thousands."""


class Model(Structure):
    """What all ops share."""

    _fields_ = (
        *((name, c_int32) for name in ("vocab_size", "hidden_size", "num_heads", "num_kv_heads", "head_dim")),
        *((name, c_int32) for name in ("rotary_dim", "max_batch", "max_context")),
        *((name, c_float) for name in ("attention_scale", "attention_soft_cap")),
    )


class Op(Structure):
    """One op of the lowered program; unused fields are 0."""

    _fields_ = (
        *((name, c_int32) for name in ("stem", "norm_kind", "activation", "gated", "qk_norm", "adds", "window")),
        *((name, c_int32) for name in ("in_features", "out_features", "format", "pieces")),
        *((name, c_float) for name in ("norm_eps", "scale", "soft_cap")),
        *((name, c_void_p) for name in ("norm_weight", "norm_bias", "q_norm", "k_norm", "frequencies", "slopes")),
        *((name, c_void_p) for name in ("weight", "bias", "positions")),
        *((name, c_void_p) for name in ("source", "target", "scratch", "activations", "cache", "next_projection")),
    )


class Step(Structure):
    """One pass; the arrays must outlive the call."""

    _fields_ = (
        *((name, c_int32) for name in ("rows", "batch", "wanted", "top_k")),
        ("temperature", c_float),
        ("top_p", c_double),
        ("seed", c_uint64),
        *((name, c_void_p) for name in ("token_ids", "positions", "row_caches", "row_starts", "wanted_rows")),
        *((name, c_void_p) for name in ("sample_rows", "sample_steps", "sampled")),
    )


def open_library(path: Path) -> ctypes.CDLL:
    """Loads the compiled library and declares its functions.

    Raises:
        KernelCompileError: it cannot be loaded, or its records differ from these mirrors.
    """
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise KernelCompileError(f"cannot load the compiled CPU engine: {error}; delete {path} and try again") from None
    signatures = {
        "eet_create": (c_void_p, POINTER(Model), POINTER(Op), c_int, c_int),
        "eet_destroy": (None, c_void_p),
        "eet_run": (None, c_void_p, POINTER(Step), c_int, c_int),
        "eet_fill_panels": (None, c_int, c_void_p, c_int64, c_int64, c_void_p, c_void_p),
        "eet_fill_block_panels": (None, c_int, c_void_p, c_int64, c_int64, c_void_p, c_void_p),
        "eet_touch": (None, c_void_p, c_void_p, c_int64),
        "eet_read": (c_int, c_void_p, c_void_p, c_int64),
        "eet_record_layout": (c_int, POINTER(c_int32)),
    }
    for name, (result, *arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    _check_layout(library)
    return library


def _check_layout(library: ctypes.CDLL) -> None:
    fields = (
        (Model, ("head_dim", "attention_soft_cap")),
        (Op, ("out_features", "pieces", "soft_cap", "slopes", "positions", "activations", "next_projection")),
        (Step, ("top_p", "seed", "row_caches", "sampled")),
    )
    ours: list[int] = []
    for record, names in fields:
        ours += [ctypes.sizeof(record), *(getattr(record, name).offset for name in names)]
    theirs = (c_int32 * library.eet_record_layout(None))()
    library.eet_record_layout(theirs)
    if ours != list(theirs):
        raise KernelCompileError(f"records.py and program.h disagree: {ours} here, {list(theirs)} in the library")
