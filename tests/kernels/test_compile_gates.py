"""Kernels compile for every architecture without a GPU; decode kernels spill nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from eet_demo.engine.executors.cuda import gates
from eet_demo.engine.executors.cuda.instances import ARCHS, gate_instances, gate_specs, runs_on, stems
from eet_demo.engine.executors.cuda.launch import Instance
from eet_demo.engine.executors.cuda.nvrtc import Nvrtc
from eet_demo.engine.executors.cuda.resources import Usage, table, usage_of
from eet_demo.engine.executors.cuda.sources import CUDA_SOURCES, read_source

GATED = ("smollm2-135m", "gpt2", "head-dim-80", "head-dim-256-gelu")
"""Compiled here for every architecture; `make gates` compiles every shape, dtype and format."""

MANY_ROWS = ("activation", "add_norm", "attention_prefill", "dequantise", "last_rows", "qkv_post")
"""Prefill kernels, bound by arithmetic; all others run once a token and may not spill."""


@pytest.mark.parametrize("arch", ARCHS)
def test_kernels_compile_and_decode_kernels_do_not_spill(arch: str) -> None:
    specs = [gate_specs()[name] for name in GATED]
    grouped = gate_instances(specs[:2], ("float16",), ("dense", "q8_0", "q4_1"))
    for stem, instances in gate_instances(specs, ("bfloat16", "float32"), ("dense",)).items():
        grouped[stem] = [*grouped.get(stem, []), *instances]
    usages = gates.compile_all(grouped, [arch])
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


@pytest.mark.skipif(not shutil.which("nvcc"), reason="no CUDA toolkit here")
@pytest.mark.parametrize("stem", stems())
def test_nvcc_compiles_too(stem: str, tmp_path: Path) -> None:
    """One instance of each kernel: the two compilers read different headers."""
    instance = next(iter(gate_instances([gate_specs()["gpt2"]], ("float16",), ("dense",), [stem])[stem]))
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


def test_gates_command_fills_a_folder_and_compiles_nothing_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--stem", "embed", "--shape", "smollm2-135m", "--dtype", "float16", "--weights", "dense", "q8_0",
                 "--arch", "sm_75", "sm_90", "--cubins", str(tmp_path)]  # fmt: skip
    assert gates.main(arguments) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^embed<half, 1, 0, 96, 1> +\d+ / 0 +\d+ / 0$", printed, re.MULTILINE)
    assert "2 instances on sm_75, sm_90: 0 spill" in printed
    monkeypatch.setattr(Nvrtc, "compile", lambda *_: pytest.fail("compiled what was there"))
    assert gates.main(arguments) == 0
    assert capsys.readouterr().out == printed


def test_gates_command_names_what_does_not_compile(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = ["--arch", "sm_90", "--cubins", str(tmp_path)]
    assert gates.main(["--stem", "embed", "--instance", "embed<half, 7>", *options]) == 1
    assert "embed<half, 7>" in capsys.readouterr().err


def test_expressions_are_read_back() -> None:
    instance = Instance("embed", ("bfloat16", 3, True, 96, False))
    assert gates.named_instance("embed", instance.expression).expression == instance.expression
