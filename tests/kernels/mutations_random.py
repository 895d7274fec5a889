"""Faults planted in kernels/cuda/random.cuh, each with the test that must notice it: find, replace, test."""

from __future__ import annotations

_TEST = "tests/kernels/test_wrappers.py::test_philox_known_answers"

MUTATIONS = (
    # a round less, a round constant, the key's second word
    ("round < 10", "round < 9", _TEST),
    ("key.x + 0x9E3779B9u, key.y + 0xBB67AE85u", "key.x + 0xBB67AE85u, key.y + 0x9E3779B9u", _TEST),
    ("high0 ^ counter.w ^ key.y", "high0 ^ counter.w ^ key.x", _TEST),
)  # fmt: skip
