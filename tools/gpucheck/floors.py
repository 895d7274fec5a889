"""What the engine should reach on a GPU, and whether a check's records say that it does. Pure functions of the records.

Floors and targets were set for an H100, batch 1, float16, short context; on another GPU the ratios are still of
interest, the absolute figures are not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tools.gpucheck.catalogue import HEADLINES, LONG_CONTEXT, OTHERS, SHORT_CONTEXT

CONTEXT_MARGIN_BYTES = 96 << 20
"""What a process may take beyond its plan and an empty context."""

STOCK_SHARE = 0.25
"""Of what stock takes beside weights and cache."""

Records = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Verdict:
    """One line of the table.

    Args:
        value: None where a part that it needs has not been measured, or its figure is undefined.
        floor, target: what `value` must and what it should reach; None for none.
        at_most: smaller is better.
        unit: behind the number.
    """

    name: str
    value: float | None
    floor: float | None
    target: float | None = None
    at_most: bool = False
    unit: str = "x"

    @property
    def words(self) -> str:
        """`pass`, and how far; `fail` below the floor; `not measured`."""
        if self.value is None:
            return "not measured"
        if self.floor is not None and not self._reaches(self.floor):
            return "fail"
        if self.target is None:
            return "pass"
        if self._reaches(self.target):
            return "pass, target reached"
        return "pass, short of the target" if self.floor is not None else "short of the target"

    def _reaches(self, bound: float) -> bool:
        assert self.value is not None
        return self.value <= bound if self.at_most else self.value >= bound


def verdicts(records: Records) -> list[Verdict]:
    """Every line, measured or not."""
    results = {name: record["result"] for name, record in records.items() if record["status"] == "done"}
    return [
        *_decode(results), *_bandwidth(results), *_static(results),
        Verdict("GPT-3 125M, batch 4, prompt 512 of 1,024", _run_figure(results, "eet-table", "engine", "tpot_ms"), 0.6,
                0.35, at_most=True, unit=" ms/token"),
        Verdict("SmolLM2-135M, time a token at context 8,128 over 128", _long_context(results), 2.0, 1.6, at_most=True),
        *_prefill(results), *_memory(results), *_loading(results),
    ]  # fmt: skip


def _decode(results: Records) -> Iterator[Verdict]:
    bounds: Sequence[tuple[str, str, float, float, float]] = (
        ("GPT-2 small", "model-gpt2", 10, 18, 4300),
        ("SmolLM2-135M", "model-smollm2-135m", 10, 20, 2200),
    )
    for title, part, floor, target, tokens in bounds:
        yield Verdict(f"{title}, decode against stock", _speedup(results, part, "decode", "decode"), floor, target)
        rate = _run_figure(results, part, "engine", "decode_tok_s")
        yield Verdict(f"{title}, decode", rate, None, tokens, unit=" tok/s")


def _bandwidth(results: Records) -> Iterator[Verdict]:
    for title, part, floor, target in (
        ("Llama-3.2-1B shape", "model-llama-3.2-1b", 55.0, 75.0),
        ("Llama-2-7B shape", "model-llama-2-7b", 65.0, 80.0),
    ):
        share = spec_share(results, part)
        value = 100 * share if share is not None else None
        yield Verdict(f"{title}, share of spec bandwidth", value, floor, target, unit=" %")


def spec_share(results: Records, part: str) -> float | None:
    """Bytes that the engine's decode must move a second, over what the memory's clock and width allow."""
    nvml = (results.get("environment") or {}).get("nvml")
    roofline = _at(results, part, "decode", "roofline")
    tpot_ms = _run_figure(results, part, "engine", "tpot_ms")
    if not (nvml and roofline and tpot_ms):
        return None
    moved: int = roofline["bytes_per_token"] * _at(results, part, "decode", "settings")["batch"]
    spec_gb_s: float = nvml["spec_bandwidth_gb_s"]
    return moved / (tpot_ms * 1e-3) / (spec_gb_s * 1e9)


def _static(results: Records) -> Iterator[Verdict]:
    for shape, floor, target in zip(HEADLINES, (3.0, 3.0, 1.2, 1.0), (5.0, 5.0, 1.5, 1.15), strict=True):
        value = _speedup(results, f"static-{shape}", "decode", "decode")
        yield Verdict(f"{shape}, decode against stock-static, compiled", value, floor, target)


def _prefill(results: Records) -> Iterator[Verdict]:
    for shape in (*HEADLINES, *OTHERS):
        value = _speedup(results, f"model-{shape}", "prefill", "prefill")
        yield Verdict(f"{shape}, prefill of 1,024 tokens against stock", value, 1.0)
    for shape in HEADLINES:
        value = _speedup(results, f"model-{shape}", "ragged_prefill", "prefill")
        yield Verdict(f"{shape}, prefill of 8 ragged prompts against stock", value, 1.3)


def _long_context(results: Records) -> float | None:
    runs = [_at(results, "long-context", str(tokens), "runs") for tokens in (LONG_CONTEXT, SHORT_CONTEXT)]
    times = [found[0]["tpot_ms"] if found else None for found in runs]
    return times[0] / times[1] if times[0] and times[1] else None


def _memory(results: Records) -> Iterator[Verdict]:
    context = _at(results, "microbench", "context", "context_bytes")
    for shape in HEADLINES:
        engine, stock = (_memory_of(results, f"model-{shape}", side) for side in ("engine", "stock"))
        yield Verdict(f"{shape}, process beyond plan and an empty context", _beyond_plan(engine, context),
                      CONTEXT_MARGIN_BYTES / 2**20, at_most=True, unit=" MiB")  # fmt: skip
        yield Verdict(f"{shape}, memory beside weights and cache, over stock's", _beside(engine, stock, context),
                      STOCK_SHARE, at_most=True)  # fmt: skip


def _memory_of(results: Records, part: str, side: str) -> Mapping[str, int] | None:
    run = _run(results, part, side)
    return run["memory"] if run is not None and run["memory"].get("device_process_bytes") else None


def _beyond_plan(engine: Mapping[str, int] | None, context: int | None) -> float | None:
    if engine is None or context is None:
        return None
    plan = sum(engine[f"{kind}_bytes"] for kind in ("weights", "kv_cache_reserved", "workspace"))
    return (engine["device_process_bytes"] - plan - context) / 2**20


def _beside(engine: Mapping[str, int] | None, stock: Mapping[str, int] | None, context: int | None) -> float | None:
    """Of both: the process's peak, less an empty context, weights and cache."""
    if engine is None or stock is None or context is None:
        return None
    rest = [
        side["device_process_bytes"] - context - side["weights_bytes"] - side["kv_cache_reserved_bytes"]
        for side in (engine, stock)
    ]
    return rest[0] / rest[1] if rest[1] > 0 else None


