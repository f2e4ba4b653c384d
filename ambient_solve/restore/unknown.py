"""What a user leaves to be estimated: "auto" for the noise level, the width of a blur, a movement's length or angle."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ambient_solve.errors import AmbientSolveError
from ambient_solve.knobs import knobs
from ambient_solve.restore.tasks import Blurred, Inpaint, JpegBlocks, Task

if TYPE_CHECKING:
    from deepinv.physics import Physics

    from ambient_solve.blind import Family
    from ambient_solve.restore.pictures import Picture
    from ambient_solve.restore.several import Several

RANGES = {"width": (0.3, 6.0), "length": (2.0, 40.0), "angle": (0.0, 180.0), "sigma": (0.002, 0.3)}
"""Where the numbers are looked for; a movement looks the same from either end."""
SPANS = {"width": 8.0, "length": 2.0}
"""The side of a picture is at least so many times the largest value that is tried."""
LEAST = 32
"""Side of a picture below which nothing is estimated."""
NEAR = 3.0
"""A noise level is looked for between a third and three times of what the flat parts of the picture say."""
PERIODIC = ("angle",)
"""Whose ends are the same."""


def with_estimates(task: Task, picture: Picture) -> tuple[Task, tuple[str, ...], dict[str, Any]]:
    """A task without unknown numbers.

    The numbers of a blur are estimated together, with intervals of 90 %, see `ambient_solve.blind`; the noise level of
    other tasks by `restore.noise`.

    Args:
        task: Some of its knobs may be "auto".
        picture: The measurement.

    Returns:
        The task with numbers of four digits, what to say of them, and a record of them for a file of settings; the task
        itself and nothing where all is known.

    Raises:
        AmbientSolveError: the picture is too small, or the kernel of the blur is given as a picture.
    """
    from ambient_solve.restore.several import Several

    task, notes = task.prepared(picture)
    if not task.unknown:
        return task, notes, {}
    if isinstance(task, Several):
        task, said, record = _of_several(task, picture)
    else:
        task, said, record = (_of_blur if isinstance(task, Blurred) else _of_noise)(task, picture)
    return task, notes + said, {"estimated": record}


def _of_noise(task: Task, picture: Picture) -> tuple[Task, tuple[str, ...], dict[str, Any]]:
    """The noise level of a picture that is not blurred, also before it was stored as JPEG."""
    from ambient_solve.restore.noise import picture_noise

    noise = picture_noise(picture)
    sigma = float(f"{max(noise.level or 0.0, noise.hidden):.4g}")
    note = f"noise level estimated: {noise.words}"
    note += "" if noise.level is not None else f"; {sigma:.2g} was taken"
    return replace(task, sigma=sigma), (note,), {"sigma": {"value": sigma, "hidden": noise.hidden}}


def _of_blur(task: Blurred, picture: Picture) -> tuple[Blurred, tuple[str, ...], dict[str, Any]]:
    """The numbers of a blur, and the noise level with them."""
    from ambient_solve.blind import estimate_blur

    shapes = [name for name in task.unknown if name != "sigma"]
    if task.kernel is not None and shapes:
        raise AmbientSolveError(
            f"{' and '.join(shapes)} cannot be estimated where the kernel is given as a picture; leave one of them out."
        )
    # A gray picture in three channels is one measurement.
    y = picture.y[:, :1] if picture.copies > 1 else picture.y
    found = estimate_blur(y, family(task, picture))
    return replace(task, **found.values), (f"estimated: {found.words}",), found.record


def _of_several(task: Several, picture: Picture) -> tuple[Task, tuple[str, ...], dict[str, Any]]:
    """The numbers of several damages: of a file the noise before it was stored, then those of the blur.

    Where pixels are missing, what is round them takes their place.
    """
    from ambient_solve.restore.holes import mirrored

    notes, record = (), {}
    singles = task.singles(**task.known())
    for one in singles:
        if isinstance(one, Inpaint):
            picture = replace(picture, y=mirrored(picture.y, one.operator(picture).mask[0, 0]))
    blur = next((one for one in singles if isinstance(one, Blurred)), None)
    shapes = [name for name in task.unknown if name != "sigma"]
    coded = any(isinstance(one, JpegBlocks) for one in singles)
    if "sigma" in task.unknown and (blur is None or coded):
        task, said, found = _of_noise(task, picture)
        notes, record = said, found
    if blur is not None and task.unknown:
        own = {k.name: getattr(task, k.name) for k in knobs(type(blur))}
        solved, said, found = _of_blur(type(blur)(**own), picture)
        task = replace(task, **{name: getattr(solved, name) for name in (*shapes, "sigma")})
        notes, record = notes + said, record | found
    return task, notes, record


def family(task: Blurred, picture: Picture) -> Family:
    """The operators of a blur whose numbers are in part unknown.

    Args:
        task: Some of its knobs are "auto".
        picture: The measurement.

    Returns:
        The family.

    Raises:
        AmbientSolveError: the picture is too small for any estimate.
    """
    import torch

    from ambient_solve.blind import Family, Unknown
    from ambient_solve.restore.estimate import noise_level

    side, unknown = min(picture.y.shape[-2:]), {}
    if side < LEAST:
        raise AmbientSolveError(
            f"{picture.path.name} has {picture.y.shape[-1]}x{picture.y.shape[-2]} pixels, too few to estimate "
            f"{' and '.join(task.unknown)}: at least {LEAST} a side were expected."
        )
    for name in task.unknown:
        low, high = RANGES[name]
        if name == "sigma":
            low, high = _around(float(noise_level(picture.y)[0]), low, high)
        high = min(high, side / SPANS.get(name, side / high))
        unknown[name] = Unknown(low, high, periodic=name in PERIODIC)

    def build(img_size: tuple[int, int, int], **values: float) -> Physics:
        return replace(task, **values).operator(replace(picture, y=torch.zeros(1, *img_size)))

    return Family(build, **unknown)


def _around(level: float, low: float, high: float) -> tuple[float, float]:
    """The part of a range near a level."""
    level = min(max(level, NEAR * low), high / NEAR)
    return level / NEAR, level * NEAR
