"""A GGUF's metadata: values in whatever width the file has them, and a refusal, by name, of what is not understood.

What each key means is llama.cpp's (src/llama-model.cpp, src/llama-vocab.cpp): a key that would change what the model
computes is used, or says nothing (its value is the neutral one), or the file is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from eet_demo.errors import CheckpointError, UnsupportedError

Lookup = Callable[..., Any]
"""`lookup(key, default)` of the file's metadata."""

USED = {
    "llama": (
        "block_count", "context_length", "embedding_length", "feed_forward_length", "vocab_size",
        "attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length",
        "attention.layer_norm_rms_epsilon", "rope.dimension_count", "rope.freq_base", "rope.scale_linear",
        "rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length",
        "rope.scaling.yarn_attn_factor", "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow",
    ),
    "gpt2": (
        "block_count", "context_length", "embedding_length", "feed_forward_length", "vocab_size",
        "attention.head_count", "attention.layer_norm_epsilon",
    ),
}  # fmt: skip
"""By architecture: keys, without it, that become a field of the config."""

SAYS_NOTHING = ("rope.scaling.finetuned", "tensor_data_layout")
"""How a model came to be, not what it computes."""

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,),
    "attention.scale": (0,),
    "attention.sliding_window": (0,),
    "attn_logit_softcapping": (0,),
    "embedding_scale": (0, 1),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "final_logit_softcapping": (0,),
    "logit_scale": (0, 1),
    "pooling_type": (0,),
    "residual_scale": (0, 1),
    "rope.scaling.alpha": (0,),
    "rope.scaling.attn_factor": (1,),
    "rope.scaling.yarn_ext_factor": (1,),
    "rope.scaling.yarn_log_multiplier": (0,),
    "use_parallel_residual": (False,),
}
"""Values with which a key asks for nothing; any other is refused."""

END_TOKENS = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")
"""`tokenizer.ggml.NAME_token_id` that end an answer, as llama.cpp counts them; the first is the tokenizer's own."""

TOKENIZER_KEYS = (
    "model", "pre", "tokens", "token_type", "token_type_count", "scores", "merges", "add_bos_token", "add_eos_token",
    "add_space_prefix",
    *(f"{name}_token_id" for name in (
        *END_TOKENS, "bos", "unknown", "padding", "seperator", "separator", "mask", "cls", "fim_pre", "fim_suf",
        "fim_mid", "prefix", "suffix", "middle",
    )),
)  # fmt: skip
"""Keys of `tokenizer.ggml` that are used, or name a token that no prompt here is written with."""

NO_TOKEN = (-1, 2**32 - 1)
"""The id that llama.cpp writes for none, signed and not."""


class Metadata:
    """The values of one file; a key of its architecture is asked for without the architecture's name.

    Every method raises CheckpointError for a value that is missing, or of the wrong type.
    """

    def __init__(self, values: Mapping[str, Any], file: str) -> None:
        self.values, self.file = values, file
        self.architecture = str(values.get("general.architecture", ""))

    def value(self, key: str, default: Any = None) -> Any:
        """A Lookup: any key, in full."""
        return self.values.get(key, default)

    def has(self, key: str) -> bool:
        return self._full(key) in self.values

    def count(self, key: str, default: int | None = None) -> int:
        """A whole number from 1; where the file has a list, one for each layer, all must agree.

        Raises:
            UnsupportedError: layers that differ.
        """
        value = self._alike(key, self._need(key, default))
        number = whole(value, self._full(key), self.file)
        if number < 1:
            raise wrong_value(self._full(key), value, "a number above 0", self.file)
        return number

    def number(self, key: str, default: float | None = None) -> float:
        """A number above 0."""
        value = self._alike(key, self._need(key, default))
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise wrong_value(self._full(key), value, "a number above 0", self.file)
        return float(value)

    def refuse_what_is_not_known(self) -> None:
        """Raises UnsupportedError naming the first key that is not understood, or asks for what is not supported."""
        for key, value in self.values.items():
            if not self._is_understood(key, value):
                said = str(value)[:40]
                why = "a mixture of experts" if "expert" in key else f"{key} = {said}"
                raise UnsupportedError(
                    f"{self.file} has {why}, which is not supported; {key} would have to be left out"
                )

    def _is_understood(self, key: str, value: Any) -> bool:
        if key.startswith(f"{self.architecture}."):
            name = key.removeprefix(f"{self.architecture}.")
            return name in (*USED[self.architecture], *SAYS_NOTHING) or value in NEUTRAL.get(name, ())
        if key.startswith("tokenizer.ggml."):
            return key.removeprefix("tokenizer.ggml.") in TOKENIZER_KEYS or not value
        known: Mapping[str, tuple[Any, ...]] = {
            "general.type": ("model",),
            "general.quantization_version": (2,),
            "split.count": (0, 1),
        }
        return key not in known or value in known[key]

    def _need(self, key: str, default: Any) -> Any:
        value = self.values.get(self._full(key), default)
        if value is None:
            raise CheckpointError(f"{self.file} lacks the metadata key {self._full(key)}")
        return value

    def _alike(self, key: str, value: Any) -> Any:
        if not isinstance(value, list) or not value:
            return value
        if any(each != value[0] for each in value):
            raise UnsupportedError(f"{self.file} has layers that differ ({self._full(key)} = {str(value)[:40]})")
        return value[0]

    def _full(self, key: str) -> str:
        return f"{self.architecture}.{key}"


def whole(value: Any, key: str, file: str) -> int:
    """An integer of any width, or a float without a fraction. Raises CheckpointError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value % 1:
        raise wrong_value(key, value, "a whole number", file)
    return int(value)


def flag(lookup: Lookup, key: str, default: bool, file: str) -> bool:
    """A bool, or the 0 or 1 that some writers have for it. Raises CheckpointError."""
    value = lookup(key, default)
    if not isinstance(value, bool | int) or value not in (0, 1):
        raise wrong_value(key, value, "true or false", file)
    return bool(value)


def token_id(lookup: Lookup, name: str, vocabulary: int, file: str) -> int | None:
    """The id in `tokenizer.ggml.NAME_token_id`; None where there is none. Raises CheckpointError."""
    key = f"tokenizer.ggml.{name}_token_id"
    value = lookup(key)
    if value is None or value in NO_TOKEN:
        return None
    index = whole(value, key, file)
    if not 0 <= index < vocabulary:
        raise wrong_value(key, value, f"an id of its vocabulary of {vocabulary}", file)
    return index


def end_ids(lookup: Lookup, vocabulary: int, file: str) -> list[int]:
    """Every id that ends an answer, the tokenizer's own first. Raises CheckpointError."""
    found = (token_id(lookup, name, vocabulary, file) for name in END_TOKENS)
    return list(dict.fromkeys(index for index in found if index is not None))


def wrong_value(key: str, value: Any, wanted: str, file: str) -> CheckpointError:
    return CheckpointError(f"{file}: {key} is {str(value)[:60]!r}, which is not {wanted}")
