"""Consistency: the true denoiser is a martingale, a wrong one is not, and levels without any sample are learned."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from ambient_solve.errors import AmbientSolveError
from ambient_solve.noise import Streams
from ambient_solve.objectives.base import Batch, edm_weight
from ambient_solve.objectives.consistency import GRADIENTS, WHERE, Consistency
from ambient_solve.objectives.denoise import WEIGHTS, Denoise, buffer
from ambient_solve.priors.gaussian import GaussianPrior, MixturePrior

# In standard errors: an effect must exceed DECISIVE, a zero must stay below NULL. The draws are the same in every run.
DECISIVE, NULL = 6.0, 4.5
ROWS = 50_000


class Draws:
    """`Streams`, but one stream for all rows; `fixed` stands in for every uniform number if it is given."""

    def __init__(self, seed: int, fixed: float | None = None) -> None:
        self.generator, self.fixed = torch.Generator().manual_seed(seed), fixed

    def normal(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator, dtype=like.dtype)

    def uniform(self, like: Tensor) -> Tensor:
        u = torch.rand(like.shape, generator=self.generator, dtype=like.dtype)
        return u if self.fixed is None else torch.full_like(u, self.fixed)


def modes(std: float = 0.1, weights: tuple[float, float] = (0.5, 0.5)) -> MixturePrior:
    return MixturePrior(torch.tensor(weights), torch.tensor([[-1.0], [1.0]]), torch.full((2,), std**2))


def clean_batch(z: Tensor, sigma: float | Tensor) -> Batch:
    zero = torch.zeros(len(z))
    return Batch(z=z, sigma=zero + sigma, sigma_noise=zero, sigma_min=zero, sigma_max=zero)


def noisy_batch(rows: int = 6) -> Batch:
    """Clean, noisy at two levels, only above a level, only below one, and noisy once more."""
    z = torch.randn(rows, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    noise = torch.tensor([0.0, 0.2, 0.4, 0.0, 0.0, 0.2])
    low = torch.tensor([0.0, 0.2, 0.0, 0.5, math.inf, 0.2])
    high = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.1, 0.0])
    return Batch(z, torch.tensor([0.3, 0.9, 1.5, 2.0, 0.05, 40.0]), noise, low, high)


def squared_residual(denoise, z0: Tensor, t: float, s: float, seed: int = 3, **knobs) -> Tensor:
    """What the consistency term estimates, (B,), at `z_t` of `z0`."""
    objective = Consistency(where="local", consistency=1.0, window=1.0, **knobs)
    batch, seen = clean_batch(z0, t), 1 - s / t
    both = objective.loss(denoise, batch, Draws(seed, seen))
    return (both - Denoise().loss(denoise, batch, Draws(seed, seen))) / edm_weight(batch.sigma, 0.5)


def mean_and_error(values: Tensor) -> tuple[float, float]:
    return float(values.mean()), float(values.std() / math.sqrt(len(values)))


def test_pair_vanishes_for_the_exact_denoiser_and_the_square_of_the_mean_does_not():
    """From t = .6 to s = .2; the mean of m runs is too large by Var(D(z_s) | z_t) / m."""
    prior = modes()
    z0 = prior.sample(ROWS, torch.Generator().manual_seed(0))
    pair, own = mean_and_error(squared_residual(prior.denoise, z0, 0.6, 0.2, steps=16))
    print(f"\npair, 16 steps {pair:.1e} +- {own:.0e}")
    assert abs(pair) < NULL * own
    six = {e: squared_residual(prior.denoise, z0, 0.6, 0.2, steps=6, runs=6, estimator=e) for e in ("pair", "mean")}
    (few, few_error), (mean, mean_error) = (mean_and_error(six[e]) for e in ("pair", "mean"))
    floor, floor_error = mean_and_error(six["mean"] - six["pair"])
    print(
        f"6 runs of 6 steps: pair {few:.1e} +- {few_error:.0e}, mean {mean:.4f} +- {mean_error:.0e}, floor {floor:.4f}"
    )
    assert abs(few) < 0.15 * mean and mean > DECISIVE * mean_error and floor > 0.015 + DECISIVE * floor_error
    # Control: too few steps are seen.
    coarse, error = mean_and_error(squared_residual(prior.denoise, z0, 0.6, 0.2, steps=1))
    print(f"pair, 1 step {coarse:.1e} +- {error:.0e}")
    assert coarse > DECISIVE * error and coarse > 5 * abs(few)


def test_pair_is_positive_for_a_denoiser_that_is_wrong_below_alone():
    prior, other = modes(), modes(weights=(0.9, 0.1))
    z0 = prior.sample(ROWS, torch.Generator().manual_seed(0))

    def wrong_below(z: Tensor, sigma: Tensor) -> Tensor:
        return torch.where(sigma[:, None] < 0.7, other.denoise(z, sigma), prior.denoise(z, sigma))

    found, error = mean_and_error(squared_residual(wrong_below, z0, 0.9, 0.6, steps=8))
    print(f"\nweights wrong below .7: {found:.1e} +- {error:.0e}")
    assert found > DECISIVE * error
    # Control: the denoiser of another distribution is consistent too. The data term must tell them apart.
    same, error = mean_and_error(squared_residual(other.denoise, z0, 0.9, 0.6, steps=8))
    print(f"weights wrong at all levels: {same:.1e} +- {error:.0e}")
    assert abs(same) < NULL * error and abs(same) < 0.3 * found


def test_one_step_of_a_run_is_exact_for_gaussian_data():
    prior = GaussianPrior(torch.tensor([0.6, -0.5]), torch.tensor([[0.3, 0.15], [0.15, 0.2]]))
    z0, t, s = prior.sample(ROWS, torch.Generator().manual_seed(0)), 0.8, 0.3
    found, error = mean_and_error(squared_residual(prior.denoise, z0, t, s, steps=1))
    print(f"\nK_1, one step {found:.1e} +- {error:.0e}")
    assert abs(found) < NULL * error
    # Control: one step of Euler-Maruyama.
    draws = Draws(5)
    z = z0 + t * draws.normal(z0)
    start = prior.denoise(z, t)
    ends = [z + 2 * (s - t) / t * (z - start) + math.sqrt(2 * (t - s) * t) * draws.normal(z) for _ in range(2)]
    one, two = (prior.denoise(e, s) - start for e in ends)
    euler, error = mean_and_error((one * two).mean(1))
    print(f"Euler-Maruyama, one step {euler:.1e} +- {error:.0e}")
    assert euler > DECISIVE * error and euler > 10 * abs(found)


class Features(nn.Module):
    """A 1-D denoiser with the preconditioning of EDM, linear in random cosines that are whitened: it learns fast."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.frequencies = torch.tensor([[3.0], [0.5]]) * torch.randn(2, width, generator=g)
        self.phases = 2 * math.pi * torch.rand(width, generator=g)
        sigma = LOWEST * torch.exp(torch.rand(20_000, 1, generator=g) * math.log(4 / LOWEST))
        seen = self.cosines(1.1 * torch.randn(20_000, 1, generator=g), sigma).double()
        values, vectors = torch.linalg.eigh(seen.T @ seen / len(seen) + 1e-3 * torch.eye(width))
        self.whiten = (vectors / values.sqrt()).float()
        self.weights = nn.Parameter(torch.zeros(width, 1))

    def cosines(self, u: Tensor, sigma: Tensor) -> Tensor:
        return math.sqrt(2) * (torch.cat([u, sigma.log()], 1) @ self.frequencies + self.phases).cos()

    def forward(self, z: Tensor, sigma: Tensor) -> Tensor:
        s = sigma[:, None]
        total = s**2 + 1
        return z / total + s * total.rsqrt() * (self.cosines(z * total.rsqrt(), s) @ (self.whiten @ self.weights))


