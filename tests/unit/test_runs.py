"""Runs of visitors who come, press, vanish and come back: what is kept has a bound, and the one that runs stays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from eet_demo.errors import CheckpointError, StoppedError
from eet_demo.records import RaceSettings
from eet_demo.ui import runs as module
from eet_demo.ui.handlers import Handlers
from eet_demo.ui.runs import Run, Runs
from eet_demo.ui.visitors import explained, for_visitors, without_folders

SETTINGS = RaceSettings("smollm2-135m")
TRACE: dict[str, Any] = {"format": "eet-race", "notes": [], "sides": []}


class FakeRace:
    """A race that says nothing twice, then its result unless it was stopped."""

    def __init__(self) -> None:
        self.stopped = self.closed = False
        self.begun = 0

    def run(self) -> Iterator[list[dict[str, Any]]]:
        self.begun += 1
        try:
            for _ in range(2):
                yield [{"kind": "state", "side": 0, "state": "loading", "detail": ""}]
            if not self.stopped:
                yield [{"kind": "result", "trace": TRACE}]
        finally:
            self.closed = True

    def stop(self) -> None:
        self.stopped = True


def handlers_of(race: FakeRace, kept: int = 4) -> Handlers:
    return Handlers(Runs(kept), lambda settings: None, lambda settings: race)


def kinds(payloads: list[dict[str, Any]]) -> list[str]:
    return [update["kind"] for payload in payloads for update in payload["updates"]]


def test_clients_that_never_say_they_left_leave_a_bounded_number_of_runs() -> None:
    runs = Runs(kept=4)
    begun = [runs.begin(f"session {number}", SETTINGS) for number in range(100)]
    assert len(runs) == 4
    assert [runs.of_id(run.id) for run in begun[-4:]] == begun[-4:]
    assert runs.of_session("session 0") is None
    assert runs.of_id(begun[0].id) is None
    assert not begun[0].start(FakeRace()), "what was forgotten in the queue never begins"


def test_a_run_that_runs_is_never_forgotten_nor_stopped() -> None:
    runs = Runs(kept=3)
    run, race = runs.begin("racer", SETTINGS), FakeRace()
    assert run.start(race)
    for number in range(50):
        runs.begin(f"session {number}", SETTINGS)
    assert runs.of_session("racer") is run
    assert not race.stopped
    assert len(runs) == 3
    run.finish()
    runs.begin("one more", SETTINGS)
    assert runs.of_session("racer") is None


def test_one_visitor_who_presses_again_and_again_keeps_a_bounded_number_of_runs() -> None:
    runs = Runs(kept=4)
    for _ in range(50):
        last = runs.begin("session", SETTINGS)
    assert len(runs) == 4
    assert runs.of_session("session") is last
    runs.leave("session")
    assert runs.of_session("session") is None
    assert not last.start(FakeRace())


def test_payloads_are_kept_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_PAYLOADS", 10)
    run = Run("session", SETTINGS)
    for _ in range(25):
        run.payload({"kind": "notes", "notes": []})
    assert [payload["seq"] for payload in run.since(0)] == list(range(15, 25))
    assert [payload["seq"] for payload in run.since(23)] == [23, 24]
    alive = run.sign_of_life()
    assert (alive["seq"], alive["updates"]) == (-1, []), "no number of its own: nobody misses it"
    assert run.sign_of_life() != alive, "Gradio sends what changed"
    assert run.payload()["seq"] == 25


def test_a_finished_run_holds_no_race() -> None:
    race = FakeRace()
    handlers = handlers_of(race)
    run = handlers.runs.begin("session", SETTINGS)
    assert kinds(list(handlers.drain(run))) == ["state", "state", "result", "end"]
    assert race.closed
    assert race not in vars(run).values()
    assert run.trace == TRACE
    assert not run.stop(), "it is not waiting any more"
    assert not race.stopped


def test_a_run_stopped_in_the_queue_does_not_race() -> None:
    race = FakeRace()
    handlers = handlers_of(race)
    run = handlers.runs.begin("session", SETTINGS)
    assert handlers.stop("session") == {"run": run.id, "seq": 0, "updates": [{"kind": "leave"}]}
    assert kinds(list(handlers.take_turn("session"))) == ["end"]
    assert race.begun == 0


def test_a_run_that_is_over_does_not_race_again() -> None:
    race = FakeRace()
    handlers = handlers_of(race)
    handlers.runs.begin("session", SETTINGS)
    list(handlers.take_turn("session"))
    assert kinds(list(handlers.take_turn("session"))) == ["end"]
    assert race.begun == 1


def test_a_run_that_lost_its_place_is_told_so() -> None:
    handlers = handlers_of(FakeRace(), kept=1)
    handlers.runs.begin("first", SETTINGS)
    handlers.runs.begin("second", SETTINGS)
    (payload,) = handlers.take_turn("first")
    error, end = payload["updates"]
    assert "lost its place" in error["message"]
    assert error["remedy"] == StoppedError.remedy
    assert end == {"kind": "end"}


def test_race_without_a_page_yields_its_trace_last_and_is_closed_with_its_client() -> None:
    race = FakeRace()
    *before, answer = handlers_of(race).race("session", SETTINGS)
    assert answer == TRACE
    assert set(before) == {None}
    assert race.closed
    gone = FakeRace()
    answers = handlers_of(gone).race("session", SETTINGS)
    assert next(answers) is None
    answers.close()
    assert gone.closed


def test_race_without_a_result_is_an_error() -> None:
    race = FakeRace()
    race.stop()
    with pytest.raises(StoppedError, match="before it had a result"):
        list(handlers_of(race).race("session", SETTINGS))


@pytest.mark.parametrize("asked", [None, 5, [], "x", {}, {"run": []}, {"run": {}}, {"run": 10**400, "from_seq": "a"}])
def test_whatever_a_page_asks_of_a_run_is_answered(asked: Any) -> None:
    handlers = handlers_of(FakeRace())
    run = handlers.runs.begin("session", SETTINGS)
    assert handlers.resync(asked) == []
    assert handlers.trace(asked) is None
    assert handlers.resync({"run": run.id, "from_seq": "0"}) == []


def test_what_was_not_foreseen_is_logged_and_keeps_its_words_to_itself(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: RaceSettings) -> Any:
        raise ZeroDivisionError("/home/owner/secret")

    handlers = Handlers(Runs(), lambda _: None, broken)
    run, first = handlers.press("session", lambda: SETTINGS)
    assert kinds([first]) == ["queued", "go"]
    (failed, _) = [update for payload in handlers.drain(run) for update in payload["updates"]]
    assert failed["kind"] == "error"
    assert "secret" not in failed["message"] + failed["remedy"]
    assert "/home/owner/secret" in caplog.text
    number = failed["message"].partition("(error ")[2].partition(")")[0]
    assert number in caplog.text


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("/home/u/.cache/eet/models/x/tokenizer.json cannot be read", "tokenizer.json cannot be read"),
        ("in '/srv/a b/c' and \"/srv/d/e\"", "in 'a b/c' and \"e\""),
        ("its folder ~/models/mine is missing", "its folder mine is missing"),
        ("owner/name at 1/2 of 3 GB/s: https://huggingface.co/owner/name, /race", None),
    ],
)
def test_visitors_do_not_read_where_things_lie(said: str, told: str | None) -> None:
    assert without_folders(said) == (told or said)


def test_every_word_of_a_race_but_the_sides_own_is_without_folders() -> None:
    error = {"message": "/srv/models/x is broken", "remedy": "fetch"}
    side = {"name": "stock", "error": error, "tokens": {"text": ["/etc/motd/x"]}}
    trace = {"sides": [side, {**side, "error": None}], "notes": ["see /srv/log/today"]}
    told = for_visitors({"kind": "result", "trace": trace})["trace"]
    assert told["sides"][0]["error"] == {"message": "x is broken", "remedy": "fetch"}
    assert told["sides"][1]["error"] is None
    assert told["sides"][0]["tokens"] == side["tokens"]
    assert told["notes"] == ["see today"]
    assert for_visitors({"kind": "state", "detail": "in /a/b/c"})["detail"] == "in c"
    assert for_visitors({"kind": "tokens", "text": ["/etc/motd/x"]})["text"] == ["/etc/motd/x"]


def test_the_owner_reads_the_whole_error(caplog: pytest.LogCaptureFixture) -> None:
    assert explained(CheckpointError("/srv/models/x is broken"))[0] == "x is broken"
    assert "/srv/models/x" in caplog.text
