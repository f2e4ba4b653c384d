"""Memory: exact for a prior that holds its pictures, at chance for one that knows none of them."""

from __future__ import annotations

import pytest
import torch

from ambient_solve import AmbientSolveError, GaussianPrior, MixturePrior
from ambient_solve.evaluate.features import middle_features
from ambient_solve.evaluate.memorization import CHANCE, gain, memorization, near_copies, recalled
from helpers import one_sentence, randn

SHAPE = (3, 16, 16)
COUNT = 120
FIXED = lambda: torch.Generator().manual_seed(0)  # noqa: E731


def pictures(seed: int) -> torch.Tensor:
    """Smooth random pictures, (COUNT, *SHAPE) in about [-1, 1]."""
    coarse = randn(COUNT, 3, 4, 4, seed=seed)
    return 0.4 * torch.nn.functional.interpolate(coarse, size=16, mode="bicubic")


def held(known: torch.Tensor) -> MixturePrior:
    """A prior that has memorized some pictures: a narrow Gaussian around each."""
    return MixturePrior(torch.ones(len(known)), known, torch.full((len(known),), 0.01**2), scale=0.5, offset=0.5)


def smooth(seed: int) -> GaussianPrior:
    """The Gaussian of other such pictures, which knows none of these."""
    x = torch.cat([pictures(seed + i) for i in range(8)]).flatten(1)
    cov = torch.cov(x.T) + 1e-3 * torch.eye(x.shape[1])
    return GaussianPrior(x.mean(0).reshape(SHAPE), cov, scale=0.5, offset=0.5)


def test_near_copies_are_those_that_were_planted():
    known, others = pictures(0), pictures(1)
    made = torch.cat([known[:3] + 0.05 * randn(3, *SHAPE), others[:5]])
    assert near_copies(made.flatten(1), [known.flatten(1)]).tolist() == [True] * 3 + [False] * 5
    noisy = known + 0.8 * randn(*known.shape, seed=2)
    assert not near_copies(noisy[:3].flatten(1), [known.flatten(1)]).all()  # a noisy version is far from the clean one
    assert near_copies(noisy[:3].flatten(1), [known.flatten(1), noisy.flatten(1)]).all()  # and near itself
    twice = torch.cat([known, known])  # what is there twice has no second nearest that is farther
    assert not near_copies(known[:3].flatten(1), [twice.flatten(1)]).any()
    with pytest.raises(AmbientSolveError, match="two known pictures") as error:
        near_copies(made.flatten(1), [known[:1].flatten(1)])
    assert one_sentence(error)


def test_chance_is_chance_and_a_gain_is_a_ratio():
    gains = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    assert recalled(gains[:10_000], gains[10_000:]) == pytest.approx(CHANCE, abs=0.01)
    assert recalled(gains + 10, gains) == 1 and recalled(gains - 10, gains) == 0
    versions = [randn(4, 9), randn(4, 9, seed=1)]
    near, far = versions[1] + 0.1, versions[1] + 0.2
    torch.testing.assert_close(gain(near, far, versions), torch.full((4,), 2.0).log(), rtol=1e-3, atol=1e-3)


def test_a_prior_that_memorized_is_found_out_and_one_that_did_not_is_not():
    known, others = pictures(0), pictures(1)
    reference = smooth(10)
    bad = held(known)
    found = memorization(bad, reference, bad.sample(40, FIXED()), [known], [others])
    assert found.copies_pixels == 1 and found.copies_features > 0.9 and found.copies_by_chance == 0
    assert found.recalled_pixels > 0.99 and found.recalled_features > 0.9 and found.samples == 40
    good = smooth(20)
    clean = memorization(good, reference, good.sample(40, FIXED()), [known], [others])
    assert clean.copies_pixels == 0 and clean.copies_features < 0.1
    assert clean.recalled_pixels < 0.17 and clean.recalled_features < 0.17  # four standard errors above chance
    assert "40 samples" in str(clean) and clean.as_row()["known"] == COUNT
    with pytest.raises(AmbientSolveError, match="held out") as error:
        memorization(good, reference, good.sample(2, FIXED()), [known], [others[:0]])
    assert one_sentence(error)


def test_what_was_stored_is_found_though_the_clean_picture_is_not():
    """A prior that memorized noisy pictures recalls these; of the clean ones alone it knows little."""
    known, others, reference = pictures(0), pictures(1), smooth(10)
    noise = [0.5 * randn(COUNT, *SHAPE, seed=s) for s in (3, 4)]
    stored = [known + noise[0], others + noise[1]]
    bad = held(stored[0])
    both = memorization(bad, reference, bad.sample(20, FIXED()), [known, stored[0]], [others, stored[1]])
    alone = memorization(bad, reference, bad.sample(20, FIXED()), [known], [others])
    assert both.copies_pixels == 1 and both.recalled_pixels > 0.9 > alone.recalled_pixels


def test_features_are_of_the_picture_alone():
    x = torch.rand(3, 3, 16, 16) * 2 - 1
    assert torch.allclose(middle_features(x)[1:2], middle_features(x[1:2]), atol=1e-4)
    grey = x[:, :1]
    assert torch.equal(middle_features(grey), middle_features(grey.expand(-1, 3, -1, -1)))
