"""Undersampled k-space teaches the whole image, with any number of coils; what is dropped and what never is."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.noise import Streams
from ambient_solve.objectives import kspace
from ambient_solve.objectives.base import Batch
from ambient_solve.objectives.denoise import Denoise
from ambient_solve.objectives.kspace import KSpace, calibration, fewer_lines, gram, share
from ambient_solve.priors.network import NetworkConfig, NetworkPrior
from helpers import DECISIVE, NULL, Draws, one_sentence, randn, relative, standard_errors
from test_masked import net

SIDE, SIGMA, N = 8, 0.4, 2500
ALWAYS = (3, 4)
"""Columns of k-space that every sample of `smooth_batch` has."""


def coil_maps(coils: int, side: int = SIDE) -> Tensor:
    """(1, coils, side, side) complex128, `sum_c |S_c|^2 = 1`: each coil sees its corner best."""
    x = torch.linspace(-1, 1, side).double()
    angle = 2 * math.pi * torch.arange(coils).double() / coils
    far = (x[:, None] - 0.8 * angle.sin()[:, None, None]) ** 2 + (x - 0.8 * angle.cos()[:, None, None]) ** 2
    maps = torch.polar(torch.exp(-far), (angle[:, None, None] + 1) * (x + 0.5 * x[:, None]))
    return (maps / maps.abs().square().sum(0).sqrt())[None]


class Smooth:
    """A Gaussian of smooth complex images; all is linear algebra in the 2 side^2 real numbers of one."""

    def __init__(self, coils: int) -> None:
        at = torch.cartesian_prod(torch.arange(SIDE), torch.arange(SIDE)).double()
        field = 0.25 * torch.exp(-torch.cdist(at, at) / 2)
        self.covariance, self.maps = torch.block_diag(field, field), coil_maps(coils)
        self._known: dict[tuple, tuple[Tensor, Tensor]] = {}

    def sample(self, n: int) -> Tensor:
        unit = Draws(1).normal(torch.empty(n, 2 * SIDE**2, dtype=torch.float64))
        return (unit @ torch.linalg.cholesky(self.covariance).T).reshape(n, 2, SIDE, SIDE)

    def solve(self, seen: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """For one mask (1, H, W): `u -> E[z0 | A~^H A~ z_sigma = u]`, and the projection onto what `A~` misses."""
        key = (*seen[0, 0].int().tolist(), sigma)
        if key not in self._known:
            eye = torch.eye(2 * SIDE**2).double()
            M = gram(eye.reshape(-1, 2, SIDE, SIDE), seen, self.maps).flatten(1)
            values, vectors = torch.linalg.eigh(M)
            Q, values = vectors[:, values > 1e-9], values[values > 1e-9]
            seen_noisy = Q.T @ self.covariance @ Q + sigma**2 * torch.eye(len(values))
            mean = self.covariance @ Q @ torch.linalg.solve(seen_noisy, Q.T / values[:, None])
            self._known[key] = mean, eye - Q @ Q.T
        return self._known[key]

    def apply(self, z: Tensor, seen: Tensor, which: int, sigma: float = SIGMA) -> Tensor:
        masks, index = seen.unique(dim=0, return_inverse=True)
        out = torch.empty_like(z.flatten(1))
        for i, mask in enumerate(masks):
            out[index == i] = z[index == i].flatten(1) @ self.solve(mask, sigma)[which].T
        return out.reshape(z.shape)

    def mean(self, u: Tensor, seen: Tensor, sigma: float = SIGMA) -> Tensor:
        return self.apply(u, seen, 0, sigma)

    def missed(self, z: Tensor, seen: Tensor) -> Tensor:
        return self.apply(z, seen, 1)


def smooth_batch(prior: Smooth, sigma_noise: float = 0.0, n: int = N) -> Batch:
    """Images `z0 + sigma_n e` of which only `A z` may be used, and the columns that were sampled of each."""
    z0 = prior.sample(n)
    columns = Draws(2).uniform(torch.empty(n, 1, 1, SIDE)) < 0.3
    columns[..., ALWAYS] = True
    mask, zero = columns.expand(-1, -1, SIDE, -1).double(), torch.zeros(n).double()
    y = z0 + sigma_noise * Draws(3).normal(z0)
    maps = prior.maps.expand(n, -1, -1, -1)
    return Batch(
        z=y, sigma=zero + SIGMA, sigma_noise=zero + sigma_noise, sigma_min=zero, sigma_max=zero, mask=mask, maps=maps
    )


class Heard:
    """A denoiser that remembers what it was given; the draws of the next loss are the same again."""

    def __init__(self, answer) -> None:
        self.answer = answer

    def __call__(self, z: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
        self.z, self.seen = z, cond
        return self.answer(z, cond)


def leads(objective: KSpace, batch: Batch, prior: Smooth, wrong: dict) -> dict[str, float]:
    """By how many standard errors the exact mean scores better than each of `wrong`, (D, u, seen) -> D."""
    heard = Heard(prior.mean)
    best = objective.loss(heard, batch, Draws(4))
    exact = prior.mean(heard.z, heard.seen)
    answers = {what: change(exact, heard.z, heard.seen) for what, change in wrong.items()}
    return {
        what: standard_errors(objective.loss(lambda *_, a=a: a, batch, Draws(4)) - best) for what, a in answers.items()
    }


# What is learned ---


@pytest.mark.parametrize(("coils", "sigma_noise"), [(1, 0.0), (2, 0.0), (2, 0.2)])
def test_exact_mean_beats_every_perturbation_on_undersampled_data_alone(coils, sigma_noise):
    prior = Smooth(coils)
    batch, objective = smooth_batch(prior, sigma_noise), KSpace(extra=1.0, cg_iterations=0)
    wrong = {
        "5 % larger": lambda d, u, m: 1.05 * d,
        "5 % smaller": lambda d, u, m: 0.95 * d,
        "10 % of the input left": lambda d, u, m: 0.9 * d + 0.1 * u,
        "zero-filled": lambda d, u, m: u,
        "unseen part left empty": lambda d, u, m: d - prior.missed(d, m),
        "unseen part 50 % larger": lambda d, u, m: d + 0.5 * prior.missed(d, m),
        "given a level 10 % too high": lambda d, u, m: prior.mean(u, m, 1.1 * SIGMA),
        "one column shifted": lambda d, u, m: d.roll(1, -1),
    }
    found = leads(objective, batch, prior, wrong)
    least = min(found, key=found.get)
    print(f"\n{coils} coils, noise {sigma_noise}: the exact mean leads by at least {found[least]:.1f} ({least})")
    assert found[least] > DECISIVE, least


@pytest.mark.parametrize("coils", [1, 2])
def test_control_without_dropped_lines_the_unseen_part_is_arbitrary(coils):
    prior = Smooth(coils)
    batch = smooth_batch(prior)
    wrong = {"arbitrary": lambda d, u, m: d + prior.missed(randn(*d.shape).double(), m)}
    objective, heard = KSpace(extra=0.0, cg_iterations=0), Heard(prior.mean)
    best = objective.loss(heard, batch, Draws(4))
    other = wrong["arbitrary"](prior.mean(heard.z, heard.seen), heard.z, heard.seen)
    assert torch.equal(heard.seen, batch.mask) and relative(other, prior.mean(heard.z, heard.seen)) > 0.5
    assert relative(objective.loss(lambda *_: other, batch, Draws(4))[:, None], best[:, None]) < 1e-5
    assert leads(KSpace(cg_iterations=0), batch, prior, wrong)["arbitrary"] > DECISIVE


def test_a_solve_undoes_the_mixing_of_coils():
    prior = Smooth(3)
    batch = smooth_batch(prior, n=300)
    stored = replace(batch, z=gram(batch.z, batch.mask, batch.maps))
    heard = Heard(prior.mean)

    def loss(iterations: int, given: Batch) -> tuple[Tensor, Tensor]:
        return KSpace(cg_iterations=iterations).loss(heard, given, Draws(4)), heard.z

    (wanted, shown), (found, seen) = loss(0, batch), loss(200, stored)
    print(
        f"\n200 steps: input {relative(seen, shown):.1e}, 20 steps: {relative(loss(20, stored)[1], shown):.1e}, ",
        f"none: {relative(loss(0, stored)[1], shown):.1e}",
    )
    assert relative(seen, shown) < 1e-5 and relative(found[:, None], wanted[:, None]) < 1e-3
    # By default it is short of that by less than the precision of bfloat16.
    assert relative(loss(KSpace().cg_iterations, stored)[1], shown) < 2**-8
    # Control: A^H y taken for the image makes the exact mean lose against its blurred self.
    naive = KSpace(cg_iterations=0)
    best = naive.loss(heard, stored, Draws(4))
    blurred = gram(prior.mean(heard.z, heard.seen), stored.mask, stored.maps)
    assert relative(heard.z, shown) > 0.02
    assert standard_errors(naive.loss(lambda *_: blurred, stored, Draws(4)) - best) < -DECISIVE


def test_one_coil_needs_no_solve():
    prior = Smooth(1)
    batch, heard = smooth_batch(prior), Heard(lambda u, m: u)
    stored = replace(batch, z=gram(batch.z, batch.mask, batch.maps))
    losses = [KSpace(cg_iterations=k).loss(heard, b, Draws(4)) for k, b in ((0, batch), (0, stored), (20, stored))]
    assert relative(losses[1][:, None], losses[0][:, None]) < 1e-6
    assert relative(losses[2][:, None], losses[0][:, None]) < 1e-6


# Exact identities ---


def some_batch(n: int = 6, side: int = 12, coils: int = 2, sigma_noise: float = 0.0) -> Batch:
    mask = (Draws(5).uniform(torch.empty(n, 1, 1, side)) < 0.4).float()
    mask[..., side // 2 - 1 : side // 2 + 2] = 1
    mask, zero = mask.expand(-1, -1, side, -1).contiguous(), torch.zeros(n)
    maps = coil_maps(coils, side).to(torch.complex64).expand(n, -1, -1, -1)
    z = gram(randn(n, 2, side, side, seed=6), mask, maps)
    return Batch(z, 0.5 + zero, zero + sigma_noise, zero, zero, mask, maps=maps)


@pytest.mark.parametrize("iterations", [0, 20])
@pytest.mark.parametrize("sigma_noise", [0.0, 0.2])
def test_a_fully_sampled_coil_of_ones_is_denoise(sigma_noise, iterations):
    """To rounding: A^H A is the identity, but a Fourier transform there and back is not, bit for bit."""
    batch, denoise = some_batch(sigma_noise=sigma_noise), net(2)
    batch.z, batch.maps = randn(*batch.z.shape), torch.ones_like(batch.maps[:, :1])
    expected = Denoise().loss(lambda z, s: denoise(z, s), replace(batch, mask=None), Streams(range(6), 1))

    def loss(mask: Tensor | None) -> Tensor:
        return KSpace(cg_iterations=iterations).loss(denoise, replace(batch, mask=mask), Streams(range(6), 1))

    torch.testing.assert_close(loss(None), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(loss(torch.ones_like(batch.mask)), loss(None))
    # Control: lines that are missing change it.
    assert ((loss(batch.mask) - expected).abs() > 0.01 * expected).all()


@pytest.mark.parametrize("coils", [1, 2])
def test_what_was_not_sampled_cannot_be_known(coils):
    """Neither the input nor the loss depends on what A does not see, nor the input on lines that are dropped."""
    prior = Smooth(coils)
    batch, heard = smooth_batch(prior), Heard(lambda u, m: u)
    batch.mask[:, :, :, [2, 6]] = 0  # with three to six columns, two coils leave much unseen
    rest = prior.missed(Draws(7).normal(batch.z), batch.mask)
    objective = KSpace(cg_iterations=0)
    first, shown = objective.loss(heard, batch, Draws(4)), heard.z
    again = objective.loss(heard, replace(batch, z=batch.z + rest), Draws(4))
    assert float(rest.square().mean()) > 0.05
    assert relative(again[:, None], first[:, None]) < 1e-6 and relative(heard.z, shown) < 1e-9
    dropped = prior.missed(Draws(8).normal(batch.z), heard.seen)
    objective.loss(heard, replace(batch, z=batch.z + dropped), Draws(4))
    assert relative(heard.z, shown) < 1e-9
    # Control: the input of a network that sees all that was sampled knows what was dropped.
    assert relative(gram(batch.z + dropped, batch.mask, batch.maps), gram(batch.z, batch.mask, batch.maps)) > 0.1


def test_what_is_dropped_depends_on_the_stream_of_the_row_alone():
    batch, heard = some_batch(n=5), Heard(lambda u, m: u)

    def step(rows: list[int], seeds: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        part = Batch(**{k: v[rows] for k, v in vars(batch).items() if v is not None})
        return KSpace().loss(heard, part, Streams(seeds, 1)), heard.z, heard.seen

    together, apart = step([0, 1, 2, 3, 4], [10, 11, 12, 13, 14]), step([3, 1], [13, 11])
    assert all(torch.equal(a, t[[3, 1]]) for a, t in zip(apart, together, strict=True))
    steps = torch.stack([step([0, 1, 2, 3, 4], list(range(s, s + 5)))[2] for s in range(80)])
    drawn = steps.amax(0)
    assert torch.equal(drawn, batch.mask) and torch.equal(steps, steps * batch.mask)
    assert torch.equal(steps.amin(0), calibration(batch.mask) * batch.mask)


def test_what_is_missing_is_not_better_known_at_low_levels():
    """Below `missing` all levels weigh the same, and a network that answers nothing shrinks alike at all of them."""
    batch, objective = some_batch(), KSpace(missing=0.3)

    def weight(sigma: float, objective: KSpace) -> float:
        part = replace(batch, sigma=torch.full_like(batch.sigma, sigma), sigma_noise=torch.zeros_like(batch.sigma))
        wrong = lambda z, s, m: gram(part.z, part.mask, part.maps) + 1  # noqa: E731
        return float(objective.loss(wrong, part, Streams(range(6), 1)).mean())

    assert weight(0.01, objective) == pytest.approx(weight(0.1, objective), rel=0.02)
    assert weight(0.01, KSpace(missing=0.0)) > 50 * weight(0.1, KSpace(missing=0.0))  # control
    z, mask = randn(1, 2, 8, 8), torch.ones(1, 1, 8, 8)
    for missing, kept in ((0.3, 0.25 / (0.25 + 0.09)), (0.0, 1.0)):
        config = NetworkConfig(channels=2, widths=(8,), embedding=8, mask_channels=1, missing=missing)
        prior = NetworkPrior(config, precision="float32")
        torch.nn.init.zeros_(list(prior.network.parameters())[-1])
        torch.nn.init.zeros_(list(prior.network.parameters())[-2])
        torch.testing.assert_close(prior.denoise(z, 0.001, mask), kept * z, rtol=1e-4, atol=1e-4)


# Dropping lines ---


def published_mask(R: int, n: int = 1, height: int = 4, side: int = 320) -> Tensor:
    """20 central columns and random ones up to `side // R`, (n, 1, 16, side)."""
    mask = torch.zeros(n, side)
    mask[:, side // 2 - 10 : side // 2 + 10] = 2
    order = (mask + Draws(R).uniform(mask)).argsort(1, descending=True)
    return (mask.scatter(1, order[:, : side // R], 1) > 0).float()[:, None, None].expand(-1, -1, height, -1)


@pytest.mark.parametrize(("R", "kept"), [(2, 106), (4, 64), (6, 45), (8, 35)])
def test_the_published_law_of_further_subsampling(R, kept):
    """320 columns of which 20 are for calibration: R becomes R + 1, to the rounding of the published line counts."""
    n = 400
    mask = published_mask(R, n)
    delta = share(mask, 1.0)
    seen = fewer_lines(mask, delta, Draws(9))
    lines = seen[:, 0, 0].sum(1)
    assert torch.equal(seen, seen[:, :, :1].expand_as(seen)) and torch.equal(seen, seen * mask)
    assert abs(float(lines.mean()) - kept) < 1 + NULL * float(lines.std()) / math.sqrt(n)
    assert float(lines.std()) > 1
    assert (seen[..., 153:168] == 1).all()
    # Control: nothing is dropped for R + 0, much more for R + 3, and never all.
    assert torch.equal(fewer_lines(mask, share(mask, 0.0), Draws(9)), mask)
    assert (share(mask, 3.0) > 1.5 * delta).all() and float(share(mask, 100.0).max()) < kspace.MOST + 1e-6


def test_a_chance_neighbour_of_the_calibration_lines_is_dropped_too(monkeypatch):
    """Where it never is, the loss says nothing of this line whenever the network misses it."""
    mask = published_mask(4, 400)
    mask = mask.clone()
    mask[..., 170] = 1  # the first line after 150 .. 169

    def rate() -> float:
        return 1 - float(fewer_lines(mask, 0.3, Draws(10))[:, 0, 0, 170].mean())

    assert abs(rate() - 0.3) < NULL * math.sqrt(0.21 / 400)
    # Control: a centre kept to its very rim keeps the neighbour for good.
    monkeypatch.setattr(kspace, "RIM", 1.0)
    assert rate() == 0


def test_lines_may_be_rows_and_points():
    columns = published_mask(4, 50, height=6)
    as_rows = fewer_lines(columns.mT, 0.3, Draws(11)).mT
    assert torch.equal(as_rows, as_rows[:, :, :1].expand_as(as_rows)) and (as_rows[..., 153:168] == 1).all()
    assert float(as_rows.sum()) < 0.9 * float(columns.sum())

    points = (Draws(12).uniform(torch.empty(50, 1, 48, 32)) < 0.3).float()
    points[..., 18:30, 12:20] = 1
    seen = fewer_lines(points, 0.25, Draws(13))
    centre = calibration(points)
    assert (seen * centre == centre).all() and (centre[..., 21:28, 14:19] == 1).all()
    assert float(centre.flatten(1).sum(1).max()) <= 12 * 8
    loose = points * (1 - centre)
    dropped = 1 - float((seen * loose).sum() / loose.sum())
    assert abs(dropped - 0.25) < NULL * math.sqrt(0.25 * 0.75 / float(loose.sum()))
    # Control: they are no lines; in a column of points some stay and some go.
    gone = loose * (1 - seen)
    assert ((gone.sum(-2) > 0) & ((loose * seen).sum(-2) > 0)).float().mean() > 0.9


def test_each_row_has_its_own_acceleration():
    mask = torch.cat([published_mask(R) for R in (2, 8)])
    delta = share(mask, 1.0)
    assert torch.equal(delta, torch.cat([share(mask[i : i + 1], 1.0) for i in (0, 1)])) and delta[0] > 1.5 * delta[1]
    # Sampled in full there is nothing to drop.
    full = torch.ones(1, 1, 16, 16)
    assert torch.equal(fewer_lines(full, share(full, 1.0), Draws(14)), full)


def test_a_network_is_given_the_mask_of_its_input():
    config = NetworkConfig(channels=2, widths=(8, 8, 8, 8), groups=4, embedding=16, mask_channels=KSpace.mask_channels)
    batch = some_batch(n=2)
    loss = KSpace().loss(NetworkPrior(config, "float32"), batch, Streams([0, 1], 1))
    assert loss.shape == (2,) and loss.requires_grad


def test_bad_input_is_one_sentence():
    batch = some_batch(n=2)
    for wrong in (
        replace(batch, maps=None),
        replace(batch, z=batch.z[:, :1]),
        replace(batch, mask=batch.mask.expand(-1, 2, -1, -1)),
    ):
        with pytest.raises(AmbientSolveError, match="kspace") as error:
            KSpace().loss(net(2), wrong, Streams([0, 1], 1))
        assert one_sentence(error)
    with pytest.raises(AmbientSolveError, match="extra"):
        KSpace(extra=-1.0)
