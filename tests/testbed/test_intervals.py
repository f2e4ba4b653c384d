"""Intervals over seeds hold the truth as often as they say; pairing takes off what seeds share; ranks agree or not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ambient_solve.errors import AmbientSolveError
from ambient_solve.testbed.intervals import mean_interval, paired_interval, rank_agreement


def test_the_interval_holds_the_mean_as_often_as_it_says():
    """Of 4000 intervals of 5 values, 95 % within four standard errors; one that is for ten comparisons holds more."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((4000, 5))
    for comparisons, wanted in ((1, 0.95), (10, 0.995)):
        held = np.mean([low <= 0 <= high for _, low, high in (mean_interval(v, comparisons) for v in values)])
        assert abs(held - wanted) < 4 * math.sqrt(wanted * (1 - wanted) / 4000)


def test_known_numbers():
    mean, low, high = mean_interval([1.0, 2.0, 3.0])
    assert (
        mean == 2.0
        and high - mean == pytest.approx(4.302653 / math.sqrt(3))
        and mean - low == pytest.approx(high - mean)
    )
    assert mean_interval([1.5]) == (1.5, -math.inf, math.inf)


def test_pairing_takes_off_what_the_seeds_share():
    rng = np.random.default_rng(1)
    shared = rng.standard_normal(5)
    a, b = shared + 0.1 + 0.01 * rng.standard_normal(5), shared + 0.01 * rng.standard_normal(5)
    _, low, high = paired_interval(a, b)
    assert 0 < low < 0.1 < high < 0.2
    _, low, high = mean_interval(a - rng.permutation(b))
    assert low < 0 < high, "the control: without the pairs the difference is lost"
    with pytest.raises(AmbientSolveError, match="5 and 4 seeds"):
        paired_interval(a, b[:4])


def test_ranks_agree_or_not():
    rng = np.random.default_rng(2)
    means = np.arange(9.0)[:, None]
    noise = 0.1 * rng.standard_normal((2, 9, 5))
    found, low, high = rank_agreement(means + noise[0], 3 * means + noise[1])
    assert (found, low, high) == (1.0, 1.0, 1.0)
    found, _, high = rank_agreement(means + noise[0], -means + noise[1])
    assert found == -1.0 and high < 0
    _, low, high = rank_agreement(means + 50 * noise[0], means + 50 * noise[1])
    assert low < 0.7 < high + 0.3, "seeds that differ more than entries leave the agreement open"
    with pytest.raises(AmbientSolveError, match="3 or more"):
        rank_agreement(means[:2], means[:2])
