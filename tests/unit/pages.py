"""What a page in Markdown names: paths, `make` targets, commands."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^ *```\w*\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
SPAN = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\]\((?!https?:|#)([^)]+)\)")
PATH = re.compile(r"(?P<path>[\w.*-]+(/[\w.*-]+)*/?)(:(?P<name>\w+))?")
SUFFIXES = {".py", ".md", ".toml", ".txt", ".js", ".ts", ".css", ".json", ".cu", ".cuh", ".h", ".cpp", ".yml", ".yaml"}
NOT_OURS = {"config.json", "config.toml"}
"""Files of a model's folder, which pages speak of as well."""

PLACEHOLDER = re.compile(r"(?<![A-Z])(STEM|FAMILY|SIDE|VIEW)(?![A-Z])")
"""Stands for any name."""


def missing_paths(page: str, folder: Path) -> list[str]:
    """Paths, with or without `:NAME`, that are neither in the root nor in `folder`, or do not define NAME."""
    named = {span for span in spans(page) if looks_like_a_path(span)} | set(LINK.findall(page))
    return sorted(path for path in named if not is_there(path, folder))


def looks_like_a_path(span: str) -> bool:
    """Of this repository: it is the name of a file or, by its last stroke, a folder, or begins with one of ours."""
    if not (match := PATH.fullmatch(span)) or span in NOT_OURS:
        return False
    path = match["path"]
    if "/" not in path:
        return Path(path).suffix in SUFFIXES and path != Path(path).suffix
    return path.endswith("/") or (ROOT / path.split("/")[0]).is_dir() or Path(path).suffix in SUFFIXES


def is_there(path: str, folder: Path) -> bool:
    match = PATH.fullmatch(path)
    assert match is not None, path
    pattern, name = PLACEHOLDER.sub("*", match["path"]), match["name"]
    found = [file for base in (ROOT, folder) for file in base.glob(pattern)]
    return any(name is None or defines(file.read_text(encoding="utf-8"), name) for file in found)


def defines(text: str, name: str) -> bool:
    """A class, a function, or a value that begins a line; Python or the page's script."""
    words = rf"\b(class|def|function|const) {name}\b|^\s*(export |async )*{name}\s*(:.*=|=|\()"
    return re.search(words, text, re.MULTILINE) is not None


def make_targets(page: str) -> set[str]:
    return {match[1] for text in (*spans(page), *block_lines(page)) if (match := re.match(r"make ([a-z-]+)", text))}


def named_commands(pages: Iterable[str]) -> dict[tuple[str, ...], set[str]]:
    """Options by command: every `python -m` of the pages as module and, for this package's own, subcommand."""
    found: dict[tuple[str, ...], set[str]] = {}
    for page in pages:
        for text in (*spans(page), *block_lines(page)):
            if match := re.match(r"python -m (\S+)( [a-z]+\b)?", text.replace("\n", " ")):
                subcommand = [match[2].strip()] if match[2] and match[1] == "eet_demo" else []
                found.setdefault((match[1], *subcommand), set()).update(re.findall(r"--[a-z-]+", text))
    return found


def lacking(help: str, options: Iterable[str]) -> list[str]:
    """Options that a command's help does not list."""
    return [option for option in options if not re.search(rf"{option}(?![\w-])", help)]


def spans(page: str) -> Iterator[str]:
    """What stands between backticks, outside code blocks."""
    yield from SPAN.findall(FENCE.sub("", page))


def block_lines(page: str) -> Iterator[str]:
    for block in FENCE.findall(page):
        yield from block.splitlines()
