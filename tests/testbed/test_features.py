"""The Frechet distance: exact for known Gaussians, 0 for the same set; the features tell blurred from sharp."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from ambient_solve.data.damages import GaussianBlur
from ambient_solve.errors import AmbientSolveError
from ambient_solve.testbed.domains import gather_pictures
from ambient_solve.testbed.features import AXES, describe, frechet_distance


def test_the_formula():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((50, 4)), 2 + rng.standard_normal((60, 4)) @ rng.standard_normal((4, 4))
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    cross = np.trace(sqrtm(first @ second)).real
    wanted = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(first) + np.trace(second) - 2 * cross
    assert frechet_distance(a, b) == pytest.approx(wanted)
    assert frechet_distance(a, a[::-1]) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a + 3) == pytest.approx(4 * 9)
    with pytest.raises(AmbientSolveError, match="at least 2"):
        frechet_distance(a[:1], b)


def test_blur_is_seen():
    pictures = [p.float() / 127.5 - 1 for _, p in gather_pictures("photographs", 24)[0][:96]]
    blurred = torch.stack([GaussianBlur(width=1.0).degrade(p, None) for p in pictures[:48]])
    sharp, others = torch.stack(pictures[:48]), torch.stack(pictures[48:])
    described = [describe(x) for x in (others, sharp, blurred)]
    assert described[0].shape == (48, AXES)
    assert np.array_equal(describe(sharp), described[1]), "the same each time"
    near, far = (frechet_distance(described[0], x) for x in described[1:])
    assert frechet_distance(described[1], described[2]) > 0 and far > near
