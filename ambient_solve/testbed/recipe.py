"""The frozen recipe of each scale: network, optimizer, samples seen and seeds. Participants change the data alone.

The samples seen are the same whatever the size of a subset. A run trains in float32, on a CPU with one thread, so that
the same seed gives the same weights bit for bit on one machine; seeds share the cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ambient_solve.errors import AmbientSolveError, suggestion
from ambient_solve.testbed.record import content_hash

VERSION = 1
"""Of the recipes: numbers of different versions do not compare."""
S_MAX = 4.0
"""Bound of `sigma^2 / (sigma^2 - sigma_noise^2)` from which a noisy picture is used, as in the trainer."""


@dataclass(frozen=True)
class Recipe:
    """What a scale fixes.

    Attributes:
        scale: Its name.
        widths: Channels of the levels of the U-Net.
        blocks: Residual blocks of each level.
        embedding: Numbers that the noise level is embedded in.
        batch: Pictures of a step.
        images: Samples seen, of each seed.
        lr: Learning rate.
        half_life: Of the averaged weights, in samples.
        seeds: How many trainings are averaged; seeds 0, 1, ...
        problems: Held-out pictures that are restored in each task.
        samples: Posterior samples of each.
        drawn: Samples of the prior alone, for the Frechet distance and near-copies.
        steps: Noise levels of the samplers.
        validations: Times that the held-out loss of an entry is measured, where its pictures come in stages.
    """

    scale: str
    widths: tuple[int, ...]
    blocks: int
    embedding: int
    batch: int
    images: int
    lr: float
    half_life: int
    seeds: int
    problems: int
    samples: int
    drawn: int
    steps: int
    validations: int = 16

    @property
    def hash(self) -> str:
        """What tells recipes apart: all of the settings."""
        return content_hash({"version": VERSION, **asdict(self)})


RECIPES = {
    r.scale: r
    for r in (
        Recipe("test", (8, 16), 1, 32, 8, 640, 2e-3, 200, 2, 2, 2, 8, 4, 8),
        Recipe("xxs", (16,), 1, 48, 16, 3_200, 3e-3, 400, 5, 4, 4, 64, 8),
        Recipe("xs", (16, 32), 1, 64, 16, 24_000, 2e-3, 2_400, 5, 8, 4, 128, 10),
        Recipe("s", (24, 48, 64), 1, 96, 32, 400_000, 1e-3, 20_000, 5, 16, 4, 256, 12),
        Recipe("m", (48, 96, 128), 1, 192, 128, 2_000_000, 1e-3, 50_000, 5, 32, 8, 1_000, 18),
        Recipe("l", (96, 192, 256), 2, 384, 512, 40_000_000, 5e-4, 500_000, 5, 64, 8, 10_000, 18),
    )
}
"""The scales: `test` for tests; on two cores `xxs` takes a minute or two, `xs` about five and `s` three quarters of an
hour; `m` is meant for a quarter of an hour of a graphics card and `l` for a day of one, which nobody has timed yet."""


def recipe_of(scale: str) -> Recipe:
    """The recipe of a scale; one that does not exist is a sentence."""
    if scale not in RECIPES:
        raise AmbientSolveError(f"There is no scale {scale!r}. {suggestion(scale, RECIPES)}")
    return RECIPES[scale]


def training_settings(
    recipe: Recipe, *, side: int, channels: int, stages: Sequence[str], held_out: int, seed: int
) -> dict[str, Any]:
    """The configuration of one training, as YAML holds it.

    Args:
        recipe: Of the scale.
        side: Of the pictures, in pixels.
        channels: Of the pictures.
        stages: Folder of the pictures of each stage, below the data root; one for an entry without stages.
        held_out: Pictures at the end of the first folder that are not trained on, which end a stage.
        seed: First weights, order and noise.

    Returns:
        What `ambient_solve.training.config` makes a run of.
    """
    steps = -(-recipe.images // recipe.batch)
    every = max(steps // recipe.validations, 1)
    sources = [{"path": f"corrupted:{folder}"} for folder in stages]
    return {
        "name": f"testbed-{recipe.scale}",
        "sources": [{**s, "held_out": held_out if i == 0 else 0} for i, s in enumerate(sources)],
        "stages": list(range(len(stages))) if len(stages) > 1 else [],
        "network": {
            "channels": channels,
            "widths": list(recipe.widths),
            "blocks": recipe.blocks,
            "embedding": recipe.embedding,
            "sigma_min": SMALLEST,
            "sigma_max": LARGEST,
        },
        "s_max": S_MAX,
        "level_mean": -0.9,
        "level_std": 1.4,
        "crop": side,
        "images": recipe.images,
        "batch": recipe.batch,
        "lr": recipe.lr,
        "warmup": recipe.images // 20,
        "ema": {"half_life": recipe.half_life},
        "precision": "fp32",
        "compile": "never",
        "tracker": "none",
        "duplicates": False,
        "held_out": 0.0,
        "seed": seed,
        "stats_every": every,
        "checkpoint_every": every * max(2_000 // every, 1),
        "validate_every": every if len(stages) > 1 else 0,
    }


SMALLEST = 0.03
"""Lowest noise level that a prior learns, in units of z."""
LARGEST = 40.0
"""Highest noise level."""
