"""Pictures of a data set that cannot be read: named once, counted, and left out."""

from __future__ import annotations

from collections.abc import Sequence

from ambient_solve.errors import AmbientSolveError, UnreadableFile, shown

NAMED = 5
"""Files that are named, at most."""


def about_skipped(source: object, skipped: Sequence[UnreadableFile], read: int) -> str:
    """What was left out of a data set, a line for each of the first NAMED files.

    Args:
        source: The data set.
        skipped: What is wrong with each picture that could not be read.
        read: How many pictures were read.

    Returns:
        The lines; empty where nothing was left out.

    Raises:
        AmbientSolveError: none was.
    """
    if not skipped:
        return ""
    total = len(skipped) + read
    if not read:
        raise AmbientSolveError(
            f"None of the {total} pictures of {source} can be read: {shown(skipped[0])}"
            if total > 1
            else str(skipped[0])
        )
    lines = [f"{len(skipped)} of {total} pictures of {source} cannot be read and are left out:"]
    lines += [f"  {shown(error)}" for error in skipped[:NAMED]]
    lines += [f"  and {len(skipped) - NAMED} more."] if len(skipped) > NAMED else []
    return "\n".join(lines)
