"""The CuPy launcher without a GPU: a stand-in for CuPy, held to the real one's signatures, records what it is asked."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cupy
import numpy as np
import pytest

from eet_demo.engine.executors.cuda import cupy_launcher
from eet_demo.engine.executors.cuda.arrays import DeviceArray
from eet_demo.engine.executors.cuda.cubins import CubinFolder
from eet_demo.engine.executors.cuda.cupy_launcher import CupyLauncher
from eet_demo.engine.executors.cuda.launch import Instance, LaunchConfig
from eet_demo.engine.executors.cuda.nvrtc import Nvrtc, cuda_include
from eet_demo.engine.executors.cuda.sources import read_source
from eet_demo.errors import KernelCompileError, UnsupportedError

INSTANCE = Instance("embed", ("float16", 0, 0, 96, 1))
ARRAY = DeviceArray(0x7F0000001000, (4,), "float16")


class CompileException(Exception):  # noqa: N818  CuPy's own name
    """cupy.cuda.compiler.CompileException: its message is the compiler's log."""

    def get_message(self) -> str:
        return str(self.args[0])


class Recorder:
    """CuPy and libcuda, as far as the launcher uses them."""

    def __init__(self, capability: str = "90") -> None:
        self.modules: list[dict[str, Any]] = []
        self.symbols: list[str] = []
        self.launches: list[tuple[Any, ...]] = []
        self.driver_launches: list[tuple[Any, ...]] = []
        self.refuse = ""
        device = SimpleNamespace(compute_capability=capability)
        self.cuda = SimpleNamespace(
            Device=lambda: device,
            compiler=SimpleNamespace(CompileException=CompileException),
            get_current_stream=lambda: SimpleNamespace(ptr=77),
        )

    def RawModule(self, **options: Any) -> Any:
        inspect.signature(cupy.RawModule.__init__).bind(None, **options)
        self.modules.append(options)
        return SimpleNamespace(get_function=self._function)

    def _function(self, symbol: str) -> Any:
        if self.refuse:
            raise CompileException(self.refuse)
        self.symbols.append(symbol)
        recorder = self

        class Function:
            max_dynamic_shared_size_bytes = 48 * 1024
            kernel = SimpleNamespace(ptr=0xF00)

            def __call__(self, *arguments: Any, **options: Any) -> None:
                recorder.launches.append((arguments, options, self.max_dynamic_shared_size_bytes))

        return Function()

    def cuLaunchKernelEx(self, record: Any, function: Any, *_: Any) -> int:
        attributes = [record._obj.attributes[i].id for i in range(record._obj.num_attributes)]
        self.driver_launches.append((function.value, record._obj.stream, attributes))
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
    (((grid, block, arguments), options, _),) = recorder.launches
    assert (grid, block, options["shared_mem"], options["stream"].ptr) == ((3, 2, 1), (96, 1, 1), 1024, 77)
    assert [(type(a), a) for a in arguments] == [
        (np.uint64, ARRAY.pointer), (np.uint64, 0), (np.int32, 5), (np.float32, 0.5),
    ]  # fmt: skip
    assert not recorder.driver_launches


def test_stream_is_read_at_every_launch(recorder: Recorder) -> None:
    streams = iter([5, 6])
    launcher = CupyLauncher(stream=lambda: next(streams))
    for _ in range(2):
        launcher.launch(INSTANCE, LaunchConfig(96), (ARRAY,))
    assert [options["stream"].ptr for _, options, _ in recorder.launches] == [5, 6]


@pytest.mark.parametrize(
    ("capability", "overlap", "config", "attributes"),
    [
        ("90", True, LaunchConfig(96, overlaps=True), [6]),
        ("90", False, LaunchConfig(96, overlaps=True), None),
        ("89", True, LaunchConfig(96, overlaps=True), None),
        ("75", True, LaunchConfig(96, cooperative=True), [2]),
        ("120", True, LaunchConfig(96, cooperative=True, overlaps=True), [2, 6]),
    ],
)
def test_overlapping_and_cooperative_launches_go_to_the_driver(
    monkeypatch: pytest.MonkeyPatch, capability: str, overlap: bool, config: LaunchConfig, attributes: list[int] | None
) -> None:
    recorder = Recorder(capability)
    monkeypatch.setattr(cupy_launcher, "import_cupy", lambda: (recorder, recorder))
    CupyLauncher(stream=lambda: 9, overlap=overlap).launch(INSTANCE, config, (ARRAY,))
    assert recorder.driver_launches == ([] if attributes is None else [(0xF00, 9, attributes)])
    assert len(recorder.launches) == (1 if attributes is None else 0)


def test_large_shared_memory_is_opted_into(recorder: Recorder) -> None:
    launcher = CupyLauncher()
    for shared_bytes in (1024, 100_000, 60_000):
        launcher.launch(INSTANCE, LaunchConfig(96, shared_bytes=shared_bytes), (ARRAY,))
    assert [allowed for *_, allowed in recorder.launches] == [48 * 1024, 100_000, 100_000]


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


def test_refused_kernel_carries_log_and_command(recorder: Recorder) -> None:
    recorder.refuse = 'embed.cu(30): error: identifier "oops" is undefined'
    with pytest.raises(KernelCompileError) as error:
        CupyLauncher().prepare([INSTANCE])
    assert "oops" in str(error.value)
    assert "embed.cu:30   >" in str(error.value)
    assert f"--stem embed --arch sm_90 --instance '{INSTANCE.expression}'" in str(error.value)


def test_bare_numbers_never_reach_a_kernel(recorder: Recorder) -> None:
    for bare in (5, 0.5, True):
        with pytest.raises(TypeError, match="pass a DeviceArray, None or a scalar"):
            CupyLauncher().launch(INSTANCE, LaunchConfig(96), (ARRAY, bare))  # type: ignore[arg-type]
    assert not recorder.launches


def test_machine_without_driver_is_told_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: str) -> None:
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(cupy_launcher.ctypes, "CDLL", absent)
    with pytest.raises(UnsupportedError, match=r"needs an NVIDIA GPU and its driver \(libcuda.*'sim' runs the same"):
        CupyLauncher()
