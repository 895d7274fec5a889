"""Stock Hugging Face: transformers' `generate`, untouched, under the fair-baseline contract.

The same weights, dtype, ids, number of tokens and threads as the engine; `torch.no_grad` and everything else as the
library has it. A `BaseStreamer` stamps each step and does nothing else in the timed thread. What a checkpoint ships in
`generation_config.json` beyond its special ids (a repetition penalty changes even greedy output) is left out, and every
sampling field is passed explicitly, so that both sides are asked for the same thing.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers.generation.streamers import BaseStreamer

from eet_demo.engine.shapes import config_of
from eet_demo.errors import CheckpointError, MemoryPlanError, RequestError, UnsupportedError
from eet_demo.records import SideConfig
from eet_demo.sides.side import Roofline, RunClock, RunRequest, SideOptions, Sink, StopRun
from eet_demo.sides.stock_cache import CacheLayer, cache_layers, dynamic_bytes

_TRANSFORMERS: Any = transformers  # its own annotations are partial

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

VARIANTS: Mapping[str, str | None] = {"stock": None, "stock-eager": "eager", "stock-static": None}
"""Side -> attention asked for; None is the library's default: SDPA, or eager where the architecture has no other.
`stock` has the default DynamicCache.

`stock-static` has a StaticCache, made once and reset before each run, as transformers' guide to compilation has it: its
addresses stay, so that neither `torch.compile` nor the CUDA graphs inside it begin anew with every `generate`, which on
a GPU compiles the decode step by itself. On a CPU nothing is compiled.
"""


class Stamper(BaseStreamer):
    """Stamps each step as its ids reach host memory; raises StopRun out of `generate` when the sink is stopped."""

    def __init__(self, sink: Sink, batch: int, stop_ids: Sequence[int]) -> None:
        self.steps = 0
        self._sink = sink
        self._stop_ids = frozenset(stop_ids)
        self._ended = [False] * batch
        self._prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        """`value`: the prompt (batch, length) once, then int64 (batch,) a step, on the CPU."""
        time_ns = time.perf_counter_ns()
        if not self._prompt_seen:
            self._prompt_seen = True
        else:
            self.steps += 1
            self._sink.tokens(time_ns, self._running(value.tolist()))
        if self._sink.stopped:
            raise StopRun

    def end(self) -> None:
        """Nothing is held back."""

    def _running(self, ids: list[int]) -> list[int | None]:
        """The step's ids; None for rows that have ended, which `generate` fills with pads."""
        if not self._stop_ids:
            return list(ids)
        step: list[int | None] = [None if ended else token_id for ended, token_id in zip(self._ended, ids, strict=True)]
        self._ended = [ended or token_id in self._stop_ids for ended, token_id in zip(self._ended, ids, strict=True)]
        return step


