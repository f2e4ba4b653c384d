"""The blur of a straight movement: where its light goes, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch

from ambient_solve import AmbientSolveError
from ambient_solve.operators import line_blur
from helpers import one_sentence


@pytest.mark.parametrize(("length", "angle"), [(9.0, 0.0), (12.5, 90.0), (15.0, 28.6), (7.0, 135.0)])
def test_the_light_lies_along_the_line(length, angle):
    op = line_blur((1, 41, 41), length, angle, boundary="circular")
    impulse = torch.zeros(1, 1, 41, 41)
    impulse[..., 20, 20] = 1
    light = op.A(impulse)[0, 0].double()
    rows, columns = torch.meshgrid(20 - torch.arange(41.0), torch.arange(41.0) - 20, indexing="ij")
    turn = math.radians(angle)
    along, across = columns * math.cos(turn) + rows * math.sin(turn), rows * math.cos(turn) - columns * math.sin(turn)
    deviations = [math.sqrt(max(float((light * d**2).sum()), 0)) for d in (along, across)]
    print(deviations)
    assert float(light.sum()) == pytest.approx(1, abs=1e-5)
    # Each point is shared by the four pixels round it, which adds about 1/6 to either variance.
    assert deviations[0] == pytest.approx(math.sqrt(length**2 / 12 + 1 / 6), rel=0.02) and deviations[1] < 0.5


@pytest.mark.parametrize("wrong", [{"length": 0.5}, {"length": math.nan}, {"angle": math.inf}, {"length": 60.0}])
def test_what_is_refused(wrong):
    with pytest.raises(AmbientSolveError, match="expected|larger") as error:
        line_blur((1, 32, 32), **wrong)
    assert one_sentence(error)
