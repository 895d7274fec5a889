"""A checkpoint's chat template, rendered in a process of its own (`template_process.py`): jinja2's sandbox keeps it
from Python's internals, the process from memory and time without end.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from eet_demo.errors import CheckpointError

Message = Mapping[str, str]
"""`{"role": "user", "content": "..."}`"""

MOST_CHARACTERS = 1_000_000
WAIT_S = 60.0
"""The process itself has 2 seconds of the processor; this is for a machine that is too busy to give it them."""

_PROCESS = Path(__file__).with_name("template_process.py")


def render(template: str, messages: Sequence[Message], special_tokens: Mapping[str, str]) -> str:
    """The conversation as the text that ends where the assistant begins to write; the same on every day.

    Args:
        special_tokens: `bos_token`, `eos_token`, ... as the template may write them itself.

    Raises:
        CheckpointError: the template is broken, refuses these messages, or takes too long, too much memory or room.
    """
    plain = [{str(key): str(value) for key, value in message.items()} for message in messages]
    names = {"messages": plain, "add_generation_prompt": True, **special_tokens}
    return _rendered(json.dumps({"template": template, "names": names, "most_characters": MOST_CHARACTERS}))


@functools.lru_cache(maxsize=8)
def _rendered(asked: str) -> str:
    """Kept, since a process costs a fifth of a second."""
    command = [sys.executable, "-P", str(_PROCESS)]
    try:
        done = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=WAIT_S, check=False)
    except subprocess.TimeoutExpired:
        raise CheckpointError(
            f"The model's chat template cannot be applied: no answer in {WAIT_S:.0f} seconds"
        ) from None
    if done.returncode:
        said = done.stderr.strip().rpartition("\n")[2] or "it was ended: too long, or too much memory"
        raise CheckpointError(f"The model's chat template cannot be applied: {said}")
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise CheckpointError(f"The model's chat template cannot be applied: {answer['error']}")
    text: str = answer["text"]
    return text
