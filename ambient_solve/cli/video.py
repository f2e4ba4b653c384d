"""`ambient-solve video`: a damaged video file to a restored one."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Annotated, Any

import tyro

from ambient_solve.cli.flags import Device, knob_values, task_options, with_knobs
from ambient_solve.errors import AmbientSolveError, shown
from ambient_solve.restore.tasks import TASKS, make_task

NOISES = ("fixed", "independent", "nearest", "integral", "field")
"""Kinds of noise, as `video.warped_noise` has them."""
VIDEO_TASKS = tuple(name for name in TASKS if name != "jpeg")
"""Tasks that a video may have."""


@dataclasses.dataclass(frozen=True)
class Video:
    """Restore a damaged video. VIDEO is the measurement itself: every frame was damaged by the same task.

    A knob of the algorithm is given as --KNOB VALUE, such as --steps 20; `ambient-solve info` lists them. The noise of
    the sampler follows the motion, and each frame is drawn to the one before, so that the result does not flicker. A
    mask is a picture for all frames, or a video. Sound is copied. A run that was stopped goes on where it was, and
    ends with the same bytes.
    """

    video: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="VIDEO")] = Path()
    """The damaged video."""
    task: Annotated[str, tyro.conf.arg(metavar="|".join(VIDEO_TASKS), help_behavior_hint="(required)")] = ""
    """What happened to its frames."""
    out: Path = Path("restored.mp4")
    """The restored video."""
    frames: Annotated[str, tyro.conf.arg(metavar="FIRST:LAST")] = ":"
    """Frames to restore, counted from 0 and without the last: 25:50 are 25 of them."""
    side: int = 0
    """Make frames smaller first, until the longer side has at most so many pixels; 0 does not."""
    follow: bool = False
    """The mask is that of the first frame, and follows what it covers along the motion."""
    samples: int = 1
    """Posterior samples, whose mean is written; one keeps the texture."""
    algorithm: str = "proximal"
    """proximal is fast; or one of those that `ambient-solve info` lists."""
    noise: Annotated[str, tyro.conf.arg(metavar="|".join(NOISES))] = "integral"
    """How the noise moves; nearest is faster."""
    flow: Annotated[str, tyro.conf.arg(metavar="tvl1|ilk|dis")] = "dis"
    """How the motion is found; dis is fast, tvl1 good for small frames."""
    guidance: float = 0.9
    """How strongly a frame is drawn to the one before, 0 to 1."""
    prior: str = "photos"
    """Embedded prior, folder, or hub id (owner/name)."""
    seed: int = 0
    """Decides all noise."""
    device: Device = "auto"
    """auto takes the graphics card where there is one."""
    json: bool = False
    """Print one JSON object, and nothing else."""

    def run(self, texts: dict[str, str]) -> int:
        """Restore with the knobs `texts`, as they were typed."""
        own = [f.name for f in dataclasses.fields(self)]
        if self.video == Path() or not self.task:
            knob_values(texts, self.algorithm, own)  # the word that is missing may have been typed wrongly
            missing = "video" if self.task else "task (what happened to the video)"
            raise AmbientSolveError(
                f"No {missing} was given: ambient-solve video IN.mp4 --task {'|'.join(VIDEO_TASKS)} --out OUT.mp4."
            )
        given = {name: getattr(self, name) for name in task_options() if getattr(self, name, None) is not None}
        damage = make_task(self.task, **given)
        for name in ("mask", "kernel"):
            if given.get(name) and not Path(given[name]).is_file():
                raise AmbientSolveError(f"There is no file {given[name]} (--{name}).")
        first, last = frame_range(self.frames)
        for name, value, least in (("samples", self.samples, 1), ("side", self.side, 0), ("seed", self.seed, 0)):
            if value < least:
                raise AmbientSolveError(f"--{name} {value} was given, at least {least} was expected.")
        if not self.video.is_file():
            raise AmbientSolveError(f"There is no file {self.video}.")
        # Until here torch, which takes seconds, has not been imported.
        from ambient_solve.priors.load import named_prior
        from ambient_solve.video.files import count_frames
        from ambient_solve.video.restoring import restore_video

        count_frames(self.video)  # before a prior is loaded
        options = knob_values(texts, self.algorithm, own)
        outcome = restore_video(
            self.video,
            self.out,
            named_prior(self.prior, self.device),
            damage,
            first=first,
            last=last,
            side=self.side or None,
            follow=self.follow,
            n_samples=self.samples,
            algorithm=self.algorithm,
            options=options,
            noise=self.noise,
            flow=self.flow,
            guidance=self.guidance,
            seed=self.seed,
            progress=False if self.json else None,
        )
        _tell(outcome, self.json)
        return 0


def _tell(outcome: Any, as_json: bool) -> None:
    warning = outcome.warning
    if as_json:
        fit = None if math.isnan(outcome.chi2) else outcome.chi2
        row = dataclasses.asdict(outcome) | {"path": str(outcome.path), "chi2": fit, "warning": warning}
        print(json.dumps(row), flush=True)
        return
    cuts = f", scenes begin at {', '.join(map(str, outcome.cuts))}" if outcome.cuts else ""
    begun = f", {outcome.begun} of them finished before" if outcome.begun else ""
    print(
        f"{shown(outcome.path)}: {outcome.frames} frames{begun}{cuts}; misfit {outcome.chi2:.2f}, {outcome.algorithm}, "
        f"{outcome.seconds:.1f} s"
    )
    for note in (*outcome.notes, *outcome.doubts):
        print(f"  Note: {shown(note)}.")
    if warning:
        print(f"  Warning: {warning}", flush=True)


def frame_range(text: str) -> tuple[int, int | None]:
    """Numbers of frames from FIRST:LAST, either of which may be left out.

    Args:
        text: What was typed.

    Returns:
        The first, and the one behind the last or None.

    Raises:
        AmbientSolveError: it is no such range.
    """
    first, colon, last = text.partition(":")
    numbers = [word for word in (first, last) if word]
    if not colon or not all(word.isdecimal() for word in numbers) or (last and int(last) <= int(first or 0)):
        raise AmbientSolveError(
            f"--frames {text} was given; FIRST:LAST was expected, such as 0:50 or 25: for the rest."
        )
    return int(first or 0), int(last) if last else None


def video_command() -> type:
    """`Video` with the options of all tasks."""
    options = {name: entry for name, entry in task_options().items() if name != "quality"}  # that of jpeg
    return with_knobs(Video, [k for k, _ in options.values()], {name: words for name, (_, words) in options.items()})