class BaselineSide:
    """One of the VARIANTS on one model folder."""

    def __init__(self, options: SideOptions) -> None:
        """Imports the model's architecture too, so that a bare process weighs what it will; reads config.json only.

        Raises:
            CheckpointError: a folder whose config transformers cannot read.
        """
        self._options = options
        import_architecture(options.model_path)
        self._model: Any = None
        self._stamper: Stamper | None = None
        self._static_cache: Any = None
        self._layers: tuple[CacheLayer, ...] = ()
        self._weights_bytes = 0
        self._prompt_slots = 0
        self._batch = 0

    def compile(self) -> None:
        """Nothing to do: `stock-static` on CUDA compiles in its warm-up, whose shapes are those of the timed runs."""

    def load(self) -> SideConfig:
        """Loads the model, on a GPU without a copy in host memory.

        Raises:
            CheckpointError: a folder that cannot be loaded whole.
            MemoryPlanError: the GPU has no room for it.
            UnsupportedError: a dtype or device that stock has not.
        """
        options = self._options
        if options.dtype not in DTYPES:
            raise UnsupportedError(f"{options.side} has no dtype {options.dtype!r}; it has {', '.join(DTYPES)}")
        if self._device == "cuda" and not torch.cuda.is_available():
            raise UnsupportedError(f"{options.side} needs a GPU that torch {torch.__version__} can use; it finds none")
        torch.set_num_threads(options.threads)
        self._model = self._load_model().to(self._device).eval()
        self._model.generation_config = special_ids_only(self._model.generation_config, self._model.config.vocab_size)
        if self._is_static:
            self._static_cache = self._new_static_cache()
        self._layers = self._probe()
        tensors = [*self._model.parameters(), *self._model.buffers()]
        self._weights_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        details = {
            "attention": self._model.config._attn_implementation,
            "cache": "StaticCache" if self._is_static else "DynamicCache",
            "compiled": self._is_static and self._device == "cuda" and bool(self._static_cache.is_compileable),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }
        engine = f"transformers {transformers.__version__} generate"
        return SideConfig(options.side, engine, self._device, options.dtype, "dense", torch.get_num_threads(), details)

    def run(self, request: RunRequest, sink: Sink) -> RunClock:
        arguments = self.generate_arguments(request)
        self._stamper = Stamper(sink, len(request.prompt_ids), request.stop_token_ids)
        self._batch, self._prompt_slots = arguments["inputs"].shape
        if not request.sampling.greedy:
            torch.manual_seed(request.sampling.seed)
        if self._device == "cuda":
            torch.cuda.synchronize()
        start_ns = time.perf_counter_ns()
        sink.started(start_ns)
        uploaded = {name: arguments[name].to(self._device) for name in ("inputs", "attention_mask")}
        self._model.generate(**arguments | uploaded, streamer=self._stamper)
        return RunClock(start_ns, time.perf_counter_ns())

    def generate_arguments(self, request: RunRequest) -> dict[str, Any]:
        """Everything `generate` is told but its streamer; rows are padded on the left and masked, still on the host."""
        inputs, mask = left_padded(request.prompt_ids, self._model.generation_config.pad_token_id)
        sampling = request.sampling
        arguments: dict[str, Any] = {
            "inputs": inputs,
            "attention_mask": mask,
            "max_new_tokens": request.new_tokens,
            "eos_token_id": list(request.stop_token_ids) or None,
            "do_sample": not sampling.greedy,
            "temperature": 1.0 if sampling.greedy else sampling.temperature,
            "top_k": 0 if sampling.greedy else sampling.top_k,
            "top_p": 1.0 if sampling.greedy else sampling.top_p,
            "repetition_penalty": 1.0,
            "num_beams": 1,
            "use_cache": True,
        }
        if self._is_static:
            arguments["past_key_values"] = self._empty_static_cache(len(request.prompt_ids))
        return arguments

    def memory_bytes(self) -> Mapping[str, int]:
        """Weights as stored once; the KV cache of the present or last run by its exact shape, pads included."""
        steps = self._stamper.steps if self._stamper is not None else 0
        if self._is_static:
            seen = self._prompt_slots + max(0, steps - 1)
            used, reserved = (
                sum(layer.bytes_of(slots) for layer in self._layers) for slots in (seen, self._options.max_context)
            )
        else:
            used, reserved = dynamic_bytes(self._layers, self._prompt_slots, steps)
        kinds = {
            "weights": self._weights_bytes,
            "kv_cache_used": self._batch * used,
            "kv_cache_reserved": self._batch * reserved,
        }
        if self._device == "cuda":
            kinds["allocated"] = torch.cuda.memory_allocated()
            kinds["allocator_slack"] = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return kinds

    def logits_at(self, token_ids: Sequence[int]) -> np.ndarray:
        inputs = torch.tensor([list(token_ids)], device=self._device)
        with torch.no_grad():
            logits = self._model(input_ids=inputs, use_cache=False, logits_to_keep=1).logits
        values: np.ndarray = logits[0, -1].float().cpu().numpy()
        return values

    def roofline(self, context: int, batch: int) -> Roofline:
        """Every weight once, but for embeddings that are only looked up; and the keys and values attended to."""
        head = self._model.get_output_embeddings().weight
        tables = [module.weight for module in self._model.modules() if isinstance(module, torch.nn.Embedding)]
        looked_up = sum(table.numel() * table.element_size() for table in tables if table is not head)
        cache = batch * sum(layer.bytes_of(context) for layer in self._layers)
        return Roofline(self._weights_bytes - looked_up + cache, None)

    def close(self) -> None:
        self._model = self._static_cache = None

    def _new_static_cache(self) -> Any:
        return _TRANSFORMERS.StaticCache(config=self._model.config, max_cache_len=self._options.max_context)

    def _empty_static_cache(self, batch: int) -> Any:
        """The one cache of this side, emptied; another only for another number of rows, which its tensors hold."""
        if self._batch not in (0, batch):
            self._static_cache = self._new_static_cache()
        self._static_cache.reset()
        return self._static_cache

    @property
    def _is_static(self) -> bool:
        return self._options.side == "stock-static"

    @property
    def _device(self) -> str:
        return "cuda" if self._options.device == "cuda" else "cpu"

    def _load_model(self) -> Any:
        folder = Path(self._options.model_path)
        attention = VARIANTS[self._options.side]
        shape = config_of(folder)
        if shape is not None:
            return self._random_model(shape, attention)
        try:
            model, report = _TRANSFORMERS.AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=DTYPES[self._options.dtype],
                attn_implementation=attention,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                # Straight to the GPU (accelerate does it): through host memory, the weights would be there once more.
                device_map={"": self._device} if self._device == "cuda" else None,
            )
        except torch.OutOfMemoryError as error:
            raise MemoryPlanError(f"transformers cannot load {folder}: {str(error).splitlines()[0]}") from None
        except Exception as error:  # a config can trip it over anything, AttributeError and ZeroDivisionError too
            raise CheckpointError(f"transformers cannot load {folder}: {error}") from error
        if report["missing_keys"]:
            # transformers would run on with random values in their place.
            missing = ", ".join(sorted(report["missing_keys"])[:3])
            raise CheckpointError(f"{folder} lacks {len(report['missing_keys'])} tensors, among them {missing}")
        return model

    def _random_model(self, shape: Mapping[str, Any], attention: str | None) -> Any:
        """The architecture with weights drawn by transformers itself, on the device from the start."""
        torch.manual_seed(0)
        with torch.device(self._device):
            return _TRANSFORMERS.AutoModelForCausalLM.from_config(
                _TRANSFORMERS.AutoConfig.for_model(**shape),
                dtype=DTYPES[self._options.dtype],
                attn_implementation=attention,
            )

    def _probe(self) -> tuple[CacheLayer, ...]:
        """What each layer caches of one token: asked of the model itself, whose layers may differ."""
        with torch.no_grad():
            output = self._model(input_ids=torch.zeros((1, 1), dtype=torch.long, device=self._device), use_cache=True)
        return cache_layers(output.past_key_values)


