"""One table an architecture: every kernel of a decode step, what it costs, and what it should take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from eet_demo.engine.dtypes import Real
from eet_demo.engine.executors.cuda.compile.cubins import Cubin
from eet_demo.engine.executors.cuda.compile.launch import Instance
from eet_demo.engine.executors.cuda.launchers.matrices import WeightFormat
from eet_demo.engine.spec import ModelSpec
from tools.gates import gates
from tools.gates.check import listing
from tools.gates.gpus import GPUS, H100, Gpu, resident
from tools.gates.paper import Launched, decode_launches
from tools.gates.predict import in_flight_bytes, predict

LENGTH = 128
"""Slots of a row in the tables."""

ENOUGH_IN_FLIGHT = 32 * 1024
"""Bytes a multiprocessor must have asked for to keep 3.0 TB/s coming: 16 KB by Little's law, and as much again for the
latency of a memory that is busy."""

ENOUGH_OF_CACHE = 24 * 1024
"""The same for decode attention, whose blocks wait for each other at the end."""

STEADY = 2 * ENOUGH_IN_FLIGHT
"""Bytes that a multiprocessor streams in a launch from which on it has a steady state; with less, latencies decide."""

JUDGED = H100
"""The GPU whose waves and bytes under way are rules; for others they are reported."""

Find = Callable[[Instance, str], Cubin]
"""The compiled instance for an architecture."""


@dataclass(frozen=True)
class Row:
    """One kernel of a step: `count` launches of it, each `blocks` on `resident` a multiprocessor, in `waves`."""

    expression: str
    count: int
    registers: int
    blocks: int
    resident: int
    waves: float
    in_flight_bytes: float
    share_bytes: float
    """Of weights or cache, a multiprocessor: what there is to have under way."""
    instructions_a_byte: float | None
    us: float

    def breaches(self) -> list[str]:
        """Sentences about a last wave that keeps few multiprocessors busy, and about too little under way."""
        found = []
        if 1 < self.waves < 4:
            found.append(f"{self.blocks} blocks are {self.waves:.2f} waves: at most 1, or at least 4")
        enough = ENOUGH_OF_CACHE if self.expression.startswith("attention_decode") else ENOUGH_IN_FLIGHT
        if self.share_bytes >= STEADY and self.in_flight_bytes < enough:
            found.append(
                f"{self.in_flight_bytes:,.0f} bytes under way a multiprocessor of the {self.share_bytes:,.0f} that it "
                f"streams; {enough:,} keep the memory busy"
            )
        return found


def rows_of(
    spec: ModelSpec, dtype: Real, weights: WeightFormat, rows: int, gpu: Gpu, find: Find, length: int = LENGTH
) -> list[Row]:
    """The kernels of a decode step of `rows` sequences, each once, in the order of their first launch."""
    launches = decode_launches(spec, dtype, weights, rows, length, gpu)
    kinds = [(launched.instance, launched.config, launched.weight_bytes) for launched in launches]
    first = dict(zip(reversed(kinds), reversed(launches), strict=True))
    return [_row(first[kind], count, length, gpu, find) for kind, count in Counter(kinds).items()]


def _row(launched: Launched, count: int, length: int, gpu: Gpu, find: Find) -> Row:
    cubin, config = find(launched.instance, gpu.arch), launched.config
    at_once = resident(cubin.usage, config.threads, config.shared_bytes, gpu.capability)
    streams = launched.instance.stem in gates.PROJECTIONS
    issued = gates.instructions_a_byte(listing(cubin)) if streams else None
    predicted = predict(launched, length, gpu, issued)
    return Row(
        launched.instance.expression, count, cubin.usage.registers, launched.blocks, at_once,
        launched.blocks / (gpu.processors * at_once), in_flight_bytes(launched, at_once, gpu),
        predicted.streamed_bytes / gpu.processors, issued, predicted.us,
    )  # fmt: skip


def table(title: str, rows: Sequence[Row], gpu: Gpu) -> str:
    """Text: a line a kernel, and the step's sum."""
    width = max(len(row.expression) for row in rows)
    lines = [f"{title} on {gpu.name} ({gpu.processors} x {gpu.arch})",
             f"{'':<{width}} count registers blocks  waves  in flight  instr/byte  predicted us"]  # fmt: skip
    for row in rows:
        issued = f"{row.instructions_a_byte:.3f}" if row.instructions_a_byte is not None else "-"
        flight = f"{row.in_flight_bytes / 1024:.1f} KiB" if row.in_flight_bytes else "-"
        lines.append(
            f"{row.expression:<{width}} {row.count:>5} {row.registers:>9} {row.blocks:>6} {row.waves:>6.2f} "
            f"{flight:>10} {issued:>11} {row.us:>13.2f}"
        )
    total = sum(row.count * row.us for row in rows)
    lines.append(f"{'a token':<{width}} {'':>5} {'':>9} {'':>6} {'':>6} {'':>10} {'':>11} {total:>13.1f}")
    return "\n".join(lines)


def gpus_of(arch: str) -> Iterator[Gpu]:
    return (gpu for gpu in GPUS if gpu.arch == arch)


def explain(cubin: Cubin, instance: Instance, arch: str) -> str:
    """The listing, each load with the parameter it reads, each loop marked, the wait and the trigger named."""
    function, known = listing(cubin), gates.parameters(instance.stem)
    loops = function.loops()
    lines = [f"{instance.expression} on {arch}: {len(function.code)} instructions"]
    words = {"ACQBULK": "waits for the kernel before", "PREEXIT": "lets the next kernel start", "BAR": "barrier"}
    for index, instruction in enumerate(function.code):
        depth = sum(index in loop for loop in loops)
        note = words.get(instruction.name, "")
        if instruction.is_load or instruction.name in ("STG", "RED", "ATOMG"):
            note = ", ".join(sorted(gates.pointers_behind(function, index, arch, known)))
        lines.append(f"{instruction.address:05x} {'| ' * depth}{instruction.text}{'   <- ' + note if note else ''}")
    return "\n".join(lines)
