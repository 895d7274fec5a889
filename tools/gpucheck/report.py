"""The report of a check: one JSON of every part's record, and the same in words as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tools.gpucheck.floors import Verdict, verdicts

Records = Mapping[str, Mapping[str, Any]]


def as_json(records: Records, pending: Sequence[str]) -> dict[str, Any]:
    """The whole check. `pending` names the parts that have not been run."""
    lines = [
        {"name": line.name, "value": line.value, "floor": line.floor, "target": line.target, "at_most": line.at_most,
         "unit": line.unit.strip(), "verdict": line.words}
        for line in verdicts(records)
    ]  # fmt: skip
    return {"format": "eet-gpucheck", "version": 1, "parts": dict(records), "pending": list(pending), "verdicts": lines}


def markdown(records: Records, pending: Sequence[str]) -> str:
    """Hardware, software, floors and targets, every bench, switches, microbenchmarks, tests, and what is missing."""
    results = {name: record["result"] for name, record in records.items() if record["status"] == "done"}
    sections = [
        ["# GPU check", *_hardware(results.get("environment"))],
        ["## Floors and targets", *_verdict_table(verdicts(records))],
        ["## Benches", *_bench_table(results)],
        ["## Precisions against float32 dense", *_precision_table(results.get("precision"))],
        ["## Switches", *_switch_table(results)],
        ["## Microbenchmarks", *_micro(results.get("microbench"))],
        ["## Tests", *_tests(results.get("tests"), results.get("sanitizer"))],
        ["## Not measured", *_missing(records, pending)],
    ]
    return "\n\n".join("\n".join(lines) for lines in sections) + "\n"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table; a line that says so when it has no rows."""
    if not rows:
        return ["", "Nothing measured."]
    ruler = "| " + " | ".join("---" for _ in header) + " |"
    return ["", f"| {' | '.join(header)} |", ruler, *(f"| {' | '.join(row)} |" for row in rows)]


def number(value: float | None, digits: int = 2) -> str:
    """A dash for what is undefined."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}f}"


def _hardware(found: Mapping[str, Any] | None) -> Iterator[str]:
    if found is None:
        yield from ("", "The environment was not read.")
        return
    hardware, nvml, cuda, smi = (found[name] or {} for name in ("hardware", "nvml", "cuda", "nvidia_smi"))
    yield ""
    yield f"- GPU: {cuda.get('name') or hardware['gpu'] or 'none found'}, driver {hardware['driver'] or 'unknown'}"
    if "error" in cuda:
        yield f"- torch and CuPy find no device: {cuda['error'].splitlines()[0]}"
    elif cuda:
        yield f"- compute capability {cuda['compute_capability']}, {cuda['multiprocessors']} multiprocessors"
    if nvml:
        yield f"- spec bandwidth {nvml['spec_bandwidth_gb_s']:.0f} GB/s ({nvml['memory_bus_bits']} bit, " \
              f"{nvml['max_memory_clock_mhz']} MHz, two transfers a clock)"  # fmt: skip
    if smi:
        yield f"- clocks when read: SM {smi['clocks.sm']} of {smi['clocks.max.sm']}, memory {smi['clocks.mem']}; " \
              f"power limit {smi['power.limit']}"  # fmt: skip
    yield f"- host: {hardware['cpu']}, {hardware['cores']} cores, {hardware['memory_bytes'] / 2**30:.0f} GiB"
    yield "- software: " + ", ".join(f"{name} {version}" for name, version in sorted(found["software"].items()))
    yield f"- dtype {found['settings']['dtype']}, medians of {found['settings']['repeats']} runs"


def _verdict_table(lines: Sequence[Verdict]) -> list[str]:
    rows = []
    for line in lines:
        sign = "at most " if line.at_most else ""
        bounds = [
            f"{sign}{number(bound)}{line.unit}" if bound is not None else "-" for bound in (line.floor, line.target)
        ]
        value = f"{number(line.value)}{line.unit}" if line.value is not None else "-"
        rows.append([line.name, value, *bounds, line.words])
    return table(("what", "measured", "floor", "target", "verdict"), rows)


def _bench_table(results: Mapping[str, Any]) -> list[str]:
    rows = []
    for part, name, bench in benches_of(results):
        asked = bench["settings"]
        work = f"{asked['context']} + {asked['new_tokens']}" + (f" x {asked['batch']}" if asked["batch"] > 1 else "")
        for run in bench["runs"]:
            peak = run["memory"].get("device_process_bytes")
            figures = (run["ttft_ms"], run["tpot_ms"], run["prefill_tok_s"], run["decode_tok_s"])
            mib = number(peak / 2**20, 0) if peak else "-"
            rows.append([f"{part} {name}", work, run["side"], *map(number, figures), mib])
    header = ("part", "tokens", "side", "TTFT ms", "ms/token", "prefill tok/s", "decode tok/s", "GPU MiB")
    return table(header, rows)


def benches_of(results: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(part, name, bench) of every bench among the results."""
    for part, result in results.items():
        for name, value in result.items():
            if isinstance(value, Mapping) and "runs" in value and "speedup" in value:
                yield part, name, value


