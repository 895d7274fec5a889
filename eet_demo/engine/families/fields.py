"""Reading a Hugging Face `config.json`: every field checked for its type, and what is not supported refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eet_demo.engine.rotary import RotaryScaling, ScalingKind, longrope_attention_factor, yarn_attention_factor
from eet_demo.engine.spec import Activation, Position
from eet_demo.errors import CheckpointError, UnsupportedError

MOST_LAYERS = 4096

LARGEST = 1e30
"""No number of a config is larger; float32 still holds it."""

_REFUSED = {
    "quantization_config": "quantised weights (quantization_config)",
    "num_local_experts": "a mixture of experts",
    "num_experts": "a mixture of experts",
    "n_routed_experts": "a mixture of experts",
    "add_cross_attention": "cross attention",
    "is_encoder_decoder": "an encoder beside the decoder",
    "vision_config": "images (vision_config)",
    "audio_config": "sound (audio_config)",
    "use_bidirectional_attention": "attention to later tokens (use_bidirectional_attention)",
    "per_layer_config": "layers that differ from each other (per_layer_config)",
    "transformers_weights": "weights in files of other names (transformers_weights)",
    "configuration_files": "a config in files of other names (configuration_files)",
    "kv_sharing_modes": "keys and values that layers share (kv_sharing_modes)",
    "fusion_config": "modules that are replaced as it is loaded (fusion_config)",
}

_ACTIVATIONS: dict[str, Activation] = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu": "gelu_erf",
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
}

_SCALINGS: dict[str, ScalingKind] = {
    "linear": "linear",
    "dynamic": "dynamic",
    "llama3": "llama3",
    "yarn": "yarn",
    "longrope": "longrope",
}


class Fields:
    """A config (or one of its objects) whose fields are asked for by type.

    A default given here is for null: what absent means was settled before. Every method raises UnsupportedError for a
    field that has no value and needs one, and CheckpointError for one of the wrong type.
    """

    def __init__(self, values: Mapping[str, Any], model_type: str) -> None:
        self.values, self.model_type = values, model_type

    def has(self, name: str) -> bool:
        return self.values.get(name) is not None

    def count(self, name: str, default: int | None = None, most: int = 2**31) -> int:
        """A whole number from 1 to `most`."""
        value = self._value(name, default)
        if type(value) is not int or not 1 <= value <= most:
            raise self._wrong(name, value, f"a whole number from 1 to {most}")
        return value

    def layers(self, name: str = "num_hidden_layers", default: int | None = None) -> int:
        """How many layers: no more than a spec, which lists each, can be meant to have."""
        return self.count(name, default, MOST_LAYERS)

    def number(self, name: str, default: float | None = None) -> float:
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not -LARGEST < value < LARGEST:
            raise self._wrong(name, value, "a number")
        return float(value)

    def positive(self, name: str, default: float | None = None, above: float = 0.0) -> float:
        value = self.number(name, default)
        if value <= above:
            raise self._wrong(name, value, f"a number above {above:g}")
        return value

    def optional(self, name: str) -> float | None:
        """A number above 0, or None where the config has none."""
        return self.positive(name) if self.has(name) else None

    def flag(self, name: str, default: bool | None = None) -> bool:
        value = self._value(name, default)
        if not isinstance(value, bool):
            raise self._wrong(name, value, "true or false")
        return value

    def word(self, name: str, default: str | None = None) -> str:
        value = self._value(name, default)
        if not isinstance(value, str):
            raise self._wrong(name, value, "a word")
        return value

    def numbers(self, name: str, length: int) -> tuple[float, ...]:
        """`length` numbers."""
        values = self._value(name, None)
        if not isinstance(values, list) or len(values) != length:
            raise self._wrong(name, values, f"a list of {length} numbers")
        return tuple(Fields({name: value}, self.model_type).number(name) for value in values)

    def object(self, name: str) -> Fields:
        """The object called `name`; an empty one where the config has none."""
        value = self._value(name, {})
        if not isinstance(value, Mapping):
            raise self._wrong(name, value, "an object")
        return Fields(value, self.model_type)

    def activation(self, name: str, default: str | None = None) -> Activation:
        given = self.word(name, default)
        if given not in _ACTIVATIONS:
            raise UnsupportedError(f"activation {given!r} is not supported; supported: {', '.join(_ACTIVATIONS)}")
        return _ACTIVATIONS[given]

    def refuse(self, **features: bool) -> None:
        """Raises UnsupportedError naming the first feature that is used; `_` in a name stands for a space."""
        for feature, used in features.items():
            if used:
                raise UnsupportedError(f"{self.model_type}: {feature.replace('_', ' ')} is not supported")

    def refuse_uneven_heads(self) -> None:
        """Of the classes that check it, even where the config names a head_dim."""
        uneven = self.count("hidden_size") % self.count("num_attention_heads") != 0
        self.refuse(a_hidden_size_that_is_no_multiple_of_its_heads=uneven)

    def _value(self, name: str, default: Any) -> Any:
        value = self.values.get(name)
        if value is None and default is None:
            given = "has null for" if name in self.values else "lacks"
            raise UnsupportedError(f"config.json of a {self.model_type} model {given} the field {name!r}")
        return default if value is None else value

    def _wrong(self, name: str, value: Any, wanted: str) -> CheckpointError:
        return CheckpointError(f"config.json: {name} is {str(value)[:60]!r}, which is not {wanted}")


def every(position: Position, layers: int) -> tuple[Position, ...]:
    """The same position scheme in every layer."""
    return (position,) * layers


def refuse_common(fields: Fields) -> None:
    """Raises UnsupportedError for what no family supports."""
    for name, feature in _REFUSED.items():
        if fields.values.get(name):
            raise UnsupportedError(f"{fields.model_type}: {feature} is not supported")


def windows_of(fields: Fields, kinds: list[str]) -> tuple[int | None, ...]:
    """A window per layer from `sliding_window` and each layer's kind; nothing where no layer has one."""
    for kind in kinds:
        if kind not in ("full_attention", "sliding_attention"):
            raise UnsupportedError(f"{fields.model_type}: layers of the kind {str(kind)!r} are not supported")
    if "sliding_attention" not in kinds:
        return ()
    window = fields.count("sliding_window")
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def one_window(fields: Fields) -> tuple[int | None, ...]:
    """The window of every layer, where the config has one."""
    kind = "sliding_attention" if fields.has("sliding_window") else "full_attention"
    return windows_of(fields, [kind] * fields.layers())


