"""The step program: a short list of ops over named buffers, the same for prefill and decode.

Every op knows the buffers it reads and writes, the weights it uses, and how many bytes and floating-point operations a
step costs it, so that the memory plan, the roofline and the executors all speak of the object that runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

from eet_demo.engine.spec import Activation, ModelSpec, NormKind
from eet_demo.engine.work import Bytes, Work

RESIDUAL = "residual"
LOGITS = "logits"
TOKEN_IDS = "token_ids"


@dataclass(frozen=True)
class Norm:
    """LayerNorm or RMSNorm over the hidden size, or over heads; `bias` is None for RMSNorm and over heads."""

    kind: NormKind
    eps: float
    weight: str
    bias: str | None


@dataclass(frozen=True)
class Linear:
    """y = x W^T (+ b); W is `(out_features, in_features)`."""

    weight: str
    bias: str | None
    out_features: int
    in_features: int


@dataclass(frozen=True)
class Op:
    """One dependent step. `stem` names its kernel, launcher, reference and test; `layer` is -1 outside the layers."""

    layer: int

    stem = ""

    @property
    def name(self) -> str:
        return self.stem if self.layer < 0 else f"layers.{self.layer}.{self.stem}"

    @property
    def reads(self) -> tuple[str, ...]:
        raise NotImplementedError

    @property
    def writes(self) -> tuple[str, ...]:
        raise NotImplementedError

    @property
    def linear(self) -> Linear | None:
        """The projection whose weights dominate the op's bytes, if it has one."""
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Linear):
                return value
        return None

    def weights(self) -> Iterator[str]:
        """Canonical names of the weights it reads."""
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Norm | Linear):
                yield value.weight
                if value.bias:
                    yield value.bias

    def bytes_moved(self, work: Work, weight_bytes: dict[str, int], size: Bytes) -> int:
        """Bytes a step must move at least once: weights, activations in and out, cache."""
        raise NotImplementedError

    def flops(self, work: Work) -> int:
        """Floating-point operations of the projection (2 per multiply-add); norms and activations are not counted."""
        return 2 * work.rows * self.linear.out_features * self.linear.in_features if self.linear else 0

    def _weight_bytes(self, weight_bytes: dict[str, int]) -> int:
        return sum(weight_bytes[name] for name in self.weights())


@dataclass(frozen=True)
class Embed(Op):
    """residual = tokens[id] * scale (+ positions[position]) (then normalised)."""

    tokens: str
    positions: str | None
    norm: Norm | None
    scale: float
    hidden_size: int

    stem = "embed"
    reads = (TOKEN_IDS,)
    writes = (RESIDUAL,)

    def weights(self) -> Iterator[str]:
        yield self.tokens
        if self.positions:
            yield self.positions
        yield from super().weights()

    def bytes_moved(self, work: Work, weight_bytes: dict[str, int], size: Bytes) -> int:
        tables = 2 if self.positions else 1
        return work.rows * self.hidden_size * (tables * size.activation + 4)


@dataclass(frozen=True)
class NormQkv(Op):
    """q, k, v = norm(residual) W^T + b; q/k norm; rotary; k and v appended to the KV cache; q to its buffer."""

    norm: Norm | None
    qkv: Linear
    q_norm: Norm | None
    k_norm: Norm | None
    spec: ModelSpec

    stem = "norm_qkv"
    reads = (RESIDUAL,)

    @property
    def writes(self) -> tuple[str, ...]:
        return (f"q.{self.layer}",)

    def bytes_moved(self, work: Work, weight_bytes: dict[str, int], size: Bytes) -> int:
        per_row = 4 * self.qkv.in_features + size.activation * self.spec.q_size + 2 * size.kv * self.spec.kv_size
        return self._weight_bytes(weight_bytes) + work.rows * per_row


@dataclass(frozen=True)
class Attention(Op):
    """softmax(scale q k^T) v over the row's own slots, causal; GQA; ALiBi, window and soft cap as options."""

    spec: ModelSpec
    window: int | None
    alibi: bool

    stem = "attention"

    @property
    def reads(self) -> tuple[str, ...]:
        return (f"q.{self.layer}",)

    @property
    def writes(self) -> tuple[str, ...]:
        return (f"attention.{self.layer}",)

    def bytes_moved(self, work: Work, weight_bytes: dict[str, int], size: Bytes) -> int:
        cache = 2 * work.cached_slots(self.window) * self.spec.kv_size * size.kv
        return cache + 2 * work.rows * self.spec.q_size * size.activation

    def flops(self, work: Work) -> int:
        return 4 * work.attended_slots(self.window) * self.spec.q_size


