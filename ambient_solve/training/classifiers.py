"""Annotators that ask whether a damaged picture can still be distinguished from a clean one (arXiv 2506.10038).

One network tells all damages and clean apart; between one damage and clean, the difference of its two scores is the
logarithm of their odds. Two networks are trained, each on one half of the pictures of every damage, and each is
calibrated on and asked about the half that it never saw: what a network remembers cannot pass for a difference.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ambient_solve.data.annotators import (
    Epsilon,
    autocovariance,
    calibrated,
    check_epsilon,
    confusion_switch,
    context_ceiling,
    context_levels,
    context_losses,
    tolerance,
)
from ambient_solve.data.sample import Sample
from ambient_solve.data.table import Annotation
from ambient_solve.errors import AmbientSolveError
from ambient_solve.knobs import knob
from ambient_solve.training.encoder import Encoder
from ambient_solve.training.fitting import Trained, by_damage, normal, seeded, view

ROWS = 512
"""Most views that are asked about at once."""
REACH = 32
"""Side of the widest context that crops are compared with."""


@dataclass(frozen=True, kw_only=True)
class Classifier(Trained):
    """A question is a condition: a noise level, or a size of crop."""

    draws: int = knob(4, 1, 1024, "random views of each picture at each question")
    epsilon: Epsilon = knob("auto", help="how far from even odds passes for clean; auto: one over the clean pictures")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_epsilon(self.epsilon, type(self).__name__)

    @abc.abstractmethod
    def conditions(self) -> tuple[np.ndarray, np.ndarray]:
        """The noise level of each condition and the number that the network is given for it, (K,) each."""

    @abc.abstractmethod
    def look(self, sample: Sample, conditions: np.ndarray, side: int, rng: np.random.Generator) -> Tensor:
        """A random view of a sample under each condition, noise included.

        Args:
            sample: The sample.
            conditions: What is varied, such as noise levels or crop sizes, (K,).
            side: Side of the view, in pixels.
            rng: Where the view and the noise come from.

        Returns:
            (K, C, side, side).
        """

    def probability(self, samples: Sequence[Sample], side: int, folder: Path) -> dict[int, np.ndarray]:
        """Train on one half of the samples, ask about the other half, and the reverse.

        Args:
            samples: Clean and damaged samples.
            side: Side of a view, in pixels.
            folder: Where the training is kept, to be resumed.

        Returns:
            P(damaged) of every damaged sample by its index, (K,), one for each condition; 1/2 is even odds.
        """
        groups = by_damage(samples, least=8)
        order, questions = np.random.default_rng((self.seed, 0)), len(self.conditions()[0])
        halves = [np.array_split(order.permutation(indices), 2) for indices in groups.values()]
        found: dict[int, np.ndarray] = {}
        for half in (0, 1):
            network = seeded(Encoder, self.seed, samples[0].z.shape[0], len(groups), self.width)
            learned = [h[1 - half] for h in halves]

            def loss(step: int, network: Encoder = network, learned: list = learned, half: int = half) -> Tensor:
                labels, views = (np.arange(self.batch) + step) % len(learned), []
                for row, k in enumerate(labels):
                    rng = np.random.default_rng((self.seed, 1, half, step, row))
                    views.append((samples[rng.choice(learned[k])], rng.integers(questions, size=1), rng))
                return F.cross_entropy(self._scores(network, views, side), torch.from_numpy(labels).to(network.device))

            self.fit(network, loss, samples, folder / f"{self.name}-{half}")
            clean, *damaged = (self._ask(network, samples, h[half], side) for h in halves)
            for k, (own, h) in enumerate(zip(damaged, halves[1:], strict=True), 1):
                odds = [
                    (clean[:, c, :, k] - clean[:, c, :, 0], own[:, c, :, k] - own[:, c, :, 0])
                    for c in range(own.shape[1])
                ]
                curves = np.stack([calibrated(*pair).mean(-1) for pair in odds], -1)
                found |= dict(zip(h[half].tolist(), curves, strict=True))
        return found

    def _scores(self, network: Encoder, views: list, side: int) -> Tensor:
        """Scores (rows, classes) of `views`, (sample, conditions, rng) each; a row for every condition."""
        z = torch.cat([self.look(sample, conditions, side, rng) for sample, conditions, rng in views])
        at = np.concatenate([conditions for _, conditions, _ in views])
        sigma, given = (torch.tensor(values[at], dtype=torch.float32) for values in self.conditions())
        return network(z.to(network.device), sigma.to(network.device), given.to(network.device))

    @torch.no_grad()
    def _ask(self, network: Encoder, samples: Sequence[Sample], indices: np.ndarray, side: int) -> np.ndarray:
        """(indices, conditions, draws, classes). A draw has the same noise under every condition."""
        every, scores = np.arange(len(self.conditions()[0])), []
        asked = [(int(i), draw) for i in indices for draw in range(self.draws)]
        each = max(1, ROWS // len(every))
        for k in range(0, len(asked), each):
            views = [
                (samples[i], every, np.random.default_rng((self.seed, 2, draw, i))) for i, draw in asked[k : k + each]
            ]
            scores.append(self._scores(network, views, side).cpu())
        answers = torch.cat(scores).double().numpy().reshape(len(indices), self.draws, len(every), -1)
        return answers.swapaxes(1, 2)


@final
@dataclass(frozen=True, kw_only=True)
class NoiseClassifier(Classifier):
    """`sigma_min` of each picture: the level above which, under noise, it cannot be distinguished from a clean one.

    A picture with noise of its own is completed to each level above it, as training does, and shown as it is below.
    """

    name: ClassVar[str] = "classifier"

    def conditions(self) -> tuple[np.ndarray, np.ndarray]:
        """See `Classifier.conditions`."""
        return self.sigmas, np.log(self.sigmas) / 4

    def look(self, sample: Sample, conditions: np.ndarray, side: int, rng: np.random.Generator) -> Tensor:
        """See `Classifier.look`."""
        z = view(sample.z, side, rng)
        extra = np.sqrt((self.sigmas[conditions] ** 2 - sample.sigma_noise**2).clip(0))
        return z + torch.from_numpy(extra).float()[:, None, None, None] * normal(z, rng)

    def annotate(self, samples: Sequence[Sample], folder: Path) -> list[Annotation]:
        """See `Annotator.annotate`; the score is the mean of P(damaged) over levels."""
        curves = self.probability(samples, self.side(samples), folder)
        epsilon = tolerance(self.epsilon, len(by_damage(samples)["clean"]))
        found = {i: (float(confusion_switch(self.sigmas, p, epsilon)), 0.0, float(p.mean())) for i, p in curves.items()}
        return self.rows(samples, found)


@final
@dataclass(frozen=True, kw_only=True)
class CropClassifier(Classifier):
    """`sigma_max` of pictures of another kind: the level up to which denoising needs no more than a crop that cannot be
    distinguished from a crop of a clean picture.

    How much context a level needs is computed on the clean pictures, from the best linear denoiser
    (`context_losses`). A network that recognises things uses more of it: a smaller `excess` is more careful.
    """

    name: ClassVar[str] = "crops"

    draws: int = knob(16, 1, 1024, "random views of each picture at each question")
    sizes: tuple[int, ...] = knob((4, 8, 16, 24), help=f"sides of the crops, rising, below {REACH}")
    noise: float = knob(0.01, 1e-4, 1.0, "noise added to every crop, which hides how its numbers were rounded")
    excess: float = knob(0.02, 1e-4, 1.0, "context suffices where the loss exceeds that of the whole by this share")

    def __post_init__(self) -> None:
        super().__post_init__()
        if (
            not self.sizes
            or list(self.sizes) != sorted(set(self.sizes))
            or not 1 <= self.sizes[0] <= self.sizes[-1] < REACH
        ):
            raise AmbientSolveError(f"CropClassifier: sizes={self.sizes} must rise, from 1 to below {REACH}.")

    def conditions(self) -> tuple[np.ndarray, np.ndarray]:
        """See `Classifier.conditions`."""
        return np.full(len(self.sizes), self.noise), np.log(self.sizes) / 4

    def look(self, sample: Sample, conditions: np.ndarray, side: int, rng: np.random.Generator) -> Tensor:
        """See `Classifier.look`; 0 outside the crop."""
        views = []
        for size in (self.sizes[c] for c in conditions):
            z, rest = view(sample.z, size, rng), side - size
            views.append(F.pad(z + self.noise * normal(z, rng), (rest // 2, rest - rest // 2) * 2))
        return torch.stack(views)

    def annotate(self, samples: Sequence[Sample], folder: Path) -> list[Annotation]:
        """See `Annotator.annotate`; the score is the mean of P(damaged) over sizes."""
        groups, smallest = by_damage(samples), min(min(s.z.shape[-2:]) for s in samples)
        if smallest <= self.sizes[-1]:
            raise AmbientSolveError(
                f"The smallest picture has a side of {smallest}; sizes up to {self.sizes[-1]} need more."
            )
        noisy = next((s.name for s in samples if s.sigma_noise > 0), None)
        if noisy:
            raise AmbientSolveError(
                f"{noisy} holds noise, and no noisy picture can be used below a level: leave it out."
            )
        reach = min(REACH, smallest)
        covariance = autocovariance([samples[i].z.double().numpy() for i in groups["clean"]], reach)
        *losses, whole = context_losses(covariance, (*self.sizes, reach), self.sigmas)
        levels = context_levels(self.sigmas, np.array(losses), whole, self.excess)
        curves = self.probability(samples, self.sizes[-1], folder)
        epsilon = tolerance(self.epsilon, len(groups["clean"]))
        ceilings = {i: float(context_ceiling(levels, p, epsilon)) for i, p in curves.items()}
        return self.rows(samples, {i: (math.inf, ceilings[i], float(p.mean())) for i, p in curves.items()})
