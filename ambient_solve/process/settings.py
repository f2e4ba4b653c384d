r"""A soft process in plain numbers: what a training run fits to its pictures, and a prior keeps in its config.json.

The level of such a process is the deviation of its noise, `s_t = t`; its strength grows along one curve from the lowest
level to the highest,

    strength(t) = strongest u^curve,      u = ln(t / lowest) / ln(highest / lowest),

which leaves nothing of a picture but its mean color, or nothing at all. What depends on the pictures is measured once:
how far apart the laws of levels are, at levels evenly apart in u, and the Gaussian law of their mean color, which with
the noise of the highest level is the terminal law.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError, suggestion
from ambient_solve.noise import Level, per_sample
from ambient_solve.process.additive import log_linear
from ambient_solve.process.families import Downsample, Fade, GaussianBlur, LinearFamily
from ambient_solve.process.schedule import gaussian_distance
from ambient_solve.process.soft import Soft

FAMILIES: dict[str, type[LinearFamily]] = {"blur": GaussianBlur, "fade": Fade, "downsample": Downsample}
"""The families of corruptions by the name that settings give them."""
KNOTS = 33
"""Levels at which pictures are measured, evenly apart in `u`."""
LEFT = 0.1
"""Share of the noise of the highest level that what is left of the pictures may have there, in each part."""
LARGEST = 1e6
"""No number of settings exceeds it."""


@final
@dataclass(frozen=True, kw_only=True)
class SoftSettings:
    """A soft process, in numbers.

    Args:
        family: One of `FAMILIES`.
        strongest: Strength at the highest level, > 0, in the unit of the family (pixels, or halvings).
        curve: Exponent of the path, > 0: above 1 the noise grows first, below 1 the corruption.
        lowest: The lowest level above 0.
        highest: The highest level.
        length: Distance of the laws from the lowest level on, along the path, at `KNOTS` levels; () spaces levels
            geometrically.
        mean: Mean color of the pictures, (C,); () is a terminal law of noise alone.
        covariance: Covariance of the mean color of a picture, C rows of C.
    """

    family: str = "blur"
    strongest: float = 16.0
    curve: float = 2.0
    lowest: float = 0.01
    highest: float = 0.5
    length: tuple[float, ...] = ()
    mean: tuple[float, ...] = ()
    covariance: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise AmbientSolveError(
                f"process: family = {self.family!r} is unknown. {suggestion(str(self.family), FAMILIES)}"
            )
        if not (0 < self.strongest < LARGEST and 0 < self.curve < LARGEST):
            raise AmbientSolveError(
                f"process: strongest = {self.strongest} and curve = {self.curve} were given; both must exceed 0."
            )
        if not 0 < self.lowest < self.highest < LARGEST:
            raise AmbientSolveError(
                f"process: 0 < lowest < highest was expected, got {self.lowest} and {self.highest}."
            )

    def process(self) -> Soft:
        """The process of these settings."""
        return Soft(
            FAMILIES[self.family](),
            self.strength,
            law=self.start if self.mean else None,
            grid=self.levels if self.length else log_linear,
        )

    def strength(self, level: Level) -> Level:
        """The strength of the corruption at a level: a float for a float, (B,) for (B,)."""
        if isinstance(level, Tensor):
            return self.strongest * self._along(level) ** self.curve
        u = math.log(max(float(level), self.lowest) / self.lowest) / math.log(self.highest / self.lowest)
        return self.strongest * min(u, 1.0) ** self.curve

    def level_of(self, strength: float) -> float:
        """The lowest level at which the corruption is that strong.

        Args:
            strength: 0 to `strongest`.

        Returns:
            A level in [lowest, highest].

        Raises:
            AmbientSolveError: the process is nowhere that strong.
        """
        if not 0 <= strength <= self.strongest:
            raise AmbientSolveError(
                f"A {self.family} of strength {strength:.4g} is no state of this process, whose strongest "
                f"is {self.strongest:g}: raise process.strongest."
            )
        u = (strength / self.strongest) ** (1 / self.curve)
        return self.lowest * (self.highest / self.lowest) ** u

    def estimate(self, z: Tensor, level: Tensor, sigma_data: float, f: Tensor | None = None) -> Tensor:
        """The best linear estimate of clean photographs, by the law of their spectra, and what a network adds.

        In each part, of power P, the estimate is `g P / (g^2 P + s^2) z`, and its error has the variance
        `P s^2 / (g^2 P + s^2)`: what a network gives counts in units of its root. Of white power and no corruption
        these are `c_skip z + c_out f` of EDM.

        Args:
            z: States, (B, C, H, W).
            level: Their levels, (B,).
            sigma_data: Standard deviation of one entry of the data.
            f: Output of the network, the shape of `z`; None is 0.

        Returns:
            The estimate of the clean states, the shape of `z`.
        """
        family = FAMILIES[self.family]()
        gains, power = family.gains(z, self.strength(level)), sigma_data**2 * family.power(z)
        noise = per_sample(level, gains) ** 2
        total = gains**2 * power + noise
        parts = gains * power / total * family.analyze(z)
        if f is not None:
            parts = parts + (power * noise / total).sqrt() * family.analyze(f)
        return family.synthesize(parts)

    def _along(self, level: Tensor) -> Tensor:
        """`u` of levels, 0 to 1."""
        return ((level / self.lowest).log() / math.log(self.highest / self.lowest)).clamp(0, 1)

    def start(self, level: float, n: Tensor) -> Tensor:
        """States of the terminal law: a Gaussian mean color, and noise.

        Args:
            level: The highest one.
            n: Unit noise, (B, C, H, W).

        Returns:
            (B, C, H, W).
        """
        mean = n.new_tensor(self.mean)
        pixels = n[0, 0].numel()
        covariance = n.new_tensor(self.covariance) + level**2 / pixels * torch.eye(len(mean)).to(n)
        average = n.mean((-2, -1), keepdim=True)
        color = mean + pixels**0.5 * average[..., 0, 0] @ torch.linalg.cholesky(covariance).T
        return level * (n - average) + color[..., None, None]

    def levels(self, steps: int, lowest: float, highest: float) -> list[float]:
        """Levels whose consecutive laws are equally far apart, see `equal_distances`.

        Args:
            steps: Levels above 0, 1 or more.
            lowest: The last of them, > 0.
            highest: The first of them.

        Returns:
            `steps + 1` floats, decreasing, the last one 0.
        """
        fine = [self.lowest * (self.highest / self.lowest) ** (i / (KNOTS - 1)) for i in range(KNOTS)]
        begin, end = (_interpolate(level, fine, self.length) for level in (highest, lowest))
        inside = [begin + k / max(steps - 1, 1) * (end - begin) for k in range(1, steps - 1)]
        levels = [_interpolate(length, self.length, fine) for length in inside]
        return [highest, *levels, *([lowest] if steps > 1 else []), 0.0]

    def fitted(self, pictures: Tensor) -> SoftSettings:
        """The same process, with what depends on the pictures measured on some of them.

        Args:
            pictures: Clean ones, (B, C, H, W) in `z` units.

        Returns:
            Settings with `length`, `mean` and `covariance`.

        Raises:
            AmbientSolveError: the strongest corruption leaves too much of the pictures beside the noise there.
        """
        family, pictures = FAMILIES[self.family](), pictures.double()
        colors = pictures.mean((-2, -1))
        around = pictures - colors.mean(0)[:, None, None]
        power = family.analyze(around).abs().square().mean(0, keepdim=True)
        blank = float(family(torch.ones_like(pictures[:1]), self.strongest).abs().max()) < 1e-3
        away = pictures if blank else pictures - colors[..., None, None]
        left = family.gains(pictures[:1], self.strongest) ** 2 * family.analyze(away).abs().square().mean(0)
        if float(left.max()) > LEFT * self.highest**2:
            raise AmbientSolveError(
                f"At the highest level a {self.family} of {self.strongest:g} leaves more of the pictures than their "
                f"mean color, {float(left.max()) ** 0.5:.2g} beside noise of {self.highest:g}: raise process.strongest "
                "or network.sigma_max."
            )
        fine = [self.lowest * (self.highest / self.lowest) ** (i / (KNOTS - 1)) for i in range(KNOTS)]
        distance = gaussian_distance(power, lambda t: family.gains(pictures[:1], self.strength(t)))
        length = [0.0]
        for a, b in zip(fine, fine[1:], strict=False):
            length.append(length[-1] + distance(a, b) / pictures[0].numel() ** 0.5)
        spread = torch.atleast_2d(colors.T.cov(correction=0)) + 1e-8 * torch.eye(len(colors[0]))
        return SoftSettings(
            **{name: getattr(self, name) for name in ("family", "strongest", "curve", "lowest", "highest")},
            length=_rounded(length),
            mean=() if blank else _rounded(colors.mean(0).tolist()),
            covariance=() if blank else tuple(_rounded(row) for row in spread.tolist()),
        )


def _rounded(numbers: list[float]) -> tuple[float, ...]:
    """Numbers as a file holds them: what a run fits must not depend on the last bits of a machine."""
    return tuple(float(f"{number:.6g}") for number in numbers)


def _interpolate(at: float, xs: list[float] | tuple[float, ...], ys: list[float] | tuple[float, ...]) -> float:
    """The piecewise linear function through (xs, ys), xs rising, constant outside."""
    i = min(max(bisect_left(xs, at), 1), len(xs) - 1)
    part = (at - xs[i - 1]) / (xs[i] - xs[i - 1])
    return ys[i - 1] + min(max(part, 0.0), 1.0) * (ys[i] - ys[i - 1])


def checked_settings(values: Any, where: str) -> SoftSettings:
    """The soft process that a file describes, which is not trusted.

    Args:
        values: What the file holds.
        where: What an error calls the file.

    Returns:
        The settings.

    Raises:
        AmbientSolveError: a name is unknown, or a value no number in its range.
    """
    known = SoftSettings.__dataclass_fields__
    if not isinstance(values, dict) or not set(values) <= {*known, "kind"} or values.get("kind") != "soft":
        raise AmbientSolveError(
            f"{where}: process holds {str(values)[:60]!r}; kind soft with its settings was expected."
        )
    values = {k: v for k, v in values.items() if k != "kind"}
    rows = [values.get(k, ()) for k in ("length", "mean")]
    square = values.get("covariance", ())
    if not isinstance(square, (list, tuple)) or not all(isinstance(row, (list, tuple)) for row in [*rows, *square]):
        raise AmbientSolveError(f"{where}: process.length, mean and covariance must be lists of numbers.")
    numbers = [v for k, v in values.items() if k in ("strongest", "curve", "lowest", "highest")]
    numbers += [v for row in [*rows, *square] for v in row]
    if not all(type(v) in (int, float) and abs(v) < LARGEST for v in numbers):
        raise AmbientSolveError(f"{where}: process holds what is no number, or one of {LARGEST:g} and more.")
    length, mean = map(tuple, rows)
    rising = all(a < b for a, b in zip(length, length[1:], strict=False))
    if not (len(length) in (0, KNOTS) and rising and len(mean) <= 64):
        raise AmbientSolveError(f"{where}: process.length must have {KNOTS} entries that rise.")
    if [len(row) for row in square] != [len(mean)] * len(mean):
        raise AmbientSolveError(f"{where}: process.covariance must have the {len(mean)} rows and columns of the mean.")
    return SoftSettings(
        **{k: v for k, v in values.items() if k in ("family", "strongest", "curve", "lowest", "highest")},
        length=length,
        mean=mean,
        covariance=tuple(map(tuple, square)),
    )
