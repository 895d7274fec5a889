"""A config without `sliding_window` (mistral) or soft caps (gemma2): absent, null and given are three things."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
from transformers import AutoConfig, PreTrainedConfig

from eet_demo.engine.families import READERS, spec_from_config
from eet_demo.engine.families.defaults import DEFAULTS
from eet_demo.engine.spec import ModelSpec
from eet_demo.errors import EetError
from tests.reports.both import TINY, WIDE

KINDS = [kind for kind in READERS if kind != "baichuan"]  # transformers has no class of it
WITHOUT_EFFECT = {
    "attention_dropout", "attn_pdrop", "bos_token_id", "classifier_dropout", "dropout", "embd_pdrop", "eos_token_id",
    "hidden_dropout", "init_std", "initializer_range", "is_decoder", "layerdrop", "pad_token_id", "pretraining_tp",
    "resid_pdrop", "slow_but_exact", "summary_activation", "summary_first_dropout", "summary_proj_to_labels",
    "summary_type", "summary_use_proj", "use_cache",
}  # fmt: skip
"""On logits, of a model that is not trained."""

ROPES: list[Any] = [
    {"rope_type": "linear", "factor": 4.0},
    {"type": "linear", "factor": 4.0},
    {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0},
    {"rope_type": "dynamic", "factor": 2.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    {"rope_type": "yarn", "factor": None},
    {"rope_type": "yarn"},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    {"rope_type": "default", "rope_theta": 700.0},
    {"rope_theta": 700.0, "partial_rotary_factor": 0.5},
    {"rope_type": "su", "short_factor": [1.5] * 4, "long_factor": [3.0] * 4},
    {"rope_type": "longrope", "short_factor": [1.5] * 4, "long_factor": [3.0] * 4},
    {"full_attention": {"rope_type": "linear", "factor": 2.0}, "sliding_attention": {"rope_theta": 300.0}},
    {},
    None,
]
OTHERS: dict[str, list[Any]] = {
    "rope_scaling": ROPES,
    "rope_parameters": ROPES,
    "rope_theta": [500.0, 77, None],
    "rope_local_base_freq": [500.0, None],
    "rotary_emb_base": [500.0, None],
    "rotary_pct": [1.0, None],
    "partial_rotary_factor": [0.5, 1.0, None],
    "original_max_position_embeddings": [16, None],
    "layer_types": [["sliding_attention", "full_attention"], ["attention", "attention"], ["full_attention"], []],
    "sliding_window_pattern": [1, 2, None],
    "_sliding_window_pattern": [1],
    "no_rope_layers": [[1, 0], [0, 0], [], [1]],
    "n_embed": [32, None],
    "head_dim": [16, None],
    "num_hidden_layers": [3, None],
    "num_attention_heads": [1, None],
    "hidden_size": [32, None],
    "max_position_embeddings": [64, None],
    "use_bidirectional_attention": [True, False],
}
"""Values beside null and an invented one, and fields that are none of the class's own."""


def fields_of(kind: str) -> dict[str, Any]:
    """Field -> default of transformers' class, without those that every class has."""
    own: Any = type(AutoConfig.for_model(kind))
    common = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    fields = {field.name: field.default for field in dataclasses.fields(own) if field.name not in common}
    return {name: value for name, value in fields.items() if name not in WITHOUT_EFFECT}


@pytest.mark.parametrize("kind", KINDS)
def test_table_of_defaults_is_that_of_the_classes(kind: str) -> None:
    assert DEFAULTS[kind] == fields_of(kind)


def another(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return "relu"
    return value * 2 if isinstance(value, int | float) else 8


NOT_TRIED = {
    "gemma3_text": {"final_logit_softcapping": 8},  # it takes no whole number there
}
ROTATED = {"rope_scaling", "rope_parameters", "rope_theta", "partial_rotary_factor"}


def cases(kind: str) -> Iterator[dict[str, Any]]:
    """Every field alone: absent, null, another value; of rotary parameters, beside each other too."""
    whole = {"model_type": kind} | TINY[kind]
    defaults = fields_of(kind)
    rotated = "rope_parameters" in defaults
    yield {"model_type": kind}
    for name in {**defaults, **OTHERS}.keys() - (set() if rotated else ROTATED):
        yield {key: value for key, value in whole.items() if key != name}
        settled = whole.get(name, defaults.get(name))
        for value in OTHERS.get(name, [None, another(settled)]):
            if NOT_TRIED.get(kind) != {name: value}:
                yield whole | {name: value}
    for rope in ROPES if rotated else []:
        for beside in ({"rope_theta": 900.0}, {"original_max_position_embeddings": 8}, {"rope_parameters": ROPES[0]}):
            yield whole | {"rope_scaling": rope} | beside
    for windows in ({"sliding_window": 5}, {"sliding_window": None}, {}):
        for used in ({"use_sliding_window": True}, {"use_sliding_window": False}):
            for rest in ({}, {"max_window_layers": 1}, {"layer_types": ["full_attention", "sliding_attention"]}):
                yield whole | windows | used | rest


def spec_or_words(config: dict[str, Any]) -> ModelSpec | str:
    try:
        return spec_from_config(config)
    except EetError as error:
        return str(error)


@pytest.mark.parametrize("kind", KINDS)
def test_a_config_means_what_transformers_makes_of_it(kind: str) -> None:
    """The spec of what is written is the spec of what transformers fills in, or there is none and it says why."""
    faults = []
    for config in cases(kind):
        ours = spec_or_words(config)
        try:
            filled = AutoConfig.for_model(**copy.deepcopy(config)).to_dict()  # it writes into what it is given
        except Exception as error:
            # "su" is longrope's first name, in Phi-3's early configs, which run here
            if not isinstance(ours, str) and "'su'" not in str(config):
                faults.append(f"transformers refuses {changes(kind, config)}: {str(error)[:90]!r}")
            continue
        theirs = spec_or_words(filled)
        if ours != theirs and not isinstance(ours, str):
            faults.append(f"{changes(kind, config)}: {difference(ours, theirs)}")
    assert not faults, "\n".join(faults)


def changes(kind: str, config: dict[str, Any]) -> str:
    dropped = [f"-{name}" for name in TINY[kind] if name not in config]
    missing = object()
    return f"{dropped} { {n: v for n, v in config.items() if TINY[kind].get(n, missing) != v} }"


def difference(ours: ModelSpec, theirs: ModelSpec | str) -> str:
    if isinstance(theirs, str):
        return theirs
    return str({n: (v, getattr(theirs, n)) for n, v in vars(ours).items() if getattr(theirs, n) != v})


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2", "mistral"])
def test_a_config_of_sizes_alone(kind: str) -> None:
    assert not isinstance(spec_or_words({"model_type": kind} | WIDE), str)
