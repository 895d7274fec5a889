"""Rules over machine code: each passes on the kernels as they are, and fails on a listing that breaks it."""

from __future__ import annotations

from pathlib import Path

import pytest

from eet_demo.engine.dtypes import Real
from eet_demo.engine.executors.cuda.compile.cubins import Cubin, CubinFolder
from eet_demo.engine.executors.cuda.compile.launch import Instance, LaunchConfig
from eet_demo.engine.executors.cuda.compile.nvrtc import Nvrtc
from eet_demo.engine.executors.cuda.compile.resources import Usage
from eet_demo.engine.executors.cuda.compile.sources import read_source
from eet_demo.engine.executors.cuda.launchers.matrices import WeightFormat
from eet_demo.paths import kernel_cache
from tools.gates import gates, report
from tools.gates.check import check_all, listing
from tools.gates.compile import compile_all
from tools.gates.gpus import GPUS, H100, resident
from tools.gates.instances import gate_instances, gate_specs, has_dtype
from tools.gates.paper import decode_launches
from tools.gates.predict import in_flight_bytes, predict
from tools.gates.sass import Function, disassemble, parse

MAIN: tuple[tuple[str, Real, WeightFormat], ...] = (
    ("smollm2-135m", "float16", "dense"), ("gpt2", "float16", "dense"), ("smollm2-135m", "float16", "q8_0"),
)  # fmt: skip
"""What is compiled here; `make gates` takes every model, dtype and format."""


def find(instance: Instance, arch: str) -> Cubin:
    cubin = CubinFolder(kernel_cache("cubins")).find(read_source(instance.stem), instance, arch)
    assert cubin, f"{instance.expression} was not compiled"
    return cubin


def compiled(name: str, dtype: Real, weights: WeightFormat, arch: str) -> list[tuple[Instance, Cubin]]:
    grouped = gate_instances([gate_specs()[name]], [dtype], [weights])
    compile_all(grouped, [arch], kernel_cache("cubins"))
    return [(instance, find(instance, arch)) for instances in grouped.values() for instance in instances]


@pytest.mark.parametrize("arch", ["sm_90", "sm_120"])
@pytest.mark.parametrize(("name", "dtype", "weights"), MAIN)
def test_machine_code_keeps_the_rules(name: str, dtype: Real, weights: WeightFormat, arch: str) -> None:
    assert not check_all(compiled(name, dtype, weights, arch))


@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize(("name", "dtype", "weights"), MAIN)
def test_decode_takes_one_wave_with_enough_under_way(name: str, dtype: Real, weights: WeightFormat, rows: int) -> None:
    compiled(name, dtype, weights, "sm_90")
    found = report.rows_of(gate_specs()[name], dtype, weights, rows, H100, find)
    assert not {row.expression: row.breaches() for row in found if row.breaches()}


def test_prefetch_is_a_switch(tmp_path: Path) -> None:
    """NO_PREFETCH has no load in front of the wait: what the switch measures is the weights' head start."""
    grouped = gate_instances([gate_specs()["smollm2-135m"]], ["float16"], ["dense"], ["linear_residual"])
    instance = grouped["linear_residual"][0]
    source = read_source("linear_residual", defines=("NO_PREFETCH",))
    assert source.digest != read_source("linear_residual").digest
    late = Nvrtc().compile(source, [instance.expression], "sm_90")
    (tmp_path / "late.cubin").write_bytes(late.cubin)
    code = disassemble(tmp_path / "late.cubin")[late.lowered[instance.expression]]
    assert not any(instruction.is_load for instruction in code.code[: code.first("ACQBULK")])


@pytest.mark.parametrize("name", ["llama-3.2-1b", "qwen2.5-0.5b", "smollm2-135m", "llama-2-7b"])
def test_attention_keeps_the_memory_busy_at_a_long_context(name: str) -> None:
    spec = gate_specs()[name]
    grouped = gate_instances([spec], ["float16"], ["dense"], ["attention_decode"])
    compile_all(grouped, ["sm_90"], kernel_cache("cubins"))
    assert not check_all((instance, find(instance, "sm_90")) for instance in grouped["attention_decode"])
    launches = decode_launches(spec, "float16", "dense", 4, 4096, H100)
    launched = next(launched for launched in launches if launched.instance.stem == "attention_decode")
    usage = find(launched.instance, "sm_90").usage
    at_once = resident(usage, launched.config.threads, launched.config.shared_bytes, H100.capability)
    assert in_flight_bytes(launched, at_once, H100) >= report.ENOUGH_OF_CACHE


@pytest.mark.parametrize(
    ("name", "most_us", "length"),
    [("gpt2", 225, 128), ("smollm2-135m", 430, 128), ("llama-3.2-1b", 984, 128), ("llama-2-7b", 4930, 128)],
)
def test_predictions_reach_the_targets(name: str, most_us: float, length: int) -> None:
    """Microseconds of a token on an H100 in float16: 75% of 3.35 TB/s for Llama-3.2-1B, 80% for Llama-2-7B."""
    launches = decode_launches(gate_specs()[name], "float16", "dense", 1, length, H100)
    assert sum(predict(launched, length, H100).us for launched in launches) <= most_us


