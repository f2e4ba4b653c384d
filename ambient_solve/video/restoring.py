"""A damaged video file to a restored one: frame by frame, and on from where an earlier run was stopped.

    outcome = restore_video("old.mp4", "new.mp4", load_prior(), make_task("denoise", sigma=0.1))

Finished frames are kept as pictures in the folder OUT.part, beside the state of the last one; when all are there they
are written to the video, and the folder is deleted. A run that was stopped goes on there, and ends with the same bytes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
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
from ambient_solve.saving import replace_text, save_png
from ambient_solve.video.files import SHARE, VideoFrame, VideoWriter, comment_of, count_frames, read_video
from ambient_solve.video.masks import is_video, masks, reduced, with_mask
from ambient_solve.video.solver import VideoSolver
from ambient_solve.video.state import ClipState

if TYPE_CHECKING:
    from deepinv.physics import Physics

    from ambient_solve.priors.base import Prior

REQUEST, STATE, TIMES = "request.json", "state.safetensors", "times.json"
"""Files of the folder of an unfinished clip."""


@final
@dataclass(frozen=True)
class VideoOutcome:
    """The outcome of a clip.

    Attributes:
        path: The restored video. frames: How many it has. cuts: Numbers of the frames that begin a scene.
        chi2: Mean misfit, 1 is right. seconds: Wall time of this run.
        begun: Frames that an earlier run had finished; all of them where it had finished the clip.
        algorithm: Name of the algorithm. notes: What was made of the files, in words.
    """

    path: Path
    frames: int
    cuts: tuple[int, ...]
    chi2: float
    seconds: float
    begun: int
    algorithm: str
    notes: tuple[str, ...] = ()


def restore_video(
    path: str | Path,
    out: str | Path,
    prior: Prior,
    damage: Task,
    *,
    first: int = 0,
    last: int | None = None,
    side: int | None = None,
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
        damage: What happened to each frame. Numbers that are "auto" are estimated from the first one. The mask of
            inpaint may be a video.
        first: Number of the first frame that is restored.
        last: Number behind that of the last one; None goes to the end.
        side: Make frames smaller first, until the longer side is at most so many pixels.
        n_samples: Posterior samples, whose mean is written; one keeps the texture, the mean is nearer to the truth.
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
    path, out = Path(path), Path(out)
    _check(path, out, damage, prior)
    solver = VideoSolver(prior, algorithm, noise=noise, flow=flow, guidance=guidance, **(options or {}))
    clip = _Clip(path, damage, first, last, side)
    opening = clip.picture(next(iter(clip.frames())))
    damage, said, _ = with_estimates(damage, opening)
    clip = replace(clip, damage=damage)
    request = json.dumps(
        {
            "input": path.name,
            "frames": [first, last],
            "side": side,
            "task": damage.name,
            "damage": {
                k.name: getattr(damage, k.name) for k in knobs(type(damage)) if k.name not in ("mask", "kernel")
            },
            "algorithm": [algorithm, dict(options or {})],
            "video": [noise, flow, guidance],
            "n_samples": n_samples,
            "seed": seed,
            "sources": [digest(part) for part in (path.read_bytes(), *_sources(damage, path))],
            "prior": digest(*(p.detach().cpu().contiguous().numpy().tobytes() for p in prior.state_dict().values())),
        }
    )
    earlier = _finished(out, request)
    if earlier is not None:
        return replace(earlier, notes=said)
    store = _Store(out, request)
    state = store.begin()
    begun = 0 if state is None else state.number
    op = clip.operator(opening, next(clip.masks(opening)))
    at_once, tiled = fitting(solver.solver, op, opening, n_samples)
    if tiled is None and at_once < n_samples:
        raise AmbientSolveError(
            f"{n_samples} samples of a frame do not fit into the memory, {at_once} do: ask for those."
        )
    solver.solver = solver.solver if tiled is None else solver.solver.with_prior(tiled)
    total = (count_frames(path) or 0) - first if last is None else last - first
    measured, operators = clip.measurements(begun)
    sigma = opening.sigma_of_each(damage.sigma)
    made = solver.stream(measured, operators, n_samples=n_samples, seed=seed, sigma_y=sigma, state=state)
    bar = progress_bar(None, path.name, show=progress, total=total or None, unit="frame")
    with own_words_for_misfit(), bar:
        bar.update(begun)
        for frame in made:
            mean = frame.restoration.mean[None, :]
            pixels = (damage.to_output(mean, opening)[0, 0].clamp(0, 1) * 255).round().to(torch.uint8).cpu()
            store.add(frame.number, pixels, clip.time, frame, opening.whole_chi2(frame.restoration.chi2))
            bar.update()
            if on_frame is not None:
                on_frame(frame.number, pixels)
    outcome = store.finish(path, begun)
    return replace(outcome, notes=said)


@dataclass
class _Clip:
    """The measured frames of a file; `time` is that of the one that was read last."""

    path: Path
    damage: Task
    first: int
    last: int | None
    side: int | None
    time: Fraction = Fraction(0)

    def frames(self) -> Iterator[VideoFrame]:
        return read_video(self.path, self.first, self.last)

    def picture(self, frame: VideoFrame) -> Picture:
        self.time = frame.time
        y = frame.pixels[None].float() / 255
        size = self.size(tuple(y.shape[-2:]))
        y = y if size == tuple(y.shape[-2:]) else torch.nn.functional.adaptive_avg_pool2d(y, size)
        gray = bool((y - y.mean(1, keepdim=True)).abs().max() < 2 / 255)  # what rounding leaves of a gray clip
        return Picture(self.path, y, (), 3 if gray else 1)

    def size(self, whole: tuple[int, int]) -> tuple[int, int]:
        if self.side is None or max(whole) <= self.side:
            return whole
        # An even number of pixels: most players show no others.
        height, width = (max(SHARE, SHARE * round(n * self.side / max(whole) / SHARE)) for n in whole)
        return height, width

    def masks(self, picture: Picture) -> Iterator[Tensor | None]:
        if not isinstance(self.damage, Inpaint):
            while True:
                yield None
        whole = next(iter(self.frames())).pixels.shape[1:]
        for mask in masks(self.damage, tuple(whole), self.path.name, self.first, self.last):
            yield reduced(mask, tuple(picture.y.shape[-2:]))

    def operator(self, picture: Picture, mask: Tensor | None) -> Physics:
        if mask is None:
            return self.damage.operator(picture)
        if bool(mask.all()):  # nothing is missing in this frame
            from ambient_solve.operators import denoise

            return denoise(tuple(picture.y.shape[1:]), self.damage.sigma)
        return with_mask(self.damage, mask).operator(picture)

    def measurements(self, begun: int) -> tuple[Iterator[Tensor], Callable[[int], Physics]]:
        """The frames, and a function that gives the operator of the one that was read last; those done are not made."""
        made: dict[int, Physics] = {}

        def read() -> Iterator[Tensor]:
            fixed, seen = None, None
            for number, frame in enumerate(self.frames()):
                if number == 0:
                    seen = self.masks(self.picture(frame))
                mask = next(seen)
                picture = self.picture(frame)
                if number >= begun:
                    moving = isinstance(self.damage, Inpaint) and is_video(self.damage.mask)
                    fixed = self.operator(picture, mask) if moving or fixed is None else fixed
                    made.clear()
                    made[number] = fixed
                yield picture.y[0]

        return read(), lambda number: made[number]


class _Store:
    """The folder of an unfinished clip."""

    def __init__(self, out: Path, request: str) -> None:
        self.out, self.request = out, request
        self.folder = out.with_name(out.name + ".part")
        self.record: dict[str, Any] = {}

    def begin(self) -> ClipState | None:
        """The state of an earlier run of the same request, if it left one."""
        asked = self.folder / REQUEST
        if not (asked.is_file() and asked.read_text() == self.request):
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            replace_text(asked, self.request)
        if not (self.folder / STATE).is_file():
            self.record = {"times": [], "chi2": [], "cuts": [], "seconds": 0.0, "algorithm": ""}
            return None
        state = ClipState.load(self.folder / STATE)
        self.record = json.loads((self.folder / TIMES).read_text())
        for name in ("times", "chi2"):  # a run may have been stopped between the two files
            self.record[name] = self.record[name][: state.number]
        self.record["cuts"] = [n for n in self.record["cuts"] if n < state.number]
        return state

    def add(self, number: int, pixels: Tensor, time: Fraction, frame: Any, chi2: Tensor) -> None:
        save_png(pixels.float() / 255, self._picture(number))
        self.record["times"].append([time.numerator, time.denominator])
        self.record["chi2"].append(float(chi2.mean()))
        self.record["cuts"] += [number] if frame.cut else []
        self.record["seconds"] += frame.restoration.seconds
        self.record["algorithm"] = frame.restoration.settings["algorithm"]
        replace_text(self.folder / TIMES, json.dumps(self.record))
        frame.state.save(self.folder / STATE)  # last of all: what it says is finished

    def finish(self, path: Path, begun: int) -> VideoOutcome:
        """Write the video, and delete the folder."""
        chi2 = sum(self.record["chi2"]) / len(self.record["chi2"])
        said = {"cuts": self.record["cuts"], "chi2": chi2, "frames": len(self.record["times"])}
        said |= {"algorithm": self.record["algorithm"], "request": digest(self.request.encode())}
        with VideoWriter(self.out, path, json.dumps({"ambient_solve": said})) as writer:
            for number, (above, below) in enumerate(self.record["times"]):
                writer.write(_read(self._picture(number)), Fraction(above, below))
        shutil.rmtree(self.folder)
        return _outcome(self.out, said, self.record["seconds"], begun)

    def _picture(self, number: int) -> Path:
        return self.folder / f"{number:06d}.png"


def _outcome(out: Path, said: dict[str, Any], seconds: float, begun: int) -> VideoOutcome:
    return VideoOutcome(out, said["frames"], tuple(said["cuts"]), said["chi2"], seconds, begun, said["algorithm"])


def _finished(out: Path, request: str) -> VideoOutcome | None:
    """The outcome of an earlier run of the same request, if it has finished."""
    if not out.is_file():
        return None
    try:
        said = json.loads(comment_of(out))["ambient_solve"]
        same = said["request"] == digest(request.encode())
        return _outcome(out, said, 0.0, said["frames"]) if same else None
    except (ValueError, KeyError, TypeError):
        return None


def _read(path: Path) -> Tensor:
    import numpy as np
    from PIL import Image

    with Image.open(path, formats=("PNG",)) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def _sources(damage: Task, path: Path) -> list[bytes]:
    return (
        [Path(damage.mask).read_bytes()]
        if isinstance(damage, Inpaint) and is_video(damage.mask)
        else damage.sources(path)
    )


def _check(path: Path, out: Path, damage: Task, prior: Prior) -> None:
    """Raise `AmbientSolveError` where no clip can come of it."""
    if isinstance(damage, JpegBlocks):
        raise AmbientSolveError(
            "A video holds no JPEG files: take the task denoise, with the level of its blocks as noise."
        )
    if prior.shape[0] != 3:
        raise AmbientSolveError(f"A video has three channels, and the prior has {prior.shape[0]}: take one of colors.")
    if out.suffix.lower() not in (".mp4", ".mkv", ".mov"):
        raise AmbientSolveError(
            f"{out.name} was given as the restored video; a name such as restored.mp4 was expected."
        )
    if out.exists() and path.exists() and out.samefile(path):
        raise AmbientSolveError(f"{out} is the damaged video itself; give the restored one another name.")
    if out.parent.exists() and not out.parent.is_dir():
        raise AmbientSolveError(f"{out.parent} is a file; a folder was expected for the result.")
