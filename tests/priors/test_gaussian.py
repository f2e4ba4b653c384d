"""The exact priors against quadrature, importance weighting, autograd and the information form."""

from __future__ import annotations

import math
import time

import deepinv as dinv
import pytest
import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.priors.base import Prior, score
from ambient_solve.priors.gaussian import GaussianPrior, MixturePrior, dense

LEVELS = [0.002, 0.1, 1.0, 160.0]


def gen(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=gen(seed), dtype=torch.float64)


def covariance(d: int, seed: int) -> Tensor:
    root = normal(d, d, seed=seed)
    return root @ root.T / d + 0.05 * torch.eye(d, dtype=torch.float64)


def even_spectrum(h: int, w: int) -> Tensor:
    """A smooth texture with a channel axis of 2 and different powers along the two axes."""
    fy, fx = torch.fft.fftfreq(h, dtype=torch.float64)[:, None], torch.fft.fftfreq(w, dtype=torch.float64)
    base = 1 / (0.02 + fy**2 + 3 * fx**2 + fy * fx)
    base = (base + base.flip(0, 1).roll((1, 1), (0, 1))) / 2
    return torch.stack([base, 0.3 * base]) / base.mean()


def gaussian() -> GaussianPrior:
    return GaussianPrior(normal(1, 2, 3, seed=1), covariance(6, 2), scale=2.0, offset=-0.3)


def stationary() -> GaussianPrior:
    return GaussianPrior.stationary(normal(2, 3, 4, seed=3), even_spectrum(3, 4), scale=0.5, offset=0.5)


def isotropic() -> MixturePrior:
    return MixturePrior(torch.tensor([1.0, 2.0, 3.0]), 2 * normal(3, 4, seed=4), torch.tensor([0.01, 0.3, 1.0]))


def full() -> MixturePrior:
    covariances = torch.stack([covariance(4, s) for s in (5, 6, 7)])
    return MixturePrior(torch.tensor([1.0, 2.0, 3.0]), normal(3, 2, 2, seed=8), covariances, scale=3.0, offset=1.0)


def conditioned() -> MixturePrior:
    """Components that share a rotation: the posterior of an isotropic mixture."""
    return isotropic().posterior(normal(2, 4, seed=9), normal(2, seed=10), 0.5)


ALL = [gaussian, stationary, isotropic, full, conditioned]


# ---------------------------------------------------------------------------------------------------- the denoiser


@pytest.mark.parametrize("sigma", [0.05, 0.4, 3.0])
def test_denoise_equals_quadrature(sigma: float) -> None:
    """One dimension, 40000 trapezoids over all the mass: error far below 1e-9."""
    weights, means, stds = torch.tensor([0.2, 0.5, 0.3]), torch.tensor([-1.0, 0.2, 2.0]), torch.tensor([0.3, 0.1, 0.5])
    prior = MixturePrior(weights, means[:, None], stds**2)
    z = torch.linspace(-3, 4, 9, dtype=torch.float64)[:, None]
    grid = torch.linspace(-8, 9, 40001, dtype=torch.float64)
    density = sum(
        w / s * torch.exp(-0.5 * ((grid - m) / s) ** 2) for w, m, s in zip(weights, means, stds.double(), strict=True)
    )
    density = density * torch.exp(-0.5 * ((z - grid) / sigma) ** 2)
    expected = (density * grid).sum(1) / density.sum(1)
    assert torch.allclose(prior.denoise(z, sigma)[:, 0], expected, atol=1e-6)  # float32 variances: 1e-8 relative
    # Control: responsibilities that forget the noise (taken under C_k instead of C_k + sigma^2).
    r = (weights.log() - 0.5 * ((z - means) / stds) ** 2 - stds.log()).softmax(1)
    wrong = (r * (means + stds**2 / (stds**2 + sigma**2) * (z - means))).sum(1)
    assert (wrong - expected).abs().max() > 1e-3


@pytest.mark.parametrize("make", ALL)
def test_denoise_one_level_per_sample(make) -> None:
    prior = make()
    z = 2 * normal(4, *prior.shape, seed=11)
    together = prior.denoise(z, torch.tensor(LEVELS))
    for i, sigma in enumerate(LEVELS):
        assert torch.allclose(together[i], prior.denoise(z[i : i + 1], sigma)[0], rtol=1e-5)  # the tensor is float32
        assert torch.allclose(prior.denoise(z, torch.tensor(sigma).double())[i], prior.denoise(z, sigma)[i], rtol=1e-5)


