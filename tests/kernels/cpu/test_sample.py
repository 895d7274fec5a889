"""sample: the very tokens of eet_demo.engine.sampling, whatever the thread count."""

from __future__ import annotations

import numpy as np
import pytest

from eet_demo.engine.sampling import NOT_FINITE, sample
from eet_demo.records import Sampling
from tests.kernels.cpu_harness import Array, Rig, llama, rig, step_of

GREEDY = Sampling()
DRAWS = {
    "temperature": Sampling(0.8, seed=3),
    "hot": Sampling(20.0, seed=2**63 + 5),
    "top-k": Sampling(1.0, top_k=40, seed=1),
    "top-1": Sampling(1.0, top_k=1, seed=1),
    "top-k-of-all": Sampling(1.0, top_k=10**6, seed=1),
    "top-p": Sampling(0.7, top_p=0.9, seed=9),
    "tiny-top-p": Sampling(1.0, top_p=1e-6, seed=9),
    "top-k-and-p": Sampling(1.3, top_k=100, top_p=0.5, seed=11),
}


def draw(loaded: Rig, logits: Array, sampling: Sampling) -> list[int]:
    wanted = list(range(len(logits)))
    step = step_of([1] * len(logits), wanted=wanted, sampling=sampling, vocab_size=loaded.spec.vocab_size)
    loaded.put("logits", logits)
    return loaded.run(loaded.op("sample"), step).tolist()


@pytest.mark.parametrize("vocab_size", [7, 331, 5003])
@pytest.mark.parametrize("threads", [1, 3])
def test_greedy_is_argmax(vocab_size: int, threads: int) -> None:
    with rig(llama(vocab_size=vocab_size), threads) as loaded:
        logits = np.random.default_rng(0).normal(0, 3, (4, vocab_size)).astype(np.float32)
        assert draw(loaded, logits, GREEDY) == logits.argmax(axis=1).tolist()


@pytest.mark.parametrize("first", [0, 1, 15, 16, 330])
def test_greedy_tie_goes_to_the_lower_id(first: int) -> None:
    with rig(llama(), 2) as loaded:
        logits = np.full((1, 331), -5.0, np.float32)
        logits[0, first:] = 2.0
        assert draw(loaded, logits, GREEDY) == [first]


def test_greedy_of_the_lowest_logits_there_are() -> None:
    with rig(llama(), 2) as loaded:
        logits = np.full((2, 331), -np.inf, np.float32)
        logits[0, 4] = logits[1, 300] = np.finfo(np.float32).min
        assert draw(loaded, logits, GREEDY) == [4, 300]


@pytest.mark.parametrize("name", list(DRAWS))
def test_draws_equal_the_definition(name: str) -> None:
    sampling = DRAWS[name]
    for threads in (1, 3):
        with rig(llama(vocab_size=5003), threads) as loaded:
            for seed in range(5):
                logits = np.random.default_rng(seed).normal(0, 2.5, (4, 5003)).astype(np.float32)
                expected = [sample(row, sampling, step=7, row=index) for index, row in enumerate(logits)]
                assert draw(loaded, logits, sampling) == expected, f"{name} seed {seed} threads {threads}"


@pytest.mark.parametrize("sampling", [GREEDY, *DRAWS.values()])
@pytest.mark.parametrize("threads", [1, 3])
def test_logits_that_are_not_finite_are_never_sampled_from(sampling: Sampling, threads: int) -> None:
    """NaN anywhere, +infinity anywhere, -infinity everywhere; -infinity beside numbers is only a token ruled out."""
    with rig(llama(), threads, batch=6) as loaded:
        logits = np.random.default_rng(0).normal(0, 1, (6, 331)).astype(np.float32)
        logits[0] = np.nan
        logits[1, [77, 330]] = np.nan
        logits[2, 5] = np.inf
        logits[3] = -np.inf
        logits[4, ::2] = -np.inf
        tokens = draw(loaded, logits, sampling)
        assert tokens[:4] == [NOT_FINITE] * 4
        assert tokens[4:] == [sample(row, sampling, step=7, row=4 + i) for i, row in enumerate(logits[4:])]


def test_top_k_tie_at_the_edge_keeps_the_lower_ids() -> None:
    """All logits equal: the k kept are 0 .. k - 1."""
    with rig(llama(), 2) as loaded:
        sampling = Sampling(1.0, top_k=5, seed=0)
        logits = np.zeros((4, 331), np.float32)
        expected = [sample(row, sampling, step=7, row=index) for index, row in enumerate(logits)]
        got = draw(loaded, logits, sampling)
        assert got == expected
        assert max(got) < 5


def test_draws_follow_the_distribution() -> None:
    """2,000 seeds over three likely tokens: counts within five standard deviations of the softmax."""
    with rig(llama(), 1) as loaded:
        logits = np.full((1, 331), -30.0, np.float32)
        logits[0, [4, 100, 330]] = np.log([0.5, 0.3, 0.2])
        counts = {4: 0, 100: 0, 330: 0}
        for seed in range(2000):
            counts[draw(loaded, logits, Sampling(1.0, seed=seed))[0]] += 1
        for token, share in ((4, 0.5), (100, 0.3), (330, 0.2)):
            assert abs(counts[token] - 2000 * share) < 5 * (2000 * share * (1 - share)) ** 0.5, counts
