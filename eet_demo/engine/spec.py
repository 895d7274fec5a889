"""What a decoder is, as data: a family is a function from a Hugging Face `config.json` to a `ModelSpec`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from eet_demo.errors import UnsupportedError

NormKind = Literal["layer", "rms"]
Position = Literal["learned", "rotary", "alibi", "none"]
Activation = Literal["gelu_tanh", "gelu_erf", "silu", "relu"]


@dataclass(frozen=True)
class RotaryScaling:
    """How rotary frequencies are stretched beyond the trained context.

    `linear` divides every frequency by `factor`; `llama3` leaves short wavelengths, divides long ones and blends
    between (source: `_compute_llama3_parameters` of transformers' modeling_rope_utils.py).
    """

    kind: Literal["linear", "llama3"]
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192


@dataclass(frozen=True)
class ModelSpec:
    """One decoder-only model. Names follow Hugging Face configs; see the glossary in the README.

    Args:
        positions: per layer: learned (added by `embed`), rotary, alibi or none.
        rotary_dim: leading elements of a head that are rotated (head_dim unless partial).
        rope_pairs: `half` rotates (i, i + rotary_dim/2), `interleaved` rotates (2i, 2i + 1).
        windows: per layer: a row attends to this many latest slots, itself included; None attends to all.
        norm_placement: `pre` normalises a block's input, `post` its output (`norm_add`), `both` both.
        attention_scale: factor on q.k; attention_soft_cap c maps a score s to c * tanh(s / c); None leaves it.
        embedding_scale, residual_scale, logit_scale: factors on the embedding, on each block's output, on the logits.
        parallel_residual: attention and MLP read the same residual (GPT-NeoX, GPT-J).
    """

    family: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    max_positions: int
    norm: NormKind
    norm_eps: float
    positions: tuple[Position, ...]
    mlp: Literal["plain", "gated"]
    activation: Activation
    tied_head: bool
    norm_placement: Literal["pre", "post", "both"] = "pre"
    qk_norm: Literal["none", "head", "full"] = "none"
    rotary_dim: int = 0
    rope_theta: float = 10000.0
    rope_pairs: Literal["half", "interleaved"] = "half"
    rope_scaling: RotaryScaling | None = None
    windows: tuple[int | None, ...] = ()
    attention_scale: float = 0.0
    attention_soft_cap: float | None = None
    logit_soft_cap: float | None = None
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    parallel_residual: bool = False
    embedding_norm: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False

    def __post_init__(self) -> None:
        if self.hidden_size % 8 or self.intermediate_size % 8:
            raise UnsupportedError(
                f"hidden size {self.hidden_size} and intermediate size {self.intermediate_size} must be multiples of 8:"
                " kernels move 16 bytes a thread; pad the checkpoint or pick another model"
            )
        if self.head_dim % 8 or self.head_dim > 256:
            raise UnsupportedError(f"head_dim {self.head_dim} is not supported: any multiple of 8 up to 256 is")
        if self.num_heads % self.num_kv_heads:
            raise UnsupportedError(f"{self.num_heads} query heads cannot share {self.num_kv_heads} KV heads evenly")
        if len(self.positions) != self.num_layers or len(self.windows or self.positions) != self.num_layers:
            raise UnsupportedError(
                f"{self.family}: positions and windows need one entry for each of {self.num_layers} layers"
            )

    @property
    def q_size(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_kv_heads * self.head_dim

    @property
    def scale(self) -> float:
        """Factor on q.k: `attention_scale`, or 1/sqrt(head_dim) when the config names none."""
        return self.attention_scale or self.head_dim**-0.5

    def window(self, layer: int) -> int | None:
        return self.windows[layer] if self.windows else None

    def rotary_frequencies(self) -> np.ndarray:
        """float32 (rotary_dim / 2,): radians a position, scaling applied."""
        exponents = np.arange(0, self.rotary_dim, 2, dtype=np.float32) / np.float32(self.rotary_dim)
        frequencies = (1.0 / np.float32(self.rope_theta) ** exponents).astype(np.float32)
        return scaled_frequencies(frequencies, self.rope_scaling)

    def alibi_slopes(self) -> np.ndarray:
        """float32 (num_heads,): the slopes of Press et al. (arXiv 2108.12409), for any number of heads."""
        closest = 2 ** math.floor(math.log2(self.num_heads))
        base = 2.0 ** -(2.0 ** -(math.log2(closest) - 3))
        slopes = [base**i for i in range(1, closest + 1)]
        extra = 2.0 ** -(2.0 ** -(math.log2(2 * closest) - 3))
        slopes += [extra**i for i in range(1, 2 * (self.num_heads - closest) + 1, 2)]
        return np.array(slopes, dtype=np.float32)


def scaled_frequencies(frequencies: np.ndarray, scaling: RotaryScaling | None) -> np.ndarray:
    """float32 rotary frequencies after `scaling`."""
    if scaling is None:
        return frequencies
    if scaling.kind == "linear":
        return (frequencies / np.float32(scaling.factor)).astype(np.float32)
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


def spec_from_config(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of a Hugging Face `config.json`.

    Raises:
        UnsupportedError: an architecture or a feature the engine lacks, by name.
    """
    model_type = str(config.get("model_type", "missing"))
    readers = {"gpt2": _gpt2, "llama": _llama, "qwen2": _llama}
    if model_type not in readers:
        raise UnsupportedError(
            f"model architecture {model_type!r} is not supported; supported: {', '.join(sorted(readers))}"
        )
    try:
        return readers[model_type](config)
    except KeyError as error:
        raise UnsupportedError(f"config.json of a {model_type} model lacks the field {error}") from None


def _gpt2(config: Mapping[str, Any]) -> ModelSpec:
    for flag in ("scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "add_cross_attention"):
        if config.get(flag):
            raise UnsupportedError(f"GPT-2 with {flag} is not supported")
    hidden, heads, layers = config["n_embd"], config["n_head"], config["n_layer"]
    return ModelSpec(
        family="gpt2",
        vocab_size=config["vocab_size"],
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=hidden // heads,
        intermediate_size=config.get("n_inner") or 4 * hidden,
        max_positions=config["n_positions"],
        norm="layer",
        norm_eps=config.get("layer_norm_epsilon", 1e-5),
        positions=("learned",) * layers,
        mlp="plain",
        activation=_activation(config.get("activation_function", "gelu_new")),
        tied_head=config.get("tie_word_embeddings", True),
        attention_scale=0.0 if config.get("scale_attn_weights", True) else 1.0,
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
    )


def _llama(config: Mapping[str, Any]) -> ModelSpec:
    if config.get("use_sliding_window"):
        raise UnsupportedError(f"{config['model_type']} with a sliding window is not supported")
    hidden, heads, layers = config["hidden_size"], config["num_attention_heads"], config["num_hidden_layers"]
    head_dim = config.get("head_dim") or hidden // heads
    bias = bool(config.get("attention_bias", False))
    theta, scaling = _rotary(config)
    return ModelSpec(
        family="llama",
        vocab_size=config["vocab_size"],
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=head_dim,
        intermediate_size=config["intermediate_size"],
        max_positions=config["max_position_embeddings"],
        norm="rms",
        norm_eps=config["rms_norm_eps"],
        positions=("rotary",) * layers,
        mlp="gated",
        activation=_activation(config.get("hidden_act", "silu")),
        tied_head=bool(config.get("tie_word_embeddings", False)),
        rotary_dim=head_dim,
        rope_theta=theta,
        rope_scaling=scaling,
        qkv_bias=True if config["model_type"] == "qwen2" else bias,
        out_bias=False if config["model_type"] == "qwen2" else bias,
        mlp_bias=bool(config.get("mlp_bias", False)),
    )


def _rotary(config: Mapping[str, Any]) -> tuple[float, RotaryScaling | None]:
    """Theta and scaling; transformers 5 writes both into `rope_parameters`, older configs into two fields."""
    fields = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    theta = float(fields.get("rope_theta") or config.get("rope_theta") or 10000.0)
    kind = fields.get("rope_type") or fields.get("type") or "default"
    if kind == "default":
        return theta, None
    if kind == "linear":
        return theta, RotaryScaling("linear", float(fields["factor"]))
    if kind == "llama3":
        return theta, RotaryScaling(
            "llama3",
            float(fields["factor"]),
            float(fields["low_freq_factor"]),
            float(fields["high_freq_factor"]),
            int(fields["original_max_position_embeddings"]),
        )
    raise UnsupportedError(f"rotary scaling {kind!r} is not supported; supported: default, linear, llama3")


def _activation(name: str) -> Activation:
    known: dict[str, Activation] = {
        "gelu_new": "gelu_tanh",
        "gelu_pytorch_tanh": "gelu_tanh",
        "gelu_fast": "gelu_tanh",
        "gelu": "gelu_erf",
        "silu": "silu",
        "swish": "silu",
        "relu": "relu",
    }
    if name not in known:
        raise UnsupportedError(f"activation {name!r} is not supported; supported: {', '.join(known)}")
    return known[name]
