"""What a decoder is, as data. `families/` says how a Hugging Face `config.json` becomes a `ModelSpec`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from eet_demo.engine.rotary import RotaryScaling, base_of, scaled_frequencies
from eet_demo.errors import UnsupportedError

__all__ = ["Activation", "ModelSpec", "NormKind", "Position", "QkNorm", "RotaryScaling"]

NormKind = Literal["layer", "rms"]
Position = Literal["learned", "rotary", "alibi", "none"]
Activation = Literal["gelu_tanh", "gelu_erf", "silu", "relu"]
QkNorm = Literal["none", "head", "heads", "full"]


@dataclass(frozen=True)
class ModelSpec:
    """One decoder-only model. Names follow Hugging Face configs.

    Args:
        family: the `model_type` whose weight names the checkpoint uses.
        positions: per layer: learned (added by `embed`), rotary, alibi or none.
        rotary_dim: leading elements of a head that are rotated (head_dim unless partial).
        rope_pairs: `half` rotates (i, i + rotary_dim/2), `interleaved` rotates (2i, 2i + 1).
        local_rope_theta: the rotary base of layers with a window, which no scaling touches (Gemma 3); None where all
            layers rotate alike.
        windows: per layer: a row attends to this many latest slots, itself included; None attends to all.
        norm_placement: `pre` normalises a block's input, `post` its output (`norm_add`), `both` both.
        qk_norm: normalises queries and keys before rotary: `head` each head alone with one weight for all of them,
            `heads` each head alone with a weight of its own, `full` all heads at once. It has no bias.
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
    qk_norm: QkNorm = "none"
    rotary_dim: int = 0
    rope_theta: float = 10000.0
    rope_pairs: Literal["half", "interleaved"] = "half"
    rope_scaling: RotaryScaling | None = None
    local_rope_theta: float | None = None
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
        if self.head_dim % 8 or not 0 < self.head_dim <= 256:
            raise UnsupportedError(f"head_dim {self.head_dim} is not supported: any multiple of 8 up to 256 is")
        if self.num_heads % self.num_kv_heads:
            raise UnsupportedError(f"{self.num_heads} query heads cannot share {self.num_kv_heads} KV heads evenly")
        if len(self.positions) != self.num_layers or len(self.windows or self.positions) != self.num_layers:
            raise UnsupportedError(
                f"{self.family}: positions and windows need one entry for each of {self.num_layers} layers"
            )
        if self.rotary_dim % 2 or not 4 * ("rotary" in self.positions) <= self.rotary_dim <= self.head_dim:
            raise UnsupportedError(f"{self.family}: {self.rotary_dim} of {self.head_dim} elements cannot be rotated")
        if self._rope_attention_factor != 1.0 and not self._every_score_is_rotated:
            raise UnsupportedError(
                f"{self.family}: rotary scaling '{self.rope_scaling and self.rope_scaling.kind}' with an attention "
                f"factor of {self._rope_attention_factor:g} is supported where whole heads of every layer are rotated"
            )

    @property
    def q_size(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_kv_heads * self.head_dim

    @property
    def scale(self) -> float:
        """Factor on q.k: `attention_scale`, or 1/sqrt(head_dim) when the config names none.

        Scalings of rotary that also stretch cosine and sine by a factor stretch q and k alike: its square is in here.
        """
        return (self.attention_scale or self.head_dim**-0.5) * self._rope_attention_factor**2

    def window(self, layer: int) -> int | None:
        return self.windows[layer] if self.windows else None

    def rotary_frequencies(self, max_context: int = 0, layer: int = 0) -> np.ndarray:
        """float32 (rotary_dim / 2,): radians a position in `layer`, scaling applied.

        Scalings that depend on the sequence (`dynamic`, `longrope`) are fixed once for an engine of `max_context`
        slots, as vLLM does: a key in the cache keeps the rotation it was stored with. So a request shorter than the
        trained context, in an engine built for more, is rotated as a long one.
        """
        if self.local_rope_theta is not None and self.window(layer) is not None:
            return scaled_frequencies(self.local_rope_theta, self.rotary_dim, None)
        theta = base_of(self.rope_theta, self.rotary_dim, self.rope_scaling, max_context)
        return scaled_frequencies(theta, self.rotary_dim, self.rope_scaling, max_context)

    def alibi_slopes(self) -> np.ndarray:
        """float32 (num_heads,): the slopes of Press et al. (arXiv 2108.12409), for any number of heads."""
        closest = 2 ** math.floor(math.log2(self.num_heads))
        base = 2.0 ** -(2.0 ** -(math.log2(closest) - 3))
        slopes = [base**i for i in range(1, closest + 1)]
        extra = 2.0 ** -(2.0 ** -(math.log2(2 * closest) - 3))
        slopes += [extra**i for i in range(1, 2 * (self.num_heads - closest) + 1, 2)]
        return np.array(slopes, dtype=np.float32)

    @property
    def _rope_attention_factor(self) -> float:
        return self.rope_scaling.attention_factor if self.rope_scaling else 1.0

    @property
    def _every_score_is_rotated(self) -> bool:
        return self.rotary_dim == self.head_dim and set(self.positions) == {"rotary"} and self.local_rope_theta is None
