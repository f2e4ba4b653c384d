"""A `Solver` is a deepinv `Reconstructor`: their loops and tools take it as one of their own."""

from __future__ import annotations

import inspect

import deepinv
import pytest
import torch
from deepinv.models import Reconstructor
from torch.utils.data import DataLoader, Dataset

from ambient_solve import AmbientSolveError, GaussianPrior, MixturePrior, NetworkConfig, NetworkPrior, Solver, operators

SHAPE = (1, 8, 8)


class Pictures(Dataset):
    """Smooth pictures from the prior itself and what an operator makes of them, as deepinv's data sets are: (x, y)."""

    def __init__(self, prior: GaussianPrior, op: deepinv.physics.Physics, n: int = 6) -> None:
        torch.manual_seed(0)
        self.x = prior.decode(prior.sample(n, torch.Generator().manual_seed(0))).float()
        self.y = op(self.x)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.x[i], self.y[i]


@pytest.fixture(scope="module")
def prior():
    frequency = torch.fft.fftfreq(SHAPE[-1])
    power = 1 / (0.02 + frequency[:, None] ** 2 + frequency**2) ** 1.5
    return GaussianPrior.stationary(torch.zeros(SHAPE), power / power.mean(), scale=0.1, offset=0.5)


@pytest.fixture(scope="module")
def op():
    return operators.inpaint_random(SHAPE, missing=0.5, sigma=0.1)


class Adjoint(Reconstructor):
    """The measurement put back: the least that a method has to beat."""

    def forward(self, y, physics, **_):
        return physics.A_adjoint(y)


def psnr_of(model, prior, op, **settings):
    """Mean PSNR by deepinv.test."""
    loader = DataLoader(Pictures(prior, op), batch_size=3)
    found = deepinv.test(model, loader, op, verbose=False, show_progress_bar=False, **settings)
    print({name: round(float(value), 2) for name, value in found.items()})
    return found["PSNR"]


def test_a_solver_is_a_reconstructor(prior):
    assert isinstance(Solver(prior), Reconstructor)
    own, theirs = (list(inspect.signature(c.forward).parameters) for c in (Solver, Reconstructor))
    assert own[: len(theirs) - 1] == theirs[:-1] == ["self", "y", "physics"]


def test_deepinv_tests_a_solver_end_to_end(prior, op):
    """The posterior mean beats one sample by about 3 dB, and one sample beats the measurement put back."""
    one, mean = (psnr_of(Solver(prior, steps=8, n_samples=n), prior, op) for n in (1, 16))
    blind = psnr_of(Adjoint(), prior, op)
    assert mean > one + 1.5 and one > blind, (mean, one, blind)


def test_forward_is_one_sample_or_the_mean_of_many(prior, op):
    y = op(torch.rand(2, *SHAPE))
    solver = Solver(prior, "proximal", steps=4)
    assert torch.equal(solver(y, op), solver.solve(y, op, n_samples=1).samples[:, 0])
    assert torch.equal(solver(y, op), solver(y=y, physics=op))
    three = Solver(prior, "proximal", steps=4, n_samples=3)
    assert torch.equal(three(y, op), solver.solve(y, op, n_samples=3).mean)
    assert three.solve(y, op).samples.shape[1] == 3
    assert not torch.equal(three(y, op), solver(y, op))


@pytest.mark.parametrize("wrong", [0, True, 2.5])
def test_a_wrong_number_of_samples_is_refused_at_once(prior, wrong):
    with pytest.raises(AmbientSolveError, match="n_samples"):
        Solver(prior, n_samples=wrong)


def test_to_and_eval_reach_the_prior(op):
    network = NetworkPrior(NetworkConfig(widths=(8, 16), groups=4, embedding=16), "float32")
    solver = Solver(network)
    assert solver.eval() is solver and not network.training
    assert solver.to("meta") is solver and network.device.type == "meta"
    assert {f"prior.{name}" for name in network.state_dict()} == set(solver.state_dict())


def test_making_a_solver_leaves_the_prior_as_it_is():
    ring = MixturePrior.ring()
    for training in (True, False):
        assert Solver(ring.train(training)).prior is ring and ring.training is training


def test_another_prior_leaves_the_solver_as_it_is(prior, op):
    """A solver holds its prior as a submodule; a shallow copy of a module shares those with its original."""
    solver, other = Solver(prior, "proximal", steps=3, n_samples=2), MixturePrior.ring()
    twin = solver.with_prior(other)
    assert twin.prior is other and solver.prior is prior
    assert (twin.algorithm, twin.n_samples, twin.budget) == (solver.algorithm, 2, None)
    assert list(twin.children()) == [other] and list(solver.children()) == [prior]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_measurement_and_operator_follow_the_solver_to_the_gpu(prior, op):
    y = op(torch.rand(2, *SHAPE))
    here = Solver(prior, "proximal", steps=4, n_samples=2)
    there = here.with_prior(GaussianPrior(torch.zeros(SHAPE), torch.eye(64))).to("cuda")
    found = there.solve(y, op)
    assert found.samples.device.type == "cuda" and y.device.type == op.mask.device.type == "cpu"
    assert there(y.cuda(), op.cuda()).device.type == "cuda"
