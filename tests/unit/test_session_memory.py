"""Who may be in memory with whom: races on a machine with so many bytes, whose OOM killer is an assertion."""

from __future__ import annotations

from pathlib import Path

import pytest

from eet_demo.errors import MemoryPlanError
from eet_demo.race.race import Race
from eet_demo.race.session import preload
from tests.fake_workers import Play
from tests.track import Track, Update, trace_of


def test_where_both_fit_both_stay(track: Track) -> None:
    track.machine.total_bytes = 100
    track.machine.plays |= {"stock": Play(needs=60, loaded=50, run=60), "engine": Play(needs=40, loaded=40)}
    trace = trace_of(track.race())
    assert not any("each is loaded" in note for note in trace["notes"])
    assert track.machine.resident() == ["stock", "engine"]


def test_where_one_fits_each_is_loaded_for_its_turn_and_never_beside_the_other(track: Track) -> None:
    """`FakeMachine.check` fails as soon as both are in memory; parity asks stock, which is gone by then."""
    track.machine.total_bytes = 100
    track.machine.plays |= {"stock": Play(needs=60, loaded=60), "engine": Play(needs=50, loaded=50, differ_at=4)}
    for _ in range(2):  # the second race finds one of them loaded
        trace = trace_of(track.race())
        assert [side["state"] for side in trace["sides"]] == ["done", "done"]
        assert "each is loaded for its turn" in trace["notes"][-1]
        assert trace["parity"] == [{"equal_tokens": 4, "first_divergence": 4, "margin_at_divergence": 0.25}]
    assert track.machine.resident() == ["stock"], "parity asked it last"


def test_a_benchmark_where_one_fits_asks_the_roofline_one_at_a_time(track: Track) -> None:
    track.machine.total_bytes = 100
    track.machine.plays |= {
        "stock": Play(needs=60, loaded=60, bytes_per_step=600),
        "engine": Play(needs=50, loaded=50, differ_at=4, bytes_per_step=400, gb_s=1.0),
    }
    result = track.bench(repeats=2)
    assert result["parity"][0]["margin_at_divergence"] == 0.25
    assert None not in result["roofline"]["mbu"].values()
    phases = [phase["name"] for sample in result["runs"][0]["samples"] for phase in sample["phases"]]
    assert phases.count("loading") == 2
    assert all(run["memory"]["process_base_bytes"] == 1000 for run in result["runs"]), "of workers that are gone, too"


def test_together_is_refused_with_the_figures_where_both_do_not_fit(track: Track) -> None:
    track.machine.total_bytes = 100
    track.machine.plays |= {"stock": Play(needs=60, loaded=60), "engine": Play(needs=50, loaded=50)}
    with pytest.raises(MemoryPlanError, match=r"need 110 bytes .* and 100 bytes .* available.*in_turn"):
        track.race(schedule="together")
    assert track.machine.resident() == []
    assert track.resources.turn.acquire(blocking=False)
    track.resources.turn.release()
    track.machine.total_bytes = 110
    assert trace_of(track.race(schedule="together"))["sides"][1]["state"] == "done"


def test_together_one_side_that_no_longer_fits_fails_and_never_ends_the_other(track: Track) -> None:
    track.machine.total_bytes = 110
    track.machine.plays |= {"stock": Play(needs=60, loaded=60), "engine": Play(needs=50, loaded=50)}

    def take_memory(race: Race, update: Update) -> None:
        if update["kind"] == "state" and (update["side"], update["state"]) == (0, "warming"):
            track.machine.total_bytes = 100

    trace = trace_of(track.race(schedule="together", on_update=take_memory))
    assert [side["state"] for side in trace["sides"]] == ["done", "failed"]
    assert "engine needs 50 bytes" in trace["sides"][1]["error"]["message"]


def test_memory_that_shrinks_during_a_race_is_noticed_before_the_next_load(track: Track) -> None:
    track.machine.total_bytes = 110
    track.machine.plays |= {"stock": Play(needs=60, loaded=60), "engine": Play(needs=50, loaded=50)}

    def take_memory(race: Race, update: Update) -> None:
        if update["kind"] == "state" and (update["side"], update["state"]) == (0, "decoding"):
            track.machine.total_bytes = 100

    trace = trace_of(track.race(on_update=take_memory))
    assert [side["state"] for side in trace["sides"]] == ["done", "done"]
    assert track.machine.resident() == ["engine"]


def test_a_side_too_large_is_refused_with_the_figures_and_the_other_runs(track: Track) -> None:
    track.machine.total_bytes = 50
    track.machine.plays |= {"stock": Play(needs=60), "engine": Play(needs=40, loaded=40)}
    trace = trace_of(track.race())
    assert [side["state"] for side in trace["sides"]] == ["failed", "done"]
    assert "stock needs 60 bytes" in trace["sides"][0]["error"]["message"]
    assert "50 bytes" in trace["sides"][0]["error"]["message"]
    with pytest.raises(MemoryPlanError, match=r"stock needs 60 bytes .* 50 bytes .* available"):
        track.bench()


def test_a_card_whose_driver_does_not_count_a_process_takes_the_sides_own_word(track: Track) -> None:
    """The second race on a full card finds what the first one holds: it is not refused."""
    track.machine.total_bytes = 100
    track.machine.plays |= {"stock": Play(unseen=True), "engine": Play(needs=80, loaded=80, unseen=True)}
    for _ in range(2):
        trace = trace_of(track.race("engine", device="cuda", dtype="float16"))
        assert trace["sides"][0]["state"] == "done"
    assert len(track.machine.of("engine")) == 1


def test_preloading_asks_for_all_sides_at_once(track: Track) -> None:
    track.machine.total_bytes = 100
    track.machine.plays |= {"stock": Play(needs=60, loaded=60), "engine": Play(needs=50, loaded=50)}
    model = track.resources.model(Path(track.model))
    preload(track.settings(), model, track.resources)
    assert track.machine.children == []
    track.machine.total_bytes = 110
    preload(track.settings(), model, track.resources)
    assert [child.commands for child in track.machine.children] == [["import", "load"]] * 2
    preload(track.settings(), model, track.resources)
    assert len(track.machine.children) == 2, "they are on their way"


def test_what_stop_ended_is_not_loaded_anew_where_there_is_no_room(track: Track) -> None:
    track.machine.total_bytes = 100
    track.machine.plays |= {"engine": Play(needs=70, loaded=70), "stock": Play(needs=60, deaf=True, load_s=40)}

    def press(race: Race, update: Update) -> None:
        if update["kind"] == "state" and (update["side"], update["state"]) == (1, "loading"):
            track.machine.total_bytes = 50  # somebody else takes memory meanwhile
            race.stop()

    track.race("engine", "stock", on_update=press)
    assert len(track.machine.of("stock")) == 1
