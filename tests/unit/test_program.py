"""Bytes and operations of a step, against sums done by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from eet_demo.engine.compile_spec import build_program
from eet_demo.engine.executors.cpu.lowering import Lowering
from eet_demo.engine.executors.cuda.runtime.few_rows import FewRows
from eet_demo.engine.executors.cuda.runtime.many_rows import ManyRows
from eet_demo.engine.executors.reference.executor import ReferenceExecutor
from eet_demo.engine.families import spec_from_config
from eet_demo.engine.program import Attention, NormLmHead, Op, Sample
from eet_demo.engine.weights import Part, Weight
from eet_demo.engine.work import Bytes, Work

LLAMA = {
    "model_type": "llama",
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
    "rms_norm_eps": 1e-6,
}
MISTRAL = LLAMA | {"model_type": "mistral", "sliding_window": 11}
QWEN = LLAMA | {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 10, "max_window_layers": 1}
GEMMA = LLAMA | {
    "num_hidden_layers": 4,
    "head_dim": 16,
    "query_pre_attn_scalar": 16,
    "sliding_window": 9,
    "hidden_activation": "gelu_pytorch_tanh",
}
GEMMA2 = GEMMA | {"model_type": "gemma2", "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
GEMMA3 = GEMMA | {"model_type": "gemma3_text", "sliding_window_pattern": 3}

SLOT = 2 * 2 * 16 * 4
"""Bytes of a token's keys and values in one layer: two KV heads of 16, float32."""


def attention_bytes(config: dict[str, object], work: Work) -> list[int]:
    """What each layer's attention reads of the cache: its bytes without queries in and attention out."""
    ops = [op for op in build_program(spec_from_config(config)).ops if isinstance(op, Attention)]
    return [op.bytes_moved(work, {}, Bytes()) - 2 * work.rows * 64 * 4 for op in ops]


@pytest.mark.parametrize(
    ("config", "slots"),
    [
        (LLAMA, [40, 40, 40]),
        (MISTRAL, [11, 11, 11]),
        (QWEN, [40, 10, 10]),
        (GEMMA2, [9, 40, 9, 40]),
        (GEMMA3, [9, 9, 40, 9]),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)
def test_decode_reads_no_slot_outside_a_window(config: dict[str, object], slots: list[int]) -> None:
    assert attention_bytes(config, Work.decode(1, 40)) == [SLOT * count for count in slots]
    assert attention_bytes(config, Work.decode(3, 40)) == [3 * SLOT * count for count in slots]
    assert attention_bytes(config, Work.decode(1, 7)) == [SLOT * 7] * len(slots), "shorter than every window"


def test_pass_of_many_rows_reads_each_slot_once_and_attends_row_by_row() -> None:
    """Rows 4 .. 6 of a sequence, and rows 0 .. 1 of another, with a window of 3 and without one."""
    work = Work(wanted=2, sequences=((3, 7), (2, 2)))
    assert work.rows == 5
    assert work.cached_slots(None) == 7 + 2
    assert work.cached_slots(3) == 5 + 2, "row 4 sees slots 2 to 4, row 6 sees 4 to 6"
    assert work.attended_slots(None) == (5 + 6 + 7) + (1 + 2)
    assert work.attended_slots(3) == (3 + 3 + 3) + (1 + 2)


def test_arithmetic_of_attention_stops_at_the_window() -> None:
    ops = [op for op in build_program(spec_from_config(MISTRAL)).ops if isinstance(op, Attention)]
    assert ops[0].flops(Work.decode(2, 40)) == 2 * 4 * 11 * 64
    assert dataclasses.replace(ops[0], window=None).flops(Work.decode(2, 40)) == 2 * 4 * 40 * 64


HEAD = {NormLmHead, Sample}
"""No part of a pass on the executors that draw tokens apart from it."""


@pytest.mark.parametrize(
    ("executor", "method", "apart"),
    [(ReferenceExecutor, "_run", HEAD), (Lowering, "_record", set()), (FewRows, "run", HEAD), (ManyRows, "run", HEAD)],
)
def test_every_executor_has_a_method_for_every_op(executor: type, method: str, apart: set[type]) -> None:
    known = set(vars(executor)[method].dispatcher.registry) - {object}
    assert known == set(Op.__subclasses__()) - apart


def test_gate_and_up_rows_alternate_and_other_parts_follow_each_other() -> None:
    gate, up = Part("gate", 5), Part("up", 5)
    for parts, interleaved in (((gate, up), True), ((gate, up), False), ((Part("q", 7), Part("k", 2), gate), False)):
        weight = Weight("w", parts, 4, interleaved)
        filled = np.full(weight.rows, -1)
        for part, own in enumerate(parts):
            for start in range(0, own.rows, 3):  # in blocks, as a checkpoint is read
                count = min(3, own.rows - start)
                filled[weight.rows_of(part, start, count)] = 100 * part + np.arange(start, start + count)
        expected = np.concatenate([100 * part + np.arange(own.rows) for part, own in enumerate(parts)])
        assert filled.tolist() == (expected.reshape(2, 5).T.ravel() if interleaved else expected).tolist()
