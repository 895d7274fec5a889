"""The page's own files: one script, one style sheet, two fonts, served by this machine alone."""

from __future__ import annotations

import hashlib
from pathlib import Path
from urllib.parse import quote

from eet_demo.paths import ASSETS

STYLE = ASSETS / "race.css"
SCRIPT = ASSETS / "race.js"
FONTS = ASSETS / "fonts"

_FONT_FILES = {"EET Inter": "inter-latin.woff2", "EET Mono": "jetbrains-mono-latin.woff2"}


def _url(path: Path) -> str:
    """Where Gradio serves an allowed file: relative, for a proxy's sub-path; the hash defeats stale caches."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return f"gradio_api/file={quote(path.as_posix())}?v={digest}"


def head_elements() -> str:
    """Fonts and style sheet for the page's head.

    A link, not `launch(css_paths=)`: Gradio rewrites that text rule by rule and loses media queries, `:is()` and
    shorthands with variables on the way.
    """
    faces = "".join(
        f"@font-face{{font-family:'{family}';src:url('{_url(FONTS / name)}') format('woff2');"
        "font-weight:100 900;font-display:swap}"
        for family, name in _FONT_FILES.items()
    )
    return f'<style>{faces}</style><link rel="stylesheet" href="{_url(STYLE)}">'


SCRIPT_HEAD = f'<script src="{_url(SCRIPT)}"></script>'
"""Given to every component that uses the script: Gradio loads it once, before their js_on_load."""
