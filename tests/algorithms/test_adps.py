"""A-DPS and A-OS, and what other samplers draw with a mask-conditioned prior, on Gaussians."""

from __future__ import annotations

import math

import pytest
import torch
from deepinv.physics import Denoising, GaussianNoise, Inpainting, MultiCoilMRI, Physics
from torch import Tensor

import crossing
from ambient_solve import DPS, MMPS, AmbientPrior, AmbientSolveError, GaussianPrior, Prior, Proximal, Solver
from ambient_solve.algorithms.adps import ADPS
from ambient_solve.algorithms.aos import AOS
from ambient_solve.noise import Streams
from ambient_solve.priors.ambient import MaskConditionedGaussian
from ambient_solve.priors.gaussian import dense
from ambient_solve.process import karras
from helpers import one_sentence, rand, randn, relative

SHAPE, D, NOISE = (1, 3, 4), 12, 0.1
SEEN = torch.tensor([1.0, 0, 1, 1, 0, 1, 0, 1, 1, 0, 0, 1]).reshape(SHAPE)


def pictures() -> GaussianPrior:
    """Correlated pictures with a mean and a deviation of about one half."""
    i = torch.arange(float(D))
    covariance = 0.25 * torch.exp(-(i[:, None] - i).abs() / 4)
    return GaussianPrior(0.3 * randn(*SHAPE, seed=2), covariance, sigma_min=0.005, sigma_max=10.0)


EXACT = pictures()
C, MEAN = EXACT.covariance, EXACT.mean.flatten()
OPERATOR = Inpainting(SHAPE, mask=SEEN, noise_model=GaussianNoise(NOISE))
CURVED = Physics(A=lambda x, **_: x + 0.3 * x**3, noise_model=GaussianNoise(NOISE))


def measured(op: Physics = OPERATOR, n: int = 1) -> Tensor:
    x = EXACT.sample(n, torch.Generator().manual_seed(5))
    y = op.A(x)
    return y + NOISE * randn(*y.shape, seed=6) * (y != 0)


def mask_conditioned(keep_probability: float = 0.6) -> AmbientPrior:
    return AmbientPrior(MaskConditionedGaussian(EXACT), keep_probability)


def solve(prior: Prior, algorithm: object, y: Tensor, op: Physics = OPERATOR, n: int = 1) -> Tensor:
    """Samples as (B * S, *SHAPE)."""
    return Solver(prior, algorithm).solve(y, op, n_samples=n).samples.flatten(0, 1)


# A-DPS, its update.


def literal(op: Physics, y: Tensor, masks: Tensor, sigmas: list[float], l_ss: float, mistake: str = "") -> Tensor:
    """The update as it is published, by automatic differentiation, from entry lists in float64."""
    z = sigmas[0] * Streams([0], len(masks)).normal(torch.empty(len(masks), *SHAPE)).double().flatten(1)
    for sigma, sigma_next in zip(sigmas, sigmas[1:], strict=False):
        with torch.enable_grad():
            leaf, rows = z.clone().requires_grad_(), []
            for row, mask in zip(leaf, masks.flatten(1).bool(), strict=True):
                k = torch.ones_like(mask) if mistake == "all is seen" else mask
                inner = torch.linalg.inv(C[k][:, k] + sigma**2 * torch.eye(int(k.sum())).double())
                rows.append(MEAN + C[:, k] @ inner @ (row[k] - MEAN[k]))
            z0 = torch.stack(rows)
            misfit = (y.double() - op.A(z0.reshape(-1, *SHAPE))).flatten(1).square().sum(1)
            gradient = torch.autograd.grad(misfit.sum(), leaf)[0]
            z0, misfit = z0.detach(), misfit.detach()
        norm = misfit.sum().sqrt() if mistake == "norm of the batch" else misfit.sqrt()[:, None]
        step = gradient * l_ss / norm * {"half": 0.5, "uphill": -1.0}.get(mistake, 1.0)
        if mistake == "last step left out" and sigma_next == 0:
            break
        z = z + (sigma_next - sigma) * (z - z0) / sigma - step
    return z.reshape(-1, *SHAPE)


MISTAKES = ("all is seen", "norm of the batch", "half", "uphill", "last step left out")


