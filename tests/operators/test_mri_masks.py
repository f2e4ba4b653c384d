"""Masks of k-space: exact acceleration, the calibration region, what each kind promises, the law of dropping more."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.objectives.base import Batch
from ambient_solve.objectives.kspace import KSpace, gram
from ambient_solve.operators import kspace_masks
from ambient_solve.operators.kspace_masks import KINDS, LINES, acceleration, acs_of, further, make_mask
from helpers import Draws, one_sentence

SHAPE = (96, 80)


@pytest.mark.parametrize("shape", [SHAPE, (63, 81)])
@pytest.mark.parametrize("R", [1, 2, 3.3, 4, 6])
@pytest.mark.parametrize("kind", KINDS)
def test_the_acceleration_is_exact_and_the_centre_is_sampled(kind, R, shape):
    """To one line or point: `floor(n / R)` of them."""
    mask = make_mask(kind, shape, R, acs=9)
    assert mask.shape == shape and mask.dtype == torch.float32 and bool(((mask == 0) | (mask == 1)).all())
    if kind in LINES:
        assert torch.equal(mask, mask[:1].expand_as(mask)) and int(mask[0].sum()) == int(shape[1] / R + 1e-9)
    else:
        assert int(mask.sum()) == int(mask.numel() / R + 1e-9)
    n = shape[1] if kind in LINES else mask.numel()
    assert R <= acceleration(mask) + 1e-6 <= n / (n / R - 1) + 1e-6 and acs_of(mask) >= 9
    i, j = shape[0] // 2 - 4, shape[1] // 2 - 4
    assert bool((mask[i : i + 9, j : j + 9] == 1).all())


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_random_depends_on_the_seed_alone(kind):
    one, same, other = (make_mask(kind, SHAPE, 4, acs=6, seed=s) for s in (1, 1, 2))
    torch.manual_seed(3)
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert int(one.sum()) == int(other.sum())


def test_uniform_lines_have_equal_distances():
    def gaps(kind: str) -> Tensor:
        return make_mask(kind, (4, 320), 4, acs=0)[0].nonzero().flatten().diff()

    assert set(gaps("uniform").tolist()) == {4} and len(set(gaps("random").tolist())) > 3


def test_gaussian_lines_gather_in_the_middle():
    def spread(kind: str) -> float:
        lines = [make_mask(kind, (2, 240), 6, acs=8, seed=s)[0].nonzero().flatten() - 120.0 for s in range(40)]
        return float(torch.cat(lines).square().mean().sqrt())

    assert spread("gaussian") < 0.7 * spread("random")


def nearest(mask: Tensor, ring: tuple[float, float]) -> float:
    """The least distance of two sampled points, both at a radius (1 in the corner) inside `ring`."""
    at = mask.nonzero().float()
    size = torch.tensor(mask.shape)
    radius = ((at - size // 2) / (size / 2)).norm(dim=1) / math.sqrt(2)
    at = at[(radius > ring[0]) & (radius < ring[1])]
    return float((torch.cdist(at, at) + 1e3 * torch.eye(len(at))).min())


def test_poisson_points_keep_their_distance_and_more_of_it_outside():
    mask = make_mask("poisson", SHAPE, 8, acs=8)
    outer, middle = nearest(mask, (0.6, 1.0)), nearest(mask, (0.25, 0.4))
    u = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))
    scattered = (u <= u.flatten().kthvalue(int(mask.sum())).values).float()
    print(f"\nleast distance: {outer:.1f} outside, {middle:.1f} inside; by chance {nearest(scattered, (0.6, 1.0)):.1f}")
    assert outer > 2 and outer > middle > 1 and nearest(scattered, (0.6, 1.0)) == 1
    # All directions are sampled alike.
    quarters = [mask[:48, :40].sum(), mask[:48, 40:].sum(), mask[48:, :40].sum(), mask[48:, 40:].sum()]
    assert max(quarters) < 1.15 * min(quarters)


def test_spokes_and_spirals_are_what_they_are_called():
    """A spoke is a straight line through the middle: where one samples, it does so at the opposite point too."""

    def symmetric(mask: Tensor) -> float:
        inner = mask[1:, 1:]
        return float((inner * inner.flip(0, 1)).sum() / inner.sum())

    spokes, turns = (make_mask(kind, (97, 97), 5, acs=0) for kind in ("radial", "spiral"))
    assert symmetric(torch.nn.functional.pad(spokes, (1, 0, 1, 0))) > 0.9
    assert symmetric(torch.nn.functional.pad(turns, (1, 0, 1, 0))) < 0.7
    at = torch.arange(97) - 48.0
    radius = torch.hypot(at[:, None], at)
    for mask, least in ((spokes, 0.0), (turns, 0.1)):
        # How often a circle is met: each is, by the same number of spokes, or by each turn once.
        share = torch.stack([mask[(radius > r) & (radius <= r + 6)].mean() for r in range(6, 42, 6)])
        assert float(share.min()) > least
    inner, outer = (spokes[(radius > r) & (radius < r + 6)].mean() for r in (8, 40))
    assert inner > 2 * outer  # Density falls off as 1 / r
    inner, outer = (turns[(radius > r) & (radius < r + 6)].mean() for r in (8, 40))
    assert inner < 1.5 * outer


# Dropping more -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("R", "lines", "kept"), [(2, 160, 106), (4, 80, 64), (6, 53, 45), (8, 40, 35)])
def test_the_published_table_of_further_subsampling(R, lines, kept):
    """`create_masks(R, delta, acs=20, 320)` of A-DPS (arXiv 2403.08728): R + 1, to the line."""
    mask = make_mask("random", (384, 320), R, acs=20, seed=5)
    less = further(mask, 1.0, acs=20, seed=1)
    assert int(mask[0].sum()) == lines and int(less[0].sum()) == kept
    assert torch.equal(less, less * mask) and bool((less[:, 150:170] == 1).all())
    assert not torch.equal(less, further(mask, 1.0, acs=20, seed=2))
    # Control: the share of a line of R that stays in R + 1 takes lines of the calibration region too.
    assert int((mask[0] * (torch.rand(320) < R / (R + 1)))[150:170].sum()) < 20


@pytest.mark.parametrize("kind", KINDS)
def test_dropping_is_general_in_acceleration_and_kind(kind):
    mask = make_mask(kind, SHAPE, 3, acs=8)
    n = SHAPE[1] if kind in LINES else mask.numel()
    for delta in (0.5, 1.0, 2.5):
        less = further(mask, delta, acs=8)
        wanted = acceleration(mask) + delta
        assert wanted <= acceleration(less) + 1e-6 <= n / (n / wanted - 1) + 1e-6
        assert acs_of(less) >= 8 and torch.equal(less, less * mask)
    assert torch.equal(further(mask, 0.0), mask)
    rows = further(mask.mT.contiguous(), 1.0, acs=8, seed=4)
    assert kind not in LINES or torch.equal(rows.mT, further(mask, 1.0, acs=8, seed=4))


def test_each_loose_line_is_as_likely_to_go():
    mask = make_mask("random", (2, 160), 4, acs=10, seed=3)
    loose = mask[0].clone()
    loose[75:85] = 0
    rate = 1 - torch.stack([further(mask, 1.0, acs=10, seed=s)[0] for s in range(600)]).mean(0)[loose > 0]
    share = 8 / int(loose.sum())  # 40 lines become 32
    assert float((rate - share).abs().max()) < 4.5 * math.sqrt(share * (1 - share) / 600)


def test_the_region_is_measured():
    mask = make_mask("uniform", (40, 80), 5, acs=10)
    wide, gap, points = mask.clone(), mask.clone(), torch.zeros(40, 80)
    wide[:, 30:50], gap[:, 40] = 1, 0
    points[14:26, 30:50] = 1
    assert acs_of(mask) == 10 and acs_of(wide) == 20 and acs_of(gap) == 0 and acs_of(points) == 12
    assert acs_of(wide.mT.contiguous()) == 20 and acs_of(wide[None, None]) == 20


# What training learns of lines that are dropped, and does not of lines that never are --------------------------------


def images(n: int, side: int, seed: int) -> Tensor:
    """White complex pictures behind a narrow window, (n, 2, side, side): lines of k-space tell of their neighbours."""
    at = torch.arange(side) - (side - 1) / 2
    window = torch.exp(-(at[:, None] ** 2 + at**2) / (2 * (side / 6) ** 2))
    return window * Draws(seed).normal(torch.empty(n, 2, side, side))


def batch_of(z0: Tensor, seed: int) -> Batch:
    side, zero = z0.shape[-1], torch.zeros(len(z0))
    mask = torch.stack([make_mask("random", (side, side), 2, acs=2, seed=seed + i) for i in range(len(z0))])[:, None]
    maps = torch.ones(len(z0), 1, side, side, dtype=torch.complex64)
    return Batch(gram(z0, mask, maps), zero + 0.05, zero, zero, zero, mask, maps=maps)


class MaskConditioned(torch.nn.Module):
    """A network of three layers that is given the sampled columns."""

    def __init__(self, side: int) -> None:
        super().__init__()
        n, wide = 2 * side**2, 256
        sizes = ((n + side, wide), (wide, wide), (wide, n))
        self.layers = torch.nn.Sequential(
            *(part for a, b in sizes for part in (torch.nn.Linear(a, b), torch.nn.SiLU()))
        )[:-1]

    def forward(self, z: Tensor, sigma: Tensor, mask: Tensor) -> Tensor:
        return z + self.layers(torch.cat([z.flatten(1), mask[:, 0, 0]], 1)).reshape(z.shape)


def unseen_errors(extra: float, steps: int = 300, every: int = 100, side: int = 8, rows: int = 96) -> list[float]:
    """Error in the unsampled part of held-out k-space, over its power, before, during and after training."""
    torch.manual_seed(0)
    network, objective = MaskConditioned(side), KSpace(extra=extra, cg_iterations=0)
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-3)
    truth, data, errors = images(256, side, 1), batch_of(images(rows * 40, side, 2), 0), []
    held = batch_of(truth, 10**6)
    for step in range(steps + 1):
        if step % every == 0:
            with torch.no_grad():
                error = network(held.z, held.sigma, held.mask) - truth
                missing, scale = (t - gram(t, held.mask, held.maps) for t in (error, truth))
            errors.append(float(missing.square().sum() / scale.square().sum()))
        start = rows * (step % 40)
        part = Batch(**{k: v[start : start + rows] for k, v in vars(data).items() if v is not None})
        loss = objective.loss(network, part, Draws(step)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return errors


def test_unseen_lines_are_learned_if_lines_are_dropped_and_not_if_none_is():
    """`delta = 0`, the control of A-DPS: the loss sees nothing of what was never sampled."""
    learned, control = (unseen_errors(extra) for extra in (1.0, 0.0))
    print("\nerror in unseen lines:", *(f"{e:.2f}" for e in learned), "| delta = 0:", *(f"{e:.2f}" for e in control))
    assert learned[-1] < 0.85 * learned[0] and learned[-1] < learned[1]
    assert min(control[1:]) > 0.95 * control[0] and control[-1] > 1.2 * learned[-1]


# What is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("cartesian", SHAPE), "kind"),
        (("random", (96,)), "shape"),
        (("random", SHAPE, 0.5), "acceleration"),
        (("random", SHAPE, float("inf")), "acceleration"),
        (("random", SHAPE, 4, -1), "acs"),
        (("random", SHAPE, 4, 81), "acs"),
        (("random", SHAPE, 8, 24), "calibration"),
        (("radial", SHAPE, 40, 24), "calibration"),
        (("random", SHAPE, 100, 0), "calibration"),
    ],
)
def test_bad_requests_are_one_sentence(arguments, word):
    with pytest.raises(AmbientSolveError, match=word) as error:
        make_mask(*arguments)
    assert one_sentence(error)


def test_further_and_measuring_refuse_what_they_cannot_do():
    mask = make_mask("random", SHAPE, 6, acs=10)
    for call, word in (
        (lambda: further(mask, -1.0), "delta"),
        (lambda: further(mask, 10.0, acs=10), "delta"),
        (lambda: acceleration(torch.zeros(4, 4)), "samples something"),
        (lambda: acs_of(torch.ones(2, 1, 4, 4)), "one mask"),
    ):
        with pytest.raises(AmbientSolveError, match=word) as error:
            call()
        assert one_sentence(error)
    assert set(kspace_masks.KINDS) == {"uniform", "random", "gaussian", "poisson", "radial", "spiral"}
