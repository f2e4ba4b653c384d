"""Classical reconstructions against closed forms and the objectives that they state."""

from __future__ import annotations

import pytest
import torch
from deepinv.physics import LinearPhysics
from torch import Tensor

from ambient_solve import operators
from ambient_solve.errors import AmbientSolveError
from ambient_solve.evaluate.baselines import (
    BASELINES,
    adjoint,
    haar,
    pseudo_inverse,
    total_variation,
    variation_objective,
    wavelet,
    wavelet_objective,
)
from ambient_solve.evaluate.metrics import psnr
from helpers import one_sentence, rand, randn

SIZE = (3, 16, 16)
TASKS = {
    "random": lambda: operators.inpaint_random(SIZE, missing=0.6),
    "blur": lambda: operators.gaussian_blur(SIZE, width=1.0),
    "valid blur": lambda: operators.gaussian_blur(SIZE, width=1.0, boundary="valid"),
    "super-resolution": lambda: operators.super_resolution(SIZE, filter="gaussian"),
}


def dot(a: Tensor, b: Tensor) -> float:
    return float((a.double() * b.double()).sum())


@pytest.mark.parametrize("task", TASKS)
def test_the_adjoint_is_one(task):
    op, x = TASKS[task](), randn(1, *SIZE)
    y = op.A(x)
    u = randn(*y.shape, seed=1)
    assert abs(dot(y, u) - dot(x, adjoint(u, op))) < 1e-4 * float(y.norm() * u.norm())
    if task == "super-resolution":  # control: the pseudo-inverse is none; for a mask it is
        assert abs(dot(y, u) - dot(x, pseudo_inverse(u, op))) > 1e-2 * float(y.norm() * u.norm())


def test_the_pseudo_inverse_of_a_mask_is_what_was_seen():
    op, x = TASKS["random"](), rand(1, *SIZE)
    seen = op.mask.bool().expand_as(x)
    found = pseudo_inverse(op.A(x), op)
    assert torch.equal(found[seen], x[seen]) and bool((found[~seen] == 0).all())
    # A mask that dims by half: the adjoint would dim it again.
    dim = LinearPhysics(A=lambda x, **_: x * op.mask / 2, A_adjoint=lambda y, **_: y * op.mask / 2, img_size=SIZE)
    torch.testing.assert_close(pseudo_inverse(dim.A(x), dim)[seen], x[seen], atol=1e-4, rtol=1e-4)
    assert (adjoint(dim.A(x), dim)[seen] - x[seen]).abs().mean() > 0.3  # control


def test_the_pseudo_inverse_explains_the_measurement_by_the_smallest_picture():
    op, x = TASKS["super-resolution"](), rand(1, *SIZE)
    y = op.A(x)
    found = pseudo_inverse(y, op)
    assert (op.A(found) - y).norm() < 1e-2 * y.norm() and found.norm() < x.norm()
    assert (op.A(adjoint(y, op)) - y).norm() > 0.3 * y.norm()  # control


def test_tv_of_two_halves_is_a_smaller_step():
    """H x W with a step in the middle: the halves move towards each other by 2 weight / W, and stay constant."""
    x, weight = torch.full((1, 1, 8, 16), 0.2), 0.4
    x[..., 8:] = 0.8
    found = total_variation(x, operators.denoise((1, 8, 16)), weight, iterations=2000)
    wanted = x + torch.where(x < 0.5, 1.0, -1.0) * 2 * weight / 16
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
    doubled = total_variation(x, operators.denoise((1, 8, 16)), 2 * weight, iterations=2000)
    assert (doubled - wanted).abs().min() > 0.02  # control: a weight without the factor 1/2 of the misfit


def piecewise(channels: int = 3, side: int = 16) -> Tensor:
    x = torch.full((1, channels, side, side), 0.3)
    x[..., 3:11, 5:14], x[..., 8:, :4] = 0.9, 0.6
    return x


def measured(task: str, sigma: float = 0.02) -> tuple[Tensor, LinearPhysics]:
    op = TASKS[task]()
    clean = op.A(piecewise())
    return clean + sigma * randn(*clean.shape, seed=5), op


