"""MGPS: its variational midpoint in closed form, ancestral sampling where there is no measurement, its distance."""

import pytest
import torch

from ambient_solve.algorithms.mgps import MGPS
from ambient_solve.likelihood import Likelihood
from ambient_solve.process import ancestral_noise, karras
from samplers import (
    OneStream,
    agrees,
    ancestral_variance,
    calls,
    change_of_units,
    diagonal,
    draw,
    errors,
    isotropic,
)

C, S, LEVEL, SIGMA_Y = 0.25, 1.0, 0.5, 0.3
Y, GAINS = torch.tensor([[0.4, -0.7, 0.0, 0.2]]), [1.0, 0.5, 0.0, 2.0]


def test_the_midpoint_is_the_nearest_gaussian():
    """With D(z) = k z and one gain g for an entry all is quadratic: the nearest Gaussian is the law itself."""
    prior, n = isotropic(4, C, 0.01, S), 4000
    likelihood = Likelihood(Y, diagonal(GAINS, SIGMA_Y), prior, n_samples=n)
    z = torch.full((n, 4), 0.8)
    z0, b = prior.denoise(z, S), ancestral_noise(S, LEVEL, 1.0)
    algorithm = MGPS(iterations=400, rate=0.01)
    found = algorithm._midpoint(prior, likelihood, z, z0, S, LEVEL, OneStream(0))
    g, k = torch.tensor(GAINS, dtype=torch.float64), C / (C + LEVEL**2)
    m = float(z0[0, 0]) + (LEVEL / S) ** 2 * (0.8 - float(z0[0, 0]))
    precision = 1 / b**2 + (k * g / SIGMA_Y) ** 2
    mean = (m / b**2 + k * g * Y[0] / SIGMA_Y**2) / precision
    # Adam never quite settles: each sample's mean and width wander by some percent.
    assert ((found.double().mean(0) - mean).abs() / (1 / precision).sqrt()).max() < 0.1
    assert (found.double().var(0) * precision - 1).abs().max() < 0.2
    assert (found.double().var(0) / b**2 - 1).abs().max() > 0.5, "the control: the width before the first step"


@pytest.mark.parametrize("midpoint", [0.3, 0.9])
def test_without_information_it_is_ancestral_sampling(midpoint):
    """A step to the midpoint and the bridge back is K_1, whatever the midpoint."""
    prior, op = isotropic(2, C, 0.02, 5.0), diagonal([1.0, 0.5], 1e6)
    algorithm = MGPS(steps=12, iterations=1, midpoint=midpoint)
    z = draw(algorithm, prior, torch.zeros(1, 2), op, n=8000)
    variance = torch.full((2,), ancestral_variance(C, karras(12, 0.02, 5.0)), dtype=torch.float64)
    assert max(errors(z, torch.zeros(2), variance)) < 4.4
    assert errors(z, torch.zeros(2), torch.full((2,), C, dtype=torch.float64))[1] > 6, "the control: exact samples"


# The likelihood at the midpoint takes D(z_l) for z0 itself, and a few Adam steps at each level are few.
def test_a_smaller_rate_is_elsewhere():
    assert not agrees(MGPS(steps=50, rate=0.1), "mask", "mgps, 50 levels")


def test_costs_and_units():
    assert calls(MGPS(steps=4, iterations=5)) == (3 * 6 + 1, 3 * 5)
    assert change_of_units(MGPS(steps=6, iterations=5)) < 1e-3
