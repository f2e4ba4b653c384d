"""Clipping, quantisation, blur behind a camera's curve and phase retrieval: values, derivatives, posteriors."""

from __future__ import annotations

import pytest
import torch
from deepinv import physics as dp
from torch import Tensor

from ambient_solve import DAPS, DPS, AmbientSolveError, GaussianPrior
from ambient_solve.likelihood import Likelihood
from ambient_solve.operators import (
    CameraBlur,
    Clipping,
    Diffraction,
    Quantization,
    camera_blur,
    clip,
    gaussian_blur,
    phase_retrieval,
    quantize,
)
from ambient_solve.operators.nonlinear import decode, encode
from helpers import AffinePrior, Draws, kernel, one_sentence, rand, randn

SIZE = (3, 12, 10)
BUILD = {
    "clip": lambda: clip(SIZE, sigma=0.05),
    "quantize": lambda: quantize(SIZE, sigma=0.05),
    "camera-blur": lambda: camera_blur(SIZE, length=5, sigma=0.05),
    "phase": lambda: phase_retrieval(SIZE, gain=0.01),
    "fourier": lambda: phase_retrieval(SIZE, oversampling=1.5, gain=0.01, seed=None),
}


def gradient(op: dp.Physics, x: Tensor, u: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(op.A(leaf), leaf, u)[0]


def slope(op: dp.Physics, x: Tensor, u: Tensor, step: float = 1e-6) -> Tensor:
    """`J'u` by central differences, in float64."""
    directions = torch.eye(x.numel(), dtype=x.dtype).reshape(-1, *x.shape[1:])
    change = (op.A(x + step * directions) - op.A(x - step * directions)) / (2 * step)
    return (change * u).flatten(1).sum(1).reshape(x.shape)


def test_clipping():
    op, x = clip(SIZE), rand(2, *SIZE)
    torch.testing.assert_close(op.A(x), ((2 * (2 * x - 1)).clamp(-1, 1) + 1) / 2)  # as on [-1, 1]
    torch.testing.assert_close(Clipping(3.0, 0.0).A(x), (3 * x).clamp(max=1))
    x = torch.tensor([0.1, 0.3, 0.7, 0.9]).reshape(1, 1, 1, 4)
    assert gradient(op, x, torch.ones_like(x)).flatten().tolist() == [0.0, 2.0, 2.0, 0.0]


@pytest.mark.parametrize("build", [lambda: Clipping(1.7, 0.4), lambda: CameraBlur(dp.BlurFFT((1, 5, 4), kernel()))])
def test_derivatives_are_the_slopes(build):
    op, x = build().double(), 1.2 * rand(1, 1, 5, 4).double() - 0.1
    u = rand(1, 1, 5, 4, seed=2).double()
    wanted = slope(op, x, u)
    torch.testing.assert_close(gradient(op, x, u), wanted, rtol=1e-4, atol=1e-6)
    linear = dp.BlurFFT((1, 5, 4), kernel()).double()
    assert not torch.allclose(gradient(linear, x, u), wanted, rtol=1e-2)  # the control: no camera, no clipping


@pytest.mark.parametrize("bits", [1, 3])
def test_quantisation_rounds_and_its_gradient_does_not(bits):
    op, x = Quantization(bits), torch.linspace(-0.2, 1.21, 57).reshape(1, 1, 1, -1)
    y, steps = op.A(x), 2**bits - 1
    assert set((y * steps).round().flatten().tolist()) == set(range(2**bits))
    assert float((y - x.clamp(0, 1)).abs().max()) <= 0.5 / steps + 1e-6
    u, inside = randn(1, 1, 1, 57), (x >= 0) & (x <= 1)
    torch.testing.assert_close(gradient(op, x, u), u * inside)
    # Over many steps the straight-through gradient is the slope of the function, the true one would be 0.
    assert abs(float(y[..., 45] - y[..., 11]) - float(x[..., 45] - x[..., 11])) <= 1 / steps


def test_the_curve_is_that_of_srgb():
    x = torch.linspace(-0.1, 1.1, 100)
    torch.testing.assert_close(encode(decode(x)), x, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(decode(torch.tensor([0.5, 1.0, 0.04])), torch.tensor([0.214041, 1.0, 0.04 / 12.92]))


def test_camera_blur_adds_up_light():
    op, linear = camera_blur(SIZE, length=5), camera_blur(SIZE, length=5).blur
    torch.testing.assert_close(op.A(torch.full((1, *SIZE), 0.3)), torch.full((1, *SIZE), 0.3))
    x = torch.zeros(1, *SIZE)
    x[..., 6, 5] = 1
    assert torch.equal(op.A(x), encode(linear.A(decode(x))))
    assert float(op.A(x).sum()) > 1.5 * float(linear.A(x).sum())  # a bright point keeps its streak


@pytest.mark.parametrize("name", ["phase", "fourier"])
def test_phase_retrieval_of_real_pictures(name):
    op, x = BUILD[name](), rand(2, *SIZE)
    y = op.A(x)
    side = (24, 20) if name == "phase" else (18, 15)
    assert y.shape == (2, 3, *side) and not y.is_complex()
    torch.testing.assert_close(y.flatten(1).sum(1), x.square().flatten(1).sum(1))
    u = randn(*y.shape)
    torch.testing.assert_close(gradient(op, x, u), op.A_vjp(x, u).real, rtol=1e-3, atol=1e-4)
    turned = op.A(x.flip(-2, -1))
    assert torch.allclose(turned, y, atol=1e-4) == (name == "fourier")  # only the plate tells them apart


def test_diffraction_has_its_adjoint():
    op = Diffraction(SIZE, 1.5)
    x, y = randn(2, *SIZE, dtype=torch.complex64), randn(2, 3, 18, 15, dtype=torch.complex64, seed=1)
    torch.testing.assert_close((op.A(x) * y.conj()).sum(), (x * op.A_adjoint(y).conj()).sum(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(op.A_adjoint(op.A(x)), x)


@pytest.mark.parametrize("name", BUILD)
def test_in_a_likelihood(name):
    """chi2 of the truth, the Jacobian's norm against dense algebra, and nothing changed."""
    op, x, prior = BUILD[name](), 0.05 + 0.9 * rand(1, *SIZE), AffinePrior(0.5, 0.5)
    torch.manual_seed(0)
    y = op(x)
    before, state = y.clone(), {k: v.clone() for k, v in op.state_dict().items()}
    law, z = Likelihood(y, op, prior, n_samples=2), prior.encode(x).repeat(2, 1, 1, 1)
    assert not law.linear and law.z_shape == SIZE and law.gaussian == (name not in ("phase", "fourier"))
    assert ((law.chi2(z) - 1).abs() < 0.25).all() and (law.chi2(z + 0.5 * randn(*z.shape)) > 1.8).all()
    found, probe = law.curvature(z, randn(*z.shape), 60)
    jacobian = torch.autograd.functional.jacobian(lambda v: law.forward(v)[0].flatten(), z[:1]).flatten(1)
    weights = law.noise.step_weights(law.residual(z))[0].flatten() if not law.gaussian else 1 / law.sigma[0] ** 2
    wanted = torch.linalg.svdvals(weights**0.5 * jacobian.T)[0] ** 2
    torch.testing.assert_close(found, wanted.expand(2), rtol=0.03, atol=0)
    quick = law.curvature(z, randn(*z.shape))[0]
    assert (quick > 0.4 * wanted).all() and (quick < 1.01 * wanted).all()
    assert torch.equal(y, before) and all(torch.equal(v, state[k]) for k, v in op.state_dict().items())


# A clipped pixel: the posterior by quadrature -------------------------------------------------------------------------


@torch.no_grad()
def samples(algorithm: DAPS | DPS, op: dp.Physics, y: float, prior: GaussianPrior, n: int) -> Tensor:
    law, streams, sigmas = (
        Likelihood(torch.full((1, 1, 1, 1), y), op, prior, n_samples=n),
        Draws(1),
        algorithm.levels(prior),
    )
    z = sigmas[0] * streams.normal(torch.empty(n, *law.z_shape))
    for state in algorithm.iterate(prior, law, z, sigmas, streams):
        z = state.z
    return prior.decode(z).double().flatten()


@pytest.mark.parametrize("y", [0.8, 1.0])
def test_daps_on_a_clipped_pixel(y):
    """At y = 1 anything brighter explains it as well: the posterior is the upper half of the prior."""
    prior = GaussianPrior(torch.zeros(1, 1, 1), torch.eye(1), scale=0.5, offset=1.0, sigma_min=0.01, sigma_max=20.0)
    grid = torch.linspace(-1, 4, 5001, dtype=torch.float64)
    weight = (-((y - grid.clamp(0, 1)) ** 2) / (2 * 0.15**2) - (grid - 1) ** 2 / (2 * 0.5**2)).exp()
    mean = float((weight * grid).sum() / weight.sum())
    std = float(((weight * (grid - mean) ** 2).sum() / weight.sum()).sqrt())
    op = Clipping(1.0, 0.0, img_size=(1, 1, 1), noise_model=dp.GaussianNoise(0.15))
    algorithm = DAPS(steps=25, ode_steps=3, width=1.0, langevin_steps=150, rate=0.1)

    def off(op: dp.Physics) -> tuple[float, float]:
        x = samples(algorithm, op, y, prior, 1000)
        return (float(x.mean()) - mean) / std, float(x.std()) / std

    bias, ratio = off(op)
    control = off(dp.Denoising(dp.GaussianNoise(0.15)))
    print(f"daps, clipped at {y}: bias {bias:+.3f}, ratio {ratio:.3f}; not clipped {control}")
    assert abs(bias) < 0.12 and 0.92 < ratio < 1.1
    assert abs(control[0]) > 0.5 and control[1] < 0.6


# The boundary --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: clip(SIZE, factor=0.0), "factor above 0"),
        (lambda: clip(SIZE, pivot=2.0), "pivot"),
        (lambda: clip((12, 10)), "img_size"),
        (lambda: quantize(SIZE, bits=0), "bits=0"),
        (lambda: quantize(SIZE, bits=2.0), "bits=2.0"),
        (lambda: quantize(SIZE, sigma=-1.0), "sigma"),
        (lambda: camera_blur(SIZE, length=40), "kernel spans"),
        (lambda: CameraBlur(clip(SIZE)), "Clipping, a linear operator"),
        (lambda: phase_retrieval(SIZE, oversampling=0.5), "oversampling=0.5"),
        (lambda: phase_retrieval(SIZE, gain=0.0), "gain=0.0"),
    ],
)
def test_refusals(call, match):
    with pytest.raises(AmbientSolveError, match=match) as caught:
        call()
    assert one_sentence(caught)


def test_any_linear_blur_fits_behind_the_camera():
    for boundary in ("circular", "valid"):
        blur = gaussian_blur(SIZE, width=1.0, boundary=boundary)
        x = rand(1, *SIZE)
        found, wanted = CameraBlur(blur).A(x), encode(blur.A(decode(x)))
        torch.testing.assert_close(found, wanted)
        # The control: the curve left out.
        assert float((blur.A(x) - wanted).abs().max()) > 0.01