METHODS = {
    "tv": (total_variation, variation_objective),
    "wavelet": (wavelet, wavelet_objective),
}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("method", METHODS)
def test_what_is_found_is_the_minimum_of_what_is_stated(method, task):
    """The objective is convex: no direction leads down, and least of all that to the truth or to the start."""
    solve, objective = METHODS[method]
    (y, op), weight = measured(task), 0.02
    x = solve(y, op, weight, iterations=800)
    least = float(objective(x, y, op, weight))
    others = [solve(y, op, f * weight, iterations=300) for f in (0.5, 2)]  # the minimum of another objective
    others += [adjoint(y, op), piecewise(), *(x + s * randn(*x.shape, seed=7) for s in (0.1, 1e-2, -1e-2))]
    for other in others:
        for share in (1.0, 0.1):
            assert float(objective(x + share * (other - x), y, op, weight)) > least * (1 - 1e-4)
    default = float(objective(solve(y, op, weight), y, op, weight))
    assert default < least * 1.005
    early = float(objective(solve(y, op, weight, iterations=3), y, op, weight))
    assert early > least * 1.05  # control: stopped early


def test_tv_beats_the_adjoint_on_piecewise_constant_pictures():
    for task, gain in (("random", 10.0), ("blur", 1.0)):
        y, op = measured(task)
        better, plain = (psnr(x, piecewise()) for x in (total_variation(y, op), adjoint(y, op)))
        assert better > plain + gain
    y, op = measured("random")
    assert psnr(total_variation(y, op, 0.0), piecewise()) < psnr(adjoint(y, op), piecewise()) + 0.1  # control: no TV


@pytest.mark.parametrize("size", [(8, 8), (7, 10), (5, 1)])
def test_the_wavelet_transform_is_orthonormal_on_any_size(size):
    x = randn(2, 3, *size)
    approximation, details = haar(x, 3)
    parts = [approximation, *details]
    assert abs(sum(p.square().sum() for p in parts) / x.square().sum() - 1) < 1e-5
    assert sum(p.numel() for p in parts) == x.numel()
    assert all(d.abs().max() < 1e-6 for d in haar(torch.ones(1, 1, 8, 8), 3)[1])


def test_wavelet_denoising_is_soft_thresholding():
    y, weight = rand(2, 1, 10, 7), 0.1
    found = wavelet(y, operators.denoise((1, 10, 7)), weight, levels=2)
    for given, kept in zip(haar(y, 2)[1], haar(found, 2)[1], strict=True):
        soft = given - given.clamp(-weight, weight)
        torch.testing.assert_close(kept, soft, atol=1e-5, rtol=0)
        assert not torch.allclose(kept, torch.where(given.abs() > weight, given, 0), atol=1e-2)  # control: hard
    torch.testing.assert_close(haar(found, 2)[0], haar(y, 2)[0], atol=1e-5, rtol=0)


def state(op: LinearPhysics) -> dict[str, object]:
    """Everything that `op` holds, tensors by value."""
    plain = {k: v for k, v in vars(op).items() if isinstance(v, (int, float, str, tuple, type(None)))}
    return plain | {k: (id(v), v.clone()) for k, v in op.state_dict(keep_vars=True).items()}


def unchanged(before: dict[str, object], op: LinearPhysics) -> bool:
    after = state(op)
    return before.keys() == after.keys() and all(
        v[0] == after[k][0] and torch.equal(v[1], after[k][1])
        if isinstance(v, tuple) and len(v) == 2 and isinstance(v[1], Tensor)
        else v == after[k]
        for k, v in before.items()
    )


@pytest.mark.parametrize("task", TASKS)
def test_the_operator_is_not_changed(task):
    for baseline in BASELINES.values():
        op = TASKS[task]()
        y = op.A(rand(1, *SIZE))
        before, given = state(op), y.clone()
        baseline(y, op)
        assert unchanged(before, op) and torch.equal(y, given)
    if task == "super-resolution":
        op.A_dagger(y, max_iter=3)
        assert not unchanged(before, op)  # control: deepinv's own call keeps the setting


def test_what_cannot_be_solved_is_said():
    y, op = rand(1, *SIZE), operators.jpeg(SIZE)
    for baseline in BASELINES.values():
        with pytest.raises(AmbientSolveError, match="linear operator") as error:
            baseline(y, op)
        assert one_sentence(error)
    for weight, words in ((-1.0, "at least 0"), (float("nan"), "at least 0")):
        with pytest.raises(AmbientSolveError, match=words) as error:
            total_variation(y, TASKS["random"](), weight)
        assert one_sentence(error)
    with pytest.raises(AmbientSolveError, match="no noise level"):
        wavelet(y, LinearPhysics(A=lambda x, **_: x, A_adjoint=lambda y, **_: y))
