"""The page: where things stand, and which event they start. A tab is a function that lays itself out."""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ambient_solve.app.bodies import Limits
from ambient_solve.app.folder import home
from ambient_solve.app.photographs.choices import warm
from ambient_solve.app.rules import Rules
from ambient_solve.app.streams import PLACES
from ambient_solve.app.wiring import KEPT
from ambient_solve.errors import AmbientSolveError

if TYPE_CHECKING:
    from gradio import Blocks

WAITING = PLACES
"""Number of events that may wait; one more is refused."""
THREADS = PLACES + 40
"""Largest number of threads of gradio: each job that waits has one, and 40 are for all else."""
OPEN = Limits(upload=45_000_000, folder=4_000_000_000)
"""What visitors may send to a page that others can reach."""
STYLE = Path(__file__).parent / "page.css"
"""File with the style sheet of the page."""
SCRIPT = Path(__file__).parent / "page.js"
"""File with the script of the page."""


def build_page(prior: str = "photos", device: str = "auto", rules: Rules | None = None) -> Blocks:
    """The page, not yet launched.

    Args:
        prior: Prior that the page starts with.
        device: Where it works.
        rules: What visitors may choose; None offers `prior` and the embedded priors.

    Returns:
        The page.
    """
    import gradio as gr

    from ambient_solve.app.clips.layout import clip_tab
    from ambient_solve.app.photographs.layout import restore_tab
    from ambient_solve.app.quiet import quiet_blocks
    from ambient_solve.app.scans.layout import scan_tab

    rules = Rules((prior,)) if rules is None else rules
    tabs: list[tuple[str, Callable[..., None]]] = [
        ("Photographs", restore_tab),
        ("Video", clip_tab),
        ("Scans", scan_tab),
    ]
    with quiet_blocks(title="ambient_solve", analytics_enabled=False, delete_cache=(KEPT // 4, KEPT)) as page:
        gr.Markdown(
            "# ambient_solve\nRestores damaged pictures, clips and undersampled scans, and shows what was measured, "
            "what was invented, and how sure it is. Files stay on this machine and are deleted after an hour.",
            elem_id="head",
        )
        with gr.Tabs(elem_id="tabs"):
            for title, lay_out in tabs:
                with gr.Tab(title):
                    lay_out(prior, device, rules)
    # What skips the queue skips its limits too: nothing of a visitor's counts there.
    return page.queue(max_size=WAITING, default_concurrency_limit=4, api_open=False)


def launch(
    prior: str = "photos",
    device: str = "auto",
    *,
    port: int | None = None,
    share: bool = False,
    auth: list[tuple[str, str]] | None = None,
    rules: Rules | None = None,
    names: set[str] | None = None,
    limits: Limits | None = None,
    block: bool = True,
) -> tuple[Blocks, str]:
    """Open the page on the loopback address, or with `share` to whoever has the link.

    Args:
        prior: Prior that the page starts with.
        device: Where it works.
        port: None takes the first free one from 7860.
        share: Make a public link.
        auth: Names and passwords.
        rules: What visitors may choose; None offers `prior` and the embedded priors.
        names: Names by which the page may be asked for, beside those of this machine.
        limits: What visitors may send; None is more for a page of this machine alone than for one that others reach.
        block: Return only when the page has ended.

    Returns:
        The page, and its address.
    """
    # Before gradio is imported: it asks the net for its newest version otherwise, and keeps files where all may read.
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ["GRADIO_TEMP_DIR"] = str(home().gradio)
    if importlib.util.find_spec("gradio") is None:
        raise AmbientSolveError("The page needs gradio: pip install 'ambient-solve[app]'.")
    importlib.import_module("gradio")
    # While the page is laid out and loaded: torch, deepinv and the prior, for which the first run would wait.
    threading.Thread(target=warm, args=(prior, device), daemon=True).start()
    known, open_to_others = set(names or ()), share or bool(names)
    limits = limits or (OPEN if open_to_others else Limits())
    page = build_page(prior, device, rules)
    opened: list[Blocks] = []
    _, address, link = page.launch(
        server_name="127.0.0.1",
        server_port=port,
        share=share,
        auth=_passwords(auth),
        max_file_size="40mb" if open_to_others else "2gb",
        max_threads=THREADS,
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
        app_kwargs={"middleware": _guards(opened, known, limits)},
    )
    opened.append(page)
    if link:
        known.add(urlsplit(link).hostname or "")
    if block:
        public = "" if share else " --share makes a public link."
        print(f"The page is at {address} and ends with Ctrl+C.{public}", flush=True)
        page.block_thread()
    return page, address


def _guards(opened: list[Blocks], names: set[str], limits: Limits) -> list[Any]:
    """What stands before the page, the first one outermost."""
    from starlette.middleware import Middleware

    from ambient_solve.app.bodies import Bodies, take_files_only
    from ambient_solve.app.hosts import Hosts
    from ambient_solve.app.streams import OpenStreams

    take_files_only()
    return [
        Middleware(Hosts, names=names),
        Middleware(Bodies, limits=limits, folder=home().path),
        Middleware(OpenStreams, page=opened),
    ]


def _passwords(auth: list[tuple[str, str]] | None) -> Callable[[str, str], Any] | None:
    """A coroutine function, by which gradio knows that it must wait for the answer."""
    if auth is None:
        return None
    from ambient_solve.app.passwords import Passwords

    passwords = Passwords(dict(auth))

    async def check(user: str, password: str) -> bool:
        return await passwords(user, password)

    return check


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
