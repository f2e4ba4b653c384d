"""What the page remembers of one browser session, and the files it hands out; all in one folder that goes with it."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ambient_solve.app import panels
from ambient_solve.app.folders import MAX_PIXELS, new_folder, tame
from ambient_solve.app.uploads import open_upload, zip_folder
from ambient_solve.restore.pictures import Picture
from ambient_solve.restore.recipe import Recipe, cli_command, python_snippet, to_json
from ambient_solve.restore.several import SIGN
from ambient_solve.restore.tasks import Inpaint

if TYPE_CHECKING:
    from ambient_solve.app.photographs.output import RestoredFrom
    from ambient_solve.app.photographs.run import Result
    from ambient_solve.app.photographs.values import Controls

PUT_BACK = """
from ambient_solve.restore.pictures import read_mask, read_measurement

measured = read_mask({mask!r}, restored.shape[-2:])
restored = measured * read_measurement({picture!r}, restored.shape[1]).y + (1 - measured) * restored
"""
"""What follows the snippet where the page has copied the measured pixels into what it restored."""


@dataclass
class Session:
    """The picture, the last result and the folder of one browser session.

    Attributes:
        folder: Holds all its files.
        path: The picture that was put in, None for the example.
        result: The last result, None before the first one.
        stopped: The visitor has asked the run to end.
        taken: Number of pictures that were put in.
        share: How far the run is, 0 to 1.
        estimated: The noise level that was read off the picture.
        history: The last runs, the newest first.
        runs: Number of runs that were finished.
        source: What the picture was itself restored from, as it says; None for any other picture.
        original: That file, where the session has had it.
        again: The visitor wants such a picture restored once more.
        chosen: Which picture of the result is shown and handed out: 0 is the mean, 1 and more a sample.
        invented: How much of what it invents is shown, 0 to 1.
        kind: Format of the downloaded picture.
    """

    folder: Path = field(default_factory=new_folder)
    path: Path | None = None
    result: Result | None = None
    stopped: bool = False
    taken: int = 0
    share: float = 0.0
    estimated: float | None = None
    history: list[HistoryEntry] = field(default_factory=list)
    runs: int = 0
    source: RestoredFrom | None = None
    original: Path | None = None
    again: bool = False
    chosen: int = 1
    invented: float = 0.0
    kind: str = "PNG"

    def take(self, upload: str | Path, channels: int) -> Picture:
        """Keep a copy of an uploaded file under a tame name, after it was found to be a picture.

        Args:
            upload: The file.
            channels: Of the prior; the picture is converted to them.

        Returns:
            The picture that was kept.

        Raises:
            AmbientSolveError: the file is no picture, or too large.
        """
        upload = Path(upload)
        open_upload(upload, max_pixels=MAX_PIXELS, channels=channels)
        self.path = self.folder / "input" / tame(upload.name)
        shutil.rmtree(self.path.parent, ignore_errors=True)
        self.path.parent.mkdir(parents=True)
        shutil.copyfile(upload, self.path)
        self.result, self.estimated, self.taken = None, None, self.taken + 1
        return open_upload(self.path, max_pixels=MAX_PIXELS, channels=channels)

    def close(self) -> None:
        """End its run, and remove the folder."""
        self.stopped = True
        shutil.rmtree(self.folder, ignore_errors=True)


def recipe_of(result: Result) -> Recipe:
    """What repeats a result on its picture, or on its picture and its mask."""
    from ambient_solve.priors.load import pinned

    request, files = result.problem.request, {}
    stem = result.problem.picture.path.stem
    painted = request.painted is not None or request.mask is not None
    if result.problem.mask is not None and (painted or Inpaint.name in request.task.split(SIGN)):
        files["mask"] = f"{stem}-mask.png"
    if request.kernel is not None:
        files["kernel"] = request.kernel.name
    return Recipe(
        prior=pinned(request.prior),
        task=request.task,
        damage={**request.options, **files},
        algorithm=request.algorithm,
        knobs=dict(request.knobs),
        samples=request.samples,
        seed=request.seed,
        prompt=request.prompt,
        negative=request.negative,
        guidance=request.guidance,
    )


def save(result: Result, folder: Path, kind: str = "PNG") -> tuple[Path, Path]:
    """Write a result to files.

    Args:
        result: What was restored.
        folder: Its subfolder `results` is written to.
        kind: Format of the restored picture, one of `output.KINDS`.

    Returns:
        The restored picture, a PNG of which carries its recipe, and a zip of it with all samples, maps and settings.
    """
    stem, problem = result.problem.picture.path.stem, result.problem
    out = folder / "results" / stem
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    best = hand_out(result, result.mean, out / f"{stem}-restored", kind)
    for s, x in enumerate(result.samples):
        hand_out(result, x, out / f"sample-{s}")
    if problem.mask is not None:
        Image.fromarray(np.where(problem.mask, 0, 255).astype(np.uint8)).save(out / f"{stem}-mask.png")
    for name, found in problem.damage.masks(problem.piece.picture).items() if problem.mask is None else ():
        Image.fromarray((255 * found.clamp(0, 1)).round().byte().numpy()).save(out / f"{stem}-{name}.png")
    if problem.request.play:
        panels.to_image(problem.before).save(out / f"{stem}-damaged.png")
    if len(result.samples) > 1:
        panels.std_map(result.samples).image.save(out / "std.png")
    (out / "settings.json").write_text(json.dumps(details(result), indent=2, default=str) + "\n")
    return best, zip_folder(out, folder / "results" / f"{stem}-restored.zip")


def hand_out(result: Result, x: np.ndarray, path: Path, kind: str = "PNG") -> Path:
    """Write one picture of a result.

    Args:
        result: What was restored.
        x: The picture, (H, W, C), 0 to 1.
        path: The file, without its suffix.
        kind: Its format, one of `output.KINDS`.

    Returns:
        The path of the file.
    """
    from ambient_solve.app.photographs import output

    problem = result.problem
    known = {"recipe": to_json(recipe_of(result)), "profile": problem.picture.profile}
    filled = None if problem.mask is None else ~problem.mask
    return output.write(x, path, kind, problem.picture.path, filled=filled, **known)


def details(result: Result) -> dict[str, Any]:
    """Settings, versions, seconds and network calls of a result, for reading and for the archive."""
    from ambient_solve.restore.files import recorded

    request, settings, cond = result.problem.request, result.settings, result.problem.cond
    return {
        "task": request.task,
        "damage": {**request.options, "damaged by the page": request.play},
        "samples": {"asked for": request.samples, "finished": len(result.samples)},
        "working size": request.size,
        **({} if cond is None else {"cond": recorded(cond, result.problem.solver.prior)}),
        # Without missing pixels all are measured, and all are restored.
        **({"measured pixels kept": request.keep} if result.problem.mask is not None else {}),
        **settings,
        "verdict": result.verdict().record(),
        "misfit of each sample": [round(c, 4) for c in result.chi2],
        "seconds": round(result.seconds, 2),
        "network calls of a sample": {"forward": result.calls, "backward": result.vjps},
        "notes": list(result.problem.notes),
    }


def how_to_repeat(result: Result) -> tuple[str, str]:
    """Python and a command line that repeat a result, with a word on what they need beside the picture."""
    recipe, problem = recipe_of(result), result.problem
    needs, tail, lacking = [], "", ""
    if "mask" in recipe.damage:
        needs.append(f"{recipe.damage['mask']} is in the zip")
    if problem.request.play:
        needs.append(
            f"the damaged picture is in the zip, as {problem.picture.path.stem}-damaged.png, rounded to 8 bits"
        )
    if problem.piece.picture.y.shape != problem.piece.whole.y.shape or "tiles" in " ".join(problem.notes):
        needs.append("the page worked on a part, a reduced copy or tiles; this works on the whole picture")
    elif problem.mask is not None and problem.request.keep:
        tail = PUT_BACK
        lacking = "# the page copied the measured pixels back, which only the Python does\n"
    name = f"{problem.picture.path.stem}-damaged.png" if problem.request.play else problem.picture.path.name
    head, names = "".join(f"# {need}\n" for need in needs), {"picture": name, "mask": recipe.damage.get("mask")}
    return head + python_snippet(recipe, name) + tail.format(**names), head + lacking + cli_command(recipe, name)


@dataclass(frozen=True)
class HistoryEntry:
    """One run that is remembered.

    Attributes:
        folder: Holds the picture unless it was the example, the files that were put in and what was painted.
        controls: What the tab said, without what `folder` holds.
        thumbnail: The restored picture, small.
        words: Its caption.
    """

    folder: Path
    controls: Controls
    thumbnail: Image.Image
    words: str
