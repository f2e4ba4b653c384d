"""Soft score matching: on Gaussian data the exact denoiser wins, from clean, noisy, blurred samples and all of them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.noise import per_sample
from ambient_solve.objectives.base import Batch, Denoiser
from ambient_solve.objectives.denoise import Denoise, buffer
from ambient_solve.objectives.soft import SoftMatching
from ambient_solve.process import Additive, Downsample, Drift, Fade, GaussianBlur, LinearFamily, Soft
from helpers import DECISIVE, NULL, Draws, randn, standard_errors

DRAWS, SIDE, DATA = 40_000, 4, 0.5
NOISE, WIDTH = 0.15, 0.5
PROCESS = Soft(GaussianBlur(), lambda t: t)  # the blur in pixels and the noise are both the level
KINDS = ("clean", "noisy", "blurred", "blurred and noisy", "all")
LEVEL = 0.6


def gaussian(n: int, seed: int) -> Tensor:
    """White Gaussian data through a filter: what a blur and its Fourier transform are diagonal with."""
    family, white = GaussianBlur(), randn(n, 1, SIDE, SIDE, seed=seed)
    return DATA * (family(white, 0.3) + 0.3 * white)


def power(family: LinearFamily) -> Tensor:
    """Variance of each frequency of `gaussian`."""
    return (DATA * (family.gains(torch.zeros(1, 1, SIDE, SIDE), 0.3) + 0.3)) ** 2


def exact(z: Tensor, level: Tensor) -> Tensor:
    """`E[z0 | z_t]` of those data under `PROCESS`."""
    family = GaussianBlur()
    g, p = family.gains(z, level), power(family)
    return family.synthesize(g * p / (g**2 * p + per_sample(level, z) ** 2) * family.analyze(z))


def stored(kind: str, seed: int, level: float = LEVEL) -> Batch:
    """Samples with the damage of a kind, all used at one level."""
    z0 = gaussian(DRAWS, seed)
    row = torch.arange(DRAWS)
    noisy = {"noisy": True, "blurred and noisy": True, "all": row % 2 == 1}.get(kind, False)
    blurred = {"blurred": True, "blurred and noisy": True, "all": row % 4 > 1}.get(kind, False)
    blur, noise = WIDTH * (torch.zeros(DRAWS) + torch.as_tensor(blurred)), torch.zeros(DRAWS) + torch.as_tensor(noisy)
    y = GaussianBlur()(z0, blur) + per_sample(NOISE * noise, z0) * randn(*z0.shape, seed=seed + 100)
    zero = torch.zeros(DRAWS)
    return Batch(y, zero + level, NOISE * noise, zero, zero, blur=blur if bool((blur > 0).any()) else None)


WRONG = {
    "10 % larger": lambda z, t: 1.1 * exact(z, t),
    "10 % smaller": lambda z, t: 0.9 * exact(z, t),
    "shifted by .1": lambda z, t: exact(z, t) + 0.1,
    "given a level 25 % too high": lambda z, t: exact(z, 1.25 * t),
    "given a level 25 % too low": lambda z, t: exact(z, 0.75 * t),
    "a fifth of the state left in": lambda z, t: 0.8 * exact(z, t) + 0.2 * z,
}


@pytest.mark.parametrize("kind", KINDS)
def test_exact_denoiser_beats_every_perturbation(kind):
    objective, batch = SoftMatching().of_process(PROCESS), stored(kind, seed=1)
    best, least = objective.loss(exact, batch, Draws(2)), math.inf
    for what, wrong in WRONG.items():
        lead = standard_errors(objective.loss(wrong, batch, Draws(2)) - best)
        least = min(lead, least)
        assert lead > DECISIVE, f"{what}: the exact denoiser leads by {lead:.1f} standard errors only"
    print(f"\n{kind}: the exact denoiser leads by at least {least:.1f} standard errors")


def without(batch: Batch, *names: str) -> Batch:
    """A batch that says nothing of some of its damage."""
    return Batch(**{**vars(batch), **{n: None if n == "blur" else 0 * batch.sigma for n in names}})


@pytest.mark.parametrize("kind", KINDS)
def test_exact_denoiser_is_a_stationary_point_in_every_direction(kind):
    """`E[(C_t D - tau) g(z_t)] = 0`: the target is unbiased. What forgets the damage has a slope there."""
    objective, batch = SoftMatching().of_process(PROCESS), stored(kind, seed=3)
    directions = {"z": lambda z: z, "1": torch.ones_like, "cubes": lambda z: z**3, "moved": lambda z: z.roll(1, -1)}

    def slope(data: Batch, g) -> float:
        up = objective.loss(lambda z, t: exact(z, t) + g(z), data, Draws(4))
        return standard_errors(up - objective.loss(lambda z, t: exact(z, t) - g(z), data, Draws(4)))

    for what, g in directions.items():
        found = slope(batch, g)
        assert abs(found) < NULL, f"{what}: slope of {found:.1f} standard errors at the exact denoiser"
    for forgotten in (("blur",), ("sigma_noise",)):
        if forgotten[0].removeprefix("sigma_") in kind.replace("blurred", "blur").replace("noisy", "noise"):
            assert abs(slope(without(batch, *forgotten), directions["z"])) > DECISIVE, forgotten


def test_target_of_a_blurred_sample_is_exact_and_the_loss_sees_no_more():
    """Without noise the loss of the truth is 0: what the blur of the sample destroyed is what the loss leaves out."""
    z0 = gaussian(50, 5).double()
    blur = torch.full((50,), WIDTH).double()
    zero = 0 * blur
    objective = SoftMatching().of_process(PROCESS)
    batch = Batch(GaussianBlur()(z0, WIDTH), zero + LEVEL, zero, zero, zero, blur=blur)
    truth: Denoiser = lambda z, t: z0  # noqa: E731
    assert float(objective.loss(truth, batch, Draws(6)).max()) < 1e-9
    # Controls: the blurred sample is no clean one, and at a level less blurry than it the formula would not hold.
    assert float(objective.loss(truth, without(batch, "blur"), Draws(6)).min()) > 1e-3
    sharper = Batch(**{**vars(batch), "sigma": zero + 0.5 * WIDTH})
    assert float(objective.loss(truth, sharper, Draws(6)).min()) > 1e-3


@pytest.mark.parametrize(("family", "level"), [(GaussianBlur(), 0.5), (Fade(), 1.5), (Downsample(), 1.5)])
def test_target_of_a_noisy_sample_has_the_variance_of_its_formula(family, level):
    """`tau - C_t z0` is uncorrelated with the state, and of variance `g^2 s_n^2 s^2 / (s^2 - g^2 s_n^2)`, by part."""
    process = Soft(family, lambda t: t)
    z0 = gaussian(DRAWS, 7)
    one = torch.ones(DRAWS)
    y = z0 + NOISE * randn(*z0.shape, seed=8)
    batch, seen = Batch(y, level * one, NOISE * one, 0 * one, 0 * one), []

    def truth(z: Tensor, t: Tensor) -> Tensor:
        seen.append(z)
        return z0

    objective = SoftMatching(DATA).of_process(process)
    gains = family.gains(z0[:1], torch.tensor([level]))
    noise = NOISE**2 * gains**2
    v = float(family.share(z0[:1], noise * level**2 / (level**2 - noise)))
    p = DATA**2 * family.power(z0[:1])
    left = float(family.share(z0[:1], gains**2 * p * level**2 / (gains**2 * p + level**2)))
    error = objective.loss(truth, batch, Draws(9)) * (left + v)
    entries = DRAWS * float(family.share(z0[:1], gains**2)) * SIDE**2
    assert abs(float(error.mean()) / v - 1) < 2 * NULL / math.sqrt(entries / 2)
    # The states are those of the process: their noise is white, of the level, in every part.
    n = family.analyze(seen[0]) - gains * family.analyze(z0)
    wanted = family.analyze(level * randn(*z0.shape, seed=10)).abs().square().mean(0)
    assert torch.allclose(n.abs().square().mean(0), wanted, rtol=0.1, atol=0.02 * level**2)


@pytest.mark.parametrize("sigma_noise", [0.0, NOISE])
def test_without_a_corruption_it_is_denoising(sigma_noise):
    batch = stored("noisy" if sigma_noise else "clean", seed=11)
    batch.sigma = torch.linspace(buffer(4.0) * NOISE * 1.001, 3, DRAWS)
    wanted = Denoise().loss(exact, batch, Draws(12))
    torch.testing.assert_close(SoftMatching().loss(exact, batch, Draws(12)), wanted)
    still = Soft(GaussianBlur(), lambda t: 0 * t)
    found = SoftMatching().of_process(still).loss(exact, batch, Draws(12))
    ratio = found / wanted
    assert float((ratio[1:] / ratio[:-1] - 1).abs().max()) < 1e-2, "the weight of a level alone may differ"
    assert not torch.allclose(SoftMatching().of_process(PROCESS).loss(exact, batch, Draws(12)), found)


def test_a_sample_at_the_level_of_its_own_noise_counts_nothing():
    batch = stored("noisy", seed=13, level=NOISE)
    still = SoftMatching().of_process(Soft(GaussianBlur(), lambda t: 0 * t))
    leaf = torch.tensor(1.0, requires_grad=True)
    loss = still.loss(lambda z, t: leaf * z, batch, Draws(14))
    loss.sum().backward()
    assert float(loss.detach().abs().max()) == 0 and float(leaf.grad) == 0


def test_a_corruption_of_ones_own_learns_from_clean_samples():
    process = Soft(lambda z, t: z * (1 - per_sample(t, z) / 4), lambda t: t)
    batch = stored("clean", seed=15)
    objective = SoftMatching().of_process(process)
    truth = gaussian(DRAWS, 15)
    assert float(objective.loss(lambda z, t: truth, batch, Draws(16)).max()) < 1e-9
    assert float(objective.loss(lambda z, t: z, batch, Draws(16)).min()) > 1e-4


@pytest.mark.parametrize(
    ("objective", "process", "given", "words"),
    [
        (Denoise(), PROCESS, "", r"Denoise learns from additive noise, .* Soft: set objective: \{kind: soft\}"),
        (SoftMatching(), Drift(lambda z, t: -z, 1.0, law=lambda t, n: n), "", "not Drift"),
        (SoftMatching(), Additive(), "blur", "Gaussian blur were given, and the process knows Identity"),
        (SoftMatching(), Soft(Fade(), lambda t: t), "blur", "the process knows Fade"),
        (SoftMatching(), Soft(lambda z, t: z, lambda t: t), "sigma_noise", "need a corruption with a spectrum"),
        (SoftMatching(), PROCESS, "mask", "incomplete samples"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(objective, process, given, words):
    one = torch.ones(2)
    batch = Batch(randn(2, 1, SIDE, SIDE), 2 * one, 0 * one, 0 * one, 0 * one)
    if given:
        setattr(batch, given, one)
    with pytest.raises(AmbientSolveError, match=words):
        objective.of_process(process).loss(exact, batch, Draws(1))
