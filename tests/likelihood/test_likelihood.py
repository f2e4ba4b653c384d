"""The likelihood against dense algebra in float64: closed forms, exact draws, units and rows."""

from __future__ import annotations

import pytest
import torch
from deepinv import physics as dp
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.likelihood import Likelihood
from ambient_solve.linalg.gram import CirculantGram, DecomposableGram, DenseGram, DiagonalGram
from ambient_solve.noise import Streams, per_sample
from helpers import NOISE, OPERATORS, AffinePrior, dense, flat64, kernel, problem, rand, randn, relative


class SquashedPrior(AffinePrior):
    """A decoder that is not affine, as a VAE's is not."""

    affine = None

    def decode(self, z: Tensor) -> Tensor:
        return torch.sigmoid(z)


GRAMS = {
    "mask": DiagonalGram,
    "denoising": DiagonalGram,
    "grey": DiagonalGram,
    "single-coil": DiagonalGram,
    "decimation": DiagonalGram,
    "fft-blur": CirculantGram,
    "circular-blur": CirculantGram,
    "super-resolution": CirculantGram,
    "tall-svd": DecomposableGram,
    "compressed": DenseGram,
    "valid-blur": DenseGram,
    "complex": DenseGram,
    "reflect-blur": type(None),
    "multi-coil": type(None),
    "fused-multi-coil": type(None),
    "stacked": DenseGram,
    "composed": CirculantGram,
}


@pytest.mark.parametrize("name", OPERATORS)
def test_adjoint_and_kind_of_gram(name):
    likelihood, shape = problem(name)
    assert type(likelihood.gram) is GRAMS[name]
    assert likelihood.image_shape == likelihood.z_shape == shape and likelihood.rows == 4 and likelihood.linear
    z = randn(4, *shape)
    residual = likelihood.residual(z)
    u = randn(*residual.shape, seed=2)
    one, other = (likelihood.A(z) * u).flatten(1).sum(1), (z * likelihood.At(u)).flatten(1).sum(1)
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    _, pullback = likelihood.linearize(z)
    torch.testing.assert_close(pullback(u), likelihood.At(u))


@pytest.mark.parametrize("name", [n for n in OPERATORS if GRAMS[n] is not type(None)])
def test_gram_functions_equal_those_of_the_matrix(name):
    likelihood, shape = problem(name)
    matrix = dense(likelihood, shape)
    eigenvalues, vectors = torch.linalg.eigh(matrix @ matrix.T)
    u = randn(*likelihood.residual(torch.zeros(4, *shape)).shape, seed=5)
    c = torch.tensor([0.5, 1.0, 2.0, 3.0])
    for f in (lambda t, c: 1 / (c + t), lambda t, c: torch.sqrt(t + c), lambda t, c: c * t / (1 + t)):
        wanted = torch.stack(
            [
                vectors @ (f(eigenvalues.clamp_min(0), ci) * (vectors.T @ ui))
                for ci, ui in zip(c, flat64(u), strict=True)
            ]
        )
        found = likelihood.spectral(lambda t, f=f: f(t, per_sample(c, u)), u)
        assert relative(found, wanted) < 1e-5


@pytest.mark.parametrize("name", OPERATORS)
def test_prox_and_solve_equal_dense_algebra(name):
    likelihood, shape = problem(name)
    matrix = dense(likelihood, shape)
    v, q = randn(4, *shape, seed=7), torch.tensor([0.1, 0.3, 1.0, 2.0])
    y = flat64(likelihood.residual(torch.zeros(4, *shape)))
    sigma = likelihood.sigma.double()
    eye_n, eye_m = (torch.eye(n, dtype=torch.float64) for n in reversed(matrix.shape))
    wanted = torch.stack(
        [
            torch.linalg.solve(matrix.T @ matrix / s**2 + eye_n / p**2, matrix.T @ yi / s**2 + vi / p**2)
            for s, p, yi, vi in zip(sigma, q.double(), y, flat64(v), strict=True)
        ]
    )
    assert relative(likelihood.prox(v, q), wanted) < 1e-4
    assert relative(likelihood.prox(v, 0.3)[1:2], wanted[1:2]) < 1e-4
    left = torch.stack(
        [
            torch.linalg.solve(p**2 / s**2 * matrix.T @ matrix + eye_n, vi)
            for s, p, vi in zip(sigma, q.double(), flat64(v), strict=True)
        ]
    )
    assert relative(likelihood.undecided(v, q), left) < 1e-4 < relative(likelihood.undecided(v, 2 * q), left)
    r = randn(*likelihood.residual(v).shape, seed=8)
    wanted = torch.stack(
        [
            torch.linalg.solve(s**2 * eye_m + p**2 * matrix @ matrix.T, ri)
            for s, p, ri in zip(sigma, q.double(), flat64(r), strict=True)
        ]
    )
    assert relative(likelihood.solve(q**2, r), wanted) < 1e-4
    assert relative(likelihood.solve(0.09, r)[1:2], wanted[1:2]) < 1e-4


