"""An order becomes a problem and a job: it is found to fit, and to ask for no more than the page takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ambient_solve.app.desk import LONG, Job
from ambient_solve.app.order import Order
from ambient_solve.app.rules import Rules
from ambient_solve.app.work import work_of

if TYPE_CHECKING:
    from ambient_solve.app.job import Problem
    from ambient_solve.damage import Picture
    from ambient_solve.priors.base import Prior


def begin(
    order: Order, picture: Picture, prior: Callable[[str], Prior], rules: Rules, visitor: str | None
) -> tuple[Problem, Job]:
    """What `run` and `Desk.serve` take; `prior` gives that of a lane.

    Raises:
        AmbientSolveError: the order does not fit the picture, or asks for too much.
    """
    from ambient_solve.app.job import prepare

    problem = prepare(order, prior("quick"), picture)
    job = Job(work_of(problem), visitor, rules.minutes)
    if job.lane == LONG:
        problem = prepare(order, prior(LONG), picture)
    return problem, job
