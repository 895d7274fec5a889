"""Who may import whom: the layers of the design, held by a walk over every import statement."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "eet_demo"

LAYERS = ("ui", "race", "sides", "engine")
"""A module may import its own layer and those to its right."""

ONLY_IN = {
    "gradio": ("ui",),
    "cupy": ("engine/executors/cuda",),
    "pydantic": ("ui", "settings.py"),
    "pydantic_settings": ("settings.py",),
    "transformers": ("sides/baseline.py",),
    "gguf": ("gguf_import.py", "gguf_tokenizer.py"),
}
"""Third-party packages and the only places that may import them."""


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports_of(path: Path) -> set[str]:
    """Dotted names a module imports anywhere, functions included, `if TYPE_CHECKING` too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports are absolute in this project"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names


def layer_of(name: str) -> str | None:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "eet_demo" and parts[1] in LAYERS else None


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    relative = path.relative_to(PACKAGE)
    own = relative.parts[0] if relative.parts[0] in LAYERS else None
    for name in imports_of(path):
        layer = layer_of(name)
        if own and layer:
            assert LAYERS.index(layer) >= LAYERS.index(own), f"{relative} imports {name}, which is to its left"
        package = name.split(".")[0]
        if package in ONLY_IN:
            assert str(relative).startswith(ONLY_IN[package]), f"{relative} imports {package}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_environment_is_read_by_settings_alone(path: Path) -> None:
    if path.name == "settings.py":
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        assert not (isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")), f"{path}:{node.lineno}"


def test_kernels_is_no_package() -> None:
    """transformers looks for a PyPI package of that name and would find ours."""
    assert not (ROOT / "kernels" / "__init__.py").exists()


def loaded_after(statement: str) -> set[str]:
    """Top-level modules a fresh interpreter holds after `statement`."""
    code = f"import sys; {statement}; print(' '.join(sorted({{n.split('.')[0] for n in sys.modules}})))"
    return set(
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout.split()
    )


def test_cpu_engine_loads_neither_torch_nor_the_page() -> None:
    """The engine's worker pays for numpy and its own code, nothing else."""
    loaded = loaded_after("from eet_demo import Engine; import eet_demo.race.worker, eet_demo.sides.engine_side")
    assert not loaded & {"torch", "transformers", "gradio", "pydantic", "pandas"}


def test_gpu_host_needs_no_absent_package() -> None:
    """Engine, sides, race and records import on a machine without pydantic, gradio, gguf and jsonschema."""
    blocked = "sys.modules.update(dict.fromkeys(['pydantic', 'pydantic_settings', 'gradio', 'gguf', 'jsonschema']))"
    walk = (
        "import importlib, pathlib; "
        "[importlib.import_module(str(p.relative_to('.').with_suffix('')).replace('/', '.')) "
        "for layer in ('engine', 'sides', 'race') for p in sorted(pathlib.Path('eet_demo', layer).rglob('*.py')) "
        "if p.name != '__main__.py']"
    )
    assert "torch" in loaded_after(f"{blocked}; {walk}")
