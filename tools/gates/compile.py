"""Compiles kernels for target architectures without a GPU, into a folder of cubins.

What is in the folder already, from the same sources, is not compiled again.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from eet_demo.engine.executors.cuda.compile.cubins import CubinFolder
from eet_demo.engine.executors.cuda.compile.launch import Instance
from eet_demo.engine.executors.cuda.compile.nvrtc import Nvrtc
from eet_demo.engine.executors.cuda.compile.resources import Usage
from eet_demo.engine.executors.cuda.compile.sources import read_source
from tools.gates.instances import runs_on

GROUP = 16
"""Instances compiled together: headers are read once for them all, and both cores stay busy."""


def compile_all(grouped: Mapping[str, Sequence[Instance]], archs: Iterable[str], folder: Path) -> list[Usage]:
    """Brings every instance, for every architecture it runs on, into `folder`; only what is missing is compiled.

    Returns what each costs, by instance. Raises KernelCompileError at the first refusal.
    """
    cubins = CubinFolder(folder)
    sources = {stem: read_source(stem) for stem in grouped}
    wanted = [(arch, i) for arch in archs for stem in grouped for i in grouped[stem] if runs_on(i, arch)]
    missing: dict[tuple[str, str], list[Instance]] = {}
    for arch, instance in wanted:
        if not cubins.find(sources[instance.stem], instance, arch):
            missing.setdefault((instance.stem, arch), []).append(instance)
    calls = [(k, group[i : i + GROUP]) for k, group in missing.items() for i in range(0, len(group), GROUP)]
    compiler = Nvrtc() if calls else None

    def compile_one(call: tuple[tuple[str, str], list[Instance]]) -> None:
        (stem, arch), instances = call
        assert compiler is not None
        compiled = compiler.compile(sources[stem], [instance.expression for instance in instances], arch)
        with adding:
            cubins.add(sources[stem], instances, compiled)

    adding = threading.Lock()
    with ThreadPoolExecutor(max_workers=max(1, len(os.sched_getaffinity(0)))) as pool:
        list(pool.map(compile_one, calls))
    found = [cubins.find(sources[instance.stem], instance, arch) for arch, instance in wanted]
    return sorted((cubin.usage for cubin in found if cubin), key=lambda usage: usage.expression)


def named_instance(stem: str, expression: str) -> Instance:
    """The inverse of `Instance.expression`."""
    kernel, _, rest = expression.partition("<")
    words = [word.strip() for word in rest.rstrip(">").split(",") if word.strip()]
    names: dict[str, str | bool] = {"half": "float16", "float": "float32", "bfloat16": "bfloat16"}
    names |= {"true": True, "false": False}
    return Instance(stem, tuple(names[word] if word in names else int(word) for word in words), kernel)
