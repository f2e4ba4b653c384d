"""What the commands share on the way in and out: a prior, tables of knobs, the outcome of a file."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from ambient_solve.errors import shown
from ambient_solve.knobs import knobs
from ambient_solve.verdict.words import DOUBTFUL, RIGHT, WRONG

if TYPE_CHECKING:
    from ambient_solve.restore.files import Outcome
    from ambient_solve.verdict.judge import Verdict

COLORS = {RIGHT: "green", DOUBTFUL: "yellow", WRONG: "bold red"}
"""Of the levels of a verdict, where a terminal shows colors."""
MAX_CARD = 100_000
"""Bytes of a model card that are printed."""


def print_knobs(title: str, cls: type) -> None:
    """Print a table of the knobs of a dataclass: option, default, range, help.

    Args:
        title: What stands above the table.
        cls: The dataclass; a task says in `required` which knobs have no default.
    """
    required = getattr(cls, "required", ())
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for heading in ("option", "default", "range", "help"):
        table.add_column(heading, style="dim" if heading == "range" else None, overflow="fold")
    for k in knobs(cls):
        span = " ".join(k.choices or ()) if k.lo is None or k.hi is None else f"{k.lo:g} to {k.hi:g}"
        default = "must be given" if k.name in required else "" if k.default is None else str(k.default)
        table.add_row(f"--{k.name.rstrip('_').replace('_', '-')}", default, span, escape(k.help))
    console = Console()
    console.print(table)
    console.print()


def describe_prior(folder: Path) -> None:
    """Print what the files of a prior say of it, the model card last."""
    from ambient_solve.priors.convert import is_converted
    from ambient_solve.priors.foreign import is_pipeline
    from ambient_solve.priors.latent import is_latent
    from ambient_solve.priors.latent_pipeline import is_latent_pipeline
    from ambient_solve.priors.load import load_prior
    from ambient_solve.priors.network import CARD, NetworkPrior

    settings: dict[str, Any] = {}
    if is_converted(folder) or is_latent(folder) or is_pipeline(folder) or is_latent_pipeline(folder):
        prior: Any = load_prior(folder)
        settings = getattr(prior, "scheduler", {"prior": repr(prior)})
    else:
        prior = NetworkPrior.load(folder)
        settings = dataclasses.asdict(prior.config)
    size = sum(file.stat().st_size for file in folder.rglob("*.safetensors")) / 1e6
    numbers = sum(p.numel() for p in prior.parameters())
    print(f"{shown(folder)}\n{numbers:,} parameters, {size:.1f} MB of safetensors\n")
    for name, value in settings.items():
        print(f"  {shown(name):<11} {shown(value)}")
    card = folder / CARD
    text = card.read_bytes()[:MAX_CARD].decode(errors="replace") if card.is_file() else "No model card."
    print(f"\n{shown(text, lines=True)}")


def tell_outcome(outcome: Outcome, as_json: bool) -> None:
    """One line for the file, then what there is to say about it.

    Args:
        outcome: Of one file.
        as_json: Print it as one JSON object.
    """
    state = "failed" if outcome.error else "skipped" if outcome.skipped else "shared" if outcome.drawn else "restored"
    if as_json:
        fit = None if math.isnan(outcome.chi2) else outcome.chi2
        row = {"file": str(outcome.path), "state": state, "folder": outcome.folder and str(outcome.folder)}
        row |= {"algorithm": outcome.algorithm, "chi2": fit, "seconds": outcome.seconds, "notes": outcome.notes}
        row |= {"verdict": outcome.verdict and outcome.verdict.record()}
        row |= {"warning": outcome.warning, "error": outcome.error}
        print(json.dumps(row), flush=True)
    if outcome.error:
        print(shown(outcome.error), file=sys.stderr)
    elif not as_json:
        how = "finished before" if outcome.skipped else f"{outcome.seconds:.1f} s"
        how += f" for {outcome.drawn} of its samples" if outcome.drawn else ""
        fit = f"misfit {outcome.chi2:.2f}, {outcome.algorithm}"
        print(f"{shown(outcome.path)}: {fit}, {how}, {shown(outcome.folder)}", flush=True)
        for note in outcome.notes:
            print(f"  Note: {shown(note)}.")
        if outcome.verdict is not None:
            tell_verdict(outcome.verdict)


def tell_verdict(verdict: Verdict) -> None:
    """The verdict on the stated damage, its level in a color where a terminal shows it."""
    from rich.console import Console

    lines = [f"[{COLORS[verdict.level]}]{verdict.level}[/]. {escape(verdict.headline)}", *map(escape, verdict.causes)]
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"  Verdict: {' '.join(lines)}")
    if verdict.advice:
        given = f" ({verdict.flags})" if verdict.flags else ""
        console.print(f"  Try: {escape(verdict.advice.removesuffix('.'))}{given}.")
