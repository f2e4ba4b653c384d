r"""Which blur, and how much noise, the spectrum of a measurement shows beside the stated ones.

The stated blur `k0`, round blurs and movements along a line have, under the law of photographs, the evidence
`log p(y | k, s)` of `blind.SpectralLaw`, for a variance `s` of the noise. With that free under each of them,

    against = max_k,s log p(y | k, s) - max_s log p(y | k0, s)

is what speaks against the stated blur, and the blur of the largest evidence is what fits better. Movements are left out
where the longest one fits best.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ambient_solve.blind import PHOTOGRAPHS, Family, Unknown
from ambient_solve.blind.spectrum import periodogram, response
from ambient_solve.operators import gaussian_blur, line_blur

ROUND = Family(gaussian_blur, width=Unknown(0.4, 5.0), sigma=0.0)
"""Round blurs that are compared with the stated one."""
LINE = Family(line_blur, length=Unknown(3.0, 34.0), angle=Unknown(0.0, 180.0, periodic=True), sigma=0.0)
"""Movements that are."""
WIDTHS = tuple(np.geomspace(0.4, 5.0, 13).tolist())
"""Standard deviations of round blurs, in pixels."""
LENGTHS = (3.0, 5.0, 8.0, 12.0, 17.0, 24.0, 34.0)
"""Of movements, in pixels."""
LONGEST = 20.0
"""Length of a movement from which on it is none, but lines of the picture that all run one way: these look the more
moved the longer the movement is, while a real movement fits best at its own length."""
DIRECTIONS = 18
"""Most directions of a movement that are tried; of a short one fewer differ."""
VARIANCES = tuple(2.0 ** (k / 2) for k in range(-8, 13))
"""Of the noise, in units of the stated one."""
CLOSER = 2
"""Times that the values beside the best ones are tried, half as far away as before."""
SMALLEST = 32
"""Side of a measurement below which its spectrum says too little."""
FLAT = 0.04
"""Standard deviation of its values, without the noise, below which it does."""
SHARP = 0.8
"""Width of a round blur, in pixels, below which it hardly is one."""
FAINT = 1e-4
"""Values of a kernel that are left out, as a share of the largest."""
ALIKE = 0.02
"""Mean squared difference of two responses up to which they are of one blur."""


class Shape(NamedTuple):
    """A blur: round, of a `width`; along a line, of a `length` and an `angle`; or none, where all are NaN."""

    width: float = math.nan
    length: float = math.nan
    angle: float = math.nan

    @property
    def line(self) -> bool:
        """Whether it is a movement."""
        return not math.isnan(self.length)

    @property
    def none(self) -> bool:
        """Whether it is no blur at all."""
        return math.isnan(self.length) and math.isnan(self.width)

    @property
    def sharp(self) -> bool:
        """Whether hardly anything is blurred."""
        return self.none or self.width < SHARP or self.length < 4 / 3 * LENGTHS[0]

    @property
    def values(self) -> dict[str, float]:
        """What it has, by name."""
        return {name: value for name, value in self._asdict().items() if not math.isnan(value)}

    def kernel(self) -> Tensor:
        """Its kernel, (h, w)."""
        if self.none:
            return torch.ones(1, 1)
        return (LINE if self.line else ROUND).kernel(self.values)[0]


class Compared(NamedTuple):
    """What the spectrum of one measurement says of the stated blur.

    Attributes:
        against: See above; 0 or less where nothing fits better.
        noise: Variance of the noise under the stated blur, in units of the stated one.
        better: The blur that fits best.
        stated: The round blur or movement that is most like the stated one. alike: Whether it is that one.
        narrower: Whether `better` lets more through than the stated one.
    """

    against: float
    noise: float
    better: Shape
    stated: Shape
    alike: bool
    narrower: bool

    @property
    def numbers(self) -> dict[str, float]:
        """As statistics, by name."""
        found = {"kernel": self.against, "noise": self.noise, "narrower": float(self.narrower)}
        found["sharp"] = float(self.better.sharp)
        found |= {f"better {name}": value for name, value in self.better.values.items()}
        return found | {f"stated {name}": value for name, value in (self.stated.values if self.alike else {}).items()}


@dataclass(frozen=True, eq=False)
class Spectra:
    """The spectra of B measurements, and what is stated of each.

    Attributes:
        power: Of `periodogram`, (B, h, w) float64.
        passed: Of `response` for the stated blur, as `power`.
        variance: Stated, of the noise of the mean of the channels, (B,).
        contrast: Standard deviation of this mean, without the noise, (B,).
    """

    power: Tensor
    passed: Tensor
    variance: Tensor
    contrast: Tensor

    @cached_property
    def _known(self) -> dict[int, Compared]:
        return {}

    def compared(self, image: int) -> Compared | None:
        """What the spectrum of one of them says; it is worked out once.

        Args:
            image: Which of them.

        Returns:
            What speaks against the stated blur, and which other one fits better; None of a flat picture.
        """
        if not float(self.contrast[image]) >= FLAT:
            return None
        if image not in self._known:
            self._known[image] = _compare(self.power[image], self.passed[image], float(self.variance[image]))
        return self._known[image]

    def record(self) -> dict[str, Any]:
        """Lists, as JSON takes them."""
        return {name: getattr(self, name).tolist() for name in ("power", "passed", "variance", "contrast")}

    @classmethod
    def from_lists(cls, record: dict[str, Any]) -> Spectra:
        """What `record` wrote."""
        return cls(**{name: torch.tensor(value, dtype=torch.float64) for name, value in record.items()})


def spectra_of(y: Tensor, kernels: Tensor, variance: Tensor) -> Spectra | None:
    """What is needed of measurements for a comparison; None where they are too small, or no blur is stated.

    Args:
        y: The measurements, (B, C, H, W).
        kernels: The stated blurs as responses to an impulse, (B, kh, kw).
        variance: Stated, of the noise of each entry, (B,).

    Returns:
        Their spectra.
    """
    if min(y.shape[-2:]) < SMALLEST:
        return None
    y, cropped = y.detach().double().cpu(), [_cropped(k) for k in kernels.detach().double().cpu()]
    if all(k.numel() == 1 for k in cropped):
        return None
    power = torch.stack([periodogram(one.mean(0)) for one in y])
    h, w = power.shape[-2:]
    passed = torch.stack([response(k, h, w) for k in cropped])
    variance = variance.detach().double().cpu() / y.shape[1]
    contrast = (y.mean(1).flatten(1).var(1) - variance).clamp_min(0).sqrt()
    return Spectra(power, passed, variance, contrast)


def _cropped(kernel: Tensor) -> Tensor:
    """A kernel without the empty rows and columns at its rim."""
    kept = kernel.abs() > FAINT * kernel.abs().max()
    rows, columns = (kept.any(axis).nonzero().flatten() for axis in (1, 0))
    return kernel[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


@lru_cache(maxsize=4)
def candidates(h: int, w: int) -> tuple[tuple[Shape, ...], Tensor]:
    """The blurs that are compared with a stated one, none first.

    Args:
        h: Rows of a window.
        w: Columns of a window.

    Returns:
        The blurs, and their responses, (M, h, w).
    """
    shapes = [Shape(), *(Shape(width=width) for width in WIDTHS)]
    for length in LENGTHS:
        count = min(DIRECTIONS, int(2 * length))
        shapes += [Shape(length=length, angle=180 * i / count) for i in range(count)]
    shapes = [s for s in shapes if max(s.kernel().shape) <= min(h, w)]
    return tuple(shapes), _responses(shapes, h, w)


def _responses(shapes: Sequence[Shape], h: int, w: int) -> Tensor:
    return torch.stack([response(s.kernel(), h, w) for s in shapes])


def _compare(power: Tensor, passed: Tensor, variance: float) -> Compared:
    def evidence(responses: Tensor, times: Sequence[float]) -> Tensor:
        return PHOTOGRAPHS.log_evidence_of(power, responses, [variance * t for t in times])

    size = power.shape
    shapes, responses = candidates(*size)
    own = evidence(passed.expand(len(VARIANCES), *size), VARIANCES)
    noise = _peak(own)

    def fitting(which: Sequence[int]) -> tuple[float, Shape, Tensor]:
        """The evidence of the best of some candidates and of those beside it, this blur, and its response."""
        best, better, some = -math.inf, shapes[0], responses[list(which)]
        for times in sorted({VARIANCES[int(own.argmax())], 1.0}):
            found = evidence(some, [times] * len(which))
            if float(found.max()) > best:
                best, better, quiet = float(found.max()), shapes[which[int(found.argmax())]], times
        for turn in range(CLOSER):
            around = _around(better, 2.0**-turn)
            found = evidence(_responses(around, *size), [quiet] * len(around))
            if float(found.max()) > best:
                best, better = float(found.max()), around[int(found.argmax())]
        other = response(better.kernel(), *size)
        return max(best, float(evidence(other.expand(len(VARIANCES), *size), VARIANCES).max())), better, other

    best, better, other = fitting(range(len(shapes)))
    if better.length > LONGEST:
        best, better, other = fitting([i for i, shape in enumerate(shapes) if not shape.line])
    apart = (responses.sqrt() - passed.sqrt()).square().mean((1, 2))
    stated, narrower = shapes[int(apart.argmin())], bool(other.mean() > passed.mean())
    return Compared(best - float(own.max()), noise, better, stated, bool(apart.min() < ALIKE), narrower)


def _around(shape: Shape, step: float) -> list[Shape]:
    """Blurs beside one of the candidates, `step` half of the way to the next ones; itself where it is none."""
    turns = (-step, 0.0, step)
    if shape.none:
        return [shape]
    if not shape.line:
        ratio = (WIDTHS[1] / WIDTHS[0]) ** 0.5
        return [Shape(width=min(max(shape.width * ratio**t, WIDTHS[0]), WIDTHS[-1])) for t in turns]
    across = 90 / min(DIRECTIONS, int(2 * shape.length))
    return [
        Shape(length=min(max(shape.length * 1.2**t, LENGTHS[0]), LENGTHS[-1]), angle=(shape.angle + across * u) % 180)
        for t in turns
        for u in turns
    ]


def _peak(logs: Tensor) -> float:
    """The variance of most evidence, by the parabola through the best one and those beside it."""
    at = min(max(int(logs.argmax()), 1), len(VARIANCES) - 2)
    low, middle, high = (float(one) for one in logs[at - 1 : at + 2])
    bend = low - 2 * middle + high
    shift = 0.5 * (low - high) / bend if bend < 0 else 0.0
    step = math.log(VARIANCES[1] / VARIANCES[0])
    return VARIANCES[at] * math.exp(step * min(max(shift, -1.0), 1.0))
