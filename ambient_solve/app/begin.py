"""From a request to its reports, all of it in the lane of the job: what waits holds no picture in memory.

The first of the reports is what was made of the request: the problem, or the scan. How much it asks for is known only
then; a job that is found to be long lets go of it, moves to the other lane, and makes it again there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ambient_solve.app.desk import LONG, MOVE, Job
from ambient_solve.app.photographs.request import RestoreRequest
from ambient_solve.app.work import clip_work, scan_work, work_of

if TYPE_CHECKING:
    from ambient_solve.app.clips.job import ClipRun
    from ambient_solve.app.scans.job import ScanRequest
    from ambient_solve.mri.scan import Scan
    from ambient_solve.priors.base import Prior
    from ambient_solve.restore.pictures import Picture


def begun(
    request: RestoreRequest, picture: Callable[[], Picture], prior: Callable[[str], Prior], job: Job
) -> Iterator[Any]:
    """The reports of a restoration.

    Args:
        request: What is to be restored, and how.
        picture: Opens the picture.
        prior: Gives the prior of a lane by its name.
        job: Its work is set here.

    Returns:
        An iterator over the `Problem`, perhaps MOVE before it, and the `Progress` of its run.

    Raises:
        AmbientSolveError: the request does not fit the picture, or asks for too much.
    """
    from ambient_solve.app.photographs.job import prepare_request
    from ambient_solve.app.photographs.run import run

    problem = prepare_request(request, prior("quick"), picture())
    job.work = work_of(problem)
    if job.lane == LONG:
        del problem
        yield MOVE
        problem = prepare_request(request, prior(LONG), picture())
    yield problem
    yield from run(problem)


def begun_scan(
    request: Callable[[Scan], ScanRequest], scan: Callable[[], Scan], prior: Callable[[str], Prior | None], job: Job
) -> Iterator[Any]:
    """The reports of a reconstruction.

    Args:
        request: What is to be reconstructed of the scan, and how.
        scan: Reads the scan.
        prior: Gives the prior of a lane by its name, None for a method without one.
        job: Its work is set here.

    Returns:
        An iterator over the pair of `Scan` and request, perhaps MOVE before it, and the `Progress` of their run.

    Raises:
        AmbientSolveError: the scan cannot be read, or the request asks for too much.
    """
    from ambient_solve.app.scans import job as scan_job

    read = scan()
    job.work = scan_work(request(read), *read.kspace.shape[-2:])
    if job.lane == LONG:
        del read
        yield MOVE
        read = scan()
    asked = request(read)
    yield read, asked
    yield from scan_job.run(asked, read, prior(job.lane))


def begun_clip(run: ClipRun, size: tuple[int, int], prior: Callable[[str], Prior], job: Job) -> Iterator[Any]:
    """The reports of a restoration of a clip.

    Args:
        run: What is to be restored, and how.
        size: (H, W) of the frames of the file.
        prior: Gives the prior of a lane by its name.
        job: Its work is set here.

    Returns:
        An iterator over MOVE, where the job is a long one, and the `Progress` of its run.

    Raises:
        AmbientSolveError: the request does not fit the clip, or asks for too much.
    """
    job.work = clip_work(run.request, *size)
    if job.lane == LONG:
        yield MOVE
    yield from run.on(prior(job.lane))
