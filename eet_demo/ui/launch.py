"""Puts a page on a port: theme, fonts, what Gradio may serve, and a clear word when the port is taken."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import gradio as gr

from eet_demo.errors import PortInUseError
from eet_demo.ui.assets import head_elements, routes
from eet_demo.ui.calls import EXCEPTION_HANDLERS

SESSIONS = 256


def require_free_port(host: str, port: int) -> None:
    """Raises PortInUseError when something listens on `port` already."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PortInUseError(
                f"Port {port} of {host} cannot be used ({error.strerror}). Stop what listens there, or choose "
                f"another: --port {port + 1}"
            ) from None


def build_theme() -> gr.themes.Base:
    """Gradio's own controls in the page's colours; system fonts as fallback, nothing fetched from elsewhere."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.slate,
        spacing_size=gr.themes.sizes.spacing_sm,
        text_size=gr.themes.sizes.text_sm,
        font=["EET Inter", "ui-sans-serif", "system-ui", "sans-serif"],
        font_mono=["EET Mono", "ui-monospace", "monospace"],
    ).set(
        body_background_fill="var(--eet-bg)",
        body_background_fill_dark="var(--eet-bg)",
        block_background_fill="var(--eet-panel)",
        block_background_fill_dark="var(--eet-panel)",
        block_border_color="var(--eet-line)",
        block_border_color_dark="var(--eet-line)",
        input_background_fill="var(--eet-sunk)",
        input_background_fill_dark="var(--eet-sunk)",
        input_border_color="var(--eet-line)",
        input_border_color_dark="var(--eet-line)",
        input_border_width="1px",
        checkbox_background_color="var(--eet-sunk)",
        checkbox_background_color_dark="var(--eet-sunk)",
        checkbox_border_color="var(--eet-ink-2)",
        checkbox_border_color_dark="var(--eet-ink-2)",
        checkbox_label_background_fill="var(--eet-sunk)",
        checkbox_label_background_fill_dark="var(--eet-sunk)",
        checkbox_label_background_fill_hover="var(--eet-sunk)",
        checkbox_label_background_fill_hover_dark="var(--eet-sunk)",
        checkbox_label_background_fill_selected="var(--eet-engine-soft)",
        checkbox_label_background_fill_selected_dark="var(--eet-engine-soft)",
        button_secondary_background_fill="var(--eet-panel)",
        button_secondary_background_fill_dark="var(--eet-panel)",
        button_secondary_border_color="var(--eet-line)",
        button_secondary_border_color_dark="var(--eet-line)",
        body_text_color="var(--eet-ink)",
        body_text_color_dark="var(--eet-ink)",
        body_text_color_subdued="var(--eet-ink-2)",
        body_text_color_subdued_dark="var(--eet-ink-2)",
        block_label_text_color="var(--eet-ink-2)",
        block_label_text_color_dark="var(--eet-ink-2)",
        block_title_text_color="var(--eet-ink-2)",
        block_title_text_color_dark="var(--eet-ink-2)",
        button_primary_background_fill="#0b6b63",
        button_primary_background_fill_hover="#095850",
        button_primary_background_fill_dark="#47d6c4",
        button_primary_background_fill_hover_dark="#6fe3d5",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#06211e",
    )


def launch_options() -> dict[str, Any]:
    """How every page of this project is served: its own looks and files, no footer, no history, no second server.

    Gradio keeps the last answer of each session: of SESSIONS, since a client without a page has a new one each time.
    """
    return {
        "theme": build_theme(),
        "head": head_elements(),
        "footer_links": [],
        "run_history": False,
        "ssr_mode": False,
        "state_session_capacity": SESSIONS,
        "app_kwargs": {"routes": routes(), "exception_handlers": EXCEPTION_HANDLERS},
        "show_error": False,  # what was raised on purpose is shown anyhow; the rest may hold what visitors may not see
    }


def launch(
    demo: gr.Blocks, host: str, port: int, share: bool = False, when_up: Callable[[], None] = lambda: None
) -> None:
    """Serves `demo` until Ctrl-C, and prints its address once it answers; then calls `when_up`.

    Raises:
        PortInUseError: the port is taken.
    """
    require_free_port(host, port)
    demo.launch(
        server_name=host,
        server_port=port,
        share=share,
        quiet=True,
        prevent_thread_lock=True,
        **launch_options(),
    )
    address = str(demo.share_url or demo.local_url).replace("//0.0.0.0:", "//127.0.0.1:")
    print(f"The race is at {address}", flush=True)
    when_up()
    demo.block_thread()
