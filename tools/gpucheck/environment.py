"""What the figures were measured on: the GPU as its driver describes it, and the software."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
from typing import Any

from eet_demo.machine.gpu import Gpu, find_gpu
from eet_demo.machine.hardware import read_hardware
from eet_demo.records import as_json
from eet_demo.results.software import software_versions
from tools.gpucheck import processes
from tools.gpucheck.parts import Context, Record

QUERY = (
    "name", "driver_version", "memory.total", "memory.used", "compute_cap", "clocks.sm", "clocks.mem", "clocks.max.sm",
    "clocks.max.mem", "power.limit", "power.draw", "temperature.gpu", "persistence_mode", "mig.mode.current",
    "pcie.link.gen.current", "pcie.link.width.current",
)  # fmt: skip

PACKAGES = ("triton", "cuda-python", "cuda-bindings", "cuda-pathfinder", "nvidia-cuda-nvrtc", "nvidia-cuda-runtime",
            "nvidia-cublas", "nvidia-ml-py", "psutil", "typer", "rich", "pytest")  # fmt: skip
"""Besides those of `software_versions`."""

QUERY_LIMIT_S = 30.0


def environment(context: Context) -> Record:
    """Hardware, driver, clocks as they are read now, and versions. What cannot be asked is None, with no guess."""
    gpu = cuda_gpu()
    return {
        "hardware": as_json(read_hardware(gpu=gpu)),
        "nvidia_smi": nvidia_smi(gpu, min(QUERY_LIMIT_S, context.left_s())),
        "nvml": nvml_figures(gpu),
        "cuda": cuda_figures(context),
        "software": software_versions() | _versions(),
        "settings": {"dtype": context.settings.dtype, "repeats": context.settings.repeats},
    }


def cuda_gpu() -> Gpu | None:
    """The GPU that the parts run on."""
    return find_gpu(os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("CUDA_DEVICE_ORDER"))


def nvidia_smi(gpu: Gpu | None, limit_s: float) -> dict[str, str] | None:
    """The QUERY's answers for `gpu`; None without one or without the tool, or where that cannot talk to it."""
    tool = shutil.which("nvidia-smi")
    uuid = gpu.uuid if gpu is not None else None
    if tool is None or uuid is None:
        return None
    try:
        command = [tool, f"--id={uuid}", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader"]
        return parse_query(processes.run(command, limit_s))
    except processes.ProcessFailed:
        return None


def parse_query(output: str) -> dict[str, str] | None:
    """The first line of nvidia-smi's comma separated answer, by field; None when it has another number of fields."""
    lines = output.strip().splitlines()
    values = [value.strip() for value in lines[0].split(",")] if lines else []
    return dict(zip(QUERY, values, strict=True)) if len(values) == len(QUERY) else None


def nvml_figures(gpu: Gpu | None) -> dict[str, Any] | None:
    """Bus width and highest memory clock, from which `spec_bandwidth_gb_s`; None where NVML does not tell them.

    Two transfers a clock: 2 * 2619 MHz * 5120 bit / 8 = 3352 GB/s for an H100 SXM, whose data sheet says 3.35 TB/s; the
    same product gives the data sheets' 320 for a T4, 600 for an A10G, 864 for an L40S.
    """
    clock_mhz = gpu.max_memory_clock_mhz if gpu is not None else None
    bus_bits = gpu.memory_bus_bits if gpu is not None else None
    if clock_mhz is None or bus_bits is None:
        return None
    return {
        "max_memory_clock_mhz": clock_mhz,
        "memory_bus_bits": bus_bits,
        "spec_bandwidth_gb_s": 2 * clock_mhz * 1e6 * bus_bits / 8 / 1e9,
    }


def cuda_figures(context: Context) -> dict[str, Any] | None:
    """What torch and CuPy say of device 0, from a process of its own; `error` says why they say nothing."""
    if context.settings.device != "cuda":
        return None
    try:
        found: dict[str, Any] = processes.run_module("tools.gpucheck.micro", ["device"], context.left_s())
    except processes.ProcessFailed as error:
        return {"error": str(error)}
    return found


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
