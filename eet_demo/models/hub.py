"""The Hugging Face Hub: whether it can be reached, and a model's folder from it at one commit.

Only named files are taken: configuration, tokenizer and safetensors. Never pickle, never code.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from eet_demo.engine.tensor_files import WEIGHTS, WEIGHTS_INDEX, first_file, read_json, shards_of
from eet_demo.errors import CheckpointError, SourceError, UnsupportedError

Progress = Callable[[str, int, int], None]

PROBE_SECONDS = 1.5
"""How long anybody waits at most for the answer to "is the Hub there?"."""

_PROBE_LIFE_S = 300.0
_POLL_S = 0.2
_SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)

CODE_NOT_NEEDED = ("phi3",)
"""Architectures whose repositories still carry code that transformers has had of its own for long."""


class Hub:
    """What is known about the Hub. Asking never blocks; `start` looks in the background, the answer is kept 5 minutes.

    Args:
        enabled: False keeps this process from asking the network at all.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled
        self._lock = threading.Lock()
        self._answer: bool | None = None
        self._asked_s = float("-inf")

    def start(self) -> None:
        """Begins a look in the background, unless one is under way or its answer is fresh."""
        with self._lock:
            if not self.enabled or time.monotonic() - self._asked_s < _PROBE_LIFE_S:
                return
            self._asked_s = time.monotonic()
        threading.Thread(target=self._ask, name="hub-probe", daemon=True).start()

    @property
    def reachable(self) -> bool | None:
        """None while the first look is under way (`PROBE_SECONDS` at most) or was never started."""
        with self._lock:
            overdue = time.monotonic() - self._asked_s > PROBE_SECONDS and self._asked_s > float("-inf")
            return False if self._answer is None and overdue else self._answer

    @property
    def has_token(self) -> bool:
        """Whether this machine holds a token for gated models (HF_TOKEN, or `hf auth login`)."""
        import huggingface_hub

        return huggingface_hub.get_token() is not None

    def _ask(self) -> None:
        answer = _answers()
        with self._lock:
            self._answer = answer


def _answers() -> bool:
    import urllib.error
    import urllib.request

    from huggingface_hub import constants

    try:
        with urllib.request.urlopen(f"{constants.ENDPOINT}/robots.txt", timeout=PROBE_SECONDS):
            return True
    except urllib.error.HTTPError:  # it is there and does not like the question
        return True
    except (OSError, ValueError):
        return False


def download(repo: str, revision: str | None, folder: Path, progress: Progress) -> str:
    """Fills `folder` with the repository's files at `revision` (None: the newest) and returns the commit.

    What an interrupted run left in `folder` is continued by huggingface_hub, which checks every file's hash.

    Raises:
        SourceError: no network, no such repository, not allowed, no room.
        UnsupportedError: an architecture that the engine lacks, a repository without safetensors or with code to run.
    """
    import huggingface_hub
    from huggingface_hub.utils.tqdm import disable_progress_bars

    with _in_words(repo):
        info = huggingface_hub.HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=10)
        sizes = {item.rfilename: int(item.size or 0) for item in info.siblings or []}
        commit = str(info.sha)

        def fetched(name: str) -> Path:
            return Path(huggingface_hub.hf_hub_download(repo, name, revision=commit, local_dir=folder))

        check_config(json.loads(fetched("config.json").read_text(encoding="utf-8")), repo)
        wanted = _wanted(sizes, repo, fetched)
        if (free := shutil.disk_usage(folder).free) < sum(wanted.values()):
            raise SourceError(f"{repo} has {sum(wanted.values()):,} bytes to download and the disk has {free:,} left.")
        disable_progress_bars()
        with _watching(folder, sum(wanted.values()), progress):
            huggingface_hub.snapshot_download(repo, revision=commit, local_dir=folder, allow_patterns=list(wanted))
    for name, size in wanted.items():  # without a network snapshot_download is content with what there is
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            raise SourceError(f"{repo} came incomplete: {name} is missing or short. Run fetch again.")
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    return commit


def check_config(config: Mapping[str, Any], name: str) -> None:
    """Refuses before the download what could not run after it.

    Raises:
        UnsupportedError: code of its own, or an architecture that the engine lacks.
    """
    from eet_demo.engine.families import spec_from_config

    if "auto_map" in config and config.get("model_type") not in CODE_NOT_NEEDED:
        raise UnsupportedError(f"{name} needs Python code from its repository, which is never run here.")
    spec_from_config(config)


def _wanted(sizes: Mapping[str, int], repo: str, fetched: Callable[[str], Path]) -> dict[str, int]:
    """Name -> bytes of the files to take; `fetched` brings one of the repository's at once, an index."""
    first = first_file(sizes.__contains__)
    if first is None:
        raise UnsupportedError(f"{repo} has no {WEIGHTS}; pickled weights are never loaded. Pick a safetensors model.")
    weights = [first]
    if first == WEIGHTS_INDEX:
        weights += shards_of(read_json(fetched(first)), f"{repo}/{first}")
        if missing := [name for name in weights if name not in sizes]:
            raise SourceError(f"{repo} lacks {', '.join(missing[:3])}, which its {first} names.")
    return {name: sizes[name] for name in (*_SMALL_FILES, *weights) if name in sizes}


@contextlib.contextmanager
def _in_words(repo: str) -> Iterator[None]:
    """The Hub's many errors as one SourceError with what to do."""
    from huggingface_hub import errors as hub_errors

    errors: Any = hub_errors
    try:
        yield
    except errors.GatedRepoError as error:
        raise SourceError(
            f"{repo} is gated: accept its licence at https://huggingface.co/{repo} and set HF_TOKEN to your token."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise SourceError(f"The Hub has no repository {repo} that this machine may read.") from error
    except errors.OfflineModeIsEnabled as error:
        raise SourceError(f"{repo} cannot be fetched: huggingface_hub is in offline mode (HF_HUB_OFFLINE).") from error
    except (errors.HTTPError, errors.RevisionNotFoundError, OSError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise SourceError(f"{repo} cannot be fetched from the Hugging Face Hub: {lines[0]}") from error
    except (ValueError, KeyError) as error:
        if isinstance(error, errors.HFValidationError):
            raise SourceError(f"'{repo}' is no repository name of the Hub.") from error
        raise CheckpointError(f"{repo} has a config.json that cannot be read: {error}") from error


@contextlib.contextmanager
def _watching(folder: Path, total: int, progress: Progress) -> Iterator[None]:
    """Reports the folder's growth while something else fills it."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_POLL_S):
            progress("download", min(_size(folder), total), total)

    watcher = threading.Thread(target=watch, name="download-progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
    progress("download", total, total)


def _size(folder: Path) -> int:
    """Bytes of all files below `folder`; files may come and go meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total
