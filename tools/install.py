"""Set-up of a virtual environment, run by `make setup` before anything is installed: standard library only.

Without an NVIDIA driver torch's CPU build is taken when one can be had (about 200 MB instead of gigabytes of CUDA);
then everything pinned in the requirements file.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

PYTORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
"""Where PyTorch publishes CPU builds (https://pytorch.org/get-started/locally/)."""


def torch_pin(requirements: str, python: tuple[int, int]) -> str:
    """The torch version that `requirements` pins for this Python; the two markers split at 3.12."""
    pins: dict[str, str] = dict(re.findall(r'^torch==(\S+); python_version (<|>=) "3.12"$', requirements, re.MULTILINE))
    wanted = ">=" if python >= (3, 12) else "<"
    return next(version for version, marker in pins.items() if marker == wanted)


def has_nvidia_driver() -> bool:
    """True where a driver answers: its tool is on the path, or its control device exists."""
    return shutil.which("nvidia-smi") is not None or Path("/dev/nvidiactl").exists()


def pip_install(*arguments: str) -> bool:
    """True when pip could install; its own messages go to the terminal."""
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--quiet", *arguments]
    return subprocess.run(command, check=False).returncode == 0


def install_cpu_torch(version: str) -> None:
    """Torch's CPU build from the indexes this machine's pip is configured with, else from PyTorch's own."""
    pin = f"torch=={version}+cpu"
    if pip_install(pin):
        return
    print(f"No {pin} in pip's configured indexes; asking {PYTORCH_CPU_INDEX}")
    if not pip_install(pin, "--extra-index-url", PYTORCH_CPU_INDEX):
        print("No CPU build of torch can be had here; the default build follows, which brings CUDA along.")


def main(requirements_file: str) -> int:
    if not (3, 11) <= sys.version_info[:2] <= (3, 12):
        print(f"Python {sys.version.split()[0]} is not supported; use 3.11 or 3.12")
        return 1
    pins = Path("requirements.txt").read_text(encoding="utf-8")
    if not has_nvidia_driver():
        install_cpu_torch(torch_pin(pins, sys.version_info[:2]))
    return 0 if pip_install("-r", requirements_file) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
