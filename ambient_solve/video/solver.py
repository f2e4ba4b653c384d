"""`VideoSolver`: a prior of pictures and any algorithm, which restore a clip without flicker.

    solver = VideoSolver(load_prior("photos"), "proximal", noise="integral", guidance=0.9)
    clip = solver.solve(y, op)                        # y (T, C, H, W): one measurement a frame
    for frame in solver.stream(frames, op): ...       # any number of frames, in the memory of one

Frame by frame, with what of a picture moves: the noise of every level is that of the frame before along the motion
(`warped_noise`), and the estimates are drawn to those of the frame before (`guidance`). The motion is estimated from
the measured clip.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, final

import torch
from deepinv.physics import Physics
from torch import Tensor
from torch.nn import functional as F

from ambient_solve.algorithms import Algorithm, State
from ambient_solve.blind import Family
from ambient_solve.budget import wait
from ambient_solve.errors import AmbientSolveError, suggestion
from ambient_solve.likelihood import Likelihood
from ambient_solve.likelihood.noise_levels import Given
from ambient_solve.operators.video import JoinedFrames
from ambient_solve.priors.base import Prior
from ambient_solve.priors.field import Field, FieldPrior
from ambient_solve.progress import progress_bar
from ambient_solve.request import Request
from ambient_solve.results import Restoration
from ambient_solve.solver import Run, Solver
from ambient_solve.video.first_pass import smooth_picture
from ambient_solve.video.flow import FlowOf, Motion, flow_method, motion, pull
from ambient_solve.video.guidance import Before, EquivariantPrior, Guidance, measured_pixels, trust_of
from ambient_solve.video.joined import restore_groups
from ambient_solve.video.results import RestoredFrame, VideoRestoration, join_frames
from ambient_solve.video.state import ClipState
from ambient_solve.video.warped_noise import KINDS, Frame, FramePrior, first_frame

TOLERANCE = 0.05
"""Difference of two pictures, beside that of their noise, by which one is trusted less to show the other."""
LESS_SURE = 30.0
"""Noise of an estimate over that of the measurement, where it is asked what the measurement leaves open of it."""
OperatorOf = Physics | Sequence[Physics] | Callable[[int], Physics]
"""One operator for all frames, one for each, or a function of the number of the frame."""
OnLevel = Callable[[int, State], object]
"""Called after each level with the number of the frame and its state; what it raises ends the run."""


@final
class VideoSolver:
    """A prior of pictures and an algorithm for clips.

    Args:
        prior: Any `Prior` of pictures.
        algorithm: As for `Solver`, with its knobs as keywords.
        noise: How the diffusion noise moves, one of `warped_noise.KINDS`. "field" needs a prior that was trained with
            field noise, a `FieldPrior`.
        flow: How the motion is found: the name of a method (`flow.FLOWS`), a function of two frames, or the flows of
            the clip, (T - 1, 2, H, W).
        guidance: A `Guidance`, or its weight; 0 is none.
        settings: Knobs of the algorithm, and `calls` as for `Solver`.

    Raises:
        AmbientSolveError: as `Solver`; the noise does not suit the prior; or `seconds` were given, which would let one
            frame have other levels than the next.
    """

    def __init__(
        self,
        prior: Prior,
        algorithm: Algorithm | str = "auto",
        *,
        noise: str = "integral",
        flow: str | Tensor | FlowOf = "tvl1",
        guidance: Guidance | float = 0.9,
        **settings: Any,
    ) -> None:
        if "seconds" in settings:
            raise AmbientSolveError(
                "seconds would give each frame levels of its own, which flickers: give calls or steps."
            )
        self.solver = Solver(prior, algorithm, **settings)
        self.law = _law(self.solver.prior)
        if noise not in KINDS:
            raise AmbientSolveError(f"There is no kind of noise {noise!r}. {suggestion(str(noise), KINDS)}")
        if noise == "field" and self.law is None:
            raise AmbientSolveError(
                "noise='field' needs a prior that was trained with field noise: FieldPrior(prior, Field(length=...)). "
                "Take 'integral' for one of white noise."
            )
        if noise in ("nearest", "integral") and self.law is not None:
            raise AmbientSolveError(f"noise={noise!r} is white, and the prior was trained with a field: take 'field'.")
        if isinstance(flow, str):
            flow_method(flow)
        self.noise, self.flow = noise, flow
        self.guidance = guidance if isinstance(guidance, Guidance) else Guidance(weight=guidance)

    def __repr__(self) -> str:
        flow = self.flow if isinstance(self.flow, str) else "given"
        words = f"noise {self.noise}, flow {flow}, guidance {self.guidance.weight:g} ({self.guidance.rule})"
        return f"VideoSolver: {words}\n{self.solver!r}"

    def solve(
        self,
        y: Tensor | Iterable[Tensor],
        op: OperatorOf,
        *,
        n_samples: int = 1,
        seed: int = 0,
        sigma_y: Given | None = None,
        cond: Any = None,
        state: ClipState | None = None,
        progress: bool | None = None,
        on_level: OnLevel | None = None,
    ) -> VideoRestoration:
        """Restore a clip.

        Args:
            y: Measurements of the frames: (T, *measurement), or a list or iterator of (*measurement).
            op: The operator of all frames, or one for each.
            n_samples: Posterior samples of the clip, drawn at once.
            seed: Whole number of 0 or more; sample s of every frame depends on (seed, s), and on the motion.
            sigma_y: Level of the noise, as for `Solver.solve`.
            cond: Passed on to the prior.
            state: Go on from there: the frames that are done are passed over.
            progress: Show a progress bar; None shows one in a terminal and in a notebook.
            on_level: Called after each level with the number of the frame and its state.

        Returns:
            The clip.

        Raises:
            AmbientSolveError: the input does not fit, or there is no frame.
        """
        total = len(y) - (0 if state is None else state.number) if hasattr(y, "__len__") else None
        made = self.stream(y, op, n_samples=n_samples, seed=seed, sigma_y=sigma_y, cond=cond, state=state,
                           on_level=on_level)  # fmt: skip
        return join_frames(progress_bar(made, "video", show=progress, total=total, unit="frame"))

    def stream(
        self,
        y: Tensor | Iterable[Tensor],
        op: OperatorOf,
        *,
        n_samples: int = 1,
        seed: int = 0,
        sigma_y: Given | None = None,
        cond: Any = None,
        state: ClipState | None = None,
        on_level: OnLevel | None = None,
    ) -> Iterator[RestoredFrame]:
        """Restore a clip frame by frame, in memory that does not grow; closing the iterator cancels it.

        Args:
            y: See `solve`; an iterator is asked for one frame at a time.
            op: See `solve`.
            n_samples: See `solve`.
            seed: See `solve`.
            sigma_y: See `solve`.
            cond: See `solve`.
            state: See `solve`; with the state of frame k - 1, the frames from k on come out as they would have.
            on_level: See `solve`.

        Yields:
            Each frame as soon as it is restored.

        Raises:
            AmbientSolveError: a frame does not fit its operator, or the state does not fit the clip.
        """
        if isinstance(op, JoinedFrames):
            options = (n_samples, seed, sigma_y, cond)
            yield from restore_groups(self, y, op, lambda one: Request(one[None], op, *options), state, on_level)
            return
        for number, measured in enumerate(y):
            if state is not None and number < state.number:
                continue
            operator = _operator(op, number)
            if isinstance(operator, Family):
                raise AmbientSolveError("A clip needs an operator that is known: estimate it on one frame first.")
            request = Request(measured[None], operator, n_samples, seed, sigma_y, cond)
            frame = self._frame(number, request, state, on_level)
            state = frame.state
            yield frame

    def _frame(self, number: int, request: Request, state: ClipState | None, on_level: OnLevel | None) -> RestoredFrame:
        prior = self.solver.prior
        op = _at(request.op, prior.device)
        picture = self.picture_of(request, op, state)
        with torch.no_grad():
            measured = measured_pixels(op, picture[None].to(prior.device)).cpu()
        size = tuple(prior.state_shape(tuple(picture.shape)))[-2:]
        moved, before, support = None, None, torch.zeros_like(measured)
        if state is None:
            frame, white = self.begin(picture)
            scene = 0
        else:
            if state.picture.shape != picture.shape:
                raise AmbientSolveError(
                    f"Frame {number} is of shape {tuple(picture.shape)}, the one before {tuple(state.picture.shape)}: "
                    "all frames of a clip have one size."
                )
            moved = motion(self.flow, number, state.picture, picture)
            flow, hidden = _of_states(moved, size)
            frame = state.frame.next(flow, hidden, cut=moved.cut)
            white = frame if self.law is None else state.white.next(flow, hidden, cut=moved.cut)
            scene = number if moved.cut or self.noise == "independent" else state.scene
            trust = trust_of(state.picture, picture, moved, self.tolerance(request))
            support = trust * pull(state.support[None], moved.flow)[0]
            most = self.guidance.weight
            kinds = most * torch.ones_like(trust), (support / (support + measured).clamp_min(1e-12)).clamp_max(most)
            before = Before(state.estimates, state.levels, flow, *_resized(trust * torch.stack(kinds), size))
        guided = EquivariantPrior(prior, self.guidance, before)
        run = Run(self.solver.with_prior(FramePrior(guided, frame, white, scene)), request)
        if before is not None and run.likelihood.linear and run.likelihood.gaussian:
            guided.left_open = _left_open(run.likelihood)
        result = self.result_of(run, number, on_level)
        kept = (guided.estimates, guided.levels) if self.guidance.weight > 0 else ([], [])
        following = ClipState(number + 1, scene, frame, white, picture, support + measured, *kept)
        return RestoredFrame(number, self.named(result), moved, following)

    def begin(self, picture: Tensor) -> tuple[Frame, Frame]:
        """Where the first frame of a clip takes its noise.

        Args:
            picture: Of its size, (C, H, W).

        Returns:
            Its diffusion noise, and its white noise.
        """
        size = tuple(self.solver.prior.state_shape(tuple(picture.shape)))[-2:]
        frame = first_frame(self.noise, size, self.law)
        return frame, frame if self.law is None else first_frame(_white_kind(self.noise), size)

    def tolerance(self, request: Request) -> float:
        """The difference of two pictures of a clip at which one is trusted less to show the other."""
        return (TOLERANCE**2 + level_of(request) ** 2) ** 0.5

    @torch.inference_mode(False)
    def result_of(self, run: Run, number: int, on_level: OnLevel | None) -> Restoration:
        """Let a run go through its levels.

        Args:
            run: The run.
            number: Of the frame.
            on_level: See `solve`.

        Returns:
            What it has restored.
        """
        started = time.perf_counter()
        for state in run.states():
            last = state
            if on_level is not None:
                on_level(number, state)
        wait(last.z)
        return run.restoration(last.z, time.perf_counter() - started)

    def picture_of(self, request: Request, op: Physics, state: ClipState | None) -> Tensor:
        """What the flow of a frame is estimated from.

        Args:
            request: With its measurement.
            op: What measured a frame.
            state: Of the frame before, or None.

        Returns:
            (C, H, W) on the CPU.
        """
        device = self.solver.prior.device
        start = None if state is None else state.picture[None].to(device)
        with torch.no_grad():
            found = smooth_picture(request.y.to(device), op, level_of(request), start)
        return (self._quick(request) if found is None else found)[0].float().cpu()

    def _quick(self, request: Request) -> Tensor:
        """A first restoration of the frame by itself, with a quarter of the levels: (1, C, H, W)."""
        algorithm = Run(self.solver, request).algorithm
        quick = dataclasses.replace(algorithm, steps=max(1, algorithm.steps // 4))
        solver = Solver(self.solver.prior, quick)
        run = Run(solver, dataclasses.replace(request, n_samples=1))
        *_, last = run.states()
        return run.restoration(last.z, 0.0).samples[:, 0]

    def named(self, result: Restoration) -> Restoration:
        """A restoration whose settings say how the noise moved."""
        words = {
            "noise": self.noise,
            "flow": self.flow if isinstance(self.flow, str) else "given",
            "guidance": dataclasses.asdict(self.guidance),
            "prior": type(self.solver.prior).__name__,
        }
        return dataclasses.replace(result, settings=result.settings | words)


def _left_open(likelihood: Likelihood) -> Callable[[Tensor], Tensor]:
    """What a measurement says nothing of, in an estimate that is far less sure than it is."""
    return lambda d: likelihood.undecided(d, LESS_SURE * likelihood.sigma)


def level_of(request: Request) -> float:
    """The level of the noise of a request in the units of its operator, its mean where there are many.

    Args:
        request: The request.

    Returns:
        Above 0; 0.02 where the operator does not say.
    """
    given = request.sigma_y
    if given is None:
        given = getattr(getattr(request.op, "noise_model", None), "sigma", None)
    if not isinstance(given, (int, float, Tensor)):
        return 0.02
    return max(float(torch.as_tensor(given, dtype=torch.float32).mean()), 1e-4)


def _law(prior: Prior | None) -> Field | None:
    """The law of the noise with which a prior was trained, whatever is wrapped around it."""
    while prior is not None:
        if isinstance(prior, FieldPrior):
            return prior.field
        prior = getattr(prior, "inner", None)
    return None


def _white_kind(noise: str) -> str:
    return "integral" if noise == "field" else noise


def _operator(op: OperatorOf, number: int) -> Physics:
    if isinstance(op, (Physics, Family)):
        return op
    if callable(op):
        return op(number)
    if number >= len(op):
        raise AmbientSolveError(f"There are {len(op)} operators and more frames: give one for each frame, or one.")
    return op[number]


def _at(op: Physics, device: torch.device) -> Physics:
    """The operator on a device; a copy where it lies elsewhere, for it is not changed."""
    tensors = [*op.parameters(), *op.buffers()]
    return op if all(t.device == device for t in tensors) else copy.deepcopy(op).to(device)


def _resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(image.shape[-2:]) == size:
        return image
    return F.interpolate(image[None].float(), size=size, mode="bilinear", align_corners=False)[0]


def _of_states(moved: Motion, size: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
    """Flow and hidden pixels at the size of the states, which of a latent prior is smaller than the picture's."""
    scale = torch.tensor([n / m for n, m in zip(size, moved.flow.shape[1:], strict=True)]).reshape(2, 1, 1)
    flow = _resized(moved.flow, size) * scale
    hidden = None if moved.occluded is None else _resized(moved.occluded[None].float(), size)[0] > 0.5
    return flow, hidden
