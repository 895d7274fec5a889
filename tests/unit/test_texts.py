"""The documents of `assets/texts/`: one exact file format, and enough of them to fill a 9,000-token context."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TEXTS = Path(__file__).resolve().parents[2] / "assets" / "texts"
DOCUMENTS = sorted(path for path in TEXTS.iterdir() if not path.name.startswith("."))

KEBAB_CASE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*\.md")
WORD = re.compile(r"\w+(?:['-]\w+)*")
# What a byte-level BPE tokenizer of GPT-2's kind cuts a text into before it merges anything. No token spans two of
# these pieces, so their number is a lower bound of the number of tokens, known here without any tokenizer file.
PIECE = re.compile(r"'(?:s|t|re|ve|m|ll|d)|\w+|[^\w\s]+")

each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)


def _body(path: Path) -> str:
    """The text under the five header lines and the empty line."""
    return "\n".join(path.read_text(encoding="utf-8").split("\n")[6:])


@each_document
def test_document_name_is_kebab_case(path: Path) -> None:
    assert path.is_file(), path.name
    assert KEBAB_CASE.fullmatch(path.name), path.name


@each_document
def test_document_header_has_title_description_and_three_questions(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").split("\n")
    title, description, *questions = lines[:5]
    assert re.fullmatch(r"# \S.*\S", title), title
    assert re.fullmatch(r"> \S.*\.", description), description
    for question in questions:
        assert re.fullmatch(r"\? \S.*[?.]", question), question
        assert len(question) <= 80, question
    assert len(set(questions)) == 3, questions
    assert lines[5] == "", f"line 6 of {path.name} must be empty: {lines[5]!r}"


@each_document
def test_document_body_is_paragraphs_one_line_each(path: Path) -> None:
    body = _body(path)
    assert re.search(r"[^\n]\n\Z", body), "one newline ends the file"
    paragraphs = body.removesuffix("\n").split("\n\n")
    assert len(paragraphs) >= 5
    for paragraph in paragraphs:
        assert re.fullmatch(r"\S(.*\S)?", paragraph), paragraph
        assert not re.match(r"[>?*-]|#(?!# )", paragraph), f"only '## ' subheads are markup here: {paragraph[:60]!r}"


@each_document
def test_document_characters_are_plain(path: Path) -> None:
    """Letters may have accents; quotes, dashes and spaces are ASCII, so that no tokenizer splits them into bytes."""
    text = path.read_text(encoding="utf-8")
    odd = {char for char in text if not ((char.isascii() and (char.isprintable() or char == "\n")) or char.isalpha())}
    assert not odd, sorted(odd)


@each_document
def test_document_length_fits_a_reader(path: Path) -> None:
    count = len(WORD.findall(_body(path)))
    assert 900 <= count <= 1150, f"{path.name}: {count} words"


def test_documents_have_titles_of_their_own() -> None:
    titles = [path.read_text(encoding="utf-8").split("\n")[0] for path in DOCUMENTS]
    assert len(set(titles)) == len(titles), titles


def test_documents_total_8000_words_and_9000_tokens() -> None:
    bodies = [_body(path) for path in DOCUMENTS]
    words = sum(len(WORD.findall(body)) for body in bodies)
    tokens_at_least = sum(len(PIECE.findall(body)) for body in bodies)
    assert words >= 8000, words
    assert tokens_at_least >= 9000, tokens_at_least
