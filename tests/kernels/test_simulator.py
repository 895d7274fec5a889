"""The simulator finds each kind of mistake and names its place; what is right passes in every mode."""

from __future__ import annotations

import re
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from eet_demo.engine.executors.cuda.compile.launch import Instance, LaunchConfig
from eet_demo.engine.executors.cuda.compile.sources import CUDA_SOURCES, SIM_SOURCES
from eet_demo.engine.executors.sim.build import SimBuilder, SimMode
from eet_demo.engine.executors.sim.isolated import run_binary
from eet_demo.engine.executors.sim.launcher import SimLauncher
from eet_demo.errors import KernelCompileError, KernelFaultError, UnsupportedError

FOLDER = Path(__file__).parent / "simulator"
VALUES = 8192


@cache
def simulator(mode: SimMode = "plain", seed: int = 0) -> SimLauncher:
    return SimLauncher(mode, seed, folder=FOLDER)


def run_fault(
    name: str, mode: SimMode = "plain", threads: int = 32, blocks: int = 1, n: int = 0, seed: int = 0, values: int = 0,
    shared_bytes: int = 0,
) -> np.ndarray:  # fmt: skip
    """Launches one kernel of faults.cu on `in` = 0, 1, 2, ... of exactly `values` floats; returns `out`, as long."""
    device = simulator(mode, seed)
    values = values or VALUES
    out = device.empty((values,), "float32")
    source = device.upload(np.arange(values, dtype=np.float32), "float32")
    if name in ("ticket_without_fence", "grid_barrier_without_residency", "spin_without_end"):
        device.write(out, np.zeros(values, np.float32))
    config = LaunchConfig(threads, (blocks, 1, 1), shared_bytes)
    device.launch(Instance("faults", (), name), config, (out, source, np.int32(n)))
    return device.download(out)


def fault(name: str, mode: SimMode = "plain", **options: int) -> str:
    """The report of a kernel that must fail."""
    with pytest.raises(KernelFaultError) as error:
        run_fault(name, mode, **options)
    return str(error.value)


def place(marker: str) -> str:
    """`faults.cu:<line>` of the line marked `// FAULT <marker>`."""
    lines = (FOLDER / "faults.cu").read_text().splitlines()
    (number,) = [i for i, line in enumerate(lines, 1) if line.endswith(f"// FAULT {marker}")]
    return f"faults.cu:{number}"


# ---- barriers and waiting ----


def test_divergent_barrier_names_both_places() -> None:
    report = fault("divergent_barrier", threads=64)
    assert "divergent __syncthreads" in report
    assert place("divergent_barrier") in report
    assert place("divergent_barrier other") in report


@pytest.mark.parametrize("seed", [0, 1])
def test_return_before_a_barrier_is_reported_in_either_order(seed: int) -> None:
    report = fault("early_return", threads=64, n=40, seed=seed)
    assert place("early_return") in report
    assert "returned" in report


def test_deadlock_lists_who_waits_where() -> None:
    report = fault("barrier_against_shuffle", threads=64)
    assert "deadlock" in report
    assert f"threads 0..15 of block (0,0,0) wait at simulator/{place('barrier_against_shuffle')}" in report
    assert re.search(r"threads 16\.\.31 of block \(0,0,0\) wait at cuda/common\.cuh:\d+ for a shuffle", report)


def test_a_binary_names_no_folder_of_the_machine_that_built_it(tmp_path: Path) -> None:
    """A cache is shared by checkouts: what one built must not report another's places."""
    source = Path(shutil.copytree(FOLDER, tmp_path / "elsewhere" / "simulator"))
    instance = Instance("faults", (), "barrier_against_shuffle")
    binary = SimBuilder("plain", source, tmp_path / "build").build(instance).read_bytes()
    assert b"simulator/faults.cu" in binary
    assert not [path for path in (tmp_path, CUDA_SOURCES, SIM_SOURCES, Path.cwd()) if str(path).encode() in binary]


def test_spin_without_end_is_a_deadlock() -> None:
    report = fault("spin_without_end")
    assert "deadlock" in report
    assert place("spin_without_end") in report


