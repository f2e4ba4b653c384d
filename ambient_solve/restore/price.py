"""What the restoration of a picture costs, before it is begun: seconds and memory, from one measured pass.

The passes of an algorithm are counted on a small picture without a network, by the trial of `budget`; one pass of the
network is measured, on a tile or on the picture where that is smaller.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from ambient_solve.restore.memory import OVERLAP, STATE, TILE

if TYPE_CHECKING:
    from ambient_solve.priors.base import Prior
    from ambient_solve.solver import Solver

LARGE = 512
"""Longer side from which on a price is said before a run, in pixels."""
BACKWARD = 3.0
"""Forward passes that take as long as a backward one, with the forward pass that it repeats in tiles."""
SIZES = (1024, 512)
"""Longer sides that are offered for a picture that is larger, in pixels."""
SMALL = 32
"""Side of the picture on which passes are counted."""


@final
@dataclass(frozen=True)
class Price:
    """What a run costs.

    Attributes:
        height, width: Of what is restored, in pixels.
        tiles: In how many tiles it is denoised; 1 is whole.
        seconds: About how long it takes.
        memory: About how much it takes at once, in bytes; None where that is not known.
    """

    height: int
    width: int
    tiles: int
    seconds: float
    memory: float | None

    @property
    def words(self) -> str:
        """Such as "2000x1500 pixels in 80 tiles: about 12 minutes and 3.1 GB"."""
        how = f" in {self.tiles} tiles" if self.tiles > 1 else ""
        memory = "" if self.memory is None else f" and {self.memory / 1e9:.1f} GB"
        return f"{self.width}x{self.height} pixels{how}: about {spoken(self.seconds)}{memory}"


def price(
    solver: Solver, height: int, width: int, n_samples: int, second: float | None = None, tiled: bool = True
) -> Price:
    """What a run costs.

    Args:
        solver: With the prior and the algorithm of the run.
        height: Of the restored picture, in pixels.
        width: The same.
        n_samples: Samples that are drawn.
        second: Seconds of a forward pass for each pixel, as `pace` measures it; measured here where None.
        tiled: Whether a picture that is larger than a tile is denoised in tiles.

    Returns:
        The price.
    """
    prior, passes = solver.prior, cost(solver)
    second = pace(prior, height, width) if second is None else second
    whole = not tiled or max(height, width) <= TILE or not prior.takes_tiles(TILE)
    tiles = 1 if whole else math.prod(-(-max(n - OVERLAP, 1) // (TILE - OVERLAP)) for n in (height, width))
    pixels = height * width if whole else tiles * min(TILE, height) * min(TILE, width)
    one = prior.memory(min(height * width, TILE**2) if not whole else height * width, passes[1] > 0)
    memory = None if one is None else one + (0 if whole else STATE * height * width)
    return Price(height, width, tiles, n_samples * pixels * second * (passes[0] + BACKWARD * passes[1]), memory)


def pace(prior: Prior, height: int, width: int) -> float:
    """Seconds of a forward pass for each pixel, of a tile or of the picture where it is smaller.

    Args:
        prior: Of pictures.
        height: Of the picture, in pixels.
        width: The same.

    Returns:
        Seconds.
    """
    import torch

    from ambient_solve.budget import wait

    fixed = [n for n in prior.shape[1:] if n != -1]
    sides = tuple(fixed) if fixed else tuple(min(n, TILE) for n in (height, width))
    pixels = math.prod(sides)
    if not fixed and prior.picture_channels != prior.shape[0]:  # states are smaller than pictures
        sides = prior.state_shape((prior.picture_channels, *sides))[1:]
    z = torch.zeros(1, prior.shape[0], *sides, device=prior.device)
    with torch.no_grad():
        prior.denoise(z[..., :SMALL, :SMALL] if not fixed else z, 1.0)  # what the first call alone takes
        started = time.perf_counter()
        wait(prior.denoise(z, 1.0))
    return (time.perf_counter() - started) / pixels


def cost(solver: Solver) -> tuple[int, int]:
    """Forward and backward passes of a sample, on a measurement that no closed form makes cheaper.

    Args:
        solver: With the algorithm; a choice of "auto" is that for a linear operator.
    """
    import torch

    from ambient_solve.algorithms import MMPS
    from ambient_solve.budget import StandIn
    from ambient_solve.likelihood import Likelihood
    from ambient_solve.noise import Streams
    from ambient_solve.operators import gaussian_blur
    from ambient_solve.priors.base import start

    prior = solver.prior
    size: tuple[int, ...] = (prior.shape[0], *(SMALL if n == -1 else n for n in prior.shape[1:]))
    if prior.affine is None:  # states are smaller than pictures
        size = tuple(prior.decode(torch.zeros(1, *size, device=prior.device)).shape[1:])
    op = gaussian_blur(size, 1.0, 0.05)
    stand = StandIn(prior, None)
    likelihood, algorithm = Likelihood(torch.full((1, *size), 0.5), op, prior), solver.algorithm or MMPS()
    streams, levels = Streams([0], 1, prior.device), algorithm.levels(prior)
    z = start(prior, (1, *likelihood.z_shape), levels[0], streams)
    with torch.no_grad():
        for _ in algorithm.iterate(stand, likelihood, z, levels, streams):
            pass
    return stand.network_calls, stand.vjps


def large_words(solver: Solver, height: int, width: int, n_samples: int, tiled: bool) -> str:
    """What to say of the price of a run, with that of smaller working sizes; empty where the picture is small.

    Args:
        solver: With the prior and the algorithm.
        height: Of the restored picture, in pixels.
        width: The same.
        n_samples: Samples that are drawn.
        tiled: Whether it is denoised in tiles.

    Returns:
        One sentence without its full stop.
    """
    longer = max(height, width)
    if longer <= LARGE:
        return ""
    second, found = pace(solver.prior, height, width), []
    for size in (longer, *(n for n in SIZES if n < longer)):
        sides = (max(1, round(n * size / longer)) for n in (height, width))
        found.append(price(solver, *sides, n_samples, second, tiled))
    others = "; ".join(f"--size {max(p.height, p.width)} takes about {spoken(p.seconds)}" for p in found[1:])
    return found[0].words + (f" ({others})" if others else "")


def spoken(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{max(1, round(seconds))} seconds"
    return f"{round(seconds / 60)} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
