"""The captioned objective: the exact conditional denoiser wins, and words are left out as often as was said."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.noise import Streams, per_sample
from ambient_solve.objectives.base import Batch, edm_weight
from ambient_solve.objectives.captioned import Captioned
from ambient_solve.objectives.denoise import Denoise
from helpers import one_sentence, randn

DRAWS, SPREAD = 4000, 0.3
MEANS = {"left": -1.0, "right": 1.0}
WORDS = tuple(MEANS)


def batch(sigma: float, noise: float = 0.0) -> Batch:
    """Samples of two Gaussians, one for each word, with their captions."""
    captions = tuple(WORDS[i % 2] for i in range(DRAWS))
    mean = torch.tensor([MEANS[c] for c in captions])[:, None, None, None]
    z0 = mean + SPREAD * randn(DRAWS, 1, 2, 2, seed=1)
    zero = torch.zeros(DRAWS)
    return Batch(
        z0 + noise * randn(*z0.shape, seed=2), zero + sigma, zero + noise, zero + noise, zero, captions=captions
    )


def exact(z: Tensor, sigma: Tensor, captions: tuple[str, ...]) -> Tensor:
    """`E[z0 | z_sigma, c]`; without words that of both Gaussians together, a mixture."""
    v, s = SPREAD**2, per_sample(sigma, z) ** 2
    given = torch.stack([v * z + s * mean for mean in MEANS.values()]) / (v + s)
    # All entries of a sample have one mean, so that they vote for it together.
    votes = torch.stack([-((z - m) ** 2 / (2 * (v + s))).sum((1, 2, 3), keepdim=True) for m in MEANS.values()])
    free = (votes.softmax(0) * given).sum(0)
    rows = [free[i] if not c else given[WORDS.index(c), i] for i, c in enumerate(captions)]
    return torch.stack(rows)


def streams() -> Streams:
    return Streams(range(DRAWS), 1)


def mean_loss(denoise, sigma: float, dropout: float, noise: float = 0.0) -> tuple[float, float]:
    """Mean of the loss and its standard error."""
    objective = Captioned(dropout=dropout, weight="omni")
    loss = objective.loss(denoise, batch(sigma, noise), streams())
    return float(loss.mean()), float(loss.std() / DRAWS**0.5)


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_the_loss_of_the_exact_denoiser_is_the_posterior_variance(noise):
    sigma = 0.8
    weight = float(edm_weight(torch.tensor(sigma), 0.5))
    posterior = SPREAD**2 * sigma**2 / (SPREAD**2 + sigma**2)
    # A noisy target adds its own variance, whatever the estimate.
    target = noise**2 * sigma**2 / (sigma**2 - noise**2)
    found, error = mean_loss(exact, sigma, 0.0, noise)
    assert abs(found - weight * (posterior + target)) < 4 * error
    # Controls: without words, and with the wrong ones.
    unworded, _ = mean_loss(lambda z, s, c: exact(z, s, ("",) * len(c)), sigma, 0.0, noise)
    other = {"left": "right", "right": "left"}
    wrong, _ = mean_loss(lambda z, s, c: exact(z, s, tuple(other[x] for x in c)), sigma, 0.0, noise)
    assert unworded > found + 6 * error and wrong > unworded


@pytest.mark.parametrize("dropout", [0.0, 0.3, 1.0])
def test_words_are_left_out_as_often_as_was_said_and_nothing_else_changes(dropout):
    seen: list[str] = []

    def denoise(z: Tensor, sigma: Tensor, captions: tuple[str, ...] | None = None) -> Tensor:
        seen.extend(captions or ())
        return 0.5 * z

    given = batch(0.8)
    loss = Captioned(dropout=dropout).loss(denoise, given, streams())
    assert torch.equal(loss, Denoise().loss(denoise, given, streams())), "the same noise and the same weights"
    dropped = sum(not c for c in seen) / DRAWS
    assert abs(dropped - dropout) < 4 * (dropout * (1 - dropout) / DRAWS) ** 0.5 + 1e-12
    kept = [(own, c) for own, c in zip(given.captions or (), seen, strict=True) if c]
    assert all(own == c for own, c in kept)


def test_samples_without_captions_and_incomplete_ones_are_refused():
    for change in ({"captions": None}, {"mask": torch.ones(DRAWS, 1, 2, 2)}):
        given = Batch(**{**vars(batch(0.8)), **change})
        with pytest.raises(AmbientSolveError, match="captioned") as error:
            Captioned().loss(exact, given, streams())
        assert one_sentence(error)
    # Held-out pictures, of which no words are known, are judged without.
    given = Batch(**{**vars(batch(0.8)), "captions": None})
    loss = Captioned().held_out(lambda z, sigma: 0.5 * z, given, streams())
    assert torch.equal(loss, Denoise().loss(lambda z, sigma: 0.5 * z, given, streams()))
