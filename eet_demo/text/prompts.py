"""What a race is about: documents, the visitor's own words, and prompts of exactly the length asked for.

A prompt is `template start | filler | document | question | template end`, joined as ids. The document stands next to
the question, where a small model heeds it most. A document longer than the room is cut at its end, and there is no
filler; in a longer context, filler comes before it: the repository's other documents, then Python's own reference
topics, from the start again if even they do not suffice.
"""

from __future__ import annotations

import itertools
import pydoc_data.topics
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from eet_demo.declared import shown
from eet_demo.errors import CheckpointError, RequestError
from eet_demo.paths import ASSETS
from eet_demo.text.tokens import Tokenizer

TEXTS_PATH = ASSETS / "texts"
OWN_TEXT = "text:"
"""`prompt` is a document id, or the visitor's own text after this mark."""

_SEPARATOR = "\n\n"
_SHREDS = 16  # ids: less filler than this says nothing


@dataclass(frozen=True)
class Document:
    """A text to read: `id` is its file's stem."""

    id: str
    title: str
    description: str
    questions: tuple[str, ...]
    text: str


def load_documents(folder: Path = TEXTS_PATH) -> Mapping[str, Document]:
    """The repository's documents by id, in the order of their file names.

    Each file: a line `# Title`, a line `> description`, lines `? question`, then the text.

    Raises:
        CheckpointError: a file that does not begin so.
    """
    return {path.stem: _read_document(path) for path in sorted(folder.glob("*.md"))}


def _read_document(path: Path) -> Document:
    title, description, *rest = path.read_text(encoding="utf-8").split("\n")
    questions = list(itertools.takewhile(lambda line: line.startswith("? "), rest))
    text = "\n".join(rest[len(questions) :]).strip()
    if not (title.startswith("# ") and description.startswith("> ") and questions and text):
        raise CheckpointError(f"{path} must begin with '# title', '> description' and '? question' lines, then a text.")
    asked = tuple(line[2:].strip() for line in questions)
    return Document(path.stem, title[2:].strip(), description[2:].strip(), asked, text)


