"""EET done again: an optimised engine beside stock Hugging Face `generate`, and a page to watch them race."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eet_demo.records import EngineOptions, Sampling

if TYPE_CHECKING:
    from eet_demo.named import Engine

__all__ = ["Engine", "EngineOptions", "Sampling", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Loads the engine when it is first asked for, so that the page and small commands start without it."""
    if name == "Engine":
        from eet_demo.named import Engine

        return Engine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
