"""Measurements that join frames: their adjoint, the posterior of a group, and motion that sharpens a long exposure."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ambient_solve import AmbientSolveError, GaussianPrior, Proximal, Solver, operators
from ambient_solve.likelihood import Likelihood
from ambient_solve.priors.base import Prior
from ambient_solve.video.groups import GroupPrior
from ambient_solve.video.solver import VideoSolver
from ambient_solve.video.state import ClipState
from ambient_solve.video.warped_noise import first_frame
from helpers import AffinePrior, rand, randn

pytestmark = pytest.mark.filterwarnings("ignore::ambient_solve.errors.MisfitWarning")
SIDE, K = 32, 4


def shift(columns: float, side: int = SIDE) -> Tensor:
    return torch.tensor([0.0, columns]).reshape(2, 1, 1).expand(2, side, side)


@pytest.mark.parametrize(
    "op",
    [
        operators.temporal_average((2, 6, 5), 3, sigma=0.1),
        operators.frame_rate((2, 6, 5), 3, sigma=0.1),
        operators.temporal_average((2, 6, 5), 2, op=operators.inpaint_box((2, 6, 5), 2, sigma=0.1)),
        operators.temporal_average((2, 6, 6), 2, op=operators.Reduction((2, 6, 6), 2)),
    ],
)
def test_what_is_joined_has_its_adjoint_and_what_it_says(op):
    x = rand(3, *op.img_size)
    y = op.A(x)
    u = randn(*y.shape)
    assert torch.allclose((y * u).sum(), (x * op.A_adjoint(u)).sum(), rtol=1e-4)
    joined = sum(w * x[:, :, t] for t, w in enumerate(op.weights))
    assert torch.allclose(y, op.op.A(joined), atol=1e-6)
    likelihood = Likelihood(y, op, AffinePrior(axes=4))
    q = 0.5  # the proximal point by conjugate gradients, against the dense one
    found = likelihood.prox(torch.zeros_like(x), q)
    n = x[0].numel()
    A = op.A(torch.eye(n).reshape(n, *x.shape[1:])).flatten(1).T.double()
    sigma = float(op.noise_model.sigma)
    H = A.T @ A / sigma**2 + torch.eye(n) / q**2
    expected = torch.linalg.solve(H, A.T @ y.flatten(1).T.double() / sigma**2).T
    assert torch.allclose(found.flatten(1).double(), expected, atol=1e-4)


def test_without_guidance_a_group_has_the_exact_posterior_of_its_frames():
    """Frames that are independent under the prior: the mean of the posterior is known."""
    size, sigma = (1, 4, 4), 0.3
    exact, op = GaussianPrior(torch.zeros(1, 4, 4), 0.25 * torch.eye(16)), operators.temporal_average((1, 4, 4), 2, 0.3)
    frames = [first_frame("independent", (4, 4))]
    frames.append(frames[0].next(shift(0, 4)))
    prior = GroupPrior(exact, frames, frames, torch.zeros(2, 2, 4, 4), torch.ones(2, 4, 4), 0.0)
    prior.sigma_jacobian = float("inf")
    y = randn(1, *size)
    found = Solver(prior, "mmps", steps=20).solve(y, op, n_samples=300).samples[0]
    gain = 0.25 * 0.5 / (sigma**2 + 2 * 0.25 * 0.25)
    assert float((found.mean(0) - gain * y[0, :, None]).abs().max()) < 0.15  # deviation .03
    variance = 0.25 - 0.25 * 0.5 * gain
    assert float(found.var(0).mean()) == pytest.approx(variance, rel=0.1)


class Local(Prior):
    """Smooth pictures of any size."""

    shape, sigma_min, sigma_max, sigma_data = (1, -1, -1), 0.02, 5.0, 0.5

    def denoise(self, z, sigma, cond=None):
        around = sum(z.roll((i, j), (-2, -1)) for i, j in ((0, 1), (0, -1), (1, 0), (-1, 0)))
        found = (z + sigma * around / 4) / (1 + sigma)
        return found / (1 + sigma**2)


def clip(groups: int) -> Tensor:
    """A texture on a torus that moves by one pixel a frame, (T, 1, SIDE, SIDE)."""
    scene = torch.nn.functional.avg_pool2d(
        torch.nn.functional.pad(randn(1, 1, SIDE, SIDE), (1, 1, 1, 1), "circular"), 3, 1
    )
    return torch.stack([scene[0].roll(-t, -1) for t in range(K * groups)])


class Textured(Prior):
    """Exact for the texture."""

    shape, sigma_min, sigma_max, sigma_data = (1, SIDE, SIDE), 0.02, 3.0, 1 / 3

    def __init__(self) -> None:
        super().__init__()
        box = torch.zeros(SIDE, SIDE)
        box[:3, :3] = 1 / 9
        self.power = torch.fft.fft2(box).abs().square()

    def denoise(self, z, sigma, cond=None):
        return torch.fft.ifft2(self.power / (self.power + float(sigma) ** 2) * torch.fft.fft2(z)).real


def joined(frames: Tensor) -> Tensor:
    return frames.unflatten(0, (-1, K)).transpose(1, 2)


def test_guidance_along_the_motion_sharpens_a_long_exposure():
    truth, op = clip(3), operators.temporal_average((1, SIDE, SIDE), K, sigma=0.02)
    y = op.A(joined(truth)) + 0.02 * randn(3, 1, SIDE, SIDE)
    inside, errors = (Ellipsis, slice(K, -2 * K)), {}
    for weight, speed in ((0.0, K), (0.9, K), (0.9, -K)):
        flows = shift(float(speed)).expand(2, -1, -1, -1)
        solver = VideoSolver(Textured(), Proximal(steps=20), noise="nearest", flow=flows, guidance=weight)
        result = solver.solve(y, op)
        assert result.samples.shape == (3 * K, 1, 1, SIDE, SIDE)
        errors[weight, speed] = float((result.samples[:, 0] - truth)[K:][inside].square().mean().sqrt())
    still = y[:, :, None].expand(-1, -1, K, -1, -1)
    blurred = float((still - joined(truth))[1:][inside].square().mean().sqrt())
    assert errors[0.9, K] < 0.75 * min(blurred, errors[0.0, K])
    assert errors[0.9, -K] > 1.3 * errors[0.9, K]  # the control: the motion turned round


def test_a_joined_clip_goes_on_from_a_state(tmp_path):
    truth, op = clip(3), operators.frame_rate((1, SIDE, SIDE), K, sigma=0.05)
    y = op.A(joined(truth))
    solver = VideoSolver(Local(), Proximal(steps=3, draw=True), noise="integral", flow="ilk")
    whole = list(solver.stream(y, op, n_samples=2))
    assert [f.number for f in whole] == list(range(3 * K)) and sum(f.restoration.network_calls for f in whole) == 9
    whole[K - 1].state.save(tmp_path / "state")
    rest = list(solver.stream(y, op, n_samples=2, state=ClipState.load(tmp_path / "state")))
    assert [f.number for f in rest] == list(range(K, 3 * K))
    for a, b in zip(whole[K:], rest, strict=True):
        assert torch.equal(a.restoration.samples, b.restoration.samples)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: operators.temporal_average((1, 4, 4), 1), "at least 2"),
        (lambda: operators.JoinedFrames((1, 4, 4), [0.0, 0.0]), "not all 0"),
        (lambda: operators.JoinedFrames((1, 4, 4), [1.0], operators.clip((1, 4, 4))), "linear"),
        (
            lambda: Solver(Local(), "proximal", steps=1).solve(rand(1, 1, 8, 8), operators.frame_rate((1, 8, 8), 2)),
            "makes",
        ),
    ],
)
def test_what_does_not_fit_is_refused(wrong, words):
    with pytest.raises(AmbientSolveError, match=words):
        wrong()
