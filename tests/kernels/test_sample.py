"""sample.cu against the definition, eet_demo/engine/sampling.py: the same token in every case, and what it leaves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from eet_demo.engine import sampling as definition
from eet_demo.engine.executors.cuda.compile.launch import Launcher
from eet_demo.engine.executors.cuda.launchers.sample import (
    SampleScratch,
    SampleState,
    pack_settings,
    sample,
    scratch_fields,
)
from eet_demo.engine.executors.reference import many_rows as reference_many_rows
from eet_demo.errors import UnsupportedError
from eet_demo.records import Sampling
from tests.kernels.harness import ALL_MODES, ORDERS, launcher, rng

GREEDY = Sampling()
STATE = ("token_ids", "positions", "steps", "request_rows", "finished", "sequences")


class Rows:
    """Rows of a generation: their state on the device, as a request at any moment of its life may leave it."""

    def __init__(self, device: Launcher, rows: int, ring_size: int = 4, **state: list[int]) -> None:
        defaults = {
            "token_ids": [-7] * rows,
            "positions": list(range(10, 10 + rows)),
            "steps": list(range(rows)),
            "request_rows": list(range(rows)),
            "finished": [0] * rows,
            "sequences": [0] * rows,
        }
        self.device = device
        self.state = SampleState(**{name: self._upload({**defaults, **state}[name]) for name in STATE})
        self.ring = device.upload(np.full((ring_size, rows, 2), -9), "int32")

    def sample(
        self, logits: NDArray[Any], settings: Sampling, stops: list[int] | None = None, **best: Any
    ) -> list[int]:
        """The tokens that one launch reports in the ring, checked against its sequence numbers."""
        device, before = self.device, self.get("sequences")
        sample(
            device, device.upload(logits, "float32"), device.upload(pack_settings(settings), "uint32"), self.state,
            self.ring, self.scratch(logits.shape), stop_ids=None if stops is None else self._upload(stops), **best,
        )  # fmt: skip
        entries = device.download(self.ring)
        reports = [entries[sequence % len(entries), row] for row, sequence in enumerate(before)]
        assert [int(report[1]) for report in reports] == [sequence + 1 for sequence in before]
        assert self.get("sequences") == [sequence + 1 for sequence in before]
        return [int(report[0]) for report in reports]

    def scratch(self, shape: tuple[int, ...]) -> SampleScratch:
        fields = {name: self.device.empty(*field) for name, field in scratch_fields(*shape).items()}
        for name in ("classes", "counters"):
            self.device.write(fields[name], np.zeros(fields[name].shape, np.uint32))
        self.used = fields
        return SampleScratch(**fields)

    def check_clean(self) -> None:
        """What is zero before a launch is zero after it."""
        for name in ("classes", "counters"):
            assert not self.device.download(self.used[name]).any(), name

    def get(self, name: str) -> list[int]:
        return [int(value) for value in self.device.download(getattr(self.state, name))]

    def _upload(self, values: list[int]) -> Any:
        return self.device.upload(np.array(values), "int32")


def random_case(seed: int) -> tuple[NDArray[np.float32], Sampling]:
    """Two rows of logits with many or few ties and a spread like a model's or far from it; any filter, any seed."""
    random = rng(seed, 1)
    vocab = int(random.choice([1, 2, 7, 33, 256, 513, 1000, 5000]))
    logits = random.normal(0, random.choice([0.02, 1, 3, 12, 80]), (2, vocab)).astype(np.float32)
    ties = random.integers(0, 4)
    if ties == 1:
        logits = np.round(logits).astype(np.float32)
    elif ties == 2:
        logits[:, random.integers(0, vocab, vocab // 2)] = logits[:, :1]
    elif ties == 3:
        logits[:] = random.choice([-0.0, 0.0, 5.5])
    logits[1, random.integers(0, vocab, vocab // 3)] = -np.inf
    logits[1, random.integers(0, vocab)] = 1.25
    top_k = int(random.choice([0, 1, 2, 5, 40, vocab, vocab + 3, max(1, vocab // 2)]))
    top_p = float(random.choice([1.0, 1e-6, 0.1, 0.5, 0.9, 0.95, 0.999, random.uniform(0.01, 1)]))
    temperature = float(random.choice([0.0, 0.1, 0.7, 1.0, 1.3, 50.0, random.uniform(0.05, 2)]))
    return logits, Sampling(temperature, top_k, top_p, int(random.integers(0, 2**64, dtype=np.uint64)))


def check_case(mode: str, seed: int) -> None:
    logits, settings = random_case(seed)
    steps, request_rows = [seed % 1000, 3], [seed % 16, 0]
    rows = Rows(launcher(mode), 2, steps=steps, request_rows=request_rows)
    wanted = reference_many_rows.sample(logits, settings, steps, request_rows)
    best = candidates(rows.device, logits, 1 + seed % 7) if seed % 2 else {}
    actual = rows.sample(logits, settings, **best)
    assert actual == wanted, f"{mode} case {seed}: {actual}, expected {wanted}; {settings}, vocab {logits.shape[1]}"
    rows.check_clean()


def candidates(device: Launcher, logits: NDArray[Any], blocks: int) -> dict[str, Any]:
    """What norm_lm_head leaves of `blocks` shares of the vocabulary; as many blocks then share a row's sampling."""
    shares = [share for share in np.array_split(np.arange(logits.shape[1]), blocks) if len(share)]
    ranked = np.where(np.isnan(logits), np.inf, logits)
    ids = np.stack([share[np.argmax(ranked[:, share], axis=1)] for share in shares], axis=1)
    values = np.take_along_axis(logits, ids, axis=1)
    return {
        "best_logits": device.upload(values, "float32"), "best_ids": device.upload(ids, "int32"),
        "block_tokens": -(-logits.shape[1] // blocks),
    }  # fmt: skip


@pytest.mark.parametrize("mode", ORDERS)
def test_sample_draws_what_the_definition_draws(mode: str) -> None:
    first = ["plain", "reversed", "shuffled", "gpu"].index(mode) * 1000
    for seed in range(first, first + 200):
        check_case(mode, seed)


@pytest.mark.parametrize("settings", [GREEDY, Sampling(0.8, 40, 0.95, 7), Sampling(1.0, 0, 0.9, 8), Sampling(1.0)])
def test_sample_of_a_whole_vocabulary(settings: Sampling) -> None:
    logits = rng(2).normal(0, 3, (1, 49152)).astype(np.float32)
    for step in (0, 5):
        rows = Rows(launcher("plain"), 1, steps=[step])
        assert rows.sample(logits, settings) == [definition.sample(logits[0], settings, step, 0)]


@pytest.mark.parametrize("settings", [Sampling(1.0, 3000, 0.9, 7), Sampling(1.0, 0, 0.999, 8), Sampling(30.0, 0, 0.9)])
def test_sample_keeps_more_than_shared_memory_holds(settings: Sampling) -> None:
    logits = rng(9).normal(0, 3, (2, 6000)).astype(np.float32)
    rows = Rows(launcher("plain"), 2)
    wanted = reference_many_rows.sample(logits, settings, [0, 1], [0, 1])
    assert rows.sample(logits, settings, **candidates(rows.device, logits, 5)) == wanted


@pytest.mark.parametrize("top_p", [0.1, 0.3, 0.7, 0.9])
def test_sample_top_p_of_equals_keeps_the_lower_ids(top_p: float) -> None:
    """Every boundary is a tie here: among 10 equal tokens p = 0.3 keeps exactly ids 0, 1 and 2."""
    kept = {definition.sample(np.zeros(10, np.float32), Sampling(1.0, top_p=top_p, seed=s), 0, 0) for s in range(300)}
    drawn = set()
    for seed in range(100):
        drawn |= set(Rows(launcher("plain"), 1).sample(np.zeros((1, 10), np.float32), Sampling(1.0, 0, top_p, seed)))
    assert drawn == kept == set(range(len(kept)))


def test_sample_top_p_mass_is_exact() -> None:
    """Targets 1e-10 before and behind the sums of masses: float32 exponentials would keep one token more, or fewer."""
    logits = rng(8).normal(0, 0.5, (1, 6)).astype(np.float32)
    ranked = np.sort(logits[0].astype(np.float64))[::-1]
    shares = np.cumsum(np.exp(ranked - ranked[0]))[:-1] / np.exp(ranked - ranked[0]).sum()
    for share in shares:
        for settings in (Sampling(1.0, 0, share * (1 + sign * 1e-10), seed) for sign in (-1, 1) for seed in range(20)):
            wanted = definition.sample(logits[0], settings, 0, 0)
            assert Rows(launcher("plain"), 1).sample(logits, settings) == [wanted], settings


@pytest.mark.parametrize("settings", [GREEDY, Sampling(1.0, 2, 0.5)])
def test_sample_draws_nothing_where_the_best_is_not_finite(settings: Sampling) -> None:
    """A broken model is to be seen: such a row reports -2 and is over; one that only rules tokens out goes on."""
    inf, nan = np.inf, np.nan
    broken = [[1, -nan, 2, nan], [nan] * 4, [1, inf, 2, 0], [-inf] * 4, [1, -nan, 2, 0]]
    logits = np.array([*broken, [1, -inf, 2, -inf]], np.float32)
    rows = Rows(launcher("plain"), 6)
    tokens = rows.sample(logits, settings)
    assert tokens == reference_many_rows.sample(logits, settings, [0] * 6, list(range(6)))
    assert tokens[:5] == [definition.NOT_FINITE] * 5
    assert tokens[5] in (0, 2)
    assert rows.get("finished") == [1, 1, 1, 1, 1, 0]


def test_sample_sees_a_candidate_that_is_not_finite() -> None:
    device = launcher("plain")
    best_logits = np.array([[3, np.nan, 1], [np.inf, 2, 1], [3, -np.inf, 1]], np.float32)
    best: dict[str, Any] = {
        "best_logits": device.upload(best_logits, "float32"),
        "best_ids": device.upload(np.array([[5, 6, 7]] * 3), "int32"),
    }
    assert Rows(device, 3).sample(np.zeros((3, 10), np.float32), GREEDY, **best) == [-2, -2, 5]


@pytest.mark.parametrize("mode", ALL_MODES)
@pytest.mark.parametrize("blocks", [0, 3])
@pytest.mark.parametrize(
    "settings", [GREEDY, Sampling(0.9, 30, 0.8, 2**63 + 5), Sampling(1.0, 0, 0.9), Sampling(1.0, seed=4)]
)
def test_sample_is_clean_in_every_mode(mode: str, settings: Sampling, blocks: int) -> None:
    logits = np.round(rng(3).normal(0, 4, (4, 1111)), 1).astype(np.float32)
    logits[1, 5] = np.inf
    drawn = [definition.sample(logits[0], settings, 0, 0), -2, definition.sample(logits[2], settings, 2, 2), -1]
    count = 2 if mode == "race" else 4  # of whose threads there is a limit
    rows = Rows(launcher(mode), count, ring_size=2, sequences=[7] * count, finished=[0, 0, 0, 1][:count])
    best = candidates(rows.device, logits[:count], blocks) if blocks else {}
    assert rows.sample(logits[:count], settings, stops=[-1, drawn[0]], **best) == drawn[:count]
    assert rows.get("finished") == [1, 1, int(drawn[0] == drawn[2]), 1][:count]
    rows.check_clean()


@pytest.mark.parametrize("mode", ALL_MODES)
def test_sample_greedy_from_candidates(mode: str) -> None:
    """Ties between blocks go to the lower id, wherever it stands; the logits are not read."""
    device = launcher(mode)
    best_logits = rng(4).integers(0, 9, (16, 700)).astype(np.float32)
    best_ids = np.stack([rng(5, row).permutation(10_000)[:700] for row in range(16)])
    best_logits[::2, -1] = 9
    count = 2 if mode == "race" else 16
    best: dict[str, Any] = {
        "best_logits": device.upload(best_logits[:count], "float32"),
        "best_ids": device.upload(best_ids[:count], "int32"),
    }
    wanted = [int(best_ids[i][best_logits[i] == best_logits[i].max()].min()) for i in range(count)]
    assert Rows(device, count).sample(np.full((count, 10_000), np.nan, np.float32), GREEDY, **best) == wanted


def test_sample_candidates_do_not_touch_draws() -> None:
    device, settings = launcher("plain"), Sampling(1.0, seed=3)
    logits = rng(6).normal(size=(1, 400)).astype(np.float32)
    for blocks in (1, 2, 31):
        best = candidates(device, logits, blocks)
        assert Rows(device, 1).sample(logits, settings, **best) == [definition.sample(logits[0], settings, 0, 0)]


def test_sample_generation_advances_until_stop_tokens() -> None:
    """Five steps of three rows: the state of running rows advances, a stop token is reported and ends its row."""
    device, settings = launcher("plain"), Sampling(1.0, seed=9)
    rows = Rows(device, 3, ring_size=2, steps=[0, 0, 0], request_rows=[2, 0, 1])
    logits = rng(7).normal(size=(5, 3, 50)).astype(np.float32)
    wanted = [reference_many_rows.sample(logits[t], settings, [t] * 3, [2, 0, 1]) for t in range(5)]
    stops = [wanted[1][0], wanted[3][2]]
    ended, expected = [False] * 3, []
    for tokens in wanted:
        expected.append([-1 if end else token for token, end in zip(tokens, ended, strict=True)])
        ended = [end or token in stops for token, end in zip(tokens, ended, strict=True)]
    assert [rows.sample(logits[t], settings, stops) for t in range(5)] == expected
    counts = [sum(tokens[i] >= 0 for tokens in expected) for i in range(3)]
    assert ended[0]
    assert ended[2]
    assert rows.get("finished") == [int(end) for end in ended]
    assert rows.get("steps") == counts
    assert rows.get("positions") == [10 + i + counts[i] for i in range(3)]
    assert rows.get("token_ids") == [[t[i] for t in expected if t[i] >= 0][-1] for i in range(3)]
    assert rows.get("sequences") == [5, 5, 5]


def test_sample_without_stop_tokens_never_finishes() -> None:
    rows = Rows(launcher("plain"), 1)
    assert rows.sample(np.array([[1.0, 3.0]]), GREEDY) == [1]
    assert rows.get("finished") == [0]


def test_sample_names_what_it_lacks() -> None:
    device = launcher("plain")
    rows, half, best = Rows(device, 1), device.empty((1, 8), "float16"), device.empty((1, 2), "float32")
    with pytest.raises(UnsupportedError, match="float32"):
        sample(device, half, device.empty((6,), "uint32"), rows.state, rows.ring, rows.scratch((1, 8)))
    with pytest.raises(ValueError, match="both or neither"):
        rows.sample(np.zeros((1, 4)), GREEDY, best_logits=best)
