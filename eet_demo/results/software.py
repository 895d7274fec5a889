"""Versions of what a figure was measured with, read from package metadata: nothing is imported for it."""

from __future__ import annotations

import importlib.metadata
import platform

import eet_demo

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "gradio", "cupy-cuda12x", "cupy-cuda13x")


def software_versions() -> dict[str, str]:
    """Name -> version of Python, this project and the packages that are installed."""
    versions = {"python": platform.python_version(), "platform": platform.platform(), "eet_demo": eet_demo.__version__}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