def import_architecture(model: str) -> None:
    """Imports the modelling module of the config class of a folder or a `shape:NAME`.

    Raises:
        CheckpointError: a config of no class, or one that its class refuses.
    """
    shape = config_of(model)
    configs = _TRANSFORMERS.AutoConfig
    try:
        if shape is not None:
            config = configs.for_model(**shape)
        else:
            config = configs.from_pretrained(model, local_files_only=True, trust_remote_code=False)
        importlib.import_module(type(config).__module__.replace(".configuration_", ".modeling_"))
    except Exception as error:  # its classes check what they are given, each in its own words
        raise CheckpointError(f"transformers cannot load {model}: {error}") from error


def special_ids_only(shipped: Any, vocab_size: int) -> Any:
    """A generation config with the shipped special ids and nothing else.

    A pad id that is missing or outside the vocabulary becomes an end id, or 0: pads are masked, but still embedded.
    """
    end_ids = shipped.eos_token_id if isinstance(shipped.eos_token_id, list) else [shipped.eos_token_id]
    choices = (shipped.pad_token_id, *end_ids)
    pad_id = next((token_id for token_id in choices if token_id is not None and token_id < vocab_size), 0)
    return _TRANSFORMERS.GenerationConfig(
        bos_token_id=shipped.bos_token_id, eos_token_id=shipped.eos_token_id, pad_token_id=pad_id
    )


def left_padded(prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """int64 (batch, longest): ids with pads before them, and the mask with 1 for real tokens."""
    if not prompts or not all(prompts):
        raise RequestError("every prompt needs at least one token id")
    longest = max(map(len, prompts))
    inputs = torch.tensor([[pad_id] * (longest - len(row)) + list(row) for row in prompts])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in prompts])
    return inputs, mask
