"""The driver call arrives as cuda.h lays it out; a stand-in library, compiled against that header, says so."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from eet_demo.engine.executors.cuda.arrays import DeviceArray
from eet_demo.engine.executors.cuda.compile.driver import Driver
from eet_demo.engine.executors.cuda.compile.launch import LaunchConfig
from eet_demo.engine.executors.cuda.compile.nvrtc import cuda_include
from eet_demo.errors import EetError, KernelFaultError, MemoryPlanError, UnsupportedError

STAND_IN = """
#include <cuda.h>
#include <cstring>
extern "C" {
unsigned seen[12];
unsigned long long pointers[4];
CUresult answer = CUDA_SUCCESS;
CUresult cuLaunchKernelEx(const CUlaunchConfig* c, CUfunction f, void** arguments, void** extra) {
    seen[0] = c->gridDimX; seen[1] = c->gridDimY; seen[2] = c->gridDimZ;
    seen[3] = c->blockDimX; seen[4] = c->blockDimY; seen[5] = c->blockDimZ;
    seen[6] = c->sharedMemBytes; seen[7] = c->numAttrs; seen[8] = extra != nullptr;
    seen[9] = seen[10] = 0;
    for (unsigned i = 0; i < c->numAttrs; ++i) {
        if (c->attrs[i].id == CU_LAUNCH_ATTRIBUTE_COOPERATIVE) seen[9] = c->attrs[i].value.cooperative;
        if (c->attrs[i].id == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION)
            seen[10] = c->attrs[i].value.programmaticStreamSerializationAllowed;
    }
    pointers[0] = reinterpret_cast<unsigned long long>(f);
    pointers[1] = reinterpret_cast<unsigned long long>(c->hStream);
    pointers[2] = *static_cast<unsigned long long*>(arguments[0]);
    std::memcpy(&seen[11], arguments[1], 4);
    return answer;
}
CUresult cuGetErrorName(CUresult status, const char** name) {
    switch (status) {
        case CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE: *name = "CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE"; break;
        case CUDA_ERROR_ILLEGAL_ADDRESS: *name = "CUDA_ERROR_ILLEGAL_ADDRESS"; break;
        case CUDA_ERROR_OUT_OF_MEMORY: *name = "CUDA_ERROR_OUT_OF_MEMORY"; break;
        default: return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}
}
"""
TOO_LARGE, ILLEGAL_ADDRESS, OUT_OF_MEMORY, UNHEARD_OF = 720, 700, 2, 4321
CONFIG = LaunchConfig(96, (2000, 1, 1), cooperative=True)
ARGUMENTS = (DeviceArray(16, (4,), "float32"), np.float32(1))


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """A library with the driver's call, compiled against the real cuda.h: it says what arrived."""
    folder = tmp_path_factory.mktemp("driver")
    (folder / "driver.cpp").write_text(STAND_IN)
    command = [
        "g++",
        "-shared",
        "-fPIC",
        f"-I{cuda_include()}",
        str(folder / "driver.cpp"),
        "-o",
        str(folder / "driver.so"),
    ]
    subprocess.run(command, check=True, timeout=60)
    return ctypes.CDLL(str(folder / "driver.so"))


@pytest.mark.parametrize(("cooperative", "overlaps"), [(False, False), (True, False), (False, True), (True, True)])
def test_driver_call_has_the_layout_of_cuda_h(stand_in: ctypes.CDLL, cooperative: bool, overlaps: bool) -> None:
    config = LaunchConfig(96, (7, 5, 3), 1024, cooperative, overlaps)
    arguments = (DeviceArray(0x123456789A0, (4,), "float32"), np.float32(1.0))
    launch = Driver(stand_in).bind(0xABCDEF0123, config, arguments)
    del arguments  # the launch keeps what the driver reads
    for stream in (1, 0x5432109876):
        launch(stream)
    seen = list((ctypes.c_uint * 12).in_dll(stand_in, "seen"))
    assert seen == [7, 5, 3, 96, 1, 1, 1024, cooperative + overlaps, 0, cooperative, overlaps, 0x3F800000]
    assert list((ctypes.c_ulonglong * 4).in_dll(stand_in, "pointers"))[:3] == [
        0xABCDEF0123,
        0x5432109876,
        0x123456789A0,
    ]


@contextmanager
def answering(stand_in: ctypes.CDLL, status: int) -> Iterator[None]:
    """Inside, every launch has this CUresult."""
    answer = ctypes.c_int.in_dll(stand_in, "answer")
    answer.value = status
    try:
        yield
    finally:
        answer.value = 0


def test_grid_that_cannot_be_resident_is_unsupported(stand_in: ctypes.CDLL) -> None:
    with answering(stand_in, TOO_LARGE), pytest.raises(UnsupportedError, match="COOPERATIVE_LAUNCH_TOO_LARGE for grid"):
        Driver(stand_in).bind(1, CONFIG, ARGUMENTS)(0)


@pytest.mark.parametrize(
    ("status", "started", "kind", "message"),
    [
        (ILLEGAL_ADDRESS, True, KernelFaultError, "CUDA_ERROR_ILLEGAL_ADDRESS"),
        (ILLEGAL_ADDRESS, False, KernelFaultError, "CUDA_ERROR_ILLEGAL_ADDRESS"),
        (TOO_LARGE, True, KernelFaultError, "CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE"),
        (UNHEARD_OF, False, KernelFaultError, "4321"),
        (OUT_OF_MEMORY, True, MemoryPlanError, "CUDA_ERROR_OUT_OF_MEMORY"),
        (OUT_OF_MEMORY, False, MemoryPlanError, "CUDA_ERROR_OUT_OF_MEMORY"),
    ],
)
def test_fault_at_a_launch_is_a_fault(
    stand_in: ctypes.CDLL, status: int, started: bool, kind: type[EetError], message: str
) -> None:
    """What a kernel did before surfaces at the next launch; it says nothing about what this GPU supports."""
    driver = Driver(stand_in)
    if started:
        driver.bind(1, LaunchConfig(96), ARGUMENTS)(0)
    with answering(stand_in, status), pytest.raises(EetError, match=message) as error:
        driver.bind(1, CONFIG, ARGUMENTS)(0)
    assert type(error.value) is kind
