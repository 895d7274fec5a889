"""Sampling's definition: Philox against published vectors, filters against their words, draws against softmax."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from eet_demo.engine import sampling as sampling_module
from eet_demo.engine.sampling import check_sampling, philox4x32, sample
from eet_demo.errors import RequestError
from eet_demo.records import Sampling


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), 0, 0x6627E8D5),
        ((0xFFFFFFFF,) * 4, 0xFFFFFFFFFFFFFFFF, 0x408F276D),
        ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), 0x299F31D0A4093822, 0xD16CFE09),
    ],
)
def test_philox_known_answers(counter: tuple[int, int, int, int], key: int, expected: int) -> None:
    """First words of `philox4x32 10` in Random123's kat_vectors."""
    assert philox4x32(counter, key).tolist() == [expected]


def test_noise_is_finite_for_every_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest and smallest uniforms: an infinite draw would win whatever its logit."""
    words = np.array([0, 1, 0xFF, 0x100, 0x1FF, 0x200, 0xFFFFFDFF, 0xFFFFFE00, 0xFFFFFF00, 0xFFFFFFFF], np.uint32)
    monkeypatch.setattr(sampling_module, "philox4x32", lambda *_: words)
    noise = sampling_module.gumbel(np.arange(len(words)), 0, 0, 0)
    assert np.isfinite(noise).all()
    assert (np.diff(noise) >= 0).all()


def test_greedy_tie_takes_the_lower_id() -> None:
    assert sample(np.array([1, 7, 7, 3], np.float32), Sampling(), 0, 0) == 1


def test_top_k_tie_at_the_threshold_keeps_the_lower_id() -> None:
    logits = np.array([0, 5, 5, 5, 1], np.float32)
    drawn = {sample(logits, Sampling(1.0, top_k=2, seed=seed), 0, 0) for seed in range(200)}
    assert drawn == {1, 2}


@pytest.mark.parametrize("top_p", [1e-6, 0.3, 0.55, 0.8, 0.999])
def test_top_p_keeps_the_smallest_set(top_p: float) -> None:
    probabilities = np.array([0.1, 0.5, 0.2, 0.15, 0.05])
    ranked = np.sort(probabilities)[::-1]
    kept = np.argsort(-probabilities)[: int(np.searchsorted(np.cumsum(ranked), top_p)) + 1]
    logits = np.log(probabilities).astype(np.float32)
    drawn = {sample(logits, Sampling(1.0, top_p=top_p, seed=seed), 0, 0) for seed in range(600)}
    assert drawn == set(kept.tolist())


def test_draws_follow_softmax_with_temperature() -> None:
    """Chi-squared of 20,000 draws against softmax(logits / T); 99.99% quantile for 7 degrees of freedom is 29.9."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=8).astype(np.float32)
    expected = np.exp(logits / 0.7) / np.exp(logits / 0.7).sum() * 20_000
    drawn = [sample(logits, Sampling(0.7, seed=11), step, row) for step in range(5_000) for row in range(4)]
    counts = np.bincount(drawn, minlength=8)
    assert ((counts - expected) ** 2 / expected).sum() < 29.9


def test_draw_depends_on_seed_step_and_row() -> None:
    logits = np.zeros(1000, np.float32)
    base = sample(logits, Sampling(1.0, seed=3), 5, 1)
    assert base == sample(logits, Sampling(1.0, seed=3), 5, 1)
    others = [(4, 5, 1), (3, 6, 1), (3, 5, 2), (3 + 2**40, 5, 1)]
    assert all(sample(logits, Sampling(1.0, seed=seed), step, row) != base for seed, step, row in others)


def drawn(temperature: Any, top_k: Any = 0, top_p: Any = 1.0, seed: Any = 0) -> Sampling:
    """A request's values, whatever their types."""
    return Sampling(temperature, top_k, top_p, seed)


@pytest.mark.parametrize(
    "sampling",
    [
        *(drawn(temperature) for temperature in (-0.1, float("nan"), 1e-46, 0.009, 101.0, 10**400, True, None, "1")),
        *(drawn(1.0, top_k=top_k) for top_k in (-1, 0.5, 2**31, None)),
        *(Sampling(1.0, top_p=top_p) for top_p in (0.0, 1.01, float("nan"))),
        *(drawn(0.0, seed=seed) for seed in (-1, 2**64, 1.0)),
    ],
)
def test_values_out_of_range_are_refused(sampling: Sampling) -> None:
    """A temperature that float32 rounds to 0 among them: executors would disagree on it."""
    with pytest.raises(RequestError, match=r"temperature|top_k|top_p|seed"):
        check_sampling(sampling)


def test_values_within_range_are_taken() -> None:
    for sampling in (Sampling(), Sampling(0.01, 2**31 - 1, 1e-9, 2**64 - 1), drawn(np.float32(0.8), np.int64(5), 1)):
        check_sampling(sampling)
