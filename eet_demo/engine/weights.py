"""The weights of a spec under canonical names, and where each comes from in a Hugging Face checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from eet_demo.engine.spec import ModelSpec


@dataclass(frozen=True)
class Part:
    """One checkpoint tensor that fills `rows` rows of a weight; `transposed` marks GPT-2's Conv1D `(in, out)`."""

    tensor: str
    rows: int
    transposed: bool = False


@dataclass(frozen=True)
class Weight:
    """A canonical weight: a matrix `(rows, columns)` row-major over its parts, or a vector `(rows,)` if `columns` is 0.

    `interleaved` marks the gate and up projections (parts 0 and 1), whose rows an executor alternates in its own
    stride, so that one pass over the matrix yields both factors of an output.
    """

    name: str
    parts: tuple[Part, ...]
    columns: int = 0
    interleaved: bool = False

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def is_matrix(self) -> bool:
        return self.columns > 0


def weights_of(spec: ModelSpec) -> tuple[Weight, ...]:
    """Every weight of the model in the order it is loaded; a tied head has no weight of its own."""
    names = {"gpt2": _gpt2, "llama": _llama}[spec.family]
    return tuple(names(spec))


def _gpt2(spec: ModelSpec) -> Iterator[Weight]:
    hidden, inner = spec.hidden_size, spec.intermediate_size
    yield Weight("embed.tokens", (Part("wte.weight", spec.vocab_size),), hidden)
    yield Weight("embed.positions", (Part("wpe.weight", spec.max_positions),), hidden)
    for i in range(spec.num_layers):
        source, target = f"h.{i}", f"layers.{i}"
        yield from _norm(f"{target}.attention_norm", f"{source}.ln_1", hidden, bias=True)
        yield from _conv1d(f"{target}.qkv", f"{source}.attn.c_attn", 3 * hidden, hidden)
        yield from _conv1d(f"{target}.attention_out", f"{source}.attn.c_proj", hidden, hidden)
        yield from _norm(f"{target}.mlp_norm", f"{source}.ln_2", hidden, bias=True)
        yield from _conv1d(f"{target}.up", f"{source}.mlp.c_fc", inner, hidden)
        yield from _conv1d(f"{target}.down", f"{source}.mlp.c_proj", hidden, inner)
    yield from _norm("final_norm", "ln_f", hidden, bias=True)
    if not spec.tied_head:
        yield Weight("head.weight", (Part("lm_head.weight", spec.vocab_size),), hidden)


def _llama(spec: ModelSpec) -> Iterator[Weight]:
    hidden, inner = spec.hidden_size, spec.intermediate_size
    yield Weight("embed.tokens", (Part("model.embed_tokens.weight", spec.vocab_size),), hidden)
    for i in range(spec.num_layers):
        source, target = f"model.layers.{i}", f"layers.{i}"
        qkv = [("q_proj", spec.q_size), ("k_proj", spec.kv_size), ("v_proj", spec.kv_size)]
        attention = [(f"{source}.self_attn.{name}", rows) for name, rows in qkv]
        gate_up = [(f"{source}.mlp.gate_proj", inner), (f"{source}.mlp.up_proj", inner)]
        yield from _norm(f"{target}.attention_norm", f"{source}.input_layernorm", hidden)
        yield from _linear(f"{target}.qkv", attention, hidden, spec.qkv_bias)
        yield from _linear(
            f"{target}.attention_out", [(f"{source}.self_attn.o_proj", hidden)], spec.q_size, spec.out_bias
        )
        yield from _norm(f"{target}.mlp_norm", f"{source}.post_attention_layernorm", hidden)
        yield from _linear(f"{target}.up", gate_up, hidden, spec.mlp_bias, interleaved=True)
        yield from _linear(f"{target}.down", [(f"{source}.mlp.down_proj", hidden)], inner, spec.mlp_bias)
    yield from _norm("final_norm", "model.norm", hidden)
    if not spec.tied_head:
        yield Weight("head.weight", (Part("lm_head.weight", spec.vocab_size),), hidden)


def _norm(target: str, source: str, size: int, bias: bool = False) -> Iterator[Weight]:
    yield Weight(f"{target}.weight", (Part(f"{source}.weight", size),))
    if bias:
        yield Weight(f"{target}.bias", (Part(f"{source}.bias", size),))


def _conv1d(target: str, source: str, rows: int, columns: int) -> Iterator[Weight]:
    yield Weight(f"{target}.weight", (Part(f"{source}.weight", rows, transposed=True),), columns)
    yield Weight(f"{target}.bias", (Part(f"{source}.bias", rows),))


def _linear(
    target: str, sources: list[tuple[str, int]], columns: int, bias: bool, interleaved: bool = False
) -> Iterator[Weight]:
    parts = tuple(Part(f"{name}.weight", rows) for name, rows in sources)
    yield Weight(f"{target}.weight", parts, columns, interleaved)
    if bias:
        parts = tuple(Part(f"{name}.bias", rows) for name, rows in sources)
        yield Weight(f"{target}.bias", parts, 0, interleaved)
