"""Some of the samples of one picture at a time, in the memory that there is: whole, or in tiles."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ambient_solve.errors import AmbientSolveError, own_words_for_misfit
from ambient_solve.progress import progress_bar
from ambient_solve.restore.pictures import Picture

if TYPE_CHECKING:
    from deepinv.physics import Physics

    from ambient_solve.priors.base import Prior
    from ambient_solve.priors.tiled import TiledPrior
    from ambient_solve.restore.pictures import Picture
    from ambient_solve.restore.tasks import Measured, Task
    from ambient_solve.results import Restoration
    from ambient_solve.solver import Solver

TILE = 256
"""Side of a tile of a picture that does not fit whole, in pixels."""
OVERLAP = 64
"""Overlap of two such tiles, in pixels."""
AT_ONCE = 4
"""Tiles that the network is given together."""
STATE = 350
"""Bytes per pixel and sample of a tiled run beside the network."""


@dataclass
class Drawing:
    """Draws samples of `picture`, `at_once` together; with the prior `tiled` where one is given, or once it must be.

    `tile` is the side of the tiles, and what they overlap.
    """

    solver: Solver
    measured: Measured
    picture: Picture
    damage: Task
    seed: int
    at_once: int
    tiled: TiledPrior | None
    tile: tuple[int, int]
    progress: bool | None = False
    cond: Any = None
    watch: Callable[[float], object] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of what is restored."""
        return size_of(self.measured.op, self.picture)

    def __call__(self, samples: range) -> Restoration:
        """These samples, with the misfit of the measurement as it is.

        Raises:
            AmbientSolveError: the memory of the device does not suffice, not even in tiles.
        """
        from ambient_solve.solver import out_of_memory

        try:
            return self._draw(samples)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
        # Outside of the handler, which holds on to the memory of the run.
        if self.tiled is not None or max(self.size) <= self.tile[0] or not self.solver.prior.takes_tiles(self.tile[0]):
            raise AmbientSolveError(
                f"The memory of the device does not suffice for {self.picture.path.name}. Make the picture smaller."
            )
        from ambient_solve.priors.tiled import TiledPrior

        self.at_once, self.tiled = 1, TiledPrior(self.solver.prior, *self.tile, at_once=1)
        return self(samples)

    def _draw(self, samples: range) -> Restoration:
        if self.tiled is None:
            return self._solve(self.solver, samples, self.progress)
        from ambient_solve.restore.price import cost

        total = self.tiled.tiles(*self.size) * len(samples) * sum(cost(self.solver))
        with progress_bar(None, "tiles", show=self.progress, total=total, unit="tile") as bar:
            begun = self.tiled.done

            def watch(done: int) -> None:
                bar.update(done - begun - bar.n)
                if self.watch is not None:
                    self.watch(min(1.0, (done - begun) / total))

            self.tiled.watch = watch
            return self._solve(self.solver.with_prior(self.tiled), samples, False)

    def _solve(self, solver: Solver, samples: range, progress: bool | None) -> Restoration:
        with own_words_for_misfit():  # `Outcome.warning`, which knows the task
            part = solver.solve(
                self.measured.y,
                self.measured.op,
                n_samples=len(samples),
                first_sample=samples.start,
                seed=self.seed,
                sigma_y=self.measured.sigma_y,
                cond=self.cond,
                at_once=min(self.at_once, len(samples)),
                progress=progress,
            )
        if self.measured.chi2 is not None:
            part = replace(part, chi2=self.measured.chi2(part.samples))
        how = f"the picture was restored in tiles of {self.tile[0]} pixels"
        said = {} if self.tiled is None else {"tiles": f"{how}, the memory that is free does not hold it whole"}
        chi2, evidence = self.picture.whole_chi2(part.chi2), part.evidence.of_copies(self.picture.copies)
        return replace(part, chi2=chi2, evidence=evidence, settings=part.settings | said)


def joined(parts: list[Restoration], picture: Picture) -> Restoration:
    """The restoration of a picture from groups of its samples.

    Args:
        parts: The groups, in order; what any of them says of the memory is kept.
        picture: The picture they belong to.

    Returns:
        One restoration with all samples.
    """
    from ambient_solve.results import join

    result, settings = join(parts), {}
    for part in reversed(parts):
        settings |= part.settings
    tiles = settings.pop("tiles", None)
    settings |= {"n_samples": result.samples.shape[1], "notes": picture.notes + ((tiles,) if tiles else ())}
    return replace(result, settings=settings)


def size_of(op: Physics, picture: Picture) -> tuple[int, int]:
    """Height and width of the picture that is to be restored.

    Args:
        op: The operator.
        picture: The measurement, whose size counts where the operator does not state one.

    Returns:
        (H, W).
    """
    return tuple(getattr(op, "img_size", picture.y.shape[1:])[-2:])


def fitting(solver: Solver, op: Physics, picture: Picture, n_samples: int) -> tuple[int, TiledPrior | None]:
    """How many samples fit into memory at once: a backward pass through a large picture takes gigabytes.

    Args:
        solver: The solver, with its prior.
        op: The operator.
        picture: The measurement.
        n_samples: Samples that are wanted.

    Returns:
        How many to draw at once; and None, or the prior in tiles where not even one sample fits.

    Raises:
        AmbientSolveError: the tiles do not fit either.
    """
    from deepinv.physics import LinearPhysics

    from ambient_solve.priors.tiled import TiledPrior

    backward = isinstance(op, LinearPhysics) if solver.algorithm is None else solver.algorithm.gradient
    height, columns = size_of(op, picture)
    prior = solver.prior
    pixels = math.prod(prior.state_shape((prior.picture_channels, height, columns))[1:])
    one, free = prior.memory(pixels, backward), _free_memory(prior)
    if one is None or free is None:
        return n_samples, None
    # A part of what is free: other programs want some, and the estimate is one.
    usable = 0.7 * free
    least = n_samples if solver.algorithm is not None and solver.algorithm.interacting else 1
    if usable >= least * one:
        return min(int(usable / one), n_samples), None
    state, tile = STATE * height * columns, solver.prior.memory(TILE**2, backward)
    if max(height, columns) > TILE and solver.prior.takes_tiles(TILE) and usable >= least * state + tile:
        together = min(AT_ONCE, int((usable - least * state) / tile))
        samples = max(least, min(int((usable - together * tile) / state), n_samples))
        return samples, TiledPrior(solver.prior, TILE, OVERLAP, at_once=together)
    ways = ["make the picture smaller"] + (["use algorithm 'proximal', which needs less"] if backward else [])
    raise AmbientSolveError(
        f"One sample of {picture.path.name} takes about {one / 1e9:.0f} GB of memory, {free / 1e9:.0f} GB are "
        f"free. {' or '.join(ways).capitalize()}."
    )


def _free_memory(prior: Prior) -> int | None:
    """Bytes free on the prior's device, or None where the system does not tell."""
    import torch

    if prior.device.type == "cuda":
        return torch.cuda.mem_get_info(prior.device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
        return free // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # all processes of this machine want some
    except (OSError, StopIteration):
        return None
