"""A measurement as a state of the process: exact posteriors of Gaussian data, controls, and what is refused."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from deepinv import physics as dp
from torch import Tensor

from ambient_solve import AmbientSolveError, GaussianPrior, Prior, Solver
from ambient_solve.algorithms.states import nearest, start_of
from ambient_solve.likelihood import Likelihood
from ambient_solve.process import (
    Downsample,
    Fade,
    GaussianBlur,
    LinearFamily,
    Soft,
    ancestral_noise,
    log_linear,
)
from helpers import NULL, randn

F64 = torch.float64
SIDE, DATA, SAMPLES = 8, 0.5, 1500
LOW, HIGH = 0.01, 1.0


class Known(Prior):
    """Gaussian data with the power of a family, `DATA^2 power`, and their exact denoiser."""

    sigma_min, sigma_max = LOW, HIGH

    def __init__(self, family: LinearFamily, strongest: float, affine: tuple[float, float] = (1.0, 0.0)) -> None:
        super().__init__()
        self.shape, self.family, self._affine = (1, SIDE, SIDE), family, affine
        self.process = Soft(family, lambda t: strongest * math.log(max(t, LOW) / LOW) / math.log(HIGH / LOW))

    @property
    def affine(self) -> tuple[float, float]:
        return self._affine

    def posterior(self, z: Tensor, gains: Tensor, noise: Tensor | float) -> tuple[Tensor, Tensor]:
        """Mean, and variance by part, given `gains z0 + noise n`."""
        power = DATA**2 * self.family.power(z)
        total = gains**2 * power + noise**2
        mean = self.family.synthesize(gains * power / total * self.family.analyze(z))
        return mean, power * noise**2 / total

    def denoise(self, z: Tensor, sigma: float, cond: object = None) -> Tensor:
        return self.posterior(z, self.family.gains(z, self.process.strength(sigma)), sigma)[0]


def errors(steps: int, kernel: str) -> tuple[float, float]:
    """Relative errors of mean and variance of the posterior from one level on, by the recursion of both, exact."""
    prior, level = Known(GaussianBlur(), 2.0), 0.3
    family, process = prior.family, prior.process
    gains = family.gains(torch.zeros(1, 1, SIDE, SIDE, dtype=F64), process.strength(level))
    y = randn(1, 1, SIDE, SIDE, seed=1, dtype=F64)
    mean_wanted, variance_wanted = prior.posterior(y, gains, level)
    levels = log_linear(steps, LOW, level)
    # Linear in z and n: z follows the mean; a wave of one for each frequency the deviation of what is drawn.
    mean, zero = y, torch.zeros_like(y)
    impulse = family.synthesize(torch.ones_like(family.analyze(y)))
    variance = torch.zeros_like(gains)
    for t, after in zip(levels, levels[1:], strict=False):

        def step(z: Tensor, n: Tensor, t: float = t, after: float = after) -> Tensor:
            z0 = prior.denoise(z, t)
            if kernel == "bridge":
                return process.bridge(z, z0, t, after, n)
            fresh = ancestral_noise(t, after, 1.0) if kernel == "one share" else 0.0
            return process.reverse(z, z0, t, after, fresh, n)

        spread = family.analyze(step(impulse, zero)).abs()[0, 0] ** 2
        drawn = family.analyze(step(zero, impulse)).abs()[0, 0] ** 2
        mean, variance = step(mean, zero), spread * variance + drawn
    one = float((mean - mean_wanted).norm() / mean_wanted.norm())
    return one, float((variance - variance_wanted).norm() / variance_wanted.norm())


def test_the_bridge_gives_the_posterior_in_the_limit_and_one_share_for_all_parts_does_not():
    found = {
        (kernel, n): errors(n, kernel) for kernel in ("bridge", "one share", "deterministic") for n in (50, 200, 800)
    }
    for (kernel, n), (mean, variance) in found.items():
        print(f"\n{kernel}, {n} steps: mean {mean:.4f}, variance {variance:.4f}", end="")
    means, variances = ([found["bridge", n][i] for n in (50, 200, 800)] for i in (0, 1))
    assert max(means) < 1e-9, "the mean is that of the posterior, whatever the number of steps"
    assert variances[2] < 0.02 and variances[2] == pytest.approx(variances[1] / 4, rel=0.2)  # of first order
    assert found["one share", 800][1] > 0.1 and found["deterministic", 800][1] > 0.9


def low_resolution(strength: float, sigma: float) -> dp.LinearPhysics:
    """Every second pixel of a Gaussian blur."""

    def back(y: Tensor) -> Tensor:
        large = y.new_zeros(len(y), 1, SIDE, SIDE)
        large[..., ::2, ::2] = y
        return GaussianBlur()(large, strength)

    A = lambda x, **_: GaussianBlur()(x, strength)[..., ::2, ::2]  # noqa: E731
    return dp.LinearPhysics(A=A, A_adjoint=lambda y, **_: back(y), noise_model=dp.GaussianNoise(sigma))


def symmetric(family: LinearFamily, strength: float, sigma: float) -> dp.LinearPhysics:
    A = lambda x, **_: family(x, strength)  # noqa: E731
    return dp.LinearPhysics(A=A, A_adjoint=A, noise_model=dp.GaussianNoise(sigma))


def blocks(sigma: float) -> dp.LinearPhysics:
    return dp.LinearPhysics(
        A=lambda x, **_: torch.nn.functional.avg_pool2d(x, 2),
        A_adjoint=lambda y, **_: y.repeat_interleave(2, -1).repeat_interleave(2, -2) / 4,
        noise_model=dp.GaussianNoise(sigma),
    )


def noise_at(prior: Known, strength: float) -> float:
    """The noise of the level of a strength."""
    return next(t for t in log_linear(20_000, LOW, HIGH)[-2::-1] if prior.process.strength(t) >= strength)


CASES = {
    "blur": (GaussianBlur(), 2.0, 0.8, symmetric, 1.0, 0.05),
    "blur and less noise": (GaussianBlur(), 2.0, 0.8, symmetric, 0.3, 0.05),
    "disc": (Fade(), 3.0, 1.8, symmetric, 1.0, 0.05),
    "blocks": (Downsample(), 2.0, 1.0, lambda family, strength, sigma: blocks(sigma), 0.5, 0.05),
    "small blurred picture": (GaussianBlur(), 2.0, 1.4, lambda family, *args: low_resolution(*args), 0.5, 0.2),
}


@pytest.mark.parametrize("name", CASES)
def test_samples_are_those_of_the_posterior_given_the_state(name):
    family, strongest, strength, operator, share, tolerance = CASES[name]
    prior = Known(family, strongest, (0.5, 0.5))
    sigma_z = share * noise_at(prior, strength)
    op = operator(family, strength, 0.5 * sigma_z)
    truth = 0.5 + 0.5 * DATA * family.synthesize(
        family.power(randn(1, 1, SIDE, SIDE)).sqrt() * family.analyze(randn(1, 1, SIDE, SIDE, seed=5))
    )
    torch.manual_seed(2)
    y = op(truth)
    likelihood = Likelihood(y, op, prior)
    match = nearest(prior.process, family, likelihood, HIGH, prior.sigma_data)
    assert match.strength == pytest.approx(strength, abs=0.02)
    start = start_of(prior.process, family, match, likelihood, LOW, HIGH)
    assert prior.process.strength(start.level) == pytest.approx(strength, abs=0.02), "no more blur than there is"
    # A picture of the noise of its level needs no more of it, where the lift holds the measurement.
    exact = share == 1.0 or name in ("blocks", "small blurred picture")
    assert (float(start.missing.min()) < 0.3 * start.level) == exact
    # The posterior given the state, for the noise that is missing is drawn anew in each sample.
    gains = family.gains(start.z, prior.process.strength(start.level))
    mean, variance = prior.posterior(start.z, gains, start.level)
    power = DATA**2 * family.power(start.z)
    weight = gains * power / (gains**2 * power + start.level**2)
    total = variance + (weight * start.missing) ** 2
    z = (Solver(prior, "soft", steps=200).solve(y, op, n_samples=SAMPLES, progress=False).samples[0] - 0.5) / 0.5
    parts = family.analyze(z - mean[0])
    deviation = float(family.share(z[:1], total * torch.ones_like(variance))) ** 0.5
    off = float((z.mean(0) - mean[0]).square().mean().sqrt())
    assert off < tolerance * deviation + 2 * deviation / math.sqrt(SAMPLES), off / deviation
    found, wanted = parts.abs().square().mean(0), (total * torch.ones_like(variance))[0]
    if isinstance(family, Downsample):  # its parts are pictures: the variance of one is a share of the space
        found, wanted = z.var(0).mean(), family.share(z[:1], total)[0]
    ratio = (found.mean() / wanted.mean()).item()
    assert abs(ratio - 1) < tolerance + NULL / math.sqrt(SAMPLES), ratio
    # Control: the posterior without a measurement, and that of a state of another level, have other variances.
    other = prior.posterior(start.z, gains, 4 * start.level)[1]
    assert abs(float(family.share(z[:1], other * torch.ones_like(variance)) / deviation**2) - 1) > 2 * tolerance


def test_a_noisy_picture_is_a_state_of_additive_noise():
    prior, y = GaussianPrior(torch.zeros(4), 0.25 * torch.eye(4)), torch.tensor([[0.4, -0.2, 0.1, 0.3]])
    op = dp.Denoising(dp.GaussianNoise(0.3))
    z = Solver(prior, "soft", steps=200).solve(y, op, n_samples=8000, progress=False).samples[0]
    shrink = 0.25 / (0.25 + 0.09)
    assert torch.allclose(z.mean(0), shrink * y[0], atol=0.02)
    assert torch.allclose(z.var(0), torch.full((4,), 0.09 * shrink), rtol=0.08)


def test_samples_do_not_depend_on_those_drawn_with_them():
    prior = Known(GaussianBlur(), 2.0)
    op = symmetric(GaussianBlur(), 0.8, 0.1)
    y, solver = op(randn(2, 1, SIDE, SIDE)), Solver(prior, "soft", steps=5)
    together = solver.solve(y, op, n_samples=3, seed=[4, 5], progress=False).samples
    alone = solver.solve(y[1:], op, n_samples=1, seed=[5], progress=False, first_sample=2).samples
    torch.testing.assert_close(together[1:, 2:], alone)
    assert solver.solve(y, op, n_samples=1, progress=False).network_calls == 5, "one pass a level"


def general(A, At, sigma: float) -> dp.LinearPhysics:
    return dp.LinearPhysics(A=lambda x, **_: A(x), A_adjoint=lambda y, **_: At(y), noise_model=dp.GaussianNoise(sigma))


def skewed(z: Tensor) -> Tensor:
    return 0.7 * z + 0.3 * z.roll(1, -1)


@pytest.mark.parametrize(
    ("op", "words"),
    [
        (
            symmetric(GaussianBlur(), 0.8, 2.0),
            "noise of this measurement, 2 in units of z, is above that of all levels .* GaussianBlur",
        ),
        (
            general(skewed, lambda y: 0.7 * y + 0.3 * y.roll(-1, -1), 0.01),
            "state of the prior's process",
        ),
        (symmetric(Fade(), 2.0, 0.01), "times the noise there away"),
        (general(lambda x: x[..., :5], lambda y: torch.nn.functional.pad(y, (0, 3)), 0.1), r"this one is \(1, 8, 5\)"),
    ],
)
def test_a_measurement_that_is_no_state_is_refused_in_words(op, words):
    prior = Known(GaussianBlur(), 2.0)
    prior.denoise = lambda *args: pytest.fail("refused before the first network call")
    with pytest.raises(AmbientSolveError, match=words):
        Solver(prior, "soft").solve(op(randn(1, 1, SIDE, SIDE)), op, n_samples=1, progress=False)


def test_a_mismatch_that_is_allowed_is_passed_and_auto_takes_soft():
    prior = Known(GaussianBlur(), 2.0)
    op = general(skewed, lambda y: 0.7 * y + 0.3 * y.roll(-1, -1), 0.05)
    y = op(randn(1, 1, SIDE, SIDE))
    found = Solver(prior, "soft", mismatch=100.0, steps=3).solve(y, op, n_samples=1, progress=False)
    assert bool(found.samples.isfinite().all())
    blurred = symmetric(GaussianBlur(), 0.8, 0.1)
    settings = Solver(prior, steps=3).solve(blurred(randn(1, 1, SIDE, SIDE)), blurred, progress=False).settings
    assert settings["algorithm"] == "soft" and "soft process" in settings["why"]
    with pytest.raises(AmbientSolveError, match="additive noise"):
        Solver(prior, "proximal").solve(y, op, n_samples=1, progress=False)


def test_a_process_without_a_spectrum_is_refused():
    prior = Known(GaussianBlur(), 2.0)
    prior.process = Soft(partial(torch.mul), lambda t: 1 - t)
    op = symmetric(GaussianBlur(), 0.8, 0.1)
    with pytest.raises(AmbientSolveError, match="soft needs a process of a linear corruption with a spectrum"):
        Solver(prior, "soft").solve(op(randn(1, 1, SIDE, SIDE)), op, n_samples=1, progress=False)
    with pytest.raises(AmbientSolveError, match="Soft.bridge needs a corruption with a spectrum"):
        z = randn(1, 1, SIDE, SIDE)
        prior.process.bridge(z, z, 0.5, 0.2, z)