def test_a_long_context_costs_little_more() -> None:
    def step_us(length: int) -> float:
        launches = decode_launches(gate_specs()["smollm2-135m"], "float16", "dense", 1, length, H100)
        return sum(predict(launched, length, H100).us for launched in launches)

    assert step_us(8192) <= 1.6 * step_us(128)


# ---- listings that must fail ----

KNOWN = (
    gates.Parameter("residual", 0, True), gates.Parameter("weights", 8, True), gates.Parameter("bias", 16, True),
    gates.Parameter("rows", 24, False),
)  # fmt: skip

ORDERLY = """
        LDC.64 R2, c[0x0][0x218]
        LDC.64 R8, c[0x0][0x210]
        LDC.64 R14, c[0x0][0x220]
        LDG.E.NA.128 R4, desc[UR4][R2.64]
        LDG.E R13, desc[UR4][R14.64]
        ACQBULK
        PREEXIT
        LDG.E.128 R8, desc[UR4][R8.64]
        BAR.SYNC.DEFER_BLOCKING 0x0
.L_x_1:
        LDG.E.NA.128 R4, desc[UR4][R2.64]
        FFMA R16, R4, R8, R16
        FFMA R17, R5, R9, R17
@P0     BRA `(.L_x_1)
        BAR.SYNC.DEFER_BLOCKING 0x0
        STG.E desc[UR4][R10.64], R16
        EXIT
"""


def function(text: str) -> Function:
    """A listing as nvdisasm prints it, from instructions a line."""
    lines = [".text.kernel:"]
    address = 0
    for line in text.strip().splitlines():
        if line.startswith(".L"):
            lines.append(line)
            continue
        lines.append(f"        /*{address:04x}*/ {line.strip()} ;")
        address += 16
    return parse("\n".join(lines))["kernel"]


def changed(old: str, new: str) -> Function:
    assert old in ORDERLY
    return function(ORDERLY.replace(old, new, 1))


def all_rules(code: Function) -> list[str]:
    return [
        *gates.order(code, "sm_90", KNOWN, 1), *gates.early_constants(code, "sm_90", KNOWN, ["bias"]),
        *gates.epilogue(code, "sm_90", KNOWN), *gates.loads_first(code), *gates.under_way(code),
        *gates.no_retries(code), *gates.issue(code),
    ]  # fmt: skip


def test_an_orderly_listing_breaks_nothing() -> None:
    assert not all_rules(function(ORDERLY))


WEIGHTS = "LDG.E.NA.128 R4, desc[UR4][R2.64]\n        LDG.E R13, desc[UR4][R14.64]\n"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (WEIGHTS + "        ACQBULK", "ACQBULK\n        " + WEIGHTS, "0 of 1 weight loads stand before the wait"),
        ("        ACQBULK\n", "", "there is no griddepcontrol.wait"),
        ("ACQBULK", "LDG.E R20, desc[UR4][R8.64]\n        ACQBULK", "reads residual before the wait"),
        ("ACQBULK", "STG.E desc[UR4][R10.64], R16\n        ACQBULK", "STG.E desc[UR4][R10.64], R16 stands before"),
        ("LDG.E.128 R8, desc", "LDG.E.128.CONSTANT R8, desc", "residual, which kernels write, as read-only"),
        ("        LDG.E R13, desc[UR4][R14.64]\n", "", "bias is not asked for before the wait"),
        (
            "        STG.E desc",
            "        LDG.E R13, desc[UR4][R14.64]\n        STG.E desc",
            "after the last barrier (bias)",
        ),
        (
            "        FFMA R16, R4, R8, R16\n",
            "        FFMA R16, R4, R8, R16\n        LDG.E.NA.128 R20, desc[UR4][R2.64]\n",
            "1 of 2 streamed loads of the loop stand behind FFMA",
        ),
        (
            "        LDG.E.NA.128 R4, desc[UR4][R2.64]\n        FFMA R16, R4, R8, R16\n        FFMA R17, R5, R9, R17\n",
            "        FFMA R16, R4, R8, R16\n        FFMA R17, R5, R9, R17\n        LDG.E.NA.128 R4, desc[UR4][R2.64]\n",
            "2 of 2 arithmetic instructions of the loop stand before its last streamed load",
        ),
        ("        EXIT", "        ATOMS.CAST.SPIN.64 R6, [R19], R4, R6\n        EXIT", "tried until it succeeds"),
        ("        FFMA R17", "        FFMA R18, R4, R8, R18\n" * 100 + "        FFMA R17", "keep up with the memory"),
    ],
)
def test_a_listing_that_breaks_a_rule_is_named(old: str, new: str, words: str) -> None:
    found = all_rules(changed(old, new))
    assert any(words in sentence for sentence in found), found


