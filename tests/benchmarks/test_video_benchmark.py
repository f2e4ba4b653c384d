"""The table of the benchmark of clips: what it reads, what it damages, and what it averages."""

from __future__ import annotations

import torch

import video
from ambient_solve import operators
from ambient_solve.video.guidance import Guidance
from helpers import rand


def test_scratches_stand_still_and_hide_a_part():
    mask = video.scratches(32)
    assert mask.shape == (32, 32) and 0.05 < float((mask == 0).float().mean()) < 0.5


def test_the_noise_of_a_frame_is_its_own_and_the_same_each_time():
    truth, op = rand(3, 3, 16, 16), operators.denoise((3, 16, 16), 0.1)
    y = video.measure_all(truth, op)
    assert torch.equal(y, video.measure_all(truth, op)) and not torch.equal(y[0] - truth[0], y[1] - truth[1])
    assert abs(float((y - truth).std()) - 0.1) < 0.01


def test_what_a_mask_hides_is_known_and_nothing_of_other_operators():
    hidden = video.missing(video.TASKS["box"](16))
    assert int(hidden.sum()) == 16 and video.missing(video.TASKS["denoise"](16)) is None


def test_the_table_has_the_mean_over_clips():
    row = {"task": "box", "algorithm": "proximal", "noise": "fixed", "guidance": "0", "psnr": 20.0, "warping": 1e-3}
    text = video.table([row | {"clip": "a"}, row | {"clip": "b", "psnr": 30.0}, row | {"noise": "integral"}])
    assert len(text.splitlines()) == 4 and "| 25.00 | 1.00e-03 |" in text


def test_what_is_typed_is_understood():
    assert video.read_algorithm("proximal steps=3 draw=true").draw
    assert video.read_guidance("0.9 gradient") == Guidance(weight=0.9, rule="gradient", length=10.0)
