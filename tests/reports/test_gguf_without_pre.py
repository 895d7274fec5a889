"""A GGUF without `tokenizer.ggml.pre` is taken as gpt-2 without a word."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.reports.ggufs import converted


@pytest.mark.parametrize("pre", [None, "gpt-2"])
def test_it_is_said(tmp_path: Path, pre: str | None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "eet_demo"):
        converted(tmp_path, tokenizer__ggml__pre=pre)
    assert ("tokenizer.ggml.pre" in caplog.text) == (pre is None)
