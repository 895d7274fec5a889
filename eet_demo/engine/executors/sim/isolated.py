"""One simulated launch in a process of its own, under a sanitizer, with every array a heap block between red zones."""

from __future__ import annotations

import ctypes
import re
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from eet_demo.engine.executors.cuda.arrays import DeviceArray
from eet_demo.engine.executors.cuda.compile.launch import Argument, Instance
from eet_demo.errors import KernelFaultError, UnsupportedError

TIMEOUT_S = 300

TSAN_REFUSAL = "FATAL: ThreadSanitizer: unexpected memory mapping"


def run_isolated(binary: Path, instance: Instance, record: bytes, arguments: Sequence[Argument]) -> None:
    """Sends the arrays' bytes to the process, waits, and takes them back.

    Raises:
        KernelFaultError: the sanitizer or the simulator found a mistake; the message is its report.
    """
    ranges = merge_ranges([(a.pointer, a.pointer + a.nbytes) for a in arguments if isinstance(a, DeviceArray)])
    with tempfile.TemporaryDirectory() as scratch:
        request, answer = Path(scratch) / "request", Path(scratch) / "answer"
        with request.open("wb") as file:
            file.write(record + struct.pack("<I", len(ranges)))
            for start, end in ranges:
                file.write(struct.pack("<Q", end - start) + ctypes.string_at(start, end - start))
            file.write(struct.pack("<I", len(arguments)))
            for argument in arguments:
                file.write(_encode(argument, ranges))
        done = run_binary([str(binary), str(request), str(answer)])
        if done.returncode:
            raise KernelFaultError(f"{instance.expression}: {shorten(done.stderr) or f'exit status {done.returncode}'}")
        with answer.open("rb") as file:
            for start, end in ranges:
                ctypes.memmove(start, file.read(end - start), end - start)


def run_binary(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs a sanitized binary; where the system scatters addresses too widely for TSan, again without scattering.

    Raises:
        UnsupportedError: the system does not allow that either.
    """
    done = _run(command)
    if TSAN_REFUSAL in done.stderr:
        done = _run(["setarch", "-R", *command])
        if TSAN_REFUSAL in done.stderr or done.stderr.startswith("setarch:"):
            raise UnsupportedError(
                f"ThreadSanitizer cannot run under this system's address randomisation: {done.stderr.strip()}; "
                "remedy: sysctl vm.mmap_rnd_bits=28, or a container that allows setarch -R"
            )
    return done


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=False)


def merge_ranges(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Overlapping ranges become one; ranges that only touch stay apart, so that each gets red zones."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(set(ranges)):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _encode(argument: Argument, ranges: list[tuple[int, int]]) -> bytes:
    """Kind (0 scalar, 1 array, 2 null), then 16 bytes: the scalar's bytes, or the buffer's number and an offset."""
    if argument is None:
        return struct.pack("<IQQ", 2, 0, 0)
    if not isinstance(argument, DeviceArray):
        return struct.pack("<I", 0) + argument.tobytes().ljust(16, b"\0")
    for number, (start, end) in enumerate(ranges):
        if start <= argument.pointer and argument.pointer + argument.nbytes <= end:
            return struct.pack("<IQQ", 1, number, argument.pointer - start)
    raise AssertionError("every array lies in one of the merged ranges")


def shorten(report: str) -> str:
    """The part of a sanitizer's report that names the mistake and the places, without shadow bytes and module maps."""
    kept = [line for line in report.splitlines() if line.strip()]
    for index, line in enumerate(kept):
        if line.startswith(("Shadow bytes", "SUMMARY")):
            kept = [*kept[:index], *(other for other in kept[index:] if other.startswith("SUMMARY"))]
            break
    text = re.sub(r" \(BuildId: [0-9a-f]+\)", "", "\n".join(kept[:60]))
    return text.strip()
