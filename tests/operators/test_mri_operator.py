"""The fused multi-coil operator: deepinv's values, dense algebra, exact draws, batches, and what a step of CG saves."""

from __future__ import annotations

import pytest
import torch
from deepinv.physics import MRI, MultiCoilMRI
from torch import Tensor

from ambient_solve import MMPS, Solver
from ambient_solve.errors import AmbientSolveError
from ambient_solve.evaluate.distances import gaussian_report
from ambient_solve.likelihood import Likelihood
from ambient_solve.linalg.conjugate_gradient import WarmStart, conjugate_gradient
from ambient_solve.linalg.gram import DiagonalGram
from ambient_solve.noise import Streams
from ambient_solve.operators.coils import birdcage
from ambient_solve.operators.kspace_masks import make_mask
from ambient_solve.operators.mri import MultiCoil
from ambient_solve.priors.gaussian import GaussianPrior
from ambient_solve.priors.gaussian import dense as matrix_of
from helpers import AffinePrior, dense, flat64, one_sentence, randn, relative

SIZES = [(8, 12), (9, 12), (8, 7), (9, 7)]


def complexes(*shape: int, seed: int = 0) -> Tensor:
    return randn(*shape, seed=seed, dtype=torch.complex64)


def mask_of(lines: str, size: tuple[int, int], images: int = 1, share: float = 0.5, seed: int = 1) -> Tensor:
    """Random columns, rows or points, (images, 1, H, W), never nothing."""
    u = torch.rand(images, 1, *size, generator=torch.Generator().manual_seed(seed))
    u = u[..., :1, :].expand_as(u) if lines == "columns" else u[..., :1].expand_as(u) if lines == "rows" else u
    mask = (u < share).float()
    mask[..., size[0] // 2, size[1] // 2] = 1
    return mask.amax(2, keepdim=True).expand_as(mask) if lines == "columns" else mask.amax(3, keepdim=True).expand_as(
        mask) if lines == "rows" else mask  # fmt: skip


def matrix_in_words(maps: Tensor, mask: Tensor) -> Tensor:
    """`A` of one slice as complex128 (coils * H * W, H * W), from the sum that defines it: no FFT, no shift."""
    size = maps.shape[-2:]
    waves = []
    for n in size:
        at = (torch.arange(n) - n // 2).double()
        waves.append(torch.polar(torch.full((n, n), n**-0.5).double(), -2 * torch.pi / n * at[:, None] * at))
    fourier = torch.kron(*waves)
    return torch.cat([mask.flatten()[:, None] * fourier * s.flatten().to(fourier) for s in maps])


# Values --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("lines", ["columns", "rows", ""])
@pytest.mark.parametrize(("slices", "maps"), [(1, 1), (3, 3), (3, 1)])
def test_the_values_of_deepinv(size, lines, slices, maps):
    """Bit for bit where both sides are even, since then a shift is nothing but signs."""
    maps, mask = complexes(maps, 5, *size), mask_of(lines, size, slices)
    ours, theirs = MultiCoil(maps, mask), MultiCoilMRI(mask=mask, coil_maps=maps, img_size=size)
    x = randn(slices, 2, *size, seed=2)
    y, u = theirs.A(x), randn(slices, 2, 5, *size, seed=3)
    assert ours.lines == lines and ours.A(x).shape == y.shape
    assert relative(ours.A(x), y) < 1e-6 and relative(ours.A_adjoint(u), theirs.A_adjoint(u)) < 1e-6
    assert relative(ours.A_adjoint_A(x), theirs.A_adjoint(y)) < 1e-6
    if not (size[0] % 2 or size[1] % 2):
        assert torch.equal(ours.A(x), y)
    # Control: without the half shift of either domain it is another operator.
    uncentred = torch.fft.fft2(maps * torch.complex(x[:, 0], x[:, 1])[:, None], norm="ortho") * mask
    assert relative(torch.view_as_real(uncentred).movedim(-1, 1), y) > 0.5


@pytest.mark.parametrize("size", SIZES)
def test_the_definition_in_words(size):
    maps, mask = complexes(1, 3, *size), mask_of("", size)
    x = randn(1, 2, *size, seed=2)
    wanted = matrix_in_words(maps[0], mask) @ torch.complex(x[0, 0], x[0, 1]).flatten().to(torch.complex128)
    found = torch.view_as_complex(MultiCoil(maps, mask).A(x).movedim(1, -1).contiguous()).flatten()
    assert float((found - wanted).norm() / wanted.norm()) < 1e-6


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("lines", ["columns", "rows", ""])
@pytest.mark.parametrize("coils", [1, 12])
def test_adjointness(size, lines, coils):
    maps, mask = complexes(2, coils, *size), mask_of(lines, size, 2)
    op, x, u = MultiCoil(maps, mask), randn(2, 2, *size, seed=2), randn(2, 2, coils, *size, seed=3)

    def gap(y: Tensor, z: Tensor) -> float:
        """`|<A x, u> - <x, A^H u>|`, complex inner products, relative to `|A x| |u|`."""
        inner = [torch.complex(a[:, 0], a[:, 1]) for a in (y, u, x, z)]
        one, other = (inner[0].conj() * inner[1]).sum(), (inner[2].conj() * inner[3]).sum()
        return float((one - other).abs() / (y.norm() * u.norm()))

    assert gap(op.A(x), op.A_adjoint(u)) < 1e-5
    # Control: coil maps that were not conjugated.
    assert gap(op.A(x), MultiCoil(maps.conj(), mask).A_adjoint(u)) > 1e-3
    torch.testing.assert_close(op.A_adjoint_A(x), op.A_adjoint(op.A(x)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lines", ["columns", "rows", ""])
def test_a_weighted_mask_counts_twice_in_the_normal_operator(lines):
    maps, weights = complexes(1, 3, 8, 7), 0.5 * mask_of(lines, (8, 7))
    op, x = MultiCoil(maps, weights), randn(1, 2, 8, 7)
    assert relative(op.A_adjoint_A(x), op.A_adjoint(op.A(x))) < 1e-6
    assert relative(op.A_adjoint_A(x), MultiCoil(maps, 2 * weights).A_adjoint_A(x) / 4) < 1e-6


@pytest.mark.parametrize("lines", ["columns", "rows", ""])
def test_lines_that_no_coil_sees_are_skipped_and_0(lines):
    maps = complexes(2, 3, 12, 10)
    maps[0, :, :3], maps[1, :, :2], maps[:, :, :, :2], maps[:, :, :, 9] = 0, 0, 0, 0
    op, x = MultiCoil(maps, mask_of(lines, (12, 10), 2)), randn(2, 2, 12, 10)
    found = op.A_adjoint_A(x)
    assert relative(found, op.A_adjoint(op.A(x))) < 1e-6
    assert (found[0, :, :3] == 0).all() and (found[1, :, 2] != 0).any() and (found[..., 9] == 0).all()


def test_the_gradient_is_the_adjoint():
    op, x = MultiCoil(complexes(1, 3, 8, 7), mask_of("", (8, 7))), randn(2, 2, 8, 7).requires_grad_()
    u = randn(2, 2, 3, 8, 7, seed=4).requires_grad_()
    (gradient,) = torch.autograd.grad(op.A(x), x, u, create_graph=True)
    assert torch.equal(gradient, op.A_adjoint(u))
    assert torch.equal(torch.autograd.grad(gradient, u, x)[0], op.A(x))
    assert torch.equal(torch.autograd.grad(op.A_adjoint_A(x), x, x)[0], op.A_adjoint_A(x))


def test_only_what_is_sampled_is_noisy_and_parameters_can_be_replaced():
    mask = mask_of("columns", (8, 12))
    op, x = MultiCoil(complexes(1, 3, 8, 12), mask, sigma=0.5), randn(1, 2, 8, 12)
    noise = op(x) - op.A(x)
    seen = mask[:, :, None].expand_as(noise) > 0
    assert (noise[~seen] == 0).all() and abs(float(noise[seen].std()) - 0.5) < 0.1
    other, maps = mask_of("rows", (8, 12)), complexes(1, 3, 8, 12, seed=5)
    wanted = MultiCoil(maps, other)
    assert torch.equal(op.A(x, mask=other, coil_maps=maps), wanted.A(x)) and op.lines == "rows"
    op.update(mask=mask.expand(-1, 2, -1, -1))  # as deepinv's generators return it
    assert torch.equal(op.A_adjoint_A(x), MultiCoil(maps, mask).A_adjoint_A(x))


# Batches -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(8, 7), (320, 260)])
@pytest.mark.parametrize("lines", ["columns", "rows", ""])
def test_a_batch_of_slices_is_the_slices_one_by_one(size, lines):
    """Bit for bit, with maps and masks of each, and several samples of each slice; the large size works in chunks."""
    maps, mask, samples = complexes(3, 2, *size), mask_of(lines, size, 3), 2
    op, x = MultiCoil(maps, mask), randn(6, 2, *size, seed=2)
    y, normal = op.A(x), op.A_adjoint_A(x)
    back, rough = op.A_adjoint(y), op.precondition(x, torch.arange(1.0, 7)[:, None, None, None])
    for row in range(6):
        alone = MultiCoil(maps[row // samples], mask[row // samples, 0])
        one = slice(row, row + 1)
        assert torch.equal(y[one], alone.A(x[one])) and torch.equal(back[one], alone.A_adjoint(y[one]))
        assert torch.equal(normal[one], alone.A_adjoint_A(x[one]))
        assert relative(rough[one], alone.precondition(x[one], row + 1.0)) < 1e-6
    # Control: sample-major rows meet the maps of other slices.
    turned = op.A(x.reshape(3, 2, 2, *size).transpose(0, 1).flatten(0, 1))
    assert relative(turned.reshape(2, 3, *y.shape[1:]).transpose(0, 1).flatten(0, 1), y) > 0.5


def test_a_likelihood_of_a_batch_is_that_of_its_slices():
    maps, mask = complexes(3, 3, 9, 8), mask_of("columns", (9, 8), 3)
    op, sigma = MultiCoil(maps, mask), torch.tensor([0.1, 0.2, 0.3])
    y, z, q = op.A(randn(3, 2, 9, 8)), randn(6, 2, 9, 8, seed=2), torch.linspace(0.1, 0.6, 6)
    together = Likelihood(y, op, AffinePrior(), sigma_y=sigma, n_samples=2)
    proximal, drawn = together.prox(z, q), together.draw(z, q, Streams([5, 6, 7], 2))
    solved = together.solve(q**2, together.residual(z))
    for i in range(3):
        alone = Likelihood(y[i : i + 1], MultiCoil(maps[i], mask[i, 0]), AffinePrior(), sigma_y=sigma[i], n_samples=2)
        rows, close = slice(2 * i, 2 * i + 2), {"rtol": 1e-3, "atol": 3e-4}
        torch.testing.assert_close(proximal[rows], alone.prox(z[rows], q[rows]), **close)
        torch.testing.assert_close(drawn[rows], alone.draw(z[rows], q[rows], Streams([5 + i], 2)), **close)
        torch.testing.assert_close(solved[rows], alone.solve(q[rows] ** 2, alone.residual(z[rows])), **close)


# The two primitives of a likelihood ----------------------------------------------------------------------------------


@pytest.mark.parametrize("R", [2, 4])
@pytest.mark.parametrize("coils", [1, 2, 4, 8])
def test_prox_and_solve_are_those_of_the_dense_matrix(coils, R, monkeypatch):
    size, sigma = (10, 14), 0.1
    maps = birdcage(coils, size) * (1 + 0.3 * torch.rand(size, generator=torch.Generator().manual_seed(6)))
    op, other = (MultiCoil(maps, make_mask("random", size, R, acs=2, seed=s)) for s in (0, 3))
    y, v, q = op.A(randn(1, 2, *size)), randn(2, 2, *size, seed=7), torch.tensor([0.05, 1.0])
    likelihood, wrong = (
        Likelihood(y, o, AffinePrior(), sigma_y=sigma, n_samples=2, cg_iterations=400) for o in (op, other)
    )
    assert likelihood.gram is None
    A = dense(likelihood, (2, *size))
    eye_n, eye_m = (torch.eye(n).double() for n in reversed(A.shape))
    r = randn(*likelihood.residual(v).shape, seed=8)
    wanted, solved = [], []
    for p, vi, ri in zip(q.double(), flat64(v), flat64(r), strict=True):
        right = A.T @ flat64(y)[0] / sigma**2 + vi / p**2
        wanted.append(torch.linalg.solve(A.T @ A / sigma**2 + eye_n / p**2, right))
        solved.append(torch.linalg.solve(sigma**2 * eye_m + p**2 * A @ A.T, ri))
    wanted, solved = torch.stack(wanted), torch.stack(solved)
    # As accurate as the solve is asked to be by default, and as float32 can be.
    assert relative(likelihood.prox(v, q), wanted) < 4e-4 and relative(likelihood.solve(q**2, r), solved) < 4e-4
    monkeypatch.setattr("ambient_solve.likelihood.likelihood.RTOL", 1e-8)
    assert relative(likelihood.prox(v, q), wanted) < 1e-4 and relative(likelihood.solve(q**2, r), solved) < 1e-4
    # Control: a mask drawn with another seed.
    assert relative(wrong.prox(v, q), wanted) > 0.05


def test_one_coil_that_sees_all_alike_has_a_closed_form(monkeypatch):
    monkeypatch.setattr("ambient_solve.likelihood.likelihood.RTOL", 1e-8)
    mask, phase = mask_of("columns", (10, 12)), torch.polar(torch.ones(10, 12), randn(10, 12))
    op, x = MultiCoil(phase[None], mask, sigma=0.1), randn(2, 2, 10, 12)
    y = op(x)
    likelihood, iterative = (Likelihood(y, op, AffinePrior(), cg_iterations=300) for _ in range(2))
    assert isinstance(likelihood.gram, DiagonalGram)
    v, q, iterative.gram, iterative._normal = randn(2, 2, 10, 12, seed=3), 0.7, None, op.A_adjoint_A
    assert relative(likelihood.prox(v, q), iterative.prox(v, q)) < 1e-4
    single = MultiCoil(torch.ones(1, 10, 12, dtype=torch.complex64), mask)
    assert relative(single.A(x)[:, :, 0], MRI(mask=mask, img_size=(10, 12)).A(x)) < 1e-6


def case(samples: int = 4000, coils: int = 3) -> tuple[Likelihood, Tensor, float, Tensor, Tensor]:
    """A likelihood of one small measurement; v, q; mean and covariance of `N(v, q^2 I)` given it."""
    op = MultiCoil(complexes(coils, 4, 3), mask_of("columns", (4, 3), share=0.3), sigma=0.6)
    torch.manual_seed(0)
    likelihood = Likelihood(op(randn(1, 2, 4, 3)), op, AffinePrior(), n_samples=samples, cg_iterations=60)
    likelihood.gram = None  # so small that a dense form was found
    likelihood._normal = op.A_adjoint_A
    A, v, q = dense(likelihood, (2, 4, 3)), randn(1, 2, 4, 3, seed=3), 0.8
    sigma, y = float(likelihood.sigma[0]), flat64(likelihood.residual(v * 0))[0]
    covariance = torch.linalg.inv(A.T @ A / sigma**2 + torch.eye(A.shape[1]).double() / q**2)
    mean = covariance @ (A.T @ y / sigma**2 + flat64(v)[0] / q**2)
    return likelihood, v, q, mean, covariance


class Forgetful(Streams):
    """The perturbation of the measurement is left out."""

    def normal(self, like: Tensor) -> Tensor:
        return super().normal(like) * (like.ndim != 5)


def test_draws_have_the_exact_posterior_variance():
    likelihood, v, q, mean, covariance = case()
    many = v.expand(likelihood.rows, -1, -1, -1)

    def report(streams: Streams):
        return gaussian_report(likelihood.draw(many, q, streams).reshape(likelihood.rows, -1), mean, covariance)

    exact, wrong = report(Streams([0], likelihood.rows)), report(Forgetful([0], likelihood.rows))
    print(f"\nvariance / exact {exact.ratio_mean:.3f}, band {exact.ratio_band}; without e1 {wrong.ratio_mean:.3f}")
    assert exact.passed and abs(exact.ratio_mean - 1) < 0.02
    assert not wrong.passed and wrong.ratio_min < 0.5


def test_a_solver_samples_the_posterior_of_a_correlated_gaussian():
    """mmps is exact on Gaussians; of the prior variance it leaves what the measurement leaves."""
    at = torch.cartesian_prod(torch.arange(5), torch.arange(6)).double()
    field = 0.25 * torch.exp(-torch.cdist(at, at) / 2)
    prior = GaussianPrior(torch.zeros(2, 5, 6), torch.block_diag(field, field), sigma_min=0.005, sigma_max=40.0,
                          sigma_data=0.5)  # fmt: skip
    op = MultiCoil(birdcage(3, (5, 6)), mask_of("columns", (5, 6), share=0.4), sigma=0.1)
    torch.manual_seed(0)
    y = op(prior.sample(1, torch.Generator().manual_seed(1)).float())
    exact = prior.posterior(matrix_of(op, prior.shape), y[0], 0.1)
    samples = Solver(prior, MMPS(steps=40, iterations=10)).solve(y, op, n_samples=200).samples[0]
    found = gaussian_report(samples, exact.mean, exact.covariance)
    claimed = gaussian_report(samples, prior.mean, prior.covariance)
    print(f"\nmean {found.max_z:.1f} of {found.z_threshold:.1f}, variance / exact {found.ratio_mean:.3f}")
    assert found.max_z < found.z_threshold + 1 and abs(found.ratio_mean - 1) < 0.06
    assert claimed.ratio_mean < 0.8  # Control: the measurement says something


# Preconditioning -----------------------------------------------------------------------------------------------------


def head(size: tuple[int, int], coils: int = 8) -> Tensor:
    """Smooth maps that are 0 outside an ellipse, as ESPIRiT finds them."""
    down, across = (torch.linspace(-1, 1, n) for n in size)
    return birdcage(coils, size) * (((down / 0.85) ** 2)[:, None] + (across / 0.7) ** 2 < 1)


@pytest.mark.parametrize("lines", ["columns", "rows", ""])
def test_the_preconditioner_is_symmetric_and_positive(lines):
    op, n = MultiCoil(head((9, 8), 3), mask_of(lines, (9, 8))), 2 * 9 * 8
    matrix = op.precondition(torch.eye(n).reshape(n, 2, 9, 8), 50.0).flatten(1).double()
    assert relative(matrix.T, matrix) < 1e-5
    eigenvalues = torch.linalg.eigvalsh((matrix + matrix.T) / 2)
    assert 0 < float(eigenvalues.min()) and float(eigenvalues.max()) <= 1 + 1e-5


@pytest.mark.parametrize("kind", ["random", "uniform", "poisson"])
def test_the_preconditioner_saves_steps_and_a_warm_start_saves_more(kind):
    op, ratio = MultiCoil(head((48, 40)), make_mask(kind, (48, 40), 4, acs=6)), 100.0
    b = op.A_adjoint(op.A(randn(1, 2, 48, 40)))

    def solve(b: Tensor, precondition=None, x0: Tensor | None = None) -> tuple[Tensor, int]:
        products = []

        def matvec(p: Tensor) -> Tensor:
            products.append(1)
            return p + ratio * op.A_adjoint_A(p)

        return conjugate_gradient(matvec, b, 200, x0, 1e-5, precondition), len(products)

    def rough(r: Tensor) -> Tensor:
        return op.precondition(r, ratio)

    (plain, without), (found, steps) = solve(b), solve(b, rough)
    near = b + 0.05 * op.A_adjoint(op.A(randn(1, 2, 48, 40, seed=9)))
    _, warm = solve(near, rough, found)
    print(f"\n{kind}: {without} steps, {steps} preconditioned, {warm} from a near solution")
    assert relative(found, plain) < 1e-3
    assert steps < 0.85 * without and warm < steps


def test_a_likelihood_uses_it(monkeypatch):
    op, sigma = MultiCoil(head((24, 20)), make_mask("random", (24, 20), 4, acs=4)), 0.05
    y, v = op.A(randn(1, 2, 24, 20)), randn(1, 2, 24, 20, seed=2)

    def error(iterations: int, warm: WarmStart | None = None) -> float:
        return relative(
            Likelihood(y, op, AffinePrior(), sigma_y=sigma, cg_iterations=iterations).prox(v, 1.0, warm), exact
        )

    exact = Likelihood(y, op, AffinePrior(), sigma_y=sigma, cg_iterations=400).prox(v, 1.0)
    preconditioned = error(12)
    monkeypatch.setattr(MultiCoil, "precondition", None)
    assert preconditioned < 0.7 * error(12)


# What is refused -----------------------------------------------------------------------------------------------------


def test_bad_input_is_one_sentence():
    maps, mask = complexes(3, 8, 7), torch.ones(8, 7)
    broken, silent = maps.clone(), maps.clone()
    broken[1, 2, 3], silent[:] = float("nan"), 0
    for wrong, word in (
        ((maps.real, mask), "complex"),
        ((maps[0], mask), "complex"),
        ((broken, mask), "coil 1"),
        ((silent, mask), "zero"),
        ((maps, torch.ones(7, 8)), "belong together"),
        ((complexes(2, 3, 8, 7), torch.ones(3, 1, 8, 7)), "belong together"),
        ((maps, torch.zeros(8, 7)), "nothing"),
        ((maps, torch.ones(1, 2, 8, 7)), "mask"),
        ((maps, mask, -1.0), "sigma"),
    ):
        with pytest.raises(AmbientSolveError, match=word) as error:
            MultiCoil(*wrong)
        assert one_sentence(error)
    with pytest.raises(AmbientSolveError, match="3 pictures") as error:
        MultiCoil(complexes(2, 3, 8, 7), mask).A(randn(3, 2, 8, 7))
    assert one_sentence(error)