def _loading(results: Records) -> Iterator[Verdict]:
    for name, title, floor in (("cold", "with a cold kernel cache", 8.0), ("warm", "with a warm kernel cache", 1.0)):
        value = _at(results, "loading", name, "first_token_s")
        yield Verdict(f"SmolLM2-135M, first token {title}", value, floor, at_most=True, unit=" s")
    counts = _at(results, "loading", "warm", "allocations_in_second_run")
    value = float(sum(counts.values())) if counts else None
    yield Verdict("SmolLM2-135M, allocations after load", value, 0.0, at_most=True, unit="")


def _speedup(results: Records, part: str, bench: str, figure: str) -> float | None:
    found: float | None = _at(results, part, bench, "speedup", figure)
    return found


def _run(results: Records, part: str, side: str) -> Mapping[str, Any] | None:
    runs = _at(results, part, "decode", "runs") or ()
    return next((run for run in runs if run["side"] == side), None)


def _run_figure(results: Records, part: str, side: str, figure: str) -> float | None:
    run = _run(results, part, side)
    return run[figure] if run is not None else None


def _at(results: Records, *path: str) -> Any:
    """The value under the names of `path`; None as soon as one is missing."""
    value: Any = results
    for name in path:
        value = value.get(name) if value is not None else None
    return value
