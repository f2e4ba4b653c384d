"""Warping error, temporal PSNR and temporal calibration where they are known, with controls that must differ."""

from __future__ import annotations

import math

import pytest
import torch

from ambient_solve import AmbientSolveError
from ambient_solve.evaluate.video import motions_of, temporal_calibration, temporal_psnr, warping_error
from ambient_solve.video.flow import Motion
from helpers import rand, randn

SIDE = 24


def moving(frames: int = 4, step: int = 2) -> tuple[torch.Tensor, list[Motion]]:
    scene = rand(2, SIDE, SIDE + step * frames)
    clip = torch.stack([scene[..., step * t : step * t + SIDE] for t in range(frames)])
    flow = torch.tensor([0.0, step]).reshape(2, 1, 1).expand(2, SIDE, SIDE)
    return clip, [Motion(flow, None, False)] * (frames - 1)


def test_a_clip_that_moves_as_its_flow_says_has_no_warping_error():
    clip, motions = moving()
    assert warping_error(clip, motions) < 1e-12
    still = [Motion(torch.zeros_like(m.flow), None, False) for m in motions]
    assert warping_error(clip, still) > 0.05  # the control: another flow
    noisy = clip + 0.1 * randn(*clip.shape)
    assert warping_error(noisy, motions) == pytest.approx(2 * 0.1**2, rel=0.1)


def test_what_is_hidden_or_not_asked_for_does_not_count():
    clip, motions = moving()
    spoiled, part = clip.clone(), torch.zeros(SIDE, SIDE, dtype=torch.bool)
    part[5:9, 3:8] = True
    spoiled[2][:, part] += 1
    before = torch.zeros_like(part)
    before[5:9, 1:6] = True  # where the next frame shows it
    hidden = [None, part, before]
    seen = [Motion(m.flow, h, False) for m, h in zip(motions, hidden, strict=True)]
    assert warping_error(spoiled, seen) < 1e-12 < warping_error(spoiled, motions)
    assert warping_error(spoiled, motions, ~(part | before)) < 1e-12
    only = torch.stack([part if t == 2 else torch.zeros_like(part) for t in range(4)])
    assert warping_error(spoiled, motions, only) == pytest.approx(1.0)


def test_a_cut_is_not_compared_and_nothing_to_compare_is_said():
    clip, motions = moving()
    clip = torch.cat([clip, 1 - clip])
    cut = Motion(motions[0].flow, None, True)
    assert warping_error(clip, [*motions, cut, *motions]) < 1e-12
    assert warping_error(clip, [*motions, motions[0], *motions]) > 0.01
    with pytest.raises(AmbientSolveError, match="No pixel"):
        warping_error(clip[:2], [cut])
    with pytest.raises(AmbientSolveError, match="7 motions"):
        warping_error(clip, motions)


def test_the_motions_of_a_clip_are_estimated_from_it():
    smooth = torch.nn.functional.avg_pool2d(rand(1, 40, 60), 5, 1)
    clip = torch.stack([smooth[..., t : t + SIDE + 8] for t in range(3)])
    motions = motions_of(clip, "ilk")
    assert len(motions) == 2 and float(motions[0].flow[1, 8:-8, 8:-8].median()) == pytest.approx(1, abs=0.1)


def test_temporal_psnr_sees_flicker_and_no_still_error():
    truth = rand(5, 1, SIDE, SIDE)
    assert temporal_psnr(truth + randn(1, 1, SIDE, SIDE), truth) > 100
    flicker = 0.1 * randn(5, 1, SIDE, SIDE)
    assert temporal_psnr(truth + flicker, truth) == pytest.approx(-10 * math.log10(2 * 0.01), abs=0.2)


def paths(count: int, shared: bool, seed: int) -> torch.Tensor:
    """Frames (8, count, 1, 20, 20) that share most of their error, or have one of their own."""
    own = randn(8, count, 1, 20, 20, seed=seed)
    common = randn(1, count, 1, 20, 20, seed=seed + 100)
    return common + 0.3 * own if shared else math.sqrt(1.09) * own


def test_samples_of_the_posterior_of_a_clip_are_calibrated_and_those_that_flicker_are_not():
    """Every frame alone is right in both; only the changes show that samples with their own noise flicker."""
    truth = paths(1, True, seed=1)[:, 0]
    right, wrong = (temporal_calibration(paths(19, shared, seed=2), truth) for shared in (True, False))
    assert right.coverage == pytest.approx(0.8, abs=0.03) and right.ratio == pytest.approx(1, abs=0.1)
    assert right.still == pytest.approx(1, abs=0.2) and wrong.still == pytest.approx(1, abs=0.2)
    assert wrong.coverage > 0.98 and wrong.ratio > 5
    frozen = paths(19, True, seed=2)[:1].expand(8, -1, -1, -1, -1)
    assert temporal_calibration(frozen, truth).ratio < 0.1  # too sure of the motion
