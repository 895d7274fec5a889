"""What an error of the CUDA driver, of torch or of CuPy is to whoever asked for tokens: a fault, or too little memory.

An error on a GPU surfaces at the next call, whatever that is, and ends the process's use of it; only too little memory
leaves the process as it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from eet_demo.errors import KernelFaultError, MemoryPlanError

_FROM_DEVICE = re.compile(r"CUDA|cuda[A-Z]|CUBLAS|cuBLAS")
"""In every message of the driver, of the runtime and of cuBLAS, and in none of torch's about shapes or dtypes."""

_NO_MEMORY = re.compile(r"out of memory|OUT_OF_MEMORY|MemoryAllocation|ALLOC_FAILED")


def fault(said: str, launched: Iterable[str] = ()) -> KernelFaultError | MemoryPlanError:
    """The error to raise for what a device `said`, with the launches before it, the latest last."""
    if _NO_MEMORY.search(said):
        return MemoryPlanError(f"the GPU had no memory left for what a step needs beside its plan ({said})")
    recent = ", ".join(launched)
    return KernelFaultError(
        f"a kernel failed on the GPU ({said}){f'; last launched: {recent}' if recent else ''}. "
        "The option debug=on waits after every launch and names it"
    )


@contextmanager
def device_faults(launched: Iterable[str] = ()) -> Iterator[None]:
    """Inside, what torch and CuPy raise for a device becomes KernelFaultError or MemoryPlanError; the rest passes."""
    try:
        yield
    except RuntimeError as error:
        said = (str(error).splitlines() or [""])[0]
        if not _FROM_DEVICE.search(said):
            raise
        raise fault(said, launched) from None
