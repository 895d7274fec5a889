"""The page. Gradio lives here and nowhere else."""

from __future__ import annotations

from eet_demo.ui.server import serve, serve_replay

__all__ = ["serve", "serve_replay"]