def row_lengths(context: int, batch: int, ragged: bool) -> list[int]:
    """Ids in each row of a batch; ragged rows shrink evenly to a little over half."""
    return [context - (row * context // (2 * batch) if ragged else 0) for row in range(batch)]


def build_prompt(
    tokenizer: Tokenizer, prompt: str, question: str, context: int, batch: int = 1, ragged: bool = False
) -> list[list[int]]:
    """Prompt ids, one list a row, each of exactly its `row_lengths` ids, template included.

    Args:
        prompt: a document id, `text:` and the visitor's own text, or empty for the first document.
        question: follows the document; may be empty.
        context: ids of the longest row.

    Rows of a batch read different documents; where the question is one of the document's own, each row asks its
    document's. The visitor's own text is never cut: every row has it whole, behind different filler.

    Raises:
        RequestError: an unknown document, an own text that is empty, too long or unwritable, or a context in which
            the question does not fit; with the figures.
    """
    if batch < 1:
        raise RequestError(f"A batch has at least one row, not {batch}.")
    documents = load_documents()
    own = prompt.removeprefix(OWN_TEXT).strip() if prompt.startswith(OWN_TEXT) else None
    if own == "":
        raise RequestError("The prompt is empty: write some text, or choose a document.")
    for what, text in (("text", own or ""), ("question", question)):
        _check_writable(tokenizer, text, what)
    rows = []
    for row, length in enumerate(row_lengths(context, batch, ragged)):
        if own is not None:
            reading = _Reading(own, question, whole=True, filler=_filler(documents, row, without=""))
        else:
            reading = _document_row(documents, prompt, question, row)
        rows.append(_row_ids(tokenizer, reading, row, length))
    return rows


@dataclass(frozen=True)
class _Reading:
    """What one row reads and is asked. `whole` texts may not be cut."""

    text: str
    question: str
    whole: bool
    filler: Iterable[str]


def _document_row(documents: Mapping[str, Document], prompt: str, question: str, row: int) -> _Reading:
    """Row 0 has the chosen document, row 1 the next one, ...; another round begins a paragraph later."""
    ids = list(documents)
    if prompt and prompt not in documents:
        raise RequestError(f"No document is called {shown(prompt)}. There are {', '.join(ids)}.")
    chosen = documents[prompt or ids[0]]
    document = documents[ids[(ids.index(chosen.id) + row) % len(ids)]]
    if question in chosen.questions:
        question = document.questions[chosen.questions.index(question) % len(document.questions)]
    paragraphs = document.text.split("\n\n")
    text = "\n\n".join([document.title, *paragraphs[row // len(ids) % len(paragraphs) :]])
    return _Reading(text, question, whole=False, filler=_filler(documents, row, without=document.id))


def _filler(documents: Mapping[str, Document], row: int, without: str) -> Iterable[str]:
    """Endless reading matter for long contexts; another order in each row."""
    texts = [f"{document.title}\n\n{document.text}" for document in documents.values() if document.id != without]
    topics = [topic.strip() for topic in pydoc_data.topics.topics.values()]
    start, first = row % len(texts), row // len(texts) % len(topics)
    return itertools.cycle([*texts[start:], *texts[:start], *topics[first:], *topics[:first]])


def _row_ids(tokenizer: Tokenizer, reading: _Reading, row: int, length: int) -> list[int]:
    """Exactly `length` ids."""
    before, after = _frame(tokenizer, reading.question.strip())
    room = length - len(before) - len(after)
    if room < 1:
        raise RequestError(
            f"A context of {length} ids{_in_row(row)} is too short: the question and the model's chat template need "
            f"{len(before) + len(after) + 1} with one id of text. Take a longer context or a shorter question."
        )
    ids = tokenizer.encode(reading.text)
    if len(ids) > room and reading.whole:
        raise RequestError(
            f"The text has {len(ids)} ids, but a context of {length} ids{_in_row(row)} has room for {room} beside the "
            f"question and the chat template. Shorten it by {len(ids) - room} ids or take a longer context."
        )
    if len(ids) >= room:
        return before + _cut(tokenizer, ids, room) + after
    return before + _fill(tokenizer, reading.filler, room - len(ids)) + ids + after


def _in_row(row: int) -> str:
    return f" (row {row + 1} of the batch)" if row else ""


def _frame(tokenizer: Tokenizer, question: str) -> tuple[list[int], list[int]]:
    """Ids around the text, never cut: a chat template's, or plain words for a base model."""
    if tokenizer.chat_frame is not None:
        before, after = tokenizer.chat_frame
        return before, (tokenizer.encode(_SEPARATOR + question) if question else []) + after
    return tokenizer.prefix_ids, tokenizer.encode(f"{_SEPARATOR}Question: {question}\nAnswer:") if question else []


def _check_writable(tokenizer: Tokenizer, text: str, what: str) -> None:
    if lost := tokenizer.unwritable(text):
        names = [f"U+{ord(char):04X} {unicodedata.name(char, '')}".strip() for char in lost[:5]]
        raise RequestError(f"This model's vocabulary cannot write {', '.join(names)}; remove it from the {what}.")


def _fill(tokenizer: Tokenizer, texts: Iterable[str], count: int) -> list[int]:
    """Exactly `count` ids: texts, the last one cut, and a blank line; only newlines where there is room for no more."""
    newline, separator = tokenizer.encode("\n")[-1:], tokenizer.encode(_SEPARATOR)
    if count < _SHREDS:
        return newline * count
    ids: list[int] = []
    for text in texts:
        ids += tokenizer.encode(text) + separator
        if len(ids) >= count:
            break
    return _cut(tokenizer, ids, count - len(separator)) + separator


def _cut(tokenizer: Tokenizer, ids: list[int], count: int) -> list[int]:
    """The first `count` ids; newlines stand in for the first bytes of a character that the cut went through."""
    whole = count
    while whole and tokenizer.decode(ids[max(0, whole - 8) : whole]).endswith("\ufffd"):
        whole -= 1
    return ids[:whole] + tokenizer.encode("\n")[-1:] * (count - whole)
