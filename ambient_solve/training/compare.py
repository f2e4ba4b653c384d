"""Which prior of an EM run is best: how well each predicts what held-out measurements hold and it was not shown.

A part of the entries of each held-out picture is hidden, the picture restored from the rest as the E-step does it, and
the mean of a few draws compared with what was hidden. What noise adds to this error is the same for all priors. A
dataloop, which restores no gaps, is compared by the loss of training on the held-out pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ambient_solve.data.sample import Sample
from ambient_solve.errors import AmbientSolveError
from ambient_solve.linalg.conjugate_gradient import conjugate_gradient
from ambient_solve.noise import Streams
from ambient_solve.objectives.kspace import fewer_lines, gram
from ambient_solve.priors.base import Prior
from ambient_solve.training.config import Config
from ambient_solve.training.expectation import Conditioned, Expectation, FromLevel, FromSolver
from ambient_solve.training.restored import batches
from ambient_solve.training.sources import Data
from ambient_solve.training.validation import held_out_loss
from ambient_solve.transforms import randomised, to_kspace

HIDDEN = 0.25
"""Share of the measured entries that is hidden."""
DRAWS = 4
"""Posterior draws that are averaged."""


def hold_out(samples: Sequence[Sample], method: Expectation, most: int) -> tuple[list[Sample], list[Sample]]:
    """Hold out damaged pictures, on which the priors of EM are compared.

    Args:
        samples: Of one source.
        method: Decides which of them are damaged.
        most: Pictures that are held out at most, the last damaged ones; at most a tenth of them.

    Returns:
        What EM learns from, and what it is compared on.
    """
    damaged = [i for i, s in enumerate(samples) if method.restores(s)]
    apart = set(damaged[len(damaged) - min(most, len(damaged) // 10) :])
    return [s for i, s in enumerate(samples) if i not in apart], [samples[i] for i in sorted(apart)]


def held_out_error(
    prior: Prior, method: Expectation, samples: Sequence[Sample], config: Config, batch: int, seed: int
) -> float:
    """The error of `prior` on held-out `samples`, see above; the same entries and noise each time.

    Args:
        prior: The prior to judge.
        method: How it restores.
        samples: Held-out samples.
        config: Configuration of the training.
        batch: Samples at a time.
        seed: Decides entries and noise.

    Returns:
        The error, >= 0; smaller is better.

    Raises:
        AmbientSolveError: The method says nothing finite of them.
    """
    if isinstance(method, FromLevel):
        losses = held_out_loss(prior, config, Data([], np.array([]), [], list(samples)))
        found = sum(losses.values()) / max(len(losses), 1)
    else:
        found = _hidden_error(prior, method, samples, batch, seed)
    if not np.isfinite(found):
        raise AmbientSolveError(f"The held-out error is {found}: the algorithm diverged under this prior.")
    return found


@torch.no_grad()
def _hidden_error(
    prior: Prior, method: FromSolver | Conditioned, samples: Sequence[Sample], batch: int, seed: int
) -> float:
    shown = [_shown(s, method, key) for key, s in enumerate(samples)]
    if isinstance(method, FromSolver):
        method = replace(method, cg_iterations=0)
    mean: list[Tensor | float] = [0.0] * len(shown)
    for chunk in batches(shown, method, DRAWS, batch):
        keys = [np.random.SeedSequence((seed, 7, i, d)).generate_state(1, np.uint64)[0] for i, d in chunk]
        drawn = method.draw(prior, [shown[i] for i, _ in chunk], [int(key) for key in keys]).float().cpu()
        for (i, _), z in zip(chunk, drawn, strict=True):
            mean[i] = mean[i] + z / DRAWS
    errors = [_error(z - part.z.float(), whole, part) for z, whole, part in zip(mean, samples, shown, strict=True)]
    return sum(errors) / len(errors)


def _shown(sample: Sample, method: Expectation, key: int) -> Sample:
    """A sample of which a part is hidden; what an operator leaves out of `z` is not in its measurement."""
    mask = torch.ones(1, *sample.z.shape[-2:]) if sample.mask is None else sample.mask.float()
    z, streams = sample.z.float(), Streams([key], 1)
    if sample.maps is None:
        kept = mask * (streams.uniform(mask[None])[0] >= HIDDEN)
    else:
        steps = method.cg_iterations if isinstance(method, FromSolver) else 0
        if steps:
            z = conjugate_gradient(lambda p: gram(p, mask[None], sample.maps[None]), z[None], steps)[0]
        kept = fewer_lines(mask[None], HIDDEN, streams)[0]
    return replace(sample, z=z, mask=kept.to(torch.uint8))


def _error(error: Tensor, whole: Sample, part: Sample) -> float:
    """Mean square of what is hidden of `part` and known of `whole`, entry by entry of the measurement."""
    hidden = (torch.ones_like(part.mask) if whole.mask is None else whole.mask).float() - part.mask.float()
    if whole.maps is not None:
        square = (hidden * to_kspace(error[None], whole.maps[None])).abs().square()
        return float(square.sum() / (2 * hidden.sum().clamp_min(1) * len(whole.maps)))
    if whole.signs is not None:
        error = randomised(error[None], whole.signs[None].float())[0]
    hidden = hidden.expand_as(error)
    return float((hidden * error.square()).sum() / hidden.sum().clamp_min(1))


def best_of(errors: Sequence[float]) -> int:
    """The iteration of the least error, 0 being the start; the later of equal ones."""
    return max(k for k, error in enumerate(errors) if error == min(errors))


def verdict(errors: Sequence[float], kept: str) -> str:
    """A warning where the last iteration of EM is not the best.

    Args:
        errors: Held-out error after each iteration, first that of the start.
        kept: What OUT/prior is, in words.

    Returns:
        The warning; empty where the last one is the best.
    """
    best, last = best_of(errors), len(errors) - 1
    if best == last:
        return ""
    than = f"iteration {best}" if best else "the prior that it began with"
    return (
        f"warning: held-out pictures are predicted worse by the last iteration (error {errors[last]:.4g}) than by "
        f"{than} ({errors[best]:.4g}): {kept}. Train longer in each iteration, or take fewer of them."
    )
