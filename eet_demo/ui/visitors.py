"""What visitors may read: errors in words, without where things lie on this machine; the server's log has the rest."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Mapping
from typing import Any

from eet_demo.errors import EetError
from eet_demo.ui.runs import Update

LOGGER = logging.getLogger(__name__)

_FOLDERS = re.compile(r"(?<![\w.:/~])~?/(?:[^\s/'\",;:]+/)+")
"""The folders of an absolute path; `owner/name`, `GB/s` and web addresses have none."""


def without_folders(text: str) -> str:
    """`text` with every absolute path cut to its last name."""
    return _FOLDERS.sub("", text)


def explained(error: Exception) -> tuple[str, str]:
    """(message, remedy) as a visitor may read them.

    An unforeseen error is logged with its trace; the visitor gets the number that finds it there, and nothing else.
    """
    if isinstance(error, EetError):
        message = without_folders(str(error))
        if message != str(error):
            LOGGER.warning("a visitor was told: %s", error)
        return message, error.remedy
    number = secrets.token_hex(4)
    LOGGER.error("unforeseen error %s", number, exc_info=error)
    return f"Something unforeseen failed (error {number}).", "Try again; the server's log has the details."


def error_update(error: Exception) -> Update:
    """An error as one update for the page."""
    message, remedy = explained(error)
    return {"kind": "error", "message": message, "remedy": remedy}


def for_visitors(update: Update) -> Update:
    """An update of a race, or its trace, without folders in what this program says; what the sides wrote is theirs."""
    told: dict[str, Any] = {key: without_folders(update[key]) for key in ("message", "detail") if key in update}
    if told.get("message", "") != update.get("message", ""):
        LOGGER.warning("a visitor was told: %s", update["message"])
    if "notes" in update:
        told["notes"] = [without_folders(note) for note in update["notes"]]
    if "trace" in update:
        told["trace"] = trace_for_visitors(update["trace"])
    return {**update, **told}


def trace_for_visitors(trace: Mapping[str, Any]) -> dict[str, Any]:
    """The trace with notes and errors as `for_visitors` has them."""
    sides = [{**side, "error": side["error"] and for_visitors(side["error"])} for side in trace["sides"]]
    return {**trace, "sides": sides, "notes": [without_folders(note) for note in trace["notes"]]}