LOWEST = 0.05


def learning(objective, batch, network: Features | None, steps: int, rate: float) -> Features:
    """Adam on fresh batches, the weights averaged over its second half."""
    network = Features() if network is None else copy.deepcopy(network)
    optimizer, draws, generator = torch.optim.Adam(network.parameters(), rate), Draws(2), torch.Generator()
    generator.manual_seed(1)
    average = torch.zeros_like(network.weights)
    for step in range(steps):
        optimizer.zero_grad()
        objective.loss(network, batch(generator), draws).mean().backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        if 2 * step >= steps:
            average += network.weights.detach() / (steps - steps // 2)
    network.weights.data = average
    return network


def score_error(network: Features, prior: MixturePrior, low: float, high: float) -> float:
    """Relative error of the score, the root mean square over 8 levels from `low` to `high`."""
    found = []
    for k in range(8):
        draws, sigma = Draws(9), low * (high / low) ** (k / 7)
        z = prior.sample(4000, draws.generator)
        z = z + sigma * draws.normal(z)
        with torch.no_grad():
            exact, wrong = prior.denoise(z, sigma), network(z, torch.full((4000,), sigma))
        found.append((wrong - exact).square().mean() / (exact - z).square().mean())
    return math.sqrt(sum(map(float, found)) / len(found))


TERM = Consistency(consistency=0.3, runs=4, sigma_min=LOWEST, sigma_data=1.0)


def drawn(prior: MixturePrior, noise: float, lowest: float, rows: int):
    """Batches of samples that hold `noise` and may be used above `lowest`, their levels between it and 4."""

    def batch(generator: torch.Generator) -> Batch:
        z = prior.sample(rows, generator)
        z = z + noise * torch.randn(z.shape, generator=generator)
        low = 1.0001 * max(lowest, buffer(4.0) * noise)
        sigma = low * torch.exp(torch.rand(rows, generator=generator) * math.log(4 / low))
        full = torch.ones(rows)
        return Batch(z, sigma, noise * full, lowest * full, 0 * full)

    return batch


def test_consistency_learns_the_levels_under_those_of_the_data():
    """Clean samples that may be used above .5 alone."""
    prior = modes(0.4)
    batch = drawn(prior, 0.0, 0.5, 512)
    without = learning(replace(TERM, consistency=0.0), batch, None, 300, 0.02)
    learned = learning(TERM, batch, without, 180, 0.01)
    # Control: the start of a run moved too, with the run held fixed, which is the gradient of no loss.
    moved = learning(replace(TERM, gradient="both"), batch, without, 80, 0.01)
    error, before, other = (score_error(n, prior, LOWEST, 0.45) for n in (learned, without, moved))
    print(f"\nscore error below .5: {before:.3f} without, {error:.3f} with, {other:.3f} with D(z_t) moved too")
    assert error < before / 5 and other > 2 * error


def test_noisy_samples_alone_teach_all_levels_and_sampling_goes_on_to_the_lowest():
    prior, noise = modes(0.4), 0.3
    batch = drawn(prior, noise, noise, 2048)
    without = learning(replace(TERM, consistency=0.0), batch, None, 300, 0.02)
    learned = learning(TERM, batch, without, 120, 0.005)
    before, error = (score_error(n, prior, LOWEST, 0.95 * noise) for n in (without, learned))
    above = [score_error(n, prior, 1.15 * noise, 8 * noise) for n in (without, learned)]
    print(f"\nscore error below sigma_n: {before:.3f} without, {error:.3f} with; above: {above[0]:.3f}, {above[1]:.3f}")
    assert error < 0.5 * before and max(above) < 0.08

    def distance(network: Features, lowest: float) -> float:
        """Wasserstein-1 to the data, of a probability-flow run that ends in `D` at `lowest`."""
        draws = Draws(4)
        truth = prior.sample(4000, draws.generator)
        grid = [4.0 * (lowest / 4) ** (k / 60) for k in range(61)] + [0.0]
        z = prior.sample(4000, draws.generator) + 4 * draws.normal(truth)
        with torch.no_grad():
            for level, lower in zip(grid, grid[1:], strict=False):
                z0 = network(z, torch.full((4000,), level))
                z = z0 + lower / level * (z - z0)
        return float((z.sort(0).values - truth.sort(0).values).abs().mean())

    stopped, extrapolated, run_down = (
        distance(*a) for a in ((without, buffer(4.0) * noise), (without, LOWEST), (learned, LOWEST))
    )
    print(f"W1 of samples: stopped at the boundary {stopped:.3f}, run down {extrapolated:.3f}, with it {run_down:.3f}")
    assert run_down < 0.7 * min(stopped, extrapolated)


class Linear(nn.Module):
    """`D = (a + b / (1 + sigma^2)) z`; counts the rows that it is asked for and keeps their levels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(0.2)), nn.Parameter(torch.tensor(0.9))
        self.levels: list[Tensor] = []

    def forward(self, z: Tensor, sigma: Tensor) -> Tensor:
        self.levels.append(sigma)
        return (self.a + self.b / (1 + sigma**2)).reshape(-1, *[1] * (z.ndim - 1)) * z


def by_hand(network: Linear, batch: Batch, gradient: str) -> Tensor:
    """The pair of local consistency in two steps, written out for two runs, plus the loss of EDM."""
    draws, t = Draws(3), batch.sigma
    n = draws.normal(batch.z)
    s = t * (1 - 0.5 * draws.uniform(t))
    noise = [draws.normal(batch.z[:, None].expand(-1, 2, -1)) for _ in range(2)]
    level, z = (t * s).sqrt(), batch.z + t[:, None] * n
    start = network(z, t)
    weight = 1 / t**2 + 1 / 0.5**2
    data = weight * (start - batch.z).square().mean(1)
    start, residual = start.detach() if gradient == "ends" else start, []
    for j in range(2):
        x, x0, upper = z, start, t
        for lower, fresh in ((level, noise[0][:, j]), (s, noise[1][:, j])):
            ratio = (lower / upper)[:, None]
            x0 = network(x, upper) if upper is level else x0
            x = x0 + ratio**2 * (x - x0) + lower[:, None] * (1 - ratio**2).sqrt() * fresh
            upper = lower
        residual.append(network(x if gradient == "chain" else x.detach(), s) - start)
    return (data + 3.0 * weight * (residual[0] * residual[1]).mean(1)).mean()


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_gradient_is_that_of_the_ends_of_the_start_too_or_of_the_runs_too(gradient):
    z = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    batch = clean_batch(z.float(), torch.linspace(0.3, 2, 7))
    objective, network = Consistency(where="local", consistency=3.0, gradient=gradient), Linear()
    values = list(network.parameters())
    found = torch.autograd.grad(objective.loss(network, batch, Draws(3)).mean(), values)
    for other in GRADIENTS:
        expected = torch.autograd.grad(by_hand(network, batch, other), values)
        equal = all(torch.allclose(f, e, rtol=1e-4) for f, e in zip(found, expected, strict=True))
        assert equal == (other == gradient), (found, expected)


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("weight", WEIGHTS)
def test_weight_zero_is_denoise_bit_for_bit_in_one_call(weight, where):
    batch, network = noisy_batch(), Linear()
    expected = Denoise(weight).loss(network, batch, Streams(range(6), 1))
    network.levels.clear()
    off = Consistency(weight=weight, where=where, consistency=0.0)
    assert torch.equal(off.loss(network, batch, Streams(range(6), 1)), expected)
    assert len(network.levels) == 1 and not off.below
    # Control: the smallest weight is seen.
    on = replace(off, consistency=1e-2)
    assert not torch.equal(on.loss(network, batch, Streams(range(6), 1)), expected)
    assert on.below == (where != "local")


@pytest.mark.parametrize(("where", "calls"), [("local", 1 + 3 * 2), ("boundary", 2 + 3 * 2), ("below", 2 + 4 * 2)])
def test_a_mixed_batch_is_asked_for_the_levels_and_calls_that_are_promised(where, calls):
    batch, network = noisy_batch(), Linear()
    objective = Consistency(where=where, runs=3, steps=2)
    both = objective.loss(network, batch, Streams(range(6), 1))
    levels = torch.cat([level.reshape(-1, 6) for level in network.levels])
    assert len(levels) == calls and levels.min() >= 0.999 * objective.sigma_min
    term = both != Denoise().loss(network, batch, Streams(range(6), 1))
    top = objective.boundary(batch)
    b = buffer(4.0)
    torch.testing.assert_close(top, torch.tensor([0.01, 0.2 * b, 0.4 * b, 0.5, 0.01, 0.2 * b]))
    if where == "local":
        assert term.all() and torch.equal(levels[0], batch.sigma) and (levels <= batch.sigma).all()
    else:
        # A clean sample, and one for low levels only, have no boundary; a level drawn far above it changes nothing.
        assert torch.equal(term, torch.tensor([False, True, True, True, False, True]))
        assert torch.equal(levels[1], top) and (levels[1:] <= 1.001 * top).all()
        assert (levels[-1] < top)[term].all()


@pytest.mark.parametrize("where", ["below", "boundary"])
def test_a_boundary_at_the_noise_itself_divides_by_nothing(where):
    batch, network = noisy_batch(), Linear()
    objective = Consistency(where=where, s_max=math.inf, gradient="chain")
    assert float(objective.boundary(batch)[2]) == float(batch.sigma_noise[2])
    loss = objective.loss(network, batch, Streams(range(6), 1))
    gradient = torch.autograd.grad(loss.mean(), list(network.parameters()))
    assert loss.isfinite().all() and all(g.isfinite() for g in gradient)


@pytest.mark.parametrize("where", WHERE)
def test_noise_of_a_row_depends_on_its_stream_only(where):
    objective, network, batch = Consistency(where=where), Linear(), noisy_batch()

    def loss(rows: list[int], seeds: list[int]) -> Tensor:
        few = Batch(**{k: v[rows] for k, v in vars(batch).items() if v is not None})
        return objective.loss(network, few, Streams(seeds, 1)).detach()

    together = loss([0, 1, 2, 3, 4, 5], [10, 11, 12, 13, 14, 15])
    torch.testing.assert_close(loss([3, 1], [13, 11]), together[[3, 1]], rtol=1e-5, atol=1e-6)
    changed = loss([0, 1, 2, 3, 4, 5], [10, 11, 99, 13, 14, 15])
    assert torch.equal(changed != together, torch.arange(6) == 2)


def test_bad_settings_are_one_sentence():
    with pytest.raises(AmbientSolveError, match="Did you mean 'below'"):
        Consistency(where="belo")
    with pytest.raises(AmbientSolveError, match="s_max"):
        Consistency(s_max=1.0)
    with pytest.raises(AmbientSolveError, match="runs"):
        Consistency(runs=1)