def test_grid_barrier_needs_a_cooperative_launch() -> None:
    assert "not cooperative" in fault("grid_barrier_without_residency", blocks=2)


def test_simulator_works_after_a_fault() -> None:
    fault("divergent_barrier", threads=64)
    with pytest.raises(KernelFaultError):
        run_fault("early_return", threads=64, n=40)
    assert run_fault("early_return", threads=64, n=64)[63] == 63


# ---- warp operations ----


def test_shuffle_from_a_lane_outside_its_mask() -> None:
    report = fault("shuffle_outside_mask")
    assert place("shuffle_outside_mask") in report
    assert "not in its mask 0xffff" in report


def test_shuffle_whose_mask_names_returned_lanes() -> None:
    reports = [fault("shuffle_with_returned_lanes", seed=seed) for seed in (0, 1)]
    assert all(place("shuffle_with_returned_lanes") in report for report in reports)


def test_divergent_shuffle_names_both_places() -> None:
    report = fault("divergent_shuffle")
    assert place("divergent_shuffle") in report
    assert place("divergent_shuffle other") in report


def test_masks_of_lanes_that_wait_for_each_other_must_be_equal() -> None:
    report = fault("masks_that_differ")
    assert "wait for this one with mask" in report
    assert place("masks_that_differ") in report
    assert place("masks_that_differ other") in report


# ---- memory ----


@pytest.mark.parametrize("name", ["global_read_past_end", "global_write_past_end", "global_read_before_start"])
def test_global_overrun_is_found_by_the_address_mode(name: str) -> None:
    report = fault(name, "address", values=32)
    assert "AddressSanitizer: heap-buffer-overflow" in report
    assert place(name) in report


def test_global_write_past_the_end_is_found_without_a_sanitizer() -> None:
    assert "argument 0: a write past the end" in fault("global_write_past_end", values=32)


@pytest.mark.parametrize("name", ["shared_past_end", "dynamic_shared_past_end"])
def test_shared_overrun_is_found_by_the_address_mode(name: str) -> None:
    report = fault(name, "address", n=1, shared_bytes=128)
    assert place(name) in report
    assert "use-after-poison" in report or "runtime error: index 32 out of bounds" in report


@pytest.mark.parametrize("name", ["shared_past_end", "dynamic_shared_past_end"])
def test_shared_overrun_is_found_without_a_sanitizer(name: str) -> None:
    assert "wrote outside" in fault(name, n=1, shared_bytes=128)


def test_shared_memory_within_bounds_is_clean() -> None:
    for mode in ("plain", "address"):
        assert run_fault("dynamic_shared_past_end", mode, n=0, shared_bytes=128)[31] == 31


def test_unwritten_shared_memory_reads_as_nan() -> None:
    out = run_fault("unwritten_shared", threads=64)
    assert np.isnan(out[63])
    assert not np.isnan(out[:63]).any()


def test_unwritten_global_memory_reads_as_nan() -> None:
    device = simulator()
    for dtype in ("float32", "float16", "bfloat16"):
        assert np.isnan(device.download(device.empty((3, 5), dtype))).all()


def test_misaligned_vector_is_reported() -> None:
    report = fault("misaligned_vector", n=1)
    assert "misaligned address" in report
    assert "16 bytes" in report


def test_wild_pointer_ends_the_launch_and_not_the_process() -> None:
    assert "invalid memory access at address 0x10 by thread (0,0,0) of block (0,0,0)" in fault("wild_pointer", n=16)


def test_static_shared_memory_has_a_limit() -> None:
    report = fault("too_much_static_shared")
    assert place("too_much_static_shared") in report
    assert "49156 bytes of static shared memory" in report


# ---- races ----


@pytest.mark.parametrize(
    ("name", "threads", "blocks"),
    [
        ("missing_barrier", 64, 1),
        ("missing_warp_barrier", 32, 1),
        ("blocks_write_one_place", 32, 2),
        ("ticket_without_fence", 32, 4),
        ("copy_into_a_buffer_in_use", 32, 1),
    ],
)
def test_race_mode_names_the_place(name: str, threads: int, blocks: int) -> None:
    report = fault(name, "race", threads=threads, blocks=blocks, n=9)
    assert "ThreadSanitizer: data race" in report
    assert place(name) in report


