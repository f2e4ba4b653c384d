"""What a job asks of the machine, before it begins: passes through the network times pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ambient_solve.errors import AmbientSolveError
from ambient_solve.knobs import knobs

if TYPE_CHECKING:
    from ambient_solve.app.photographs.job import PreparedRequest
    from ambient_solve.app.photographs.request import RestoreRequest
    from ambient_solve.app.scans.job import ScanRequest
    from ambient_solve.video.restoring import ClipRequest

MOST = 4e10
"""Largest work of a job, in passes times pixels; Faithful comes nearest, with 16 samples of 12 million pixels."""
QUICK = 3e7
"""Largest work of a quick job, in passes times pixels; Balanced is quick for a picture of 256x256."""
CLASSICAL = 500
"""Work of a method without a network, in passes for each pixel of a slice: its iterations, over many coils."""
PASSES = {
    "iterations": 2.0,  # of a solver, with the Jacobian; or of an optimiser, with a backward pass
    "ode_steps": 1.0,
    "langevin_steps": 0.1,  # of the measurement alone, no network
    "inner_steps": 1.0,
    "repeats": 1.0,
    "resample": 1.0,
}
"""Passes of a noise level for each unit of a knob."""


def passes(algorithm: str, settings: Mapping[str, Any]) -> float:
    """Passes of one sample through the network, at most.

    Args:
        algorithm: Its name; "auto" is the larger of what it may choose.
        settings: Its knobs.

    Returns:
        Passes through the network, forward and backward; 0 where the name is unknown.
    """
    from ambient_solve.algorithms import ALGORITHMS
    from ambient_solve.algorithms.auto import TUNABLE

    if algorithm == "auto":
        return max(passes(cls.name, settings) for cls in TUNABLE)
    cls = ALGORITHMS.get(algorithm)
    if cls is None:  # whoever runs it says what is wrong
        return 0.0
    values = {k.name: settings.get(k.name, k.default) for k in knobs(cls) if k.type is int}
    level = 2.0 + sum(weight * float(values[name]) for name, weight in PASSES.items() if name in values)
    return (float(values["steps"]) + 1.0) * level * (1.0 + float(values.get("time_travel", 0)))


def asked(request: RestoreRequest) -> float:
    """Passes that a restoration asks for; of the tasks of the page, JPEG alone is not linear. Guidance takes two."""
    linear = request.algorithm == "auto" and request.task != "jpeg"
    each = 2 if request.prompt and request.guidance != 1 else 1
    return request.samples * each * passes("mmps" if linear else request.algorithm, request.knobs)


def work_of(problem: PreparedRequest) -> float:
    """What a restoration asks for."""
    request, x = problem.request, problem.piece.picture.y
    pixels = x.shape[-2] * x.shape[-1] * getattr(problem.damage, "factor", 1) ** 2
    return checked(asked(request) * pixels)


def scan_work(request: ScanRequest, height: int, width: int) -> float:
    """The work of reconstructing slices.

    Args:
        request: What is asked for.
        height: Rows of a slice.
        width: Columns of a slice.

    Returns:
        Passes times pixels.

    Raises:
        AmbientSolveError: it is more than the page takes.
    """
    from ambient_solve.algorithms.auto import for_scans

    each = CLASSICAL
    if request.method == "prior":
        each = request.samples * passes(for_scans(request.algorithm), request.knobs)
    return checked(len(request.slices) * each * height * width)


def clip_work(request: ClipRequest, height: int, width: int) -> float:
    """The work of restoring a clip.

    Args:
        request: What is asked for.
        height: Rows of a frame of the file.
        width: Columns of it.

    Returns:
        Passes times pixels.

    Raises:
        AmbientSolveError: it is more than the page takes.
    """
    from ambient_solve.video.clip import working_size

    rows, columns = working_size((height, width), request.side)
    pixels = rows * columns * getattr(request.damage, "factor", 1) ** 2
    frames = (request.last or 1) - request.first
    return checked(frames * request.n_samples * passes(request.algorithm, request.options) * pixels, "frames or levels")


def checked(work: float, less: str = "samples or levels") -> float:
    """`work`, refused where it is more than MOST.

    Args:
        work: Passes times pixels.
        less: What there may be fewer of.

    Returns:
        `work`.

    Raises:
        AmbientSolveError: with what was asked for, and what lessens it.
    """
    if work > MOST:
        raise AmbientSolveError(
            f"This asks for {work:.1e} passes times pixels, the page takes {MOST:.0e}: take fewer {less}, "
            "smaller knobs or a smaller working size, or the command line."
        )
    return work