def test_prox_without_a_network_scale_survives_large_levels():
    """At the start of a run q is 80 and sigma .01: the closed form must still be as good as float32 allows."""
    likelihood, shape = problem("super-resolution", sigma_y=0.01)
    matrix, v = dense(likelihood, shape), 80 * randn(4, *shape, seed=7)
    y = flat64(likelihood.residual(torch.zeros(4, *shape)))
    inverse = torch.linalg.inv(1e-4 * torch.eye(len(matrix)).double() + 6400 * matrix @ matrix.T)
    wanted = flat64(v) + 6400 * (y - flat64(v) @ matrix.T) @ inverse.T @ matrix
    assert relative(likelihood.prox(v, 80.0), wanted) < 1e-4


# Draws ---------------------------------------------------------------------------------------------------------------


class Forgetful(Streams):
    """Noise that is zero on one of its two calls."""

    def __init__(self, forgets: int, *args) -> None:
        super().__init__(*args)
        self.calls, self.forgets = 0, forgets

    def normal(self, like: Tensor) -> Tensor:
        self.calls += 1
        return super().normal(like) * (self.calls != self.forgets)


@pytest.mark.parametrize("name", ["compressed", "mask", "multi-coil"])
def test_draw_is_the_exact_gaussian_and_a_forgotten_perturbation_is_noticed(name):
    samples = 4000
    torch.manual_seed(0)
    op, shape = {
        "compressed": (dp.CompressedSensing(m=4, img_size=(1, 2, 3)), (1, 2, 3)),
        "mask": (dp.Inpainting((1, 2, 3), mask=torch.tensor([[[1.0, 0, 1], [0, 1, 1]]])), (1, 2, 3)),
        "multi-coil": (dp.MultiCoilMRI(mask=torch.tensor([[1.0, 0], [1, 1]]), img_size=(2, 2),
                                       coil_maps=randn(1, 2, 2, 2, dtype=torch.complex64)), (2, 2, 2)),
    }[name]  # fmt: skip
    y, q, sigma = op.A(rand(1, *shape)), 0.7, 0.3
    likelihood = Likelihood(y, op, AffinePrior(), sigma_y=sigma, n_samples=samples, cg_iterations=12)
    if name == "multi-coil":
        likelihood.gram = None  # so small that a dense form was found: test the iterative draw
    matrix, n = dense(likelihood, shape), torch.Size(shape).numel()
    v = randn(1, *shape, seed=3)
    precision = matrix.T @ matrix / sigma**2 + torch.eye(n).double() / q**2
    mean = torch.linalg.solve(
        precision, matrix.T @ flat64(likelihood.residual(v * 0))[0] / sigma**2 + flat64(v)[0] / q**2
    )
    root = torch.linalg.cholesky(precision)

    def statistics(streams: Streams) -> tuple[float, float]:
        z = likelihood.draw(v.expand(samples, *shape), q, streams)
        white = (flat64(z) - mean) @ root  # N(0, I) if the draw is exact
        cov = white.T @ white / samples
        # chi-square with n and n (n + 1) / 2 degrees of freedom
        excess = (cov - torch.eye(n)).square()
        return samples * float(white.mean(0).square().sum()), samples / 2 * float(excess.sum())

    def ceiling(freedom: float) -> float:
        return freedom + 6 * (2 * freedom) ** 0.5  # six standard deviations

    shift, spread = statistics(Streams([0], samples))
    assert shift < ceiling(n) and spread < ceiling(n * (n + 1) / 2)
    for forgets in (1, 2):
        assert statistics(Forgetful(forgets, [0], samples))[1] > 5 * ceiling(n * (n + 1) / 2)


