"""A checkpoint's chat template, rendered in jinja2's sandbox with the names transformers gives a template.

Templates come from whoever published a model, so they see plain strings only, can change nothing and cannot reach
Python's internals (the same limits as `_cached_compile_jinja_template` of transformers' utils/chat_template_utils.py).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.utils
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from eet_demo.errors import CheckpointError

Message = Mapping[str, str]
"""`{"role": "user", "content": "..."}`"""


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
    return datetime.now().strftime(pattern)


@functools.lru_cache(maxsize=8)
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


def render(template: str, messages: Sequence[Message], special_tokens: Mapping[str, str]) -> str:
    """The conversation as the text that ends where the assistant begins to write.

    Args:
        special_tokens: `bos_token`, `eos_token`, ... as the template may write them itself.

    Raises:
        CheckpointError: the template is broken or refuses these messages.
    """
    plain = [{str(key): str(value) for key, value in message.items()} for message in messages]
    try:
        return _compile(template).render(messages=plain, add_generation_prompt=True, **special_tokens)
    except (TemplateError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"The model's chat template cannot be applied: {error}") from error
