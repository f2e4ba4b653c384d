"""What the commands share on the way in and out: the prior that is asked for, tables of knobs, the error console."""

from __future__ import annotations

from typing import Any

from rich.markup import escape

from ambient_solve.errors import AmbientSolveError
from ambient_solve.knobs import knobs


def load(prior: str, device: str) -> Any:
    """The prior of that name, folder or hub id on `device`, which "auto" chooses."""
    import torch

    from ambient_solve.priors.load import load_prior

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise AmbientSolveError(f"The device {device!r} is not there. Choose auto or cpu.")
    return load_prior(prior, device=device)


def print_knobs(title: str, cls: type) -> None:
    """A table of the knobs of a dataclass."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for heading in ("option", "default", "range", "help"):
        table.add_column(heading, style="dim" if heading == "range" else None, overflow="fold")
    for k in knobs(cls):
        span = " ".join(k.choices or ()) if k.lo is None or k.hi is None else f"{k.lo:g} to {k.hi:g}"
        default = "" if k.default is None else str(k.default)
        table.add_row(f"--{k.name.rstrip('_').replace('_', '-')}", default, span, escape(k.help))
    console = Console()
    console.print(table)
    console.print()


def stderr() -> Any:
    """A console for progress, which leaves standard output to results."""
    from rich.console import Console

    return Console(stderr=True)