# Units, rows and what must not change ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mask", "super-resolution", "compressed", "reflect-blur"])
def test_an_affine_prior_only_changes_units(name):
    a, b = -0.5, 0.25
    build, shape = OPERATORS[name]
    torch.manual_seed(0)
    op = build()
    y = op(rand(2, *shape))
    prior = AffinePrior(a, b)
    plain = Likelihood(y, op, AffinePrior(), n_samples=2, cg_iterations=100)
    scaled = Likelihood(y, op, prior, n_samples=2, cg_iterations=100)
    z, q = randn(4, *shape), 0.4
    torch.testing.assert_close(scaled.sigma, plain.sigma / abs(a))
    torch.testing.assert_close(scaled.residual(z) * a, plain.residual(prior.decode(z)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scaled.chi2(z), plain.chi2(prior.decode(z)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        prior.decode(scaled.prox(z, q)), plain.prox(prior.decode(z), abs(a) * q), rtol=1e-3, atol=1e-4
    )


PER_IMAGE = {
    "mask": lambda i: dp.Inpainting((3, 6, 5), mask=(rand(3, 3, 6, 5) > 0.5).float()[i]),
    "fft-blur": lambda i: dp.BlurFFT((1, 6, 5), filter=kernel(images=3)[i]),
    "valid-blur": lambda i: dp.Blur(filter=kernel(images=3)[i], padding="valid"),
    "single-coil": lambda i: dp.MRI(mask=(rand(3, 1, 6, 5) > 0.5).float()[i]),
    "multi-coil": lambda i: dp.MultiCoilMRI(
        mask=(rand(3, 1, 9, 8) > 0.5).float()[i],
        coil_maps=randn(3, 3, 9, 8, dtype=torch.complex64)[i],
        img_size=(9, 8),
    ),
}


@pytest.mark.parametrize("name", PER_IMAGE)
def test_parameters_of_an_image_meet_its_own_rows(name):
    shape = {"mask": (3, 6, 5), "fft-blur": (1, 6, 5), "multi-coil": (2, 9, 8), "valid-blur": (1, 9, 8)}.get(
        name, (2, 6, 5)
    )
    op = PER_IMAGE[name](slice(None))
    y, sigma = op.A(rand(3, *shape)), torch.tensor([0.1, 0.2, 0.3])
    together = Likelihood(y, op, AffinePrior(), sigma_y=sigma, n_samples=2)
    z, q = randn(6, *shape), torch.linspace(0.1, 0.6, 6)
    proximal, drawn = together.prox(z, q), together.draw(z, q, Streams([5, 6, 7], 2))
    solved = together.solve(q**2, together.residual(z))
    for i in range(3):
        alone = Likelihood(y[i : i + 1], PER_IMAGE[name](slice(i, i + 1)), AffinePrior(), sigma_y=sigma[i], n_samples=2)
        rows = slice(2 * i, 2 * i + 2)
        close = {"rtol": 1e-4, "atol": 1e-4}
        torch.testing.assert_close(proximal[rows], alone.prox(z[rows], q[rows]), **close)
        torch.testing.assert_close(drawn[rows], alone.draw(z[rows], q[rows], Streams([5 + i], 2)), **close)
        torch.testing.assert_close(solved[rows], alone.solve(q[rows] ** 2, alone.residual(z[rows])), **close)
        torch.testing.assert_close(together.chi2(z)[rows], alone.chi2(z[rows]), **close)
        assert torch.equal(together.count[rows], alone.count)


def snapshot(op: dp.Physics) -> dict:
    modules = [m for part in getattr(op, "physics_list", [op]) for m in part.modules()]
    seen = {}
    for i, module in enumerate(modules):
        for name, value in {**vars(module), **module._buffers, **module._parameters}.items():
            if isinstance(value, Tensor):
                value = (
                    id(value),
                    value.dtype,
                    torch.view_as_real(value.resolve_conj()).tolist() if value.is_complex() else value.tolist(),
                )
            elif isinstance(value, dict):
                value = sorted(value)
            seen[i, name] = value
    return seen


@pytest.mark.parametrize("name", [*OPERATORS, "dynamic-size", "double"])
def test_operator_and_measurement_are_untouched(name):
    extra = {
        "dynamic-size": (lambda: dp.Downsampling(filter="gaussian", factor=2), (3, 14, 12)),
        "double": (lambda: dp.Blur(filter=kernel().double(), padding="reflect"), (3, 9, 8)),
    }
    build, shape = extra.get(name) or OPERATORS[name]
    op = build()
    y = op.A(rand(2, *shape).to(torch.float64 if name == "double" else torch.float32))
    before, copy = snapshot(op), y.clone()
    likelihood = Likelihood(y, op, AffinePrior(0.5, 0.5), sigma_y=0.1, n_samples=2, cg_iterations=3)
    z = randn(4, *shape)
    for result in (likelihood.prox(z, 0.3), likelihood.draw(z, 0.3, Streams([0, 1], 2)), likelihood.linearize(z)[0]):
        assert result.dtype == torch.float32
    likelihood.solve(0.1, likelihood.residual(z))
    assert snapshot(op) == before
    parts = zip(y.x, copy.x, strict=True) if hasattr(y, "x") else [(y, copy)]
    assert all(torch.equal(one, other) and one.dtype == other.dtype for one, other in parts)


def test_garbage_in_missing_entries_has_no_influence():
    op = OPERATORS["mask"][0]()
    y, z = op(rand(1, 3, 6, 5)), randn(1, 3, 6, 5)
    clean = Likelihood(y, op, AffinePrior(0.5, 0.5))
    dirty = Likelihood(y + 1e3 * (1 - op.mask), op, AffinePrior(0.5, 0.5))
    assert torch.equal(clean.residual(z), dirty.residual(z)) and torch.equal(clean.prox(z, 0.5), dirty.prox(z, 0.5))
    assert torch.equal(clean.count, op.mask.flatten(1).sum(1))


def test_chi2_counts_what_was_measured():
    """Multi-coil k-space has no closed form, and yet most of its entries were never measured."""
    op = OPERATORS["multi-coil"][0]()
    x = rand(1, 2, 8, 7)
    torch.manual_seed(0)
    likelihood = Likelihood(op(x).expand(200, -1, -1, -1, -1), op, AffinePrior())
    assert likelihood.count[0] == op.mask.sum() * 3 and likelihood.count[0] < 250
    chi2 = torch.stack([Likelihood(op(x), op, AffinePrior()).chi2(x) for _ in range(60)])
    freedom = 60 * float(likelihood.count[0])
    assert abs(float(chi2.mean()) - 1) < 6 * (2 / freedom) ** 0.5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_precisions_become_float32(dtype):
    y = rand(2, 3, 6, 5).to(dtype)
    likelihood = Likelihood(y, dp.Denoising(NOISE), AffinePrior())
    assert likelihood.prox(randn(2, 3, 6, 5), 0.5).dtype == torch.float32 and y.dtype == dtype


# Non-linear operators and decoders ------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", [AffinePrior(0.5, 0.25), SquashedPrior()])
def test_nonlinear_forward_and_pullback(prior):
    op = dp.Physics(A=lambda x: x**2, noise_model=NOISE)
    a, y, z = (prior.affine or (1.0,))[0], rand(2, 3, 4, 5), randn(4, 3, 4, 5)
    likelihood = Likelihood(y, op, prior, n_samples=2)
    assert not likelihood.linear and likelihood.gram is None and likelihood.z_shape == (3, 4, 5)
    x = prior.decode(z)
    residual, pullback = likelihood.linearize(z)
    torch.testing.assert_close(residual, (y.repeat_interleave(2, 0) - x**2) / a)
    torch.testing.assert_close(
        likelihood.chi2(z), ((y.repeat_interleave(2, 0) - x**2) / 0.1).square().flatten(1).mean(1)
    )
    u = randn(*z.shape, seed=2)
    slope = a if prior.affine else x * (1 - x)
    for _ in range(2):
        torch.testing.assert_close(pullback(u), 2 * x * slope * u / a)
    for call in (lambda: likelihood.prox(z, 1.0), lambda: likelihood.At(z), lambda: likelihood.solve(1.0, z)):
        with pytest.raises(AmbientSolveError, match="LinearPhysics"):
            call()


def test_a_linear_operator_behind_a_decoder_that_is_not_affine():
    op = OPERATORS["mask"][0]()
    likelihood = Likelihood(op(rand(1, 3, 6, 5)), op, SquashedPrior())
    assert not likelihood.linear
    assert torch.equal(likelihood.count, op.mask.flatten(1).sum(1))
