"""Where lowered work goes: to the device at once, or onto a list that is replayed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from numpy.typing import NDArray

from eet_demo.engine.executors.cuda.arrays import DeviceArray, DType
from eet_demo.engine.executors.cuda.compile.launch import Argument, Instance, LaunchConfig, Launcher

RECENT = 4
"""Launches that an error names."""

Call = Callable[[], object]


@dataclass
class Recording:
    """Work in order, and the kernels among it."""

    calls: list[Call] = field(default_factory=list)
    instances: dict[Instance, None] = field(default_factory=dict)

    def replay(self) -> None:
        for call in self.calls:
            call()


class Queue:
    """A launcher that can keep its launches. GEMMs, which are torch's, go through `call`, so order is kept."""

    def __init__(self, launcher: Launcher, wait_after_launch: bool = False) -> None:
        """`wait_after_launch` makes a fault show at the launch that caused it."""
        self._launcher, self._wait = launcher, wait_after_launch
        self._recording: Recording | None = None
        self._runs = True
        self.recent: deque[str] = deque(maxlen=RECENT)

    @property
    def processors(self) -> int:
        return self._launcher.processors

    @property
    def capability(self) -> int | None:
        return self._launcher.capability

    @contextmanager
    def recording(self, runs: bool = False) -> Iterator[Recording]:
        """The recording holds what is enqueued inside; it also runs there if `runs`, else only when replayed."""
        self._recording, self._runs = Recording(), runs
        try:
            yield self._recording
        finally:
            self._recording, self._runs = None, True

    def launch(self, instance: Instance, config: LaunchConfig, arguments: Sequence[Argument]) -> None:
        if self._recording is not None:
            self._recording.instances[instance] = None
            if not self._runs:
                self._recording.calls.append(partial(self._launch, instance, config, tuple(arguments)))
                return
            bound = self._launcher.bind(instance, config, arguments)
            self._recording.calls.append(bound)
            bound()
        else:
            self._launch(instance, config, arguments)

    def _launch(self, instance: Instance, config: LaunchConfig, arguments: Sequence[Argument]) -> None:
        self.recent.append(instance.expression)
        self._launcher.launch(instance, config, arguments)
        if self._wait:
            self._launcher.synchronise()

    def call(self, work: Call) -> None:
        """Runs `work`, which enqueues torch operations on the current stream, or keeps it too."""
        if self._recording is not None:
            self._recording.calls.append(work)
        if self._runs:
            work()

    def bind(self, instance: Instance, config: LaunchConfig, arguments: Sequence[Argument]) -> Callable[[], None]:
        return self._launcher.bind(instance, config, arguments)

    def prepare(self, instances: Iterable[Instance]) -> None:
        self._launcher.prepare(instances)

    def empty(self, shape: tuple[int, ...], dtype: DType) -> DeviceArray:
        return self._launcher.empty(shape, dtype)

    def upload(self, values: NDArray[Any], dtype: DType) -> DeviceArray:
        return self._launcher.upload(values, dtype)

    def write(self, array: DeviceArray, values: NDArray[Any]) -> None:
        self._launcher.write(array, values)

    def download(self, array: DeviceArray) -> NDArray[Any]:
        return self._launcher.download(array)

    def synchronise(self) -> None:
        self._launcher.synchronise()
