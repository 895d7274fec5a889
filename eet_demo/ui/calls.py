"""Calls that fit no endpoint: refused in words, where Gradio's errors are anonymous and log whatever was sent."""

from __future__ import annotations

from typing import Any

import gradio as gr
from fastapi import Request
from fastapi.responses import JSONResponse, Response

_BY_NAME = "/call/v2/"


class Page(gr.Blocks):
    """A page whose events say how many values they take."""

    def validate_inputs(self, block_fn: Any, inputs: list[Any]) -> None:
        """Gradio calls this with what a client sent, before any handler. Raises gr.Error for too few values."""
        wanted = len(block_fn.inputs)
        if len(inputs) < wanted:
            raise gr.Error(f"{len(inputs)} values were given; this call takes {wanted}", print_exception=False)


def refuse_call(request: Request, error: Exception) -> Response:
    """Answers a call by name (`/call/v2/NAME`) of an endpoint or with a parameter that there is not; else raises."""
    _, by_name, endpoint = request.url.path.partition(_BY_NAME)
    if not by_name:
        raise error
    if isinstance(error, KeyError):
        return JSONResponse({"detail": f"No endpoint is called {endpoint[:60]!r}; there is race"}, 404)
    return JSONResponse({"detail": str(error)[:500]}, 422)


EXCEPTION_HANDLERS = {KeyError: refuse_call, TypeError: refuse_call}
"""What Gradio raises for them, of FastAPI's argument `exception_handlers`."""
