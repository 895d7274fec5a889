"""A spec compiled into the step program: a short list of ops over named buffers, the same for prefill and decode.

Every op knows the buffers it reads and writes, the weights it uses, and how many bytes and floating-point operations a
step costs it, so that the memory plan, the roofline and the executors all speak of the object that runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

from eet_demo.engine.spec import Activation, ModelSpec, NormKind

RESIDUAL = "residual"
LOGITS = "logits"
TOKEN_IDS = "token_ids"


@dataclass(frozen=True)
class Work:
    """What one step does.

    Args:
        wanted: rows for the head.
        sequences: for each, the rows it adds and the slots its cache holds with them.
    """

    wanted: int
    sequences: tuple[tuple[int, int], ...]

    @staticmethod
    def decode(batch: int, context: int) -> Work:
        """One decode step of `batch` sequences whose caches hold `context` slots, the new one included."""
        return Work(batch, ((1, context),) * batch)

    @property
    def rows(self) -> int:
        return sum(rows for rows, _ in self.sequences)

    def cached_slots(self, window: int | None) -> int:
        """Slots that any row sees, each counted once: with a window the first row's lie farthest back."""
        if window is None:
            return sum(slots for _, slots in self.sequences)
        return sum(min(slots, rows + window - 1) for rows, slots in self.sequences)

    def attended_slots(self, window: int | None) -> int:
        """Slots that each row attends to, summed over the rows."""
        return sum(
            min(seen, window if window is not None else seen)
            for rows, slots in self.sequences
            for seen in range(slots - rows + 1, slots + 1)
        )


@dataclass(frozen=True)
class Bytes:
    """Bytes of one element: `activation` and `kv` in the compute dtype; residual and logits are float32."""

    activation: int = 4
    kv: int = 4


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


def build_program(spec: ModelSpec) -> Program:
    """Five dependent ops a layer between `embed` and `norm_lm_head`, `sample`; more where outputs are normed."""
    learned = "embed.positions" if "learned" in spec.positions else None
    norm = _norm(spec, "embed.norm") if spec.embedding_norm else None
    ops: list[Op] = [Embed(-1, "embed.tokens", learned, norm, spec.embedding_scale, spec.hidden_size)]
    for layer in range(spec.num_layers):
        ops += _layer(spec, layer)
    head = "embed.tokens" if spec.tied_head else "head.weight"
    linear = Linear(head, "head.bias" if spec.head_bias else None, spec.vocab_size, spec.hidden_size)
    ops.append(NormLmHead(-1, _norm(spec, "final_norm"), linear, spec.logit_scale, spec.logit_soft_cap))
    ops.append(Sample(-1, spec.vocab_size))
    return Program(spec, tuple(ops))


def _layer(spec: ModelSpec, layer: int) -> list[Op]:
    prefix = f"layers.{layer}"
    gated = spec.mlp == "gated"
    up_rows = spec.intermediate_size * (2 if gated else 1)
    qkv = _linear(f"{prefix}.qkv", spec.qkv_bias, spec.q_size + 2 * spec.kv_size, spec.hidden_size)
    out = _linear(f"{prefix}.attention_out", spec.out_bias, spec.hidden_size, spec.q_size)
    up = _linear(f"{prefix}.up", spec.mlp_bias, up_rows, spec.hidden_size)
    down = _linear(f"{prefix}.down", spec.mlp_bias, spec.hidden_size, spec.intermediate_size)
    pre = spec.norm_placement in ("pre", "both")
    qk_norms = (Norm(spec.norm, spec.norm_eps, f"{prefix}.{name}.weight", None) for name in ("q_norm", "k_norm"))
    q_norm, k_norm = qk_norms if spec.qk_norm != "none" else (None, None)
    read = [
        NormQkv(layer, _norm(spec, f"{prefix}.attention_norm") if pre else None, qkv, q_norm, k_norm, spec),
        Attention(layer, spec, spec.window(layer), spec.positions[layer] == "alibi"),
    ]
    mlp = NormMlp(layer, _norm(spec, f"{prefix}.mlp_norm") if pre else None, up, gated, spec.activation)
    add_attention = _block_output(spec, layer, "attention", out)
    add_hidden = _block_output(spec, layer, "hidden", down)
    if spec.parallel_residual:
        return [*read, mlp, *add_attention, *add_hidden]
    return [*read, *add_attention, mlp, *add_hidden]


def _block_output(spec: ModelSpec, layer: int, source: str, linear: Linear) -> list[Op]:
    """The projection that ends a block: straight into the residual, or through a norm of its own."""
    if spec.norm_placement == "pre":
        return [LinearResidual(layer, source, linear, spec.residual_scale)]
    norm = _norm(spec, f"layers.{layer}.{source}_post_norm")
    product = LinearResidual(layer, source, linear, 1.0, to_residual=False)
    return [product, NormAdd(layer, source, norm, spec.residual_scale, spec.hidden_size)]


def _norm(spec: ModelSpec, name: str) -> Norm:
    return Norm(spec.norm, spec.norm_eps, f"{name}.weight", f"{name}.bias" if spec.norm == "layer" else None)


def _linear(name: str, bias: bool, out_features: int, in_features: int) -> Linear:
    return Linear(f"{name}.weight", f"{name}.bias" if bias else None, out_features, in_features)
