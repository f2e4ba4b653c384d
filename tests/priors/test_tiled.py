"""Tiles that cannot be seen, pieces that find their way back: both against what the whole picture gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ambient_solve import (
    AmbientSolveError,
    GaussianPrior,
    NetworkConfig,
    NetworkPrior,
    Solver,
    load_prior,
    operators,
)
from ambient_solve.cli.demo import photograph
from ambient_solve.noise import Streams
from ambient_solve.priors.ambient import AmbientPrior
from ambient_solve.priors.base import Prior
from ambient_solve.priors.tiled import TiledPrior, starts
from ambient_solve.restore.crops import Piece, crop, fit, missing_box
from ambient_solve.restore.files import restore_file
from ambient_solve.restore.pictures import Picture
from ambient_solve.restore.tasks import Denoise
from ambient_solve.saving import save_png
from helpers import one_sentence, rand, randn

TILE, OVERLAP = 16, 6


def white(height: int, width: int, variance: float = 0.3) -> GaussianPrior:
    """Pixels that know nothing of one another: the denoiser is the same wherever a tile is cut."""
    mean = torch.full((1, height, width), 0.2)
    return GaussianPrior.stationary(mean, torch.full((height, width), variance), scale=0.5, offset=0.5)


class Recorder(Prior):
    """What a network is shown; any denoiser that sees its neighbours."""

    shape, sigma_min, sigma_max = (1, -1, -1), 0.01, 80.0

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []
        self.kernel = rand(1, 1, 5, 5) / 12

    def denoise(self, z, sigma, cond=None):
        self.seen.append(tuple(z.shape))
        smooth = torch.nn.functional.conv2d(z, self.kernel, padding=2)
        level = torch.as_tensor(sigma).reshape(-1, 1, 1, 1)
        return torch.tanh(smooth) / (1 + level) + (0 if cond is None else cond)


class Decoded(Recorder):
    """A prior behind a decoder."""

    affine = None


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 40), (53, 38), (9, 61)])
@pytest.mark.parametrize("sigma", [0.3, torch.tensor([0.1, 2.0, 30.0])])
def test_a_pixelwise_denoiser_is_the_same_in_tiles(height, width, sigma):
    tiled, z = TiledPrior(white(TILE, TILE), TILE, OVERLAP, at_once=4), 3 * randn(3, 1, height, width)
    if min(height, width) < TILE:
        with pytest.raises(AmbientSolveError, match="enlarge") as error:
            tiled.state_shape((1, height, width))
        assert one_sentence(error)
        return
    whole = white(height, width)
    torch.testing.assert_close(tiled.denoise(z, sigma), whole.denoise(z, sigma), atol=1e-6, rtol=1e-5)
    (z0, vjp), (expected, exact), v = tiled.denoise_vjp(z, sigma), whole.denoise_vjp(z, sigma), randn(*z.shape, seed=1)
    torch.testing.assert_close(z0, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(vjp(v), exact(v), atol=1e-6, rtol=1e-5)


def test_a_run_in_tiles_is_the_run_on_the_whole():
    """Noise, measurement and decode are those of the whole picture: the samples come out the same."""
    op = operators.inpaint_random((1, 37, 29), missing=0.5, sigma=0.05)
    y = op(rand(1, 1, 37, 29))
    for algorithm in ("mmps", "proximal", "dps"):
        runs = [
            Solver(prior, algorithm, steps=4).solve(y, op, n_samples=2).samples
            for prior in (white(37, 29), TiledPrior(white(TILE, TILE), TILE, OVERLAP))
        ]
        # The noise ranges of the two follow from their data, which are the same.
        torch.testing.assert_close(*runs, atol=1e-5, rtol=1e-4)


def blend(tiled: TiledPrior, shape: tuple[int, ...]) -> torch.Tensor:
    """The sum of all windows of a state."""
    total = torch.zeros(shape)
    for places, windows in tiled._places(total):
        for place, window in zip(places, windows, strict=True):
            total[place.slices] += window
    return total


@pytest.mark.parametrize("overlap", [1, 5, 8])
@pytest.mark.parametrize("size", [(17, 16), (64, 33), (100, 16), (31, 250)])
def test_windows_sum_to_one_and_none_is_abrupt(size, overlap):
    tiled = TiledPrior(Recorder(), TILE, overlap)
    assert (blend(tiled, (2, 1, *size)) - 1).abs().max() < 1e-6
    windows = torch.cat([w for _, w in tiled._places(torch.zeros(1, 1, *size))])
    assert windows.min() >= 0
    steps = max(windows.diff(dim=axis).abs().max() for axis in (-2, -1))
    assert steps < 2.2 / overlap  # a squared sine climbs at most pi / 2 a length; the last tile may share more


def test_tiles_cover_an_axis_and_overlap():
    for length, tile, overlap in ((16, 16, 4), (17, 16, 4), (100, 16, 8), (1000, 256, 64)):
        first = starts(length, tile, overlap)
        assert first[0] == 0 and first[-1] + tile == length
        assert all(0 < b - a <= tile - overlap for a, b in zip(first, first[1:], strict=False))
    assert starts(9, 16, 4) == [0]


def test_the_backward_pass_is_that_of_autograd_and_memory_is_bounded():
    tiled, z = TiledPrior(inner := Recorder(), TILE, OVERLAP, at_once=3), randn(2, 1, 40, 21)
    sigma, cond, v = torch.tensor([0.2, 1.5]), 0.1 * randn(2, 1, 40, 21, seed=2), randn(2, 1, 40, 21, seed=3)
    leaf = z.clone().requires_grad_()
    expected = tiled.denoise(leaf, sigma, cond)
    (gradient,) = torch.autograd.grad(expected, leaf, v)
    inner.seen.clear()
    z0, vjp = tiled.denoise_vjp(z, sigma, cond)
    torch.testing.assert_close(z0, expected.detach())
    torch.testing.assert_close(vjp(v), gradient)
    torch.testing.assert_close(vjp(2 * v), 2 * gradient)  # good for any number of calls
    assert {shape[1:] for shape in inner.seen} == {(1, TILE, TILE)} and max(shape[0] for shape in inner.seen) == 3
    # A denoiser that sees its neighbours is not the same in tiles: the test above can tell the two apart.
    assert (z0 - inner.denoise(z, sigma, cond)).abs().max() > 1e-3


def test_small_pictures_pass_as_they_are():
    tiled, z = TiledPrior(inner := Recorder(), TILE, OVERLAP), randn(2, 1, 16, 9)
    assert torch.equal(tiled.denoise(z, 1.0), inner.denoise(z, 1.0)) and inner.seen == [(2, 1, 16, 9)] * 2
    assert tiled.affine == inner.affine and torch.equal(tiled.decode(z), inner.decode(z))


def test_what_cannot_be_tiled_is_said():
    ambient = AmbientPrior(Recorder(), 0.5)
    for words, call in (
        ("size of the prior", lambda: TiledPrior(white(24, 24), 16, 4)),
        ("1 to tile / 2", lambda: TiledPrior(Recorder(), 16, 9)),
        ("1 to tile / 2", lambda: TiledPrior(Recorder(), 16, 0)),
        ("at least one tile", lambda: TiledPrior(Recorder(), 16, 4, at_once=0)),
        ("mask-conditioned", lambda: TiledPrior(ambient, 16, 4)),
        ("not affine", lambda: TiledPrior(Decoded(), 16, 4)),
        ("takes cond as", lambda: TiledPrior(Recorder(), 16, 4).denoise(randn(1, 1, 20, 20), 1.0, "a word")),
    ):
        with pytest.raises(AmbientSolveError, match=words) as error:
            call()
        assert one_sentence(error)


def roughness(x: torch.Tensor, columns: list[int]) -> float:
    """Mean absolute step between neighbouring columns at `columns`, over that everywhere else. x (S, C, H, W)."""
    step = x.diff(dim=-1).abs().mean((0, 1, 2))
    there = torch.zeros(len(step), dtype=torch.bool)
    there[[c - 1 for c in columns]] = True
    return float(step[there].mean() / step[~there].mean())


def test_seams_cannot_be_seen():
    """Restored jointly, the picture steps at the borders of tiles no more than elsewhere; tile by tile it does."""
    prior, x, cuts = load_prior("photos"), photograph(128)[:, 24:72], [0, 32, 64, 96, 128]
    op = operators.inpaint_random((3, 48, 128), missing=0.9, sigma=0.02)
    y, tile = op(x[None]), 48
    joint, whole = (
        Solver(p, "proximal", steps=8).solve(y, op, n_samples=1).samples[0]
        for p in (TiledPrior(prior, tile, 16), prior)
    )
    borders = [c for s in starts(128, tile, 16) for c in (s, s + tile) if 0 < c < 128]
    alone = torch.zeros_like(joint)
    for left, right in zip(cuts, cuts[1:], strict=False):
        part = operators.inpaint(op.mask[0, 0, :, left:right], 0.02, 3)
        run = Solver(prior, "proximal", steps=8).solve(y[..., left:right], part, n_samples=1, seed=left)
        alone[..., left:right] = run.samples[0]
    jointly, without, one_by_one = roughness(joint, borders), roughness(whole, borders), roughness(alone, cuts[1:-1])
    print(f"step at borders over step elsewhere: {jointly:.3f}, untiled {without:.3f}, one by one {one_by_one:.3f}")
    assert jointly < 1.1 * without and 0.8 < jointly < 1.15 and one_by_one > 1.5


def picture(height: int, width: int, seed: int = 0) -> Picture:
    return Picture(Path("p.png"), rand(1, 3, height, width, seed=seed), ())


def hole(height: int, width: int, top: int, left: int, bottom: int, right: int) -> torch.Tensor:
    mask = torch.ones(height, width)
    mask[top:bottom, left:right] = 0
    return mask


def test_known_pixels_come_back_exactly():
    whole, mask = picture(60, 100), hole(60, 100, 20, 30, 33, 51)
    pieces = {
        "fit": fit(whole, 40, mask),
        "crop": crop(whole, missing_box(mask, margin=4, least=8), mask),
        "as it is": fit(whole, 100, mask),
    }
    for name, piece in pieces.items():
        invented = torch.full((1, 2, *piece.picture.y.shape[1:]), 0.123)
        back = piece.paste(invented)
        assert back.shape == (1, 2, 3, 60, 100), name
        known = (mask > 0).expand_as(back)
        assert torch.equal(back[known], whole.y[:, None].expand_as(back)[known]), name
        assert torch.allclose(back[~known], torch.tensor(0.123), atol=1e-6), name
        # Without the mask the same pixels are overwritten.
        bare = Piece(piece.picture, whole, piece.box, piece.mask)
        assert not torch.equal(bare.paste(invented)[known], whole.y[:, None].expand_as(back)[known]), name


def test_a_change_is_pasted_back_and_detail_stays():
    whole = picture(64, 96)
    piece = fit(whole, 48)
    assert piece.picture.y.shape == (1, 3, 32, 48)
    torch.testing.assert_close(piece.paste(piece.picture.y[:, None]), whole.y[:, None])  # nothing changed
    brighter = piece.paste(piece.picture.y[:, None] + 0.25)
    torch.testing.assert_close(brighter, whole.y[:, None] + 0.25)
    enlarged = torch.nn.functional.interpolate(piece.picture.y, size=(64, 96), mode="bicubic")
    assert (enlarged - whole.y).abs().mean() > 0.1  # what enlarging the small picture would lose


def test_noise_gets_smaller_by_what_is_said():
    for size, side in (((64, 64), 32), ((90, 150), 100), ((120, 77), 50)):
        noise = Picture(Path("n.png"), randn(1, 200, *size), ())
        piece = fit(noise, side)
        measured = float(piece.picture.y.square().mean().sqrt())
        assert abs(piece.noise - measured) < 0.01 * measured < 0.01
    assert fit(picture(20, 30), 30).noise == 1


def test_a_small_pixel_is_observed_where_all_it_was_made_of_is():
    mask = hole(8, 8, 3, 4, 5, 6)
    small = fit(picture(8, 8), 4, mask).mask
    expected = torch.ones(4, 4)
    expected[1:3, 2] = 0
    assert torch.equal(small, expected)


def test_the_box_holds_what_is_missing_and_its_margin():
    mask = hole(300, 400, 100, 5, 110, 30)
    top, left, bottom, right = missing_box(mask, margin=20, least=64)
    assert (top, bottom) == (73, 137) and (left, right) == (0, 65)
    assert missing_box(mask, margin=0, least=1) == (100, 5, 110, 30)
    assert missing_box(mask, margin=1000) == (0, 0, 300, 400)
    assert missing_box(hole(50, 400, 48, 390, 50, 400), least=128) == (0, 262, 50, 400)
    with pytest.raises(AmbientSolveError, match="Nothing is missing"):
        missing_box(torch.ones(4, 4))


def test_pieces_refuse_what_does_not_fit():
    whole = picture(20, 30)
    for words, call in (
        ("not inside", lambda: crop(whole, (0, 0, 21, 30))),
        ("not inside", lambda: crop(whole, (5, 5, 5, 10))),
        ("The mask has shape", lambda: fit(whole, 10, torch.ones(30, 20))),
        ("at least 1", lambda: fit(whole, 0)),
    ):
        with pytest.raises(AmbientSolveError, match=words) as error:
            call()
        assert one_sentence(error)


def test_a_file_that_does_not_fit_is_restored_in_tiles(tmp_path, monkeypatch):
    """It is said; without the tiles nothing would be restored at all. An untrained network looks at pixels alone, so
    that the picture is the same."""
    torch.manual_seed(0)
    prior = NetworkPrior(NetworkConfig(widths=(8, 16), groups=4)).eval().requires_grad_(False)
    save_png(rand(3, 80, 90), tmp_path / "a.png")
    run = lambda: restore_file(  # noqa: E731
        tmp_path / "a.png", prior, Denoise(sigma=0.1), algorithm="proximal", options={"steps": 3}, n_samples=3
    )
    whole, sizes, network = run(), [], NetworkPrior.denoise
    monkeypatch.setattr("ambient_solve.restore.memory._free_memory", lambda prior: 1_000_000)
    with pytest.raises(AmbientSolveError, match="GB of memory"):
        run()  # smaller than a tile
    for name, value in {"TILE": 48, "OVERLAP": 16, "STATE": 20}.items():
        monkeypatch.setattr(f"ambient_solve.restore.memory.{name}", value)
    monkeypatch.setattr(
        NetworkPrior, "denoise", lambda self, z, *rest: sizes.append(tuple(z.shape)) or network(self, z, *rest)
    )
    tiled = run()
    assert "in tiles of 48 pixels" in tiled.notes[-1] and not any("tiles" in note for note in whole.notes)
    assert tiled.restoration.settings["notes"] == tiled.notes
    assert {size[-2:] for size in sizes} == {(48, 48)} and max(size[0] for size in sizes) <= 4
    torch.testing.assert_close(tiled.restoration.samples, whole.restoration.samples, atol=1e-5, rtol=0)


def test_noise_is_one_field_over_the_whole_picture():
    tiled = TiledPrior(Recorder(), TILE, OVERLAP)
    shape = (2, 1, 40, 50)
    assert torch.equal(tiled.noise(shape, Streams([3], 2)), Streams([3], 2).normal(torch.empty(shape)))