COPYING = """
        ACQBULK
.L_x_1:
        LDGSTS.E.BYPASS.LTC128B.128 [R2], desc[UR4][R4.64]
        LDGDEPBAR
        DEPBAR.LE SB0, 0x1
        HMMA.16816.F32 R8, R12, R16, R8
@P0     BRA `(.L_x_1)
        EXIT
"""


def test_a_wait_for_every_copy_is_named() -> None:
    assert not gates.copies_ahead(function(COPYING))
    assert gates.copies_ahead(function(COPYING.replace("0x1", "0x0"))) == ["DEPBAR.LE SB0, 0x0 waits for every copy"]
    assert gates.copies_ahead(function(COPYING.replace("DEPBAR.LE SB0, 0x1", "NOP"))) == ["no copy is waited for"]
    assert gates.copies_ahead(function(ORDERLY)) == ["there is no loop of asynchronous copies"]


def test_a_promise_of_read_only_memory_that_kernels_write_is_named() -> None:
    promised = gates.Parameter("residual", 0, True, read_only=True)
    assert gates.declared([promised]) == ["residual, which kernels write, is declared const __restrict__"]
    assert not gates.declared(KNOWN)


def test_parameters_come_from_the_source() -> None:
    known = {p.name: p for p in gates.parameters("norm_mlp")}
    assert known["residual"] == gates.Parameter("residual", 0, True, read_only=False)
    assert known["norm_weight"] == gates.Parameter("norm_weight", 8, True, read_only=True)
    assert known["rows"].offset == 56
    assert not known["eps"].pointer


def test_an_address_is_followed_through_wide_loads_and_predicates() -> None:
    code = function("""
        LDCU.128 UR4, c[0x0][0x390]
        LDC.64 R2, c[0x0][0x380]
        IMAD.WIDE R6, R9, 0x4, R2
@P1     MOV R6, UR6
@P1     LDG.E R8, desc[UR10][R6.64]
        LDG.E R8, desc[UR10][R6.64]
        """)
    known = (gates.Parameter("a", 0, True), gates.Parameter("b", 16, True), gates.Parameter("c", 24, True))
    assert gates.pointers_behind(code, 4, "sm_120", known) == {"a", "c"}
    assert gates.pointers_behind(code, 5, "sm_120", known) == {"a", "c"}


# ---- waves ----


def test_residency_is_the_least_of_registers_shared_memory_warps_and_blocks() -> None:
    def usage(registers: int, shared: int = 0) -> Usage:
        return Usage("kernel", "sm_90", registers, shared, 0, 0, 0)

    assert resident(usage(80), 256, 0, 90) == 3
    assert resident(usage(128), 256, 0, 90) == 2
    assert resident(usage(129), 256, 0, 90) == 1
    assert resident(usage(32), 1024, 0, 90) == 2
    assert resident(usage(32), 1024, 0, 120) == 1
    assert resident(usage(16), 32, 0, 86) == 16
    assert resident(usage(16, 10_000), 128, 100_000, 90) == 2


def test_a_wave_and_a_bit_is_named_and_a_deaf_multiprocessor() -> None:
    def row(waves: float, flight: float, share: float) -> report.Row:
        return report.Row("kernel", 1, 80, 400, 3, waves, flight, share, 0.1, 1.0)

    assert not row(1.0, 40_000, 1e6).breaches()
    assert not row(4.0, 40_000, 1e6).breaches()
    assert not row(0.5, 5_000, 65_000).breaches()
    assert "1.45 waves" in row(1.45, 40_000, 1e6).breaches()[0]
    assert "keep the memory busy" in row(1.0, 20_000, 65_536).breaches()[0]


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
def test_a_step_on_paper_is_the_launchers_own(gpu: object) -> None:
    assert isinstance(gpu, type(H100))
    launches = decode_launches(gate_specs()["smollm2-135m"], "float16", "dense", 1, 128, gpu)
    assert len(launches) == 1 + 30 * 5 + 2
    stems = [launched.instance.stem for launched in launches[:6]]
    assert stems == ["embed", "norm_qkv", "attention_decode", "linear_residual", "norm_mlp", "linear_residual"]
    assert isinstance(launches[1].config, LaunchConfig)
    assert launches[1].weight_bytes == (9 + 2 * 3) * 64 * 576 * 2
    assert has_dtype("float16", gpu.arch)


def test_an_explained_listing_names_what_is_read() -> None:
    (instance,) = gate_instances([gate_specs()["smollm2-135m"]], ["float16"], ["dense"], ["embed"])["embed"]
    compile_all({"embed": [instance]}, ["sm_90"], kernel_cache("cubins"))
    cubin = find(instance, "sm_90")
    text = report.explain(cubin, instance, "sm_90")
    assert "ACQBULK   <- waits for the kernel before" in text
    assert "<- token_ids" in text
    assert text.count("\n") == len(listing(cubin).code)
