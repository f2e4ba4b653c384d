"""A damaged picture of a subject, restored with its concept, with the name of its class, and without words.

A control is the concept of the subject that follows: what it gains is no knowledge of this one.

    python benchmarks/concepts.py --restore my_pipeline/ --subjects SUBJECTS --out runs/subjects --lpips FEATURES

SUBJECTS holds a folder for each subject, which is called by its class: `goldfish`, `goldfish.2`, `steel_bridge`. Of its
pictures, in the order of their names, the last one is damaged and the first ones are what the concept is learned from.
Each run does so many minutes of its work; the same command goes on, and prints its table once all subjects are there.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from deepinv.physics import Physics
from torch import Tensor

from ambient_solve import (
    AmbientSolveError,
    Prompt,
    Solver,
    TimeDependentEmbedding,
    load_prior,
    operators,
    with_concepts,
)
from ambient_solve.priors.latent_pipeline import own_side
from ambient_solve.reading.pictures import SUFFIXES
from ambient_solve.saving import replace_text, save_png
from ambient_solve.training.concept_pictures import concept_samples
from ambient_solve.training.inversion import OUT as CONCEPT
from ambient_solve.training.inversion import Inversion, invert

TOKEN = "s"
"""What the concept is called."""
OTHER = "other"
"""What that of another subject is called."""
STATED = {
    "the concept": f"a photo of <{TOKEN}>",
    "the name of its class": "a photo of a {}",
    "no words": "",
    "another's concept": f"a photo of <{OTHER}>",
}
"""What is said of the picture, and the prompt."""
TASKS: dict[str, Callable[[int], Physics]] = {
    "holes": lambda side: operators.inpaint_random((3, side, side), missing=0.8, sigma=0.05, seed=0),
    "sr4": lambda side: operators.super_resolution((3, side, side), factor=4, sigma=0.02),
    "noise": lambda side: operators.denoise((3, side, side), 0.3),
}
"""Damages by name, for a picture of this side."""
COLUMNS = {"psnr": ("PSNR, dB", 2), "lpips": ("LPIPS", 3), "chi2": ("chi2", 2), "ratio": ("V/B", 2)}
"""Heads of the table, and how many digits a number has."""


@dataclass(frozen=True)
class Plan:
    """How it is measured.

    Attributes:
        pipeline: Folder of a pipeline of words.
        task: One of TASKS.
        pictures: How many the concept is learned from.
        inversion: Knobs of the learning.
        algorithm: What restores.
        steps: Its noise levels.
        samples: Posterior samples of each picture.
        guidance: Scale of classifier-free guidance by the words; 1 is the posterior.
    """

    pipeline: str
    task: str = "holes"
    pictures: int = 4
    inversion: Inversion = Inversion(steps=600)
    algorithm: str = "latino"
    steps: int = 30
    samples: int = 8
    guidance: float = 1.0


def class_of(folder: Path) -> str:
    """The name of the class of a subject, from that of its folder."""
    return folder.name.split(".")[0].replace("_", " ")


def pictures_of(folder: Path, least: int) -> list[Path]:
    """The pictures of a subject by name, once there are enough."""
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if len(found) <= least:
        raise AmbientSolveError(
            f"{folder} has {len(found)} pictures; {least} to learn from and one to damage are needed."
        )
    return found


def learned(subject: Path, plan: Plan, out: Path) -> TimeDependentEmbedding:
    """The concept of a subject, from its first pictures; an interrupted call goes on."""
    shown = out / "pictures"
    shown.mkdir(parents=True, exist_ok=True)
    for path in pictures_of(subject, plan.pictures)[: plan.pictures]:
        shutil.copyfile(path, shown / path.name)
    folder = out / "run" / CONCEPT
    if not (folder / "concept.json").is_file():
        folder = invert(str(shown), plan.pipeline, f"<{TOKEN}>", out / "run", plan.inversion, init=class_of(subject))
    return TimeDependentEmbedding.load(folder)


def measured(
    prior: Any,
    subject: Path,
    other: Path,
    plan: Plan,
    out: Path,
    seed: int,
    lpips: Callable[[Tensor, Tensor], dict] | None,
) -> dict[str, dict[str, float]]:
    """What each prompt gives for the last picture of a subject: PSNR and LPIPS of the mean, chi2, V/B.

    V is the variance of the samples, B the squared error of their mean: for samples of the posterior V/B is 1 on
    average.
    """
    side = own_side(prior)
    if side is None:
        raise AmbientSolveError(f"{plan.pipeline} does not say the size of its pictures.")
    theirs = TimeDependentEmbedding(OTHER, learned(other, plan, out.parent / other.name).tables)
    knowing = with_concepts(prior, [learned(subject, plan, out), theirs])
    held = pictures_of(subject, plan.pictures)[-1]
    (out / "held").mkdir(exist_ok=True)
    shutil.copyfile(held, out / "held" / held.name)
    x = (concept_samples(str(out / "held"), side)[0].z.float()[None] + 1) / 2
    op = TASKS[plan.task](side)
    torch.manual_seed(seed)
    y, rows = op(x), {}
    for stated, prompt in STATED.items():
        cond = Prompt(prompt.replace("{}", class_of(subject)), guidance=plan.guidance if prompt else 1.0)
        solver = Solver(knowing, plan.algorithm, steps=plan.steps)
        found = solver.solve(y, op, n_samples=plan.samples, cond=cond, progress=False)
        samples, mean = found.samples[0], found.mean[0]
        error, variance = float((mean - x[0]).square().mean()), float(samples.var(0).mean())
        rows[stated] = {"psnr": -10 * math.log10(error), "chi2": float(found.chi2.mean())}
        rows[stated] |= {"ratio": variance * (1 + 1 / plan.samples) / error}
        rows[stated] |= {"lpips": float(lpips(mean.clamp(0, 1), x[0])["lpips"])} if lpips is not None else {}
        save_png(mean.clamp(0, 1), out / f"{stated.replace(' ', '-')}.png")
    return rows


def table(rows: Sequence[dict[str, dict[str, float]]]) -> str:
    """Markdown of mean and standard error over subjects, and what the concept gains in pairs."""
    names = [name for name in COLUMNS if name in rows[0]["no words"]]
    lines = [f"| stated | {' | '.join(COLUMNS[name][0] for name in names)} |", "|---" * (len(names) + 1) + "|"]
    for stated in STATED:
        lines.append(f"| {stated} | {' | '.join(_words([r[stated][n] for r in rows], COLUMNS[n][1]) for n in names)} |")
    lines.append("")
    for other in [stated for stated in STATED if stated != "the concept"]:
        gains = []
        for name in ("psnr", "lpips"):
            if name in names:
                head, digits = COLUMNS[name]
                gains.append(f"{head} {_words([r['the concept'][name] - r[other][name] for r in rows], digits, '+')}")
        lines.append(f"The concept less {other}, over {len(rows)} subjects: {', '.join(gains)}.")
    return "\n".join(lines)


def _words(values: Sequence[float], digits: int, sign: str = "") -> str:
    """Mean and its standard error; of one value there is none."""
    mean, many = float(np.mean(values)), len(values) > 1
    error = f" ± {np.std(values, ddof=1) / len(values) ** 0.5:.{digits}f}" if many else ""
    return f"{mean:{sign}.{digits}f}{error}"


def restore_subjects(
    subjects: Path, plan: Plan, out: Path, minutes: float, lpips: Callable[[Tensor, Tensor], dict] | None = None
) -> str:
    """Measure subject after subject for so long.

    Args:
        subjects: Folder with a folder for each.
        plan: How it is measured; another one wants another `out`.
        out: Folder of the results.
        minutes: Of work; a subject that is begun is finished.
        lpips: Compares two pictures, `evaluate.metrics.Metrics`; None leaves LPIPS out.

    Returns:
        The table, or how far it is.
    """
    folders = sorted(folder for folder in subjects.iterdir() if folder.is_dir())
    if len(folders) < 2:
        raise AmbientSolveError(f"{subjects} holds {len(folders)} folders; one for each of two subjects was expected.")
    for folder in folders:
        pictures_of(folder, plan.pictures)
    asked, known = json.dumps(repr(plan)), out / "plan.json"
    if known.is_file() and known.read_text() != asked:
        raise AmbientSolveError(f"{out} holds the results of another plan: choose another --out.")
    out.mkdir(parents=True, exist_ok=True)
    replace_text(known, asked)
    prior, begun, found = load_prior(plan.pipeline), time.perf_counter(), []
    for seed, folder in enumerate(folders):
        place = out / folder.name / "result.json"
        if not place.is_file():
            if time.perf_counter() - begun > 60 * minutes:
                return f"{seed} of {len(folders)} subjects are done"
            other = folders[(seed + 1) % len(folders)]
            rows = measured(prior, folder, other, plan, place.parent, seed, lpips)
            replace_text(place, json.dumps(rows))
        found.append(json.loads(place.read_text()))
    return table(found)
