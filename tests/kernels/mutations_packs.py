"""Faults planted in kernels/cuda/packs.cuh, each with a test that must fail."""

FORMATS = "tests/kernels/test_linear_residual.py::test_linear_residual_reads_every_format"
CLEAN = "tests/kernels/test_linear_residual.py::test_linear_residual_is_clean_in_every_mode"

MUTATIONS = (
    # scales are ignored
    ("out[i] = d * (small_float((word", "out[i] = (small_float((word", FORMATS),
    ("out[i] = d * (small_float(word >> (at / 16 * 4) & 15u) - 8.0f)",
     "out[i] = small_float(word >> (at / 16 * 4) & 15u) - 8.0f", FORMATS),
    ("fma_pairs<T>(out[i], pack2<T>(d, d), pack2<T>(m, m))", "out[i]", FORMATS),
    # the zero of Q4_0 is off by one
    ("& 15u) - 8.0f)", "& 15u) - 7.0f)", FORMATS),
    ("kFormat == kQ4_0 ? 8 : 0;", "kFormat == kQ4_0 ? 7 : 0;", FORMATS),
    # the minimum of Q4_1 is ignored
    ("& 15u), to_float(pack.scale[0].v[1]))", "& 15u), 0.0f)", FORMATS),
    ("pack2<T>(m, m)", "pack2<T>(0.0f, 0.0f)", FORMATS),
    # low nibbles for high ones
    ("small_float(word >> (at / 16 * 4) & 15u) - 8.0f", "small_float(word & 15u) - 8.0f", FORMATS),
    ("slice < 2 ? word : word >> 4", "word", FORMATS),
    # signed bytes read as unsigned ones
    ("kFormat == kQ8_0 ? word ^ 0x80808080u", "kFormat == kQ8_0 ? word", FORMATS),
    # bytes change places
    ("0x4140", "0x4041", FORMATS),
    ("0x7632", "0x3276", FORMATS),
    # scale and minimum of the wrong block
    ("+ first) * kParts", "+ first)", FORMATS),
    ("+ 2 * lane % kPackBlocks<kFormat>", "", FORMATS),
    # columns past the last are read, and scales past the last block
    ("if (k < end) {", "if (k <= end) {", CLEAN),
    ("if ((first + i) * kBlockValues < static_cast<unsigned>(end))", "", CLEAN),
)  # fmt: skip
