"""Clips whose measurements join frames, a group at a time: a long exposure, a camera that skips frames."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.operators.video import JoinedFrames
from ambient_solve.request import Request
from ambient_solve.results import Restoration
from ambient_solve.solver import Run
from ambient_solve.video.flow import Motion, motion
from ambient_solve.video.groups import GroupPrior
from ambient_solve.video.guidance import trust_of
from ambient_solve.video.results import RestoredFrame
from ambient_solve.video.state import ClipState
from ambient_solve.video.warped_noise import Frame

if TYPE_CHECKING:
    from ambient_solve.video.solver import OnLevel, VideoSolver


def restore_groups(
    solver: VideoSolver,
    y: Iterable[Tensor],
    op: JoinedFrames,
    request: Callable[[Tensor], Request],
    state: ClipState | None,
    on_level: OnLevel | None,
) -> Iterator[RestoredFrame]:
    """Restore a clip of joined measurements, in the memory of one group.

    One measurement more than is restored is read: the motion inside a group is that towards the next one.

    Args:
        solver: The solver of the clip.
        y: The measurements, one for each group.
        op: Which frames they join.
        request: A measurement to what is asked of a solver.
        state: Go on from there; `number` counts measurements.
        on_level: See `VideoSolver.solve`.

    Yields:
        The frames; the state of each is that of its group.
    """
    if solver.guidance.weight and solver.guidance.rule != "blend":
        raise AmbientSolveError("Joined frames are guided by the rule 'blend'; leave rule out.")
    ahead: tuple[Tensor, Tensor] | None = None  # a measurement and its picture
    for number, after in enumerate(_with_end(y)):
        if state is not None and number < state.number:
            continue
        current = ahead
        picture = None if after is None else solver.picture_of(request(after), op.op, None)
        if after is not None:
            ahead = (after, picture)
        if current is not None:
            group = number - 1
            made = _group(solver, group, request(current[0]), op, (current[1], picture), state, on_level)
            state = made[-1].state
            yield from made


def _with_end(y: Iterable[Tensor]) -> Iterator[Tensor | None]:
    yield from y
    yield None


def _group(
    solver: VideoSolver,
    number: int,
    request: Request,
    op: JoinedFrames,
    pictures: tuple[Tensor, Tensor | None],
    state: ClipState | None,
    on_level: OnLevel | None,
) -> list[RestoredFrame]:
    """The frames of a measurement; `pictures` are its own and that of the next one."""
    picture, following = pictures
    k, tolerance = op.frames, solver.tolerance(request)
    into = None if state is None else motion(solver.flow, number, state.picture, picture)
    out = None if following is None else motion(solver.flow, number + 1, picture, following)
    inside = next((m for m in (out, into) if m is not None and not m.cut), None)
    still = torch.zeros(2, *picture.shape[1:])
    flow = still if inside is None else inside.flow / k
    trust = torch.ones_like(picture[0])
    if inside is not None:
        trust = trust_of(*((picture, following) if inside is out else (state.picture, picture)), inside, tolerance)
    cut = into is not None and into.cut
    first_flow = still if into is None else into.flow / k
    first_trust = torch.zeros_like(trust)
    if into is not None:
        first_trust = trust_of(state.picture, picture, into, tolerance)
    frames, whites = [], []
    for i in range(k):
        if i == 0:
            frame, white = solver.begin(picture) if state is None else (state.frame, state.white)
            if state is not None:
                frame, white = _next(frame, white, first_flow, into, cut)
        else:
            frame, white = _next(frames[-1], whites[-1], flow, None, False)
        frames.append(frame)
        whites.append(white)
    scene = 0 if state is None else number if cut or solver.noise == "independent" else state.scene
    flows, trusts = torch.stack([first_flow] + [flow] * (k - 1)), torch.stack([first_trust] + [trust] * (k - 1))
    kept = ((), ()) if state is None or cut else (state.estimates, state.levels)
    prior = GroupPrior(solver.solver.prior, frames, whites, flows, trusts, solver.guidance.weight, *kept, scene=scene)
    run = Run(solver.solver.with_prior(prior), request)
    result = solver.named(solver.result_of(run, number, on_level))
    estimates = (prior.estimates, prior.seen) if solver.guidance.weight else ([], [])
    after = ClipState(number + 1, scene, frames[-1], whites[-1], picture, torch.zeros_like(trust), *estimates)
    return [RestoredFrame(number * k + i, _frame(result, i), into if i == 0 else None, after) for i in range(k)]


def _next(frame: Frame, white: Frame, flow: Tensor, moved: Motion | None, cut: bool) -> tuple[Frame, Frame]:
    hidden = None if moved is None else moved.occluded
    after = frame.next(flow, hidden, cut=cut)
    return after, after if white is frame else white.next(flow, hidden, cut=cut)


def _frame(result: Restoration, i: int) -> Restoration:
    """Frame i of a group; what the group has cost is stated once, with its first frame."""
    once = {} if i == 0 else {"network_calls": 0, "vjps": 0, "seconds": 0.0}
    return dataclasses.replace(result, samples=result.samples[:, :, :, i], **once)
