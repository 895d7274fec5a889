"""NVRTC by ctypes: compiles kernels to cubins for any architecture, on machines without a GPU or a driver too."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from eet_demo.engine.executors.cuda.compile.sources import Source
from eet_demo.errors import CudaCompileError

OPTIONS = ("--std=c++17", "-ftz=true", "--ptxas-options=-v")
"""As CuPy compiles, which flushes denormals; `-v` puts registers, shared memory and spills into the log."""

REMEDY = "pip install nvidia-cuda-nvrtc nvidia-cuda-runtime nvidia-cuda-crt"


@dataclass(frozen=True)
class Compiled:
    """Instances of one source for one architecture; `lowered` maps a name expression to its symbol in the cubin."""

    arch: str
    cubin: bytes
    lowered: dict[str, str]
    log: str


class Nvrtc:
    """The library and the CUDA headers. Raises CudaCompileError with the remedy where either is missing."""

    def __init__(self) -> None:
        self._library = _load()
        self._include = cuda_include()

    def compile(self, source: Source, expressions: Sequence[str], arch: str) -> Compiled:
        """Compiles `expressions` of `source` for `arch` (`sm_90`).

        Raises:
            CudaCompileError: the compiler's log, the source around its first error, and how to repeat it.
        """
        with self._program(source, expressions, arch) as (program, log):
            lowered = {expression: self._lowered(program, expression) for expression in expressions}
            return Compiled(arch, self._bytes(program, "CUBIN"), lowered, log)

    @contextmanager
    def _program(self, source: Source, expressions: Sequence[str], arch: str) -> Iterator[tuple[ctypes.c_void_p, str]]:
        """A compiled program and its log."""
        library, program = self._library, ctypes.c_void_p()
        code = source.text.encode()
        self._check(
            library.nvrtcCreateProgram(ctypes.byref(program), code, f"{source.stem}.cu".encode(), 0, None, None)
        )
        try:
            for expression in expressions:
                self._check(library.nvrtcAddNameExpression(program, expression.encode()))
            options = [option.encode() for option in (*OPTIONS, f"-arch={arch}", f"-I{self._include}")]
            status = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
            log = self._text(program, "ProgramLog")
            if status:
                raise CudaCompileError(refusal("NVRTC", source, expressions, log, arch))
            yield program, log
        finally:
            library.nvrtcDestroyProgram(ctypes.byref(program))

    def _check(self, status: int) -> None:
        if status:
            raise CudaCompileError(f"NVRTC: {ctypes.string_at(self._library.nvrtcGetErrorString(status)).decode()}")

    def _lowered(self, program: ctypes.c_void_p, expression: str) -> str:
        name = ctypes.c_char_p()
        self._check(self._library.nvrtcGetLoweredName(program, expression.encode(), ctypes.byref(name)))
        return (name.value or b"").decode()

    def _bytes(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        self._check(getattr(self._library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
        buffer = ctypes.create_string_buffer(size.value)
        self._check(getattr(self._library, f"nvrtcGet{what}")(program, buffer))
        return buffer.raw

    def _text(self, program: ctypes.c_void_p, what: str) -> str:
        return self._bytes(program, what).rstrip(b"\0").decode(errors="replace")


def refusal(compiler: str, source: Source, expressions: Sequence[str], log: str, arch: str) -> str:
    """The words of a CudaCompileError."""
    repeat = " ".join(f"--instance '{expression}'" for expression in expressions)
    return (
        f"{compiler} refused {', '.join(expressions)} for {arch}:\n{log.strip()}\n{source.excerpt(log)}\n"
        f"repeat it with: python -m tools.gates --stem {source.stem} --arch {arch} {repeat}"
    )


@cache
def cuda_include() -> Path:
    """The folder of cuda_fp16.h: of PyPI's nvidia-cuda-runtime, of conda, or of a toolkit (CUDA_PATH, the system's)."""
    found = _pathfinder().find_nvidia_header_directory("cudart")
    if found is None or not (Path(found) / "cuda_fp16.h").is_file():
        raise CudaCompileError(f"CUDA's headers (cuda_fp16.h) are missing: {REMEDY}")
    return Path(found)


def _load() -> ctypes.CDLL:
    pathfinder = _pathfinder()
    try:
        library = ctypes.CDLL(pathfinder.load_nvidia_dynamic_lib("nvrtc").abs_path)
    except pathfinder.DynamicLibNotFoundError:
        raise CudaCompileError(f"NVRTC is missing: {REMEDY}") from None
    library.nvrtcGetErrorString.restype = ctypes.c_void_p
    return library


def _pathfinder() -> Any:
    """NVIDIA's own search for what is installed. CuPy brings it; the simulator needs neither."""
    try:
        from cuda import pathfinder
    except ImportError as error:
        raise CudaCompileError(f"cuda-pathfinder is missing ({error}): pip install cuda-pathfinder") from None
    return pathfinder
