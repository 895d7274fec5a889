"""The cache's folder: one variable for all that is kept, and words that name it where it cannot be used."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from eet_demo.commands.race import owner_limits, write_json
from eet_demo.engine.executors.cpu import compiler
from eet_demo.engine.executors.cuda.compile.cubins import CubinFolder
from eet_demo.engine.executors.cuda.compile.launch import Instance
from eet_demo.engine.executors.cuda.compile.nvrtc import Compiled
from eet_demo.engine.executors.cuda.compile.sources import read_source
from eet_demo.engine.executors.sim.build import SimBuilder
from eet_demo.errors import CacheError, EetError
from eet_demo.files import keeping, replacing, write_atomically
from eet_demo.paths import CACHE_VARIABLE, cache_dir, kernel_cache
from eet_demo.settings import load_settings


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv(CACHE_VARIABLE, str(folder))
    return folder


def test_home_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    assert cache_dir() == Path.home() / ".cache" / "eet-demo"
    monkeypatch.setenv(CACHE_VARIABLE, "")
    assert cache_dir() == Path.home() / ".cache" / "eet-demo"
    monkeypatch.setenv(CACHE_VARIABLE, "~/elsewhere")
    assert cache_dir() == Path.home() / "elsewhere"


def test_folder_that_workers_would_not_find_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, "cache")
    for use in (cache_dir, load_settings):
        with pytest.raises(CacheError, match=f"{CACHE_VARIABLE} is 'cache'"):
            use()


def test_everything_goes_into_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EET_DEMO_MODELS_DIR", raising=False)
    assert owner_limits()["models_dir"] == load_settings().models_dir == cache / "models"
    monkeypatch.setattr(compiler, "compile_library", lambda *_: None)
    assert compiler.library().parent == kernel_cache("cpu") == cache / "kernels" / "cpu"
    assert SimBuilder("plain")._build == kernel_cache("sim") == cache / "kernels" / "sim"


def compile_for_the_cpu() -> None:
    compiler.library()


def compile_for_the_simulator() -> None:
    SimBuilder("plain").build(Instance("embed", ("float32", 0, 0, 96, 1)))


def add_cubin() -> None:
    log = "ptxas info : Compiling entry function 'e' for 'sm_90'\nptxas info : Used 8 registers"
    compiled = Compiled("sm_90", b"cubin", {"embed<float>": "e"}, log)
    CubinFolder(kernel_cache("cubins")).add(read_source("embed"), [Instance("embed", ("float32",))], compiled)


@pytest.mark.parametrize("use", [compile_for_the_cpu, compile_for_the_simulator, add_cubin])
def test_cache_that_is_a_file_is_named_with_its_variable(cache: Path, use: Callable[[], None]) -> None:
    cache.write_text("")
    with pytest.raises(CacheError, match=rf"{cache}.*(Not a directory|File exists).*{CACHE_VARIABLE}") as error:
        use()
    assert "can be written" in error.value.remedy


@pytest.mark.parametrize("use", [compile_for_the_cpu, compile_for_the_simulator, add_cubin])
def test_cache_that_may_not_be_looked_into_is_named(
    cache: Path, monkeypatch: pytest.MonkeyPatch, use: Callable[[], None]
) -> None:
    """A home of another user: asking whether a file is there is refused already."""
    stat = Path.stat

    def refused(self: Path, **options: bool) -> os.stat_result:
        if cache in self.parents:
            raise PermissionError(13, "Permission denied", str(self))
        return stat(self, **options)

    monkeypatch.setattr(Path, "stat", refused)
    with pytest.raises(CacheError, match=rf"Permission denied.*{CACHE_VARIABLE}"):
        use()


def test_compiler_without_room_is_no_refused_kernel(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "/usr/bin/ld: final link failed: No space left on device\ncollect2: error: ld returned 1 exit status"
    monkeypatch.setattr(compiler, "_key", lambda *_: "key")
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1, "", said))
    with pytest.raises(CacheError, match=rf"no room(?s:.*){CACHE_VARIABLE}"):
        compiler.library()
    assert list(kernel_cache("cpu").iterdir()) == []


def test_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "made" / "kept.json"
    write_atomically(path, "old")

    def interrupted() -> None:
        with replacing(path) as part:
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [entry.name for entry in path.parent.iterdir()] == ["kept.json"]
    assert path.read_text() == "old"
    write_atomically(path, "näu")
    assert path.read_text(encoding="utf-8") == "näu"
    write_atomically(path, b"\0\xff")
    assert path.read_bytes() == b"\0\xff"


def test_two_writers_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "shared"
    texts = [letter * 100_000 for letter in "abcd"]

    def write(text: str) -> None:
        for _ in range(20):
            write_atomically(path, text)

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if path.exists():
            assert path.read_text() in texts
    assert [entry.name for entry in tmp_path.iterdir()] == ["shared"]


def test_results_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bench.json"
    write_json({"runs": []}, str(path))
    before = path.read_text()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_json({"runs": [1]}, str(path))
    assert path.read_text() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["bench.json"]


def test_errors_of_ours_pass_the_words_about_folders(tmp_path: Path) -> None:
    with pytest.raises(EetError, match="as it is"), keeping("it", tmp_path):
        raise EetError("as it is")
