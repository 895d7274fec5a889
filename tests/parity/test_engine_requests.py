"""What the engine promises beside its tokens: refusals, one generation at a time, cancel, stop tokens, sampling."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eet_demo import Engine, EngineOptions, Sampling
from eet_demo.engine.devices import DEVICES as DEVICE_KINDS
from eet_demo.engine.executors import Executor
from eet_demo.errors import (
    CheckpointError,
    EngineBusyError,
    EngineClosedError,
    KernelFaultError,
    MemoryPlanError,
    RequestError,
    UnsupportedError,
)
from tests.parity.checkpoints import make_checkpoint

DEVICES = ("reference", "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    make_checkpoint(folder, "llama")
    return folder


@pytest.fixture(scope="module", params=DEVICES)
def engine(request: pytest.FixtureRequest, folder: Path) -> Iterator[Engine]:
    options = EngineOptions(prefill_chunk=8, debug=True)
    with Engine.from_pretrained(folder, request.param, max_batch=3, max_context=40, options=options) as engine:
        yield engine


@pytest.mark.parametrize(
    ("prompts", "new_tokens", "message"),
    [
        ([], 1, "0 prompts"),
        ([[1]] * 4, 1, "4 prompts.*1 to 3"),
        ([[1], []], 1, "prompt 1 is empty"),
        ([[1, 331]], 1, "token id 331.*0 to 330"),
        ([[-1]], 1, "token id -1"),
        ([[1]], 0, "max_new_tokens is 0"),
        ([[1]], -3, "max_new_tokens is -3"),
        ([[1] * 30], 11, "30 tokens and 11 new"),
        ([[1], [1, 2.5]], 1, "prompt 1 holds 2.5 at place 1, a float; token ids are whole numbers"),
        ([[2.0]], 1, "prompt 0 holds 2.0 at place 0"),
        ([[3, True]], 1, "prompt 0 holds True at place 1, a bool"),
        ([np.array([1.5, 2.0])], 1, "prompt 0 holds 1.5 at place 0"),
        ([["1"]], 1, "prompt 0 holds '1' at place 0, a str"),
        ([1, 2], 1, "prompt 0 is 1, an int; a prompt is a sequence of token ids"),
        ([[1]], 2.5, "max_new_tokens is 2.5"),
    ],
)
def test_bad_requests_are_refused(engine: Engine, prompts: Any, new_tokens: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        engine.generate(prompts, max_new_tokens=new_tokens)
    with pytest.raises(ValueError, match=message):
        engine.stream(prompts, max_new_tokens=new_tokens)


def test_ids_may_be_of_any_integer_type(engine: Engine) -> None:
    expected = engine.generate([[1, 2, 3]], max_new_tokens=3).token_ids
    prompt: Any
    for prompt in ((1, 2, 3), np.array([1, 2, 3]), np.array([1, 2, 3], np.uint16), [np.int32(1), np.int64(2), 3]):
        assert engine.generate([prompt], max_new_tokens=3).token_ids == expected


@pytest.mark.parametrize("stop", [2.5, "2", True])
def test_stop_token_that_is_no_id_is_refused(engine: Engine, stop: Any) -> None:
    with pytest.raises(RequestError, match="stop_token_ids holds"):
        engine.stream([[1]], max_new_tokens=1, stop_token_ids=[stop])


def test_context_may_be_filled_to_its_end(engine: Engine) -> None:
    assert len(engine.generate([[1] * 30], max_new_tokens=10).token_ids[0]) == 10


def test_second_generation_is_busy_until_the_first_closes(engine: Engine) -> None:
    stream = engine.stream([[1, 2]], max_new_tokens=5)
    next(stream)
    with pytest.raises(EngineBusyError):
        engine.stream([[1]], max_new_tokens=1)
    stream.close()
    assert list(stream) == []
    assert len(engine.generate([[1]], max_new_tokens=2).token_ids[0]) == 2


def test_dropped_stream_lets_go(engine: Engine) -> None:
    stream = engine.stream([[1, 2]], max_new_tokens=5)
    del stream
    gc.collect()
    engine.generate([[1]], max_new_tokens=1)


@pytest.mark.parametrize("device", DEVICES)
def test_closed_engine_says_so_and_closes_again(folder: Path, device: str) -> None:
    with Engine.from_pretrained(folder, device, max_batch=1, max_context=16) as engine:
        stream = engine.stream([[1, 2]], max_new_tokens=5)
        with pytest.raises(EngineBusyError):
            engine.close()
        stream.close()
        engine.close()
        for use in (
            lambda: engine.stream([[1]], max_new_tokens=1),
            lambda: engine.generate([[1]], max_new_tokens=1),
            lambda: engine.prefill_logits([[1]]),
            engine.measure_bandwidth_gb_s,
            engine.load,
        ):
            with pytest.raises(EngineClosedError, match="closed"):
                use()
    engine.close()


def test_engine_that_cannot_load_closes_and_says_why(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object, *_: object) -> None:
        raise KernelFaultError("the device is gone")

    broken = Engine.build(folder, "reference", max_batch=1, max_context=16)
    closed: list[object] = []

    def close(self: object) -> None:
        closed.append(self)
        fail(self)

    monkeypatch.setattr(type(broken._executor), "load", lambda *_: (_ for _ in ()).throw(CheckpointError("truncated")))
    monkeypatch.setattr(type(broken._executor), "close", close)
    with pytest.raises(CheckpointError, match="truncated") as error:
        broken.load()
    assert closed, "what was allocated is given back"
    assert "the device is gone" in "".join(error.value.__notes__)
    broken.close()


def test_prefill_callback_sees_every_pass_and_may_cancel(engine: Engine) -> None:
    seen: list[tuple[int, int]] = []
    list(engine.stream([[1] * 13, [2] * 7], 1, on_prefill=lambda done, total: seen.append((done, total))))
    assert seen == [(8, 20), (16, 20), (20, 20)]

    def cancel(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(engine.stream([[1] * 13], 1, on_prefill=cancel))
    engine.generate([[1]], max_new_tokens=1)


def test_stop_token_is_included_and_ends_its_row_alone(engine: Engine) -> None:
    prompts = [[3, 4, 5], [6], [7] * 9]
    free = engine.generate(prompts, max_new_tokens=12).token_ids
    stop = free[0][3]
    stopped = engine.generate(prompts, max_new_tokens=12, stop_token_ids=[stop]).token_ids
    for row, tokens in zip(stopped, free, strict=True):
        end = tokens.index(stop) + 1 if stop in tokens else len(tokens)
        assert row == tokens[:end]
    steps = list(engine.stream(prompts, 12, stop_token_ids=[stop]))
    ended = free[0].index(stop)
    assert all((step.token_ids[0] is None) == (index > ended) for index, step in enumerate(steps))


def test_token_times_rise(engine: Engine) -> None:
    times = [step.time_ns for step in engine.stream([[1]], max_new_tokens=8)]
    assert times == sorted(times)
    assert len(set(times)) == 8


def test_sampled_tokens_do_not_depend_on_the_batch(engine: Engine) -> None:
    sampling = Sampling(temperature=0.9, top_k=50, top_p=0.95, seed=7)
    together = engine.generate([[5, 6, 7], [9]], 10, sampling).token_ids
    assert engine.generate([[5, 6, 7]], 10, sampling).token_ids[0] == together[0]
    assert engine.generate([[5, 6, 7], [9], [4] * 20], 10, sampling).token_ids[:2] == together


def test_sampling_equal_across_executors(folder: Path) -> None:
    results = []
    for device in DEVICES:
        with Engine.from_pretrained(folder, device, max_batch=2, max_context=64) as engine:
            results.append(
                [
                    engine.generate([[5, 6, 7], [9]], 30, Sampling(temperature, top_k, top_p, seed)).token_ids
                    for temperature, top_k, top_p, seed in (
                        (1.0, 0, 1.0, 1),
                        (0.8, 20, 1.0, 2),
                        (1.3, 0, 0.9, 2**63 + 5),
                    )
                ]
            )
    assert results[0] == results[1]
    assert results[0][0] != results[0][1]


def test_plan_equals_the_loaded_engine_and_refuses_before_allocating(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Engine.from_pretrained(folder, "cpu", max_batch=2, max_context=64) as engine:
        report = engine.memory
        assert report == Engine.plan(folder, "cpu", max_batch=2, max_context=64)

    def small(*_: object) -> int:
        return report.total_bytes - 1

    def allocate(*_: object) -> Executor:
        raise AssertionError("an engine that does not fit was made")

    kind = DEVICE_KINDS["cpu"]
    monkeypatch.setitem(DEVICE_KINDS, "cpu", replace(kind, available_bytes=small, executor=allocate))
    with pytest.raises(MemoryPlanError, match="available"):
        Engine.from_pretrained(folder, "cpu", max_batch=2, max_context=64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "tpu"}, "tpu.*reference.*cpu"),
        ({"device": "reference", "dtype": "int8"}, "int8.*float32, float64"),
        ({"device": "reference", "weights": "int4"}, "int4.*dense, q8_0, packed"),
        ({"device": "reference", "weights": "packed"}, "has none.*'dense' and 'q8_0'"),
        ({"device": "cpu", "options": EngineOptions(graph=False)}, "graph.*knows"),
        ({"device": "reference", "options": EngineOptions(quantised_activations=True)}, "quantised_activations"),
    ],
)
def test_what_a_device_lacks_is_named(folder: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        Engine.from_pretrained(folder, **({"max_context": 64} | arguments))


def test_context_beyond_the_model_is_refused(folder: Path) -> None:
    with pytest.raises(RequestError, match=r"97.*96 positions"):
        Engine.from_pretrained(folder, "reference", max_context=97)


def test_float64_reference_is_closer_than_float32(folder: Path) -> None:
    logits = {}
    for dtype in ("float32", "float64"):
        with Engine.from_pretrained(folder, "reference", dtype, max_context=64) as engine:
            logits[dtype] = engine.prefill_logits([[1, 2, 3]])
    assert np.abs(logits["float32"] - logits["float64"]).max() < 1e-4