@pytest.mark.parametrize("op", [OPERATOR, CURVED], ids=["linear", "curved"])
def test_the_update_is_the_published_one(op):
    y, prior, steps, n = measured(op), mask_conditioned(), 12, 6
    found = solve(prior, ADPS(steps=steps, l_ss=0.1), y, op, n)
    sigmas = karras(steps, 0.005, 10.0)
    assert relative(found, literal(op, y, prior._masks, sigmas, 0.1)) < 1e-4
    for mistake in MISTAKES:
        assert relative(found, literal(op, y, prior._masks, sigmas, 0.1, mistake)) > 0.01, mistake


@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_in_the_units_of_ddpm_it_is_dps(eta):
    for prior in (mask_conditioned(), EXACT):
        wanted = solve(prior, DPS(steps=15, zeta=0.3, eta=eta), measured(), n=3)
        found = solve(prior, ADPS(steps=15, l_ss=0.15, scaling="vp", eta=eta), measured(), n=3)
        assert relative(found, wanted) < 1e-5
        assert relative(solve(prior, ADPS(steps=15, l_ss=0.15, eta=eta), measured(), n=3), wanted) > 0.02


def test_where_all_is_seen_the_prior_is_the_ordinary_one():
    algorithm, y = ADPS(steps=25, l_ss=0.1), measured()
    plain = solve(EXACT, algorithm, y, n=4)
    assert relative(solve(mask_conditioned(1.0), algorithm, y, n=4), plain) < 1e-4
    assert relative(solve(mask_conditioned(0.9), algorithm, y, n=4), plain) > 0.05
    # Bit for bit where the same code denoises.
    same = solve(mask_conditioned().with_mask(torch.ones(SHAPE)), algorithm, y, n=4)
    assert torch.equal(same, solve(MaskConditionedGaussian(EXACT), algorithm, y, n=4))


def test_a_sample_does_not_know_its_batch():
    algorithm, y, op = ADPS(steps=12, l_ss=0.1), measured(n=3), OPERATOR
    together = Solver(mask_conditioned(), algorithm).solve(y, op, n_samples=2).samples
    alone = torch.cat(
        [Solver(mask_conditioned(), algorithm).solve(y[b : b + 1], op, n_samples=2).samples for b in range(3)]
    )
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    masks, sigmas = mask_conditioned().draw_masks((4, *SHAPE), Streams([0], 4)), karras(12, 0.005, 10.0)
    for mistake in ("", "norm of the batch"):
        four, first = (literal(op, y[:1], m, sigmas, 0.1, mistake) for m in (masks, masks[:1]))
        assert (relative(four[:1], first) > 0.05) == bool(mistake)


def test_a_fresh_mask_is_a_policy_of_the_prior():
    fresh, y = AmbientPrior(MaskConditionedGaussian(EXACT), 0.6, policy="per_call"), measured()
    a, b = (solve(prior, ADPS(steps=12, l_ss=0.1), y, n=40) for prior in (mask_conditioned(), fresh))
    assert relative(a, b) > 0.1 and torch.isfinite(b).all()


def test_costs():
    r = Solver(mask_conditioned(), ADPS(steps=7)).solve(measured(), OPERATOR, n_samples=2)
    assert (r.network_calls, r.vjps) == (7, 7)
    r = Solver(mask_conditioned().with_mask(SEEN), AOS()).solve(measured(), OPERATOR)
    assert (r.network_calls, r.vjps) == (1, 0)


# What is drawn: against the exact posterior, on what is measured and on the rest.

HERE, REST = SEEN.flatten().bool(), ~SEEN.flatten().bool()


def moments(samples: Tensor, y: Tensor) -> tuple[list[float], list[float]]:
    """Largest bias in posterior deviations and mean variance ratio, (measured, rest) each."""
    exact = EXACT.posterior(dense(OPERATOR, SHAPE), y[0], NOISE)
    z, variance = samples.flatten(1).double(), exact.variance.flatten()
    bias, ratio = (z.mean(0) - exact.mean.flatten()).abs() / variance.sqrt(), z.var(0) / variance
    return [float(bias[k].max()) for k in (HERE, REST)], [float(ratio[k].mean()) for k in (HERE, REST)]


