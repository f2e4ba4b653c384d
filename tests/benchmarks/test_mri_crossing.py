"""The numbers of benchmarks/mri_crossing.py, where they are known."""

from __future__ import annotations

import pytest
import torch

import mri_crossing as crossing
from helpers import randn


def scans() -> crossing.Scans:
    """Three slices seen by one coil that sees everything."""
    truth, maps = randn(3, 2, 64, 64, seed=1), torch.ones(3, 1, 64, 64, dtype=torch.complex64)
    kspace = crossing.to_kspace(truth, maps)
    return crossing.Scans(truth, maps, torch.view_as_real(kspace).movedim(-1, 1))


def test_scores_of_the_truth_of_what_was_measured_and_of_noise():
    known = scans()
    mask = crossing.masks(4, 3, seed=0)
    assert mask.shape == (3, 1, 64, 64) and float(mask.mean()) == 0.25 and not torch.equal(mask[0], mask[1])
    truth = crossing.scores(known.truth[:, None].expand(-1, 4, -1, -1, -1), known, mask)
    assert truth["single"] == truth["mean"] == 0 and truth["missing"] < 1e-9
    filled, _ = crossing._visible(known, mask)
    measured = crossing.scores(filled[:, None], known, mask)
    assert measured["missing"] == pytest.approx(1) and measured["single"] == pytest.approx(0.75**0.5, rel=0.02)
    assert measured["vb"] is None
    # Samples as far from the truth as the truth is from them: V / B is 1, one errs by a root of 2 more than the mean.
    spread = crossing.scores(torch.stack([randn(3, 2, 64, 64, seed=s) for s in range(2, 42)], 1), known, mask)
    assert spread["vb"] == pytest.approx(1, rel=0.05) and spread["single"] == pytest.approx(2**0.5, rel=0.02)


def test_table_has_a_row_for_each_method_and_prior():
    rows = [{"rate": 2, "prior": "R4", "method": m, "single": 0.5, "mean": 0.25} for m in ("A-DPS", "proximal")]
    text = crossing.tables(rows, [2, 4], ["R4"])
    assert "| A-DPS, R4 | 0.500 |  |" in text and "| proximal, R4 | 0.250 |  |" in text and "one call" not in text
