"""From the mean of the posterior to one sample, and the share of the detail that was invented."""

from __future__ import annotations

import numpy as np
import pytest

from ambient_solve.app.photographs import fidelity


def gaussian(supported: float, invented: float, count: int = 4, side: int = 160) -> tuple[np.ndarray, np.ndarray]:
    """A truth and samples of a Gaussian posterior, whose means have the variance `supported`."""
    rng = np.random.default_rng(0)
    mean = 0.5 + supported**0.5 * rng.standard_normal((side, side, 3))
    around = mean + invented**0.5 * rng.standard_normal((count + 1, side, side, 3))
    return around[0], around[1:]


@pytest.mark.parametrize("count", [2, 4, 16])
def test_the_share_is_that_of_the_variance_however_many_samples_there_are(count):
    _, samples = gaussian(0.03, 0.01, count)
    found = fidelity.invented_share(samples)
    assert found.mean() == pytest.approx(0.25, abs=0.02) and 0 <= found.min() and found.max() <= 1
    half = fidelity.invented_share(samples, 0.5)
    assert half.mean() == pytest.approx(0.0025 / 0.0325, abs=0.01), "half of the way shows a quarter of the variance"
    assert (fidelity.invented_share(samples, 0.0) == 0).all()
    # Control: without the correction for few samples, it is too small.
    total, mean = (np.mean([fidelity._variance(x).mean() for x in xs]) for xs in (samples, [samples.mean(0)]))
    assert count > 2 or (total - mean) / total < 0.15


def test_what_was_measured_and_kept_was_not_invented():
    _, samples = gaussian(0.03, 0.01)
    samples[:, :, :80] = samples[0, :, :80]
    share = fidelity.invented_share(samples)
    assert share[:, : 80 - fidelity.WINDOW].max() < 1e-3 < share[:, 80 + fidelity.WINDOW :].min()


def test_a_flat_picture_on_which_all_agree_holds_nothing_invented():
    flat = np.full((3, 20, 20, 1), 0.4) + 1e-4 * np.random.default_rng(0).standard_normal((3, 20, 20, 1))
    assert fidelity.invented_share(flat).max() < 0.01


def test_on_the_way_to_a_sample_the_error_grows_as_is_said():
    truth, samples = gaussian(0.03, 0.01, count=64)
    least = np.square(truth - samples.mean(0)).mean()
    for invented in (0.0, 0.5, 1.0):
        error = np.square(truth - fidelity.blended(samples, 1, invented)).mean()
        assert error / least == pytest.approx(1 + invented**2, rel=0.04)
        words = fidelity.invented_words(fidelity.invented_share(samples, invented), invented)
        assert ("Only what the data support" in words) == (invented == 0)
        assert invented == 0 or f"{1 + invented**2:.2g} times the least" in words
    assert (fidelity.blended(samples, 1, 1.0) == samples[0]).all()
    assert (fidelity.blended(samples, 0, 1.0) == samples.mean(0)).all()


def test_the_picture_of_the_share_is_bright_where_it_is_large():
    share = np.zeros((40, 60))
    share[:, 30:] = 1.0
    drawn = fidelity.share_picture(np.full((40, 60, 3), 0.5), share)
    shown = np.asarray(drawn.image).astype(float).sum(-1)[: 40 * drawn.scale]
    assert shown[:, 31 * drawn.scale :].min() > 2 * shown[:, : 29 * drawn.scale].max()