def conditional(samples: Tensor, seen: Tensor) -> Tensor:
    """`E[z0 | z0 where seen]` of each sample."""
    k, z = seen.flatten().bool(), samples.flatten(1).double()
    return (MEAN + (z[:, k] - MEAN[k]) @ torch.linalg.inv(C[k][:, k]) @ C[k]).reshape(samples.shape)


@pytest.mark.parametrize(
    ("build", "here", "rest"),
    [
        (lambda: EXACT, (0.5, 0.8), (0.6, 1.1)),
        (mask_conditioned, (1.0, 4.0), (0.5, 2.6)),
        (lambda: mask_conditioned().with_mask(SEEN), (0.5, 0.8), (0.0, 0.1)),
    ],
    ids=["ordinary", "mask of the training law", "mask of the measurement"],
)
def test_how_far_adps_is_from_the_exact_variance(build, here, rest):
    """Too narrow on what was measured, right on the rest; wider with masks of the training law; without any variance of
    the rest where the prior always sees the same entries. The bands hold by 3 standard errors."""
    found = []
    for seed in range(12):
        x = EXACT.sample(1, torch.Generator().manual_seed(50 + seed))
        y = OPERATOR.A(x)
        y = y + NOISE * randn(*y.shape, seed=80 + seed) * (y != 0)
        r = Solver(build(), ADPS(steps=60, l_ss=0.2)).solve(y, OPERATOR, n_samples=20, seed=seed)
        found.append(moments(r.samples[0], y)[1])
    ratios = torch.tensor(found)
    mean, error = ratios.mean(0), ratios.std(0) / math.sqrt(len(ratios))
    print(f"\nvariance over exact, measured and rest: {mean.tolist()} +- {error.tolist()}")
    for m, e, (low, high) in zip(mean, error, (here, rest), strict=True):
        assert low <= m - min(3 * e, m) and m + 3 * e < high


def test_the_residual_ends_near_the_step_whatever_the_noise():
    for l_ss in (0.1, 0.2, 0.4):
        chi2 = Solver(EXACT, ADPS(steps=60, l_ss=l_ss)).solve(measured(), OPERATOR, n_samples=40).chi2
        norm = float((chi2 * HERE.sum()).sqrt().mean()) * NOISE
        print(f"\nl_ss {l_ss}: |r| {norm:.3f}, of the noise {NOISE * float(HERE.sum()) ** 0.5:.3f}")
        assert 0.75 < norm / l_ss < 1.6


@pytest.mark.parametrize("trusted", [0.0, math.inf])
def test_shown_the_measurement_mmps_draws_what_it_sees_and_fills_in_the_rest(trusted):
    """Measured entries follow the posterior, the rest is its conditional mean: the mean of all is right, the variance
    of the rest is that of `E[rest | measured]`. With an ordinary prior, the control, both follow the posterior."""
    y, algorithm, prior = measured(), MMPS(steps=25, iterations=5), mask_conditioned().with_mask(SEEN)
    prior.sigma_jacobian = trusted
    z = solve(prior, algorithm, y, n=200)
    bias, ratio = moments(z, y)
    exact = EXACT.posterior(dense(OPERATOR, SHAPE), y[0], NOISE).covariance
    gain = C[REST][:, HERE] @ torch.linalg.inv(C[HERE][:, HERE])
    law = float(((gain @ exact[HERE][:, HERE] @ gain.T).diagonal() / exact.diagonal()[REST]).mean())
    print(f"\nmmps, trusted to {trusted}: bias {bias}, ratio {ratio}, law of the rest {law:.3f}")
    # Moment matching takes its width from the rest, which this prior knows: what was measured varies too little.
    assert max(bias) < 0.25 and abs(ratio[0] - 1) < 0.25 and abs(ratio[1] / law - 1) < 0.25 and law < 0.1
    assert relative(z, conditional(z, SEEN)) < 0.02
    ordinary = solve(EXACT, algorithm, y, n=200)
    assert moments(ordinary, y)[1][1] > 0.85 and relative(ordinary, conditional(ordinary, SEEN)) > 0.2


