"""A damaged video file to a restored one: frame by frame, and on from where an earlier run was stopped.

    outcome = restore_video("old.mp4", "new.mp4", load_prior(), make_task("denoise", sigma=0.1))

Finished frames are kept as pictures in the folder OUT.part, beside the state of the last one; when all are there they
are written to the video, and the folder is deleted. A run that was stopped goes on there, and ends with the same bytes.
The command and the page restore through `restored_frames`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError, own_words_for_misfit
from ambient_solve.knobs import knobs
from ambient_solve.progress import progress_bar
from ambient_solve.restore.memory import fitting
from ambient_solve.restore.pictures import Picture
from ambient_solve.restore.tasks import Inpaint, JpegBlocks, Task
from ambient_solve.restore.unknown import with_estimates
from ambient_solve.resume import digest
from ambient_solve.saving import save_png
from ambient_solve.video.clip import Clip
from ambient_solve.video.files import WRITTEN, count_frames, takes_sound
from ambient_solve.video.masks import is_video
from ambient_solve.video.solver import OnLevel, VideoSolver
from ambient_solve.video.store import ClipStore, VideoOutcome, file_digest, finished_before

if TYPE_CHECKING:
    from ambient_solve.priors.base import Prior


@final
@dataclass(frozen=True, kw_only=True)
class ClipRequest:
    """What is to be restored of a clip, and how.

    Attributes:
        damage: What happened to each frame. Numbers that are "auto" are estimated from the first one. The mask of
            inpaint may be a video.
        first: Number of the first frame that is restored.
        last: Number behind that of the last one; None goes to the end.
        side: Make frames smaller first, until the longer side is at most so many pixels.
        follow: The mask is that of the first frame, and follows what it covers along the motion.
        n_samples: Posterior samples, whose mean is written; one keeps the texture, the mean is nearer to the truth.
        algorithm: Name of the sampler; "auto" chooses.
        options: Knobs of the algorithm.
        noise: See `VideoSolver`.
        flow: See `VideoSolver`.
        guidance: See `VideoSolver`.
        seed: Whole number of 0 or more.
    """

    damage: Task
    first: int = 0
    last: int | None = None
    side: int | None = None
    follow: bool = False
    n_samples: int = 1
    algorithm: str = "auto"
    options: Mapping[str, Any] = field(default_factory=dict)
    noise: str = "integral"
    flow: str = "tvl1"
    guidance: float = 0.9
    seed: int = 0


@final
@dataclass(frozen=True, eq=False)
class FinishedFrame:
    """A frame of a clip that is restored and kept.

    Attributes:
        number: From 0, the first one that is restored.
        pixels: (3, H, W) uint8.
        frames: How many there will be; None where the file does not say.
    """

    number: int
    pixels: Tensor
    frames: int | None


def restored_frames(
    path: str | Path, out: str | Path, prior: Prior, request: ClipRequest, on_level: OnLevel | None = None
) -> Generator[FinishedFrame, None, VideoOutcome]:
    """Restore a damaged clip frame by frame. Closing the iterator ends it; the frames that are finished are kept.

    Args:
        path: The video, the measurement itself.
        out: The restored video, another file.
        prior: The diffusion prior of pictures.
        request: What is to be restored, and how.
        on_level: Called after each level with the number of the frame and its state; what it raises ends the run.

    Yields:
        Each frame as soon as it is done; none where an earlier run has finished the clip.

    Returns:
        The outcome.

    Raises:
        AmbientSolveError: a file, the mask, the damage or the settings do not fit.
    """
    path, out = Path(path), Path(out)
    _check(path, out, request.damage, prior)
    how = {"noise": request.noise, "flow": request.flow, "guidance": request.guidance}
    solver = VideoSolver(prior, request.algorithm, **how, **request.options)
    follow = request.flow if request.follow else None
    clip = Clip(path, request.damage, request.first, request.last, request.side, follow)
    opening = clip.picture(next(iter(clip.frames())))
    damage, said = _estimated(request.damage, opening)
    clip = replace(clip, damage=damage)
    asked = _as_text(path, replace(request, damage=damage), prior)
    earlier = finished_before(out, asked)
    if earlier is not None:
        return _with_notes(earlier, request, path, said)
    store = ClipStore(out, asked)
    state = store.begin()
    begun = 0 if state is None else state.number
    op = clip.operator(opening, next(clip.masks(opening)))
    n_samples = request.n_samples
    at_once, tiled = fitting(solver.solver, op, opening, n_samples)
    if tiled is None and at_once < n_samples:
        raise AmbientSolveError(
            f"{n_samples} samples of a frame do not fit into the memory, {at_once} do: ask for those."
        )
    solver.solver = solver.solver if tiled is None else solver.solver.with_prior(tiled)
    total = (count_frames(path) or 0) - request.first if request.last is None else request.last - request.first
    measured, operators = clip.measurements(begun)
    made = solver.stream(
        measured,
        operators,
        n_samples=n_samples,
        seed=request.seed,
        sigma_y=opening.sigma_of_each(damage.sigma),
        state=state,
        on_level=on_level,
    )
    while True:
        with own_words_for_misfit():  # not across a yield: who is given a frame has warnings of its own
            frame = next(made, None)
        if frame is None:
            return _with_notes(store.finish(path, begun), request, path, said)
        mean = frame.restoration.mean[None, :]
        pixels = (damage.to_output(mean, opening)[0, 0].clamp(0, 1) * 255).round().to(torch.uint8).cpu()
        store.add(frame.number, pixels, clip.time, frame, opening.whole_chi2(frame.restoration.chi2))
        yield FinishedFrame(frame.number, pixels, total if total > 0 else None)


def restore_video(
    path: str | Path,
    out: str | Path,
    prior: Prior,
    damage: Task,
    *,
    first: int = 0,
    last: int | None = None,
    side: int | None = None,
    follow: bool = False,
    n_samples: int = 1,
    algorithm: str = "auto",
    options: Mapping[str, Any] | None = None,
    noise: str = "integral",
    flow: str = "tvl1",
    guidance: float = 0.9,
    seed: int = 0,
    progress: bool | None = False,
    on_frame: Callable[[int, Tensor], object] | None = None,
) -> VideoOutcome:
    """Restore a damaged clip.

    Args:
        path: The video, the measurement itself.
        out: The restored video, another file.
        prior: The diffusion prior of pictures.
        damage: See `ClipRequest`, as for all that follows up to `seed`.
        first: Number of the first frame that is restored.
        last: Number behind that of the last one; None goes to the end.
        side: Make frames smaller first, until the longer side is at most so many pixels.
        follow: The mask is that of the first frame, and follows what it covers along the motion.
        n_samples: Posterior samples, whose mean is written.
        algorithm: Name of the sampler; "auto" chooses.
        options: Knobs of the algorithm.
        noise: See `VideoSolver`.
        flow: See `VideoSolver`.
        guidance: See `VideoSolver`.
        seed: Whole number of 0 or more.
        progress: Show a progress bar; None shows one in a terminal and in a notebook.
        on_frame: Called with the number and the restored pixels (3, H, W) uint8 of each frame, as soon as it is done.

    Returns:
        The outcome.

    Raises:
        AmbientSolveError: a file, the mask, the damage or the settings do not fit.
    """
    request = ClipRequest(
        damage=damage,
        first=first,
        last=last,
        side=side,
        follow=follow,
        n_samples=n_samples,
        algorithm=algorithm,
        options=dict(options or {}),
        noise=noise,
        flow=flow,
        guidance=guidance,
        seed=seed,
    )
    made = restored_frames(path, out, prior, request)
    with progress_bar(None, Path(path).name, show=progress, unit="frame") as bar:
        while True:
            try:
                frame = next(made)
            except StopIteration as ended:
                return ended.value
            bar.total = frame.frames
            bar.update(frame.number + 1 - bar.n)
            if on_frame is not None:
                on_frame(frame.number, frame.pixels)


def _estimated(damage: Task, opening: Picture) -> tuple[Task, tuple[str, ...]]:
    """The damage without unknown numbers, and what to say of them."""
    if not damage.unknown:
        return damage, ()
    # What reads a picture for its noise asks its file whether it was a JPEG: a clip is no file of a picture.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"{opening.path.stem}.png")
        save_png(opening.y[0], path)
        damage, said, _ = with_estimates(damage, replace(opening, path=path))
    return damage, said


def _as_text(path: Path, request: ClipRequest, prior: Prior) -> str:
    """All that decides the restored clip: a run of the same text goes on with its frames."""
    damage = request.damage
    plain = {k.name: getattr(damage, k.name) for k in knobs(type(damage)) if k.name not in ("mask", "kernel")}
    masked = isinstance(damage, Inpaint) and is_video(damage.mask)
    sources = [file_digest(Path(damage.mask))] if masked else [digest(part) for part in damage.sources(path)]
    said = {
        "input": path.name,
        "frames": [request.first, request.last],
        "side": request.side,
        "task": damage.name,
        "damage": plain,
        "follow": request.follow,
        "algorithm": [request.algorithm, dict(request.options)],
        "video": [request.noise, request.flow, request.guidance],
        "n_samples": request.n_samples,
        "seed": request.seed,
        "sources": [file_digest(path), *sources],
        "prior": digest(*(p.detach().cpu().contiguous().numpy().tobytes() for p in prior.state_dict().values())),
    }
    return json.dumps(said)


def _with_notes(outcome: VideoOutcome, request: ClipRequest, path: Path, said: tuple[str, ...]) -> VideoOutcome:
    """The outcome with what was made of the files."""
    notes = list(said)
    ends = request.first + outcome.cuts[0] if request.follow and outcome.cuts else None
    suffix = outcome.path.suffix.lower()
    if not takes_sound(path, suffix):
        others = [other for other in WRITTEN if other != suffix and takes_sound(path, other)]
        where = f"; a name that ends in {others[0]} keeps it" if others else ""
        notes.append(f"a {suffix} file does not take the sound of {path.name}, which was left out{where}")
    return replace(outcome, notes=tuple(notes), mask_ends=ends)


def _check(path: Path, out: Path, damage: Task, prior: Prior) -> None:
    """Raise `AmbientSolveError` where no clip can come of it."""
    if isinstance(damage, JpegBlocks):
        raise AmbientSolveError(
            "A video holds no JPEG files: take the task denoise, with the level of its blocks as noise."
        )
    if prior.shape[0] != 3:
        raise AmbientSolveError(f"A video has three channels, and the prior has {prior.shape[0]}: take one of colors.")
    if out.suffix.lower() not in WRITTEN:
        raise AmbientSolveError(
            f"{out.name} was given as the restored video; a name such as restored.mp4 was expected."
        )
    if out.exists() and path.exists() and out.samefile(path):
        raise AmbientSolveError(f"{out} is the damaged video itself; give the restored one another name.")
    if out.parent.exists() and not out.parent.is_dir():
        raise AmbientSolveError(f"{out.parent} is a file; a folder was expected for the result.")
