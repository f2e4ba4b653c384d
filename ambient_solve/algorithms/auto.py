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
from ambient_solve.algorithms.latino import LATINO
from ambient_solve.algorithms.mmps import MMPS, TIME_TRAVEL_SETTINGS
from ambient_solve.algorithms.proximal import Proximal
from ambient_solve.algorithms.soft import SoftRestoration
from ambient_solve.algorithms.tds import TDS
from ambient_solve.errors import UnknownKnob
from ambient_solve.knobs import build, knobs
from ambient_solve.likelihood import Likelihood
from ambient_solve.linalg.gram import DiagonalGram
from ambient_solve.presets import LINEAR, MISSING, NOISE, OTHER, preset_named
from ambient_solve.priors.base import Prior
from ambient_solve.process import Soft

AUTO = "auto"
TUNABLE = (MMPS, DAPS, LATINO)
"""The methods whose knobs "auto" takes: for linear operators, for all others, and for priors of latents."""
DECODED = {"width": 1.0}
"""Knobs of daps through a decoder, where narrower draws were measured to be biased."""
PARTICLES = 64
"""Samples of a measurement from which on they are drawn as particles."""
CASES = (
    ("linear operator, Gaussian noise", MMPS.name),
    ("non-linear operator, or photon noise", DAPS.name),
    ("exact prior, few measurements, many samples", TDS.name),
    ("prior of latents, linear operator", LATINO.name),
    ("prior of a soft process", SoftRestoration.name),
    ("scans (ambient-solve mri)", Proximal.name),
)
"""What "auto" takes, problem by problem; `choose` and `for_scans` decide."""
KINDS = {
    NOISE: "nothing but noise",
    MISSING: "pixels are missing",
    LINEAR: "linear operator",
    OTHER: "non-linear operator, or photon noise",
}
"""What was measured, in words."""
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
    if isinstance(prior.process, Soft):
        return build(
            SoftRestoration, **settings
        ), "a prior of a soft process: the measurement must be one of its states"
    if not likelihood.affine:
        if likelihood.operator_linear and likelihood.gaussian:
            return build(LATINO, **settings), "a prior of latents: a step in pixels needs no gradient of the decoder"
        return build(DAPS, **(DECODED | dict(settings))), "a prior of latents: Langevin draws through the decoder"
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


def choose_of_preset(
    preset: str, prior: Prior, likelihood: Likelihood, settings: Mapping[str, Any]
) -> tuple[Algorithm, str]:
    """The algorithm of a preset for this measurement, with the reason in words.

    Args:
        preset: One of `presets.PRESETS`.
        prior: The diffusion prior, which decides where the preset leaves the choice to "auto".
        likelihood: Of the measurement.
        settings: Knobs in place of those of the preset.

    Returns:
        The algorithm, and a sentence that says why.

    Raises:
        AmbientSolveError: the algorithm has no such knob.
    """
    kind = kind_of_measurement(likelihood)
    name, own = preset_named(preset).choices[kind]
    if name == AUTO or not likelihood.affine:  # what presets were measured on were priors of pixels
        chosen, why = choose(prior, likelihood, settings, particles=False)
        return chosen, f"preset {preset}; {why}"
    from ambient_solve.algorithms import ALGORITHMS

    return build(ALGORITHMS[name], **{**own, **settings}), f"preset {preset}, {KINDS[kind]}"


def kind_of_measurement(likelihood: Likelihood) -> str:
    """What was measured, by which presets differ: one of the names of `presets`."""
    if not (likelihood.linear and likelihood.gaussian):
        return OTHER
    if likelihood.identity:
        return NOISE
    in_part = bool((likelihood.count < likelihood.measurements).any())
    return MISSING if in_part and isinstance(likelihood.gram, DiagonalGram) else LINEAR


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
