"""`bench`: the sides one after the other, each alone, in an order that alternates; medians, and the raw samples."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eet_demo.errors import EetError, UnsupportedError
from eet_demo.race.lane import Lane
from eet_demo.race.resources import RaceResources
from eet_demo.race.session import Session
from eet_demo.race.waiting import StopSign, finish, paced
from eet_demo.records import RaceSettings
from eet_demo.results.metrics import FIGURES, Metrics, interquartile, median, peaks, side_metrics, speedup
from eet_demo.sides.pairing import compared_pair
from eet_demo.worker.outbox import Message

MOST_SIDES = 8

Report = Callable[[str], None]


@dataclass(frozen=True)
class Sample:
    """One timed run of one side."""

    repeat: int
    metrics: Metrics
    record: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        columns = {name: self.record["tokens"][name] for name in ("row", "time_ns", "id")}
        kept = {name: self.record[name] for name in ("phases", "others")}
        return {"repeat": self.repeat, **self.metrics, "tokens": columns, **kept}


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
        self._stop = StopSign()
        self._session = Session(
            settings,
            resources.model(folder),
            resources,
            self._stop,
            full_warm_up=True,
            keep_others=keep_workers,
        )
        self._samples: list[list[Sample]] = [[] for _ in self._session.lanes]

    def run(self, report: Report) -> dict[str, Any]:
        """Measures, telling `report` one line at a time.

        Raises:
            EetError: a side failed, or `stop` was called; a benchmark with a hole in it is none.
        """
        return finish(paced(self._in_its_turn(report), self._resources.clock))

    def stop(self) -> None:
        """Ends the run early, from any thread; `run` raises."""
        self._stop.set()

    def _in_its_turn(self, report: Report) -> Generator[None, None, dict[str, Any]]:
        while not self._resources.turn.acquire(blocking=False):
            self._go_on()
            yield
        try:
            try:
                return (yield from self._measure(report))
            finally:
                self._session.release()
        finally:
            self._resources.turn.release()

    def _measure(self, report: Report) -> Generator[None, None, dict[str, Any]]:
        lanes = self._session.lanes
        yield from self._session.open()
        self._go_on()
        self._session.decide()
        self._go_on()
        for repeat in range(self._repeats):
            for lane in lanes if repeat % 2 == 0 else lanes[::-1]:
                yield from self._measure_one(lane, repeat, report)
        self._session.note_others()
        rows = yield from self._session.parity()
        roofline = yield from self._roofline()
        return self._result(rows, roofline)

    def _measure_one(self, lane: Lane, repeat: int, report: Report) -> Generator[None, None, None]:
        lane.renew(self._session.new_record(lane.options.side))
        yield from lane.prepare()
        yield from self._session.time(lane)
        self._go_on()
        record = lane.record.as_json()
        metrics = side_metrics(record["tokens"], [len(row) for row in self._session.prompts])
        self._samples[lane.index].append(Sample(repeat, metrics, record))
        report(f"{repeat + 1}/{self._repeats} {lane.options.side}: {_words(metrics)}")

    def _go_on(self) -> None:
        """Raises EetError once a side has failed or `stop` was called."""
        for lane in self._session.lanes:
            if lane.error is not None:
                raise lane.error
        if self._stop.is_set():
            raise EetError("the benchmark was stopped")

    def _roofline(self) -> Generator[None, None, dict[str, Any] | None]:
        """Of a step in the middle of the decode, by the bandwidth that the compared side's own threads reach.

        Where that one cannot measure it, the last side that can; None where nobody can.
        """
        lanes, pair = self._session.lanes, compared_pair(self._settings.sides)
        context, batch = self._settings.context + self._settings.new_tokens // 2, self._settings.batch
        answers: dict[int, Message] = {}
        for lane in sorted(lanes, key=lambda lane: not lane.resident):  # where one is loaded at a time, it goes first
            try:
                answers[lane.index] = yield from lane.ask_roofline(context, batch)
            except UnsupportedError:
                continue
        order = [*([pair[1]] if pair is not None else []), *reversed(range(len(lanes)))]
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
        """One entry a side, over the repeats: every figure's median and interquartile range, every memory's peak."""
        runs: list[dict[str, Any]] = []
        for lane, samples in zip(self._session.lanes, self._samples, strict=True):
            figures = {name: [sample.metrics[name] for sample in samples] for name in FIGURES}
            medians = {name: median(values) for name, values in figures.items()}
            spread = {"iqr": {name: interquartile(values) for name, values in figures.items()}}
            memory: dict[str, int] = {"process_base_bytes": lane.base_bytes or 0}
            for sample in samples:
                for name, value in peaks(sample.record["memory"]).items():
                    memory[name] = max(value, memory.get(name, 0))
            config = samples[0].record["config"]
            raw = [sample.as_json() for sample in samples]
            run = {"side": lane.options.side, "config": config, **medians, **spread, "memory": memory, "samples": raw}
            runs.append(run)
        return runs

    def _result(self, rows: list[dict[str, Any]] | None, roofline: dict[str, Any] | None) -> dict[str, Any]:
        runs = self._runs()
        pair = compared_pair(self._settings.sides)
        conditions = self._session.conditions()
        return {
            "runs": runs,
            "speedup": speedup(runs[pair[0]], runs[pair[1]]) if pair is not None else None,
            "parity": rows,
            "roofline": roofline,
            **conditions,
            "settings": conditions["settings"] | {"repeats": self._repeats},
            "notes": self._session.notes,
        }


def _utilisation(bytes_per_step: int | None, tpot_ms: float | None, bandwidth_gb_s: float | None) -> float | None:
    """MBU: bytes a step must move, over the time it takes, over the bandwidth there is."""
    if not bytes_per_step or not tpot_ms or not bandwidth_gb_s:
        return None
    return bytes_per_step / (tpot_ms * 1e-3) / (bandwidth_gb_s * 1e9)


def _words(metrics: Metrics) -> str:
    decode = metrics["decode_tok_s"]
    rate = f"{decode:.1f} tok/s decode" if decode is not None else "one token, no decode"
    return f"TTFT {metrics['ttft_ms']:.0f} ms, {rate}"
