"""Averaged weights: the half-life and its ramp, the power function of EDM2, and the average of the annotators."""

from __future__ import annotations

import importlib
import math
from pathlib import Path

import pytest
import torch

from ambient_solve.data.sample import Sample

pytest.importorskip("accelerate", reason="training needs accelerate: pip install 'ambient-solve[train]'")

TRAINERS = Path(__file__).resolve().parents[2] / "trainers"


@pytest.fixture
def trainers(monkeypatch):
    monkeypatch.syspath_prepend(str(TRAINERS))
    return importlib.import_module


def left(ema, first: int, last: int, batch: int) -> float:
    """What an average at step `first` weighs in that at step `last`."""
    return math.prod(ema.keep(step, batch) for step in range(first + 1, last + 1))


def test_half_of_an_average_is_left_after_its_half_life(trainers):
    ema = trainers("ambient_solve.training.config").Ema(half_life=800)
    for batch in (8, 80):
        assert left(ema, 5000, 5000 + 800 // batch, batch) == pytest.approx(0.5)
    assert left(ema, 5000, 5010, 80) == pytest.approx(0.5)
    assert left(ema, 5000, 5010, 8) == pytest.approx(0.5**0.1)


def test_while_little_has_been_seen_the_half_life_is_a_tenth_of_it(trainers):
    """From n to 2 n samples an average loses a factor 2^-(10 ln 2), whatever n."""
    ema = trainers("ambient_solve.training.config").Ema(half_life=10**9)
    assert ema.keep(0, 8) == pytest.approx(2**-10) and ema.keep(99, 8) == pytest.approx(2**-0.1)
    for n in (200, 2000):
        assert left(ema, n, 2 * n, 64) == pytest.approx(2 ** (-10 * math.log(2)), rel=0.03)
    # The ramp ends where a tenth of what was seen is the half-life.
    short = trainers("ambient_solve.training.config").Ema(half_life=800)
    assert short.keep(998, 8) < short.keep(999, 8) == pytest.approx(short.keep(5000, 8)) == pytest.approx(0.5**0.01)


@pytest.mark.parametrize("power", [1.0, 6.94])
def test_the_power_average_weighs_step_t_by_a_power_of_t(trainers, power):
    """EDM2: `(gamma + 1) t^gamma / T^(gamma + 1)`, here its integral over each step. The start weighs nothing."""
    ema, steps = trainers("ambient_solve.training.config").Ema(power=power), 50
    weights = [(1 - ema.keep(t, 8)) * left(ema, t, steps - 1, 8) for t in range(steps)]
    for t, weight in enumerate(weights):
        assert weight == pytest.approx((((t + 1) / steps) ** (power + 1)) - (t / steps) ** (power + 1), abs=1e-9)
    assert sum(weights) == pytest.approx(1)


def test_a_network_of_an_annotator_ends_with_the_average_of_its_weights(trainers, tmp_path, monkeypatch):
    """The last twentieth of them, and all alike while fewer were seen."""
    fitting, module = trainers("ambient_solve.training.fitting"), trainers("ambient_solve.training.classifiers")
    monkeypatch.setattr(fitting, "CHECKPOINT_EVERY", 1)
    seen, save = [], fitting.Checkpoints.save

    def kept(self, step, seconds, model, ema, optimizer):
        seen.append(model.weight.detach().clone())
        save(self, step, seconds, model, ema, optimizer)

    monkeypatch.setattr(fitting.Checkpoints, "save", kept)
    torch.manual_seed(0)
    network = torch.nn.Linear(3, 2, bias=False)
    annotator = module.NoiseClassifier(steps=60, lr=0.1)
    target = torch.randn(2, 3)
    annotator.fit(
        network, lambda step: (network.weight - target * (1 + step)).square().sum(), [Sample("a", target)], tmp_path
    )
    wanted = seen[0]
    for step, weight in enumerate(seen[1:], 1):
        share = 1 / min(step + 1, 3)
        wanted = (1 - share) * wanted + share * weight
    assert len(seen) == 60
    torch.testing.assert_close(network.weight.data, wanted)
    assert not torch.allclose(network.weight.data, seen[-1], rtol=1e-4)  # the control
