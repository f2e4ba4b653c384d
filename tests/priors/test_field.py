"""Noise that has a value at every point: its covariance, Tweedie's formula for it, and the sampler that follows."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ambient_solve import AmbientSolveError, Solver, generate, operators
from ambient_solve.noise import Streams
from ambient_solve.priors.base import Prior, reverse
from ambient_solve.priors.field import Field, FieldPrior
from ambient_solve.priors.wrapped import WrappedPrior
from helpers import AffinePrior, rand, randn

SIDE = 4
PIXELS = torch.cartesian_prod(torch.arange(SIDE), torch.arange(SIDE)).double()
OFFSETS = PIXELS[:, None] - PIXELS


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def conditional_covariance(field: Field, offsets: Tensor, seed: int) -> Tensor:
    """That of one draw given its frequencies, `mean_j cos(f_j . r)`."""
    frequencies = field.draw(1, 1, Streams([seed], 1)).frequencies[0]
    return (offsets @ frequencies.T).cos().mean(-1)


@pytest.mark.parametrize("cutoff", [40.0, 2.0])
def test_the_covariance_of_the_features_has_no_floor(cutoff):
    offsets = 2.0 * randn(300, 2, dtype=torch.float64)
    away = {}
    for features in (300, 30_000):
        field = Field(length=1.3, cutoff=cutoff, features=features)
        errors = [conditional_covariance(field, offsets, seed) - field.covariance(offsets) for seed in range(4)]
        away[features] = float(torch.stack(errors).square().mean().sqrt())
        assert away[features] < 1.5 / math.sqrt(2 * features)
    assert 6 < away[300] / away[30_000] < 16  # the root of the number of features, in the mean 10
    # The control: the cut spectrum does not have the covariance of the whole one, however many features there are.
    whole = (-offsets.square().sum(-1) / (2 * 1.3**2)).exp()
    bias = float((field.covariance(offsets) - whole).square().mean().sqrt())
    assert bias > 0.02 if cutoff == 2 else bias < 1e-12


def test_the_covariance_of_a_cut_spectrum_is_its_transform():
    f = torch.linspace(-1.5, 1.5, 20_001, dtype=torch.float64)
    density = (-(f**2) / 2).exp()
    for r in (0.0, 0.7, 3.0, 60.0):
        integral = torch.trapezoid(density * (f * r).cos(), f) / torch.trapezoid(density, f)
        found = Field(length=2.0, cutoff=1.5).covariance(torch.tensor([[2 * r, 0.0], [0.0, 2 * r]]))
        assert torch.allclose(found, integral.expand(2), atol=1e-7)
    assert Field().covariance(torch.tensor([100.0, 100.0])) == 0


def test_a_draw_has_unit_variance_and_the_covariance_at_points_off_the_grid():
    field, points = Field(length=1.0, features=50), 2 * rand(5, 2, seed=1).double()
    found = torch.cat([field.draw(500, 40, Streams([s], 500)).at(points).flatten(0, 1) for s in range(2)])
    expected = field.covariance(points[:, None] - points)
    assert float((found.T.double() @ found.double() / len(found) - expected).abs().max()) < 0.03  # deviation .007
    assert float((torch.eye(5) - expected).abs().max()) > 0.3  # the control: white noise


class FarOff:
    """The same waves with the far origin put into the amplitudes, in float64."""

    def __init__(self, draw, origin: Tensor) -> None:
        self.draw, self.turn = draw, torch.exp(-1j * (draw.frequencies @ origin.double()))

    def at(self, points: Tensor) -> Tensor:
        amplitudes = self.draw.amplitudes * self.turn[:, None]
        return (amplitudes @ torch.exp(-1j * (self.draw.frequencies @ points.double().T))).real.float()


def test_the_grid_and_the_points_are_one_field():
    draw = Field(features=200).draw(2, 3, Streams([1], 2))
    points = torch.cartesian_prod(torch.arange(5.0), torch.arange(7.0))
    assert torch.allclose(draw.at(points).reshape(2, 3, 5, 7), draw.grid(5, 7), atol=1e-5)
    far = torch.tensor([2.0**22, 2.0**22])  # where the births of a clip lie
    near = FarOff(draw, far)
    assert torch.allclose(draw.at(points + far), near.at(points), atol=1e-5)
    assert not torch.allclose(draw.at(points + 0.5), draw.at(points), atol=0.1)  # the control


class Smooth(Prior):
    """Exact for `z0 ~ N(0, C)` under noise of covariance Q: `D = C (C + sigma^2 Q)^-1 z`."""

    shape, sigma_min, sigma_max, sigma_data = (1, SIDE, SIDE), 0.002, 80.0, 1.0

    def __init__(self, data: Tensor, noise: Tensor) -> None:
        super().__init__()
        self.data, self.of_noise = data, noise

    def denoise(self, z, sigma, cond=None):
        gain = self.data @ torch.linalg.inv(self.data + sigma**2 * self.of_noise)
        return (z.flatten(1).to(gain) @ gain.T).reshape(z.shape).to(z.dtype)


FIELD = Field(length=0.9, features=64)
C = Field(length=2.0).covariance(OFFSETS) + 0.02 * torch.eye(SIDE**2)
Q = FIELD.covariance(OFFSETS)


def test_tweedie_holds_for_correlated_noise():
    """The regression of z0 on `z0 + sigma n` is the generalised Tweedie estimate, within 1 %."""
    sigma, root = 0.7, torch.linalg.cholesky(C)
    prior, d = FieldPrior(Smooth(C, Q), FIELD), SIDE**2
    moments = torch.zeros(2, d, d, dtype=torch.float64)
    for seed in range(8):
        n = FIELD.draw(250, 200, Streams([seed], 250)).at(PIXELS).reshape(-1, d).double()
        z0 = randn(len(n), d, seed=seed, dtype=torch.float64) @ root.T
        z = z0 + sigma * n
        moments += torch.stack([z.T @ z, z.T @ z0])
    regression = torch.linalg.solve(*moments)
    z = randn(2000, d, dtype=torch.float64) @ torch.linalg.cholesky(C + sigma**2 * Q).T

    def away(noise: Tensor) -> float:
        return relative(z @ regression, Smooth(C, noise).denoise(z, sigma))

    assert away(Q) < 0.01
    assert away(torch.eye(d)) > 0.1  # the control: the formula for white noise
    score = -torch.linalg.solve(C + sigma**2 * Q, z.T).T
    states = z.reshape(-1, 1, SIDE, SIDE)
    assert torch.allclose(prior.denoise(states, sigma).flatten(1) - z, sigma**2 * score @ Q, atol=1e-9)


def flow(prior: Prior, start: Tensor, steps: int) -> Tensor:
    """Covariance that the probability-flow ODE of a linear denoiser makes of that of its start, by Euler's rule."""
    unit = torch.eye(SIDE**2, dtype=torch.float64).reshape(-1, *prior.shape)
    sigmas = prior.process.levels(steps, prior.sigma_min, prior.sigma_max)
    for sigma, after in zip(sigmas, sigmas[1:], strict=False):
        unit = reverse(prior, unit, prior.denoise(unit, sigma), sigma, after, 0.0, None)
    moved = unit.flatten(1)
    return moved.T @ start.double() @ moved


