"""The benchmark of unknown damage: its damage, its marks, and its tables."""

from __future__ import annotations

import pytest
import torch

import blind
from ambient_solve.blind import BlurEstimate
from ambient_solve.operators import gaussian_blur


def test_a_measurement_shows_the_part_it_is_compared_with():
    case = blind.Case(gaussian_blur, {"width": 0.8})
    wave = 0.5 + 0.3 * (torch.arange(168) * 2 * torch.pi / 40).sin()
    x = (wave[:, None] * wave).expand(3, -1, -1)
    y, clean = blind.damaged(x, case, seed=1)
    assert y.shape == clean.shape == (1, 3, 128, 128)
    shifted = clean.roll(1, -1)
    error, wrong = ((y - other).std() for other in (clean, shifted))
    print(error, wrong)
    assert error < 0.012 < wrong  # noise of .01 and little blur


@pytest.mark.parametrize(
    ("name", "found", "true", "expected"),
    [("width", 1.09, 1.0, True), ("width", 1.11, 1.0, False), ("angle", 179.0, 2.0, True), ("angle", 6.0, 0.0, False)],
)
def test_what_is_near(name, found, true, expected):
    assert blind.near(name, found, true) is expected


@pytest.mark.parametrize(
    ("name", "interval", "true", "expected"),
    [
        ("width", (1.0, 1.2), 1.2, True),
        ("width", (1.0, 1.2), 0.9, False),
        ("angle", (177.3, 180.4), 0.0, True),
        ("angle", (-2.0, 1.0), 179.0, True),
        ("angle", (177.3, 180.4), 1.0, False),
    ],
)
def test_what_an_interval_holds(name, interval, true, expected):
    assert blind.covered(name, interval, true) is expected


def test_the_report_counts():
    case = blind.Case(gaussian_blur, {"width": 1.0})
    good = BlurEstimate({"width": 1.05}, {"width": (0.9, 1.2)})
    bad = BlurEstimate({"width": 1.5}, {"width": (1.3, 1.7)})
    assert blind.report([(case, good), (case, bad), (case, good)]) == (
        "width: 2 of 3 within 10 %; 2 of the 90 % intervals hold the truth"
    )
    assert blind.row(4, case, good) == "| 4 | 1.00 | 1.05 (0.90 to 1.20)"


def test_pictures_differ_and_have_their_size():
    pictures = list(blind.crops(None, 0, 6))
    assert {tuple(p.shape) for p in pictures} == {(3, 168, 168)}
    assert not torch.equal(pictures[0], pictures[5]) and float(pictures[0].max()) <= 1


def test_the_whole_command_runs_on_one_picture(capsys):
    blind.main(["--count", "1"])
    said = capsys.readouterr().out
    assert "| picture | width | estimated (90 %) |" in said and "angle: " in said and "| 0.1 | 80 |" in said
