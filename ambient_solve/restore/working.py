"""The working size of a large picture: it is made smaller, restored, and what changed is put back at full size."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ambient_solve.errors import AmbientSolveError
from ambient_solve.restore.coarse import observed_of
from ambient_solve.restore.tasks import SIGMA, Denoise

if TYPE_CHECKING:
    from ambient_solve.restore.crops import Piece
    from ambient_solve.restore.pictures import Picture
    from ambient_solve.restore.tasks import Task


def at_size(task: Task, picture: Picture, size: int | None) -> tuple[Task, Piece]:
    """A picture at its working size, and the task as it is there.

    Args:
        task: What happened to the picture.
        picture: At full size.
        size: Longer side, in pixels; None, or no less than that of the picture, is full size.

    Returns:
        The task, whose noise is that of the smaller picture and whose mask has its size, and the piece.

    Raises:
        AmbientSolveError: the picture was blurred, reduced or stored as JPEG, which is no longer true of a smaller one.
    """
    from ambient_solve.restore.crops import crop, fit

    height, width = picture.y.shape[-2:]
    if size is None or size >= max(height, width):
        return task, crop(picture, (0, 0, height, width))
    observed = observed_of(task, picture)
    if observed is None and not isinstance(task, Denoise):
        raise AmbientSolveError(
            f"A smaller picture is no longer damaged by {task.name} as stated; a working size is for inpaint and "
            "denoise: leave it out, large pictures are restored in tiles."
        )
    piece = fit(picture, size, observed)
    level = max(task.sigma * piece.noise, SIGMA[0])
    if piece.mask is None:
        return replace(task, sigma=level), piece
    if not bool((piece.mask == 0).any()) or not bool(piece.mask.any()):
        raise AmbientSolveError(f"At {size} pixels nothing, or everything, is missing: take a larger working size.")
    return replace(task, sigma=level, mask=piece.mask), piece
