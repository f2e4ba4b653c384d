"""RePaint: exact where all is observed, whatever the prior; what resampling buys; which operators it takes."""

import pytest
import torch
from deepinv import physics as dp

from ambient_solve import AmbientSolveError, MixturePrior
from ambient_solve.algorithms.repaint import RePaint
from ambient_solve.evaluate.distances import sliced_wasserstein
from ambient_solve.evaluate.exactness import matrix_operator, on_gaussian
from ambient_solve.likelihood import Likelihood
from helpers import NOISE, OPERATORS, AffinePrior, one_sentence, randn
from samplers import agrees, calls, change_of_units, diagonal, draw, errors, isotropic


def two_modes(low=0.01, high=20.0):
    means = torch.tensor([[-1.0, -1.0], [1.0, 1.0]])
    return MixturePrior(torch.tensor([0.3, 0.7]), means, torch.tensor([0.09, 0.16]), sigma_min=low, sigma_max=high)


def distance(z, exact):
    """Sliced Wasserstein distance to exact samples, in units of the floor."""
    generator = torch.Generator().manual_seed(1)
    first, second = exact.sample(len(z), generator), exact.sample(len(z), generator)
    return sliced_wasserstein(z, first) / sliced_wasserstein(second, first)


Y, SIGMA_Y = torch.tensor([[0.1, -0.3]]), 0.8


@pytest.mark.parametrize("settings", [{"resample": 1}, {"resample": 3, "jump": 1}, {"resample": 3, "jump": 20}])
def test_a_noisy_picture_seen_whole_gives_the_exact_posterior(settings):
    """At the level of its noise a measurement is a state: what follows is unconditional sampling, also after jumps."""
    prior, op = two_modes(), diagonal([1.0, 1.0], SIGMA_Y)
    exact = prior.posterior(torch.eye(2), Y[0], SIGMA_Y)
    assert distance(draw(RePaint(steps=100, **settings), prior, Y, op, n=1000), exact) < 2


@pytest.mark.parametrize(("given", "least"), [(1e-3, 6), (SIGMA_Y / 2, 3)], ids=["noise-free, the paper", "half"])
def test_with_the_wrong_noise_it_is_not_exact(given, least):
    prior = two_modes()
    exact = prior.posterior(torch.eye(2), Y[0], SIGMA_Y)
    z = draw(RePaint(steps=100, resample=1), prior, Y, diagonal([1.0, 1.0], given), n=1000)
    assert distance(z, exact) > least


def test_a_jump_that_forgets_the_measurement_is_not_exact(monkeypatch):
    prior, op = two_modes(), diagonal([1.0, 1.0], SIGMA_Y)
    exact = prior.posterior(torch.eye(2), Y[0], SIGMA_Y)

    def plain(z, y, omega, t, s, noise):
        return z + (s**2 - t**2) ** 0.5 * noise

    monkeypatch.setattr(RePaint, "_up", staticmethod(plain))
    assert distance(draw(RePaint(steps=100, resample=3), prior, Y, op, n=1000), exact) > 3


def path(levels):
    """The covariance of `z_u - z0`, a Brownian path in the square of the level."""
    return torch.tensor([[min(a, b) ** 2 for b in levels] for a in levels], dtype=torch.float64)


@pytest.mark.parametrize(("t", "s", "tau"), [(0.2, 0.5, 0.8), (0.1, 0.7, 0.71), (0.5, 1.5, 3.0)])
def test_a_jump_back_below_the_noise_is_the_law_of_a_path_between_its_ends(t, s, tau):
    """Of `z_s` given `z_t` and `z_tau = yh`, from the covariance of the three."""
    n, y, z, omega = 40_000, 0.7, -0.4, torch.full((1,), tau**-2)
    cov = path([s, t, tau])
    step = cov - cov[1, 1]  # of the increments after t: z0 itself is not known
    gain, left = step[0, 2] / step[2, 2], step[0, 0] - step[0, 2] ** 2 / step[2, 2]
    found = RePaint._up(torch.full((n, 1), z), torch.full((n, 1), y), omega, t, s, randn(n, 1))
    mean = torch.tensor([z + float(gain) * (y - z)], dtype=torch.float64)
    assert max(errors(found, mean, left[None])) < 4.5
    # The control: the noise that a jump adds where nothing is observed.
    free = RePaint._up(torch.full((n, 1), z), torch.full((n, 1), y), 0 * omega, t, s, randn(n, 1))
    assert max(errors(free, torch.tensor([z], dtype=torch.float64), step[:1, 0])) < 4.5
    assert max(errors(free, mean, left[None])) > 10


