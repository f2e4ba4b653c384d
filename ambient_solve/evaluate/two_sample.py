r"""C2ST, the classifier two-sample test (Lopez-Paz and Oquab, 2017, arXiv 1610.06545).

A classifier is trained to tell two sets apart. If they have one law the labels say nothing, and on points held out of
its training it is right for half of them; any other accuracy tells the sets apart. No direction need be chosen.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from scipy.special import bdtrc
from torch import Tensor

from ambient_solve.errors import AmbientSolveError

FOLDS = 5
"""Parts of the data, each held out once."""
HIDDEN = 32
"""Hidden units of the classifier."""
STEPS = 120
"""Training steps, each on all points."""
RATE = 0.02
"""Learning rate of AdamW."""
DECAY = 1e-3
"""Weight decay of a step: AdamW is given it over the learning rate."""


class TwoSample(NamedTuple):
    """Accuracy on held-out points, about 1/2 where both sets have one law, and its p-value under that law."""

    accuracy: float
    p: float


def c2st(samples: Tensor, reference: Tensor, seed: int = 0) -> TwoSample:
    """Classifier two-sample test: how well a small network tells two sets apart, in five-fold cross-validation.

    Entries are first decorrelated and scaled by the moments of both sets together, so that an error in a direction of
    little variance counts as much as any. The same input gives the same answer: the start and the folds depend on
    `seed` alone, and every step takes all points.

    Args:
        samples: (n, *shape).
        reference: The same shape.
        seed: Decides the first weights and the folds.

    Returns:
        The accuracy on held-out points, about 1/2 for equal laws, and its p-value.

    Raises:
        AmbientSolveError: the sets differ in size, or are too small.
    """
    if samples.shape != reference.shape or len(samples) < 2 * FOLDS:
        raise AmbientSolveError(
            f"c2st compares two sets of one size, {2 * FOLDS} or more each, "
            f"got {tuple(samples.shape)} and {tuple(reference.shape)}."
        )
    x = torch.cat([samples, reference]).flatten(1).double().cpu()
    x = x - x.mean(0)
    variance, axes = torch.linalg.eigh(x.T @ x / len(x))
    varies = variance > 1e-10 * variance[-1]
    if not bool(varies.any()):
        raise AmbientSolveError(
            "c2st was given samples and references that are all the same point; draws were expected."
        )
    # By the symmetric root: unlike the axes, it is the same whatever library finds it.
    x = (x @ axes[:, varies] / variance[varies].sqrt() @ axes[:, varies].T).float()
    n, generator = len(samples), torch.Generator().manual_seed(seed)
    label = torch.cat([torch.ones(n), torch.zeros(n)])
    # Each set is dealt out to the folds by itself: they are balanced.
    fold = torch.cat([torch.randperm(n, generator=generator) % FOLDS for _ in range(2)])
    held = fold == torch.arange(FOLDS)[:, None]
    logits = _train(x, label, ~held, generator)
    correct = int((((logits > 0) == (label > 0.5)) & held).sum())
    return TwoSample(correct / len(x), float(bdtrc(correct - 1, len(x), 0.5)))


@torch.enable_grad()
def _train(x: Tensor, label: Tensor, trained: Tensor, generator: torch.Generator) -> Tensor:
    """The logits (FOLDS, N) of one network for each fold, on the points x (N, d), after training on `trained`.

    One hidden layer, all folds at once; Adam with a decay that keeps few points from being learned by heart.
    """
    d = x.shape[1]
    first = torch.randn(1, d, HIDDEN, generator=generator) / math.sqrt(d)
    bias = torch.randn(1, 1, HIDDEN, generator=generator)
    start = (first, bias, torch.zeros(1, HIDDEN, 1))
    weights = [w.repeat(FOLDS, 1, 1).requires_grad_() for w in start]
    optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=DECAY / RATE)
    share = trained / trained.sum(1, keepdim=True)
    for _ in range(STEPS):
        logits = _logits(x, weights)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, label.expand_as(logits), reduction="none")
        optimizer.zero_grad()
        (share * loss).sum().backward()
        optimizer.step()
    return _logits(x, weights).detach()


def _logits(x: Tensor, weights: list[Tensor]) -> Tensor:
    first, bias, last = weights
    return (torch.nn.functional.silu(x @ first + bias) @ last)[..., 0]