def test_shown_the_measurement_proximal_fills_in_the_rest_without_bias():
    """It needs no Jacobian to carry the measurement to the rest; with an ordinary prior it does."""
    y = measured()
    z, ordinary = (solve(prior, Proximal(), y, n=200) for prior in (mask_conditioned().with_mask(SEEN), EXACT))
    found, control = moments(z, y), moments(ordinary, y)
    print(f"\nproximal: bias, ratio {found}, of an ordinary prior {control}")
    assert relative(z, conditional(z, SEEN)) < 0.01 and max(found[0]) < 0.2 and found[1][0] < 0.6
    assert control[0][1] > 1.5 * found[0][1] and relative(ordinary, conditional(ordinary, SEEN)) > 0.1


def test_a_mask_that_hides_a_measured_entry_loses_it():
    """It ends at its conditional mean given the others, whatever was measured there."""
    hides, y = SEEN.clone(), measured(n=6)
    hides[0, 0] = 1 - hides[0, 0]
    prior = mask_conditioned().with_mask(hides)
    for algorithm in (Proximal(), MMPS(), ADPS(steps=60, l_ss=0.2)):
        lost, kept = (
            Solver(p, algorithm).solve(y, OPERATOR, n_samples=16) for p in (prior, mask_conditioned().with_mask(SEEN))
        )
        z = lost.samples.flatten(0, 1)
        away = relative(z, conditional(z, hides))
        print(f"\n{algorithm.name}: chi2 {float(lost.chi2.mean()):.2f}, else {float(kept.chi2.mean()):.2f}, {away:.4f}")
        assert lost.chi2.mean() > 2 * kept.chi2.mean() and kept.chi2.mean() < 1.2
        # A-DPS ends a finite number of gradient steps away from there.
        assert away < (0.02 if not isinstance(algorithm, ADPS) else 0.25)
    # Its Jacobian, whose columns of hidden entries are 0, is far from symmetric; mmps believes no more than is.
    prior.sigma_jacobian = math.inf
    assert Solver(prior, MMPS()).solve(y, OPERATOR, n_samples=16).chi2.mean() < 20


# A-OS.


def best_guess(y: Tensor, masks: Tensor, noise: Tensor) -> Tensor:
    """`E[z0 | y]` for each row by entry lists."""
    rows = []
    for row, mask, level in zip(y.flatten(1).double(), masks.flatten(1).bool(), noise, strict=True):
        inner = torch.linalg.inv(C[mask][:, mask] + float(level) ** 2 * torch.eye(int(mask.sum())))
        rows.append(MEAN + C[:, mask] @ inner @ (row[mask] - MEAN[mask]))
    return torch.stack(rows).reshape(y.shape)


def test_one_step_is_the_conditional_mean():
    """For each measurement its own mask and noise."""
    masks, noise = (rand(3, *SHAPE, seed=4) < 0.5).float(), torch.tensor([0.05, 0.1, 0.4])
    op = Inpainting(SHAPE, mask=masks)
    y = masks * (EXACT.sample(3, torch.Generator().manual_seed(1)) + noise[:, None, None, None] * randn(3, *SHAPE))
    prior, wanted = mask_conditioned().with_mask(masks), best_guess(y, masks, noise)
    r = Solver(prior, AOS()).solve(y, op, sigma_y=noise)
    assert relative(r.samples[:, 0], wanted) < 1e-5 and r.network_calls == 1
    # The caller's own mask, whatever the policy.
    asked = Solver(mask_conditioned(), AOS()).solve(y, op, sigma_y=noise, cond=masks)
    assert torch.equal(asked.samples, r.samples)
    # Controls: the lowest level, another mask given, the noise of another measurement.
    lowest = Solver(prior, AOS(level="lowest")).solve(y, op, sigma_y=noise).samples[:, 0]
    assert relative(lowest, best_guess(y, masks, torch.full((3,), EXACT.sigma_min))) < 1e-4
    for control in (
        lowest,
        mask_conditioned().with_mask(masks.roll(1, 0)).denoise(y, noise),
        Solver(prior, AOS()).solve(y, op, sigma_y=noise.flip(0)).samples[:, 0],
    ):
        assert relative(control, wanted) > 0.03


class Spy(Prior):
    """A mask-conditioned denoiser that keeps what it was given."""

    shape, sigma_min, sigma_max = (2, 8, 6), 0.01, 40.0

    def denoise(self, z: Tensor, sigma: object, cond: Tensor | None = None) -> Tensor:
        self.given = z, sigma, cond
        return z


