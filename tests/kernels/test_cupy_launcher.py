"""The CuPy launcher without a GPU: a stand-in for CuPy, held to the real one's signatures, records what it is asked."""

from __future__ import annotations

import ctypes
import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from cupy import RawModule  # type: ignore[attr-defined]  # by its own __init__, without saying so

from eet_demo.engine.executors.cuda.arrays import DeviceArray
from eet_demo.engine.executors.cuda.compile import cupy_launcher
from eet_demo.engine.executors.cuda.compile.cubins import CubinFolder
from eet_demo.engine.executors.cuda.compile.cupy_launcher import CupyLauncher
from eet_demo.engine.executors.cuda.compile.launch import Instance, LaunchConfig
from eet_demo.engine.executors.cuda.compile.nvrtc import Nvrtc, cuda_include
from eet_demo.engine.executors.cuda.compile.sources import read_source
from eet_demo.errors import CacheError, CudaCompileError, UnsupportedError

INSTANCE = Instance("embed", ("float16", 0, 0, 96, 1))
ARRAY = DeviceArray(0x7F0000001000, (4,), "float16")


class CUDADriverError(Exception):
    """cupy_backends.cuda.api.driver.CUDADriverError, whose message names the status."""


class CompileException(Exception):  # noqa: N818  CuPy's own name
    """cupy.cuda.compiler.CompileException: its message is the compiler's log."""

    def get_message(self) -> str:
        return str(self.args[0])


class Launch(NamedTuple):
    """What arrived at the driver; `arguments` are the 8 bytes at each pointer."""

    function: int
    stream: int
    attributes: list[int]
    shape: tuple[int, ...]
    arguments: list[bytes]


class Recorder:
    """CuPy and libcuda, as far as the launcher uses them."""

    def __init__(self, capability: str = "90") -> None:
        self.modules: list[dict[str, Any]] = []
        self.symbols: list[str] = []
        self.functions: list[Any] = []
        self.launches: list[Launch] = []
        self.refuse = ""
        self.full = False
        self.refuse_cubins = False
        device = SimpleNamespace(compute_capability=capability, attributes={"MultiProcessorCount": 132})
        self.cuda = SimpleNamespace(
            Device=lambda: device,
            compiler=SimpleNamespace(CompileException=CompileException),
            driver=SimpleNamespace(CUDADriverError=CUDADriverError),
            get_current_stream=lambda: SimpleNamespace(ptr=77),
        )

    def RawModule(self, **options: Any) -> Any:
        inspect.signature(RawModule.__init__).bind(None, **options)
        self.modules.append(options)
        if self.refuse_cubins and "path" in options:
            raise CUDADriverError("CUDA_ERROR_INVALID_IMAGE: device kernel image is invalid")
        return SimpleNamespace(get_function=self._function)

    def _function(self, symbol: str) -> Any:
        if self.full:
            raise OSError(30, "Read-only file system", "/home/user/.cupy")
        if self.refuse:
            raise CompileException(self.refuse)
        self.symbols.append(symbol)

        class Function:
            max_dynamic_shared_size_bytes = 48 * 1024
            kernel = SimpleNamespace(ptr=0xF00)

        self.functions.append(Function())
        return self.functions[-1]

    def cuLaunchKernelEx(self, record: Any, function: Any, pointers: Any, *_: Any) -> int:
        config = record._obj
        self.launches.append(
            Launch(
                function.value,
                config.stream,
                [config.attributes[i].id for i in range(config.num_attributes)],
                (*config.grid, *config.block, config.shared_bytes),
                [ctypes.string_at(p, 8) for p in pointers],
            )
        )
        return 0


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    made = Recorder()
    monkeypatch.setattr(cupy_launcher, "import_cupy", lambda: (made, made))
    return made


def test_launcher_compiles_the_inlined_source_once(recorder: Recorder) -> None:
    launcher = CupyLauncher()
    launcher.prepare([INSTANCE])
    launcher.launch(INSTANCE, LaunchConfig(96, (3, 2, 1), 1024), (ARRAY, None, np.int32(5), np.float32(0.5)))
    (module,) = recorder.modules
    assert module["code"] == read_source("embed").text
    assert module["name_expressions"] == [INSTANCE.expression] == recorder.symbols
    assert module["options"] == ("--std=c++17", f"-I{cuda_include()}")
    (launch,) = recorder.launches
    assert (launch.function, launch.stream, launch.shape) == (0xF00, 77, (3, 2, 1, 96, 1, 1, 1024))
    assert launch.arguments[:2] == [ARRAY.pointer.to_bytes(8, "little"), bytes(8)]
    assert [cell[:4] for cell in launch.arguments[2:]] == [np.int32(5).tobytes(), np.float32(0.5).tobytes()]


