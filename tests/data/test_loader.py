"""Crops, boxes and mirror images: every place occurs, and what belongs to a picture is turned as it is."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ambient_solve.data.incomplete import _box
from ambient_solve.data.loader import Levels, Loader
from ambient_solve.data.sample import Sample
from ambient_solve.objectives.kspace import gram
from ambient_solve.operators.coils import birdcage
from helpers import rand, randn

TRAINERS = Path(__file__).resolve().parents[2] / "trainers"
LEVELS = Levels(-0.9, 1.6, 0.01, 80.0)


def batch_of(samples: list[Sample], crop: int, n: int = 64, seed: int = 0):
    return Loader(samples, np.ones(len(samples)), LEVELS, crop=crop, buffer=1.16, batch=n, seed=seed)(0)[0]


def places(view: Tensor) -> tuple[int, int, bool]:
    """Where a crop of the picture `100 row + column` was taken, and whether it was mirrored."""
    mirrored = bool(view[0, 0, 0] > view[0, 0, -1])
    first = int((view.flip(-1) if mirrored else view)[0, 0, 0])
    return first // 100, first % 100, mirrored


HEIGHT, WIDTH, CROP = 11, 9, 6
NUMBERED = (100 * torch.arange(HEIGHT)[:, None] + torch.arange(WIDTH)).half()[None]


def test_every_crop_of_a_picture_occurs_up_to_its_last_row_and_column():
    z = batch_of([Sample("a", NUMBERED)], CROP, 2000).z
    found = {places(view) for view in z}
    assert found == {
        (r, c, m) for r in range(HEIGHT - CROP + 1) for c in range(WIDTH - CROP + 1) for m in (False, True)
    }
    assert z.max() == 100 * (HEIGHT - 1) + WIDTH - 1


def test_every_crop_that_an_annotator_looks_at_occurs(monkeypatch):
    pytest.importorskip("accelerate", reason="training needs accelerate: pip install 'ambient-solve[train]'")
    monkeypatch.syspath_prepend(str(TRAINERS))
    view, rng = importlib.import_module("ambient_solve.training.fitting").view, np.random.default_rng(0)
    found = {places(view(NUMBERED, CROP, rng)) for _ in range(2000)}
    assert found == {
        (r, c, m) for r in range(HEIGHT - CROP + 1) for c in range(WIDTH - CROP + 1) for m in (False, True)
    }


def test_a_box_hides_every_place_up_to_the_last_row_and_column():
    rng, found = np.random.default_rng(0), set()
    for _ in range(500):
        rows, columns = _box((1, HEIGHT, WIDTH), 0.5, rng)[0].nonzero().min(0).values.tolist()
        found.add((rows, columns))
    height, width = round(HEIGHT / 2), round(WIDTH / 2)
    assert found == {(r, c) for r in range(HEIGHT - height + 1) for c in range(WIDTH - width + 1)}


def test_a_mask_of_pixels_is_cropped_and_mirrored_with_its_picture():
    mask = (rand(1, HEIGHT, WIDTH) > 0.5).to(torch.uint8)
    batch = batch_of([Sample("a", mask * (NUMBERED + 1), mask=mask)], CROP)
    assert torch.equal(batch.mask, (batch.z > 0).float())
    assert not torch.equal(batch.mask.flip(-1), (batch.z > 0).float())  # the control


def scan(side: int = 8) -> Sample:
    """Stored as `mri-train` does not: `A^H y`, which `gram` of its own maps and mask gives of a picture."""
    maps, mask = birdcage(3, (side, side)), (rand(1, side, side) > 0.4).to(torch.uint8)
    stored = gram(randn(1, 2, side, side), mask[None].float(), maps[None])[0]
    return Sample("scan", stored.half(), mask=mask, maps=maps)


def coefficients(side: int = 8) -> Sample:
    signs = (2 * (rand(3, side, side) > 0.5).float() - 1).to(torch.int8)
    mask = (rand(3, side, side, seed=1) > 0.4).to(torch.uint8)
    return Sample("coefficients", randn(3, side, side).half(), mask=mask, signs=signs)


@pytest.mark.parametrize("make", [scan, coefficients])
def test_what_was_measured_of_the_whole_picture_is_never_mirrored(make):
    """Coil maps and signs belong to places: neither they nor picture nor mask may be turned alone. 64 rows, no coin."""
    sample = make()
    batch = batch_of([sample], 8)
    for found, stored in ((batch.z, sample.z), (batch.mask, sample.mask.expand(batch.mask.shape[1:]))):
        assert torch.equal(found, stored.float().expand(found.shape))
    for found, stored in ((batch.maps, sample.maps), (batch.signs, sample.signs)):
        assert (found is None) == (stored is None)
        assert found is None or torch.equal(found, stored.to(found).expand(found.shape))
    # The control: a picture of pixels is mirrored half of the time.
    plain = batch_of([Sample("plain", sample.z)], 8)
    assert 10 < sum(torch.equal(z, sample.z.float().flip(-1)) for z in plain.z) < 54
