"""Compiling at first use: the cache, and what a visitor reads when it cannot work."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from eet_demo.engine.executors.cpu import compiler, records
from eet_demo.errors import KernelCompileError


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the sources to tamper with."""
    copy = tmp_path / "sources"
    shutil.copytree(compiler.SOURCES, copy)
    monkeypatch.setattr(compiler, "SOURCES", copy)
    return copy


def test_library_is_compiled_once(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = compiler.library(cache)
    stamp = first.stat().st_mtime_ns
    assert compiler.library(cache) == first
    assert first.stat().st_mtime_ns == stamp
    assert [path.name for path in cache.iterdir()] == [first.name], "something was left beside the library"


def test_changed_header_is_another_library(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "compile_library", lambda *arguments: None)
    before = compiler.library(tmp_path)
    (sources / "norm.h").write_text((sources / "norm.h").read_text() + "// changed\n")
    assert compiler.library(tmp_path) != before
    assert compiler.library(tmp_path, ["-O1"]) != compiler.library(tmp_path)


def test_compile_error_is_short_and_names_the_command(sources: Path, tmp_path: Path) -> None:
    (sources / "norm.h").write_text("#error the header is broken\n")
    with pytest.raises(KernelCompileError) as raised:
        compiler.library(tmp_path / "cache")
    message = str(raised.value)
    assert "the header is broken" in message
    assert "repeat it with: " in message
    assert "engine.cpp" in message
    assert len(message.splitlines()) <= compiler.SHOWN_LINES + 2
    assert not [path for path in (tmp_path / "cache").iterdir() if path.suffix == ".so"]


def test_missing_compiler_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KernelCompileError, match="apt-get install -y g"):
        compiler.library(tmp_path)


def test_broken_library_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "eet.so"
    broken.write_bytes(b"not an ELF file")
    with pytest.raises(KernelCompileError, match=str(broken)):
        records.open_library(broken)
