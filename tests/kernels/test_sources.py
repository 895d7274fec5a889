"""Sources are inlined, so that no edit can load an old binary, and a refusal shows the line."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from cuda import pathfinder

from eet_demo.engine.executors.cuda.compile import nvrtc
from eet_demo.engine.executors.cuda.compile.cubins import CubinFolder
from eet_demo.engine.executors.cuda.compile.launch import Instance
from eet_demo.engine.executors.cuda.compile.nvrtc import Nvrtc
from eet_demo.engine.executors.cuda.compile.sources import CUDA_SOURCES, read_source
from eet_demo.engine.executors.sim.build import SimBuilder
from eet_demo.errors import CudaCompileError, KernelCompileError


def test_refused_source_is_shown_with_numbers_and_a_command(tmp_path: Path) -> None:
    (tmp_path / "broken.cu").write_text(
        '#include "common.cuh"\n\n__global__ void broken(float* x) {\n    x[0] = oops;\n}\n'
    )
    with pytest.raises(CudaCompileError) as error:
        Nvrtc().compile(read_source("broken", tmp_path), ["broken"], "sm_80")
    message = str(error.value)
    assert 'identifier "oops" is undefined' in message
    assert re.search(r"^broken\.cu:4 +>     x\[0\] = oops;$", message, re.MULTILINE)
    assert "--stem broken --arch sm_80 --instance 'broken'" in message


def test_edited_header_changes_the_source_that_caches_are_keyed_by(tmp_path: Path) -> None:
    folder = tmp_path / "cuda"
    shutil.copytree(CUDA_SOURCES, folder)
    before = read_source("embed", folder)
    assert before.text == read_source("embed").text
    assert "__shfl_xor_sync" in before.text, "common.cuh is inlined: CuPy's cache hashes this text and no header"
    assert not re.search(r'^\s*#\s*include\s*"', before.text, re.MULTILINE)
    header = folder / "common.cuh"
    header.write_text(header.read_text().replace("kWarp = 32;", "kWarp = 32; // edited"))
    assert read_source("embed", folder).digest != before.digest


def test_edited_header_never_finds_the_old_cubin(tmp_path: Path) -> None:
    folder = tmp_path / "cuda"
    shutil.copytree(CUDA_SOURCES, folder)
    instance = Instance("embed", ("float16", 0, 0, 96, 1))
    source, cubins = read_source("embed", folder), CubinFolder(tmp_path / "cubins")
    cubins.add(source, [instance], Nvrtc().compile(source, [instance.expression], "sm_90"))
    found = CubinFolder(tmp_path / "cubins").find(source, instance, "sm_90")
    assert found is not None
    assert found.symbol.encode() in found.path.read_bytes()
    assert cubins.find(source, instance, "sm_80") is None
    header = folder / "common.cuh"
    header.write_text(header.read_text() + "// one more line\n")
    edited = read_source("embed", folder)
    assert cubins.find(edited, instance, "sm_90") is None
    cubins.prune([edited])
    assert not list((tmp_path / "cubins").glob("*.cubin"))


def test_edited_header_builds_a_new_simulator_binary(tmp_path: Path) -> None:
    folder = tmp_path / "cuda"
    shutil.copytree(CUDA_SOURCES, folder)
    instance = Instance("embed", ("float16", 0, 0, 96, 1))
    builder = SimBuilder("plain", folder, tmp_path / "build")
    first = builder.build(instance)
    assert builder.build(instance) == first
    header = folder / "common.cuh"
    header.write_text(header.read_text() + "// one more line\n")
    assert builder.build(instance) != first


def test_machine_without_nvidias_compiler_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise pathfinder.DynamicLibNotFoundError(name)

    monkeypatch.setattr(pathfinder, "find_nvidia_header_directory", lambda name: None)
    with pytest.raises(CudaCompileError, match=r"cuda_fp16\.h.*pip install nvidia-cuda-nvrtc"):
        nvrtc.cuda_include.__wrapped__()
    monkeypatch.setattr(pathfinder, "load_nvidia_dynamic_lib", absent)
    with pytest.raises(CudaCompileError, match=r"NVRTC is missing: pip install nvidia-cuda-nvrtc"):
        Nvrtc()


def test_missing_header_is_named(tmp_path: Path) -> None:
    (tmp_path / "lost.cu").write_text('#include "nowhere.cuh"\n')
    with pytest.raises(KernelCompileError, match=r"lost\.cu includes 'nowhere\.cuh'"):
        read_source("lost", tmp_path)


def test_missing_kernel_is_named() -> None:
    with pytest.raises(KernelCompileError, match=r"absent\.cu cannot be read"):
        read_source("absent")