def test_a_jump_back_above_the_noise_is_the_measurement_noised_up():
    n, y, tau = 40_000, 0.7, 0.3
    for t, s in ((0.2, 0.5), (0.4, 0.5)):
        found = RePaint._up(
            torch.full((n, 1), -9.0), torch.full((n, 1), y), torch.full((1,), tau**-2), t, s, randn(n, 1)
        )
        right = torch.tensor([s**2 - tau**2], dtype=torch.float64)
        assert max(errors(found, torch.tensor([y], dtype=torch.float64), right)) < 4.5
        assert max(errors(found, torch.tensor([y], dtype=torch.float64), right + tau**2)) > 10  # the control


def test_only_the_ratio_of_gain_and_noise_counts():
    prior = two_modes()
    a = draw(RePaint(steps=20), prior, Y, diagonal([1.0, 0.0], 0.1), n=50)
    b = draw(RePaint(steps=20), prior, 4 * Y, diagonal([4.0, 0.0], 0.4), n=50)
    assert torch.allclose(a, b, atol=1e-4)


def test_pixels_of_different_noise():
    """One gain for each pixel: independent pixels follow their own noise."""
    prior, gains, y = isotropic(2, 0.25, 0.01, 10.0), torch.tensor([2.0, 0.5]), torch.tensor([[0.9, -0.1]])
    z = draw(RePaint(steps=200, resample=1), prior, y, diagonal(gains.tolist(), 0.4), n=1000)
    right, swapped = (prior.posterior(torch.diag(g), y[0], 0.4) for g in (gains, gains.flip(0)))
    assert max(errors(z, right.mean, right.variance)) < 4.4
    assert max(errors(z, swapped.mean, swapped.variance)) > 10


# It has too little variance, as has every rule that takes the ancestral step with D alone, and a hidden pixel only
# learns of the measurement by being drawn again.
def test_resampling_is_what_carries_the_measurement_over():
    once, often = (on_gaussian(RePaint(resample=resample), "mask", problems=8) for resample in (1, 10))
    assert often.bias < 0.4 * once.bias and often.excess.value < 0.4 * once.excess.value
    assert not agrees(RePaint(resample=3), "mask", "repaint")


def test_costs_and_units():
    assert calls(RePaint(steps=7, resample=3, jump=2)) == (21, 0)
    assert change_of_units(RePaint(steps=7, resample=3, jump=2)) < 1e-3


def likelihood(op, shape):
    y = op.A(torch.zeros(2, *shape))
    return Likelihood(y, op, AffinePrior(), sigma_y=0.1)


@pytest.mark.parametrize("name", ["grey", "fft-blur", "super-resolution", "single-coil", "compressed", "multi-coil"])
def test_what_mixes_pixels_is_refused_in_one_sentence(name):
    build, shape = OPERATORS[name]
    torch.manual_seed(0)
    with pytest.raises(AmbientSolveError) as error:
        RePaint().check(likelihood(build(), shape))
    assert one_sentence(error) and "mask" in str(error.value)


def test_a_faint_operator_is_refused_all_the_same():
    mixing = 1e-4 * torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    with pytest.raises(AmbientSolveError, match="mask"):
        RePaint().check(Likelihood(torch.zeros(1, 4), matrix_operator(mixing, 1e-6, (4,)), AffinePrior(axes=1)))


@pytest.mark.parametrize("name", ["mask", "denoising", "decimation"])
def test_masks_of_every_kind_are_taken(name):
    build, shape = OPERATORS[name]
    RePaint().check(likelihood(build(), shape))
    RePaint().check(likelihood(dp.Demosaicing((3, 6, 4), noise_model=NOISE), (3, 6, 4)))


def test_a_non_linear_operator_is_refused():
    op = dp.Physics(A=lambda x, **_: x**2, noise_model=NOISE)
    with pytest.raises(AmbientSolveError, match="linear"):
        RePaint().check(likelihood(op, (1, 4, 4)))
