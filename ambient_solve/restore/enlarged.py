r"""A picture that was enlarged by a program: by how much is found in it, and the small picture inside is restored.

Enlarging by a whole factor is linear, along each axis a matrix U. Whether a picture y was enlarged by U is asked of
what is left beside its range, where its grid lies at the first pixel and where it lies at another one:

    r_p = |y - U_p U_p^+ y|^2 / (L - rank U_p)

Of an enlarged picture r_0 is rounding and r_p is not; to any other one, sharp or blurred, all grids are the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, NamedTuple, final

from ambient_solve.errors import AmbientSolveError
from ambient_solve.knobs import AUTO, knob
from ambient_solve.restore.jpeg_files import jpeg_coding
from ambient_solve.restore.pictures import Picture
from ambient_solve.restore.tasks import SIGMA, Measured, Task

if TYPE_CHECKING:
    from deepinv.physics import Physics
    from torch import Tensor

FACTORS = (2, 3, 4, 5, 6, 8)
"""Factors that are looked for."""
FILTERS = ("bicubic", "bilinear", "lanczos", "box")
"""Interpolations, as `operators.reduction.KERNELS` names them; box repeats pixels."""
CLEARLY = 1.2
"""Ratio of the residuals, as standard deviations, from which on another interpolation than the first is found:
doubled by bilinear or by bicubic weights, pictures hardly differ beside their ranges."""
FOUND = "found"
"""In place of an interpolation that is looked for."""
SIDE = 240
"""Side of the part of a picture that is looked at, a multiple of every factor."""
DECISIVE = 1.2
"""Ratio of the residuals, as standard deviations, from which on a picture was enlarged."""
DECISIVE_CODED = 1.35
"""That of a JPEG, whose blocks have a grid too, so that flat pictures which were not enlarged come near it."""
COARSE = 70
"""Quality of a JPEG below which its rounding looks like an enlargement, and nothing is found."""
LEAST = 5e-4
"""Noise level that is assumed at least: about half of the rounding to 8 bits."""
CODED = 2.0
"""What the rounding of a JPEG does to the small picture, in units of what it leaves beside the range, `r_0^(1/2)`; of
other files it is 1. `python benchmarks/enlarged.py --rounding` measures both."""


class Enlargement(NamedTuple):
    """How many times a picture was enlarged, by which of FILTERS, `(r_p / r_0)^(1/2)`, see above, and `r_0^(1/2)`."""

    factor: int
    filter: str
    ratio: float
    noise: float


@lru_cache(maxsize=256)
def enlargement_weights(length: int, factor: int, filter: str, phase: int = 0, beyond: bool = False) -> Tensor:
    """The matrix that makes an axis longer.

    Args:
        length: Pixels of the large axis.
        factor: How many of them there are for one of the small axis, 2 or more.
        filter: One of FILTERS.
        phase: Pixels between the edge of a small pixel and the first large one.
        beyond: Whether small pixels outside of the axis count too, as in the middle of a picture.

    Returns:
        (length, small pixels) float64, rows that sum to one.
    """
    import torch

    from ambient_solve.operators.reduction import KERNELS

    reach, kernel = KERNELS[filter]
    at = (torch.arange(length, dtype=torch.float64) + phase + 0.5) / factor - 0.5
    margin = int(reach + 1) if beyond else 0
    t = at[:, None] - torch.arange(-margin, -(-(length + phase) // factor) + margin, dtype=torch.float64)
    weights = torch.where(t.abs() <= reach, kernel(t), 0)
    weights = weights[:, (weights != 0).any(0)]
    return weights / weights.sum(1, keepdim=True)


def enlargement(y: Tensor, quality: int | None = None) -> Enlargement | None:
    """How a picture was enlarged.

    Args:
        y: (B, C, H, W), of which the first is looked at.
        quality: Of the JPEG that it was stored as since; None of another file.

    Returns:
        The factor, one of FACTORS, and the interpolation; None where the picture shows no such thing.
    """
    if quality is not None and quality < COARSE:
        return None
    y, sides = y[0].detach().cpu().double().mean(0), []
    for axis, length in enumerate(y.shape):
        side = min(SIDE, length)
        start = (length - side) // 2 // (SIDE // 2) * (SIDE // 2)  # where the grids of all factors begin
        y = y.narrow(axis, start, side)
        sides.append(side)
    if min(sides) < 4 * FACTORS[-1]:
        return None
    found = []
    for factor in FACTORS:
        every = {f: max(_beside(axis, factor, f, 0) for axis in (y, y.T)) for f in FILTERS}
        filter = next(f for f in FILTERS if every[f] <= CLEARLY**2 * min(every.values()))
        own = every[filter]
        others = [_beside(axis, factor, filter, p) for axis in (y, y.T) for p in range(1, factor)]
        found.append(Enlargement(factor, filter, (min(others) / max(own, 1e-12)) ** 0.5, own**0.5))
    # What was enlarged by 4 was, nearly, enlarged by 2.
    decisive = DECISIVE if quality is None else DECISIVE_CODED
    return max((one for one in found if one.ratio > decisive), key=lambda one: one.factor, default=None)


def _beside(y: Tensor, factor: int, filter: str, phase: int) -> float:
    """The residual r_p of the rows of `y`, for each of them."""
    weights, basis = _range(y.shape[-1], factor, filter, phase)
    rest = y - (y @ basis) @ basis.T
    return float(rest.square().sum()) / (len(y) * (len(weights) - basis.shape[1]))


@lru_cache(maxsize=256)
def _range(length: int, factor: int, filter: str, phase: int) -> tuple[Tensor, Tensor]:
    """U, and an orthonormal basis of its range."""
    import torch

    weights = enlargement_weights(length, factor, filter, phase, beyond=True)
    return weights, torch.linalg.qr(weights)[0]


def small_picture(y: Tensor, factor: int, filter: str) -> Tensor:
    """The small picture that was enlarged, by least squares.

    Args:
        y: (B, C, H, W).
        factor: By how much.
        filter: How, one of FILTERS.

    Returns:
        (B, C, H // factor, W // factor), in the type of `y`; rows and columns that make no whole pixel are left out.
    """
    import torch

    height, width = (n // factor * factor for n in y.shape[-2:])
    down, across = (
        torch.linalg.pinv(enlargement_weights(n, factor, filter)).to(y.device, y.dtype) for n in (height, width)
    )
    return down @ y[..., :height, :width] @ across.T


@final
@dataclass(frozen=True, kw_only=True)
class Enlarged(Task):
    """Enlarged by a program: the restored picture has the size of the file, and the detail that enlarging left out."""

    name: ClassVar[str] = "enlarged"
    sigma: float = knob(AUTO, *SIGMA, auto=True)
    factor: int = knob(0, 0, 16, "how many times the picture was enlarged; 0 finds it")
    interpolation: str = knob(FOUND, choices=(FOUND, *FILTERS), help="how it was enlarged; box repeats pixels")

    def prepared(self, picture: Picture) -> tuple[Enlarged, tuple[str, ...]]:
        """See `Task.prepared`: factor and interpolation are found, and the noise level of the small picture."""
        from ambient_solve.restore.estimate import PATCH, noise_level

        if self.factor == 1:
            raise AmbientSolveError("factor=1 was given: a picture that was not enlarged has another damage.")
        coding, task, notes = jpeg_coding(picture.path), self, ()
        found = enlargement(picture.y, None if coding is None else coding.quality)
        if not self.factor or self.interpolation == FOUND:
            if found is None and not self.factor:
                raise AmbientSolveError(
                    f"{picture.path.name} does not look enlarged by a whole factor up to {FACTORS[-1]}. If you know "
                    "that it was, give the factor, such as factor=2 (--factor 2); if it is small, use super-resolution."
                )
            chosen = found.filter if found is not None and self.factor in (0, found.factor) else FILTERS[0]
            task = replace(
                self,
                factor=self.factor or found.factor,
                interpolation=chosen if self.interpolation == FOUND else self.interpolation,
            )
            notes = (f"enlarged {task.factor} times ({task.interpolation}); this is taken back first",)
        if task.sigma == AUTO:
            small, rounding = task._small(picture), 0.0 if found is None else found.noise
            level = float(noise_level(small)[0]) if min(small.shape[-2:]) >= 2 * PATCH else 0.0
            level = max(level, rounding if coding is None else CODED * rounding, LEAST)
            task = replace(task, sigma=float(f"{level:.4g}"))
            notes += (f"noise level of the small picture estimated: {task.sigma:.2g}",)
        return task, notes

    def operator(self, picture: Picture) -> Physics:
        """See `Task.operator`."""
        return self.measure(picture).op

    def measure(self, picture: Picture) -> Measured:
        """See `Task.measure`: the small picture was measured."""
        from deepinv.physics import GaussianNoise

        from ambient_solve.operators import Reduction

        if self.factor < 2 or self.interpolation == FOUND or self.sigma == AUTO:
            raise AmbientSolveError(
                "enlarged: factor, interpolation and noise level have not been found yet; restore_file finds them, and "
                "so does restore.unknown.with_estimates(task, picture)."
            )
        small = self._small(picture)
        size = (small.shape[1], *(self.factor * n for n in small.shape[-2:]))
        op = Reduction(size, self.factor, "bicubic", GaussianNoise(self.sigma))
        return Measured(small, op, picture.sigma_of_each(self.sigma))

    def notes(self, picture: Picture) -> tuple[str, ...]:
        """See `Task.notes`."""
        rest = [n % self.factor for n in picture.y.shape[-2:]] if self.factor else [0, 0]
        return (f"the last {max(rest)} rows or columns make no whole pixel and are left out",) if any(rest) else ()

    def _small(self, picture: Picture) -> Tensor:
        if min(picture.y.shape[-2:]) < self.factor:
            raise AmbientSolveError(f"{picture.path.name} is smaller than the factor {self.factor}.")
        return small_picture(picture.y, self.factor, self.interpolation)
