"""Figures from hand-made stamps: every expected number below was worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eet_demo.results.metrics import figures, interquartile, median, peaks, percentile, side_metrics, speedup

MS = 1_000_000


def tokens(*rows: list[int]) -> dict[str, list[int]]:
    """Columns of rows of stamps in milliseconds, in the order of time as a worker sends them."""
    stamps = sorted((time_ms * MS, row) for row, times in enumerate(rows) for time_ms in times)
    return {"row": [row for _, row in stamps], "time_ns": [time_ns for time_ns, _ in stamps]}


def test_metrics_of_one_row() -> None:
    found = side_metrics(tokens([200, 210, 220, 260]), [100])
    assert found["ttft_ms"] == pytest.approx(200)
    assert found["tpot_ms"] == pytest.approx(20)
    assert found["itl_ms_p50"] == pytest.approx(10)
    assert found["itl_ms_p95"] == pytest.approx(37)
    assert found["itl_ms_p99"] == pytest.approx(39.4)
    assert found["prefill_tok_s"] == pytest.approx(500)
    assert found["decode_tok_s"] == pytest.approx(3 / 0.06)
    assert found["end_to_end_ms"] == pytest.approx(260)
    assert found["new_tokens"] == 4


def test_metrics_of_two_rows_count_both_but_only_real_prompt_tokens() -> None:
    found = side_metrics(tokens([100, 150, 200], [100, 150, 200]), [30, 20])
    assert found["prefill_tok_s"] == pytest.approx(500)
    assert found["decode_tok_s"] == pytest.approx(4 / 0.1)
    assert found["decode_tok_s_per_row"] == pytest.approx(2 / 0.1)
    assert found["tpot_ms"] == pytest.approx(50)


def test_metrics_of_rows_that_end_apart_pool_their_gaps() -> None:
    found = side_metrics(tokens([100, 110], [100, 110, 140]), [10, 10])
    assert found["tpot_ms"] == pytest.approx((10 + 20) / 2)
    assert found["itl_ms_p50"] == pytest.approx(10)
    assert found["decode_tok_s"] == pytest.approx(3 / 0.04)


def test_metrics_of_one_token_leave_decode_undefined() -> None:
    found = side_metrics(tokens([100]), [50])
    assert found["ttft_ms"] == pytest.approx(100)
    for name in ("tpot_ms", "itl_ms_p50", "itl_ms_p95", "itl_ms_p99", "decode_tok_s", "decode_tok_s_per_row"):
        assert found[name] is None, name


def test_metrics_of_no_token_are_all_undefined() -> None:
    found = side_metrics(tokens([]), [50])
    assert found.pop("new_tokens") == 0
    assert set(found.values()) == {None}
    assert set(found) | {"new_tokens"} == set(side_metrics(tokens([1, 2]), [50]))


def test_speedup_above_one_favours_the_contender() -> None:
    slow = side_metrics(tokens([400, 500, 600]), [100])
    fast = side_metrics(tokens([100, 120, 140]), [100])
    found = speedup(slow, fast)
    assert found == {
        "decode": pytest.approx(5),
        "prefill": pytest.approx(4),
        "ttft": pytest.approx(4),
        "end_to_end": pytest.approx(600 / 140),
    }
    assert speedup(fast, slow)["decode"] == pytest.approx(1 / 5)


def test_speedup_with_a_side_that_failed_is_undefined() -> None:
    assert set(speedup(side_metrics(tokens([]), [1]), side_metrics(tokens([1, 2]), [1])).values()) == {None}


@pytest.mark.parametrize(
    ("names", "decode"),
    [
        (["stock", "engine"], 5),
        (["engine", "stock"], 0.2),
        (["engine:debug=on", "engine"], 5),
        (["scripted:a=1", "scripted:b=2"], 5),
    ],
)
def test_figures_compare_whatever_the_order(names: list[str], decode: float) -> None:
    columns = [tokens([400, 500, 600]), tokens([100, 120, 140])]
    sides = [
        {"name": name, "tokens": column, "memory": {"time_ns": [0, 1], "process_bytes": [3, 2]}}
        for name, column in zip(names, columns, strict=True)
    ]
    found = figures({"prompt_ids": [[1] * 100], "sides": sides, "parity": None})
    assert found["speedup"]["decode"] == pytest.approx(decode)
    assert found["metrics"][0]["memory"] == {"process_bytes": 3}
    assert figures({"prompt_ids": [[1]], "sides": sides[:1], "parity": None})["speedup"] is None


def test_peaks_ignore_samples_that_a_kind_lacks() -> None:
    assert peaks({"time_ns": [1, 2, 3], "a_bytes": [None, 5, 4], "b_bytes": [None, None, None]}) == {"a_bytes": 5}


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.sampled_from([0, 50, 95, 99, 100]))
def test_percentile_equals_numpy(values: list[float], percent: float) -> None:
    import numpy as np

    assert percentile(sorted(values), percent) == pytest.approx(float(np.percentile(values, percent)), abs=1e-6)


def test_median_ignores_what_is_undefined() -> None:
    assert median([3, None, 1, 2]) == 2
    assert median([None]) is None


def test_dispersion_is_the_width_of_the_middle_half() -> None:
    assert interquartile([4.0, 1.0, 2.0, 3.0, 5.0]) == 2.0
    assert interquartile([1.0, 2.0]) == 0.5
    assert interquartile([7.0, None, 7.0]) == 0.0
    assert interquartile([7.0]) is interquartile([None]) is interquartile([]) is None