def test_stream_is_read_at_every_launch(recorder: Recorder) -> None:
    streams = iter([5, 6, 7])
    launcher = CupyLauncher(stream=lambda: next(streams))
    launcher.launch(INSTANCE, LaunchConfig(96), (ARRAY,))
    bound = launcher.bind(INSTANCE, LaunchConfig(96), (ARRAY,))
    for _ in range(2):
        bound()
    assert [launch.stream for launch in recorder.launches] == [5, 6, 7]
    assert len({bytes(launch.arguments[0]) for launch in recorder.launches}) == 1


@pytest.mark.parametrize(
    ("capability", "overlap", "config", "attributes"),
    [
        ("90", True, LaunchConfig(96, overlaps=True), [6]),
        ("90", False, LaunchConfig(96, overlaps=True), []),
        ("89", True, LaunchConfig(96, overlaps=True), []),
        ("75", True, LaunchConfig(96, cooperative=True), [2]),
        ("120", True, LaunchConfig(96, cooperative=True, overlaps=True), [2, 6]),
    ],
)
def test_launches_overlap_and_cooperate_where_asked(
    monkeypatch: pytest.MonkeyPatch, capability: str, overlap: bool, config: LaunchConfig, attributes: list[int]
) -> None:
    recorder = Recorder(capability)
    monkeypatch.setattr(cupy_launcher, "import_cupy", lambda: (recorder, recorder))
    CupyLauncher(stream=lambda: 9, overlap=overlap).launch(INSTANCE, config, (ARRAY,))
    assert [(launch.stream, launch.attributes) for launch in recorder.launches] == [(9, attributes)]


def test_large_shared_memory_is_opted_into(recorder: Recorder) -> None:
    launcher = CupyLauncher()
    allowed = []
    for shared_bytes in (1024, 100_000, 60_000):
        launcher.launch(INSTANCE, LaunchConfig(96, shared_bytes=shared_bytes), (ARRAY,))
        allowed.append(recorder.functions[0].max_dynamic_shared_size_bytes)
    assert allowed == [48 * 1024, 100_000, 100_000]


def test_cubin_of_this_source_and_gpu_is_loaded_instead(recorder: Recorder, tmp_path: Path) -> None:
    source = read_source("embed")
    compiled = Nvrtc().compile(source, [INSTANCE.expression], "sm_90")
    CubinFolder(tmp_path).add(source, [INSTANCE], compiled)
    CupyLauncher(cubins=tmp_path).prepare([INSTANCE])
    assert recorder.symbols == [compiled.lowered[INSTANCE.expression]]
    assert Path(recorder.modules[0]["path"]).read_bytes() == compiled.cubin
    recorder.cuda.Device().compute_capability = "86"
    CupyLauncher(cubins=tmp_path).prepare([INSTANCE])
    assert "code" in recorder.modules[1], "a cubin of another architecture must not be loaded"


def test_cubin_that_the_driver_refuses_is_compiled_instead(
    recorder: Recorder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A CUDA 13 cubin on a driver of CUDA 12."""
    source = read_source("embed")
    CubinFolder(tmp_path).add(source, [INSTANCE], Nvrtc().compile(source, [INSTANCE.expression], "sm_90"))
    recorder.refuse_cubins = True
    CupyLauncher(cubins=tmp_path).prepare([INSTANCE])
    assert "path" in recorder.modules[0]
    assert "code" in recorder.modules[1]
    assert "CUDA_ERROR_INVALID_IMAGE" in caplog.text


def test_refused_kernel_carries_log_and_command(recorder: Recorder) -> None:
    recorder.refuse = 'embed.cu(30): error: identifier "oops" is undefined'
    with pytest.raises(CudaCompileError) as error:
        CupyLauncher().prepare([INSTANCE])
    assert "nvidia-cuda-nvrtc" in error.value.remedy
    assert "g++" not in error.value.remedy
    assert "oops" in str(error.value)
    assert "embed.cu:30   >" in str(error.value)
    assert f"--stem embed --arch sm_90 --instance '{INSTANCE.expression}'" in str(error.value)


def test_kernel_that_cupy_cannot_keep_names_its_variable(recorder: Recorder) -> None:
    recorder.full = True
    with pytest.raises(CacheError, match=r"Read-only file system.*CUPY_CACHE_DIR"):
        CupyLauncher().prepare([INSTANCE])


def test_bare_numbers_never_reach_a_kernel(recorder: Recorder) -> None:
    for bare in (5, 0.5, True):
        with pytest.raises(TypeError, match="pass a DeviceArray, None or a scalar"):
            CupyLauncher().launch(INSTANCE, LaunchConfig(96), (ARRAY, bare))  # type: ignore[arg-type]
    assert not recorder.launches


def test_machine_without_driver_is_told_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: str) -> None:
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", absent)
    with pytest.raises(UnsupportedError, match=r"needs an NVIDIA GPU and its driver \(libcuda.*'sim' runs the same"):
        CupyLauncher()
