"""What a GPU reports is told apart where it surfaces: a fault, no memory, or a mistake of the program's own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cupy_backends.cuda.api.runtime import CUDARuntimeError

from eet_demo.engine.executors.cuda.faults import device_faults
from eet_demo.engine.executors.cuda.runtime import devices
from eet_demo.engine.executors.cuda.runtime.devices import CudaDevice, free_memory_bytes
from eet_demo.errors import EetError, KernelFaultError, MemoryPlanError, RequestError

ILLEGAL = "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be asynchronously reported"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError(ILLEGAL), KernelFaultError),
        (torch.AcceleratorError(ILLEGAL), KernelFaultError),
        (CUDARuntimeError(700), KernelFaultError),
        (RuntimeError("CUDA_ERROR_LAUNCH_FAILED: unspecified launch failure"), KernelFaultError),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"), KernelFaultError),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), MemoryPlanError),
        (CUDARuntimeError(2), MemoryPlanError),
        (RuntimeError("CUDA_ERROR_OUT_OF_MEMORY: out of memory"), MemoryPlanError),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), MemoryPlanError),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 2x3)"), RuntimeError),
        (RuntimeError(), RuntimeError),
        (RequestError("65 stop tokens given"), RequestError),
        (ValueError("CUDA"), ValueError),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)[:40]),
)
def test_error_of_a_device_is_ours_and_others_pass(error: Exception, kind: type[Exception]) -> None:
    with pytest.raises(kind) as raised, device_faults(["embed<half>", "norm_qkv<half>"]):
        raise error
    assert type(raised.value) is kind
    if kind is KernelFaultError:
        assert str(error).splitlines()[0] in str(raised.value)
        assert "last launched: embed<half>, norm_qkv<half>" in str(raised.value)


def fail(message: str = ILLEGAL) -> Any:
    raise torch.AcceleratorError(message)


class Graph:
    """torch.cuda.graph, whose end instantiates what was captured."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(self, *exception: object) -> None:
        fail("CUDA error: out of memory")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> CudaDevice:
    """A GPU that fails at whatever is asked of it, without one."""
    device = CudaDevice.__new__(CudaDevice)
    device.queue = SimpleNamespace(recent=deque(["sample<512>"]), prepare=lambda _: fail())  # type: ignore[assignment]
    device._stream = SimpleNamespace(query=fail, synchronize=fail)  # type: ignore[assignment]
    monkeypatch.setattr(torch.cuda, "stream", lambda _: torch.no_grad())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(synchronize=lambda: None))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=fail))
    return device


@pytest.mark.parametrize("name", ["check", "synchronise"])
def test_waiting_for_a_device_that_failed_is_a_fault(device: CudaDevice, name: str) -> None:
    with pytest.raises(KernelFaultError, match=r"illegal memory access.*last launched: sample<512>"):
        getattr(device, name)()


def test_kernel_that_cannot_be_loaded_is_a_fault(device: CudaDevice) -> None:
    with pytest.raises(KernelFaultError, match="illegal memory access"):
        device.prepare([])


def in_capture(device: CudaDevice) -> None:
    with device.active():
        device.capture(lambda: None)


def in_replay(device: CudaDevice) -> None:
    with device.active():
        device.capture(lambda: None)()


@pytest.mark.parametrize(
    ("graph", "use", "kind"), [(Graph, in_capture, MemoryPlanError), (None, in_replay, KernelFaultError)]
)
def test_graph_that_cannot_be_made_or_launched_says_why(
    device: CudaDevice,
    monkeypatch: pytest.MonkeyPatch,
    graph: Any,
    use: Callable[[CudaDevice], None],
    kind: type[EetError],
) -> None:
    monkeypatch.setattr(torch.cuda, "graph", graph or (lambda *_, **__: torch.no_grad()))
    with pytest.raises(kind):
        use(device)


def test_gpu_without_room_for_a_context_has_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "require_gpu", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: fail("CUDA error: out of memory"))
    with pytest.raises(MemoryPlanError, match="out of memory"):
        free_memory_bytes()
