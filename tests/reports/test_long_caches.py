"""`bucket_of(131073, 262144)`: StopIteration at position 131,072 of a context beyond the last bucket."""

from __future__ import annotations

import pytest

from eet_demo.engine.executors.cuda.runtime.inputs import bucket_of


@pytest.mark.parametrize(
    ("length", "context", "bucket"),
    [(1, 4096, 256), (257, 300, 300), (131072, 262144, 131072), (131073, 262144, 262144), (262144, 262144, 262144)],
)
def test_any_length_has_a_bucket(length: int, context: int, bucket: int) -> None:
    assert bucket_of(length, context) == bucket
