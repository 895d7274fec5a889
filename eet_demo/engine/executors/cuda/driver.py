"""`cuLaunchKernelEx` by ctypes: the two launch attributes that CuPy does not offer as we need them.

CuPy 14 has no programmatic dependent launch, and shrinks a cooperative grid that does not fit, with a warning.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from eet_demo.engine.executors.cuda.launch import Argument, LaunchConfig, pack
from eet_demo.errors import UnsupportedError

COOPERATIVE = 2
PROGRAMMATIC_STREAM_SERIALIZATION = 6
"""CUlaunchAttributeID of cuda.h."""


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

    def launch(self, function: int, config: LaunchConfig, stream: int, arguments: Sequence[Argument]) -> None:
        """Launches the CUfunction `function`.

        Raises:
            UnsupportedError: the driver refused, for instance a cooperative grid that cannot be resident at once.
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
            config.grid, (config.threads, 1, 1), config.shared_bytes, stream,
            ctypes.cast(attributes, ctypes.POINTER(_Attribute)), count,
        )  # fmt: skip
        cells = [ctypes.create_string_buffer(pack(argument), 8) for argument in arguments]
        pointers = (ctypes.c_void_p * max(1, len(cells)))(*[ctypes.addressof(cell) for cell in cells])
        status = self._library.cuLaunchKernelEx(ctypes.byref(record), ctypes.c_void_p(function), pointers, None)
        if status:
            raise UnsupportedError(
                f"cuLaunchKernelEx: {self._name(status)} for grid {config.grid} of {config.threads} threads"
            )

    def _name(self, status: int) -> str:
        text = ctypes.c_char_p()
        self._library.cuGetErrorName(status, ctypes.byref(text))
        return (text.value or str(status).encode()).decode()
