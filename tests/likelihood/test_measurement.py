"""What does not fit together is refused in one sentence, before the first network call."""

from __future__ import annotations

import pytest
import torch
from deepinv import physics as dp

from ambient_solve.errors import AmbientSolveError
from ambient_solve.likelihood import Likelihood
from ambient_solve.likelihood.measurement import receive
from ambient_solve.likelihood.packed import RowOperator
from ambient_solve.operators import Jpeg
from helpers import NOISE, OPERATORS, AffinePrior, problem, rand

Y = rand(2, 3, 6, 5)


def masked(images: int = 1, **settings) -> dp.Inpainting:
    return dp.Inpainting((3, 6, 5), mask=(rand(images, 3, 6, 5) > 0.5).float(), **settings)


def wrong_adjoint() -> dp.LinearPhysics:
    return dp.LinearPhysics(A=lambda x: 2 * x, A_adjoint=lambda y: y.flip(-1), noise_model=NOISE)


@pytest.mark.parametrize(
    ("y", "op", "settings", "match"),
    [
        (Y, torch.nn.Identity(), {}, "Identity.*physics was expected"),
        (Y, lambda x: x, {}, "physics was expected"),
        (Y.numpy(), masked(), {}, "ndarray.*as_tensor"),
        ((255 * Y).byte(), masked(), {}, "uint8"),
        (Y[0, 0, 0], masked(), {}, "batch"),
        (Y[:0], masked(), {}, "batch"),
        (Y / 0, masked(), {}, "NaN"),
        (Y, masked(), {}, "no noise level.*sigma_y"),
        (Y, masked(noise_model=dp.LaplaceNoise(0.1)), {}, "LaplaceNoise.*Gaussian.*sigma_y"),
        (Y, masked(), {"sigma_y": 0.0}, "above 0"),
        (Y, masked(), {"sigma_y": -1.0}, "above 0"),
        (Y, masked(), {"sigma_y": float("nan")}, "finite"),
        (Y, masked(), {"sigma_y": "loud"}, "not a number"),
        (Y, masked(), {"sigma_y": torch.ones(3)}, "3 noise levels.*2 image"),
        (Y, masked(), {"sigma_y": 0.1, "n_samples": 0}, "n_samples"),
        (rand(2, 3, 7, 5), masked(), {"sigma_y": 0.1}, "does not fit Inpainting.*3, 6, 5"),
        (Y[0], masked(), {"sigma_y": 0.1}, "does not fit"),
        (Y[:, :1], masked(), {"sigma_y": 0.1}, "does not fit"),
        (Y, masked(3), {"sigma_y": 0.1}, "does not fit"),
        (Y[:1], masked(3), {"sigma_y": 0.1}, "does not fit"),
        (Y, OPERATORS["super-resolution"][0](), {}, "does not fit"),
        (Y, OPERATORS["multi-coil"][0](), {}, "does not fit"),
        (Y, OPERATORS["compressed"][0](), {}, "does not fit"),
        (Y, Jpeg(50, img_size=(3, 9, 9)), {}, "does not fit"),
        (Y, dp.LinearPhysics(A=lambda x: x, noise_model=NOISE), {}, "does not fit"),
        (Y, wrong_adjoint(), {}, "not the adjoint"),
        (rand(2, 1, 3, 6, 5), dp.Denoising(NOISE), {}, "operator works on images"),
    ],
)
def test_refusals_are_one_sentence(y, op, settings, match):
    with pytest.raises(AmbientSolveError, match=match) as caught:
        Likelihood(y, op, AffinePrior(), **settings)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)


def test_no_spectrum_is_said_so():
    likelihood, shape = problem("reflect-blur")
    with pytest.raises(AmbientSolveError, match="Blur has no closed-form spectrum"):
        likelihood.spectral(torch.sqrt, likelihood.residual(torch.zeros(4, *shape)))


def test_stacked_levels_that_agree_are_one_level():
    same = dp.Denoising(dp.GaussianNoise(0.1)).stack(dp.Denoising(dp.GaussianNoise(0.1)))
    assert Likelihood(same(Y), same, AffinePrior()).sigma.tolist() == pytest.approx([0.1, 0.1])


def test_stacked_measurements_are_received_as_rows_of_float32():
    op = masked(2).stack(dp.Denoising())
    y = op(Y)
    y.x[0], y.x[1] = y.x[0].double(), y.x[1] + 1
    before = [part.clone() for part in y.x]
    found = receive(y, op, torch.device("cpu"))
    assert found.y.dtype == torch.float32 and found.image_shape == (3, 6, 5)
    assert torch.equal(found.y, torch.cat([part.flatten(1).float() for part in before], 1))
    mask = op.physics_list[0].mask.expand(2, -1, -1, -1).flatten(1) > 0
    assert torch.equal(found.seen, torch.cat([mask, torch.ones_like(mask)], 1)) and not mask.all()
    x = rand(6, 3, 6, 5, seed=1)  # rows 0 to 2 belong to image 0, which has a mask of its own
    assert torch.equal(found.operator.A(x)[:, : mask.shape[1]] != 0, mask.repeat_interleave(3, 0))
    assert all(torch.equal(part, kept) for part, kept in zip(y.x, before, strict=True))


def test_complex_measurements_are_received_as_pairs():
    op = dp.LinearPhysics(A=lambda x: torch.complex(x, 2 * x), A_adjoint=lambda y: y.real + 2 * y.imag)
    found = receive(op.A(Y), op, torch.device("cpu"))
    assert torch.equal(found.y, torch.stack([Y, 2 * Y], -1)) and torch.equal(found.operator.A(Y), found.y)
    torch.testing.assert_close(found.operator.At(found.y), 5 * Y)


def test_the_operator_is_moved_as_a_copy():
    op = masked(2)
    assert RowOperator(op, Y.to("meta")).op.mask.device.type == "meta" and op.mask.device.type == "cpu"
