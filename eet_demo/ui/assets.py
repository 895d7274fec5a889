"""The page's own files: script, styles, fonts; served by this machine alone, under a path that holds their hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import PurePosixPath

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from eet_demo.paths import ASSETS

SHEETS = ("stage", "lane", "text", "verdict", "transport", "screens")
"""The later one wins."""

MODULES = tuple(path.relative_to(ASSETS).as_posix() for path in sorted((ASSETS / "race").glob("*.js")))
STYLES = ("gradio.css", "page.css", *(f"race/{sheet}.css" for sheet in SHEETS))
FONTS = {"EET Inter": "fonts/inter-latin.woff2", "EET Mono": "fonts/jetbrains-mono-latin.woff2"}

MEDIA_TYPES = {".js": "text/javascript", ".css": "text/css", ".woff2": "font/woff2"}
UNCHANGING = {"Cache-Control": "public, max-age=31536000, immutable"}

FILES = {name: (ASSETS / name).read_bytes() for name in (*MODULES, *STYLES, *FONTS.values())}
"""Everything that is served: what was read when its hash was taken, quicker than from disk."""


def _digest() -> str:
    contents = hashlib.sha256()
    for name, content in FILES.items():
        contents.update(f"{name}\0{len(content)}\0".encode() + content)
    return contents.hexdigest()[:12]


BASE = f"page-{_digest()}"
"""Where the files are, relative to the page (a proxy may serve it below a path of its own). The hash stands in the
folder, so that a module's relative imports carry it too: no cache ever mixes two versions."""

ENTRY = f"{BASE}/race/index.js"


def head_elements() -> str:
    """Fonts, style sheets and the script, its modules asked for at once, for the page's head.

    The script is run from here, so that it stands ready when Gradio has put the components in their places.

    Links, not `launch(css_paths=)`: Gradio rewrites that text rule by rule and loses media queries, `:is()` and
    shorthands with variables on the way.
    """
    faces = "".join(
        f"@font-face{{font-family:'{family}';src:url('{BASE}/{name}') format('woff2');"
        "font-weight:100 900;font-display:swap}"
        for family, name in FONTS.items()
    )
    styles = "".join(f'<link rel="stylesheet" href="{BASE}/{name}">' for name in STYLES)
    modules = "".join(f'<link rel="modulepreload" href="{BASE}/{name}">' for name in MODULES)
    script = f'<script type="module" src="{ENTRY}"></script>'
    return f"<style>{faces}</style>{styles}{modules}{script}"


def mounting(function: str, events: Iterable[str] = ()) -> str:
    """A component's `js_on_load` that lets `function` of assets/race/index.js fill and own its element.

    Gradio takes an event for known when its name stands in this text in quotes. The address is made absolute here: a
    relative one would count from Gradio's own script.
    """
    names = " ".join(f"'{event}'" for event in events)
    return f"""/* {names} */
import(new URL("{ENTRY}", document.baseURI))
    .then((page) => page.{function}({{ element, props, server, watch, trigger: (name) => trigger(name) }}))
    .catch((error) => {{
        element.textContent = `This part of the page could not be loaded (${{error.message}}). Reload the page.`;
        throw error;
    }});"""


async def _serve(request: Request) -> Response:
    """One of the files; a browser keeps it and never asks again, since its path changes when it does."""
    name = request.path_params["name"]
    if name not in FILES:
        raise HTTPException(404)
    return Response(FILES[name], media_type=MEDIA_TYPES[PurePosixPath(name).suffix], headers=UNCHANGING)


def routes() -> list[BaseRoute]:
    """What a page's web application serves besides Gradio's own.

    No `StaticFiles`: mounted, it finds nothing behind a proxy that takes a sub-path away, as `root_path` has it.
    """
    return [Route(f"/{BASE}/{{name:path}}", _serve)]
