"""Units of noise levels: `sigma` and its like are in units of the prior, `sigma_01` where pixel values go from 0 to 1.

Users state the second; samples and training hold the first, in which photographs lie in [-1, 1] and every level is
twice as large. Files name both. Complex pictures of 2 channels are the same to prior and user: one unit, no `_01`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from ambient_solve.errors import AmbientSolveError

PICTURE = "_01"
"""End of the name of a level of pictures whose pixel values go from 0 to 1."""
SCALE = 2.0
"""A level in units of the prior over the same level of pictures in [0, 1]; a power of two, so that no bit is lost."""
AGREE = 1e-4
"""Relative difference up to which two units state one level: people round."""


def with_picture_units(values: Mapping[str, Any], levels: Iterable[str]) -> dict[str, Any]:
    """`values`, and beside each of the `levels` among them the same level of pictures in [0, 1].

    Args:
        values: Names and values, levels in units of the prior.
        levels: Names of levels; those that `values` lacks are left out.

    Returns:
        The values, with each level under its name and under its name with `_01`.
    """
    return {**values, **{name + PICTURE: values[name] / SCALE for name in levels if name in values}}


def in_prior_units(values: Mapping[str, Any], levels: Iterable[str]) -> dict[str, Any]:
    """`values` with each of the `levels` in units of the prior alone.

    Args:
        values: Names and values; a level stands under its name, under its name with `_01`, or under both.
        levels: Names of levels.

    Returns:
        The values; where both are given, the level in units of the prior is kept as it is.

    Raises:
        AmbientSolveError: the two do not agree, or one is no number.
    """
    found = dict(values)
    for name in levels:
        if name + PICTURE not in found:
            continue
        given = found.pop(name + PICTURE)
        level = SCALE * _number(given, name + PICTURE)
        if name not in found:
            found[name] = level
        elif not math.isclose(_number(found[name], name), level, rel_tol=AGREE):
            raise AmbientSolveError(
                f"{name + PICTURE} = {given} and {name} = {found[name]} are two levels: {name} is in units of [-1, 1] "
                "pictures, twice as large. Give one of them."
            )
    return found


def _number(value: Any, name: str) -> float:
    try:
        if isinstance(value, bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise AmbientSolveError(f"{name} = {value!r} was given; a number was expected.") from None
