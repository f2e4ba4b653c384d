"""Noise along a motion: what it keeps of its law, what it keeps of its pixels, and what a solver makes of it."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import kstest
from torch import Tensor
from torch.nn import functional as F

from ambient_solve import AmbientSolveError, Proximal, Solver, operators
from ambient_solve.noise import Streams
from ambient_solve.priors.base import Prior
from ambient_solve.priors.field import Field
from ambient_solve.video.warped_noise import KINDS, Frame, FramePrior, first_frame
from helpers import AffinePrior, rand, randn

pytestmark = pytest.mark.filterwarnings("ignore::ambient_solve.errors.MisfitWarning")
SIDE, FRAMES = 40, 30
LAW = Field(length=1.0, features=300)
FOLLOWING = ("nearest", "integral", "field")


def begin(kind: str, size: tuple[int, int] = (SIDE, SIDE)) -> Frame:
    return first_frame(kind, size, LAW if kind == "field" else None)


def shift(rows: float, columns: float, size: tuple[int, int] = (SIDE, SIDE)) -> Tensor:
    """A flow that is the same everywhere."""
    return torch.tensor([rows, columns]).reshape(2, 1, 1).expand(2, *size)


def zoom(factor: float, size: tuple[int, int] = (SIDE, SIDE)) -> Tensor:
    """The next frame shows the middle of this one, `factor` times as large."""
    centered = torch.stack(torch.meshgrid(*(torch.arange(n) - (n - 1) / 2 for n in size), indexing="ij"))
    return centered / factor - centered


def smooth(seed: int, size: int = SIDE) -> Tensor:
    """A random smooth flow of some 0.5 pixel."""
    return 0.5 * F.interpolate(randn(1, 2, 4, 4, seed=seed), size=(size, size), mode="bicubic", align_corners=True)[0]


def draws(frame: Frame, count: int = 40, channels: int = 1) -> Tensor:
    size = frame.addresses.shape[:2]
    return frame.noise(3, (count, channels, *size), Streams([0], count))


def along_rows(n: Tensor) -> float:
    """The mean product of neighbours."""
    return float((n[..., 1:] * n[..., :-1]).mean())


def sharing(one: Frame, two: Frame, pixel: tuple[int, int], other: tuple[int, int]) -> float:
    """The correlation of a pixel of one frame with one of another, from the cells that they share."""
    width = one.addresses.shape[1]
    sets = [
        {tuple(p) for p in f.cells.places[f.cells.owners == i * width + j].tolist()}
        for f, (i, j) in ((one, pixel), (two, other))
    ]
    return len(sets[0] & sets[1]) / math.sqrt(len(sets[0]) * len(sets[1]))


@pytest.fixture(scope="module", params=FOLLOWING)
def warped(request) -> Frame:
    """After 30 random smooth warps."""
    frame = begin(request.param)
    for t in range(FRAMES):
        frame = frame.next(smooth(t))
    return frame


def test_thirty_warps_keep_the_law(warped):
    """Variance, distribution and correlation of neighbours; a bilinear warp does not keep them (the control below)."""
    n = draws(warped)
    expected = 0.0
    if warped.law is not None:
        steps = warped.addresses[:, 1:] - warped.addresses[:, :-1]
        expected = float(LAW.covariance(steps).mean())
        assert abs(expected - float(LAW.covariance(torch.tensor([0.0, 1.0])))) < 0.1
    assert abs(float(n.var()) - 1) < 0.03  # deviation .0056 of white noise, .012 of the field
    assert abs(float(n.var(0).mean()) - 1) < 0.04 and abs(along_rows(n) - expected) < 0.03
    apart = n[..., 4::8, 4::8].flatten()  # 1000 numbers that are independent of each other, of the field too
    assert kstest(apart.numpy(), "norm").pvalue > 0.01


@pytest.mark.parametrize("warped", ["nearest", "integral"], indirect=True)
def test_white_noise_is_exactly_white_after_thirty_warps(warped):
    """A sum of cells of its own, over the root of their number, for every pixel."""
    places, counts = warped.cells.places, warped.cells.counts
    assert len(places.unique(dim=0)) == len(places) and int(counts.min()) >= 1 and int(counts.sum()) == len(places)
    assert bool((warped.cells.owners.diff() >= 0).all())


def test_one_bilinear_warp_of_white_noise_does_not_keep_the_law():
    """The control: variance (2/3)^2 in the mean over sub-pixel shifts, and neighbours that depend on each other."""
    n = randn(40, 1, SIDE, SIDE)
    steps = torch.arange(8) / 8
    moved = [
        (1 - a) * m[..., 1:, :] + a * m[..., :-1, :]
        for a in steps
        for b in steps
        for m in [(1 - b) * n[..., 1:] + b * n[..., :-1]]
    ]
    found = torch.stack(moved)
    assert float(found.var()) == pytest.approx(4 / 9, abs=0.02) and along_rows(found) > 0.05
    assert kstest(found[36, ..., 4::8, 4::8].flatten().numpy(), "norm").pvalue < 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_keep_their_noise_where_they_move_by_whole_pixels(kind):
    one = begin(kind)
    two = one.next(shift(2, -3)).next(shift(-1, 1))  # (1, -2) in all
    a, b = draws(one, 3), draws(two, 3)
    same = torch.allclose(b[..., :-1, 2:], a[..., 1:, :-2], atol=1e-5)
    assert same == (kind in FOLLOWING)
    if kind == "fixed":
        assert torch.equal(a, b)
    else:
        expected = float(LAW.covariance(torch.tensor([1.0, -2.0]))) if kind == "field" else 0.0
        assert abs(float((a * b).mean()) - expected) < 0.1
        assert abs(float(b.var()) - 1) < 0.15  # those that came into the frame included
    back = two.next(shift(-1, 2))
    inside = (slice(None), slice(None), slice(3, -3), slice(3, -3))
    assert torch.allclose(draws(back, 3)[inside], a[inside], atol=1e-5) == (kind != "independent")


def test_the_integral_shares_the_area_that_two_pixels_share():
    one = begin("integral")
    half = one.next(shift(0, 0.5))
    assert sharing(half, one, (20, 20), (20, 20)) == sharing(half, one, (20, 20), (20, 21)) == 0.5
    quarter = one.next(shift(0.25, 0.5))
    assert sharing(quarter, one, (20, 20), (21, 21)) == 0.125
    near, far = one.next(zoom(2.0)), one.next(zoom(0.5))
    assert sharing(near, one, (19, 19), (19, 19)) == 0.5  # a quarter of the pixel's area: root of 1/4
    assert sharing(far, one, (20, 20), (20, 20)) == pytest.approx(0.5, abs=0.13)
    # The control: the nearest pixel is all or nothing.
    nearest = begin("nearest").next(shift(0, 0.4))
    assert sharing(nearest, begin("nearest"), (20, 20), (20, 20)) == 1


@pytest.mark.parametrize("kind", FOLLOWING)
def test_small_motions_add_up(kind):
    """Eight times 1/8 pixel is one pixel: nothing is rounded on the way."""
    frame = begin(kind)
    a = draws(frame, 3)
    for _ in range(8):
        frame = frame.next(shift(0, 0.125))
    assert torch.allclose(draws(frame, 3)[..., :-1], a[..., 1:], atol=1e-4)


@pytest.mark.parametrize("kind", FOLLOWING)
def test_what_comes_into_sight_begins_anew_and_so_does_all_after_a_cut(kind):
    one = begin(kind)
    hidden = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    hidden[5:15, 5:20] = True
    two = one.next(shift(0, 0), hidden)
    a, b, c = (draws(f) for f in (one, two, two.next(shift(0, 0), cut=True)))
    assert torch.equal(a[..., ~hidden], b[..., ~hidden])
    assert abs(float((a * b)[..., hidden].mean())) < 0.06 and abs(float(b[..., hidden].var()) - 1) < 0.06
    assert abs(float((b * c).mean())) < 0.06 and abs(float(c.var()) - 1) < 0.06  # deviation .01 of the field
    kept = draws(two.next(shift(0, 1)))  # new pixels keep their noise, too
    assert torch.equal(kept[..., :-1], b[..., 1:])


@pytest.mark.parametrize("kind", ["nearest", "integral"])
def test_a_surface_in_front_takes_its_noise_over_what_it_hides(kind):
    """Two halves that move apart and together again: never interpolated across the gap, and white throughout."""
    flow = torch.zeros(2, SIDE, SIDE)
    flow[1, :, SIDE // 2 :] = -3.0
    one = begin(kind)
    two = one.next(flow)
    a, b = draws(one), draws(two)
    assert torch.equal(b[..., : SIDE // 2], a[..., : SIDE // 2])
    right = slice(SIDE // 2 + 3, None)
    assert torch.equal(b[..., right], a[..., SIDE // 2 : -3])
    gap = b[..., SIDE // 2 : SIDE // 2 + 3]  # what would be there twice: one of the two has it
    assert abs(float((gap * b[..., SIDE // 2 - 3 : SIDE // 2]).mean())) < 0.06 and abs(float(b.var()) - 1) < 0.03


@pytest.mark.parametrize("kind", KINDS)
def test_a_draw_is_addressed_by_number_seed_and_sample_alone(kind):
    frame = begin(kind, (8, 9)).next(shift(0.3, 0.4, (8, 9)))
    streams = Streams([5, 6], 2)
    whole = frame.noise(4, (4, 5, 8, 9), streams)
    streams.normal(whole)
    assert torch.equal(whole, frame.noise(4, (4, 5, 8, 9), streams))
    assert torch.equal(whole[3:], frame.noise(4, (1, 5, 8, 9), Streams([6], 1, first_sample=1)))
    others = [frame.noise(5, (4, 5, 8, 9), streams), whole.roll(1, 0), whole.roll(1, 1)]
    assert max(abs(float((whole * other).mean())) for other in others) < 0.3  # deviation .03, of the field more


class Local(Prior):
    """Exactly equivariant: a smaller picture, blurred in a circle of one pixel; or not, with a slope over the frame."""

    shape, sigma_min, sigma_max, sigma_data = (1, SIDE, SIDE), 0.05, 5.0, 0.5

    def denoise(self, z, sigma, cond=None):
        around = sum(z.roll((i, j), (-2, -1)) for i, j in ((0, 1), (0, -1), (1, 0), (-1, 0)))
        return (z + sigma * around / 4) / (1 + sigma) / (1 + sigma**2)


@pytest.mark.parametrize("kind", KINDS)
def test_an_equivariant_denoiser_gives_a_clip_without_flicker_where_its_noise_follows_the_motion(kind):
    """The warping error of a denoised clip that moves by whole pixels, the fresh noise of every level included."""
    steps, op = 6, operators.denoise((1, SIDE, SIDE), 0.1)
    scene = rand(1, 1, SIDE + 6, SIDE + 6)
    frame, found = begin(kind), []
    for t in range(3):
        if t:
            frame = frame.next(shift(1, 2))
        y = scene[..., t : t + SIDE, 2 * t : 2 * t + SIDE]
        solver = Solver(FramePrior(Local(), frame), Proximal(steps=steps, eta=1.0))
        found.append(solver.solve(y, op, n_samples=2).samples[0].double())
    reach = steps + 2  # pixels that the edge of the frame has come near
    inside = (slice(None), slice(None), slice(reach, -reach), slice(reach, -reach))
    error = max(
        float((after - before.roll((-1, -2), (-2, -1)))[inside].square().mean().sqrt())
        for before, after in zip(found, found[1:], strict=False)
    )
    assert float(found[0].std(0).mean()) > 0.02  # the noise is seen in the samples
    if kind in FOLLOWING:
        assert error < 1e-6
    else:
        assert error > 0.02


def test_samples_do_not_depend_on_how_many_are_drawn_at_once():
    prior, op = FramePrior(Local(), begin("nearest")), operators.denoise((1, SIDE, SIDE), 0.1)
    solver, y = Solver(prior, Proximal(steps=4, eta=1.0)), rand(1, 1, SIDE, SIDE)
    whole = solver.solve(y, op, n_samples=3).samples
    assert torch.allclose(whole, solver.solve(y, op, n_samples=3, at_once=1).samples, atol=1e-6)
    assert not torch.allclose(whole, solver.solve(y, op, n_samples=3, seed=1).samples, atol=1e-2)  # the control
    v = rand(1, 1, SIDE, SIDE)
    assert torch.equal(FramePrior(Local(), begin("field")).correlate(v), LAW.correlate(v))
    assert torch.equal(prior.correlate(v), v)


def test_each_draw_of_a_run_is_a_new_one_and_each_run_begins_with_the_first():
    frame, shape = begin("integral"), (2, 1, SIDE, SIDE)
    prior, streams = FramePrior(Local(), frame), Streams([7], 2)
    numbers = [prior.noise(shape, streams) for _ in range(2)]
    assert all(torch.equal(n, frame.noise(k, shape, streams)) for k, n in enumerate(numbers))
    assert abs(float((numbers[0] * numbers[1]).mean())) < 0.1  # deviation .02
    assert torch.equal(prior.noise(shape, Streams([7], 2)), numbers[0])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: first_frame("nearst", (8, 8)), "nearest"),
        (lambda: first_frame("field", (8, 8)), "Field"),
        (lambda: first_frame("integral", (8, 8), LAW), "take kind 'field'"),
        (lambda: begin("nearest").next(torch.zeros(2, 8, 8)), "finite flow"),
        (lambda: begin("nearest").next(torch.full((2, SIDE, SIDE), math.nan)), "finite flow"),
        (lambda: begin("nearest").next(shift(0, 0), torch.zeros(8, 8).bool()), "mask of shape"),
        (lambda: FramePrior(AffinePrior(), begin("nearest")).noise((1, 1, 8, 8), Streams([0], 1)), "states"),
    ],
)
def test_what_does_not_fit_is_refused(wrong, words):
    with pytest.raises(AmbientSolveError, match=words):
        wrong()
