"""Some of the samples of one picture at a time, in the memory that there is: whole, or in tiles."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ambient_solve.errors import AmbientSolveError

if TYPE_CHECKING:
    from deepinv.physics import Physics

    from ambient_solve.damage import Damage, Picture
    from ambient_solve.priors.base import Prior
    from ambient_solve.restoration import Restoration
    from ambient_solve.solver import Solver
    from ambient_solve.tiling import TiledPrior


@dataclass
class Drawing:
    """Draws samples of `picture`, `at_once` together; with the prior `tiled` where one is given, or once it must be.

    `tile` is the side of the tiles, and what they overlap.
    """

    solver: Solver
    op: Physics
    picture: Picture
    damage: Damage
    seed: int
    at_once: int
    tiled: TiledPrior | None
    tile: tuple[int, int]
    progress: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of what is restored."""
        return size_of(self.op, self.picture)

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
        if self.tiled is not None or max(self.size) <= self.tile[0] or not takes_tiles(self.solver.prior, self.tile[0]):
            raise AmbientSolveError(
                f"The memory of the device does not suffice for {self.picture.path.name}. Make the picture smaller."
            )
        from ambient_solve.tiling import TiledPrior

        self.at_once, self.tiled = 1, TiledPrior(self.solver.prior, *self.tile, at_once=1)
        return self(samples)

    def _draw(self, samples: range) -> Restoration:
        solver = copy.copy(self.solver)
        solver.prior = self.solver.prior if self.tiled is None else self.tiled
        part = solver.solve(
            self.picture.y,
            self.op,
            n_samples=len(samples),
            first_sample=samples.start,
            seed=self.seed,
            # Three copies of one noisy channel are one measurement: with sqrt(3) the noise, the three weigh as much.
            sigma_y=self.picture.copies**0.5 * self.damage.sigma,
            at_once=min(self.at_once, len(samples)),
            progress=self.progress,
        )
        how = f"the picture was restored in tiles of {self.tile[0]} pixels"
        said = {} if self.tiled is None else {"tiles": f"{how}, the memory that is free does not hold it whole"}
        return replace(part, chi2=self.picture.copies * part.chi2, settings=part.settings | said)


def joined(parts: list[Restoration], picture: Picture) -> Restoration:
    """The restoration of a picture from groups of its samples; what any of them says of the memory is kept."""
    from ambient_solve.restoration import join

    result, settings = join(parts), {}
    for part in reversed(parts):
        settings |= part.settings
    tiles = settings.pop("tiles", None)
    settings |= {"n_samples": result.samples.shape[1], "notes": picture.notes + ((tiles,) if tiles else ())}
    return replace(result, settings=settings)


def size_of(op: Physics, picture: Picture) -> tuple[int, int]:
    """Height and width of what `op` measured."""
    return tuple(getattr(op, "img_size", picture.y.shape[1:])[-2:])


def takes_tiles(prior: Prior, tile: int) -> bool:
    """Whether pictures can be restored in tiles of that side with this prior."""
    config = getattr(prior, "config", None)
    return config is not None and config.planes == 0 and config.size in (None, (tile, tile))
