"""Ops to kernel calls: fused kernels up to 16 rows, kernels around GEMMs above; then the head and the sampler."""

from __future__ import annotations

from collections.abc import Callable

from eet_demo.engine import program as p
from eet_demo.engine.executors.cuda.arrays import DeviceArray
from eet_demo.engine.executors.cuda.launchers.gemv import MAX_ROWS
from eet_demo.engine.executors.cuda.launchers.norm_lm_head import Candidates, instance, norm_lm_head
from eet_demo.engine.executors.cuda.launchers.sample import SampleScratch, sample
from eet_demo.engine.executors.cuda.runtime.few_rows import FewRows
from eet_demo.engine.executors.cuda.runtime.inputs import RowState, StepInputs
from eet_demo.engine.executors.cuda.runtime.many_rows import ManyRows
from eet_demo.engine.executors.cuda.runtime.operands import Operands
from eet_demo.engine.executors.cuda.runtime.queue import Queue
from eet_demo.records import SplitKv

Watch = Callable[[p.Op, DeviceArray], None]
"""Told of each op and what it wrote; debug mode looks for NaN there."""


class Lowering:
    """Enqueues steps. Nothing here waits for the device or looks at its memory."""

    def __init__(
        self,
        operands: Operands,
        queue: Queue,
        processors: int,
        capability: int | None,
        split_kv: SplitKv,
        watch: Watch | None = None,
    ) -> None:
        self._operands, self._queue, self._watch = operands, queue, watch
        self._few = FewRows(operands, queue, processors, split_kv)
        self._many = ManyRows(operands, queue, self._few, capability)
        head = operands.program.ops[-2]
        assert isinstance(head, p.NormLmHead), "every program ends with norm_lm_head and sample"
        self._head = head

    def body(self, inputs: StepInputs) -> None:
        """Every op before the head."""
        path = self._few if inputs.rows <= MAX_ROWS else self._many
        for op in self._operands.program.ops[:-2]:
            path.run(op, inputs)
            for name in op.writes if self._watch else ():
                self._seen(op, self._operands.buffer(name, inputs.rows))

    def head(self, rows: int, wanted: DeviceArray) -> tuple[DeviceArray, Candidates | None]:
        """logits (wanted, vocab) of a step of `rows` rows, and each block's best where one launch does it."""
        operands, count = self._operands, wanted.shape[0]
        logits = operands.buffer(p.LOGITS, count)
        candidates = self._candidates(count) if count <= MAX_ROWS else None
        if candidates is None:
            self._many.head(self._head, rows, wanted, logits)
        else:
            op = self._head
            norm_lm_head(
                self._queue, operands.buffer(p.RESIDUAL, rows), wanted, operands.norm(op.norm),
                operands.matrix(op.head.weight), dtype=operands.dtype, logits=logits, candidates=candidates,
                bias=operands.vector(op.head.bias), scale=op.scale, soft_cap=op.soft_cap,
            )  # fmt: skip
        self._seen(self._head, logits)
        return logits, candidates

    def draw(self, logits: DeviceArray, best: Candidates | None, state: RowState, ring: DeviceArray) -> None:
        """One token for each row of `state`, which goes on by one, reported in `ring` (entries, rows, 2)."""
        sample(
            self._queue, logits, state.settings, state.sample, ring, self._sample_scratch(), stop_ids=state.stop_ids,
            best_logits=best.best_logits if best else None, best_ids=best.best_ids if best else None,
        )  # fmt: skip

    def decode_step(self, state: RowState, length: int, ring: DeviceArray) -> None:
        """A whole step of `state`: it reads nothing of the host, so it can be captured and replayed."""
        self.body(state.inputs(length))
        logits, best = self.head(state.rows, state.wanted)
        self.draw(logits, best, state, ring)

    def _candidates(self, count: int) -> Candidates:
        operands, op = self._operands, self._head
        weight, state = operands.matrix(op.head.weight), operands.arena.state
        norm = operands.norm(op.norm).kind
        plan = instance(weight.rows, weight.columns, count, operands.dtype, weight.format, norm)[1]
        shape = (count, plan.blocks(self._queue))
        return Candidates(state["best_logits"].view(shape), state["best_ids"].view(shape))

    def _sample_scratch(self) -> SampleScratch:
        operands, op = self._operands, self._operands.program.ops[-1]
        state, scratch = operands.arena.state, operands.scratch
        return SampleScratch(
            state["sample_classes"], state["sample_counters"], scratch(op, "firsts"), scratch(op, "survivors")
        )

    def _seen(self, op: p.Op, array: DeviceArray) -> None:
        watch = self._watch
        if watch:
            self._queue.call(lambda: watch(op, array))
