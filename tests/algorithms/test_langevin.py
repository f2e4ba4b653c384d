"""Annealed Langevin: its stationary law with the bias of finite steps, its limit, its distance from exactness."""

import dataclasses

import pytest
import torch

from ambient_solve.algorithms.langevin import Langevin, _largest_eigenvalue
from ambient_solve.likelihood import Likelihood
from samplers import agrees, calls, change_of_units, diagonal, draw, errors, isotropic

GAINS, SIGMA_Y, C = [0.0, 0.5, 1.0, 2.0], 0.3, 0.25
Y = torch.tensor([[0.0, 0.4, -0.5, 0.9]])


def stationary(algorithm, s):
    """Mean and variance after very many steps at the one level `s`, the last of which takes the mean."""
    g, y = torch.tensor(GAINS, dtype=torch.float64), Y[0].double()
    shrink, noise2 = C / (C + s**2), SIGMA_Y**2 + (0 if algorithm.precondition else s**2)
    p = 1 / (C + s**2) + g**2 / noise2
    if algorithm.precondition:
        h = g**2 / noise2 + 1 / s**2
        length = algorithm.step / h
        slope, shift = shrink / (s**2 * h), g * y / noise2 / h
    else:
        length = algorithm.step * s**2 / (1 + max(GAINS) ** 2 * s**2 / noise2)
        slope, shift = shrink, 0
    mean, variance = g * y / noise2 / p, 1 / (p * (1 - length * p / 2))
    return slope * mean + shift, slope**2 * variance


@pytest.mark.parametrize("precondition", [True, False])
@pytest.mark.parametrize("step", [0.4, 1.0])
def test_the_stationary_law_is_that_of_a_linear_chain(precondition, step):
    s = 0.4
    algorithm = Langevin(steps=1, repeats=80, step=step, precondition=precondition)
    z = draw(algorithm, isotropic(4, C, 0.01, s), Y, diagonal(GAINS, SIGMA_Y), n=8000)
    assert max(errors(z, *stationary(algorithm, s))) < 4.4
    # The controls: the law without the bias of finite steps, and that of the other setting.
    infinitesimal = dataclasses.replace(algorithm, step=1e-4)
    other = dataclasses.replace(algorithm, precondition=not precondition)
    assert errors(z, *stationary(infinitesimal, s))[1] > 6
    assert max(errors(z, *stationary(other, s))) > 10


@pytest.mark.parametrize("precondition", [True, False])
def test_many_small_steps_reach_the_exact_posterior(precondition):
    prior, op = isotropic(4, C, 0.02, 5.0), diagonal(GAINS, SIGMA_Y)
    exact = prior.posterior(torch.diag(torch.tensor(GAINS)), Y[0], SIGMA_Y)
    z = draw(Langevin(steps=40, repeats=25, step=0.15, precondition=precondition), prior, Y, op, n=1000)
    assert max(errors(z, exact.mean, exact.variance)) < 4.4
    z = draw(Langevin(steps=20, repeats=1, step=0.1, precondition=precondition), prior, Y, op, n=1000)
    assert max(errors(z, exact.mean, exact.variance)) > 8, "the control: too few"


def test_the_curvature_is_that_of_the_operator():
    op = diagonal(GAINS, SIGMA_Y)
    likelihood = Likelihood(Y, op, isotropic(4, C, 0.01, 1.0), n_samples=5)
    found = _largest_eigenvalue(likelihood, torch.randn(5, 4, generator=torch.Generator().manual_seed(0)))
    assert found.shape == (5,) and torch.allclose(found, torch.full((5,), 4.0), rtol=1e-3)


# It has not converged where the prior is narrow: a direction of variance c only moves while s^2 > c.
@pytest.mark.parametrize(("precondition", "name"), [(True, "langevin"), (False, "annealed langevin")])
def test_another_step_is_elsewhere(precondition, name):
    assert not agrees(Langevin(precondition=precondition, step=0.3), "mask", name)


@pytest.mark.parametrize("precondition", [True, False])
def test_costs_and_units(precondition):
    algorithm = Langevin(steps=7, repeats=3, precondition=precondition)
    assert calls(algorithm) == (21, 0)
    assert change_of_units(algorithm) < 1e-3
