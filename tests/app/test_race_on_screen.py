"""A race in a real Chromium: each side in its turn, both in the replay, numbers that are the trace's."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from eet_demo.machine.cpu_use import CpuTimes
from eet_demo.results.metrics import side_metrics, speedup
from eet_demo.results.trace import load_trace
from eet_demo.ui.recording import recorded_result
from tests.app.screen import (
    QUICK,
    OpenPage,
    ScriptedPage,
    choose_own_text,
    download_trace,
    draw_end,
    lane,
    number,
    press_race,
    race_to_end,
    record_moments,
    record_states,
    set_slider,
    shown,
    side_text,
    text_of,
    wait_end,
    wait_state,
)

NEW_TOKENS = 64
"""What a race writes unless the visitor says otherwise."""

PAUSE_WHEN_BOTH_WRITE = """() => {
    const written = [...document.querySelectorAll('.eet-text')].every((text) => text.textContent.length > 5);
    if (written) [...document.querySelectorAll('button')].find((button) => button.textContent === 'Pause').click();
    return written;
}"""

SAMPLE = Path(__file__).parents[1] / "fixtures" / "sample.trace.json"


def test_one_click_races_each_side_in_its_turn(open_page: OpenPage) -> None:
    page = open_page()
    moments = record_moments(page)
    press_race(page)
    wait_end(page)
    writing = [moment for moment in moments() if 0 < moment[0]["tokens"] < NEW_TOKENS]
    assert writing
    for first, second in writing:
        assert (first["state"], second["state"], second["tokens"]) == ("decoding", "waiting", 0)
        assert "machine alone" in second["overlay"]
    after = [moment for moment in moments() if moment[1]["tokens"]]
    assert after
    assert all(first["state"] == "done" for first, _ in after)


def test_numbers_on_screen_are_those_of_the_trace(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page()
    race_to_end(page)
    trace = download_trace(page, tmp_path)
    lengths = [len(row) for row in trace["prompt_ids"]]
    metrics = [side_metrics(side["tokens"], lengths) for side in trace["sides"]]
    end_ns = page.evaluate("window.__clock.durationNs")
    for side, figures in enumerate(metrics):
        assert number(page, side, "average") == (shown(page, "rate", figures["decode_tok_s"]), figures["decode_tok_s"])
        text, ttft_ns = number(page, side, "ttft")
        assert text.replace("\n", " ") == shown(page, "seconds", 1e6 * figures["ttft_ms"])
        assert ttft_ns == pytest.approx(figures["ttft_ms"] * 1e6)
        memory = trace["sides"][side]["memory"]
        samples = zip(memory["time_ns"], memory["process_bytes"], strict=True)
        sizes = [size for time_ns, size in samples if (time_ns or 0) <= end_ns]
        assert number(page, side, "process")[1] == sizes[-1], "the last sample may come after the clock's end"
        assert text_of(page, side) == side_text(trace, side)
        prompt_and_new = f"Prefill {lengths[0]} tokens at {shown(page, 'rate', figures['prefill_tok_s'])} tokens/s"
        expect(lane(page, side).locator(".eet-phase")).to_contain_text(prompt_and_new)
    decode = speedup(*metrics)["decode"]
    assert decode is not None
    expect(page.locator(".eet-speedup")).to_have_text(shown(page, "ratio", decode))


def test_replay_plays_both_sides_on_one_clock(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page()
    press_race(page)
    wait_state(page, "replay")  # it begins by itself
    race_ns = page.evaluate("window.__clock.durationNs")
    page.wait_for_function(PAUSE_WHEN_BOTH_WRITE)
    assert 0 < page.evaluate("window.__clock.ns") < race_ns
    wait_end(page)
    trace = download_trace(page, tmp_path)
    for share in (0.1, 0.75, 0.4, 0.999):  # backwards too
        page.evaluate("ns => window.__clock.set(ns)", share * race_ns)
        for side in (0, 1):
            assert text_of(page, side) == side_text(trace, side, until_ns=share * race_ns), (share, side)
    page.get_by_label("Replay speed").select_option("4")
    passed = record_states(page)
    page.get_by_role("button", name="Restart").click()
    passed("replay")
    wait_state(page, "done")
    assert text_of(page, 1) == side_text(trace, 1)


def test_scrub_and_play_by_keyboard(open_page: OpenPage, scripted_page: ScriptedPage) -> None:
    scripted_page.scene.sides = ("scripted:rate=30", QUICK[1])
    page = open_page(reduced_motion="reduce")
    page.locator("#eet-race").focus()
    press_race(page, lambda: page.keyboard.press("Enter"))
    wait_end(page)
    assert page.evaluate("window.__race.state") == "done"  # less motion: the replay is offered, not begun
    page.get_by_label("Replay position").focus()
    page.keyboard.press("Home")
    page.wait_for_function("window.__clock.ns === 0")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("window.__clock.ns > 0")
    page.get_by_label("Replay speed").select_option("0.25")
    page.get_by_role("button", name="Play", exact=True).focus()
    page.keyboard.press("Space")
    wait_state(page, "replay")
    page.keyboard.press("Space")
    wait_state(page, "done")
    assert page.evaluate("window.__clock.ns < window.__clock.durationNs"), "paused on its way"


def test_together_both_write_at_once(open_page: OpenPage, scripted_page: ScriptedPage) -> None:
    scripted_page.scene.sides = ("scripted:rate=40", "scripted:rate=60")
    page = open_page()
    page.get_by_role("button", name="Options").click()
    page.get_by_label("Together").check()
    moments = record_moments(page)
    press_race(page)
    wait_end(page)
    assert any(all(lane["state"] == "decoding" and lane["tokens"] for lane in moment) for moment in moments())
    expect(page.locator(".eet-notes")).to_contain_text("share the hardware")
    expect(page.locator(".eet-strip")).to_contain_text("both at once")


def test_page_and_trace_say_what_others_took_of_the_processors(
    open_page: OpenPage, scripted_page: ScriptedPage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half_a_core(pids: Iterable[int]) -> CpuTimes:
        now_s = time.perf_counter()
        return CpuTimes(now_s, cores=2, all_s=1.25 * now_s, own_s=0.75 * now_s)

    monkeypatch.setattr(scripted_page.resources, "read_cpu", half_a_core)
    page = open_page()
    race_to_end(page)
    notes = [f"other programs took 0.50 of 2 cores while {side} ran" for side in QUICK]
    for note in notes:
        expect(page.locator(".eet-notes")).to_contain_text(note)
    trace = download_trace(page, tmp_path)
    assert [note.rpartition(": ")[0] for note in trace["notes"] if "other programs" in note] == notes
    for side in trace["sides"]:
        assert side["others"]["cpu_s"] == pytest.approx(0.5 * side["others"]["wall_s"])


def test_parity_names_the_first_divergence_and_its_margin(open_page: OpenPage, scripted_page: ScriptedPage) -> None:
    scripted_page.scene.sides = ("scripted:rate=300", "scripted:rate=400,differ_at=20")
    page = open_page()
    race_to_end(page)
    expect(page.locator("[data-number='parity']")).to_have_text("20 of 64")
    expect(page.locator(".eet-parity-words")).to_contain_text("first differs at token 21")
    expect(page.locator(".eet-parity-words")).to_contain_text("margin there 0.25")
    for side in (0, 1):
        expect(lane(page, side).locator(".eet-mark-diverge")).to_have_count(1)


@pytest.mark.parametrize(
    ("names", "pair"),
    [(("stock", "engine"), (0, 1)), (("engine:graph=off", "engine"), (0, 1)), (("engine", "engine:graph=off"), (1, 0))],
)
def test_the_ratio_is_the_same_live_in_the_replay_and_in_the_result(
    open_page: OpenPage, names: tuple[str, str], pair: tuple[int, int]
) -> None:
    """An engine with an option switched is the baseline of one without, wherever it stands."""
    trace = load_trace(SAMPLE)
    trace["settings"]["sides"] = list(names)
    for side, name in zip(trace["sides"], names, strict=True):
        side["name"] = name
    recorded = recorded_result(trace)
    assert recorded["pair"] == pair
    page = open_page()
    page.evaluate("recorded => window.__race.stage.receive({ replay: recorded })", recorded)
    draw_end(page)
    expect(page.locator(".eet-speedup")).to_have_text(shown(page, "ratio", recorded["speedup"]["decode"]))
    page.evaluate("window.__clock.set(window.__clock.durationNs - 1)")
    before_the_end = float(page.locator(".eet-speedup").get_attribute("data-value") or "nan")
    live = page.evaluate("window.__race.player.ratioAt(Infinity)")
    assert recorded["speedup"]["decode"] == pytest.approx(live, rel=1e-6)
    assert before_the_end == pytest.approx(live, rel=0.05), "a token is missing"
    assert abs(live - 1) > 0.2, "the inverse would be another number"


def test_a_trace_that_is_no_longer_kept_is_said(open_page: OpenPage) -> None:
    page = open_page()
    race_to_end(page)
    page.evaluate("window.__race.stage.inbox.run = 'forgotten'")
    page.get_by_role("button", name="Download trace").click()
    expect(page.get_by_role("alert")).to_contain_text("no longer keeps this race")
    expect(page.get_by_role("alert")).to_contain_text("Press Race to run it again")


def test_sampling_is_not_compared(open_page: OpenPage) -> None:
    page = open_page()
    page.get_by_role("button", name="Options").click()
    page.get_by_label("number input for Temperature").fill("0.8")
    page.keyboard.press("Enter")
    race_to_end(page)
    expect(page.locator(".eet-parity-words")).to_contain_text("Not compared")
    expect(page.locator(".eet-strip")).to_contain_text("temperature 0.8")


def test_text_after_the_end_is_dimmed_behind_a_mark(open_page: OpenPage, scripted_page: ScriptedPage) -> None:
    end = 2  # <|im_end|> of the default model
    ids = "+".join(map(str, [504, 2644, end, 504, 2644, 9531]))
    scripted_page.scene.sides = (f"scripted:ids={ids},rate=300", f"scripted:ids={ids},rate=300")
    page = open_page()
    race_to_end(page)
    for side in (0, 1):
        mark = lane(page, side).locator(".eet-mark-end")
        expect(mark).to_have_count(1)
        expect(mark).to_contain_text("both sides do equal work")
        written = lane(page, side).locator(".eet-written").all_inner_texts()
        assert "".join(written).endswith("<|im_end|>")
        assert lane(page, side).locator(".eet-after-end").first.inner_text().strip()


def test_rows_of_a_batch_are_picked(open_page: OpenPage, scripted_page: ScriptedPage, tmp_path: Path) -> None:
    scripted_page.scene.changed = {"batch": 2, "ragged": True, "new_tokens": 48}
    page = open_page()
    race_to_end(page)
    trace = download_trace(page, tmp_path)
    expect(lane(page, 0).locator(".eet-number-now dt")).to_contain_text("2 rows")
    for row in (1, 0):
        page.get_by_label("Row of the batch").select_option(label=str(row + 1))
        for side in (0, 1):
            ending = side_text(trace, side, row)[-40:]
            page.wait_for_function(
                "([side, text]) => document.querySelectorAll('.eet-text')[side].textContent.endsWith(text)",
                arg=[side, ending],
            )
            assert text_of(page, side) == side_text(trace, side, row)
    assert side_text(trace, 0, 0) != side_text(trace, 0, 1)


def test_lost_updates_are_asked_for_again(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page()
    page.evaluate(
        """() => {
            const stage = window.__race.stage;
            const receive = stage.receive.bind(stage);
            stage.receive = (value) => (value.seq % 4 === 2 ? undefined : receive(value));
        }"""
    )
    race_to_end(page)
    assert page.evaluate("window.__race.stage.inbox.resyncs") > 0
    trace = download_trace(page, tmp_path)
    for side in (0, 1):
        assert text_of(page, side) == side_text(trace, side)


@pytest.mark.parametrize(
    "evil", ["<img src=x onerror=alert(1)><script>alert(2)</script>", "\N{WOMAN}\u200d\N{ROCKET} שלום עולם \u202eünï"]
)
def test_text_is_text_never_markup(open_page: OpenPage, evil: str, tmp_path: Path) -> None:
    """A scripted side writes the prompt's own ids, so the visitor's words come back as the model's."""
    page = open_page()
    dialogs: list[Any] = []
    page.on("dialog", lambda dialog: dialogs.append(dialog))
    page.on("dialog", lambda dialog: dialog.dismiss())
    choose_own_text(page, f"{evil} {evil}")
    set_slider(page, "New tokens", 128)
    race_to_end(page)
    trace = download_trace(page, tmp_path)
    assert text_of(page, 0) == side_text(trace, 0)
    assert evil in text_of(page, 0)
    assert page.locator(".eet-stage :is(img, script)").count() == 0
    assert not dialogs