def test_in_k_space_one_step_shows_the_adjoint():
    mask, spy = (rand(8, 6, seed=1) < 0.5).float(), Spy()
    maps = torch.complex(randn(1, 3, 8, 6, seed=2), randn(1, 3, 8, 6, seed=3))
    op = MultiCoilMRI(mask=mask, coil_maps=maps, img_size=(2, 8, 6), noise_model=GaussianNoise(0.1))
    y = op(randn(2, 2, 8, 6))
    Solver(AmbientPrior(spy, 0.5).with_mask(mask, maps), AOS()).solve(y, op)
    z, sigma, cond = spy.given
    assert relative(z, op.A_adjoint(y)) < 1e-3 and torch.equal(cond, mask.expand(2, 1, 8, 6))
    assert torch.allclose(sigma, torch.full((2,), 0.1))
    # Control: A'y in place of A^+ y would be shown as A'A A'y.
    twice = AmbientPrior(spy, 0.5).with_mask(mask, maps).shown(op.A_adjoint(y))
    assert relative(twice, op.A_adjoint(y)) > 0.1


def test_with_an_ordinary_prior_one_step_denoises():
    """Where the operator measures everything, the prior is shown all of it."""
    y = measured() + NOISE * randn(1, *SHAPE, seed=9)
    found = Solver(EXACT, AOS()).solve(y, Denoising(GaussianNoise(NOISE))).samples[:, 0]
    assert relative(found, EXACT.denoise(y, NOISE)) < 1e-5


REFUSED = {
    "an ordinary prior": (lambda: solve(EXACT, AOS(), measured()), "with_mask"),
    "a random mask": (lambda: solve(mask_conditioned(), AOS(), measured()), "with_mask"),
    "another mask": (lambda: solve(mask_conditioned().with_mask(1 - SEEN), AOS(), measured()), "with_mask"),
    "samples": (lambda: solve(mask_conditioned().with_mask(SEEN), AOS(), measured(), n=2), "n_samples=2"),
    "a curved operator": (
        lambda: solve(mask_conditioned().with_mask(SEEN), AOS(), measured(CURVED), CURVED),
        "linear operator",
    ),
    "steps": (lambda: AOS(steps=2), "steps=2"),
    "scaling": (lambda: ADPS(scaling="vq"), "Known: published, vp"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_nonsense_is_refused_in_one_sentence(case):
    call, expected = REFUSED[case]
    with pytest.raises(AmbientSolveError, match=expected) as error:
        call()
    assert one_sentence(error)


# The benchmark.


def test_the_lines_of_the_crossing_benchmark():
    K, generator = crossing.covariance(), torch.Generator().manual_seed(0)
    masks = torch.stack([crossing.draw_lines(rate, generator) for rate in (2, 9)])
    assert masks.sum(1).tolist() == [48, 10] and masks[:, 45:51].all()
    # Smooth: neighbours in the picture agree. The k-space of a white picture, the control, has no such peak.
    assert torch.linalg.eigvalsh(K).min() > -1e-9 and K.diagonal().argmax() == 48 and K.diagonal()[48] > 1
    both = torch.block_diag(K, K)
    conditioned = MaskConditionedGaussian(GaussianPrior(torch.zeros(2, 1, 96), both, sigma_min=0.004, sigma_max=10.0))
    z, lines = randn(4, 2, 1, 96), crossing.MaskConditionedLines(K, masks)
    shown = z * masks[[0, 0, 1, 1], None, None]
    for sigma in (0.01, 3.0, torch.tensor([0.01, 0.1, 1.0, 10.0])):
        wanted = conditioned.denoise(shown, sigma, masks[[0, 0, 1, 1], None, None])
        assert relative(lines.denoise(shown, sigma), wanted) < 1e-4
        assert relative(crossing.MaskConditionedLines(K, masks.flip(0)).denoise(shown, sigma), wanted) > 0.1
    # The exact posterior of the benchmark is the one of GaussianPrior.
    cell = crossing.Cell(K, 8, groups=1, each=1)
    exact = conditioned.prior.posterior(dense(cell.op, (2, 1, 96)), cell.y[0], crossing.NOISE)
    samples = cell.exact(400)[0]
    assert (
        relative(samples.mean(0), exact.mean) < 0.1
        and abs(float(samples.var(0).sum() / exact.variance.sum()) - 1) < 0.05
    )
