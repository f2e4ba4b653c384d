"""SITCOM: the input it looks for, in closed form; where it stops; its distance from exactness; its costs."""

import dataclasses

import pytest
import torch
from deepinv.physics import GaussianNoise, Physics

from ambient_solve.algorithms.sitcom import SITCOM, Adam
from ambient_solve.likelihood import Likelihood
from samplers import agrees, calls, change_of_units, diagonal, draw, isotropic

C, S = 0.25, 0.5
Y, GAINS = torch.tensor([[0.4, -0.7, 0.0, 0.2]]), [1.0, 0.5, 0.0, 2.0]
Z = torch.tensor([[0.9, 0.1, -0.6, -0.3], [-0.2, 0.5, 0.3, 0.8]])


@pytest.mark.parametrize("weight", [0.0, 0.3, 10.0])
def test_the_input_is_the_minimiser(weight):
    prior, g, shrink = isotropic(4, C, 0.01, S), torch.tensor(GAINS), C / (C + S**2)
    likelihood = Likelihood(Y, diagonal(GAINS, 0.1), prior, n_samples=2)
    algorithm = SITCOM(iterations=1000, rate=0.02, lambda_=weight, stop=False)
    found = algorithm._consistent(prior, likelihood, Z, S)
    scaled = weight / (1 + S**2 / prior.sigma_data**2)
    wanted = torch.where(g * shrink + scaled > 0, (g * shrink * Y + scaled * Z) / ((g * shrink) ** 2 + scaled), Z)
    assert torch.allclose(found, wanted, atol=5e-3)
    # The control: the weight of a minimiser that forgets the variance of the state.
    forgot = (g * shrink * Y + weight * Z) / ((g * shrink) ** 2 + weight + 1e-9)
    assert weight == 0 or not torch.allclose(found, forgot, atol=5e-3)


def test_an_explained_measurement_moves_nothing_and_the_others_stop_at_the_noise():
    prior, shrink = isotropic(4, C, 0.01, S), C / (C + S**2)
    likelihood = Likelihood(Y, diagonal(GAINS, 0.1), prior, n_samples=2)
    explained = torch.tensor([0.45, -1.3, 0.7, 0.12]) / shrink
    z = torch.stack([explained, Z[0]])
    algorithm = SITCOM(iterations=600, rate=0.02, lambda_=0.0)
    found = algorithm._consistent(prior, likelihood, z, S)
    assert torch.equal(found[0], z[0]) and not torch.equal(found[1], z[1])
    on, off = (
        float(
            likelihood.chi2(shrink * dataclasses.replace(algorithm, stop=stop)._consistent(prior, likelihood, z, S))[1]
        )
        for stop in (True, False)
    )
    # Three of four entries are seen.
    assert 0.8 < on <= 1.0 and off < 0.05


def test_a_non_linear_operator():
    op = Physics(A=lambda x, **_: x**3 + x, noise_model=GaussianNoise(0.01))
    op.img_size = (4,)
    z = draw(SITCOM(steps=10, iterations=60), isotropic(4, 0.25, 0.01, 5.0), op.A(Y), op, n=50)
    assert float((z - Y).abs().max()) < 0.05
    z = draw(SITCOM(steps=10, iterations=60), isotropic(4, 0.25, 0.01, 5.0), Y, op, n=50)
    assert float((z - Y).abs().max()) > 0.1, "the control: another measurement"


def test_adam_takes_steps_of_unit_length_at_any_scale_but_for_rounding():
    g = torch.tensor([[3.0, -2.0, 0.0]])
    for scale, length in ((1.0, 1.0), (1e9, 1.0), (1e-20, 0.0)):
        adam = Adam()
        for _ in range(3):
            assert torch.allclose(adam.direction(scale * g), length * g.sign(), atol=1e-6)
    adam = Adam()
    assert torch.allclose(adam.direction(g), g.sign()) and torch.allclose(adam.direction(-g), -0.0526316 * g.sign())


# It looks for one input that explains the measurement: its samples differ only by the start and the last levels, so
# that it has a third to a half of the posterior's variance.
def test_going_on_is_elsewhere():
    assert not agrees(SITCOM(steps=20, iterations=10, stop=False), "mask", "sitcom, 20 levels of 10")


def test_costs_and_units():
    assert calls(SITCOM(steps=4, iterations=5)) == (4 * 6, 4 * 5)
    assert change_of_units(SITCOM(steps=6, iterations=5)) < 1e-3
