"""Groups of the samples of a picture against one solve of all of them, which knows nothing of groups."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ambient_solve import GaussianPrior, Solver
from ambient_solve.restore.files import restore_file
from ambient_solve.restore.memory import Drawing, joined
from ambient_solve.restore.pictures import Picture
from ambient_solve.restore.sharing import PIXELS, Share
from ambient_solve.restore.tasks import Denoise
from helpers import rand

SIDE, SIGMA, SEED = 6, 0.1, 3
PRIOR = GaussianPrior(torch.zeros(3, SIDE, SIDE), 0.25 * torch.eye(3 * SIDE**2), scale=0.5, offset=0.5)
SOLVER = Solver(PRIOR, "mmps", steps=5)


def together(y: torch.Tensor, copies: int = 1, n: int = 5):
    """All samples at once: `sqrt(copies)` times the noise in each of the copies of one measurement."""
    op = Denoise(sigma=SIGMA).operator(Picture(Path("y.png"), y, ()))
    return SOLVER.solve(y, op, n_samples=n, seed=SEED, sigma_y=copies**0.5 * SIGMA)


@pytest.mark.parametrize("copies", [1, 3])
@pytest.mark.parametrize("groups", [[range(5)], [range(2), range(2, 5)], [range(s, s + 1) for s in range(5)]])
def test_groups_of_samples_are_the_samples_of_one_solve(groups, copies):
    damage = Denoise(sigma=SIGMA)
    picture = Picture(Path("y.png"), rand(1, 3, SIDE, SIDE), (), copies)
    draw = Drawing(SOLVER, damage.measure(picture), picture, damage, SEED, 2, None, (256, 64))
    found, wanted = joined([draw(group) for group in groups], picture), together(picture.y, copies)
    torch.testing.assert_close(found.samples, wanted.samples, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.chi2, copies * wanted.chi2, atol=1e-4, rtol=1e-3)
    assert found.settings["n_samples"] == 5
    # The control: no sample is another one.
    apart = (found.samples[0, :, None] - found.samples[0, None]).abs().amax((2, 3, 4))
    assert float((apart + torch.eye(5)).min()) > 0.05


def test_a_group_alone_is_its_part_of_the_whole():
    damage, picture = Denoise(sigma=SIGMA), Picture(Path("y.png"), rand(1, 3, SIDE, SIDE), ())
    draw = Drawing(SOLVER, damage.measure(picture), picture, damage, SEED, 2, None, (256, 64))
    torch.testing.assert_close(draw(range(3, 5)).samples, together(picture.y).samples[:, 3:], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("out", [False, True])
def test_a_picture_restored_in_groups_is_that_of_one_solve(tmp_path, monkeypatch, out):
    """With a folder the groups are stored and read again."""
    monkeypatch.setitem(PIXELS, "cpu", 2 * SIDE**2)
    array = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    settings = {"algorithm": "mmps", "options": {"steps": 5}, "n_samples": 5, "seed": SEED}
    folder = tmp_path / "out" if out else None
    found = restore_file(tmp_path / "a.png", PRIOR, Denoise(sigma=SIGMA), out=folder, **settings).restoration
    wanted = together(torch.from_numpy(array).permute(2, 0, 1)[None].float() / 255)
    torch.testing.assert_close(found.samples, wanted.samples, atol=1e-4, rtol=1e-4)


def test_two_processes_that_share_a_picture_make_that_of_one_solve(tmp_path, monkeypatch):
    monkeypatch.setitem(PIXELS, "cpu", 2 * SIDE**2)
    array = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    settings = {"algorithm": "mmps", "options": {"steps": 5}, "n_samples": 5, "seed": SEED, "out": tmp_path / "out"}
    first, second = (
        restore_file(tmp_path / "a.png", PRIOR, Denoise(sigma=SIGMA), share=Share(0, 1, rank, 2), **settings)
        for rank in (0, 1)
    )
    assert first.drawn and first.restoration is None
    wanted = together(torch.from_numpy(array).permute(2, 0, 1)[None].float() / 255)
    torch.testing.assert_close(second.restoration.samples, wanted.samples, atol=1e-4, rtol=1e-4)
