"""GGUF vocabulary that holds a text twice: ids lost, another id remapped to 0."""

from __future__ import annotations

from pathlib import Path

import pytest

from eet_demo.errors import UnsupportedError
from tests.gguf_files import byte_level_tokenizer
from tests.reports.ggufs import converted


@pytest.mark.parametrize(("first", "second"), [(3, 40), (0, 330), (1, 2)])
def test_refused_with_text_and_ids(tmp_path: Path, first: int, second: int) -> None:
    vocabulary = byte_level_tokenizer(331).get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    tokens[second] = tokens[first]
    with pytest.raises(UnsupportedError, match=rf"twice, as id {first} and as id {second}"):
        converted(tmp_path, tokenizer__ggml__tokens=tokens)
