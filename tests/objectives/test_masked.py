"""Incomplete samples teach the whole picture: entries that a sample never showed are predicted as the theory says."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.noise import Streams, per_sample
from ambient_solve.objectives.base import Batch
from ambient_solve.objectives.denoise import WEIGHTS, Denoise
from ambient_solve.objectives.masked import Masked, project
from ambient_solve.priors.network import NetworkConfig, NetworkPrior
from ambient_solve.transforms import hartley
from helpers import DECISIVE, NULL, Draws, one_sentence, rand, randn, standard_errors

SIZE, SIDE, SIGMA = 16, 4, 0.5


class Mixture:
    """`sum_k w_k N(m_k, C_k)` of flat vectors: samples, and the exact mean given some noisy entries."""

    def __init__(self, weights: list[float], means: Tensor, covariances: Tensor) -> None:
        self.weights, self.means, self.covariances = (
            torch.tensor(weights).double(),
            means.double(),
            covariances.double(),
        )

    def sample(self, n: int, seed: int) -> Tensor:
        draws = Draws(seed)
        which = (draws.uniform(torch.empty(n, 1)) > self.weights.cumsum(0)[:-1]).sum(1)
        unit = draws.normal(torch.empty(n, self.means.shape[1], dtype=torch.float64))
        roots = torch.linalg.cholesky(self.covariances)
        return self.means[which] + (roots[which] @ unit[..., None])[..., 0]

    def mean_given(self, u: Tensor, seen: Tensor, sigma: float) -> Tensor:
        """`E[z0 | seen * (z0 + sigma n) = u]`, all (n, d): kriging, weighted by the evidence of what is seen."""
        u, seen = u.double(), seen.double()
        log_weights, means = [], []
        for weight, mean, covariance in zip(self.weights, self.means, self.covariances, strict=True):
            noisy = covariance + sigma**2 * torch.eye(len(mean)).double()
            root = torch.linalg.cholesky(seen[:, :, None] * noisy * seen[:, None] + torch.diag_embed(1 - seen))
            residual = seen * (u - mean)
            white = torch.cholesky_solve(residual[..., None], root)[..., 0]
            means.append(mean + white @ covariance)
            log_det = root.diagonal(dim1=1, dim2=2).log().sum(1)
            log_weights.append(weight.log() - 0.5 * (residual * white).sum(1) - log_det)
        share = torch.stack(log_weights, 1).softmax(1)
        return torch.einsum("nk,knd->nd", share, torch.stack(means))


def smooth(length: float, scale: float = 1.0) -> Tensor:
    i = torch.arange(SIZE).double()
    return scale * torch.exp(-(i[:, None] - i).abs() / length)


WAVE = torch.linspace(-1, 1, SIZE).sin()
MIXTURE = Mixture([0.4, 0.6], torch.stack([WAVE, -WAVE]), torch.stack([smooth(3.0, 0.3), smooth(6.0, 0.8)]))


def make_batch(z0: Tensor, mask: Tensor | None, sigma: float = SIGMA, sigma_noise: float = 0.0, seed: int = 9) -> Batch:
    """Flat `z0` and `mask` (n, d) as stored pictures (n, 1, SIDE, SIDE), the damage done."""
    y = (z0 + sigma_noise * Draws(seed).normal(z0)).float().reshape(-1, 1, SIDE, SIDE)
    mask = None if mask is None else mask.reshape(y.shape).float()
    noise = torch.full((len(y),), sigma_noise)
    z = y if mask is None else mask * y
    return Batch(
        z=z, sigma=torch.full((len(y),), sigma), sigma_noise=noise, sigma_min=noise, sigma_max=0 * noise, mask=mask
    )


# What is learned ---

GROUP = torch.arange(SIZE) % 4
"""Four groups of entries; a sample misses one, or none, and one more is hidden at a training step."""


class Cubature:
    """Every pair of masks once, and in each of them points with exactly the second moments of `(z0, e, n)`.

    A linear denoiser has a quadratic loss, whose mean over these few points is its expectation: no sampling error.
    """

    def __init__(self, covariance: Tensor, sigma_noise: float) -> None:
        axes = math.sqrt(3 * SIZE) * torch.eye(3 * SIZE).double()
        z0, e, n = torch.cat([axes, -axes]).split(SIZE, 1)
        y = z0 @ torch.linalg.cholesky(covariance).T + sigma_noise * e
        missing, hidden = torch.cartesian_prod(torch.arange(5), torch.arange(4)).T
        self.mask, self.keep = ((which[:, None] != GROUP).repeat_interleave(len(n), 0) for which in (missing, hidden))
        self.n, self.y = n.repeat(20, 1), y.repeat(20, 1)

    def batch(self, sigma_noise: float) -> Batch:
        batch = make_batch(self.y, self.mask)
        return replace(batch, sigma_noise=torch.full_like(batch.sigma, sigma_noise))

    def normal(self, like: Tensor) -> Tensor:
        return self.n.to(like).reshape(like.shape)

    def uniform(self, like: Tensor) -> Tensor:
        return 0.999 * self.keep.to(like).reshape(like.shape)


def learned(objective: Masked, streams: Cubature, batch: Batch) -> tuple[Tensor, Tensor]:
    """What minimises the expected loss with a free linear map for each mask: masks (k, d) and maps (k, d, d).

    The loss is quadratic and the rows of a map do not interact: d + 1 gradients hold all of its coefficients.
    """
    seen = streams.mask * (streams.keep if objective.delta else 1)
    masks, which = seen.float().unique(dim=0, return_inverse=True)

    def gradient(at: Tensor) -> Tensor:
        maps = at.expand(len(masks), -1, -1).clone().requires_grad_()
        loss = objective.loss(lambda z, s, m: (maps[which] @ z.reshape(-1, SIZE, 1)).reshape(z.shape), batch, streams)
        return torch.autograd.grad(loss.sum(), maps)[0].double()

    slope, unit = gradient(torch.zeros(SIZE, SIZE)), torch.eye(SIZE)
    curvature = torch.stack([gradient(unit[j].expand(SIZE, -1)) - slope for j in range(SIZE)], -1)
    return masks, -(torch.linalg.pinv(curvature, rtol=1e-5) @ slope[..., None])[..., 0]


@pytest.mark.parametrize("sigma_noise", [0.0, 0.3])
@pytest.mark.parametrize("delta", [0.1, 0.0])
def test_the_minimiser_is_exact_on_entries_that_a_sample_never_showed(delta, sigma_noise):
    covariance = smooth(3.0)
    streams, noisy = Cubature(covariance, sigma_noise), covariance + SIGMA**2 * torch.eye(SIZE)
    errors = {"visible": [], "hidden": []}
    for mask, found in zip(*learned(Masked(delta, delta), streams, streams.batch(sigma_noise)), strict=True):
        k, root = mask > 0, torch.linalg.cholesky(noisy[mask > 0][:, mask > 0])
        wanted = covariance[:, k] @ torch.cholesky_inverse(root)  # Sigma_{:,k} (Sigma_kk + sigma^2 I)^-1
        for name, entries in (("visible", k), ("hidden", ~k)):
            if entries.any():
                apart = (found[:, k] - wanted)[entries] @ root
                errors[name].append(float(apart.norm() / (wanted[entries] @ root).norm()))
    visible, hidden = (sum(e) / len(e) for e in errors.values())
    print(f"\ndelta {delta}, noise {sigma_noise}: error {visible:.1e} on visible entries, {hidden:.1e} on hidden ones")
    assert visible < 1e-3
    # Control: with delta = 0 nothing is learned of hidden entries.
    assert hidden < 1e-3 if delta else hidden > 0.5


def bernoulli(n: int, p: float, seed: int) -> Tensor:
    return (Draws(seed).uniform(torch.empty(n, SIZE)) < p).float()


class Heard:
    """A denoiser that remembers what it was given: the draws are the same again, and so is its answer."""

    def __init__(self, answer) -> None:
        self.answer = answer

    def __call__(self, z: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
        self.z, self.sigma, self.cond = z, sigma, cond
        return self.answer(z.flatten(1), None if cond is None else cond.flatten(1)).reshape(z.shape)


def leads(objective: Masked, batch: Batch, exact, wrong: dict) -> dict[str, float]:
    """By how many standard errors the exact denoiser scores better than each of `wrong`, (D, z, seen) -> D."""
    heard = Heard(exact)
    best = objective.loss(heard, batch, Draws(2))
    z, cond = heard.z.flatten(1), None if heard.cond is None else heard.cond.flatten(1)
    z0 = heard.answer(z, cond)
    answers = {what: change(z0, z, cond).float().reshape(batch.z.shape) for what, change in wrong.items()}
    return {
        what: standard_errors(objective.loss(lambda *_, a=a: a, batch, Draws(2)) - best) for what, a in answers.items()
    }


@pytest.mark.parametrize("sigma_noise", [0.0, 0.3])
def test_exact_mean_beats_every_perturbation_on_masked_data_alone(sigma_noise):
    prior, n = MIXTURE, 24_000
    batch = make_batch(prior.sample(n, seed=4), bernoulli(n, 0.6, seed=5), sigma_noise=sigma_noise)

    def exact(z: Tensor, seen: Tensor) -> Tensor:
        return prior.mean_given(z, seen, SIGMA)

    wrong = {
        "5 % larger": lambda d, z, k: 1.05 * d,
        "5 % smaller": lambda d, z, k: 0.95 * d,
        "15 % of the noise left": lambda d, z, k: d + 0.15 * k * (z - d),
        "hidden ones 15 % larger": lambda d, z, k: d + 0.15 * (1 - k) * d,
        "hidden ones shifted by .1": lambda d, z, k: d + 0.1 * (1 - k),
        "hidden ones left empty": lambda d, z, k: k * d,
        "mask not believed": lambda d, z, k: prior.mean_given(z, torch.ones_like(k), SIGMA),
        "given a level 10 % too high": lambda d, z, k: prior.mean_given(z, k, 1.1 * SIGMA),
    }
    found = leads(Masked(0.3, 0.3), batch, exact, wrong)
    least = min(found, key=found.get)
    print(
        f"\nmixture, noise {sigma_noise}: the exact mean leads by at least {found[least]:.1f} standard errors ({least})"
    )
    assert found[least] > DECISIVE, least
    # Control: with delta = 0 any answer on hidden entries scores the same.
    blind = leads(Masked(delta=0.0), batch, exact, {k: v for k, v in wrong.items() if "hidden" in k})
    assert all(math.isnan(lead) for lead in blind.values())  # 0 / 0: no sample differs


def test_compressed_sensing_learns_the_coefficients_that_were_never_measured():
    prior, n = MIXTURE, 12_000
    signs = (2.0 * (rand(1, 1, SIDE, SIDE, seed=6) > 0.5) - 1).expand(n, 1, SIDE, SIDE)
    coefficients = hartley(torch.eye(SIZE).reshape(-1, 1, SIDE, SIDE)).reshape(SIZE, SIZE).double() * signs[0].flatten()
    means, covariances = prior.means @ coefficients.T, coefficients @ prior.covariances @ coefficients.T
    domain = Mixture(prior.weights.tolist(), means, covariances)
    batch = make_batch(prior.sample(n, seed=4), None, sigma_noise=0.2)
    batch.mask, batch.signs = bernoulli(n, 0.6, seed=5).reshape(batch.z.shape), signs
    batch.z = project(batch.z, batch.mask, signs)

    def visible(z: Tensor) -> tuple[Tensor, Tensor]:
        c = z.double() @ coefficients.T
        return c, (c.abs() > 1e-5).double()  # what was hidden shows: it is 0 to rounding

    def exact(z: Tensor, cond: None) -> Tensor:
        return domain.mean_given(*visible(z), SIGMA) @ coefficients

    def hidden(d: Tensor, z: Tensor) -> Tensor:
        return ((1 - visible(z)[1]) * (d @ coefficients.T)) @ coefficients

    wrong = {
        "5 % larger": lambda d, z, _: 1.05 * d,
        "5 % smaller": lambda d, z, _: 0.95 * d,
        "hidden ones 15 % larger": lambda d, z, _: d + 0.15 * hidden(d, z),
        "hidden ones left empty": lambda d, z, _: d - hidden(d, z),
        "pixels for coefficients": lambda d, z, _: prior.mean_given(z, torch.ones_like(z), SIGMA),
    }
    found = leads(Masked(0.3, 0.3, mask_channels=0), batch, exact, wrong)
    least = min(found, key=found.get)
    print(f"\ncompressed sensing: the exact mean leads by at least {found[least]:.1f} standard errors ({least})")
    assert found[least] > DECISIVE, least
    # Control: with delta = 0 what is left empty costs nothing.
    objective, heard = Masked(delta=0.0, mask_channels=0), Heard(exact)
    best = objective.loss(heard, batch, Draws(2))
    empty = wrong["hidden ones left empty"](exact(heard.z.flatten(1), None), heard.z.flatten(1), None)
    same = objective.loss(lambda *_: empty.reshape(batch.z.shape), batch, Draws(2))
    assert float((same - best).abs().mean()) < 1e-5 * float(best.mean())


# Exact identities ---


def some_batch(n: int = 12, channels: int = 3, mask_channels: int = 1, sigma_noise: float = 0.0) -> Batch:
    mask = (rand(n, mask_channels, 6, 6, seed=11) > 0.4).float()
    sigma, zero = 0.3 + rand(n, seed=12), torch.zeros(n)
    return Batch(mask * randn(n, channels, 6, 6, seed=10), sigma, zero + sigma_noise, zero, zero, mask)


def net(channels: int = 3):
    """A denoiser that mixes all it is given, channels and neighbours; `cond` moves it too."""
    conv = torch.nn.Conv2d(channels, channels, 3, padding=1)
    torch.nn.init.normal_(conv.weight, generator=torch.Generator().manual_seed(13))

    def denoise(z: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
        return conv(z) / per_sample(1 + sigma, z) + (
            0 if cond is None else (1 - cond).sum((1, 2, 3))[:, None, None, None]
        )

    return denoise


@pytest.mark.parametrize("sigma_noise", [0.0, 0.2])
@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("mask_channels", [0, 1])
def test_with_everything_observed_it_is_denoise_bit_for_bit(mask_channels, weight, sigma_noise):
    batch, denoise = some_batch(sigma_noise=sigma_noise), net()
    expected = Denoise(weight, 0.4).loss(denoise, replace(batch, mask=None), Streams(range(12), 1))

    def loss(mask: Tensor | None, delta: float = 0.0) -> Tensor:
        objective = Masked(delta, mask_channels=mask_channels, weight=weight, sigma_data=0.4)
        return objective.loss(denoise, replace(batch, mask=mask), Streams(range(12), 1))

    assert torch.equal(loss(None), expected) and torch.equal(loss(torch.ones_like(batch.mask)), expected)
    # Control: what is hidden changes it.
    assert not torch.equal(loss(None, 0.1), expected) and not torch.equal(loss(batch.mask), expected)


@pytest.mark.parametrize("mask_channels", [1, 3])
def test_what_was_not_observed_cannot_be_known(mask_channels):
    """Neither the input nor the loss depends on entries outside the mask, at any training step."""
    batch, heard = some_batch(mask_channels=mask_channels, sigma_noise=0.1), Heard(lambda z, seen: z)
    other = replace(batch, z=batch.z + (1 - batch.mask) * randn(*batch.z.shape, seed=14))
    ever, always, loss = (
        torch.zeros_like(batch.mask),
        torch.ones_like(batch.mask),
        Masked(0.3, mask_channels=mask_channels).loss,
    )
    for step in range(60):
        first, shown = loss(heard, batch, Streams(range(step, step + 12), 1)), heard.z
        again = loss(heard, other, Streams(range(step, step + 12), 1))
        assert torch.equal(again, first) and torch.equal(heard.z, shown)
        assert torch.equal(shown, shown * heard.cond) and heard.cond.shape == batch.mask.shape
        ever, always = torch.maximum(ever, heard.cond), torch.minimum(always, heard.cond)
    # All that was observed is shown at some training step and hidden at another, and nothing else ever.
    assert torch.equal(ever, batch.mask) and not always.any()
    # Controls: a loss on all entries knows, and so would a mask that is drawn anew at each training step.
    plain = [Denoise().loss(heard, replace(b, mask=None), Draws(1)) for b in (batch, other)]
    assert not torch.equal(*plain)
    with pytest.raises(AmbientSolveError, match="incomplete samples"):
        Denoise().loss(heard, batch, Draws(1))


def test_coefficients_that_were_not_measured_cannot_be_known():
    batch, heard = some_batch(), Heard(lambda z, _: z)
    signs = 2.0 * (rand(*batch.z.shape, seed=15) > 0.5) - 1
    clean, rest = randn(*batch.z.shape, seed=16), randn(*batch.z.shape, seed=17)
    rest = rest - project(rest, batch.mask, signs)
    batch = replace(batch, z=project(clean, batch.mask, signs), signs=signs)
    first, shown = Masked(0.3, mask_channels=0).loss(heard, batch, Draws(1)), heard.z
    again = Masked(0.3, mask_channels=0).loss(heard, replace(batch, z=batch.z + rest), Draws(1))
    torch.testing.assert_close(again, first, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(heard.z, shown, rtol=1e-4, atol=1e-4)
    # Control: with the signs of another sample it would show.
    leak = Masked(0.3, mask_channels=0).loss(heard, replace(batch, z=batch.z + rest, signs=signs.flip(0)), Draws(1))
    assert (leak - first).abs().max() > 0.1


def test_what_is_hidden_depends_on_the_stream_of_the_row_alone():
    batch, heard = some_batch(n=5), Heard(lambda z, seen: z)

    def step(rows: list[int], seeds: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        part = Batch(**{k: v[rows] for k, v in vars(batch).items() if v is not None})
        return Masked(0.4).loss(heard, part, Streams(seeds, 1)), heard.z, heard.cond

    together, apart = step([0, 1, 2, 3, 4], [10, 11, 12, 13, 14]), step([3, 1], [13, 11])
    assert all(torch.equal(a, t[[3, 1]]) for a, t in zip(apart, together, strict=True))
    changed = step([0, 1, 2, 3, 4], [10, 11, 99, 13, 14])[2]
    assert torch.equal((changed != together[2]).flatten(1).any(1), torch.tensor([False, False, True, False, False]))


def test_held_out_pictures_are_judged_on_what_the_denoiser_does_not_see():
    batch, heard = some_batch(), Heard(lambda z, seen: z)
    batch.z = randn(*batch.z.shape, seed=18)  # whole and clean
    found = Masked(0.3).held_out(heard, batch, Streams(range(12), 1))
    assert torch.equal(heard.cond, batch.mask) and torch.equal(heard.z, heard.z * batch.mask)
    expected = Denoise().weights(batch.sigma, batch.sigma_noise) * (heard.z - batch.z).square().flatten(1).mean(1)
    torch.testing.assert_close(found, expected)
    # Control: the training loss does not judge there.
    other = replace(batch, z=batch.z + (1 - batch.mask))
    assert (Masked(0.3).held_out(heard, other, Streams(range(12), 1)) != found).all()
    assert torch.equal(*(Masked(0.3).loss(heard, b, Streams(range(12), 1)) for b in (batch, other)))


@pytest.mark.parametrize(("delta", "delta_min"), [(0.1, 0.1), (0.5, 0.5), (0.5, 0.1), (0.1, 0.5)])
def test_the_share_that_is_hidden(delta, delta_min):
    n, objective, unconditional = 4000, Masked(delta, delta_min), Masked(delta, delta_min, mask_channels=0)
    batch, heard = make_batch(torch.zeros(n, SIZE), bernoulli(n, 0.6, 1)), Heard(lambda z, seen: z)
    objective.loss(heard, batch, Draws(2))
    low, high = min(delta_min, delta), delta
    mean, variance = (low + high) / 2, (high - low) ** 2 / 12
    each = batch.mask.flatten(1).sum(1)
    observed = float(each.sum())
    assert math.isclose(objective.keep_probability(0.6), float(heard.cond.mean()), rel_tol=0.02)
    assert unconditional.keep_probability(0.6) is None
    # Entries are hidden independently, by the share of the sample: a binomial, whose mean is drawn too.
    binomial = mean * (1 - mean) - variance
    error = math.sqrt(binomial * observed + variance * float(each.square().sum())) / observed
    assert abs(1 - float(heard.cond.sum()) / observed - mean) < NULL * error
    spread = (batch.mask - heard.cond).flatten(1).sum(1) - mean * each
    wanted = binomial * observed / n + variance * float(each.square().mean())
    assert abs(float(spread.square().mean()) / wanted - 1) < 0.15
    # Control: the spread of a share that is always the same is another.
    assert low == high or float(spread.square().mean()) > 1.5 * mean * (1 - mean) * observed / n


@pytest.mark.parametrize(("given", "mask_channels"), [(1, 0), (1, 1), (1, 3), (3, 3)])
def test_a_network_is_shown_as_many_mask_channels_as_it_has(given, mask_channels):
    config = NetworkConfig(widths=(8, 8, 8, 8), groups=4, embedding=16, mask_channels=mask_channels)
    batch = some_batch(n=2, mask_channels=given)
    prior = NetworkPrior(config, "float32")
    assert Masked(mask_channels=mask_channels).loss(prior, batch, Streams([0, 1], 1)).shape == (2,)
    with pytest.raises(AmbientSolveError, match="mask_channels"):
        Masked(mask_channels=mask_channels + 1 if given == 1 else 0).loss(prior, batch, Streams([0, 1], 1))


def test_bad_input_is_one_sentence():
    batch = some_batch(n=2, mask_channels=3)
    maps, signs = torch.ones(2, 1, 6, 6, dtype=torch.complex64), torch.ones_like(batch.z)
    for match, objective, wrong in (
        ("mask_channels", Masked(), batch),
        ("kspace", Masked(), replace(batch, maps=maps)),
        ("coefficients", Masked(), replace(batch, signs=signs)),
    ):
        with pytest.raises(AmbientSolveError, match=match) as error:
            objective.loss(net(), wrong, Streams([0, 1], 1))
        assert one_sentence(error)
    with pytest.raises(AmbientSolveError, match="delta"):
        Masked(delta=1.0)
    with pytest.raises(AmbientSolveError, match="Did you mean 'laws'"):
        Masked(weight="law")
