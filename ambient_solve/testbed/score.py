"""What the priors of an entry are worth: one headline with its interval, and the rest beside it.

The headline is the mean PSNR, in dB, of denoising held-out pictures, over them and over LEVELS: the errors of denoising
at all levels decide the likelihood of a diffusion prior, and every task that it is used for. Pictures and noise are the
same for all entries and seeds, so that entries are compared seed by seed.

Beside it: PSNR, LPIPS where its network is given, and V/B (variance of the posterior samples over the squared error of
their mean; 1 is right) of restoring; the Frechet distance of samples to the held-out pictures, in a named network; and
the share of samples that are near-copies of what was trained on, next to that of the held-out pictures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ambient_solve import operators
from ambient_solve.algorithms.proximal import Proximal
from ambient_solve.data.leaks import damaged_copies
from ambient_solve.data.sample import Sample
from ambient_solve.errors import AmbientSolveError
from ambient_solve.evaluate.benchmark import averages, measure
from ambient_solve.evaluate.metrics import SMALLEST_LPIPS, Metrics
from ambient_solve.evaluate.trials import Arm, BenchmarkTask, Truth, plan_trials
from ambient_solve.noise import Streams
from ambient_solve.priors.base import Prior
from ambient_solve.sampling import generate
from ambient_solve.testbed.features import FEATURES, frechet_distance, picture_features
from ambient_solve.testbed.intervals import mean_interval
from ambient_solve.testbed.pool import copy_threshold
from ambient_solve.testbed.recipe import TrainingRecipe

LEVELS = (0.1, 0.2, 0.4, 0.8, 1.6)
"""Noise levels of the headline, in units of z; half of them in pictures in [0, 1]."""
TASKS: dict[str, dict[str, Any]] = {
    "denoise": {"sigma": 0.1},
    "gaussian_blur": {"width": 1.0, "sigma": 0.02},
    "super_resolution": {"factor": 2, "sigma": 0.02},
    "inpaint_random": {"missing": 0.5, "sigma": 0.02},
}
"""What is restored, by the builders of `ambient_solve.operators`."""
BATCH = 64
"""Pictures that are denoised at once."""


@torch.no_grad()
def psnr_by_level(prior: Prior, pictures: Tensor) -> dict[str, float]:
    """PSNR of denoising at each of LEVELS, the mean over the pictures; the same noise each time.

    Args:
        prior: The prior.
        pictures: uint8 (N, C, H, W).

    Returns:
        dB by level.
    """
    z = pictures.float() / 127.5 - 1
    found = {}
    for number, sigma in enumerate(LEVELS):
        noisy = z + sigma * Streams(range(len(z)), 1).branch(number).normal(z)
        parts = [prior.denoise(part.to(prior.device), sigma).cpu() for part in noisy.split(BATCH)]
        error = (torch.cat(parts).clamp(-1, 1) - z).square().flatten(1).mean(1)
        found[f"{sigma:g}"] = float((10 * torch.log10(4 / error.double())).mean())
    return found


def headline_alone(prior: Prior, held_out: Tensor) -> dict[str, Any]:
    """The headline and what it is the mean of.

    Args:
        prior: What was trained.
        held_out: Pictures to score on, uint8 (N, C, H, W).

    Returns:
        The numbers.
    """
    denoising = psnr_by_level(prior, held_out)
    return {"headline": sum(denoising.values()) / len(denoising), "denoising": denoising}


def score_prior(
    prior: Prior, learned: Sequence[Sample], held_out: Tensor, recipe: TrainingRecipe, lpips: Path | None = None
) -> tuple[dict[str, Any], Tensor]:
    """All numbers of one seed.

    Args:
        prior: What was trained.
        learned: The pictures that it was trained on.
        held_out: Those to score on, uint8 (N, C, H, W).
        recipe: How many restorations and samples there are.
        lpips: Features of AlexNet, as for `Metrics`; None leaves LPIPS out.

    Returns:
        The numbers, and the samples of the prior, (drawn, C, H, W) in [-1, 1].
    """
    side = int(held_out.shape[-1])
    drawn = generate(prior, recipe.drawn, size=side, steps=recipe.steps, batch=BATCH, progress=False).cpu().clamp(-1, 1)
    clean = held_out.float() / 127.5 - 1
    device, alike = str(prior.device), copy_threshold(held_out)
    row = {
        **headline_alone(prior, held_out),
        "restoration": _restorations(prior, held_out[: recipe.problems], recipe, lpips),
        "frechet": frechet_distance(picture_features(drawn, device), picture_features(clean, device)),
        "features": FEATURES,
        "copies": _copies(drawn, learned, alike),
        "copies held out": _copies(clean, learned, alike),
    }
    return row, drawn


def _restorations(
    prior: Prior, pictures: Tensor, recipe: TrainingRecipe, lpips: Path | None
) -> dict[str, dict[str, float]]:
    """PSNR of the mean, V/B and, where given, LPIPS of a sample, for each task."""
    if lpips is not None and pictures.shape[-1] < SMALLEST_LPIPS:
        raise AmbientSolveError(f"LPIPS needs pictures of {SMALLEST_LPIPS} pixels or more: leave --lpips out.")
    arm = Arm("proximal", Proximal(steps=recipe.steps, trust="data", draw=True), {"steps": recipe.steps})
    tasks = [
        BenchmarkTask(n, partial(getattr(operators, n), **given), {"name": n, **given}) for n, given in TASKS.items()
    ]
    truths = [Truth(str(i), x.float() / 255) for i, x in enumerate(pictures)]
    jobs = plan_trials({"": prior}, [arm], tasks, truths, samples=recipe.samples, seed=0)
    metrics = Metrics(lpips)
    lines = averages(jobs, [measure(job, metrics)[0] for job in jobs])
    kept = ("psnr_mean", "lpips_sample", "V/B")
    return {line["task"]: {name: float(line[name]) for name in kept if name in line} for line in lines}


def _copies(pictures: Tensor, learned: Sequence[Sample], alike: float) -> float:
    """The share of pictures that are near-copies of some of `learned`, however damaged these are."""
    found = damaged_copies([(str(i), z) for i, z in enumerate(pictures)], learned, alike)
    return len(found) / len(pictures)


def summarize_seeds(seeds: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The headline with its interval over the seeds, and the mean of all other numbers.

    Args:
        seeds: What `score_prior` gave, by seed.

    Returns:
        As JSON holds it.

    Raises:
        AmbientSolveError: a headline is no number.
    """
    rows = [seeds[k] for k in sorted(seeds, key=int)]
    values = [float(row["headline"]) for row in rows]
    if not all(map(math.isfinite, values)):
        raise AmbientSolveError(f"The headlines of the seeds are {values}: a prior that gives no numbers has no score.")
    mean, low, high = mean_interval(values)
    others = {k: v for k, v in rows[0].items() if k not in ("headline", "features")}
    means = {k: _mean_of([row[k] for row in rows]) for k in others}
    return {"headline": mean, "low": low, "high": high, "features": rows[0]["features"], **means}


def _mean_of(values: Sequence[Any]) -> Any:
    if isinstance(values[0], Mapping):
        return {k: _mean_of([v[k] for v in values]) for k in values[0]}
    return sum(values) / len(values)
