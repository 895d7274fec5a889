"""Kernels compile for every architecture without a GPU; decode kernels spill nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from eet_demo.engine.executors.cuda.arrays import DType
from eet_demo.engine.executors.cuda.compile.launch import Instance
from eet_demo.engine.executors.cuda.compile.nvrtc import Nvrtc
from eet_demo.engine.executors.cuda.compile.resources import Usage, table, usage_of
from eet_demo.engine.executors.cuda.compile.sources import CUDA_SOURCES, read_source
from eet_demo.engine.executors.cuda.launchers.matrices import WeightFormat
from eet_demo.paths import kernel_cache
from tools.gates import __main__ as gates
from tools.gates.compile import compile_all, named_instance
from tools.gates.instances import ARCHS, MANY_ROWS, gate_instances, gate_specs, runs_on, stems

EVERYWHERE: tuple[str, DType, WeightFormat] = ("smollm2-135m", "float16", "dense")
ALSO: dict[str, tuple[tuple[str, DType, WeightFormat], ...]] = {
    "sm_75": (("gpt2", "float32", "dense"),),
    "sm_80": (("head-dim-256-gelu", "bfloat16", "dense"),),
    "sm_90": (("smollm2-135m", "float16", "q4_1"),),
    "sm_120": (("head-dim-80", "float16", "q8_0"),),
}
"""Shape, dtype and weights compiled here; `make gates` compiles all of them for every architecture."""


@pytest.mark.parametrize("arch", ARCHS)
def test_kernels_compile_and_decode_kernels_do_not_spill(arch: str) -> None:
    grouped: dict[str, list[Instance]] = {}
    for name, dtype, weights in (EVERYWHERE, *ALSO.get(arch, ())):
        for stem, instances in gate_instances([gate_specs()[name]], [dtype], [weights]).items():
            grouped.setdefault(stem, []).extend(instances)
    usages = compile_all(grouped, [arch], kernel_cache("cubins"))
    decode = {i.expression for stem, instances in grouped.items() if stem not in MANY_ROWS for i in instances}
    spilling = [usage for usage in usages if usage.spills and usage.expression in decode]
    assert not spilling, table(spilling)
    assert {usage.expression for usage in usages} == {
        i.expression for instances in grouped.values() for i in instances if runs_on(i, arch)
    }


def test_spills_are_seen(tmp_path: Path) -> None:
    """A kernel that must spill is reported as spilling: the gate above can fail."""
    (tmp_path / "greedy.cu").write_text(
        '#include "common.cuh"\n'
        "__global__ __launch_bounds__(1024, 2) void greedy(const float* in, float* out) {\n"
        "    float x[96];\n"
        "#pragma unroll\n"
        "    for (int i = 0; i < 96; ++i) x[i] = in[i * 1024 + threadIdx.x];\n"
        "    __syncthreads();\n"
        "#pragma unroll\n"
        "    for (int i = 0; i < 96; ++i) out[i * 1024 + threadIdx.x] = x[i] * x[95 - i];\n"
        "}\n"
    )
    (usage,) = usage_of(Nvrtc().compile(read_source("greedy", tmp_path), ["greedy"], "sm_90"))
    assert usage.spills
    assert usage.registers <= 32
    assert f"spill {usage.spill_store_bytes}" in table([usage])


def test_usage_names_static_shared_memory() -> None:
    source = read_source("sound", Path(__file__).parent / "simulator")
    (usage,) = usage_of(Nvrtc().compile(source, ["tile_product<half>"], "sm_80"))
    assert usage == Usage("tile_product<half>", "sm_80", usage.registers, 1024, 0, 0, 0)


@pytest.mark.parametrize("arch", ["sm_75", "sm_80", "sm_90", "sm_120"])
def test_every_wrapper_compiles(arch: str) -> None:
    source = read_source("sound", Path(__file__).parent / "simulator")
    expressions = ["warp_operations", "block_operations<96>", "tile_product<half>", "zero_fill", "last_block_sums",
                   "grid_rounds", "flag_between_blocks", "atomic_sums", "convert<half>", "convert<bfloat16>",
                   "random_words", "dequantised<half, 1>", "dequantised<half, 2>", "dequantised<half, 3>"]  # fmt: skip
    compiled = Nvrtc().compile(source, expressions, arch)
    assert compiled.cubin.startswith(b"\x7fELF")
    assert len(compiled.lowered) == len(expressions)


if shutil.which("nvcc"):  # a CUDA toolkit is no part of the set-up, and a test that is not there is no skipped test

    @pytest.mark.parametrize("stem", stems())
    def test_nvcc_compiles_too(stem: str, tmp_path: Path) -> None:
        """One instance of each kernel: the two compilers read different headers."""
        instance = gate_instances(gate_specs().values(), ("float16",), ("q4_0",), [stem])[stem][0]
        unit = tmp_path / "unit.cu"
        unit.write_text(f'#include "{stem}.cu"\nvoid* const keep = reinterpret_cast<void*>(&{instance.expression});\n')
        command = [
            "nvcc",
            "-std=c++17",
            "-cubin",
            "-arch=sm_80",
            f"-I{CUDA_SOURCES}",
            str(unit),
            "-o",
            str(tmp_path / "out"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        assert stem.encode() in (tmp_path / "out").read_bytes()


def test_gates_command_fills_a_folder_and_compiles_nothing_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--stem", "embed", "--shape", "smollm2-135m", "--dtype", "float16", "--weights", "dense", "q8_0",
                 "--arch", "sm_75", "sm_90", "--cubins", str(tmp_path)]  # fmt: skip
    assert gates.main(arguments) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^embed<half, 1, 0, 96, 1> +\d+ / 0 +\d+ / 0$", printed, re.MULTILINE)
    assert "2 instances on sm_75, sm_90: 0 decode and 0 prefill spill" in printed
    monkeypatch.setattr(Nvrtc, "compile", lambda *_: pytest.fail("compiled what was there"))
    assert gates.main(arguments) == 0
    assert capsys.readouterr().out == printed


def test_gates_command_names_what_does_not_compile(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = ["--arch", "sm_90", "--cubins", str(tmp_path)]
    assert gates.main(["--stem", "embed", "--instance", "embed<half, 7>", *options]) == 1
    assert "embed<half, 7>" in capsys.readouterr().err


def test_expressions_are_read_back() -> None:
    instance = Instance("embed", ("bfloat16", 3, True, 96, False))
    assert named_instance("embed", instance.expression).expression == instance.expression