def _precision_table(found: Mapping[str, Any] | None) -> list[str]:
    rows = [
        [name, f"{case['logit_error_max']:.2e}", f"{case['logit_error_rms']:.2e}", f"{case['kl_mean']:.2e}",
         f"{100 * case['top1_agreement']:.2f} %"]
        for name, case in (found or {}).items()
    ]  # fmt: skip
    header = ("model and precision", "largest logit error", "rms", "KL divergence", "same most likely token")
    return table(header, rows)


def _switch_table(results: Mapping[str, Any]) -> list[str]:
    rows = [
        [part.removeprefix("switches-"), switch, number(ratio)]
        for part, result in results.items()
        if part.startswith("switches-")
        for switch, ratio in result["slower_by"].items()
    ]
    return table(("model", "switch", "time over the plain engine's"), rows)


def _micro(found: Mapping[str, Any] | None) -> Iterator[str]:
    if found is None:
        yield from ("", "Not measured.")
        return
    plain = [
        [f"{name} {figure.replace('_', ' ')}", number(value)]
        for name in ("launch", "graph", "barrier", "copy")
        for figure, value in found[name].items()
        if not isinstance(value, str)
    ]
    context = [
        [f"memory: {name.replace('_', ' ').removesuffix(' bytes')}", f"{value / 2**20:.0f} MiB"]
        for name, value in found["context"].items()
        if not isinstance(value, str)
    ]
    yield from table(("figure", "measured"), plain + context)
    streams = [
        [name, f"{case['n']} x {case['k']}", number(case["us"]), number(case["gb_s"])]
        for name, case in found["gemv"].items()
        if isinstance(case, Mapping)
    ]
    yield from table(("projection", "rows x columns", "us", "GB/s"), streams)
    for name, figures in found.items():
        if "error" in figures:
            yield from ("", f"{name} failed: {figures['error'].splitlines()[0]}")


def _tests(tests: Mapping[str, Any] | None, sanitizer: Mapping[str, Any] | None) -> Iterator[str]:
    yield ""
    if tests is None:
        yield "- GPU tests: not run"
    else:
        yield "- GPU tests: " + ", ".join(f"{count} {word}" for word, count in tests["counts"].items())
        yield from (f"  - {name}" for name in tests["failures"])
    if sanitizer is None:
        yield "- compute-sanitizer: not run"
    else:
        for tool, found in sanitizer["tools"].items():
            yield f"- compute-sanitizer {tool}: {found['errors']} errors in {len(sanitizer['tests'])} tests"


def _missing(records: Records, pending: Sequence[str]) -> Iterator[str]:
    yield ""
    failed = {name: record for name, record in records.items() if record["status"] == "failed"}
    if not failed and not pending:
        yield "Every part was measured."
    for name, record in failed.items():
        yield f"- {name} failed: {record['error'].splitlines()[0]}"
    if pending:
        yield f"- not run yet: {', '.join(pending)}; run the same command again"
