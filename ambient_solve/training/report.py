"""What a run says of itself before its first step: its data, where its files are, and what it goes on from."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ambient_solve.errors import shown
from ambient_solve.training.config import Config
from ambient_solve.training.schedule import learning_rate, steps_of, validates
from ambient_solve.training.sources import Data

PROGRESS = "progress.png"
"""File of a run's folder that every validation rewrites."""
LENGTHS = "lengthened.jsonl"
"""File of the lengths that a run had before it was lengthened."""


def about_data(config: Config, data: Data) -> str:
    """How many pictures are trained on, by damage, and whether this run damaged them itself.

    Args:
        config: Of the run.
        data: What it read.

    Returns:
        One line or two.
    """
    kinds = Counter(sample.damage for sample in data.samples)
    found = ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))
    said = f"Training on {len(data.samples)} pictures: {found}."
    share = config.corruption.clean_share
    if share == 1 or all(source.path.startswith("corrupted:") for source in config.sources):
        return said
    return (
        f"{said}\nThis run damages its clean pictures itself, once, as `corruption` says: {100 * share:g} % stay "
        "clean; --corruption.clean-share 1 leaves all as they are."
    )


def about_files(config: Config, trackers: Sequence[str]) -> str:
    """Where a run keeps what there is to look at, one thing a line.

    Args:
        config: Of the run.
        trackers: Names of what accelerate logs to.

    Returns:
        The lines.
    """
    out, total = shown(config.out), steps_of(config)
    first = next((step for step in range(1, total + 1) if validates(config, step, total)), None)
    rows = [("stats.jsonl", f"the losses, a row every {config.stats_every} steps of {total}")]
    if first is not None:
        shows = "held-out loss, samples and denoised pictures"
        rows.append((PROGRESS, f"{shows}; first at step {first}, then rewritten"))
        rows.append(("samples-STEP.png", "the samples of each of these times"))
    rows.append(
        (
            "checkpoint-STEP",
            f"every {config.checkpoint_every} steps, at the end and on Ctrl-C: the same command goes on",
        )
    )
    rows.append(("prior", "the finished prior"))
    if "tensorboard" in trackers:
        rows.append(("ambient_solve", f"for TensorBoard: tensorboard --logdir {out}"))
    return "\n".join([f"In {out}:", *(f"  {name:<17} {what}" for name, what in rows)])


def about_levels(config: Config, lowest: float, least: float) -> str:
    """What becomes of the levels at which a run that starts from a prior may use no picture.

    Args:
        config: Of the run.
        lowest: The lowest level that is drawn.
        least: The lowest level of the prior.

    Returns:
        A sentence; empty where all levels are learned.
    """
    if not config.init or config.objective.below or lowest <= least:
        return ""
    return (
        f"No picture may be used below sigma = {lowest:.3g}: nothing is learned of these levels, which may suffer "
        "from what is learned above; objective: {kind: consistency} learns them too."
    )


def about_start(config: Config, first: int, before: int | None) -> str:
    """Where a run that is not new goes on, and whether its schedule bears that it is longer than it was.

    Args:
        config: Of the run, as it is now.
        first: Steps that were done.
        before: Length of the run until now, in samples, where it has grown.

    Returns:
        One line or two; empty for a new run.
    """
    total = steps_of(config)
    if before is None and first >= total:
        return f"This run is finished, after {total} steps: a larger --images lengthens it."
    if before is None:
        return f"Going on at step {first} of {total}." if first else ""
    said = f"The run of {before} images goes on to {config.images}, from step {first} of {total}."
    if config.schedule != "cosine":
        return said
    old = replace(config, images=before)
    was, is_ = learning_rate(old, max(first - 1, 0), steps_of(old)), learning_rate(config, first, total)
    return (
        f"{said}\nwarning: the cosine schedule had brought the learning rate to {was:.2g}; of the longer run it is "
        f"{is_:.2g} here, and falls to 0 once more. The losses rise at first, and a run of {config.images} from the "
        "start would do better. schedule: constant or inverse_sqrt is for runs that may be lengthened."
    )


def remember_length(out: Path, step: int, before: int | None) -> None:
    """Keep how long a run was before it was lengthened.

    Args:
        out: Folder of the run.
        step: Steps that were done then.
        before: Its length in samples; None where it was not lengthened, and nothing is kept.
    """
    if before is not None:
        with (out / LENGTHS).open("a") as file:
            file.write(json.dumps({"images": before, "step": step}) + "\n")


def lengths(out: Path) -> list[dict[str, int]]:
    """What `remember_length` kept, oldest first."""
    path = out / LENGTHS
    return [json.loads(row) for row in path.read_text().splitlines()] if path.is_file() else []
