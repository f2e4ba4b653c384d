"""Calibration by simulation: draw a truth from the prior, measure it, sample its posterior, many times over.

    op = gaussian_operator("mask")
    check_sampler(Solver(prior, "mmps"), prior, op).p_values        # uniform on [0, 1] where the sampler is exact
    check_sampler(my_sampler, prior, op)                            # my_sampler(y, op, n_samples, seed) -> samples

The truth comes from the prior's own sampler (`ExactPrior.sample`, else `generate`), so that the answer is exact up to
that one. The tests are those of `calibration`; under an exact prior the samples are also held against the posterior.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from deepinv.physics import GaussianNoise, LinearPhysics, Physics
from torch import Tensor

from ambient_solve.errors import AmbientSolveError, own_words_for_misfit
from ambient_solve.evaluate.calibration import (
    Statistic,
    coverage,
    misfit_law,
    sbc_ranks,
    tarp_ranks,
    uniformity,
    variance_ratio,
)
from ambient_solve.evaluate.distances import principal_axes
from ambient_solve.evaluate.two_sample import TwoSample, c2st
from ambient_solve.noise import per_sample
from ambient_solve.priors.base import Prior
from ambient_solve.priors.gaussian import ExactPrior, dense
from ambient_solve.sampling import generate
from ambient_solve.solver import Solver

Sampler = Callable[[Tensor, Physics, int, int], Tensor]
"""`(y, op, n_samples, seed) -> samples`: y (B, *measurement) to (B, n_samples, C, *spatial), the rows independent."""
LEVELS = tuple(i / 10 for i in range(1, 10))
"""Probabilities of the intervals whose coverage is measured."""
LARGEST_EXACT = 256
"""Most entries of an image for which the exact posterior is formed."""
TWO_SAMPLE = 400
"""Points of each set of the classifier two-sample test."""
STRIDE = 1_000_000
"""Distance of the seeds of two runs: more than one run uses."""
BEYOND = 3.0
"""Lengths of a steepest descent by which the points of TARP are moved."""


@dataclass(frozen=True)
class Exact:
    """What only a known posterior can tell.

    Attributes:
        ratios: Variance of the samples over the exact one, along each axis of the mean posterior covariance, (d,).
        bias: Error of the posterior mean in posterior standard deviations, root mean square over axes and images.
        two_sample: C2ST of samples and exact samples, each less the exact posterior mean of its image.
    """

    ratios: Tensor
    bias: float
    two_sample: TwoSample


@dataclass(frozen=True)
class Calibration:
    """What `check_sampler` found.

    Attributes:
        problems, n_samples: How many images, and samples of each.
        ranks: Ranks of the truth, (problems,) each: of the SBC statistics and, as "tarp", of TARP.
        p_values: One for each of `ranks`, for the law of the misfit and, where the posterior is known, for C2ST.
        coverage: Fraction of entries inside the central interval, by its level; those that n_samples allows.
        variance_ratio: V / B, see there. chi2: Mean misfit per measurement; 1 is right.
        chi2_error: Its standard error, were the samples exact.
        network_calls, vjps: For each sample; None where the sampler does not tell.
    """

    problems: int
    n_samples: int
    ranks: dict[str, Tensor]
    p_values: dict[str, float]
    coverage: dict[float, float]
    variance_ratio: float
    chi2: float
    chi2_error: float
    exact: Exact | None
    network_calls: int | None
    vjps: int | None
    seconds: float

    @property
    def p(self) -> float:
        """The smallest p-value times their number: small for any wrong sampler, seldom small for an exact one."""
        return min(1.0, min(self.p_values.values()) * len(self.p_values))


@dataclass
class SolverSampler:
    """A `Solver` as a `Sampler`: every image has noise of its own, and every sample is independent.

    The samples of an interacting algorithm are particles, related by resampling: their ranks would be too extreme. Each
    sample is then drawn with a set of `particles` to itself, of which one is kept, chosen by chance.
    """

    solver: Solver
    particles: int = 16
    network_calls: int | None = field(default=None, init=False)
    vjps: int | None = field(default=None, init=False)

    def __call__(self, y: Tensor, op: Physics, n_samples: int, seed: int) -> Tensor:
        """See `Sampler`."""
        interacting = self.solver.algorithm is not None and self.solver.algorithm.interacting
        sets, each = (n_samples, self.particles) if interacting else (1, n_samples)
        seeds = [seed * STRIDE + i for i in range(len(y) * sets)]
        with own_words_for_misfit():  # the verdict has some
            result = self.solver.solve(y.repeat_interleave(sets, 0), op, n_samples=each, seed=seeds, progress=False)
        share = each if interacting else 1
        self.network_calls, self.vjps = share * result.network_calls, share * result.vjps
        if not interacting:
            return result.samples
        # Not the first: systematic resampling sorts the particles by their ancestors.
        kept = torch.randint(each, (len(seeds),), generator=torch.Generator().manual_seed(seed))
        chosen = result.samples[torch.arange(len(seeds)), kept]
        return chosen.reshape(len(y), sets, *chosen.shape[1:])


def check_sampler(
    sampler: Solver | Sampler,
    prior: Prior,
    op: Physics,
    *,
    problems: int = 200,
    n_samples: int = 19,
    size: int | None = None,
    seed: int = 0,
    batch: int = 100,
    particles: int = 16,
    tick: Callable[[int], None] = lambda images: None,
) -> Calibration:
    """Draw `problems` images of `prior`, measure them with `op`, sample each posterior, and test the samples.

    Args:
        sampler: A `Solver`, or any `Sampler`; it sees `batch` measurements at once.
        prior: Draws the images.
        op: One operator for all images, with Gaussian noise and a real measurement; an inpainting's counts the pixels
            that are seen.
        problems: How many images are drawn and measured.
        n_samples: Of each image; coverage at 90 % needs 19.
        size: Side of the images, where the prior takes any.
        seed: Decides the images, the noise and the samples.
        batch: Measurements that are solved together.
        particles: See `SolverSampler`.
        tick: Called with how many images are done, after each batch.

    Returns:
        Ranks, coverage and the other tests of the samples.

    Raises:
        AmbientSolveError: too few problems, a sampler that returns another shape, an operator without noise level.
    """
    _check(op, problems, n_samples, batch)
    sampler = SolverSampler(sampler, particles) if isinstance(sampler, Solver) else sampler
    started, z = time.perf_counter(), _truth(prior, problems, size, seed)
    x, device = prior.decode(z), prior.device
    sigma = float(op.noise_model.sigma)
    generator = torch.Generator().manual_seed(STRIDE + seed)
    with torch.no_grad():
        clean = torch.cat([op.A(part) for part in x.split(batch)])
        seen = _seen(op, x[:1], clean[:1])
        noise = torch.randn(clean.shape, generator=generator).to(device)
        y = torch.where(seen, clean + sigma * noise, 0)
    drawn = []
    for number, part in enumerate(y.split(batch)):
        drawn.append(sampler(part, op, n_samples, (seed + 1) * STRIDE + number))
        wanted = (len(part), n_samples, *x.shape[1:])
        if tuple(drawn[-1].shape) != wanted:
            raise AmbientSolveError(
                f"The sampler returned {tuple(drawn[-1].shape)} for {len(part)} measurements, {wanted} was expected: "
                "(images, samples, C, *spatial)."
            )
        broken = int((~drawn[-1].isfinite()).flatten(2).any(2).sum())
        if broken:
            raise AmbientSolveError(
                f"{broken} of {len(part) * n_samples} samples are not finite: the sampler diverged. "
                "Change its settings, such as more steps or a smaller weight."
            )
        tick(len(part))
    seconds = time.perf_counter() - started
    samples = torch.cat(drawn).float().to(device)
    with torch.no_grad():
        # One sample of each image after another, since an operator on all of them at once may not fit the memory.
        predicted = [torch.cat([op.A(part) for part in s.split(batch)]) for s in samples.unbind(1)]
    misfit = lambda predicted: ((predicted - y) * seen).flatten(1).double().square().sum(1) / sigma**2  # noqa: E731
    misfits, measurements = torch.stack([misfit(p) for p in predicted], 1), int(seen.sum())
    ranks = sbc_ranks(samples, x, _statistics(prior), seed)
    # The misfit of the truth and of the samples is known already.
    ranks |= sbc_ranks(misfits, misfit(clean), {"misfit": lambda values: values}, seed)
    with torch.no_grad():
        ranks["tarp"] = tarp_ranks(samples, x, _references(op, x, y), seed)
    p_values = {name: uniformity(values, n_samples) for name, values in ranks.items()}
    p_values["chi2"] = misfit_law(misfits[:, 0], measurements)
    exact = _exact(prior, op, y, samples, sigma, generator)
    if exact is not None:
        p_values["c2st"] = exact.two_sample.p
    return Calibration(
        problems=problems,
        n_samples=n_samples,
        ranks=ranks,
        p_values=p_values,
        coverage={level: coverage(samples, x, level) for level in LEVELS if (1 - level) / 2 * (n_samples + 1) > 0.999},
        variance_ratio=variance_ratio(samples, x),
        chi2=float(misfits.mean()) / measurements,
        chi2_error=math.sqrt(2 / (measurements * problems)),
        exact=exact,
        network_calls=getattr(sampler, "network_calls", None),
        vjps=getattr(sampler, "vjps", None),
        seconds=seconds,
    )


def _check(op: Physics, problems: int, n_samples: int, batch: int) -> None:
    for name, value, least in (("problems", problems, 10), ("n_samples", n_samples, 2), ("batch", batch, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise AmbientSolveError(f"{name}={value!r} was given, a whole number of at least {least} was expected.")
    noise = getattr(op, "noise_model", None)
    if not isinstance(noise, GaussianNoise) or noise.sigma.numel() != 1 or not float(noise.sigma) > 0:
        raise AmbientSolveError(
            "A check needs an operator with one Gaussian noise level above 0: noise_model=GaussianNoise(0.05)."
        )


def _truth(prior: Prior, problems: int, size: int | None, seed: int) -> Tensor:
    """Draws of the prior, (problems, *z_shape), from streams that no sampler here shares."""
    if isinstance(prior, ExactPrior):
        return prior.sample(problems, torch.Generator().manual_seed(seed))
    return generate(prior, problems, size=size, seed=seed, progress=False)


def _seen(op: Physics, x: Tensor, clean: Tensor) -> Tensor:
    """Which entries (1, *measurement) of a measurement tell anything: a row of zeros gives 0 for any image."""
    if not isinstance(op, LinearPhysics):
        return torch.ones_like(clean, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    return op.A(torch.randn(x.shape, generator=generator).to(x)) != 0


def _references(op: Physics, x: Tensor, y: Tensor) -> Tensor:
    """The points of TARP (B, C, *spatial): another draw of the prior, moved towards `y` and beyond.

    They must depend on `y`, or samples that ignore it, draws of the prior, would pass; the truth behind that `y` has no
    part in them. `BEYOND` steepest descents, one after another in a straight line, let what is measured count among
    all that is not.
    """
    other = x.roll(1, 0)
    if not isinstance(op, LinearPhysics):
        return other
    slope = op.A_adjoint(y - op.A(other))
    moved = op.A(slope).flatten(1).square().sum(1)
    length = BEYOND * slope.flatten(1).square().sum(1) / moved.clamp_min(1e-12)
    return other + per_sample(length, slope) * slope


def _statistics(prior: Prior) -> dict[str, Statistic]:
    """The statistics of SBC, of images (B, S, *shape)."""

    def per_image(f: Callable[[Tensor], Tensor]) -> Statistic:
        return lambda x: f(x.flatten(0, 1)).reshape(x.shape[:2])

    def encoded(x: Tensor) -> Tensor:
        return (prior.encode(x) if prior.affine else x).flatten(1)

    def pixel(x: Tensor) -> Tensor:
        middle = x.movedim(1, -1)
        for _ in range(x.ndim - 2):
            middle = middle[:, middle.shape[1] // 2]
        return middle.reshape(len(x), -1)[:, 0]

    found = {
        "mean": per_image(lambda x: x.flatten(1).mean(1)),
        "norm": per_image(lambda x: encoded(x).norm(dim=1)),
        "pixel": per_image(pixel),
    }
    if isinstance(prior, ExactPrior):
        found["log p"] = per_image(lambda x: prior.log_prob(prior.encode(x)))
    return found


def _exact(
    prior: Prior, op: Physics, y: Tensor, samples: Tensor, sigma: float, generator: torch.Generator
) -> Exact | None:
    """The samples (B, S, *shape) against the posterior of each image, where it is known and small."""
    d = samples[0, 0].numel()
    if not (isinstance(prior, ExactPrior) and isinstance(op, LinearPhysics) and d <= LARGEST_EXACT):
        return None
    A, S = dense(op, prior.shape), samples.shape[1]
    posteriors = [prior.posterior(A, one, sigma) for one in y]
    means = torch.stack([p.mean.flatten() for p in posteriors])[:, None]
    found = prior.encode(samples.double()).flatten(2) - means
    wanted = torch.stack([p.sample(S, generator).double().flatten(1) for p in posteriors]) - means
    variance, axes = principal_axes(torch.stack([p.covariance for p in posteriors]).mean(0))
    ratios = (found @ axes).var(1).mean(0) / variance
    # The mean of S samples errs by their variance / S more than the mean of many would.
    squared = ((found.mean(1) @ axes) ** 2).mean(0) / variance - ratios / S
    some = torch.randperm(len(y) * S, generator=generator)[:TWO_SAMPLE]
    pair = c2st(found.flatten(0, 1)[some], wanted.flatten(0, 1)[some])
    return Exact(ratios=ratios, bias=math.sqrt(max(0.0, float(squared.mean()))), two_sample=pair)
