"""Renders one chat template: a process of its own, so that a template can take neither the memory nor the time of ours.

One JSON object on stdin (`template`, `names`: what the template may use, `most_characters`), one on stdout: `text` or
`error`. `chat_template.py` runs this file by its path; it imports nothing of this package, to start quickly.

Templates come from whoever published a model: they see plain strings only, can change nothing and cannot reach Python's
internals (the same limits as `_cached_compile_jinja_template` of transformers' utils/chat_template_utils.py).
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.utils
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

CPU_S = 2
MEMORY_BYTES = 512 * 2**20
TODAY = datetime(2024, 7, 26)
"""For every race: with the real date, two races of the same settings would read different prompts. Llama 3's templates
fall back on this one."""


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks an assistant's words for training; here its body is all that matters."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Namespace(jinja2.utils.Namespace):
    """jinja2's namespace without names that reach into Python."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        for name in dict(*args[1:], **kwargs):
            _refuse_private(name)
        jinja2.utils.Namespace.__init__(*args, **kwargs)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_private(name)
        super().__setitem__(name, value)


def _refuse_private(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a chat template may not set {name!r}")


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    """Without the HTML escapes of jinja2's own filter."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _strftime_now(pattern: str) -> str:
    return TODAY.strftime(pattern)


def _compile(template: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    names: dict[str, Callable[..., Any]] = {
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
        "namespace": _Namespace,
    }
    environment.globals.update(names)
    return environment.from_string(template)


def _render(asked: dict[str, Any]) -> dict[str, str]:
    try:
        text = _compile(asked["template"]).render(**asked["names"])
    except (TemplateError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
        return {"error": str(error)[:500]}
    except MemoryError:
        return {"error": f"it takes more than {MEMORY_BYTES >> 20} MiB"}
    if len(text) > asked["most_characters"]:
        return {"error": f"it writes {len(text):,} characters; at most {asked['most_characters']:,} are a prompt"}
    return {"text": text}


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    print(json.dumps(_render(json.load(sys.stdin))))
