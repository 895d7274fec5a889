"""What a benchmark makes of many runs, and what it says of others on the machine, against workers of known speed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from eet_demo.errors import EetError
from eet_demo.machine.cpu_use import CpuTimes
from eet_demo.race.bench import Bench
from tests.fake_workers import Play
from tests.track import Track, trace_of


def test_a_benchmark_stopped_before_its_turn_starts_nothing(track: Track) -> None:
    bench = Bench(track.settings(), 1, Path(track.model), track.resources)
    track.time.at(1, bench.stop)
    with track.resources.turn, pytest.raises(EetError, match="stopped"):
        bench.run(lambda line: None)
    assert track.machine.children == []


def test_a_benchmark_alternates_the_order_and_takes_medians(track: Track) -> None:
    track.machine.plays |= {"stock": Play(rate=20), "engine": Play(rate=50)}
    settings = track.settings()
    lines: list[str] = []
    result = Bench(settings, 3, Path(track.model), track.resources).run(lines.append)
    assert [line.split(": ")[0] for line in lines] == [
        *("1/3 stock", "1/3 engine"),
        *("2/3 engine", "2/3 stock"),
        *("3/3 stock", "3/3 engine"),
    ]
    assert [run["side"] for run in result["runs"]] == ["stock", "engine"]
    assert [run["decode_tok_s"] for run in result["runs"]] == [pytest.approx(20), pytest.approx(50)]
    assert result["speedup"]["decode"] == pytest.approx(2.5)
    phases = [phase["name"] for sample in result["runs"][0]["samples"] for phase in sample["phases"]]
    assert phases.count("loading") == 1, "a worker stays between repeats"


def test_a_benchmark_says_how_far_its_runs_lie_apart(track: Track) -> None:
    stock, rates = Play(rate=20), iter([50, 30, 30])
    track.machine.plays["stock"] = stock
    bench = Bench(track.settings("stock"), 3, Path(track.model), track.resources)
    (run,) = bench.run(lambda line: setattr(stock, "rate", next(rates)))["runs"]
    assert run["decode_tok_s"] == pytest.approx(30)
    assert run["iqr"]["decode_tok_s"] == pytest.approx(40 - 25)
    assert run["iqr"]["ttft_ms"] == pytest.approx(0)
    (once,) = track.bench("stock")["runs"]
    assert set(once["iqr"].values()) == {None}


def test_utilisation_is_bytes_over_time_over_the_bandwidth_of_the_compared_engine(track: Track) -> None:
    track.machine.plays |= {
        "stock": Play(rate=20, bytes_per_step=600),
        "engine": Play(rate=50, bytes_per_step=400, gb_s=100e-6),
        "engine:prefill_chunk=4": Play(rate=10, bytes_per_step=400, gb_s=20e-6),
    }
    roofline = track.bench("stock", "engine", "engine:prefill_chunk=4", batch=2)["roofline"]
    assert roofline["bandwidth_gb_s"] == 100e-6
    assert roofline["bytes_per_token"] == 200
    assert roofline["context"] == 8 + 11 // 2
    assert roofline["mbu"] == {
        "stock": pytest.approx(600 * 20 / 100e3),
        "engine": pytest.approx(400 * 50 / 100e3),
        "engine:prefill_chunk=4": pytest.approx(400 * 10 / 100e3),
    }


def test_a_benchmark_without_an_engine_has_no_roofline(track: Track) -> None:
    assert track.bench("stock", "stock-eager")["roofline"] is None


def test_a_side_that_moves_no_bytes_has_no_utilisation(track: Track) -> None:
    track.machine.plays |= {
        "scripted": Play(fails_in=("roofline", "UnsupportedError", "no bytes")),
        "engine": Play(bytes_per_step=400, gb_s=1.0),
    }
    assert track.bench("scripted", "engine")["roofline"]["mbu"]["scripted"] is None


def busy(track: Track, cores: float) -> list[set[int]]:
    """Others keep so many of the machine's two cores busy; returns the processes that were called the race's own."""
    asked: list[set[int]] = []

    def read(pids: Iterable[int]) -> CpuTimes:
        asked.append(set(pids))
        now_s = track.time.now_ns / 1e9
        return CpuTimes(now_s, 2, all_s=(cores + 0.9) * now_s, own_s=0.9 * now_s)

    track.resources.read_cpu = read
    return asked


@pytest.mark.parametrize("schedule", ["in_turn", "together"])
def test_what_others_take_while_a_side_is_timed_is_kept_and_said(track: Track, schedule: str) -> None:
    asked = busy(track, cores=0.5)
    trace = trace_of(track.race(schedule=schedule))
    for side in trace["sides"]:
        assert side["others"]["cpu_s"] == pytest.approx(0.5 * side["others"]["wall_s"])
        assert side["others"]["wall_s"] == pytest.approx(0.6, abs=0.11), "the timed run alone: no load, no warm-up"
    told = [note for note in trace["notes"] if "other programs" in note]
    rest = ": on an idle machine it may be faster"
    runs = ["stock", "engine"] if schedule == "in_turn" else ["stock and engine"]
    assert told == [f"other programs took 0.50 of 2 cores while {sides} ran{rest}" for sides in runs]
    assert all(pids == {child.pid for child in track.machine.children} for pids in asked)


def test_an_idle_machine_is_not_spoken_of(track: Track) -> None:
    unread = trace_of(track.race())["notes"]
    busy(track, cores=0.05)
    trace = trace_of(track.race())
    assert trace["sides"][0]["others"]["cpu_s"] > 0
    assert trace["notes"] == unread


def test_what_others_take_is_unknown_where_it_is_not_read(track: Track) -> None:
    assert [side["others"] for side in trace_of(track.race())["sides"]] == [None, None]


def test_a_benchmark_says_once_a_side_what_others_took_in_all_its_runs(track: Track) -> None:
    busy(track, cores=0.5)
    result = track.bench(repeats=3)
    told = [note for note in result["notes"] if "other programs" in note]
    assert [note.split(" while ")[1].split(" ran")[0] for note in told] == ["stock", "engine"]
    assert all(sample["others"]["cpu_s"] > 0 for run in result["runs"] for sample in run["samples"])
