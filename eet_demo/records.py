"""Frozen data that crosses layers. Units are in the names: `_ns`, `_ms`, `_bytes`, `_gb_s` (1e9 bytes a second)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

Schedule = Literal["in_turn", "together"]
Device = Literal["cpu", "cuda", "sim", "reference"]
SplitKv = Literal["off", "split", "stream"]


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn: greedy at temperature 0, else temperature, then top-k, then top-p.

    Args:
        temperature: 0 is greedy; logits are divided by it otherwise.
        top_k: keep the k highest logits (0 keeps all); ties go to the lower id.
        top_p: keep the smallest set of most probable tokens whose mass reaches p (1.0 keeps all).
        seed: key of the Philox generator, 0 <= seed < 2**64.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0


@dataclass(frozen=True)
class EngineOptions:
    """Named switches of the engine; each can be turned off so that its worth can be measured.

    Args:
        threads: CPU threads; None takes min(affinity, cgroup quota, the owner's setting).
        prefill_chunk: rows of one prefill pass; None takes the executor's own (cpu 256, cuda 2048).
        debug: guard bytes between buffers, NaN in unwritten memory, and every op's output checked for NaN and infinity.
        quantised_activations: cpu, weights not dense: activations are rounded to 8 bits a block of 32 too.
        packed_prefill: prompts of a batch share prefill passes; off, each prompt has passes of its own.
        shared_workspace: buffers that are never live at once share bytes of the workspace.
        graph: cuda and sim: a decode step is captured once in a CUDA graph and replayed.
        pdl: cuda: a kernel starts while its predecessor ends (programmatic dependent launch, sm_90 and later).
        prefetch: cuda and sim: a projection's first weights are loaded before it waits for its predecessor.
        split_kv: cuda and sim: decode attention over the cache in one block a head (`off`), in equal parts (`split`),
            or in equal runs of tiles over rows of all lengths (`stream`, LeanAttention, arXiv 2405.10480).
    """

    threads: int | None = None
    prefill_chunk: int | None = None
    debug: bool = False
    quantised_activations: bool = False
    packed_prefill: bool = True
    shared_workspace: bool = True
    graph: bool = True
    pdl: bool = True
    prefetch: bool = True
    split_kv: SplitKv = "split"


@dataclass(frozen=True)
class MemoryReport:
    """The plan's three regions, exact to the byte."""

    weights_bytes: int
    kv_cache_bytes: int
    workspace_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.kv_cache_bytes + self.workspace_bytes


@dataclass(frozen=True)
class RaceSettings:
    """What a visitor (or a command line) asked for; one record from the page to the trace.

    `context` counts the ids of the whole prompt, chat template included. `prompt` is a document id of
    `assets/texts/` or the visitor's own text after `text:`. `question` follows the document (may be empty).
    """

    model: str
    device: Device = "cpu"
    dtype: str = "float32"
    weights: str = "dense"
    context: int = 128
    new_tokens: int = 64
    batch: int = 1
    ragged: bool = False
    prompt: str = ""
    question: str = ""
    sides: tuple[str, ...] = ("stock", "engine")
    schedule: Schedule = "in_turn"
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    free_running: bool = False
    threads: int | None = None

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_k, self.top_p, self.seed)


@dataclass(frozen=True)
class SideConfig:
    """What a side really is, as shown on the page and written to the trace.

    `threads` are the CPU threads that compute, as the side's library counts them; None where nothing can tell.
    """

    side: str
    engine: str
    device: str
    dtype: str
    weights: str
    threads: int | None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Hardware:
    """The machine a figure was measured on."""

    cpu: str
    cores: int
    memory_bytes: int
    gpu: str | None = None
    gpu_memory_bytes: int | None = None
    driver: str | None = None


def as_json(record: Any) -> Any:
    """A record (nested ones too) as plain JSON types."""
    if hasattr(record, "__dataclass_fields__"):
        return {f.name: as_json(getattr(record, f.name)) for f in fields(record)}
    if isinstance(record, Mapping):
        return {str(key): as_json(value) for key, value in record.items()}
    if isinstance(record, list | tuple):
        return [as_json(value) for value in record]
    return record
