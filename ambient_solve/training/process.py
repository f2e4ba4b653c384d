"""The forward process of a run: a soft one is fitted to the pictures, and says where blurred ones may be used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from ambient_solve.data.sample import Sample
from ambient_solve.errors import AmbientSolveError
from ambient_solve.process import SoftSettings
from ambient_solve.training.card import centre
from ambient_solve.training.config import Config, planned_process

PICTURES = 512
"""Pictures that a process is fitted to, at most."""


def fitted_process(config: Config, samples: Sequence[Sample]) -> SoftSettings | None:
    """The soft process of a run, fitted to the least damaged of its pictures; None where the noise is additive.

    Args:
        config: Of the run.
        samples: What it learns from.

    Returns:
        Settings that a prior keeps. They depend on the samples alone: a resumed run finds the same.

    Raises:
        AmbientSolveError: its corruption leaves too much of the pictures at the highest level.
    """
    planned = planned_process(config)
    if planned is None:
        return None
    order = sorted(range(len(samples)), key=lambda i: (samples[i].blur, samples[i].sigma_noise, samples[i].sigma_min))
    best = [samples[i] for i in order[:PICTURES]]
    return planned.fitted(torch.stack([centre(s.z.float(), config.crop) for s in best]))


def at_their_levels(config: Config, samples: Sequence[Sample]) -> list[Sample]:
    """Samples whose blur is a state of the process of a run, admitted from the level on at which it is.

    Args:
        config: Of the run.
        samples: What it learns from.

    Returns:
        The samples, in their order; as they are where the noise is additive.

    Raises:
        AmbientSolveError: a blurred sample is no state of the process.
    """
    planned = planned_process(config)
    if planned is None:
        return list(samples)
    for sample in samples:
        if not sample.blur:
            continue
        if planned.family != "blur":
            raise AmbientSolveError(
                f"{sample.name} has a Gaussian blur, and the process is one of {planned.family}: set process: {{kind: "
                "soft, family: blur}, or drop_noisy."
            )
        if tuple(sample.z.shape[-2:]) != (config.crop, config.crop):
            raise AmbientSolveError(
                f"The blur of {sample.name} wraps round its edges, so that no part of it is a state of the process: "
                f"set `crop` to its side, {sample.z.shape[-1]}, and give square pictures of one size."
            )
    return [replace(s, sigma_min=planned.level_of(s.blur)) if s.blur else s for s in samples]
