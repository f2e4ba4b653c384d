"""Which method for which problem, and why: all that "auto" stands for is decided here.

    algorithm, why = choose(prior, likelihood, settings, particles=True)

What is taken for exact priors is what is nearest to the posterior of mixtures (benchmarks/exactness.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ambient_solve.algorithms.base import Algorithm
from ambient_solve.algorithms.daps import DAPS
from ambient_solve.algorithms.mmps import MMPS, TIME_TRAVEL_SETTINGS
from ambient_solve.algorithms.proximal import Proximal
from ambient_solve.algorithms.tds import TDS
from ambient_solve.errors import UnknownKnob
from ambient_solve.knobs import build, knobs
from ambient_solve.likelihood import Likelihood
from ambient_solve.priors.base import Prior

AUTO = "auto"
TUNABLE = (MMPS, DAPS)
"""The methods whose knobs "auto" takes: for linear operators, and for all others."""
PARTICLES = 64
"""Samples of a measurement from which on they are drawn as particles."""
CASES = (
    ("linear operator, Gaussian noise", MMPS.name),
    ("non-linear operator, or photon noise", DAPS.name),
    ("exact prior, few measurements, many samples", TDS.name),
    ("scans (ambient-solve mri)", Proximal.name),
)
"""What "auto" takes, problem by problem; `choose` and `for_scans` decide."""
FEW = 2
"""Measurements up to which samples are drawn as particles."""
PASSES = 125
"""Passes through the network that particles take for a sample at most, as many as mmps does."""


def choose(
    prior: Prior, likelihood: Likelihood, settings: Mapping[str, Any], *, particles: bool
) -> tuple[Algorithm, str]:
    """The algorithm for this measurement, with the reason in words.

    Args:
        prior: The diffusion prior.
        likelihood: Of the measurement.
        settings: Knobs of `TUNABLE`, as `check_settings` passes them.
        particles: Whether samples that depend on one another would do: they are drawn at once, without a budget.

    Returns:
        The algorithm, and a sentence that says why.
    """
    if not (likelihood.linear and likelihood.gaussian):
        why = f"{'photon noise' if likelihood.linear else 'non-linear operator'}: Langevin draws of the measurement"
        return build(DAPS, **settings), why
    why = "linear operator: moment matching needs no weight and follows the prior's Jacobian"
    if not math.isinf(prior.sigma_jacobian):
        return build(MMPS, **settings), why
    if likelihood.measurements <= FEW and likelihood.n_samples >= PARTICLES and particles and not settings:
        steps = PASSES // (1 + likelihood.measurements)
        return TDS(steps=steps), "few measurements, many samples, exact prior: particles find all modes"
    return exact(settings), why + "; that is exact: steps taken twice pay"


def exact(settings: Mapping[str, Any]) -> MMPS:
    """The choice for linear operators where the prior's Jacobian is exact and no particles are drawn."""
    # Pictures of a learned prior gain in PSNR, but differ too little where much is missing.
    return build(MMPS, **(TIME_TRAVEL_SETTINGS | dict(settings)))


def for_scans(algorithm: str) -> str:
    """The choice for scans: `proximal`, which needs no backward pass and no weight (docs/benchmarks/mri.md)."""
    return Proximal.name if algorithm == AUTO else algorithm


def why_for_scans(algorithm: str) -> dict[str, str]:
    """The entry `why` of the settings of a scan for which `algorithm` was asked: empty where the caller chose."""
    return {"why": "a scan: no backward pass and no weight are needed"} if algorithm == AUTO else {}


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raise `AmbientSolveError` unless each setting is a knob of one of `TUNABLE`, and inside its range."""
    names = {cls: [k.name for k in knobs(cls)] for cls in TUNABLE}
    for name in settings:
        if not any(name in own for own in names.values()):
            raise UnknownKnob(f"'{AUTO}'", name, sum(names.values(), []))
    for cls, own in names.items():
        build(cls, **{name: value for name, value in settings.items() if name in own})