@pytest.mark.parametrize("sigma", LEVELS)
def test_dense_gaussian_denoiser(sigma: float) -> None:
    """`m + C (C + s^2)^-1 (z - m)` by a linear solve; float32 in, float32 out, at full float32 accuracy."""
    prior, C = gaussian(), covariance(6, 2)
    z = prior.sample(5, gen(12)) + sigma * normal(5, 1, 2, 3, seed=13).float()
    m = normal(1, 2, 3, seed=1).flatten()
    shifted = z.double().flatten(1) - m
    expected = m + torch.linalg.solve(C + sigma**2 * torch.eye(6), shifted.T).T @ C
    out = prior.denoise(z, sigma)
    assert out.dtype == torch.float32 and out.shape == z.shape
    assert torch.allclose(out.flatten(1).double(), expected, atol=2e-6)  # 16 units in the last place of 1
    # At the smallest level the denoiser moves by ~sigma^2: its score must not drown in rounding (float64 in and out).
    moved = (prior.denoise(z.double(), sigma).flatten(1) - z.double().flatten(1)) / sigma**2
    direct = -torch.linalg.solve(C + sigma**2 * torch.eye(6), shifted.T).T
    assert torch.allclose(moved, direct, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("sigma", LEVELS)
def test_vjp_equals_autograd(make, sigma: float) -> None:
    prior = make()
    z = prior.sample(6, gen(14)).double() + sigma * normal(6, *prior.shape, seed=15)
    v = normal(6, *prior.shape, seed=16)
    expected, reference = Prior.denoise_vjp(prior, z, sigma)
    z0, vjp = prior.denoise_vjp(z, sigma)
    assert torch.allclose(z0, expected, rtol=1e-12) and not vjp(v).requires_grad
    assert torch.allclose(vjp(v), reference(v), rtol=1e-6, atol=1e-6)
    assert torch.allclose(vjp(3 * v), 3 * vjp(v))  # may be called again
    u = normal(6, *prior.shape, seed=17)
    assert torch.allclose((u * vjp(v)).sum(), (v * vjp(u)).sum())  # symmetric
    # Control: the mean of the components' own Jacobians, without the spread between components.
    if make is isotropic and sigma == 1.0:
        flat, s2 = prior._flat(z, sigma)
        within = prior.components.shrink(s2, prior._responsibilities(flat, s2), v)
        assert (within - reference(v)).abs().max() > 1e-2


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("sigma", [0.05, 1.0, 160.0])
def test_tweedie(make, sigma: float) -> None:
    """`grad log p_sigma = (D - z) / sigma^2`, the left side by autograd of the density, which is coded separately."""
    prior = make()
    z = (prior.sample(6, gen(18)).double() + sigma * normal(6, *prior.shape, seed=19)).requires_grad_()
    gradient = torch.autograd.grad(prior.log_prob(z, sigma).sum(), z)[0]
    assert torch.allclose(score(prior, z, sigma), gradient, rtol=1e-6, atol=1e-8)
    other = torch.autograd.grad(prior.log_prob(z, 1.05 * sigma).sum(), z)[0]  # control: a level 5 % off
    assert not torch.allclose(other, gradient, rtol=1e-5, atol=1e-8)


def test_log_prob_is_a_density() -> None:
    prior = MixturePrior(torch.tensor([1.0, 3.0]), torch.tensor([[0.0, 1.0], [1.0, -1.0]]), torch.tensor([0.04, 0.2]))
    line = torch.linspace(-6, 6, 401, dtype=torch.float64)
    points = torch.cartesian_prod(line, line)
    for sigma in (0.0, 0.5):
        assert abs(float(prior.log_prob(points, sigma).exp().sum() * (12 / 400) ** 2) - 1) < 1e-6
    C, m = covariance(6, 2), normal(1, 2, 3, seed=1)
    reference = torch.distributions.MultivariateNormal(m.flatten(), C + 0.49 * torch.eye(6))
    z = normal(5, 1, 2, 3, seed=20)
    assert torch.allclose(gaussian().log_prob(z, 0.7), reference.log_prob(z.flatten(1)))


def test_one_component_is_the_gaussian() -> None:
    m, C, A, y = normal(5, seed=21), covariance(5, 22), normal(2, 5, seed=23), normal(2, seed=24)
    single, mixture = GaussianPrior(m, C, offset=0.2), MixturePrior(torch.ones(1), m[None], C[None], offset=0.2)
    equal = MixturePrior(
        torch.tensor([0.3, 0.7]), m.expand(2, 5), C.expand(2, 5, 5), offset=0.2
    )  # real mixture algebra
    z, v = normal(7, 5, seed=25), normal(7, 5, seed=26)
    for other in (mixture, equal):
        for a, b in ((single, other), (single.posterior(A, y, 0.3), other.posterior(A, y, 0.3))):
            assert torch.allclose(a.denoise(z, 0.6), b.denoise(z, 0.6))
            assert torch.allclose(a.denoise_vjp(z, 0.6)[1](v), b.denoise_vjp(z, 0.6)[1](v))
            assert torch.allclose(a.log_prob(z), b.log_prob(z))
            assert torch.allclose(a.mean, b.mean) and torch.allclose(a.covariance, b.covariance)


def test_isotropic_equals_dense() -> None:
    a = isotropic()
    b = MixturePrior(a.weights, a.components.means, a.components.variances[:, None, None] * torch.eye(4))
    A, y = normal(3, 4, seed=27), normal(3, seed=28)
    z, v = normal(7, 4, seed=29), normal(7, 4, seed=30)
    for p, q in ((a, b), (a.posterior(A, y, 0.3), b.posterior(A, y, 0.3))):
        assert torch.allclose(p.denoise(z, 0.6), q.denoise(z, 0.6))
        assert torch.allclose(p.denoise_vjp(z, 0.6)[1](v), q.denoise_vjp(z, 0.6)[1](v))
        assert torch.allclose(p.log_prob(z, 0.1), q.log_prob(z, 0.1))
        assert torch.allclose(p.covariance, q.covariance) and torch.allclose(p.variance, q.covariance.diagonal())


def test_stationary_equals_dense() -> None:
    prior = stationary()
    identity = torch.eye(24, dtype=torch.float64).reshape(24, 2, 3, 4)
    C = torch.fft.ifft2(even_spectrum(3, 4) * torch.fft.fft2(identity)).real.reshape(24, 24)  # complex route
    assert torch.allclose(prior.covariance, C) and torch.allclose(prior.variance.flatten(), C.diagonal())
    other = GaussianPrior(normal(2, 3, 4, seed=3), C, scale=0.5, offset=0.5)
    z, v = normal(5, 2, 3, 4, seed=31), normal(5, 2, 3, 4, seed=32)
    assert torch.allclose(prior.denoise(z, 0.6), other.denoise(z, 0.6))
    assert torch.allclose(prior.denoise_vjp(z, 0.6)[1](v), other.denoise_vjp(z, 0.6)[1](v))
    assert torch.allclose(prior.log_prob(z), other.log_prob(z))
    A, y = normal(4, 24, seed=33), normal(4, seed=34)
    assert torch.allclose(prior.posterior(A, y, 0.4).mean, other.posterior(A, y, 0.4).mean)
    assert torch.allclose(prior.posterior(A, y, 0.4).covariance, other.posterior(A, y, 0.4).covariance)
    with pytest.raises(AmbientSolveError, match="even"):
        GaussianPrior.stationary(torch.zeros(3, 4), torch.arange(12.0).reshape(3, 4))


# ---------------------------------------------------------------------------------------------------- the posterior


@pytest.mark.parametrize("m", [2, 6, 9])
def test_gaussian_posterior_in_information_form(m: int) -> None:
    """`P = C^-1 + A'A / s^2` in z units, against the data-space form of the code; A acts on x = 2 z - .3."""
    prior, C, mean = gaussian(), covariance(6, 2), normal(1, 2, 3, seed=1).flatten()
    A, y, s = normal(m, 6, seed=35), normal(m, seed=36), 0.2
    posterior = prior.posterior(A, y.reshape(1, m), s)
    S = torch.linalg.inv(torch.linalg.inv(C) + 4 * A.T @ A / s**2)
    mu = S @ (torch.linalg.solve(C, mean) + 2 * A.T @ (y + 0.3 * A.sum(1)) / s**2)
    assert posterior.shape == (1, 2, 3) and posterior.affine == prior.affine and isinstance(posterior, GaussianPrior)
    assert torch.allclose(posterior.mean.flatten(), mu, atol=1e-9)
    assert torch.allclose(posterior.covariance, S, atol=1e-9)
    wrong = S @ (torch.linalg.solve(C, mean) + 2 * A.T @ y / s**2)  # control: forgets the offset
    assert (posterior.mean.flatten() - wrong).abs().max() > 0.05


def test_mixture_posterior_equals_importance_weighting() -> None:
    """400000 prior draws weighted by the likelihood, against the closed form, in standard errors of the estimate.

    10 numbers for each of 2 priors, each above 4.5 with probability 7e-6: 1.4e-4 to fail by chance.
    """
    for prior in (isotropic(), full()):
        A, y, s = normal(2, 4, seed=37), normal(2, seed=38) + 1, 1.5
        posterior = prior.posterior(A, y, s)
        z = prior.sample(400_000, gen(39)).double()
        log_w = -0.5 * ((y - prior.decode(z).flatten(1) @ A.T) ** 2).sum(1) / s**2
        w = log_w.softmax(0)
        z = z.flatten(1)

        def features(mean: Tensor, second: Tensor) -> Tensor:
            return torch.cat([mean, second.diagonal(), second[0, 1:3]])

        f = torch.cat([z, z**2, z[:, :1] * z[:, 1:3]], 1)
        estimate = w @ f
        error = (w**2 @ (f - estimate) ** 2).sqrt()
        mean = posterior.mean.flatten()
        exact = features(mean, posterior.covariance + torch.outer(mean, mean))
        assert 1 / (w**2).sum() > 2000  # enough effective draws for the standard error to mean something
        assert ((estimate - exact) / error).abs().max() < 4.5
        # Controls: weights not updated by the evidence, and the noise of the measurement halved.
        stale = MixturePrior(prior.weights, posterior.components.means, torch.ones(3))
        half = prior.posterior(A, y, s / 2)
        for wrong in (stale.mean.flatten(), half.mean.flatten()):
            assert ((estimate[:4] - wrong) / error[:4]).abs().max() > 9


def test_posterior_is_closed() -> None:
    """Two measurements at once or one after the other: the same law."""
    for prior in (gaussian(), isotropic(), full()):
        d = math.prod(prior.shape)
        A, y = normal(3, d, seed=40), normal(3, seed=41)
        once = prior.posterior(A, y, 0.3)
        twice = prior.posterior(A[:1], y[:1], 0.3).posterior(A[1:], y[1:], 0.3)
        assert torch.allclose(once.weights, twice.weights) and torch.allclose(once.mean, twice.mean)
        assert torch.allclose(once.covariance, twice.covariance)


def test_denoising_is_a_posterior() -> None:
    """With A = I the posterior mean is the denoiser and its covariance sigma^2 J: two separate pieces of algebra."""
    for prior in (isotropic(), MixturePrior(full().weights, normal(3, 4, seed=8), covariance(4, 5).expand(3, 4, 4))):
        z = normal(1, 4, seed=42)
        posterior = prior.posterior(torch.eye(4), z, 0.7)
        z0, vjp = prior.denoise_vjp(z.expand(4, 4), 0.7)
        assert torch.allclose(z0[0], posterior.mean)
        assert torch.allclose(0.49 * vjp(torch.eye(4, dtype=torch.float64)), posterior.covariance)


def test_circulant_posterior_with_deepinv_blur() -> None:
    """An asymmetric blur of odd and even sizes: the Fourier posterior equals the dense one; and 64x64 stays cheap."""
    kernel = torch.rand(1, 1, 3, 3, generator=gen(43))
    op = dinv.physics.BlurFFT((2, 3, 4), kernel / kernel.sum())
    prior, y = stationary(), normal(1, 2, 3, 4, seed=44)
    delta = torch.zeros(1, 2, 3, 4)
    delta[..., 0, 0] = 1
    transfer = torch.fft.fft2(op.A(delta)[0])
    fast, slow = prior.posterior_circulant(transfer, y, 0.3), prior.posterior(dense(op, prior.shape), y, 0.3)
    assert torch.allclose(fast.mean, slow.mean, atol=1e-6)  # the operator is float32
    assert torch.allclose(fast.covariance, slow.covariance, atol=1e-6)
    wrong = prior.posterior_circulant(transfer.conj(), y, 0.3)  # control: the adjoint blur
    assert (wrong.mean - slow.mean).abs().max() > 1e-2
    with pytest.raises(AmbientSolveError, match="stationary"):
        gaussian().posterior_circulant(transfer, y, 0.3)
    large = GaussianPrior.stationary(torch.zeros(2, 64, 64), even_spectrum(64, 64))
    start = time.process_time()
    large.posterior_circulant(torch.ones(64, 64), torch.zeros(2, 64, 64), 0.1).sample(4, gen(45))
    assert time.process_time() - start < 2.0


def test_dense_is_the_operator() -> None:
    op = dinv.physics.Inpainting((1, 4, 4), mask=0.5, noise_model=dinv.physics.GaussianNoise(0.5), rng=gen(46))
    A, x = dense(op, (1, 4, 4), chunk=5), torch.rand(3, 1, 4, 4, generator=gen(47))
    assert A.shape == (16, 16) and A.dtype == torch.float64
    assert torch.allclose((x.flatten(1).double() @ A.T), op.A(x).flatten(1).double(), atol=1e-6)
    assert torch.equal(dense(lambda t: t[..., :2], (1, 4, 4), chunk=3)[0].nonzero().flatten(), torch.tensor([0]))


def test_bad_input() -> None:
    with pytest.raises(AmbientSolveError, match="sigma_y > 0"):
        gaussian().posterior(torch.eye(6), torch.zeros(6), 0.0)
    with pytest.raises(AmbientSolveError, match="covariance"):
        GaussianPrior(torch.zeros(3), torch.eye(4))
    with pytest.raises(AmbientSolveError, match="negative eigenvalue"):
        GaussianPrior(torch.zeros(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]]))
    with pytest.raises(AmbientSolveError, match="weights"):
        MixturePrior(torch.ones(2), torch.zeros(3, 2), torch.ones(3))


