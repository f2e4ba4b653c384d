"""Streaming: what `Solver.stream` yields is what `solve` returns, and closing it frees the run, for every algorithm."""

from __future__ import annotations

import weakref
from dataclasses import FrozenInstanceError, replace

import pytest
import torch

from ambient_solve import ALGORITHMS, GaussianPrior, Solver, operators
from ambient_solve.solver import Request, Run
from helpers import rand

MASKS = [name for name in ALGORITHMS if name != "soft"]  # of masked pictures that one makes nothing
SAMPLERS = [name for name in MASKS if name != "aos"]  # that one makes one mean


class Shown(GaussianPrior):
    """An analytic prior that is shown what a mask leaves, as `aos` wants it; counts the states that it is asked for."""

    mask = (torch.arange(3 * 6 * 6).reshape(3, 6, 6) % 3 > 0).float()

    def __init__(self):
        super().__init__(torch.zeros(3, 6, 6), 0.25 * torch.eye(108))
        self.asked = []

    def shown(self, z, cond=None):
        return self.mask * z

    def denoise(self, z, sigma, cond=None):
        self.asked.append(weakref.ref(z))
        return super().denoise(z, sigma)

    def denoise_vjp(self, z, sigma, cond=None, *, once=False):
        self.asked.append(weakref.ref(z))
        return super().denoise_vjp(z, sigma, once=once)


def alive(references):
    return sum(r() is not None for r in references)


@pytest.mark.parametrize("name", MASKS)
def test_stream_of_every_algorithm_is_solve(name):
    prior, op, n = Shown(), operators.inpaint(Shown.mask, sigma=0.1), 1 if name == "aos" else 2
    y = op(rand(1, 3, 6, 6))
    steps = 1 if name == "aos" else 4
    twist = {"twist": "isotropic"} if name == "tds" else {}
    solver = Solver(prior, name, steps=steps, **twist)
    states = list(solver.stream(y, op, n_samples=n, seed=3))
    assert [s.step for s in states] == list(range(1, steps + 1)) and {s.steps for s in states} == {steps}
    assert all(s.z.shape == s.z0.shape == (n, 3, 6, 6) and torch.isfinite(s.z).all() for s in states)
    assert torch.equal(prior.decode(states[-1].z), solver.solve(y, op, n_samples=n, seed=3).samples[0])


@pytest.mark.parametrize("name", SAMPLERS)
def test_closing_the_stream_frees_the_run(name):
    """All that was computed is gone although the generator is still held; before, the current state is there."""
    prior, op = Shown(), operators.inpaint(Shown.mask, sigma=0.1)
    twist = {"twist": "isotropic"} if name == "tds" else {}
    running = Solver(prior, name, steps=4, **twist).stream(op(rand(1, 3, 6, 6)), op, n_samples=2)
    state = next(running)
    state = next(running)
    calls, kept = len(prior.asked), [*prior.asked, weakref.ref(state.z), weakref.ref(state.z0)]
    del state
    assert alive(kept) > 0
    running.close()
    assert alive(kept) == 0 and len(prior.asked) == calls
    assert torch.is_grad_enabled() and next(running, None) is None


def test_a_request_is_frozen_and_a_run_draws_what_solve_draws():
    prior, op = GaussianPrior(torch.zeros(3, 4, 4), torch.eye(48)), operators.denoise((3, 4, 4), sigma=0.2)
    request = Request(op(torch.full((1, 3, 4, 4), 0.5)), op, n_samples=3, seed=7)
    with pytest.raises(FrozenInstanceError):
        request.seed = 8
    solver = Solver(prior, "proximal", steps=3)
    whole = solver.solve(request.y, op, n_samples=3, seed=7).samples[0]

    def drawn(asked):
        *_, last = Run(solver, asked).states()
        return prior.decode(last.z)

    assert torch.equal(drawn(request), whole)
    torch.testing.assert_close(drawn(replace(request, n_samples=1, first_sample=2)), whole[2:])
    assert not torch.allclose(drawn(replace(request, seed=8)), whole), "control: another seed"
