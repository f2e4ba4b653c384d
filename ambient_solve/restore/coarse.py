"""Holes that are wider than the prior looks: filled at a quarter of the size first, then with what was found there.

At a quarter of the size a hole of 48 pixels has 12, over which the prior sees both of its edges. The means of the
samples there, with their standard deviation for an error, are then measured beside the pixels that are left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ambient_solve.restore.holes import depth
from ambient_solve.restore.memory import OVERLAP, TILE
from ambient_solve.restore.tasks import Denoise, Inpaint, Measured

if TYPE_CHECKING:
    from torch import Tensor

    from ambient_solve.priors.base import Prior
    from ambient_solve.restore.pictures import Picture
    from ambient_solve.restore.tasks import Task

REACH = 8.0
"""Pixels from the edge of a hole up to which the prior fills it by itself."""
FACTOR = 4
"""Sides of the picture over those of the coarse one."""
SAMPLES = 16
"""Samples of the coarse picture: together they cost what one of the picture does."""
SETTINGS = {"steps": 12, "covariance_noise": False}
"""Knobs of mmps at the coarse size."""
LEAST = 0.03
"""Least error of a coarse pixel, where pixel values go from 0 to 1."""
SMALLEST = 8
"""Side of a coarse picture at least, in pixels."""


def observed_of(task: Task, picture: Picture) -> Tensor | None:
    """The measured pixels of a task that leaves pixels out and does nothing else to them.

    Args:
        task: What happened to the picture.
        picture: The picture.

    Returns:
        (H, W), 1 = measured; None of other tasks.
    """
    parts = getattr(task, "parts", (type(task),))
    if Inpaint not in parts or not set(parts) <= {Inpaint, Denoise}:
        return None
    return Inpaint(mask=task.mask).operator(picture).mask[0, 0]


def hole_words(observed: Tensor) -> str:
    """What to say of the widest hole before the run; empty where the prior fills it by itself."""
    deep = depth(observed)
    if deep <= REACH:
        return ""
    return (
        f"a hole is {2 * deep:.0f} pixels wide, more than the {2 * REACH:.0f} over which the prior sees its edges: it "
        "is filled at a quarter of the size first, and what stands in it is invented"
    )


def with_coarse(prior: Prior, picture: Picture, observed: Tensor, sigma: float, seed: int) -> Measured:
    """The measurement of a picture with holes, and in them what was found at a quarter of the size.

    Args:
        prior: The diffusion prior.
        picture: With the holes.
        observed: Measured pixels, (H, W), 1 = measured.
        sigma: Noise level of the picture.
        seed: Of the samples at the smaller sizes.

    Returns:
        What is handed to the solver; the picture alone where it is too small for that.
    """
    from ambient_solve.operators.means import PixelsAndMeans

    sigma_y, y = picture.sigma_of_each(sigma), picture.y
    op = PixelsAndMeans(observed, FACTOR, y.shape[1], sigma_y)
    mean, std = _filled(prior, y, observed, sigma_y, seed)
    level = op.levels(sigma_y, std)

    def chi2(samples: Tensor) -> Tensor:
        seen = observed.to(samples)
        r = (samples - y.to(samples)[:, None]) * seen
        return r.square().flatten(2).sum(2) / (sigma_y**2 * seen.sum() * y.shape[1])

    return Measured(op.measured(y, mean), op, level, chi2)


def _filled(prior: Prior, y: Tensor, observed: Tensor, sigma_y: float, seed: int) -> tuple[Tensor, Tensor]:
    """Mean and error of the coarse picture, (1, C, H // f, W // f) each."""
    import torch
    import torch.nn.functional as F

    from ambient_solve.errors import own_words_for_misfit
    from ambient_solve.operators import inpaint
    from ambient_solve.operators.means import PixelsAndMeans
    from ambient_solve.priors.tiled import TiledPrior
    from ambient_solve.solver import Solver

    seen = (F.avg_pool2d(observed[None, None], FACTOR)[0, 0] > 1 - 1e-6).float()
    small, level = F.avg_pool2d(y, FACTOR) * seen, max(sigma_y / FACTOR, 1e-3)
    op, given = inpaint(seen, level, y.shape[1]), level
    if depth(seen) > REACH and min(seen.shape) >= FACTOR * SMALLEST:
        mean, std = _filled(prior, small, seen, level, seed)
        op = PixelsAndMeans(seen, FACTOR, y.shape[1], level)
        small, given = op.measured(small, mean), op.levels(level, std)
    tiled = max(seen.shape) > TILE and prior.takes_tiles(TILE)
    solver = Solver(TiledPrior(prior, TILE, OVERLAP) if tiled else prior, "mmps", **SETTINGS)
    with own_words_for_misfit():
        found = solver.solve(
            small, op, n_samples=SAMPLES, seed=seed, sigma_y=given, at_once=SAMPLES // 4, progress=False
        )
    return found.mean.cpu(), torch.as_tensor(found.std).cpu().clamp_min(LEAST)


def needs_coarse(observed: Tensor) -> bool:
    """Whether a hole is so wide that it is filled coarse to fine, in a picture that is large enough for that."""
    return depth(observed) > REACH and min(observed.shape) >= FACTOR * SMALLEST
