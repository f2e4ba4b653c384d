"""What the annotators share: the samples by damage, and the loop of the small networks that some of them train."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ambient_solve.data.corruption import fingerprint
from ambient_solve.data.sample import Sample
from ambient_solve.data.table import Annotation, group
from ambient_solve.distributed import choose_device
from ambient_solve.errors import AmbientSolveError
from ambient_solve.knobs import check_knobs, knob
from ambient_solve.training.checkpoints import Checkpoints, refuse_another_run, remember
from ambient_solve.training.locks import only_run_in

RULES = ("epsilon", "confidence", "excess")
"""Knobs of the decision alone: changing them asks the trained networks again and trains none anew."""

CHECKPOINT_EVERY = 200
"""Steps between two checkpoints."""


class Annotator(abc.ABC):
    """Says at which noise levels each damaged sample may be used."""

    name: ClassVar[str]

    @abc.abstractmethod
    def annotate(self, samples: Sequence[Sample], folder: Path) -> list[Annotation]:
        """Annotate samples.

        Args:
            samples: Clean and damaged samples.
            folder: Where the training is kept, to be resumed.

        Returns:
            One row for each sample, in their order.
        """

    def rows(self, samples: Sequence[Sample], found: dict[int, tuple[float, float, float | None]]) -> list[Annotation]:
        """The rows of a table; samples that were not judged keep the levels they have.

        Args:
            samples: All samples.
            found: (sigma_min, sigma_max, score) by the index of a sample.

        Returns:
            One row for each sample, in their order.
        """
        kept = ((s.sigma_min, s.sigma_max, None) for s in samples)
        levels = [found.get(i, own) for i, own in enumerate(kept)]
        return [
            Annotation(s.name, low, high, group(s), self.name, score)
            for s, (low, high, score) in zip(samples, levels, strict=True)
        ]


def by_damage(samples: Sequence[Sample], least: int = 1) -> dict[str, np.ndarray]:
    """The indices of the samples of each damage, the clean ones first.

    What was measured through a mask is left out: the objective knows what is missing there and needs no annotation.

    Args:
        samples: Of a damaged data set.
        least: Fewest samples of a damage.

    Returns:
        Indices by the name of the damage.

    Raises:
        AmbientSolveError: a damage has fewer than `least`.
    """
    found: dict[str, list[int]] = {"clean": []}
    for i, sample in enumerate(samples):
        if sample.mask is None or bool(sample.mask.all()):
            found.setdefault(group(sample), []).append(i)
    for damage, indices in found.items():
        if len(indices) < least:
            raise AmbientSolveError(
                f"There are {len(indices)} pictures of damage {damage!r}; at least {least} are needed."
            )
    if len(found) == 1:
        raise AmbientSolveError("There is nothing to annotate: no picture is damaged, or all damage is a known mask.")
    return {damage: np.array(indices, int) for damage, indices in found.items()}


@dataclass(frozen=True, kw_only=True)
class Trained(Annotator):
    """An annotator that trains small networks; by default about half a million parameters each."""

    steps: int = knob(2000, 1, 10_000_000, "optimiser steps of each network")
    batch: int = knob(64, 2, 65_536, "pictures in a step")
    lr: float = knob(1e-3, 1e-6, 1.0, "largest learning rate")
    width: int = knob(32, 8, 512, "channels of the finest level of the network, a multiple of 8")
    crop: int = knob(0, 0, 4096, "side of the crops; 0 is that of the smallest picture, at most 64")
    levels: int = knob(24, 4, 512, "how many noise levels are asked about")
    lowest: float = knob(0.02, 1e-4, 1.0, "lowest of these noise levels")
    highest: float = knob(10.0, 1.0, 1000.0, "highest of these noise levels")
    seed: int = knob(0, 0, 2**31, "decides the weights of the networks and all their batches")

    def __post_init__(self) -> None:
        check_knobs(self)
        if self.width % 8:
            raise AmbientSolveError(f"{type(self).__name__}: width={self.width} must be a multiple of 8.")

    @cached_property
    def sigmas(self) -> np.ndarray:
        """The noise levels, rising, (levels,)."""
        return np.geomspace(self.lowest, self.highest, self.levels)

    def side(self, samples: Sequence[Sample]) -> int:
        """The side of the crops."""
        smallest = min(min(s.z.shape[-2:]) for s in samples)
        if self.crop > smallest:
            raise AmbientSolveError(f"The smallest picture has a side of {smallest}, less than crop = {self.crop}.")
        return self.crop or min(64, smallest)

    def fit(self, network: nn.Module, loss: Callable[[int], Tensor], samples: Sequence[Sample], folder: Path) -> None:
        """Train a network with AdamW and a cosine learning rate; the same call resumes from the last checkpoint.

        Args:
            network: The network, which gets the averaged weights.
            loss: Loss of a step, a scalar that depends on the step alone.
            samples: What it learns from.
            folder: Where the checkpoints go.

        Raises:
            AmbientSolveError: the folder belongs to other settings or other samples.
        """
        with only_run_in(folder):
            self._fit(network, loss, samples, folder)

    def _fit(self, network: nn.Module, loss: Callable[[int], Tensor], samples: Sequence[Sample], folder: Path) -> None:
        settings = {k: v for k, v in dataclasses.asdict(self).items() if k not in RULES}
        refuse_another_run(folder, settings := {"annotator": self.name, **settings, "data": fingerprint(samples)})
        optimizer = torch.optim.AdamW(network.parameters(), lr=self.lr, betas=(0.9, 0.99), weight_decay=0.01)
        ema = {k: v.detach().clone() for k, v in network.state_dict().items()}
        checkpoints = Checkpoints(folder)
        first, _ = checkpoints.load(network, ema, optimizer)
        remember(folder, settings, True)
        bar = tqdm(range(first, self.steps), folder.name, self.steps, initial=first, disable=first == self.steps)
        for step in bar:
            for parameters in optimizer.param_groups:
                rise = min(1.0, (step + 1) / (0.05 * self.steps))
                parameters["lr"] = self.lr * rise * 0.5 * (1 + math.cos(math.pi * step / self.steps))
            optimizer.zero_grad()
            loss(step).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            weights = [v.detach() for v in network.state_dict().values()]
            torch._foreach_lerp_(list(ema.values()), weights, 1 / min(step + 1, max(0.05 * self.steps, 1)))
            if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == self.steps:
                checkpoints.save(step + 1, 0.0, network, ema, optimizer)
        network.load_state_dict(ema)
        network.eval().requires_grad_(False)


def seeded(make: Callable[..., nn.Module], seed: int, *settings: Any) -> nn.Module:
    """A network whose first weights depend on the seed alone, on the first GPU or the CPU.

    Args:
        make: Class of the network.
        seed: Decides its weights.
        settings: Arguments of `make`.

    Returns:
        The network.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make(*settings).to(choose_device())


def view(z: Tensor, side: int, rng: np.random.Generator) -> Tensor:
    """A random crop, mirrored or not; nothing is interpolated.

    Args:
        z: (C, H, W).
        side: Side of the crop in pixels, at most H and W.
        rng: Where the place comes from.

    Returns:
        (C, side, side) float32.
    """
    top, left = (int(rng.integers(n - side + 1)) for n in z.shape[-2:])
    crop = z[:, top : top + side, left : left + side].float()
    return crop.flip(-1) if rng.random() < 0.5 else crop


def normal(like: Tensor, rng: np.random.Generator) -> Tensor:
    """Standard normal noise.

    Args:
        like: Gives the shape.
        rng: Where the noise comes from.

    Returns:
        Of the shape of `like`, float32, on the CPU.
    """
    return torch.from_numpy(rng.standard_normal(tuple(like.shape), dtype=np.float32))
