"""A soft process in numbers: its path, its terminal law, the linear estimate, and the file that a prior keeps it in."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch import Tensor

from ambient_solve import AmbientSolveError, NetworkConfig, NetworkPrior, generate, load_prior
from ambient_solve.process import (
    FAMILIES,
    Additive,
    GaussianBlur,
    Soft,
    SoftSettings,
    checked_settings,
    gaussian_distance,
    log_linear,
)
from helpers import randn

SIDE, DATA = 16, 0.5


def photographs(n: int, seed: int = 0) -> Tensor:
    """Gaussian pictures with the power of photographs, their mean color correlated and not 0."""
    family = GaussianBlur()
    white = randn(n, 3, SIDE, SIDE, seed=seed)
    z = DATA * family.synthesize(family.power(white).sqrt() * family.analyze(white))
    return z - z.mean((-2, -1), keepdim=True) + 0.2 + 0.3 * randn(n, 1, 1, 1, seed=seed + 1)


def settings(**changes: object) -> SoftSettings:
    return SoftSettings(**{"strongest": 8.0, "curve": 1.5, "lowest": 0.01, "highest": 0.5, **changes})


def test_strength_grows_along_the_curve_and_its_inverse_finds_the_level():
    s = settings()
    levels = torch.tensor([0.0, 0.01, 0.05, 0.2, 0.5, 9.0])
    assert torch.allclose(s.strength(levels), torch.tensor([s.strength(float(t)) for t in levels]), atol=1e-5)
    assert s.strength(0.0) == s.strength(0.01) == 0 and s.strength(0.5) == s.strength(9.0) == 8
    assert s.strength((0.01 * 0.5) ** 0.5) == pytest.approx(8 * 0.5**1.5)
    for strength in (0.0, 0.3, 2.0, 8.0):
        assert s.strength(s.level_of(strength)) == pytest.approx(strength, abs=1e-9)
    with pytest.raises(AmbientSolveError, match="blur of strength 9 is no state of this process, whose strongest is 8"):
        s.level_of(9.0)


def test_terminal_law_is_that_of_the_states_of_the_highest_level():
    """Mean and covariance of colors, and the noise round them; noise alone has neither."""
    pictures = photographs(4000)
    s = settings().fitted(pictures)
    n = randn(4000, 3, SIDE, SIDE, seed=7)
    made, right = s.process().terminal(0.5, n), s.process().perturb(pictures, 0.5, n.flip(0))
    for of in (
        lambda z: z.mean((0, 2, 3)),
        lambda z: z.mean((-2, -1)).T.cov().flatten(),
        lambda z: z.var((-2, -1)).mean(),
    ):
        assert torch.allclose(of(made), of(right), rtol=0.1, atol=0.02)
        assert not torch.allclose(of(0.5 * n), of(right), rtol=0.1, atol=0.02) or of(right).ndim == 0
    with pytest.raises(AmbientSolveError, match="leaves more of the pictures than their mean color"):
        settings(strongest=1.0).fitted(pictures)
    assert settings(family="fade", strongest=16.0).fitted(pictures).mean == (), "a dark picture has no color"


def test_levels_are_equally_far_apart_for_the_pictures():
    pictures = photographs(500)
    s = settings().fitted(pictures)
    around = (pictures - pictures.mean((0, 2, 3), keepdim=True)).double()
    power = GaussianBlur().analyze(around).abs().square().mean(0, keepdim=True)
    distance = gaussian_distance(power, lambda t: GaussianBlur().gains(around[:1], s.strength(t)))
    levels = s.process().levels(9, 0.01, 0.5)
    assert len(levels) == 10 and levels[0] == 0.5 and levels[-2:] == [0.01, 0.0]
    steps = [distance(a, b) for a, b in zip(levels[:-2], levels[1:-1], strict=True)]
    assert max(steps) < 1.2 * min(steps)
    geometric = log_linear(9, 0.01, 0.5)
    others = [distance(a, b) for a, b in zip(geometric[:-2], geometric[1:-1], strict=True)]
    assert max(others) > 2 * min(others)
    part = s.levels(4, 0.01, 0.1)
    assert part[0] == 0.1 and part == sorted(part, reverse=True)
    assert settings().process().levels(3, 0.01, 0.5) == log_linear(3, 0.01, 0.5)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_linear_estimate_is_that_of_its_power(name):
    """Against dense algebra: `P C (C P C + s^2)^-1 z`, and the deviation of its error in front of the network."""
    s, level = settings(family=name, strongest=2.0), torch.tensor([0.1], dtype=torch.float64)
    family, z = FAMILIES[name](), randn(1, 1, 8, 8, dtype=torch.float64)
    eye = torch.eye(64, dtype=torch.float64).reshape(64, 1, 8, 8)
    c = family(eye, s.strength(0.1)).flatten(1)
    p = DATA**2 * family.synthesize(family.power(eye) * family.analyze(eye)).flatten(1)
    assert float(p.trace()) / 64 == pytest.approx(DATA**2)
    wiener = p @ c @ torch.linalg.inv(c @ p @ c + 0.01 * torch.eye(64, dtype=torch.float64))
    torch.testing.assert_close(s.estimate(z, level, DATA).flatten(), wiener @ z.flatten())
    error = p - wiener @ c @ p
    moved = (s.estimate(z, level, DATA, z) - s.estimate(z, level, DATA)).flatten()
    values, vectors = torch.linalg.eigh(error)
    torch.testing.assert_close(
        moved, vectors @ (values.clamp_min(0).sqrt() * (vectors.T @ z.flatten())), atol=1e-6, rtol=1e-5
    )


def test_a_prior_keeps_its_process(tmp_path):
    torch.manual_seed(0)
    s = settings().fitted(photographs(100))
    config = NetworkConfig(size=(SIDE, SIDE), widths=(8, 16), groups=4, sigma_min=0.01, sigma_max=0.5)
    prior = NetworkPrior(config, "float32", s)
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    prior.save(tmp_path / "soft")
    again = load_prior(tmp_path / "soft", precision="float32")
    assert again.soft == s and isinstance(again.process, Soft)
    one, two = (generate(p, 2, steps=4, order=1, progress=False) for p in (prior.eval(), again))
    torch.testing.assert_close(one, two)
    other = NetworkPrior(config, "float32")
    other.load_state_dict(prior.state_dict())
    other.save(tmp_path / "additive")
    assert isinstance(load_prior(tmp_path / "additive").process, Additive)
    assert "process" not in json.loads((tmp_path / "additive" / "config.json").read_text())
    z = randn(2, 3, SIDE, SIDE)
    assert not torch.allclose(other.denoise(z, 0.3), prior.denoise(z, 0.3), atol=0.05)
    with pytest.raises(AmbientSolveError, match="unless order=1 .* needs additive noise, .* Soft"):
        generate(again, 1)


GOOD = {"kind": "soft", **dataclasses.asdict(settings().fitted(photographs(100)))}
BAD = {
    "another kind": ({"kind": "hard"}, "kind soft with its settings"),
    "an unknown name": ({"strenght": 3}, "kind soft with its settings"),
    "a family that there is not": ({"family": "smear"}, "family = 'smear' is unknown"),
    "words": ({"strongest": "much"}, "no number"),
    "no number": ({"mean": [0.0, 0.0, float("nan")]}, "no number"),
    "levels out of order": ({"lowest": 2.0}, "0 < lowest < highest"),
    "no strength": ({"strongest": 0.0}, "must exceed 0"),
    "a grid that falls": ({"length": [0.0] * 33}, "33 entries that rise"),
    "a grid of another size": ({"length": [0.0, 1.0]}, "33 entries that rise"),
    "a covariance of another size": ({"covariance": [[1.0]]}, "3 rows and columns"),
    "no list": ({"mean": 3}, "lists of numbers"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_does_not_fit_is_refused(name):
    change, words = BAD[name]
    assert checked_settings(json.loads(json.dumps(GOOD)), "config.json").process()
    with pytest.raises(AmbientSolveError, match=words):
        checked_settings({**GOOD, **change}, "config.json")