def test_race_mode_refuses_more_threads_than_it_knows() -> None:
    with pytest.raises(UnsupportedError, match="at most 4000 threads"):
        run_fault("missing_barrier", "race", threads=64, blocks=63)


def test_missing_barrier_gives_wrong_results_in_some_order() -> None:
    expected = np.arange(64, dtype=np.float32)[::-1]
    results = [run_fault("missing_barrier", threads=64, seed=seed)[:64] for seed in (0, 1)]
    assert not all(np.array_equal(result, expected) for result in results)


def test_dependence_on_thread_order_shows_between_seeds() -> None:
    assert run_fault("last_writer_wins", seed=0)[0] == 31
    assert run_fault("last_writer_wins", seed=1)[0] == 0
    assert len({run_fault("last_writer_wins", seed=seed)[0] for seed in range(2, 12)}) > 3


# ---- asynchronous copies ----


def test_missing_copy_wait_reads_nan() -> None:
    assert np.isnan(run_fault("missing_copy_wait")[:32]).all()


def test_wait_for_an_earlier_group_leaves_the_later_one_unread() -> None:
    out = run_fault("wait_for_the_wrong_group")
    assert np.array_equal(out[:32], np.arange(32))
    assert np.isnan(out[32:64]).all()


# ---- arguments and compilation ----


def test_arguments_are_checked_against_the_compiled_signature() -> None:
    device = simulator()
    out, ints = device.empty((32,), "float32"), device.empty((32,), "int32")
    instance, config = Instance("faults", (), "last_writer_wins"), LaunchConfig(32)
    for arguments, message in [
        ((out, ints, np.int32(0)), r"argument 1 is int32, the kernel declares \*float32"),
        ((out, out, np.int64(0)), "argument 2 is int64, the kernel declares int32"),
        ((out, out), "takes 3 arguments, not 2"),
        ((out, out, 0), "kernel argument 2 is 0 of int"),
        ((out, out, 1.5), r"kernel argument 2 is 1\.5 of float"),
    ]:
        with pytest.raises(TypeError, match=message):
            device.launch(instance, config, arguments)  # type: ignore[arg-type]


def test_null_pointer_is_allowed_and_an_access_to_it_reported() -> None:
    device = simulator()
    with pytest.raises(KernelFaultError, match=r"invalid memory access at address \(nil\)"):
        device.launch(
            Instance("faults", (), "last_writer_wins"),
            LaunchConfig(32),
            (device.empty((32,), "float32"), None, np.int32(0)),
        )


def test_compile_error_says_how_to_repeat_it(tmp_path: Path) -> None:
    (tmp_path / "broken.cu").write_text('#include "common.cuh"\n__global__ void broken(float* x) { x[0] = oops; }\n')
    device = SimLauncher(folder=tmp_path, build=tmp_path / "build")
    with pytest.raises(
        KernelCompileError, match=r"broken\.cu:2:\d+: error: .oops. was not declared(?s:.*)repeat it with"
    ):
        device.prepare([Instance("broken")])


@pytest.mark.parametrize("threads", [0, 48, 1056])
def test_block_sizes_that_no_gpu_takes_are_refused(threads: int) -> None:
    with pytest.raises(UnsupportedError, match="multiple of 32"):
        LaunchConfig(threads)


# ---- systems that scatter addresses too widely for ThreadSanitizer ----

REFUSES = """#!/bin/sh
if [ "$(cat /proc/self/personality)" = 00040000 ]; then echo ran; exit 0; fi
echo "FATAL: ThreadSanitizer: unexpected memory mapping 0x5" >&2
exit 66
"""


def test_race_mode_runs_without_address_randomisation_where_it_must(tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_text(REFUSES)
    binary.chmod(0o755)
    assert run_binary([str(binary)]).stdout == "ran\n"


def test_system_on_which_the_race_mode_cannot_run_is_told_the_remedy(tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_text(REFUSES.replace("00040000", "never"))
    binary.chmod(0o755)
    with pytest.raises(UnsupportedError, match=r"remedy: sysctl vm\.mmap_rnd_bits=28"):
        run_binary([str(binary)])
