"""Faults planted in kernels/cuda/tiles.cuh, each with the test that must notice it: find, replace, test."""

from __future__ import annotations

MUTATIONS = (
    # the halves of a register change places
    ("u.values.v[0] = from_float<T>(low);\n    u.values.v[1] = from_float<T>(high);",
     "u.values.v[1] = from_float<T>(low);\n    u.values.v[0] = from_float<T>(high);",
     "tests/kernels/test_wrappers.py::test_packed_pairs_keep_their_order"),
)  # fmt: skip
