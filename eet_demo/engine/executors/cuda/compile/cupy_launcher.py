"""CuPy behind the launcher interface: kernels compiled at run time for the GPU there is, or loaded as cubins."""

from __future__ import annotations

import ctypes
import importlib
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eet_demo.engine.executors.cuda.arrays import DeviceArray, DType, from_host, to_host
from eet_demo.engine.executors.cuda.compile.cubins import CubinFolder
from eet_demo.engine.executors.cuda.compile.driver import Driver
from eet_demo.engine.executors.cuda.compile.launch import (
    MAX_SHARED_BYTES,
    Argument,
    Instance,
    LaunchConfig,
    check_argument,
)
from eet_demo.engine.executors.cuda.compile.nvrtc import cuda_include, refusal
from eet_demo.engine.executors.cuda.compile.sources import CUDA_SOURCES, Source, read_source
from eet_demo.errors import CacheError, CudaCompileError, UnsupportedError
from eet_demo.machine.hardware import usable_cores

log = logging.getLogger(__name__)

MAX_COMPILERS = 16

OVERLAP_CAPABILITY = 90
"""Programmatic dependent launch needs sm_90; below, `overlaps` changes nothing but time."""


class CupyLauncher:
    """Compiles each instance once, for this GPU, and launches it on the stream that `stream` names at that moment.

    Args:
        stream: returns the raw stream to launch on, read at every launch (a graph capture changes it); None uses CuPy's
            current one.
        cubins: folder filled by the `gates` command; what it lacks for this GPU is compiled.
        overlap: whether launches marked `overlaps` may really overlap.
        defines: macros of the kernels, as NO_PREFETCH; cubins are built without any.
        folder: where `<stem>.cu` lies.

    Raises:
        UnsupportedError: CuPy is not installed, or there is no GPU or driver.
    """

    def __init__(
        self,
        stream: Callable[[], int] | None = None,
        cubins: Path | None = None,
        overlap: bool = True,
        defines: tuple[str, ...] = (),
        folder: Path = CUDA_SOURCES,
    ) -> None:
        self._cupy, libcuda = import_cupy()
        self._driver = Driver(libcuda)
        self._stream = stream or (lambda: int(self._cupy.cuda.get_current_stream().ptr))
        self._cubins = CubinFolder(cubins) if cubins else None
        device = self._cupy.cuda.Device()
        self.capability = int(device.compute_capability)
        self.processors = int(device.attributes["MultiProcessorCount"])
        self._overlap = overlap and self.capability >= OVERLAP_CAPABILITY
        self._folder, self._defines = folder, defines
        self._functions: dict[Instance, Any] = {}

    def prepare(self, instances: Iterable[Instance]) -> None:
        """Several at a time: NVRTC compiles in parallel, and a model has some fifty instances."""
        with ThreadPoolExecutor(max_workers=min(MAX_COMPILERS, usable_cores())) as pool:
            list(pool.map(self._function, instances))

    def bind(self, instance: Instance, config: LaunchConfig, arguments: Sequence[Argument]) -> Callable[[], None]:
        for index, argument in enumerate(arguments):
            check_argument(index, argument)
        function = self._function(instance)
        if config.shared_bytes > MAX_SHARED_BYTES and function.max_dynamic_shared_size_bytes < config.shared_bytes:
            function.max_dynamic_shared_size_bytes = config.shared_bytes
        overlaps = config.overlaps and self._overlap
        launch, stream = self._driver.bind(function.kernel.ptr, config.with_overlap(overlaps), arguments), self._stream
        return lambda: launch(stream())

    def launch(self, instance: Instance, config: LaunchConfig, arguments: Sequence[Argument]) -> None:
        self.bind(instance, config, arguments)()

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
        """One RawModule an instance: a model loads only what it uses."""
        if instance not in self._functions:
            source = read_source(instance.stem, self._folder, self._defines)
            started = time.perf_counter()
            function = self._from_cubin(source, instance) or self._compile(source, instance)
            log.info("%s ready in %.2f s", instance.expression, time.perf_counter() - started)
            self._functions[instance] = function
        return self._functions[instance]

    def _from_cubin(self, source: Source, instance: Instance) -> Any:
        found = self._cubins.find(source, instance, f"sm_{self.capability}") if self._cubins else None
        if found is None:
            return None
        try:
            return self._cupy.RawModule(path=str(found.path)).get_function(found.symbol)
        except self._cupy.cuda.driver.CUDADriverError as error:  # built by a newer CUDA than the driver knows
            log.warning("the driver refuses %s (%s): compiled here instead", found.path.name, error)
            return None

    def _compile(self, source: Source, instance: Instance) -> Any:
        options = ("--std=c++17", f"-I{cuda_include()}")
        module = self._cupy.RawModule(code=source.text, options=options, name_expressions=[instance.expression])
        try:
            return module.get_function(instance.expression)
        except OSError as error:
            raise CacheError(
                f"CuPy cannot keep what it compiles ({error}); CUPY_CACHE_DIR names another folder"
            ) from None
        except self._cupy.cuda.compiler.CompileException as error:
            arch = f"sm_{self.capability}"
            raise CudaCompileError(refusal("NVRTC", source, [instance.expression], error.get_message(), arch)) from None


def import_cupy() -> tuple[Any, ctypes.CDLL]:
    """CuPy and libcuda. Raises UnsupportedError naming what is missing and the remedy."""
    try:
        cupy: Any = importlib.import_module("cupy")
    except ImportError as error:
        raise UnsupportedError(f"device 'cuda' needs CuPy: pip install 'cupy-cuda13x[ctk]' ({error})") from None
    try:
        libcuda = ctypes.CDLL("libcuda.so.1")
        if cupy.cuda.runtime.getDeviceCount() > 0:
            return cupy, libcuda
        reason = "no device"
    except (OSError, cupy.cuda.runtime.CUDARuntimeError) as error:
        reason = str(error)
    if "InsufficientDriver" in reason:
        raise UnsupportedError(
            f"this GPU's driver is older than CuPy {cupy.__version__} needs ({reason}): update the driver, or install "
            "CuPy for CUDA 12 (pip install cupy-cuda12x in the place of cupy-cuda13x)"
        )
    raise UnsupportedError(
        f"device 'cuda' needs an NVIDIA GPU and its driver ({reason}); 'sim' runs the same kernels here"
    )
