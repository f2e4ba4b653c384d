"""What happens at which step of a run: its length, its learning rate, its validations."""

from __future__ import annotations

import math

from ambient_solve.training.config import Config

EARLY = 50
"""Steps after which the first validation is made, and then each time twice as many, until `validate_every`."""


def steps_of(config: Config) -> int:
    """Optimizer steps of a whole run."""
    return math.ceil(config.images / config.batch)


def learning_rate(config: Config, step: int, steps: int) -> float:
    """The learning rate of a step: a linear warm-up, then what `config.schedule` says.

    Args:
        config: Of the run.
        step: From 0.
        steps: Of the whole run.

    Returns:
        The rate, `config.lr` or less.
    """
    seen = (step + 1) * config.batch
    rise = min(1.0, seen / max(config.warmup, 1))
    fall = {
        "cosine": 0.5 * (1 + math.cos(math.pi * step / steps)),
        "constant": 1.0,
        "inverse_sqrt": 1 / math.sqrt(max(1.0, seen / config.decay)),
    }
    return config.lr * rise * fall[config.schedule]


def validates(config: Config, done: int, total: int) -> bool:
    """Whether a run is validated after `done` of `total` steps: every `validate_every`, at the end, and early on.

    Early means after EARLY steps, twice, four times as many: something to look at before the first hour is over.

    Args:
        config: Of the run.
        done: Steps done, from 1.
        total: Steps of the whole run.

    Returns:
        True where it is.
    """
    if not config.validate_every:
        return False
    if done == total or done % config.validate_every == 0:
        return True
    early = done % EARLY == 0 and (done // EARLY).bit_count() == 1
    return early and done < config.validate_every and done % config.stats_every == 0
