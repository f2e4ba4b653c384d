"""The folder of an unfinished clip: finished frames as pictures, and the state of the last one."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.resume import digest
from ambient_solve.saving import replace_text, save_png
from ambient_solve.verdict.judge import judge
from ambient_solve.video.files import VideoWriter, comment_of
from ambient_solve.video.state import ClipState

REQUEST, STATE, TIMES = "request.json", "state.safetensors", "times.json"
"""Files of the folder of an unfinished clip."""
STILL = 0.1
"""Mean motion below which nothing moves, in pixels a frame."""


@final
@dataclass(frozen=True)
class VideoOutcome:
    """The outcome of a clip.

    Attributes:
        path: The restored video. frames: How many it has. cuts: Numbers of the frames that begin a scene.
        chi2: Mean misfit, 1 is right. seconds: Wall time of this run.
        begun: Frames that an earlier run had finished; all of them where it had finished the clip.
        algorithm: Name of the algorithm. notes: What was made of the files, in words.
        moved: Mean motion of the frame that moves most, in pixels.
        mask_ends: Frame of the file at which a scene begins into which a mask was not followed, None for none.
    """

    path: Path
    frames: int
    cuts: tuple[int, ...]
    chi2: float
    seconds: float
    begun: int
    algorithm: str
    notes: tuple[str, ...] = ()
    moved: float = 0.0
    mask_ends: int | None = None

    @property
    def warning(self) -> str:
        """What the misfit says against what was stated; empty where it says nothing."""
        # The misfit alone: frames of a clip show no more of it.
        return judge([self.chi2], None, 0, "", self.algorithm).sentence

    @property
    def doubts(self) -> tuple[str, ...]:
        """What of the result may not be what was meant, in words."""
        found = ["nothing moves in these frames, so that one of them shows as much as all"] if self.still else []
        if self.mask_ends is not None:
            found.append(
                f"the mask was not followed past frame {self.mask_ends}, where another scene begins: give that scene a "
                "mask of its own, with --frames"
            )
        return tuple(found)

    @property
    def still(self) -> bool:
        """Whether nothing moves in all of several frames."""
        return self.frames > 1 and not self.cuts and self.moved < STILL


@final
class ClipStore:
    """The folder of an unfinished clip.

    Args:
        out: The restored video, beside which it lies.
        request: All that decides the video, as text.
    """

    def __init__(self, out: Path, request: str) -> None:
        self.out, self.request = out, request
        self.folder = unfinished_folder(out)
        self.record: dict[str, Any] = {}

    def begin(self) -> ClipState | None:
        """The state of an earlier run of the same request, if it left one."""
        asked = self.folder / REQUEST
        if not (asked.is_file() and asked.read_text() == self.request):
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            replace_text(asked, self.request)
        if not (self.folder / STATE).is_file():
            self.record = {"times": [], "chi2": [], "cuts": [], "moved": [], "seconds": 0.0, "algorithm": ""}
            return None
        state = ClipState.load(self.folder / STATE)
        self.record = json.loads((self.folder / TIMES).read_text())
        for name in ("times", "chi2", "moved"):  # a run may have been stopped between the two files
            self.record[name] = self.record[name][: state.number]
        self.record["cuts"] = [n for n in self.record["cuts"] if n < state.number]
        return state

    def add(self, number: int, pixels: Tensor, time: Fraction, frame: Any, chi2: Tensor) -> None:
        """Keep a finished frame.

        Args:
            number: From 0.
            pixels: (3, H, W) uint8.
            time: When it is shown, in seconds.
            frame: The `RestoredFrame`.
            chi2: Its misfit.
        """
        save_png(pixels.float() / 255, self._picture(number))
        self.record["times"].append([time.numerator, time.denominator])
        self.record["chi2"].append(float(chi2.mean()))
        self.record["cuts"] += [number] if frame.cut else []
        moved = 0.0 if frame.motion is None else float(frame.motion.flow.square().sum(0).sqrt().mean())
        self.record["moved"].append(moved)
        self.record["seconds"] += frame.restoration.seconds
        self.record["algorithm"] = frame.restoration.settings["algorithm"]
        replace_text(self.folder / TIMES, json.dumps(self.record))
        frame.state.save(self.folder / STATE)  # last of all: what it says is finished

    def finish(self, path: Path, begun: int) -> VideoOutcome:
        """Write the video, and delete the folder.

        Args:
            path: The damaged video.
            begun: Frames that an earlier run had finished.

        Returns:
            The outcome.
        """
        chi2 = sum(self.record["chi2"]) / len(self.record["chi2"])
        said = {"cuts": self.record["cuts"], "chi2": chi2, "frames": len(self.record["times"])}
        said |= {"moved": max(self.record["moved"]), "algorithm": self.record["algorithm"]}
        said |= {"request": digest(self.request.encode())}
        _write(self.folder, self.record["times"], self.out, path, json.dumps({"ambient_solve": said}))
        shutil.rmtree(self.folder)
        return _outcome(self.out, said, self.record["seconds"], begun)

    def _picture(self, number: int) -> Path:
        return _frame(self.folder, number)


def unfinished_folder(out: Path) -> Path:
    """Where the finished frames of a clip lie until all are there.

    Args:
        out: The restored video.

    Returns:
        The folder, beside it.
    """
    return out.with_name(out.name + ".part")


def write_unfinished(out: Path, path: Path, to: Path) -> int:
    """Write the finished frames of a clip that was stopped as a video of their own; they stay where they are.

    Args:
        out: The restored video that is not there yet.
        path: The damaged video.
        to: The video to write.

    Returns:
        How many frames it has; with none, nothing is written.
    """
    folder = unfinished_folder(out)
    if not (folder / STATE).is_file():
        return 0
    number = ClipState.load(folder / STATE).number
    _write(folder, json.loads((folder / TIMES).read_text())["times"][:number], to, path)
    return number


def finished_before(out: Path, request: str) -> VideoOutcome | None:
    """The outcome of an earlier run of the same request, if it has finished.

    Args:
        out: The restored video.
        request: All that decides it.

    Returns:
        The outcome, or None.
    """
    if not out.is_file():
        return None
    try:
        said = json.loads(comment_of(out))["ambient_solve"]
        same = said["request"] == digest(request.encode())
        return _outcome(out, said, 0.0, said["frames"]) if same else None
    except (ValueError, KeyError, TypeError):
        return None


def file_digest(path: Path) -> str:
    """The SHA-256 of a file, however large.

    Args:
        path: The file.

    Returns:
        Hexadecimal digits.

    Raises:
        AmbientSolveError: it is not there.
    """
    if not path.is_file():
        raise AmbientSolveError(f"There is no file {path}.")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(folder: Path, times: list[list[int]], out: Path, like: Path, comment: str = "") -> None:
    with VideoWriter(out, like, comment) as writer:
        for number, (above, below) in enumerate(times):
            writer.write(_read(_frame(folder, number)), Fraction(above, below))


def _frame(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.png"


def _outcome(out: Path, said: dict[str, Any], seconds: float, begun: int) -> VideoOutcome:
    numbers = said["frames"], tuple(said["cuts"]), said["chi2"]
    return VideoOutcome(out, *numbers, seconds, begun, said["algorithm"], moved=said["moved"])


def _read(path: Path) -> Tensor:
    import numpy as np
    from PIL import Image

    with Image.open(path, formats=("PNG",)) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
