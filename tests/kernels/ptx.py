"""A kernel as PTX text, for tests that read the order of loads."""

from __future__ import annotations

from eet_demo.engine.executors.cuda.compile.nvrtc import Nvrtc
from eet_demo.engine.executors.cuda.compile.sources import Source


def ptx_of(source: Source, expression: str, arch: str = "compute_90") -> str:
    """One instance of `source`, compiled for a virtual architecture."""
    compiler = Nvrtc()
    with compiler._program(source, [expression], arch) as (program, _):
        return compiler._text(program, "PTX")
