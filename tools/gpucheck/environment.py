"""What the figures were measured on: the GPU as its driver describes it, and the software."""

from __future__ import annotations

import importlib.metadata
import shutil
from typing import Any

from eet_demo.machine.hardware import read_hardware
from eet_demo.records import as_json
from eet_demo.results.software import software_versions
from eet_demo.worker.memory import nvml_library
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
    return {
        "hardware": as_json(read_hardware()),
        "nvidia_smi": nvidia_smi(min(QUERY_LIMIT_S, context.left_s())),
        "nvml": nvml_figures(),
        "cuda": cuda_figures(context),
        "software": software_versions() | _versions(),
        "settings": {"dtype": context.settings.dtype, "repeats": context.settings.repeats},
    }


def nvidia_smi(limit_s: float) -> dict[str, str] | None:
    """The QUERY's answers for GPU 0; None without the tool or without a GPU it can talk to."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    try:
        output = processes.run([tool, f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader"], limit_s)
    except processes.ProcessFailed:
        return None
    return parse_query(output)


def parse_query(output: str) -> dict[str, str] | None:
    """The first line of nvidia-smi's comma separated answer, by field; None when it has another number of fields."""
    lines = output.strip().splitlines()
    values = [value.strip() for value in lines[0].split(",")] if lines else []
    return dict(zip(QUERY, values, strict=True)) if len(values) == len(QUERY) else None


def nvml_figures() -> dict[str, Any] | None:
    """Bus width and highest memory clock, from which `spec_bandwidth_gb_s`; None without NVML.

    Two transfers a clock: 2 * 2619 MHz * 5120 bit / 8 = 3352 GB/s for an H100 SXM, whose data sheet says 3.35 TB/s; the
    same product gives the data sheets' 320 for a T4, 600 for an A10G, 864 for an L40S.
    """
    nvml = nvml_library()
    if nvml is None:
        return None
    device = nvml.nvmlDeviceGetHandleByIndex(0)
    clock_mhz = int(nvml.nvmlDeviceGetMaxClockInfo(device, nvml.NVML_CLOCK_MEM))
    bus_bits = int(nvml.nvmlDeviceGetMemoryBusWidth(device))
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
