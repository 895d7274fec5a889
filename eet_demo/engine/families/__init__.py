"""The families the engine runs: how the config of each becomes a spec, and what its weights are called."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from eet_demo.engine.families import baichuan, bloom, gemma, gpt2, gpt_neox, llama, opt, phi
from eet_demo.engine.families.defaults import DEFAULTS, settled
from eet_demo.engine.families.fields import Fields, refuse_common
from eet_demo.engine.families.names import BUFFERS, Names, head_part, named_weights
from eet_demo.engine.spec import ModelSpec
from eet_demo.engine.weights import Part, Weight
from eet_demo.errors import UnsupportedError

READERS: dict[str, Callable[[Fields], ModelSpec]] = {
    "baichuan": baichuan.baichuan,
    "bloom": bloom.bloom,
    "gemma2": gemma.gemma2,
    "gemma3_text": gemma.gemma3,
    "gpt2": gpt2.gpt2,
    "gpt_neox": gpt_neox.gpt_neox,
    "gptj": gpt_neox.gptj,
    "granite": llama.granite,
    "llama": llama.llama,
    "mistral": llama.mistral,
    "olmo2": llama.olmo2,
    "opt": opt.opt,
    "phi3": phi.phi3,
    "qwen2": llama.qwen2,
    "qwen3": llama.qwen3,
    "smollm3": llama.smollm3,
    "stablelm": gpt_neox.stablelm,
}
"""By `model_type`."""

NAMES: dict[str, Names] = {
    "baichuan": baichuan.BAICHUAN,
    "bloom": bloom.BLOOM,
    "gemma2": gemma.GEMMA,
    "gemma3_text": gemma.GEMMA,
    "gpt2": gpt2.GPT2,
    "gpt_neox": gpt_neox.GPT_NEOX,
    "gptj": gpt_neox.GPTJ,
    "granite": llama.LLAMA,
    "llama": llama.LLAMA,
    "mistral": llama.LLAMA,
    "olmo2": llama.OLMO2,
    "opt": opt.OPT,
    "phi3": phi.PHI3,
    "qwen3": llama.LLAMA,
    "smollm3": llama.LLAMA,
    "stablelm": gpt_neox.STABLELM,
}
"""By `ModelSpec.family`."""


def spec_from_config(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of a Hugging Face `config.json`; a field that it does not name has transformers' default.

    Raises:
        UnsupportedError: an architecture or a feature the engine lacks, by name; a field it needs that lacks.
        CheckpointError: a field of the wrong type.
    """
    fields = Fields(config, str(config.get("model_type", "missing")))
    refuse_common(fields)
    if fields.model_type not in READERS:
        raise UnsupportedError(
            f"model architecture {fields.model_type!r} is not supported; supported: {', '.join(READERS)}"
        )
    fields.refuse(
        layers_of_several_kinds=fields.has("layer_types") and "layer_types" not in DEFAULTS[fields.model_type]
    )
    settled_fields = Fields(settled(config, fields.model_type), fields.model_type)
    spec = READERS[fields.model_type](settled_fields)
    _refuse_what_any_class_reads(settled_fields, spec)
    return spec


def _refuse_what_any_class_reads(fields: Fields, spec: ModelSpec) -> None:
    """Fields that transformers' masks, caches and rotary ask a config for, also one whose class does not have them."""
    own = DEFAULTS[fields.model_type]
    cut = [name for name in ("sliding_window", "attention_chunk_size") if name not in own and fields.has(name)]
    if "layer_types" in own:
        cut = []
    fields.refuse(
        attention_to_later_tokens=not fields.values.get("is_causal", True),
        a_cache_that_forgets=any(fields.count(name) < spec.max_positions for name in cut),
        null_for_its_head_dim="head_dim" in fields.values.keys() - own.keys() and not fields.has("head_dim"),
    )
    if "rotary" in spec.positions and fields.has("head_dim"):
        fields.refuse(a_head_dim_other_than_hidden_size_over_heads=fields.count("head_dim") != spec.head_dim)


def weights_of(spec: ModelSpec) -> tuple[Weight, ...]:
    """Every weight of the model in the order it is loaded; a tied head has no weight of its own."""
    return tuple(named_weights(spec, _names(spec)))


def head_of(spec: ModelSpec) -> Part:
    """The head's tensor, which a model whose head is tied may have too."""
    return head_part(spec, _names(spec))


def stored_names(spec: ModelSpec, tensor: str) -> tuple[str, ...]:
    """What a checkpoint may call a tensor of `weights_of`: with and without the prefix of the family's base class."""
    return _names(spec).stored(tensor)


def unknown_tensors(spec: ModelSpec, tensors: Iterable[str]) -> list[str]:
    """Of a checkpoint's tensors that fill no weight, those that no version of transformers would leave there."""
    copies = stored_names(spec, head_of(spec).tensor) if spec.tied_head else ()
    return [tensor for tensor in tensors if not tensor.endswith(BUFFERS) and tensor not in copies]


def _names(spec: ModelSpec) -> Names:
    if spec.family == "stablelm" and spec.parallel_residual:
        return gpt_neox.STABLELM_PARALLEL
    return NAMES[spec.family]
