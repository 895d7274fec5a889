"""Frozen data that crosses layers. Units are in the names: `_ns`, `_ms`, `_bytes`, `_gb_s` (1e9 bytes a second)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from eet_demo.declared import declared

Schedule = Literal["in_turn", "together"]
Device = Literal["cpu", "cuda", "sim", "reference"]
TokensPerGraph = Literal[1, 4, 8]
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
        ragged_prefill: prompts of a batch share prefill passes; off, each prompt has passes of its own.
        shared_workspace: buffers that are never live at once share bytes of the workspace.
        graph: cuda and sim: a decode step is captured once in a CUDA graph and replayed.
        pdl: cuda: a kernel starts while its predecessor ends (programmatic dependent launch, sm_90 and later).
        prefetch: cuda and sim: a projection's first weights are loaded before it waits for its predecessor.
        tokens_per_graph: cuda and sim: decode steps captured in one graph, launched together where as many are left.
        split_kv: cuda and sim: decode attention over the cache in one block a head (`off`), in equal parts (`split`),
            or in equal runs of tiles over rows of all lengths (`stream`, LeanAttention, arXiv 2405.10480).
    """

    threads: int | None = None
    prefill_chunk: int | None = None
    debug: bool = False
    quantised_activations: bool = False
    ragged_prefill: bool = True
    shared_workspace: bool = True
    graph: bool = True
    pdl: bool = True
    prefetch: bool = True
    tokens_per_graph: TokensPerGraph = 4
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

    A setting is declared here and nowhere else: page, command line, `/race`, trace and README follow.
    """

    model: str = field(
        metadata=declared("A model of the catalogue; also a folder, a .gguf file or a Hub id.", in_every_trace=True)
    )
    context: int = field(
        default=128,
        metadata=declared(
            "Ids of the whole prompt, chat template included.",
            label="Context, tokens",
            place="deck",
            slider=(32, 1),
            least=1,
            in_every_trace=True,
        ),
    )
    new_tokens: int = field(
        default=64,
        metadata=declared(
            "Tokens that each side writes in each row.",
            label="New tokens",
            place="deck",
            slider=(1, 1),
            least=1,
            in_every_trace=True,
        ),
    )
    batch: int = field(
        default=1,
        metadata=declared(
            "Rows: prompts at once.",
            label="Batch",
            info="Prompts at once.",
            place="work",
            slider=(1, 1),
            least=1,
            in_every_trace=True,
        ),
    )
    ragged: bool = field(
        default=False,
        metadata=declared(
            "Rows of different lengths.",
            label="Ragged rows",
            info="Prompts of different lengths in one batch.",
            place="work",
        ),
    )
    dtype: str = field(
        default="float32",
        metadata=declared(
            "What both sides compute in.", label="Precision, both sides", place="work", in_every_trace=True
        ),
    )
    weights: str = field(
        default="dense",
        metadata=declared(
            "How the engine stores its weights: dense, q8_0, or packed as a GGUF has them; stock's are dense.",
            label="Engine's weights",
            place="work",
            in_every_trace=True,
        ),
    )
    sides: tuple[str, ...] = field(
        default=("stock", "engine"),
        metadata=declared(
            "Separated by commas: stock, stock-eager, stock-static, engine, engine:OPTION=VALUE.",
            label="Stock variant",
            place="work",
            in_every_trace=True,
        ),
    )
    schedule: Schedule = field(
        default="in_turn",
        metadata=declared(
            "Each alone, or both at once sharing the machine.",
            label="Schedule",
            place="rules",
            words={"in_turn": "In turn, each alone", "together": "Together"},
            in_every_trace=True,
        ),
    )
    free_running: bool = field(
        default=False,
        metadata=declared(
            "Stop at the end of the answer; compares seconds.",
            label="Stop at the end of text",
            info="Compares seconds, not equal work.",
            place="rules",
        ),
    )
    prompt: str = field(
        default="",
        metadata=declared(
            "A document's id, or text: and your own words; empty takes the first document.",
            label="Document",
            limit="text_characters",
        ),
    )
    question: str = field(
        default="",
        metadata=declared(
            "Asked after the document; may be empty.", label="Question, pick or write", limit="text_characters"
        ),
    )
    temperature: float = field(
        default=0.0,
        metadata=declared(
            "0 is greedy; else logits are divided by it.",
            label="Temperature",
            info="0 is greedy.",
            place="rules",
            slider=(0, 0.05),
            least=0.01,
            or_zero=True,
            most=100,
        ),
    )
    top_k: int = field(
        default=0,
        metadata=declared(
            "Draw among the k most likely tokens; 0 keeps all.",
            label="Top-k",
            info="0 keeps all.",
            place="rules",
            least=0,
            most=2**31 - 1,
        ),
    )
    top_p: float = field(
        default=1.0,
        metadata=declared(
            "Draw among the most likely tokens whose mass reaches p; 1 keeps all.",
            label="Top-p",
            place="rules",
            slider=(0.01, 0.01),
            least=0,
            open_below=True,
            most=1,
        ),
    )
    seed: int = field(
        default=0,
        metadata=declared("Of the sampler.", label="Seed", place="rules", least=0, most=2**64 - 1),
    )
    device: Device = field(
        default="cpu", metadata=declared("Where the engine runs.", visitors=False, in_every_trace=True)
    )
    threads: int | None = field(
        default=None,
        metadata=declared(
            "CPU threads of every side; all that may be used by default.", least=1, most=4096, visitors=False
        ),
    )

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
