"""Misstated blurs of a real photograph, from the measurement to the verdict: its level, its cause, its options."""

from __future__ import annotations

import pytest
import skimage.data
import torch
from torch.nn.functional import avg_pool2d

from ambient_solve import NetworkConfig, NetworkPrior, Solver, operators
from ambient_solve.verdict import words
from helpers import randn

SIGMA = 0.02
SHAPE = (3, 128, 128)


@pytest.fixture(scope="module")
def face() -> torch.Tensor:
    x = torch.from_numpy(skimage.data.astronaut()).permute(2, 0, 1)[None].float() / 255
    return avg_pool2d(x, 2)[..., :128, 48:176]


def judged(face: torch.Tensor, true, stated):
    """The verdict of a run of three levels with a prior that has learned nothing: the spectrum alone has to tell."""
    prior = NetworkPrior(NetworkConfig(widths=(8, 16), groups=4, embedding=16), "float32").eval()
    y = true.A(face) + SIGMA * randn(1, *SHAPE)
    return Solver(prior, "proximal", steps=3).solve(y, stated, n_samples=1).verdict


def wide(width: float):
    return operators.gaussian_blur(SHAPE, width, SIGMA)


def line(length: float, angle: float):
    return operators.line_blur(SHAPE, length, angle, SIGMA)


@pytest.mark.parametrize(
    ("true", "stated", "key", "knobs"),
    [
        (wide(1.5), wide(3.0), words.BLUR_NARROWER, {"width": 1.5}),
        (wide(1.5), line(15, 0), words.ROUND_BLUR, {"width": 1.5}),
        (line(15, 28.6), line(15, 0), words.DIRECTION, {"length": 15.0, "angle": 28.6}),
        (line(9, 0), line(15, 0), words.SHORTER, {"length": 9.0}),
    ],
)
@pytest.mark.filterwarnings("ignore::ambient_solve.errors.MisfitWarning")
def test_a_misstated_blur_is_wrong_and_its_cause_is_the_blur(face, true, stated, key, knobs):
    found = judged(face, true, stated)
    assert found.level == words.WRONG and found.keys == (key,) and words.CAUSES[key].words in found.sentence
    for name, value in knobs.items():
        room = {"abs": 4} if name == "angle" else {"rel": 0.2}
        assert found.suggested[name] == pytest.approx(value, **room)
        assert f"--{name} {found.suggested[name]:g}" in found.flags
    right = judged(face, true, true)
    assert not {*right.keys} & {*words.BLURS} and right.numbers["kernel"] < right.limits["kernel"][1]


@pytest.mark.filterwarnings("ignore::ambient_solve.errors.MisfitWarning")
def test_a_blur_of_any_class_is_judged_as_a_blur(face):
    class Another(type(wide(3.0))):
        """An operator that a user has written."""

    stated = Another(SHAPE, wide(3.0).filter, noise_model=wide(3.0).noise_model)
    found = judged(face, wide(1.5), stated)
    assert found.level == words.WRONG and found.keys == (words.BLUR_NARROWER,)
