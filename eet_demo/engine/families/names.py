"""What a family's checkpoint calls its weights, as data, and the canonical weights those names fill."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from eet_demo.engine.spec import ModelSpec
from eet_demo.engine.weights import Part, Weight

BUFFERS = (
    ".attn.bias",
    ".attn.masked_bias",
    ".attention.bias",
    ".attention.masked_bias",
    ".rotary_emb.inv_freq",
)
"""Endings of tensors that older versions of transformers saved and any version computes: masks and frequencies."""


@dataclass(frozen=True)
class Names:
    """Names of a checkpoint's tensors without `.weight` and `.bias`; empty where the family has no such weight.

    Args:
        base: where the model with a head keeps the one without: a checkpoint has names of either.
        layer: what precedes the names of a layer; `{}` is its number.
        qkv: three names, or the one of a fused projection.
        fused_heads: rows of the fused projection are q, k, v of one head, then of the next; else all of q, k, v.
        up: gate and up, one fused name of both, or the only projection.
        old_head: what checkpoints of old call the head.
        transposed: GPT-2's Conv1D, `(in, out)`.
        attention_norm, mlp_norm: before a block; one name in both places where the blocks share it.
        attention_post_norm, hidden_post_norm: after a block.
        q_norm, k_norm: `{}` is the head where each has its own.
        norm_offset: added to every norm's weight (Gemma stores weight - 1).
        position_offset: rows of the position table before position 0.
    """

    tokens: str
    layer: str
    qkv: tuple[str, ...]
    attention_out: str
    up: tuple[str, ...]
    down: str
    final_norm: str
    base: str = "model"
    head: str = "lm_head"
    old_head: str = ""
    positions: str = ""
    position_offset: int = 0
    embedding_norm: str = ""
    attention_norm: str = ""
    mlp_norm: str = ""
    attention_post_norm: str = ""
    hidden_post_norm: str = ""
    q_norm: str = ""
    k_norm: str = ""
    norm_offset: float = 0.0
    fused_heads: bool = False
    transposed: bool = False

    def stored(self, tensor: str) -> tuple[str, ...]:
        """Every name under which transformers finds a tensor: one prefix of the base class too few, or too many."""
        if (old := self.old_head) and tensor.startswith(f"{self.head}."):
            return tensor, f"{self.base}.{tensor}", old + tensor.removeprefix(self.head)
        prefix = f"{self.base}."
        if tensor.startswith(f"{self.head}."):
            return tensor, prefix + tensor
        bare = tensor.removeprefix(prefix)
        return prefix + bare, bare, prefix + prefix + bare


def named_weights(spec: ModelSpec, names: Names) -> Iterator[Weight]:
    """Every weight of the model in the order it is loaded; a tied head has no weight of its own."""
    hidden = spec.hidden_size
    yield Weight("embed.tokens", (Part(f"{names.tokens}.weight", spec.vocab_size),), hidden)
    if names.positions:
        first = names.position_offset
        part = Part(f"{names.positions}.weight", spec.max_positions, first=first, of=spec.max_positions + first)
        yield Weight("embed.positions", (part,), hidden)
    if names.embedding_norm:
        yield from _norm(spec, names, "embed.norm", names.embedding_norm)
    for i in range(spec.num_layers):
        yield from _layer(spec, names, f"layers.{i}", names.layer.format(i))
    yield from _norm(spec, names, "final_norm", names.final_norm)
    if not spec.tied_head:
        yield Weight("head.weight", (head_part(spec, names),), hidden)
    if spec.head_bias:
        yield Weight("head.bias", (Part(f"{names.head}.bias", spec.vocab_size),))


def head_part(spec: ModelSpec, names: Names) -> Part:
    return Part(f"{names.head}.weight", spec.vocab_size)


def _layer(spec: ModelSpec, names: Names, target: str, source: str) -> Iterator[Weight]:
    hidden, inner = spec.hidden_size, spec.intermediate_size
    if names.attention_norm:
        yield from _norm(spec, names, f"{target}.attention_norm", source + names.attention_norm)
    yield from _linear(f"{target}.qkv", _qkv(spec, names, source), hidden, spec.qkv_bias)
    for norm, name, heads in (("q_norm", names.q_norm, spec.num_heads), ("k_norm", names.k_norm, spec.num_kv_heads)):
        if spec.qk_norm != "none":
            yield _qk_norm(spec, names, f"{target}.{norm}.weight", f"{source}{name}.weight", heads)
    out = Part(source + names.attention_out, hidden, transposed=names.transposed)
    yield from _linear(f"{target}.attention_out", (out,), spec.q_size, spec.out_bias)
    if names.attention_post_norm:
        yield from _norm(spec, names, f"{target}.attention_post_norm", source + names.attention_post_norm)
    if names.mlp_norm:
        yield from _norm(spec, names, f"{target}.mlp_norm", source + names.mlp_norm)
    yield from _linear(f"{target}.up", _up(spec, names, source), hidden, spec.mlp_bias, spec.mlp == "gated")
    down = Part(source + names.down, hidden, transposed=names.transposed)
    yield from _linear(f"{target}.down", (down,), inner, spec.mlp_bias)
    if names.hidden_post_norm:
        yield from _norm(spec, names, f"{target}.hidden_post_norm", source + names.hidden_post_norm)


def _qkv(spec: ModelSpec, names: Names, source: str) -> tuple[Part, ...]:
    sizes = (spec.q_size, spec.kv_size, spec.kv_size)
    if len(names.qkv) == 3:
        return tuple(Part(source + name, rows) for name, rows in zip(names.qkv, sizes, strict=True))
    name, total, size = source + names.qkv[0], sum(sizes), spec.head_dim
    if not names.fused_heads:
        return (Part(name, total, transposed=names.transposed),)
    return tuple(Part(name, spec.q_size, first=i * size, of=total, run=size, stride=3 * size) for i in range(3))


def _up(spec: ModelSpec, names: Names, source: str) -> tuple[Part, ...]:
    inner = spec.intermediate_size
    if spec.mlp == "gated" and len(names.up) == 1:
        return tuple(Part(source + names.up[0], inner, first=first, of=2 * inner) for first in (0, inner))
    return tuple(Part(source + name, inner, transposed=names.transposed) for name in names.up)


def _norm(spec: ModelSpec, names: Names, target: str, source: str) -> Iterator[Weight]:
    part = Part(f"{source}.weight", spec.hidden_size, offset=names.norm_offset)
    yield Weight(f"{target}.weight", (part,))
    if spec.norm == "layer":
        yield Weight(f"{target}.bias", (Part(f"{source}.bias", spec.hidden_size),))


def _qk_norm(spec: ModelSpec, names: Names, target: str, source: str, heads: int) -> Weight:
    if spec.qk_norm == "heads":
        return Weight(target, tuple(Part(source.format(head), spec.head_dim) for head in range(heads)))
    rows = spec.head_dim * (heads if spec.qk_norm == "full" else 1)
    return Weight(target, (Part(source, rows, offset=names.norm_offset),))


def _linear(
    target: str, parts: tuple[Part, ...], columns: int, bias: bool, interleaved: bool = False
) -> Iterator[Weight]:
    """A projection of parts still without `.weight`, and its bias, which takes the same rows."""
    yield Weight(f"{target}.weight", tuple(part.named("weight") for part in parts), columns, interleaved)
    if bias:
        yield Weight(f"{target}.bias", tuple(part.named("bias") for part in parts), 0, interleaved)