def layer_types(fields: Fields, layers: int, default: list[str]) -> list[str]:
    """The kind of every layer: `layer_types`, or what older configs meant without it."""
    kinds = fields.values.get("layer_types")
    if kinds is None:
        return default
    if not isinstance(kinds, list) or len(kinds) != layers:
        raise CheckpointError(f"config.json: layer_types is not a list of {layers} kinds, one a layer")
    return ["full_attention" if kind == "attention" else kind for kind in kinds]  # its name in older configs


def rope_of(fields: Fields, **legacy: Any) -> Fields:
    """`rope_scaling`, which counts where it says anything, else `rope_parameters`; `legacy` is what neither names."""
    scaling, parameters = (fields.object(name).values for name in ("rope_scaling", "rope_parameters"))
    rope = {**legacy, **(scaling or parameters)}
    fields.refuse(rotary_by_kinds_of_layer=any(isinstance(value, Mapping) for value in rope.values()))
    return Fields(rope, fields.model_type)


def rotary(fields: Fields, head_dim: int, theta: float = 10000.0, partial: float = 1.0) -> dict[str, Any]:
    """The arguments of a ModelSpec that say how it rotates, and how many positions it reaches that way.

    transformers 5 writes everything into `rope_parameters`; older configs have `rope_theta`, `rope_scaling` and
    `partial_rotary_factor`. `theta` and `partial` are the family's defaults.
    """
    given = fields.values
    fraction = given.get("partial_rotary_factor", partial)
    if fraction is None and partial == 1.0:
        fraction = 1.0
    rope = rope_of(fields, rope_theta=given.get("rope_theta", theta), partial_rotary_factor=fraction)
    return turned(fields, rope, head_dim)


def turned(fields: Fields, rope: Fields, head_dim: int) -> dict[str, Any]:
    """The same from the rotary parameters as they are settled."""
    rotary_dim = int(head_dim * rope.positive("partial_rotary_factor"))
    positions = fields.count("max_position_embeddings")
    scaling = rotary_scaling(rope, fields, rotary_dim)
    reach = positions
    if scaling and scaling.kind in ("dynamic", "yarn"):
        reach = max(positions, int(scaling.original_max_positions * scaling.factor))
    return {
        "rope_theta": rope.positive("rope_theta", above=1.0),
        "rotary_dim": rotary_dim,
        "rope_scaling": scaling,
        "max_positions": reach,
    }


def rotary_scaling(rope: Fields, fields: Fields, rotary_dim: int) -> RotaryScaling | None:
    """The scaling that `rope_parameters` (or one layer kind's part of it) asks for; None for none."""
    given = rope.word("rope_type" if "rope_type" in rope.values else "type", "default")
    fields.refuse(rotary_of_several_axes=rope.has("mrope_section"))
    if given == "default":
        return None
    if given not in _SCALINGS:
        raise UnsupportedError(f"rotary scaling {given!r} is not supported; supported: default, {', '.join(_SCALINGS)}")
    kind = _SCALINGS[given]
    positions = fields.count("max_position_embeddings")
    if kind in ("linear", "dynamic"):
        return RotaryScaling(kind, rope.positive("factor"), original_max_positions=positions)
    original = _trained_positions(rope, fields, positions)
    if kind == "llama3":
        low = rope.positive("low_freq_factor")
        high = rope.positive("high_freq_factor", above=low)
        return RotaryScaling(kind, rope.positive("factor"), low, high, original)
    if kind == "yarn":
        return _yarn(rope, positions, original)
    factor = rope.positive("factor", positions / original)
    fields.refuse(a_trained_context_of_1_token=original == 1)
    attention = rope.positive("attention_factor", longrope_attention_factor(factor, original))
    short, long = (rope.numbers(name, rotary_dim // 2) for name in ("short_factor", "long_factor"))
    return RotaryScaling(
        kind, factor, original_max_positions=original, attention_factor=attention, short_factors=short,
        long_factors=long,
    )  # fmt: skip


def _trained_positions(rope: Fields, fields: Fields, positions: int) -> int:
    """`original_max_position_embeddings`: the config's own counts before that of its rotary parameters."""
    name = "original_max_position_embeddings"
    for place in (fields, rope):
        if name in place.values:
            return place.count(name)
    return positions


def _yarn(rope: Fields, positions: int, original: int) -> RotaryScaling:
    factor = rope.positive("factor", positions / original if "factor" in rope.values else None)
    attention = yarn_attention_factor(factor, rope.optional("mscale"), rope.optional("mscale_all_dim"))
    return RotaryScaling(
        "yarn",
        factor,
        original_max_positions=original,
        attention_factor=rope.positive("attention_factor", attention),
        beta_fast=rope.positive("beta_fast", 32.0),
        beta_slow=rope.positive("beta_slow", 1.0),
        truncate=rope.flag("truncate", True),
    )
