"""CuPy behind the launcher interface: kernels are compiled at run time for the GPU that is there."""

from __future__ import annotations

import ctypes
import importlib
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eet_demo.engine.executors.cuda.arrays import DeviceArray, DType, from_host, to_host
from eet_demo.engine.executors.cuda.launch import MAX_SHARED_BYTES, Argument, Instance, LaunchConfig, check_argument
from eet_demo.engine.executors.cuda.sources import CUDA_SOURCES, read_source
from eet_demo.errors import KernelCompileError, UnsupportedError

log = logging.getLogger(__name__)

OPTIONS = ("--std=c++17",)


class CupyLauncher:
    """Compiles each instance once, for this GPU, and launches it on the stream that `stream` names at that moment.

    Args:
        stream: returns the raw stream to launch on, read at every launch (a graph capture changes it); None uses CuPy's
            current one.
        folder: where `<stem>.cu` lies.

    Raises:
        UnsupportedError: CuPy is not installed, or there is no GPU or driver.
    """

    def __init__(self, stream: Callable[[], int] | None = None, folder: Path = CUDA_SOURCES) -> None:
        self._cupy = _import_cupy()
        self._stream = stream or (lambda: int(self._cupy.cuda.get_current_stream().ptr))
        self._folder = folder
        self._functions: dict[Instance, Any] = {}

    def prepare(self, instances: Iterable[Instance]) -> None:
        for instance in instances:
            self._function(instance)

    def launch(self, instance: Instance, config: LaunchConfig, arguments: Sequence[Argument]) -> None:
        function = self._function(instance)
        if config.shared_bytes > MAX_SHARED_BYTES:
            function.max_dynamic_shared_size_bytes = config.shared_bytes
        function(
            config.grid,
            (config.threads, 1, 1),
            tuple(_pack(index, argument) for index, argument in enumerate(arguments)),
            shared_mem=config.shared_bytes,
            stream=_Stream(self._stream()),
        )

    def empty(self, shape: tuple[int, ...], dtype: DType) -> DeviceArray:
        nbytes = DeviceArray(0, shape, dtype).nbytes
        memory = self._cupy.cuda.alloc(nbytes)
        return DeviceArray(int(memory.ptr), shape, dtype, memory)

    def upload(self, values: NDArray[Any], dtype: DType) -> DeviceArray:
        array = self.empty(values.shape, dtype)
        self.write(array, values)
        return array

    def write(self, array: DeviceArray, values: NDArray[Any]) -> None:
        if values.shape != array.shape:
            raise UnsupportedError(f"values of shape {values.shape} for an array of shape {array.shape}")
        host = np.ascontiguousarray(to_host(values, array.dtype))
        self.synchronise()
        self._cupy.cuda.runtime.memcpy(array.pointer, host.ctypes.data, array.nbytes, 1)  # 1: host to device

    def download(self, array: DeviceArray) -> NDArray[Any]:
        host = np.empty(array.shape, np.uint16 if array.dtype == "bfloat16" else array.dtype)
        self.synchronise()
        self._cupy.cuda.runtime.memcpy(host.ctypes.data, array.pointer, array.nbytes, 2)  # 2: device to host
        return from_host(host, array.dtype)

    def synchronise(self) -> None:
        self._cupy.cuda.runtime.streamSynchronize(self._stream())

    def _function(self, instance: Instance) -> Any:
        if instance not in self._functions:
            self._functions[instance] = self._compile(instance)
        return self._functions[instance]

    def _compile(self, instance: Instance) -> Any:
        """One RawModule an instance: a model loads only what it uses."""
        source = read_source(instance.stem, self._folder)
        started = time.perf_counter()
        module = self._cupy.RawModule(code=source.text, options=OPTIONS, name_expressions=[instance.expression])
        try:
            function = module.get_function(instance.expression)
        except self._cupy.cuda.compiler.CompileException as error:
            raise KernelCompileError(
                f"NVRTC refused {instance.expression}:\n{error.get_message()}\n{source.numbered()}\n"
                f"repeat it with: python -m eet_demo.engine.executors.cuda.gates --instance {instance.expression!r}"
            ) from None
        log.info("%s compiled or loaded in %.2f s", instance.expression, time.perf_counter() - started)
        return function


class _Stream:
    """What CuPy needs of a stream: its pointer."""

    def __init__(self, ptr: int) -> None:
        self.ptr = ptr


def _pack(index: int, argument: Argument) -> Any:
    check_argument(index, argument)
    if argument is None:
        return np.uint64(0)
    return np.uint64(argument.pointer) if isinstance(argument, DeviceArray) else argument


def _import_cupy() -> Any:
    try:
        cupy: Any = importlib.import_module("cupy")
    except ImportError as error:
        raise UnsupportedError(f"device 'cuda' needs CuPy: pip install 'cupy-cuda13x[ctk]' ({error})") from None
    try:
        ctypes.CDLL("libcuda.so.1")
        if cupy.cuda.runtime.getDeviceCount() > 0:
            return cupy
        reason = "no device"
    except (OSError, cupy.cuda.runtime.CUDARuntimeError) as error:
        reason = str(error)
    raise UnsupportedError(
        f"device 'cuda' needs an NVIDIA GPU and its driver ({reason}); 'sim' runs the same kernels here"
    )
