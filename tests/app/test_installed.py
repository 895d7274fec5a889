"""The wheel, built from the source distribution installed away from the checkout: a race, the page, no `kernels`."""

from __future__ import annotations

import importlib.metadata
import json
import signal
import site
import subprocess
import sys
import tarfile
import urllib.request
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import eet_demo
from tests.app.test_start import WATCHDOG_S, free_port
from tests.gguf_files import random_model, write_gguf

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    """What it prints; an exit code that is not 0 fails with its words."""
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=WATCHDOG_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source distribution alone, so that one is whole too."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder, cwd=ROOT)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as sdist:
        sdist.extractall(folder, filter="data")
    run(
        sys.executable,
        "-m",
        "hatchling",
        "build",
        "-t",
        "wheel",
        "-d",
        folder,
        cwd=archive.with_suffix("").with_suffix(""),
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`bin` of a new environment with the wheel in it; the packages it needs are seen in this one's."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    (packages / "needed.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return folder / "bin"


def test_wheel_holds_the_package_alone_with_all_it_reads(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names} == {"eet_demo", f"eet_demo-{eet_demo.__version__}.dist-info"}
    for folder in ("kernels", "assets"):
        here = {f"eet_demo/{path.relative_to(ROOT)}" for path in (ROOT / folder).rglob("*") if path.is_file()}
        assert here
        assert here == {name for name in names if name.startswith(f"eet_demo/{folder}/")}


def normal(requirement: str) -> tuple[str, str, str]:
    """Name, versions and marker, however they are spelled."""
    parsed = Requirement(requirement)
    return canonicalize_name(parsed.name), str(parsed.specifier), str(parsed.marker)


def test_wheel_asks_for_what_requirements_txt_pins(wheel: Path) -> None:
    (distribution,) = importlib.metadata.distributions(path=[str(wheel)])
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = {normal(line) for line in lines if line and not line.startswith("#")}
    assert {normal(line) for line in distribution.requires or ()} == wanted
    assert SpecifierSet(distribution.metadata["Requires-Python"]) == SpecifierSet(">=3.11,<3.13")


def test_installed_package_is_the_only_one_in_sight(installed: Path, tmp_path: Path) -> None:
    code = "import importlib.util, eet_demo; print(eet_demo.__file__, importlib.util.find_spec('kernels'))"
    file, kernels = run(installed / "python", "-c", code, cwd=tmp_path).split()
    assert file.startswith(str(installed.parent))
    assert kernels == "None"


def test_installed_command_races_a_model(installed: Path, tmp_path: Path) -> None:
    """Kernels are compiled from the installed sources, and workers find the installed package."""
    model = write_gguf(tmp_path / "tiny.gguf", random_model("llama"))
    settings = f"--model {model} --context 24 --new-tokens 6 --prompt text:abc".split()
    run(installed / "eet-demo", "race", *settings, "--out", "race.json", cwd=tmp_path)
    trace = json.loads((tmp_path / "race.json").read_text())
    assert [side["name"] for side in trace["sides"]] == ["stock", "engine"]
    assert [len(side["tokens"]["id"]) for side in trace["sides"]] == [6, 6]


def test_installed_command_serves_the_page(installed: Path, tmp_path: Path) -> None:
    port = free_port()
    process = subprocess.Popen(
        [installed / "eet-demo", "--port", str(port)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    try:
        assert f"http://127.0.0.1:{port}/" in process.stdout.readline()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/config", timeout=WATCHDOG_S) as answer:
            page = answer.read().decode()
        assert "eet-race" in page
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=WATCHDOG_S)
        process.stdout.close()
