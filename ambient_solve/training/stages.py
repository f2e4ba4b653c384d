"""Sources that take turns: the next stage of a run begins when the loss on held-out pictures rises at some level.

What damaged pictures spoil shows first at the levels that their damage is not drowned by, while the loss at others may
still fall: a rise at any one level ends the stage. The stage follows from the validations alone, so that a resumed run
is in the stage in which it was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ambient_solve.errors import AmbientSolveError
from ambient_solve.training.config import Config

WORSE = 0.01
"""Relative rise of the held-out loss at a level from which on it counts."""
HELD_OUT = "held out"
"""Key of the held-out losses in a row of stats.jsonl."""


def stage_of_source(config: Config, source: int) -> int:
    """The stage of a source of a run: 0 where there are no stages.

    Args:
        config: Of the run.
        source: Its number.

    Returns:
        The stage, from 0.

    Raises:
        AmbientSolveError: the stages are not one for each source, beginning with 0 and without a gap.
    """
    if not config.stages:
        return 0
    if len(config.stages) != len(config.sources) or set(config.stages) != set(range(max(config.stages) + 1)):
        raise AmbientSolveError(
            f"stages = {list(config.stages)} must name one stage for each of the {len(config.sources)} sources: 0, 1 "
            "and so on, none left out."
        )
    return config.stages[source]


def current_stage(validations: Sequence[Mapping[str, float]], stages: int) -> int:
    """The stage of a run after its validations so far.

    Args:
        validations: Held-out loss by level, in their order.
        stages: How many there are.

    Returns:
        0 to `stages - 1`: one more after each validation at which a level was worse than at the one before.
    """
    worse = [
        any(after[level] > (1 + WORSE) * before[level] for level in before.keys() & after.keys())
        for before, after in zip(validations, validations[1:], strict=False)
    ]
    return min(sum(worse), stages - 1)


def past_validations(path: Path) -> list[dict[str, float]]:
    """The held-out losses in the rows of stats.jsonl at `path`, in their order; none where there is no such file."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return [row[HELD_OUT] for row in rows if HELD_OUT in row]
