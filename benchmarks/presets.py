"""What each preset gives for how many seconds: the table that justifies `ambient_solve.presets`.

    python benchmarks/presets.py --photos 2

Photographs of scikit-image, 128 pixels a side, and a task for each kind of measurement that presets tell apart. PSNR is
that of the mean of the samples; *error stated* is their standard deviation over the error of the mean, 1 is honest for
many samples. `auto, 8 samples` is what a restoration took before there were presets, non-local means are those of
scikit-image.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from deepinv.physics import Physics
from torch import Tensor

from ambient_solve import Solver, load_prior, operators
from ambient_solve.errors import own_words_for_misfit
from ambient_solve.presets import PRESETS
from blind import crops, middle

SIZE = (3, 128, 128)
TASKS: dict[str, Callable[[], Physics]] = {
    "noise .1": lambda: operators.denoise(SIZE, 0.1),
    "half of the pixels missing": lambda: operators.inpaint_random(SIZE, 0.5, 0.02),
    "blur 1.5": lambda: operators.gaussian_blur(SIZE, 1.5, 0.02),
    "JPEG 15": lambda: operators.jpeg(SIZE, 15),
}
BEFORE = "auto, 8 samples"
MEANS = "non-local means"


def restored(name: str, y: Tensor, op: Physics, sigma: float) -> tuple[Tensor, float]:
    """The mean of the samples of a method, and the standard deviation of their pixels."""
    if name == MEANS:
        from skimage.restoration import denoise_nl_means

        array = y[0].permute(1, 2, 0).numpy()
        found = denoise_nl_means(array, 5, 7, 0.8 * sigma, sigma=sigma, fast_mode=True, channel_axis=-1)
        return torch.from_numpy(found).permute(2, 0, 1)[None].float(), float("nan")
    prior = load_prior("photos")
    solver = Solver(prior, n_samples=8) if name == BEFORE else Solver(prior, preset=name)
    with own_words_for_misfit():
        result = solver.solve(y, op, progress=False)
    return result.mean, float(result.std.square().mean().sqrt())


def methods(task: str) -> list[str]:
    """The presets, and with nothing but noise what they are compared with."""
    return [*PRESETS, *((BEFORE, MEANS) if task.startswith("noise") else ())]


def line(task: str, name: str, pictures: Sequence[Tensor]) -> str:
    """One row of the table."""
    found, op = [], TASKS[task]()
    for i, x in enumerate(pictures):
        torch.manual_seed(i)
        y, started = op(x[None]), time.process_time()
        mean, std = restored(name, y, op, 0.1)
        error = float((mean.clamp(0, 1) - x[None]).square().mean().sqrt())
        found.append((time.process_time() - started, -20 * np.log10(error), std / error))
    seconds, psnr, stated = np.mean(found, 0)
    return f"| {task} | {name} | {psnr:.2f} | {'' if np.isnan(stated) else f'{stated:.2f}'} | {seconds:.1f} |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=2)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    given = parser.parse_args(arguments)
    pictures = [middle((255 * x).round().byte(), SIZE[1]) for x in crops(None, 0, given.photos)]
    print("| task | preset | PSNR, dB | error stated | seconds |\n|---|---|---|---|---|")
    for task in given.tasks:
        for name in methods(task):
            print(line(task, name, pictures), flush=True)


if __name__ == "__main__":
    main()
