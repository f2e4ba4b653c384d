"""The one picture of how a training goes: what is drawn is what was measured."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("accelerate", reason="training needs accelerate: pip install 'ambient-solve[train]'")

from ambient_solve.data.sample import Sample
from ambient_solve.figures.lines import (
    APART,
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    _color,
    _log_ticks,
    _spread,
    _ticks,
    line_chart,
)
from ambient_solve.figures.progress import PANEL, TILE, WIDTH, Denoised, progress_figure
from ambient_solve.figures.sheet import MARGIN
from ambient_solve.priors.gaussian import GaussianPrior
from ambient_solve.training.config import Config
from ambient_solve.training.progress import SHOWN_LEVELS, denoised_picture, loss_curves
from ambient_solve.training.sources import Data
from test_train_held_out import scenes
from test_train_safety import command, root, trainers  # noqa: F401

ROWS = [
    {"step": 1, "images": 10, "buckets": {"<=0.2": 1.0, ">20.0": 0.5, "<=20.0": 0.7}},
    {"step": 2, "images": 20, "buckets": {"<=0.2": 0.8}, "held out": {"0.2": 0.5, "10": 0.1, "noisy 0.5": 2.0}},
    {"step": 3, "images": 30, "buckets": {"<=0.2": 0.7}, "held out": {"0.2": 0.4, "2": 0.2, "noisy 0.5": 1.9}},
]


def test_curves_are_of_clean_pictures_else_of_noisy_ones_else_of_training():
    heading, curves = loss_curves(ROWS)
    assert heading == "Held-out loss by noise level"
    assert list(curves.items()) == [("0.2", [(20, 0.5), (30, 0.4)]), ("2", [(30, 0.2)]), ("10", [(20, 0.1)])]
    noisy = [{**row, "held out": {"noisy 0.5": 2.0 - row["step"], "noisy 2": 1.0}} for row in ROWS[:2]]
    heading, curves = loss_curves(noisy)
    assert "of damaged pictures" in heading and curves == {"0.5": [(10, 1.0), (20, 0.0)], "2": [(10, 1.0), (20, 1.0)]}
    heading, curves = loss_curves([{k: v for k, v in row.items() if k != "held out"} for row in ROWS])
    assert "nothing is held out" in heading and list(curves) == ["<=0.2", "<=20.0", ">20.0"]
    assert curves["<=0.2"] == [(10, 1.0), (20, 0.8), (30, 0.7)]


def test_a_curve_passes_through_its_points():
    size = (600, 400)
    image = np.asarray(line_chart({"a": [(0, 1.0), (50, 1.0)], "b": [(50, 0.01), (100, 0.01)]}, size, "x", "y"))
    width, height = size[0] - LEFT - RIGHT, size[1] - TOP - BOTTOM
    low, high = 0.01 / 1.15, 1.15
    for (x, y), color in (((25, 1.0), _color(0)), ((75, 0.01), _color(1))):
        row = TOP + height * np.log(high / y) / np.log(high / low)
        assert tuple(image[round(row), round(LEFT + width * x / 100)]) == color
        assert tuple(image[round(row), round(LEFT + width * (100 - x) / 100)]) != color, "control: the other half"
    empty = np.asarray(line_chart({}, size, "x", "y"))
    assert (empty != 255).any() and line_chart({"a": [(5, 0.3)]}, size, "x", "y").size == size


def test_labels_do_not_lie_on_each_other_and_axes_are_round():
    for wanted in ([100.0] * 7, [20.0, 21, 22, 390, 391, 399], [399.0] * 3, []):
        found = _spread(wanted, 24, 400)
        assert all(b - a >= APART - 1e-9 for a, b in zip(found, found[1:], strict=False))
        assert all(24 <= y <= 400 for y in found)
    assert _spread([50.0, 200.0], 24, 400) == [50.0, 200.0]
    assert _ticks(6400) == [0, 2000, 4000, 6000] and _ticks(1) == [0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]
    assert _log_ticks(0.03, 1.2) == [0.05, 0.1, 0.2, 0.5, 1.0] and _log_ticks(0.5, 2000) == [1, 10, 100, 1000]
    assert _log_ticks(0.35, 0.85) == [0.4, 0.5, 0.6, 0.8] and len(_log_ticks(0.51, 0.55)) >= 3


def test_pictures_stand_where_their_headings_are():
    draw = np.random.default_rng(0)
    pictures = [draw.integers(0, 256, (8, 8, 3), dtype=np.uint8) for _ in range(4)]
    one = Denoised("noise 1", pictures[1], pictures[2], ("noisy", "denoised"))
    figure = progress_figure("t", "h", {}, [pictures[0]], pictures[3], "clean", [one, one])
    image = np.asarray(figure)
    large = lambda picture, side: np.asarray(Image.fromarray(picture).resize((side, side), 0))  # noqa: E731
    top, side = MARGIN + 56 + 34, PANEL // 4 - 4
    left = WIDTH - MARGIN - PANEL
    block = image[top : top + side, left : left + side]
    assert abs(block.astype(int) - large(pictures[0], side)).mean() < 40 < abs(block.astype(int) - 255).mean()
    upper = top + PANEL + 24 + 34 + 24
    for x, y, picture in ((0, 0, 3), (1, 0, 1), (1, 1, 2), (2, 1, 2)):
        at = image[upper + y * (TILE + 30) :, MARGIN + x * (TILE + 20) :][:TILE, :TILE]
        assert np.array_equal(at, large(pictures[picture], TILE)), (x, y)


def config(tmp_path, **settings) -> Config:
    return Config(out=str(tmp_path), crop=8, sources=(), **settings)


def test_the_picture_is_denoised_by_the_prior_from_the_same_noise(tmp_path):
    prior = GaussianPrior(torch.zeros(3, 8, 8), 0.25 * torch.eye(192), scale=0.5, offset=0.5)
    (_, picture), *_ = scenes(1)
    shown = denoised_picture(prior, config(tmp_path), Data([], np.ones(0), [picture]))
    again = denoised_picture(prior, config(tmp_path), Data([], np.ones(0), [picture]))
    assert [one.level for one in shown.levels] == [f"noise {level:g}" for level in SHOWN_LEVELS]
    centre = picture[:, 20:28, 20:28].permute(1, 2, 0).numpy()
    assert np.array_equal(shown.picture, centre) and shown.caption == "clean"
    for one, other, level in zip(shown.levels, again.levels, SHOWN_LEVELS, strict=True):
        assert np.array_equal(one.noisy, other.noisy) and np.array_equal(one.denoised, other.denoised)
        # 10 log10(4 / level^2), give or take what 192 numbers vary by: 4.5 standard errors of sqrt(2 / 192).
        found = float(one.captions[0].removeprefix("noisy, ").removesuffix(" dB"))
        assert found == pytest.approx(10 * np.log10(4 / level**2), abs=10 * np.log10(1 / (1 - 4.5 * (2 / 192) ** 0.5)))
    # The exact denoiser of this prior divides by 1 + 4 level^2: at the highest level it is nearly gray.
    assert abs(shown.levels[-1].denoised.astype(int) - 127.5).mean() < 20


def test_of_noisy_pictures_the_noise_they_have_counts(tmp_path):
    prior = GaussianPrior(torch.zeros(3, 8, 8), 0.25 * torch.eye(192), scale=0.5, offset=0.5)
    z = scenes(1)[0][1].float()[:, :8, :8] / 127.5 - 1
    noisy = Sample("a", z.half(), sigma_noise=0.5)
    shown = denoised_picture(prior, config(tmp_path), Data([], np.ones(0), [], [noisy]))
    assert [one.level for one in shown.levels] == ["noise 0.5", "noise 1", "noise 2"]
    assert shown.caption == "as stored, noise 0.5" and np.array_equal(shown.levels[0].noisy, shown.picture)
    hidden = Sample("a", z.half(), mask=torch.zeros(1, 8, 8, dtype=torch.uint8))
    assert not denoised_picture(prior, config(tmp_path), Data([], np.ones(0), [], [hidden])).levels
    assert not denoised_picture(prior, config(tmp_path), Data([], np.ones(0), [])).levels


def test_a_run_rewrites_it_at_each_validation(root, command, trainers, tmp_path, monkeypatch):  # noqa: F811
    loop, drawn = trainers("ambient_solve.training.loop"), []
    plain = loop.write_progress

    def watched(path, config, samples, shown):
        plain(path, config, samples, shown)
        rows = [json.loads(line) for line in (path.parent / "stats.jsonl").read_text().splitlines()]
        drawn.append((rows[-1]["step"], path.read_bytes(), len(samples), len(shown.levels)))

    monkeypatch.setattr(loop, "write_progress", watched)
    own = {"validate_every": 3, "held_out": 0.1, "network": {"widths": [8], "groups": 4, "embedding": 16}}
    assert command(own, "--out", str(tmp_path / "run"))[0] == 0
    assert [(step, samples, levels) for step, _, samples, levels in drawn] == [(3, 16, 5), (6, 16, 5)]
    assert drawn[0][1] != drawn[1][1] == (tmp_path / "run/progress.png").read_bytes()
    assert Image.open(tmp_path / "run/progress.png").width == WIDTH
    assert {p.name for p in (tmp_path / "run").glob("*.png")} == {"progress.png", "samples-3.png", "samples-6.png"}
