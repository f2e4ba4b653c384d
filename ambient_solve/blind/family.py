"""Operators with parameters that are not known: a builder, and the range of each.

family = Family(operators.gaussian_blur, width=Unknown(0.5, 4), sigma=0.01, boundary="valid")
Solver(prior).solve(y, family)
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from deepinv.physics import Blur, BlurFFT, Denoising, Physics
from torch import Tensor

from ambient_solve.errors import AmbientSolveError

MODEL_SIDE = 128
"""Side of the picture for which an operator is built where only its kernel is wanted."""
RATIO = 4
"""A range from which the logarithm of the parameter, in place of itself, is uniform before anything is measured."""


@final
@dataclass(frozen=True)
class Unknown:
    """A number between `lo` and `hi`, all of them equally likely.

    Where `lo` is above 0 and `hi` four times as large or more, all its logarithms are. Of a `periodic` one, such as a
    direction from 0 to 180 degrees, `lo` and `hi` are the same.

    Raises:
        AmbientSolveError: the range is empty or not finite.
    """

    lo: float
    hi: float
    periodic: bool = False

    def __post_init__(self) -> None:
        numbers = all(isinstance(n, (int, float)) and not isinstance(n, bool) for n in (self.lo, self.hi))
        if not numbers or not -math.inf < self.lo < self.hi < math.inf:
            raise AmbientSolveError(
                f"Unknown({self.lo!r}, {self.hi!r}) was given, two numbers, the smaller one first, were expected."
            )

    @property
    def logarithmic(self) -> bool:
        """Whether the logarithm is uniform."""
        return not self.periodic and self.lo > 0 and self.hi >= RATIO * self.lo

    def coordinate(self, value: float) -> float:
        """Of a value, on the axis on which all are equally likely."""
        return math.log(value) if self.logarithmic else value

    def value(self, coordinate: float) -> float:
        """That has this coordinate; those of a periodic parameter are brought back into the range."""
        if self.periodic:
            return self.lo + (coordinate - self.lo) % (self.hi - self.lo)
        return min(max(math.exp(coordinate) if self.logarithmic else coordinate, self.lo), self.hi)


@final
class Family:
    """The operators that a builder makes for every value of its unknown parameters.

    Args:
        builder: Returns a deepinv physics: one of `ambient_solve.operators`, or any function of `img_size`, the shape
            (C, H, W) of the pictures, and of numbers. `img_size` is taken from the measurement.
        parameters: Of the builder, by name: `Unknown(lo, hi)`, or what is known.

    Raises:
        AmbientSolveError: nothing is unknown, or the builder has no `img_size` or no such parameter.
    """

    def __init__(self, builder: Callable[..., Physics], **parameters: Any) -> None:
        known = inspect.signature(builder).parameters
        several = any(p.kind is p.VAR_KEYWORD for p in known.values())
        name = getattr(builder, "__name__", "The builder")
        wrong = [p for p in parameters if p not in known and not several]
        if "img_size" in parameters or "img_size" not in known or wrong:
            raise AmbientSolveError(
                f"{name} takes {', '.join(known)}; a family needs a builder with img_size, which it sets itself, and "
                f"got {', '.join(wrong or parameters)}."
            )
        self.builder = builder
        self.unknown: dict[str, Unknown] = {p: v for p, v in parameters.items() if isinstance(v, Unknown)}
        self.known = {p: v for p, v in parameters.items() if not isinstance(v, Unknown)}
        if not self.unknown:
            raise AmbientSolveError(f"{name} has no unknown parameter: give one as Unknown(lo, hi), or an operator.")

    def at(self, values: Mapping[str, float], shape: tuple[int, ...]) -> Physics:
        """The operator with these parameters.

        Args:
            values: Of the unknown parameters, by name.
            shape: Of the measurement, (B, C, H, W). A blur that stays inside the picture (boundary "valid") is built
                for one that is larger by its border.

        Returns:
            The operator.

        Raises:
            AmbientSolveError: the builder refuses them, or its measurements have another shape.
        """
        size = tuple(shape[-3:])
        op = self._build(values, size)
        got = op.A(torch.zeros(1, *size)).shape[-2:]
        if tuple(got) != size[1:]:
            size = (size[0], *(2 * n - m for n, m in zip(size[1:], got, strict=True)))
            op = self._build(values, size)
            got = op.A(torch.zeros(1, *size)).shape[-2:]
        if tuple(got) != tuple(shape[-2:]):
            raise AmbientSolveError(
                f"The measurement has {shape[-2]}x{shape[-1]} pixels, that of the operator {got[0]}x{got[1]}: a family "
                "is of blurs, whose pictures are as large as the measurement but for a border."
            )
        return op

    def kernel(self, values: Mapping[str, float]) -> tuple[Tensor, float]:
        """The blur kernel (h, w), and the noise level, at these parameters.

        Raises:
            AmbientSolveError: the operator is no blur, or its noise not Gaussian.
        """
        op = self._build(values, (1, MODEL_SIDE, MODEL_SIDE))
        sigma = getattr(op.noise_model, "sigma", None)
        plain = isinstance(op, Denoising)
        if not (plain or isinstance(op, (Blur, BlurFFT))) or sigma is None or hasattr(op.noise_model, "gain"):
            raise AmbientSolveError(
                f"{type(op).__name__} is not a blur with Gaussian noise; only of those are parameters estimated."
            )
        return (torch.ones(1, 1) if plain else op.filter[0, 0]), float(sigma)

    def _build(self, values: Mapping[str, float], size: tuple[int, ...]) -> Physics:
        return self.builder(img_size=size, **self.known, **values)