@dataclass(frozen=True)
class LinearResidual(Op):
    """residual += scale * (x W^T + b); where `norm_add` follows, the product goes to `x` instead of the residual."""

    source: str
    out: Linear
    scale: float
    to_residual: bool = True

    stem = "linear_residual"

    @property
    def reads(self) -> tuple[str, ...]:
        source = f"{self.source}.{self.layer}"
        return (source, RESIDUAL) if self.to_residual else (source,)

    @property
    def writes(self) -> tuple[str, ...]:
        return (RESIDUAL,) if self.to_residual else (f"x.{self.layer}.{self.source}",)

    @property
    def name(self) -> str:
        return f"layers.{self.layer}.{self.stem}.{self.source}"

    def bytes_moved(self, work: Work, weight_bytes: dict[str, int], size: Bytes) -> int:
        per_row = self.out.in_features * size.activation + 8 * self.out.out_features
        return self._weight_bytes(weight_bytes) + work.rows * per_row


@dataclass(frozen=True)
class NormAdd(Op):
    """residual += scale * norm(x): families that normalise a block's output (Gemma 2/3, OLMo-2)."""

    source: str
    norm: Norm
    scale: float
    hidden_size: int

    stem = "norm_add"
    writes = (RESIDUAL,)

    @property
    def reads(self) -> tuple[str, ...]:
        return (f"x.{self.layer}.{self.source}", RESIDUAL)

    @property
    def name(self) -> str:
        return f"layers.{self.layer}.{self.stem}.{self.source}"

    def bytes_moved(self, work: Work, weight_bytes: dict[str, int], size: Bytes) -> int:
        return self._weight_bytes(weight_bytes) + work.rows * self.hidden_size * (8 + size.activation)


@dataclass(frozen=True)
class NormMlp(Op):
    """hidden = act(gate) * up, or act(up): norm(residual) W_up^T + b and the activation."""

    norm: Norm | None
    up: Linear
    gated: bool
    activation: Activation

    stem = "norm_mlp"
    reads = (RESIDUAL,)

    @property
    def writes(self) -> tuple[str, ...]:
        return (f"hidden.{self.layer}",)

    @property
    def out_features(self) -> int:
        return self.up.out_features // 2 if self.gated else self.up.out_features

    def bytes_moved(self, work: Work, weight_bytes: dict[str, int], size: Bytes) -> int:
        per_row = 4 * self.up.in_features + self.out_features * size.activation
        return self._weight_bytes(weight_bytes) + work.rows * per_row


@dataclass(frozen=True)
class NormLmHead(Op):
    """logits = soft_cap(scale * norm(residual[wanted]) W^T + b), float32."""

    norm: Norm
    head: Linear
    scale: float
    soft_cap: float | None

    stem = "norm_lm_head"
    reads = (RESIDUAL,)
    writes = (LOGITS,)

    def bytes_moved(self, work: Work, weight_bytes: dict[str, int], size: Bytes) -> int:
        per_row = 4 * self.head.in_features + 4 * self.head.out_features
        return self._weight_bytes(weight_bytes) + work.wanted * per_row

    def flops(self, work: Work) -> int:
        return 2 * work.wanted * self.head.out_features * self.head.in_features


@dataclass(frozen=True)
class Sample(Op):
    """token = argmax, or a draw, over each wanted row's logits; advances the lengths."""

    vocab_size: int

    stem = "sample"
    reads = (LOGITS,)
    writes = (TOKEN_IDS,)

    def bytes_moved(self, work: Work, weight_bytes: dict[str, int], size: Bytes) -> int:
        return 4 * work.wanted * (self.vocab_size + 1)


@dataclass(frozen=True)
class Program:
    """The ops of one step, in order, with the width of every buffer they use."""

    spec: ModelSpec
    ops: tuple[Op, ...]

    def buffer_width(self, name: str) -> int:
        """Elements a row of the buffer `name` holds."""
        spec = self.spec
        widths = {
            RESIDUAL: spec.hidden_size,
            LOGITS: spec.vocab_size,
            TOKEN_IDS: 1,
            "q": spec.q_size,
            "attention": spec.q_size,
            "hidden": spec.intermediate_size,
            "x": spec.hidden_size,
        }
        return widths[name.split(".")[0]]

    def bytes_moved(self, work: Work, weight_bytes: dict[str, int], size: Bytes) -> int:
        return sum(op.bytes_moved(work, weight_bytes, size) for op in self.ops)

    def flops(self, work: Work) -> int:
        return sum(op.flops(work) for op in self.ops)
