"""What new users tried with pictures as people have them, one row each, and what comes of it.

    python benchmarks/tried.py
    python benchmarks/tried.py --rows hole grain            (some of the rows)

The pictures are scikit-image's. Files are written, and restored by their path as `ambient-solve restore` does it;
`large` is what the page does with a picture of 2000x1500 pixels, in seconds of the clock, on a machine at rest.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.restoration import denoise_nl_means, inpaint_biharmonic
from torch import Tensor

from ambient_solve import load_prior, operators
from ambient_solve.app.photographs import price
from ambient_solve.app.photographs.job import prepare_request
from ambient_solve.app.photographs.request import RestoreRequest
from ambient_solve.app.photographs.run import run
from ambient_solve.app.stopping import Stopped, stoppable
from ambient_solve.app.uploads import open_upload
from ambient_solve.data.images import to_tensor
from ambient_solve.errors import own_words_for_misfit
from ambient_solve.noise import Streams
from ambient_solve.operators.jpeg import quantisation_tables
from ambient_solve.presets import PRESETS
from ambient_solve.restore import make_task, read_measurement, restore_file
from ambient_solve.restore.jpeg_noise import jpeg_noise

Row = tuple[str, str]
"""What was tried, and what is seen."""
LARGE = (2000, 1500)
"""Width and height of a large picture."""


def photograph(name: str, side: int, border: int = 0) -> Tensor:
    """(3, side + 2 border, side + 2 border) in [0, 1], out of the middle, reduced by two; of astronaut the face."""
    image = Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
    whole = side + 2 * border
    image = image if name == "astronaut" and whole <= 256 else image.reduce(2)
    center = (224, 128) if name == "astronaut" and whole <= 256 else (image.width // 2, image.height // 2)
    left, top = (max(0, min(c - whole // 2, n - whole)) for c, n in zip(center, image.size, strict=True))
    return to_tensor(image.crop((left, top, left + whole, top + whole)), 3).float() / 255


def noisy(x: Tensor, sigma: float) -> Tensor:
    return x + sigma * Streams([0], 1).normal(x[None])[0]


def save(x: Tensor, path: Path, quality: int | None = None) -> Path:
    values = (255 * x.clamp(0, 1)).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(values).save(path, **({} if quality is None else {"quality": quality}))
    return path


def psnr(y: Tensor, x: Tensor) -> float:
    return float(-10 * (y.clamp(0, 1) - x).square().mean().log10())


def restored(path: Path, task: str, preset: str = "balanced", **options: Any) -> Any:
    with own_words_for_misfit():
        return restore_file(path, load_prior("photos"), make_task(task, **options), preset=preset)


def fine(y: Tensor) -> float:
    """How grainy a picture is where there is nothing but background: the deviation of what is not coarse."""
    flat = y[:, 20:90, 176:191].numpy()
    return float((flat - gaussian_filter(flat, (0, 2, 2))).std())


def said(outcome: Any) -> str:
    """A verdict in a few words."""
    verdict = outcome.verdict
    return f"{verdict.level}: {' '.join(verdict.causes)} {outcome.verdict.flags}".strip()


def blurred(x: Tensor, task: str, sigma: float, **numbers: float) -> Tensor:
    """A photograph with a border, blurred into its frame."""
    kernel = make_task(task, **numbers).describe()
    reach = len(kernel) // 2
    y = torch.nn.functional.conv2d(x[:, None], (kernel / kernel.sum()).flip(0, 1)[None, None])[:, 0]
    rest = y.shape[-1] - (x.shape[-1] - 2 * BORDER)
    y = y[:, rest // 2 : y.shape[-2] - rest // 2, rest // 2 : y.shape[-1] - rest // 2]
    assert reach <= BORDER
    return noisy(y, sigma)


BORDER = 16
"""Pixels beside a picture, for what blurs into its frame."""


def width(folder: Path) -> Iterator[Row]:
    y = blurred(photograph("astronaut", 128, BORDER), "gaussian-blur", 0.01, width=1.5)
    path = save(y, folder / "face.png")
    for words, task, options in (
        ("width 3 is stated", "gaussian-blur", {"width": 3.0}),
        ("a movement of 15 is stated", "motion-blur", {"length": 15.0}),
        ("the truth is stated", "gaussian-blur", {"width": 1.5}),
    ):
        yield f"face of 128 px, blur 1.5: {words}", said(restored(path, task, "fast", sigma=0.01, **options))


def shake(folder: Path) -> Iterator[Row]:
    x = photograph("coffee", 128, BORDER)
    y = blurred(x, "motion-blur", 0.01, length=14.0, angle=28.6)
    path, x = save(y, folder / "moved.png"), x[:, BORDER:-BORDER, BORDER:-BORDER]
    outcome = restored(path, "motion-blur", "fast")
    found = f"{psnr(y, x):.2f} dB before, {psnr(outcome.restoration.mean[0], x):.2f} after"
    yield "a movement along 28.6 degrees, the defaults", f"{found}; {said(outcome)}"
    outcome = restored(path, "motion-blur", length="auto", angle="auto")
    found = f"{psnr(outcome.restoration.mean[0], x):.2f} dB; {said(outcome)}"
    yield "the same, `--length auto --angle auto`", found


def old(folder: Path) -> Iterator[Row]:
    x = photograph("astronaut", 192)
    y = torch.from_numpy(gaussian_filter(x.numpy(), (0, 0.6, 0.6)))
    rows, columns = torch.meshgrid(torch.arange(192), torch.arange(192), indexing="ij")
    stain = torch.exp(-((rows - 140) ** 2 + (columns - 50) ** 2) / 400.0)
    y = noisy(y * (1 - 0.25 * stain), 0.04)
    for row in range(8, 184):
        y[:, row, 30 + row // 3 : 32 + row // 3] = y[:, row, 160 - row // 5 : 162 - row // 5] = 0.97
    path = save(y, folder / "old.jpg", 80)
    before = read_measurement(path).y[0]
    outcome = restored(path, "old-photograph")
    mean = outcome.restoration.mean
    grain = [fine(one) for one in (before, mean[0], x)]
    found = f"{psnr(before, x):.2f} dB before, {psnr(mean[0], x):.2f} after; grain {grain[0]:.3f}"
    found += f", then {grain[1]:.3f}; {grain[2]:.3f} in the truth"
    yield "old photograph: scratches, stain, noise .04, blur .6, JPEG 80; no number given", found


def small(folder: Path) -> Iterator[Row]:
    x = photograph("astronaut", 192)
    path = save(operators.Reduction((3, 192, 192), 2).A(x[None])[0], folder / "small.jpg", 80)
    with Image.open(path) as image:
        cubic = to_tensor(image.resize((192, 192), Image.Resampling.BICUBIC), 3).float() / 255
    for words, task in (("too small alone", "super-resolution"), ("both, in one run", "super-resolution+jpeg")):
        options = {"sigma": 0.005, "factor": 2}
        mean = restored(path, task, **options).restoration.mean[0]
        yield f"small, JPEG 80: {words}", f"{psnr(mean, x):.2f} dB; bicubic {psnr(cubic, x):.2f}"


def grain(folder: Path) -> Iterator[Row]:
    for quality in (90, 80):
        found = []
        for sigma in (0.03, 0.05, 0.1):
            path = save(noisy(photograph("coffee", 192), sigma), folder / "grain.jpg", quality)
            estimate = jpeg_noise(read_measurement(path).y[0], quantisation_tables(quality)[0])
            found.append(f"{sigma:g} as {estimate.level or 0:.3f}")
        yield f"noise of a JPEG of quality {quality}", ", ".join(found)


def hole(folder: Path) -> Iterator[Row]:
    for name in ("astronaut", "coffee", "chelsea"):
        x, missing = photograph(name, 128), np.zeros((128, 128), bool)
        missing[52:76, 50:78] = True
        path = save(torch.where(torch.from_numpy(missing), 1.0, x), folder / "hole.png")
        Image.fromarray(missing).save(folder / "mask.png")
        mean = restored(path, "inpaint", mask=str(folder / "mask.png"), sigma=0.005).restoration.mean[0]
        smooth = inpaint_biharmonic(x.permute(1, 2, 0).numpy(), missing, channel_axis=-1)
        inside = [psnr(one[:, missing], x[:, missing]) for one in (mean, torch.from_numpy(smooth).permute(2, 0, 1))]
        yield f"{name}: hole of 28x24 px", f"{inside[0]:.2f} dB in the hole; biharmonic {inside[1]:.2f}"


def defaults(folder: Path) -> Iterator[Row]:
    x = photograph("astronaut", 128)
    y = noisy(x, 0.1)
    path, started = save(y, folder / "noisy.png"), time.process_time()
    mean = restored(path, "denoise", sigma=0.1).restoration.mean[0]
    seconds = time.process_time() - started
    means = denoise_nl_means(y.permute(1, 2, 0).numpy(), 5, 7, 0.08, sigma=0.1, fast_mode=True, channel_axis=-1)
    other = psnr(torch.from_numpy(means).permute(2, 0, 1).float(), x)
    found = f"{psnr(mean, x):.2f} dB, {seconds:.0f} s of a core; non-local means {other:.2f}"
    yield "denoising of 128 px, noise .1, the defaults of the command", found


def large(folder: Path) -> Iterator[Row]:
    image = Image.fromarray(skimage.data.astronaut()).resize(LARGE, Image.Resampling.BICUBIC)
    path = save(noisy(to_tensor(image, 3).float() / 255, 0.1), folder / "large.jpg", 95)
    prior, algorithm = load_prior("photos"), PRESETS["fast"].chosen("denoise")
    request = RestoreRequest("denoise", {"sigma": 0.1}, algorithm=algorithm[0], knobs=algorithm[1], samples=2)
    started = time.perf_counter()
    picture = open_upload(path)
    words = price.quote(request, prior, tuple(picture.y.shape[-2:])).words
    priced, stopped = time.perf_counter() - started, []
    problem = prepare_request(request, stoppable(prior, lambda: bool(stopped)), picture)
    started, moved, asked = time.perf_counter(), None, None
    try:
        for step in run(problem):
            moved = moved or time.perf_counter() - started
            if step.preview is not None:
                seen, asked = time.perf_counter() - started, time.perf_counter()
                stopped.append(True)
    except Stopped:
        ended = time.perf_counter() - asked
    yield "2000x1500 px, *Fast*: the price", f"{priced:.1f} s after the upload: {words}"
    yield "the same: first progress, first preview, Stop", f"{moved:.1f} s, {seen:.1f} s, {ended:.1f} s"


ROWS: dict[str, Callable[[Path], Iterator[Row]]] = {
    one.__name__: one for one in (width, shake, old, small, grain, hole, defaults, large)
}
"""What was tried, by a word."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="which, by default all")
    given = parser.parse_args()
    print("| tried | seen |\n|---|---|")
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        for name in given.rows:
            for tried, seen in ROWS[name](Path(folder)):
                print(f"| {tried} | {seen} |", flush=True)


if __name__ == "__main__":
    main()
