"""`cuLaunchKernelEx` by ctypes: launches prepared once and repeated, with attributes that CuPy does not offer.

CuPy 14 has no programmatic dependent launch, shrinks a cooperative grid that does not fit, with a warning, and packs
its arguments anew for every launch.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

from eet_demo.engine.executors.cuda.compile.launch import Argument, LaunchConfig, pack
from eet_demo.engine.executors.cuda.faults import fault
from eet_demo.errors import UnsupportedError

COOPERATIVE = 2
PROGRAMMATIC_STREAM_SERIALIZATION = 6
"""CUlaunchAttributeID of cuda.h."""

REFUSALS = (1, 701, 720, 801)
"""CUresults that are about a launch itself: INVALID_VALUE, LAUNCH_OUT_OF_RESOURCES, COOPERATIVE_LAUNCH_TOO_LARGE,
NOT_SUPPORTED."""


class _Attribute(ctypes.Structure):
    """CUlaunchAttribute: the value is a union of 64 bytes, of which both attributes here use a leading int."""

    _fields_ = [("id", ctypes.c_int), ("pad", ctypes.c_char * 4), ("value", ctypes.c_int), ("rest", ctypes.c_char * 60)]


class _Config(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_ = [
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("num_attributes", ctypes.c_uint),
    ]


class Driver:
    """The driver's launch call. `library` is libcuda, or a stand-in for it in tests."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._started = False

    def bind(self, function: int, config: LaunchConfig, arguments: Sequence[Argument]) -> Callable[[int], None]:
        """A launch of the CUfunction `function` that only lacks its stream, and can be repeated.

        What is returned raises, when the driver refuses:
            UnsupportedError: this GPU cannot launch it, for instance a cooperative grid that is not resident at once.
            MemoryPlanError: there is no memory for it.
            KernelFaultError: anything else, and anything once a launch has succeeded: what a kernel before it did.
        """
        attributes = (_Attribute * 2)()
        count = 0
        for attribute, wanted in (
            (COOPERATIVE, config.cooperative),
            (PROGRAMMATIC_STREAM_SERIALIZATION, config.overlaps),
        ):
            if wanted:
                attributes[count].id, attributes[count].value = attribute, 1
                count += 1
        record = _Config(
            config.grid, (config.threads, 1, 1), config.shared_bytes, None,
            ctypes.cast(attributes, ctypes.POINTER(_Attribute)), count,
        )  # fmt: skip
        cells = [ctypes.create_string_buffer(pack(argument), 8) for argument in arguments]
        pointers = (ctypes.c_void_p * max(1, len(cells)))(*[ctypes.addressof(cell) for cell in cells])
        call, handle, reference = self._library.cuLaunchKernelEx, ctypes.c_void_p(function), ctypes.byref(record)

        def launch(stream: int) -> None:
            record.stream = stream
            status = call(reference, handle, pointers, None)
            if status:
                said = f"cuLaunchKernelEx: {self._name(status)} for grid {config.grid} of {config.threads} threads"
                raise UnsupportedError(said) if status in REFUSALS and not self._started else fault(said)
            self._started = True

        launch.keeps = (attributes, cells, tuple(arguments))  # type: ignore[attr-defined]  # what the driver reads
        return launch

    def _name(self, status: int) -> str:
        text = ctypes.c_char_p()
        self._library.cuGetErrorName(status, ctypes.byref(text))
        return (text.value or str(status).encode()).decode()
