"""Faults planted in kernels/cuda/blocks.cuh, each with the test that must notice it: find, replace, test."""

from __future__ import annotations

_TEST = "tests/kernels/test_wrappers.py::test_"

MUTATIONS = (
    # the order of the ticket, and barriers, dropped
    ("__atomic_fetch_add(address, value, __ATOMIC_ACQ_REL)",
     "__atomic_fetch_add(address, value, __ATOMIC_RELAXED)", _TEST + "last_block_sees_all_others"),
    ("    __syncthreads();\n    if (threadIdx.x == 0) {\n        ticket[0] = add_acq_rel",
     "    if (threadIdx.x == 0) {\n        ticket[0] = add_acq_rel", _TEST + "last_block_sees_all_others"),
    ("    }\n    __syncthreads();\n    return ticket[0]",
     "    }\n    return ticket[0]", _TEST + "last_block_sees_all_others"),
    # the counter is not reset, the last but one is taken for the last
    ("if (ticket[0] == whole) *counter = 0;", "", _TEST + "last_block_sees_all_others"),
    ("return ticket[0] == whole;", "return ticket[0] + share == whole;", _TEST + "last_block_sees_all_others"),
    # the grid barrier lets blocks through early, or is none
    ("/ num_blocks + 1) * num_blocks;", "/ num_blocks + 1) * num_blocks - 1;", _TEST + "grid_barrier_holds_all_blocks"),
    ("        SPIN_UNTIL(static_cast<int32_t>(ld_acquire(counter) - target) >= 0);\n",
     "        (void)target;\n", _TEST + "grid_barrier_holds_all_blocks"),
    ("    __syncthreads();\n    if (threadIdx.x == 0) {\n        __threadfence();\n        const uint32_t target",
     "    if (threadIdx.x == 0) {\n        __threadfence();\n        const uint32_t target",
     _TEST + "grid_barrier_holds_all_blocks"),
    ("        __threadfence();\n        const uint32_t target",
     "        const uint32_t target", _TEST + "grid_barrier_holds_all_blocks"),
)  # fmt: skip
