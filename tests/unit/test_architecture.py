"""Who may import whom: the layers of the design, held by a walk over every import statement."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "eet_demo"

RANKS = (
    ("errors", "clock"),
    ("paths", "sizes"),
    ("files",),
    ("declared",),
    ("records",),
    ("settings",),
    ("machine.cpu_use", "machine.gpu", "machine.hardware"),
    ("models.gguf.header", "models.gguf.names"),
    ("engine",),
    ("text",),
    ("models",),
    ("named", "__init__"),
    ("sides",),
    ("results",),
    ("worker",),
    ("race",),
    ("machine",),
    ("ui",),
    ("commands",),
    ("__main__",),
)
"""The rooms from the bottom up; a module belongs to the longest name that begins its own, and may import from its own
room and from those below."""

ONLY_IN = {
    "gradio": ("ui",),
    "cupy": ("engine/executors/cuda",),
    "cuda": ("engine/executors/cuda/compile",),
    "pydantic": ("ui", "settings.py"),
    "pydantic_settings": ("settings.py",),
    "pynvml": ("machine/gpu.py",),
    "transformers": ("sides/stock.py",),
    "gguf": ("models/gguf",),
    "fastjsonschema": ("results/trace.py",),
}
"""Third-party packages and the only places that may import them."""


LOADERS = ("import_module", "__import__", "resolve_name")
"""Functions that import what their first argument names."""


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports_of(path: Path) -> set[str]:
    """Dotted names a module imports anywhere, functions included, `if TYPE_CHECKING` and `import_module("...")` too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports are absolute in this project"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in LOADERS and node.args:
            name = node.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                names.add(name.value.partition(":")[0])
    return names


def module_name(path: Path) -> str:
    """`race.lane` of eet_demo/race/lane.py; a package is its own `__init__`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] or parts) if parts[-1] == "__init__" else ".".join(parts)


def rank_of(module: str) -> int:
    """Where its room stands."""
    rooms = [
        (len(room), rank)
        for rank, names in enumerate(RANKS)
        for room in names
        if module == room or module.startswith(f"{room}.")
    ]
    assert rooms, f"{module} belongs to no room; give it a rank"
    return max(rooms)[1]


def own_imports(path: Path) -> set[str]:
    """Modules of this package that a module imports, by name."""
    known = {module_name(other) for other in modules()}
    found = set()
    for name in imports_of(path):
        name = "__init__" if name == "eet_demo" else name.removeprefix("eet_demo.")
        if name in known:
            found.add(name)
    found -= {name for name in found if any(other.startswith(f"{name}.") for other in found)}  # on the way to another
    return found - {module_name(path)}


@pytest.mark.parametrize("path", modules(), ids=module_name)
def test_imports_point_down(path: Path) -> None:
    module = module_name(path)
    for name in own_imports(path):
        assert rank_of(name) <= rank_of(module), f"{module} imports {name}, which stands above it"


def test_no_import_goes_in_a_circle() -> None:
    """Packages' own files are left out: what they hold is a sentence, and whoever imports a module runs them."""
    waiting = {module_name(path): own_imports(path) - {"__init__"} for path in modules()}
    while free := [name for name, imports in waiting.items() if not imports & waiting.keys()]:
        for name in free:
            del waiting[name]
    assert not waiting, f"these import each other: {waiting}"


@pytest.mark.parametrize("path", modules(), ids=module_name)
def test_packages_are_imported_only_where_they_belong(path: Path) -> None:
    relative = str(path.relative_to(PACKAGE))
    for name in imports_of(path):
        package = name.split(".")[0]
        if package in ONLY_IN:
            assert relative.startswith(ONLY_IN[package]), f"{relative} imports {package}"
        assert package != "tools", f"{relative} imports the workshop"


@pytest.mark.parametrize("path", modules(), ids=module_name)
def test_environment_is_read_by_settings_and_paths_alone(path: Path) -> None:
    """`paths` reads one variable, the cache's: workers and GPU hosts compile into it, and have or load no pydantic."""
    if module_name(path) in ("settings", "paths"):
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
    loaded = loaded_after("from eet_demo import Engine; import eet_demo.worker.process, eet_demo.sides.engine")
    assert not loaded & {"torch", "transformers", "gradio", "pydantic", "pandas"}


@pytest.mark.slow
def test_gpu_host_needs_no_absent_package() -> None:
    """Engine, sides, race and records import on a machine without pydantic, gradio, gguf and fastjsonschema."""
    blocked = "sys.modules.update(dict.fromkeys(['pydantic', 'pydantic_settings', 'gradio', 'gguf', 'fastjsonschema']))"
    walk = (
        "import importlib, pathlib; "
        "[importlib.import_module(str(p.relative_to('.').with_suffix('')).replace('/', '.')) "
        "for room in ('engine', 'sides', 'results', 'worker', 'race') "
        "for p in sorted(pathlib.Path('eet_demo', room).rglob('*.py')) "
        "if p.name != '__main__.py']"
    )
    assert "torch" in loaded_after(f"{blocked}; {walk}")
