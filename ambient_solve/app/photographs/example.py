"""The finished example of the first view: a portrait (NASA, public domain; from scikit-image) with scratches on it.

`python -m ambient_solve.app.photographs.example` restores it again and writes its files.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from ambient_solve.app.panels import to_image
from ambient_solve.app.photographs.request import RestoreRequest

if TYPE_CHECKING:
    from ambient_solve.app.photographs.job import PreparedRequest
    from ambient_solve.app.photographs.run import Result
    from ambient_solve.priors.base import Prior

FOLDER = Path(__file__).parents[1] / "example_files"
"""Folder of the files of both examples."""
PICTURE = FOLDER / "portrait.jpg"
"""File of the undamaged picture."""
MASK = FOLDER / "mask.png"
"""File of the mask, white where pixels are missing."""
STEPS = FOLDER / "steps.jpg"
"""File of the estimates on the way to the first sample, side by side."""
RECORD = FOLDER / "result.npz"
"""File of the missing pixels of the samples, and of the residual."""
FACTS = FOLDER / "result.json"
"""File of settings, words and commands of the result."""
SIDE = 256
"""Side of the picture, in pixels."""
STROKES = (
    ((20, 40, 96, 84, 150, 88, 238, 62), 7),
    ((188, 8, 176, 70, 196, 140, 180, 250), 5),
    ((8, 196, 70, 180, 128, 214, 200, 206), 8),
)
"""Corners x, y of the scratches, and their widths, in pixels."""


def first_view() -> dict[str, Any]:
    """What the page shows before anything was run: pictures (H, W, C), the measured pixels, and words."""
    mask = np.asarray(Image.open(MASK)) < 128
    picture = np.asarray(Image.open(PICTURE), np.float32) / 255
    with np.load(RECORD) as record:
        missing, residual = record["missing"], record["residual"]
    samples = np.repeat(picture[None], len(missing), 0)
    samples[:, ~mask] = missing.astype(np.float32) / 255
    arrays = {"picture": picture, "mask": mask, "samples": samples, "residual": residual.astype(np.float32) / 16}
    return arrays | json.loads(FACTS.read_text())


def frames(seen: dict[str, Any]) -> tuple[tuple[str, np.ndarray], ...]:
    """The estimates on the way to the first sample, with their captions."""
    strip = np.asarray(Image.open(STEPS), np.float32) / 255
    return tuple(zip(seen["frames"], np.split(strip, len(seen["frames"]), 1), strict=True))


def example_problem(prior: Prior) -> PreparedRequest:
    """What was restored, by the prior `photos`."""
    from ambient_solve.app.photographs.job import prepare_request
    from ambient_solve.app.uploads import open_upload

    return prepare_request(
        RestoreRequest("inpaint", {"sigma": 0.01}, mask=MASK, samples=4), prior, open_upload(PICTURE)
    )


def rehearse(prior: Prior) -> None:
    """Restore until the first preview: what is made only once (kernels, what the precision is held to) is made then."""
    from ambient_solve.app.photographs.run import run

    next(run(example_problem(prior)))


@lru_cache(maxsize=1)
def result() -> Result:
    """What came out, as it was stored: 8 bits, and only what was missing."""
    from ambient_solve.app.photographs.run import Result
    from ambient_solve.priors.load import load_prior

    seen = first_view()
    facts = {name: seen[name] for name in ("settings", "seconds", "calls", "vjps", "samples", "residual")}
    return Result(example_problem(load_prior("photos")), chi2=tuple(seen["chi2"]), frames=frames(seen), **facts)


def make_example() -> None:
    """Draw the scratches, restore the picture, and write the files of the example."""
    from skimage import data

    from ambient_solve.app.photographs.run import run
    from ambient_solve.app.photographs.session import details, how_to_repeat
    from ambient_solve.priors.load import load_prior

    FOLDER.mkdir(exist_ok=True)
    Image.fromarray(data.astronaut()[:400, 32:432]).resize((SIDE, SIDE), Image.Resampling.BOX).save(PICTURE, quality=92)
    mask = Image.new("L", (SIDE, SIDE))
    for corners, width in STROKES:
        ImageDraw.Draw(mask).line(corners, 255, width, joint="curve")
    mask.save(MASK)
    what = example_problem(load_prior("photos"))
    for report in run(what):
        print(report.words, flush=True)
    made = report.result
    missing = (np.clip(made.samples[:, ~what.mask], 0, 1) * 255).round().astype(np.uint8)
    # One channel that `residual_map` shows as it shows the three.
    residual = np.clip(made.residual.mean(-1, keepdims=True) * 3**0.5 * 16, -127, 127).round().astype(np.int8)
    np.savez_compressed(RECORD, missing=missing, residual=residual)
    to_image(np.concatenate([x for _, x in made.frames], 1)).save(STEPS, quality=80)
    facts = {name: getattr(made, name) for name in ("chi2", "settings", "seconds", "calls", "vjps", "misfit")}
    facts["frames"] = [word for word, _ in made.frames]
    facts["python"], facts["shell"] = how_to_repeat(made)
    FACTS.write_text(json.dumps({**facts, "details": details(made)}, indent=2, default=str) + "\n")


if __name__ == "__main__":
    make_example()