def test_the_probability_flow_gives_the_covariance_of_the_data():
    prior = Smooth(C, Q)
    start = prior.sigma_max**2 * Q
    assert relative(flow(prior, start, 400), C) < 0.02
    assert relative(flow(prior, prior.sigma_max**2 * torch.eye(SIDE**2), 400), C) > 0.1  # the control: white start
    assert relative(flow(Smooth(C, torch.eye(SIDE**2).double()), start, 400), C) > 0.1  # the control: white denoiser


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_generate_draws_the_noise_of_the_prior(eta):
    """Samples along the directions that Q has least of, where white noise would be far off."""
    inner = Smooth(C, Q)
    field, white = (generate(p, 400, steps=60, order=1, eta=eta, batch=400) for p in (FieldPrior(inner, FIELD), inner))
    away = [relative((z.flatten(1).T @ z.flatten(1)).double() / len(z), C) for z in (field, white)]
    assert away[0] < 0.25  # of 400 samples
    assert away[1] > 2 * away[0]


def test_the_product_with_the_covariance_is_that_of_the_dense_one():
    v = randn(3, 2, SIDE, SIDE)
    dense = (v.flatten(2).double() @ Q).reshape(v.shape)
    assert torch.allclose(FIELD.correlate(v).double(), dense, atol=1e-6)
    assert torch.equal(AffinePrior().correlate(v), v)


class Jacobian(Smooth):
    """With a Jacobian that may be trusted."""

    sigma_jacobian = math.inf


@pytest.mark.parametrize("name", ["mmps", "pigdm"])
def test_the_posterior_under_field_noise_is_exact_with_its_covariance(name):
    """`Cov[z0 | z] = sigma^2 J Q`: moments of the samples against those of the Gaussian posterior, and a control."""
    op = operators.inpaint((rand(SIDE, SIDE, seed=2) > 0.4).float(), sigma=0.2, channels=1)
    y = op.A(randn(1, 1, SIDE, SIDE, seed=4))
    seen = op.mask.flatten().bool()
    A = torch.eye(SIDE**2, dtype=torch.float64)[seen]
    gain = C @ A.T @ torch.linalg.inv(A @ C @ A.T + 0.04 * torch.eye(len(A)))
    mean = gain @ y.flatten().double()[seen]

    class White(WrappedPrior):
        def correlate(self, v):
            return v

    exact = FieldPrior(Jacobian(C, Q), FIELD)
    settings = {"steps": 60, **({"iterations": 10} if name == "mmps" else {})}
    found = [
        Solver(p, name, **settings).solve(y, op, n_samples=200).samples[0].flatten(1).double().mean(0)
        for p in (exact, White(exact))
    ]
    away = [relative(each, mean) for each in found]
    assert away[1] > 1.2 * away[0]  # the control
    if name == "mmps":
        assert away[0] < 0.12  # of 200 samples


def test_a_field_needs_states_of_pictures():
    assert FieldPrior(AffinePrior(), FIELD).noise((2, 3, 4, 5), Streams([0], 2)).shape == (2, 3, 4, 5)


@pytest.mark.parametrize("given", [{"length": 0.0}, {"features": 0}, {"cutoff": -1.0}])
def test_a_wrong_field_is_refused(given):
    with pytest.raises(AmbientSolveError, match=next(iter(given))):
        Field(**given)


def test_a_prior_without_axes_of_space_is_refused():
    with pytest.raises(AmbientSolveError, match="leave the field out"):
        FieldPrior(AffinePrior(axes=1), FIELD)