# ---------------------------------------------------------------------------------------------------- the sampler


@pytest.mark.parametrize("make", ALL)
def test_sampler_moments(make) -> None:
    """20000 draws, whitened by the exact covariance. |z| < 5 over at most 24 means: probability 1e-5 to fail by chance.

    An entry of the whitened covariance has a standard error of at most sqrt(kurtosis / n); kurtosis < 4 in these
    mixtures, so .09 is over 6 of them. The controls are 10 % off in scale (.21) and .05 deviations in the mean (z = 7).
    """
    prior, n = make(), 20_000
    x = prior.sample(n, gen(48))
    assert x.dtype == torch.float32 and x.shape == (n, *prior.shape)
    root = torch.linalg.cholesky(prior.covariance)
    white = torch.linalg.solve_triangular(root, (x.double() - prior.mean).flatten(1).T, upper=False).T

    def check(w: Tensor) -> bool:
        mean = w.mean(0).abs().max() * n**0.5 < 5
        return bool(mean and (w.T @ w / n - torch.eye(w.shape[1])).abs().max() < 0.09)

    assert check(white)
    assert not check(1.1 * white) and not check(white + 0.05)
    assert torch.equal(prior.sample(5, gen(49)), prior.sample(5, gen(49)))


def test_ring_and_protocol() -> None:
    ring = MixturePrior.ring(5, 2.0, 0.1)
    assert torch.allclose(ring.components.means.norm(dim=1), torch.full((5,), 2.0).double())
    assert torch.allclose(ring.mean, torch.zeros(2).double(), atol=1e-12)
    assert abs(ring.sigma_data**2 - (0.01 + 2.0)) < 1e-6 and ring.sigma_max > 100 * ring.sigma_data
    prior = MixturePrior.mcgdiff(8, gen(50))
    assert {tuple(row[:2].tolist()) for row in prior.components.means} == {
        (8.0 * i, 8.0 * j) for i in range(-2, 3) for j in range(-2, 3)
    }
    assert torch.equal(prior.components.means[:, :2].repeat(1, 4), prior.components.means)
    assert abs(float(prior.weights.sum()) - 1) < 1e-12 and prior.weights.max() > 2 * prior.weights.min()


def test_large_mixture_is_fast_and_moves_with_its_module() -> None:
    prior = MixturePrior.mcgdiff(800, gen(51))
    z = prior.sample(1000, gen(52))
    start = time.process_time()
    for _ in range(10):
        out = prior.denoise(z, 3.0)
    assert time.process_time() - start < 2.0 and out.dtype == torch.float32  # 100 levels: .6 s when alone
    copy = MixturePrior.mcgdiff(800, gen(0))
    copy.load_state_dict(prior.state_dict())
    assert torch.equal(copy.denoise(z[:3], 3.0), out[:3])
