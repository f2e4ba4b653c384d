"""The losses: the exact denoiser wins on noisy data alone, and clean data see the loss of EDM, bit for bit."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.noise import Streams, per_sample
from ambient_solve.objectives.base import Batch, edm_weight
from ambient_solve.objectives.denoise import WEIGHTS, Denoise, buffer
from ambient_solve.priors.gaussian import GaussianPrior, MixturePrior
from helpers import DECISIVE, NULL, Draws, standard_errors

SIGMA_NOISE = 0.3
DRAWS = 300_000


def mixture() -> MixturePrior:
    means = torch.tensor([[-0.4, 0.6], [0.7, 1.1], [0.8, 0.0]])
    return MixturePrior(torch.tensor([0.5, 0.3, 0.2]), means, torch.tensor([0.02, 0.01, 0.05]))


def gaussian() -> GaussianPrior:
    return GaussianPrior(torch.tensor([0.6, -0.5]), torch.tensor([[0.3, 0.15], [0.15, 0.2]]))


PRIORS = {"mixture": mixture(), "gaussian": gaussian()}
# From the buffer of s_max = 4 to where the noise in the data hardly matters; "all" mixes them in one batch.
LEVELS = {"at the buffer": 1.0001 * buffer(4.0), "twice": 2.0, "three times": 3.0, "all": None}


def noisy_batch(prior, level: float | None, seed: int) -> tuple[Batch, Tensor]:
    """A batch of noisy samples only, and the clean points behind them, which no loss may see."""
    generator = torch.Generator().manual_seed(seed)
    z0 = prior.sample(DRAWS, generator)
    noise = torch.full((DRAWS,), SIGMA_NOISE)
    y = z0 + SIGMA_NOISE * torch.randn(z0.shape, generator=generator)
    spread = torch.rand(DRAWS, generator=generator) * math.log(4 / buffer(4.0))
    factor = buffer(4.0) * spread.exp() if level is None else torch.full((DRAWS,), level)
    return Batch(z=y, sigma=factor * noise, sigma_noise=noise, sigma_min=noise, sigma_max=0 * noise), z0


def perturbed(prior) -> dict:
    """Plausible wrong denoisers, each a few per cent from the exact one."""
    exact = prior.denoise
    return {
        "5 % larger": lambda z, s: 1.05 * exact(z, s),
        "5 % smaller": lambda z, s: 0.95 * exact(z, s),
        "shifted by .1": lambda z, s: exact(z, s) + 0.1,
        "10 % of the noise left": lambda z, s: 0.9 * exact(z, s) + 0.1 * z,
        "given a level 10 % too high": lambda z, s: exact(z, 1.1 * s),
        "given a level 10 % too low": lambda z, s: exact(z, 0.9 * s),
        "noise of the data added twice": lambda z, s: exact(z, (s**2 + SIGMA_NOISE**2).sqrt()),
        "noise of the data left in": lambda z, s: noisy_mean(exact, z, s),
    }


def noisy_mean(exact, z: Tensor, sigma: Tensor) -> Tensor:
    """`E[y | z_sigma]`: what a loss that regresses y learns."""
    a = per_sample(1 - SIGMA_NOISE**2 / sigma**2, z)
    return a * exact(z, sigma) + (1 - a) * z


def plain_loss(denoise, batch: Batch, draws) -> Tensor:
    """A plausible wrong loss: the right z_sigma, but the stored noisy sample as the target."""
    z_sigma = batch.z + per_sample((batch.sigma**2 - batch.sigma_noise**2).sqrt(), batch.z) * draws.normal(batch.z)
    error = (denoise(z_sigma, batch.sigma) - batch.z).square().flatten(1).mean(1)
    return edm_weight(batch.sigma, 0.5) * error


# At one level the three weights differ by a constant factor: only the mixed batch tells them apart.
@pytest.mark.parametrize(
    ("level", "weight"), [(level, "inverse_variance") for level in LEVELS] + [("all", "laws"), ("all", "omni")]
)
@pytest.mark.parametrize("name", PRIORS)
def test_exact_denoiser_beats_every_perturbation_on_noisy_data_alone(name, weight, level):
    prior, objective = PRIORS[name], Denoise(weight)
    batch, _ = noisy_batch(prior, LEVELS[level], seed=1)
    best, least = objective.loss(prior.denoise, batch, Draws(2)), math.inf
    for what, wrong in perturbed(prior).items():
        lead = standard_errors(objective.loss(wrong, batch, Draws(2)) - best)
        least = min(lead, least)
        assert lead > DECISIVE, f"{what}: the exact denoiser leads by {lead:.1f} standard errors only"
    print(f"\n{name}, {weight}, {level}: the exact denoiser leads by at least {least:.1f} standard errors")


@pytest.mark.parametrize("name", PRIORS)
def test_control_regressing_the_noisy_sample_prefers_a_wrong_denoiser(name):
    prior = PRIORS[name]
    batch, _ = noisy_batch(prior, None, seed=1)
    best = plain_loss(prior.denoise, batch, Draws(2))
    lead = standard_errors(plain_loss(lambda z, s: noisy_mean(prior.denoise, z, s), batch, Draws(2)) - best)
    print(f"\n{name}: the plain loss prefers the denoiser that leaves the noise in by {-lead:.0f} standard errors")
    assert lead < -DECISIVE


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("name", PRIORS)
def test_exact_denoiser_is_a_stationary_point_in_every_direction(name, weight):
    """At the minimiser `E[w (D - tau) g(z_sigma)] = 0` for every g."""
    prior, objective = PRIORS[name], Denoise(weight)
    batch, _ = noisy_batch(prior, None, seed=3)
    directions = {
        "1": torch.ones_like,
        "z": lambda z: z,
        "sin 5z": lambda z: torch.sin(5 * z),
        "swapped": lambda z: z.flip(-1),
        "near the middle": lambda z: torch.exp(-z.square().sum(-1, keepdim=True)).expand_as(z),
    }

    def slope(denoise, g, loss) -> float:
        # The loss is quadratic in D, so this difference quotient is its derivative exactly.
        up = loss(lambda z, s: denoise(z, s) + g(z), batch, Draws(4))
        down = loss(lambda z, s: denoise(z, s) - g(z), batch, Draws(4))
        return standard_errors(up - down)

    for what, g in directions.items():
        found = slope(prior.denoise, g, objective.loss)
        assert abs(found) < NULL, f"{what}: slope of {found:.1f} standard errors at the exact denoiser"
    # Control: the plain loss has a slope there.
    assert abs(slope(prior.denoise, directions["z"], plain_loss)) > DECISIVE


@pytest.mark.parametrize("factor", [1.2, 2.0, 6.0])
def test_target_is_unbiased_with_the_variance_of_identity_two(factor):
    """`Var(tau - z0) = sigma_n^2 sigma^2 / (sigma^2 - sigma_n^2)` per entry, and the error is orthogonal to z_sigma."""
    batch, z0 = noisy_batch(PRIORS["mixture"], factor, seed=5)
    objective, seen = Denoise("omni"), []

    def truth(z: Tensor, sigma: Tensor) -> Tensor:
        seen.append(z)
        return z0

    error = objective.loss(truth, batch, Draws(6)) / objective.weights(batch.sigma, batch.sigma_noise)
    sigma = factor * SIGMA_NOISE
    v = SIGMA_NOISE**2 * sigma**2 / (sigma**2 - SIGMA_NOISE**2)
    # The mean of 2 DRAWS squared normals has a relative standard error of 1 / sqrt(DRAWS).
    assert abs(float(error.mean()) / v - 1) < NULL / math.sqrt(DRAWS)
    # |z0 + z - tau|^2 - |z0 - z - tau|^2 = 4 z'(z0 - tau): no correlation with the input.
    up = objective.loss(lambda z, s: z0 + z, batch, Draws(6))
    down = objective.loss(lambda z, s: z0 - z, batch, Draws(6))
    assert abs(standard_errors(up - down)) < NULL
    assert len(seen) == 1


@pytest.mark.parametrize("weight", WEIGHTS)
def test_clean_samples_get_the_loss_of_edm_bit_for_bit(weight):
    generator = torch.Generator().manual_seed(7)
    z = torch.randn(64, 3, 8, 8, generator=generator)
    sigma = torch.exp(-1.2 + 1.2 * torch.randn(64, generator=generator))
    net = torch.nn.Conv2d(3, 3, 3, padding=1)

    def denoise(z: Tensor, sigma: Tensor) -> Tensor:
        return net(z) / (1 + sigma[:, None, None, None])

    # Karras et al. (2022), table 1, written out: D at y + sigma n against y.
    n = Streams(range(64), 1).normal(z)
    error = (denoise(z + sigma[:, None, None, None] * n, sigma) - z) ** 2
    weights = 1 / sigma**2 + 1 / 0.5**2
    torch.testing.assert_close(weights, (sigma**2 + 0.5**2) / (sigma * 0.5) ** 2)
    expected = weights * error.flatten(1).mean(1)

    zero = torch.zeros(64)
    batch = Batch(z=z, sigma=sigma, sigma_noise=zero, sigma_min=zero, sigma_max=zero)
    found = Denoise(weight).loss(denoise, batch, Streams(range(64), 1))
    assert torch.equal(found, expected)
    # Control: a trace of noise changes the bits.
    batch.sigma_noise = torch.full((64,), 1e-3)
    assert not torch.equal(Denoise(weight).loss(denoise, batch, Streams(range(64), 1)), expected)


def test_weights_stand_in_their_published_relations():
    sigma_noise = torch.tensor([0.0, 0.1, 0.3, 0.3, 0.3, 1.0], dtype=torch.float64)
    sigma = torch.tensor([0.2, 0.2, 0.35, 1.0, 80.0, 1.2], dtype=torch.float64)
    laws, omni, inverse = (Denoise(w).weights(sigma, sigma_noise) for w in ("laws", "omni", "inverse_variance"))
    a = 1 - sigma_noise**2 / sigma**2
    v = sigma_noise**2 * sigma**2 / (sigma**2 - sigma_noise**2)
    torch.testing.assert_close(omni, edm_weight(sigma, 0.5))
    torch.testing.assert_close(laws, a**2 * omni)
    torch.testing.assert_close(1 / inverse, 1 / omni + v)
    assert laws[0] == omni[0] == inverse[0]
    assert (inverse[1:] < omni[1:]).all() and (inverse[1:] < 1 / v[1:]).all() and (laws[1:] < omni[1:]).all()
    # At the buffer the target counts at most s_max times: sigma^2 / (sigma^2 - sigma_n^2) = s_max.
    for s_max in (1.5, 4.0, 10.0):
        assert math.isclose(buffer(s_max) ** 2 / (buffer(s_max) ** 2 - 1), s_max)


def test_inverse_variance_has_the_least_variance_in_the_estimate_of_a_mean():
    """Where D is known up to a shift, the weighted mean of the targets is sharpest under inverse variance."""
    sigma_noise = torch.cat([torch.zeros(50), torch.full((50,), 0.3)]).double()
    sigma = torch.full((100,), 0.36).double()
    posterior = 1 / edm_weight(sigma, 0.5)
    variance = posterior + (sigma_noise * sigma) ** 2 / (sigma**2 - sigma_noise**2)
    spread = {}
    for name in WEIGHTS:
        w = Denoise(name).weights(sigma, sigma_noise)
        spread[name] = float((w**2 * variance).sum() / w.sum() ** 2)
    assert spread["inverse_variance"] < min(spread["laws"], spread["omni"])


def test_noise_of_a_row_depends_on_its_stream_only():
    z = torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(8))
    sigma, noise = torch.linspace(0.5, 2, 5), torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4])
    seen = []

    def denoise(z: Tensor, sigma: Tensor) -> Tensor:
        seen.append(z)
        return 0.5 * z

    def loss(rows: list[int], seeds: list[int]) -> Tensor:
        batch = Batch(z[rows], sigma[rows], noise[rows], noise[rows], 0 * noise[rows])
        return Denoise().loss(denoise, batch, Streams(seeds, 1))

    together = loss([0, 1, 2, 3, 4], [10, 11, 12, 13, 14])
    apart = loss([3, 1], [13, 11])
    assert torch.equal(apart, together[[3, 1]]) and torch.equal(seen[1], seen[0][[3, 1]])
    changed = loss([0, 1, 2, 3, 4], [10, 11, 99, 13, 14])
    assert torch.equal(changed != together, torch.tensor([False, False, True, False, False]))


def test_bad_settings_are_one_sentence():
    with pytest.raises(AmbientSolveError, match="Did you mean 'omni'"):
        Denoise("omny")
    with pytest.raises(AmbientSolveError, match="sigma_data"):
        Denoise(sigma_data=0.0)
    for s_max in (1.0, 0.5, float("nan")):
        with pytest.raises(AmbientSolveError, match="s_max"):
            buffer(s_max)
