"""`Algorithm`: a frozen set of knobs with one generator, `iterate`, that moves states from noise to clean images."""

from __future__ import annotations

import abc
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.knobs import check_knobs, knob, knobs
from ambient_solve.likelihood import Likelihood
from ambient_solve.noise import Streams
from ambient_solve.priors.base import Prior, require_additive, reverse
from ambient_solve.process import ancestral_noise


@dataclass(frozen=True)
class State:
    """Where a run stands after one of its noise levels.

    Attributes:
        step: Levels that are done, from 1.
        steps: Levels of the run.
        sigma: The level just left, in `z` units; `z` is at the next one.
        z: Current iterate, (B * S, *z_shape), row `b * S + s`.
        z0: Estimate of the clean state from which `z` was made, the same shape: what a preview shows.
    """

    step: int
    steps: int
    sigma: float
    z: Tensor
    z0: Tensor

    def __repr__(self) -> str:
        return f"State: level {self.step} of {self.steps}, from sigma {self.sigma:.3g}, z {tuple(self.z.shape)}"


@dataclass(frozen=True, kw_only=True)
class Algorithm(abc.ABC):
    """A way to draw from `p(z0 | y)` with a denoiser.

    Class attributes:
        name: What `Solver(prior, name)` and the command line call it.
        paper: Author, year and arXiv number.
        linear: Whether it needs a linear operator.
        affine: Whether it needs a prior whose `decode` is affine; that of a latent prior is a network.
        gaussian: Whether it needs Gaussian noise.
        spectral: Whether it needs the operator's spectrum in closed form.
        gradient: Whether it differentiates through the denoiser.
        additive: Whether it needs a prior of additive noise, `z_sigma = z0 + sigma n`.
        interacting: Whether the samples of an image depend on one another.
        samples: How many are drawn where no number is given; 1 where there is one answer, or only many are right.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    linear: ClassVar[bool] = True
    affine: ClassVar[bool] = True
    gaussian: ClassVar[bool] = True
    spectral: ClassVar[bool] = False
    gradient: ClassVar[bool] = False
    additive: ClassVar[bool] = True
    interacting: ClassVar[bool] = False
    samples: ClassVar[int] = 4

    steps: int = knob(50, 1, 10_000, "noise levels; more is slower and usually better")

    def __post_init__(self) -> None:
        check_knobs(self)

    def levels(self, prior: Prior) -> list[float]:
        """The noise levels of a run: `steps + 1` floats in `z` units, decreasing, the last one 0."""
        return prior.process.levels(self.steps, prior.sigma_min, prior.sigma_max)

    def check_prior(self, prior: Prior) -> None:
        """Check that this algorithm can work with this prior.

        Args:
            prior: The denoiser.

        Raises:
            AmbientSolveError: the prior's noise is not additive, and this algorithm needs it.
        """
        if self.additive:
            require_additive(prior, self.name)

    def check(self, likelihood: Likelihood) -> None:
        """Check that this algorithm can work with this measurement.

        Args:
            likelihood: The measurement and its operator.

        Raises:
            AmbientSolveError: the operator is not linear, the prior's decode not affine, the noise not Gaussian or the
                spectrum not in closed form, and this algorithm needs it.
        """
        if self.linear and not likelihood.operator_linear:
            raise AmbientSolveError(
                f"{self.name} needs a linear operator, and this one is not. "
                "Use 'dps' or 'daps', or leave algorithm='auto'."
            )
        if self.affine and not likelihood.affine:
            raise AmbientSolveError(
                f"{self.name} needs a prior whose decode is affine, and that of a latent prior is a network. "
                "Use 'latino', 'psld' or 'daps', or leave algorithm='auto'."
            )
        if self.gaussian and not likelihood.gaussian:
            raise AmbientSolveError(
                f"{self.name} needs Gaussian noise, the operator counts photons (Poisson or Poisson-Gaussian noise). "
                "Use 'daps' or 'dps', or pass sigma_y=... to treat the noise as Gaussian of that level."
            )
        if self.spectral and likelihood.gram is None:
            raise AmbientSolveError(
                f"{self.name} needs an operator with a closed-form spectrum (mask, periodic blur, decimation, "
                "single-coil MRI, small dense). Use 'mmps' or 'proximal', or leave algorithm='auto'."
            )

    @abc.abstractmethod
    def iterate(
        self, prior: Prior, likelihood: Likelihood, z: Tensor, sigmas: list[float], streams: Streams
    ) -> Iterator[State]:
        """Move states from noise to clean images, level after level.

        Args:
            prior: The denoiser.
            likelihood: The measurement and its operator.
            z: States at level `sigmas[0]`, (B * S, *z_shape), row `b * S + s` sample `s` of image `b`.
            sigmas: `steps + 1` levels in `z` units, decreasing, the last one 0: those of `levels`.
            streams: Where all randomness comes from, one stream for each row: diffusion noise by way of the prior
                (`noise_like`, `reverse`), noise of the measurement and probes straight from it.

        Yields:
            A `State` after each level; the last one's `z` holds the samples.
        """


def documented(cls: type) -> type:
    """Add to the docstring of an algorithm, for `help`, its paper, what it needs, and its knobs with their ranges.

    Args:
        cls: A class of algorithms; what is none, or is documented already, stays as it is.

    Returns:
        `cls`.
    """
    if not issubclass(cls, Algorithm) or not cls.__doc__ or "\nArgs:\n" in cls.__doc__:
        return cls
    needs = [words for flag, words in NEEDS.items() if getattr(cls, flag)]
    lines = [inspect.cleandoc(cls.__doc__), "", f"{cls.paper}; `Solver(prior, {cls.name!r})`."]
    lines += [f"Needs {', '.join(needs) or 'nothing but a differentiable operator'}.", "", "Args:"]
    for k in knobs(cls):
        span = f"{k.lo:g} to {k.hi:g}, " if k.lo is not None and k.hi is not None else ""
        span = f"{' | '.join(k.choices)}, " if k.choices else span
        words = f"{k.name} ({span}default {k.default}): {k.help}."
        lines += textwrap.wrap(words, 100, initial_indent="    ", subsequent_indent="        ", break_on_hyphens=False)
    cls.__doc__ = "\n".join(lines)
    return cls


NEEDS = {
    "linear": "a linear operator",
    "gaussian": "Gaussian noise",
    "spectral": "the operator's spectrum in closed form",
    "gradient": "backward passes through the denoiser",
    "additive": "a prior of additive noise",
}
"""What an algorithm needs, in words, by the flag that says so."""


@dataclass(frozen=True, kw_only=True)
class Guided(Algorithm):
    """Algorithms that replace `E[z0 | z]` by an estimate of `E[z0 | z, y]` and then take the reverse kernel `K_eta`."""

    eta: float = knob(1.0, 0.0, 1.0, "fresh noise: 1 is ancestral (DDPM), 0 deterministic (DDIM)")

    @abc.abstractmethod
    def guide(self, prior: Prior, likelihood: Likelihood, z: Tensor, sigma: float) -> Tensor:
        """Estimate the clean state, given the measurement too.

        Args:
            prior: The denoiser.
            likelihood: The measurement and its operator.
            z: States at level `sigma`, (B * S, *z_shape).
            sigma: Level, in `z` units, > 0.

        Returns:
            An estimate of `E[z0 | z_sigma = z, y]`, the shape of `z`.
        """

    def iterate(
        self, prior: Prior, likelihood: Likelihood, z: Tensor, sigmas: list[float], streams: Streams
    ) -> Iterator[State]:
        """See `Algorithm.iterate`."""
        for i, (sigma, sigma_next) in enumerate(zip(sigmas, sigmas[1:], strict=False)):
            z0 = self.guide(prior, likelihood, z, sigma)
            z = reverse(prior, z, z0, sigma, sigma_next, ancestral_noise(sigma, sigma_next, self.eta), streams)
            yield State(i + 1, self.steps, sigma, z, z0)
