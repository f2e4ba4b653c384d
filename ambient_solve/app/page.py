"""The page: where things stand, and which event they start. A tab is a function that lays itself out."""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ambient_solve.app.events import warm
from ambient_solve.app.wiring import KEPT
from ambient_solve.errors import AmbientSolveError

if TYPE_CHECKING:
    from gradio import Blocks

WAITING = 64
"""Jobs that may wait; one more is refused."""
STYLE, SCRIPT = (Path(__file__).parent / name for name in ("page.css", "page.js"))


def build(prior: str = "photos", device: str = "auto", *, open_priors: bool = False) -> Blocks:
    """The page, not yet launched.

    `open_priors` lets the user name any folder or hub id; else only embedded priors and `prior` are offered.
    """
    import gradio as gr

    from ambient_solve.app.layout import restore_tab
    from ambient_solve.app.mri import scan_tab

    tabs: list[tuple[str, Callable[..., None]]] = [("Photographs", restore_tab), ("Scans", scan_tab)]
    with gr.Blocks(title="ambient_solve", analytics_enabled=False, delete_cache=(KEPT // 4, KEPT)) as page:
        gr.Markdown(
            "# ambient_solve\nRestores damaged pictures and undersampled scans, and shows what was measured, what was "
            "invented, and how sure it is. Files stay on this machine and are deleted after an hour.",
            elem_id="head",
        )
        with gr.Tabs(elem_id="tabs"):
            for title, lay_out in tabs:
                with gr.Tab(title):
                    lay_out(prior, device, open_priors)
    return page.queue(max_size=WAITING, default_concurrency_limit=4)


def launch(
    prior: str = "photos",
    device: str = "auto",
    *,
    port: int | None = None,
    share: bool = False,
    auth: list[tuple[str, str]] | None = None,
    block: bool = True,
) -> tuple[Blocks, str]:
    """Open the page on the loopback address, or with `share` to whoever has the link; returns it and its address."""
    # Before gradio is imported: it asks the net for its newest version otherwise.
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    if importlib.util.find_spec("gradio") is None:
        raise AmbientSolveError("The page needs gradio: pip install 'ambient-solve[app]'.")
    importlib.import_module("gradio")
    # While the page is laid out and loaded: torch, deepinv and the prior, for which the first run would wait.
    threading.Thread(target=warm, args=(prior, device), daemon=True).start()
    page = build(prior, device, open_priors=not share)
    _, address, _ = page.launch(
        server_name="127.0.0.1",
        server_port=port,
        share=share,
        auth=auth,
        max_file_size="40mb" if share else "2gb",
        allowed_paths=[],
        strict_cors=True,
        prevent_thread_lock=True,
        footer_links=["api", "settings"],
        run_history=False,
        ssr_mode=False,
        quiet=True,  # gradio speaks of arguments of Python, which the command line does not have
        enable_monitoring=False,
        theme=theme(),
        css=STYLE.read_text(),
        js=SCRIPT.read_text(),
    )
    if block:
        public = "" if share else " --share makes a public link."
        print(f"The page is at {address} and ends with Ctrl+C.{public}", flush=True)
        page.block_thread()
    return page, address


def theme() -> Any:
    """Fonts of the system, so that nothing is fetched; colours with a contrast of 4.5 and more."""
    import gradio as gr

    return gr.themes.Default(
        primary_hue=gr.themes.colors.blue,
        neutral_hue=gr.themes.colors.slate,
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_text_color="white",
        button_cancel_background_fill="#b91c1c",
        block_info_text_color="*neutral_600",
        body_text_color_subdued="*neutral_600",
    )
