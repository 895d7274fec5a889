"""`bench`: the sides one after the other, each alone, in an order that alternates; medians, and the raw samples."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eet_demo.errors import EetError, UnsupportedError
from eet_demo.race import parity
from eet_demo.race.fits import decide
from eet_demo.race.inputs import RaceModel, prompt_ids
from eet_demo.race.job import LaneJob, StopSign
from eet_demo.race.lane import Lane
from eet_demo.race.resources import RaceResources
from eet_demo.race.schedule import at_once
from eet_demo.race.setup import new_record, side_options, thread_notes
from eet_demo.records import RaceSettings, as_json
from eet_demo.results.metrics import FIGURES, Metrics, median, peaks, side_metrics, speedup
from eet_demo.results.software import software_versions
from eet_demo.sides.pairing import compared_pair
from eet_demo.sides.side import RunRequest

MOST_SIDES = 8
TICK_S = 0.05
ABANDON_S = 1.0

Report = Callable[[str], None]


@dataclass(frozen=True)
class Sample:
    """One timed run of one side."""

    repeat: int
    metrics: Metrics
    record: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        columns = {name: self.record["tokens"][name] for name in ("row", "time_ns", "id")}
        return {"repeat": self.repeat, **self.metrics, "tokens": columns, "phases": self.record["phases"]}


class Bench:
    """One benchmark; `run` returns what `bench --json` writes."""

    def __init__(
        self,
        settings: RaceSettings,
        repeats: int,
        folder: Path,
        resources: RaceResources,
        keep_workers: bool = False,
    ) -> None:
        """Raises EetError for a request that cannot be run, before anything is started.

        Args:
            folder: the model's.
            keep_workers: leaves the pool as it finds it, for a measurement between races.
        """
        resources.check(settings, MOST_SIDES)
        self._settings, self._repeats, self._resources = settings, repeats, resources
        self._model: RaceModel = resources.model(folder)
        prompts = prompt_ids(settings, self._model)
        stop_ids = self._model.end_ids if settings.free_running else ()
        rows = tuple(tuple(row) for row in prompts)
        self._request = RunRequest(rows, settings.new_tokens, settings.sampling, stop_ids)
        self._keep_workers = keep_workers
        self._stop = StopSign()
        self._notes = self._model.notes + thread_notes(settings, resources.threads)
        self._lanes = self._build_lanes()
        self._samples: list[list[Sample]] = [[] for _ in self._lanes]

    def run(self, report: Report) -> dict[str, Any]:
        """Measures, telling `report` one line at a time.

        Raises:
            EetError: a side failed, or `stop` was called; a benchmark with a hole in it is none.
        """
        with self._resources.turn:
            found_there = [lane for lane in self._lanes if self._resources.pool.has(lane.options)]
            steps = self._measure(report)
            try:
                while True:
                    next(steps)
                    time.sleep(TICK_S)
            except StopIteration as end:
                result: dict[str, Any] = end.value
                return result
            finally:
                self._release(found_there)

    def stop(self) -> None:
        """Ends the run early, from any thread; `run` raises."""
        self._stop.set()

    def _release(self, found_there: list[Lane]) -> None:
        deadline_s = time.perf_counter() + ABANDON_S
        for lane in self._lanes:
            lane.ask_to_stop()
        for lane in self._lanes:
            lane.abandon(deadline_s)
            if self._keep_workers and lane not in found_there:
                lane.unload()

    def _measure(self, report: Report) -> Generator[None, None, dict[str, Any]]:
        if not self._keep_workers:
            self._resources.pool.retain([lane.options for lane in self._lanes])
        yield from at_once(lane.start_process() for lane in self._lanes)
        residency = decide(self._lanes, self._resources.available_on(self._settings.device))
        self._notes += residency.notes
        for error in residency.refused.values():
            raise error
        for repeat in range(self._repeats):
            for lane in self._lanes if repeat % 2 == 0 else self._lanes[::-1]:
                if not residency.resident:
                    for other in self._lanes:
                        if other is not lane:
                            other.unload()
                yield from self._measure_one(lane, repeat, report)
        rows = yield from self._parity()
        roofline = yield from self._roofline()
        return self._result(rows, roofline)

    def _measure_one(self, lane: Lane, repeat: int, report: Report) -> Generator[None, None, None]:
        lane.renew(new_record(lane.options.side, self._request, self._model))
        yield from lane.prepare()
        yield from lane.race()
        if lane.over:
            raise lane.error or EetError("the benchmark was stopped")
        record = lane.record.as_json()
        metrics = side_metrics(record["tokens"], [len(row) for row in self._request.prompt_ids])
        self._samples[lane.index].append(Sample(repeat, metrics, record))
        report(f"{repeat + 1}/{self._repeats} {lane.options.side}: {_words(metrics)}")

    def _parity(self) -> Generator[None, None, list[dict[str, Any]] | None]:
        """Of the last repeat: deterministic sides write the same in every one."""
        sides = self._settings.sides
        pair = compared_pair(sides)
        if pair is None or not self._request.sampling.greedy:
            return None
        if not self._model.same_weights(sides[pair[0]], sides[pair[1]]):
            return None
        return (
            yield from parity.compare_lanes(
                self._lanes[pair[0]], self._lanes[pair[1]], self._request, self._stop, self._notes
            )
        )

    def _roofline(self) -> Generator[None, None, dict[str, Any] | None]:
        """Of a step in the middle of the decode, by the bandwidth that the compared side's own threads reach.

        Where that one cannot measure it, the last side that can; None where nobody can.
        """
        context = self._settings.context + self._settings.new_tokens // 2
        batch = self._settings.batch
        answers: dict[int, dict[str, Any]] = {}
        for lane in self._lanes:
            try:
                answers[lane.index] = yield from lane.ask_roofline(context, batch)
            except UnsupportedError:
                continue
        pair = compared_pair(self._settings.sides)
        order = [*reversed(range(len(self._lanes)))] if pair is None else [pair[1], *reversed(range(len(self._lanes)))]
        measured = next((answers[i] for i in order if i in answers and answers[i]["bandwidth_gb_s"]), None)
        if measured is None:
            return None
        bandwidth = measured["bandwidth_gb_s"]
        mbu = {
            run["side"]: _utilisation(answers.get(index, {}).get("bytes_per_step"), run["tpot_ms"], bandwidth)
            for index, run in enumerate(self._runs())
        }
        bytes_per_token = measured["bytes_per_step"] // batch
        return {"bandwidth_gb_s": bandwidth, "bytes_per_token": bytes_per_token, "context": context, "mbu": mbu}

    def _runs(self) -> list[dict[str, Any]]:
        """One entry a side: the median of every figure over the repeats, the largest of every kind of memory."""
        runs: list[dict[str, Any]] = []
        for lane, samples in zip(self._lanes, self._samples, strict=True):
            medians = {name: median([sample.metrics[name] for sample in samples]) for name in FIGURES}
            memory: dict[str, int] = {"process_base_bytes": lane.base_bytes or 0}
            for sample in samples:
                for name, value in peaks(sample.record["memory"]).items():
                    memory[name] = max(value, memory.get(name, 0))
            config = samples[0].record["config"]
            raw = [sample.as_json() for sample in samples]
            runs.append({"side": lane.options.side, "config": config, **medians, "memory": memory, "samples": raw})
        return runs

    def _result(self, rows: list[dict[str, Any]] | None, roofline: dict[str, Any] | None) -> dict[str, Any]:
        runs = self._runs()
        pair = compared_pair(self._settings.sides)
        return {
            "runs": runs,
            "speedup": speedup(runs[pair[0]], runs[pair[1]]) if pair is not None else None,
            "parity": rows,
            "roofline": roofline,
            "hardware": as_json(self._resources.hardware),
            "software": software_versions(),
            "settings": as_json(self._settings) | {"repeats": self._repeats},
            "notes": self._notes,
        }

    def _build_lanes(self) -> list[Lane]:
        job = LaneJob(
            self._request,
            self._resources.pool,
            lambda update: None,
            self._stop,
            self._resources.gpu,
            full_warm_up=True,
            same_warm_up=self._settings.device == "cuda",
        )
        lanes = []
        for index, name in enumerate(self._settings.sides):
            options = side_options(name, self._settings, self._model, self._resources.threads)
            lanes.append(Lane(index, options, job, new_record(name, self._request, self._model)))
        return lanes


def _utilisation(bytes_per_step: int | None, tpot_ms: float | None, bandwidth_gb_s: float | None) -> float | None:
    """MBU: bytes a step must move, over the time it takes, over the bandwidth there is."""
    if not bytes_per_step or not tpot_ms or not bandwidth_gb_s:
        return None
    return bytes_per_step / (tpot_ms * 1e-3) / (bandwidth_gb_s * 1e9)


def _words(metrics: Metrics) -> str:
    decode = metrics["decode_tok_s"]
    rate = f"{decode:.1f} tok/s decode" if decode is not None else "one token, no decode"
    return f"TTFT {metrics['ttft_ms']:.0f} ms, {rate}"
