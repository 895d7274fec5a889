"""Faults planted in kernels/cuda/quantised.cuh, each with the test that must notice it: find, replace, test."""

from __future__ import annotations

_TEST = "tests/kernels/test_wrappers.py::test_quantised_blocks_decode_as_gguf_does"

MUTATIONS = (
    # the offset, the minimum and the sign are forgotten
    ("kFormat == kQ4_0 ? -8.0f * d : 0.0f", "kFormat == kQ4_0 ? -7.0f * d : 0.0f", _TEST),
    ("        m = pair[1];", "        m = 0.0f;", _TEST),
    ("d * static_cast<float>(static_cast<int8_t>(q))", "d * static_cast<float>(q)", _TEST),
    ("static_cast<float>(static_cast<int8_t>(word >> (8 * i)))",
     "static_cast<float>(static_cast<uint8_t>(word >> (8 * i)))", _TEST),
    # low and high nibbles change places
    ("k % kBlockValues >= 16 ? 4 : 0", "k % kBlockValues >= 16 ? 0 : 4", _TEST),
    ("nibble(words[i / 4], i % 4, 4)", "nibble(words[i / 4], i % 4, 0)", _TEST),
    # scale of the wrong block, bytes of the wrong block
    ("load_scale<kFormat>(w.scales, at / kBlockValues, d, m)",
     "load_scale<kFormat>(w.scales, k / kBlockValues, d, m)", _TEST),
    ("at / kBlockValues * 16 + k % 16", "at / kBlockValues * 16 + k % 8", _TEST),
)  # fmt: skip
