"""The demonstration: one photograph, damaged three ways, restored with the embedded prior, on one contact sheet."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ambient_solve.cli.flags import Device
from ambient_solve.errors import AmbientSolveError
from ambient_solve.figures.sheet import Row, contact_sheet, picture_tile, std_tile
from ambient_solve.saving import check_folder

if TYPE_CHECKING:
    from deepinv.physics import Physics
    from torch import Tensor

    from ambient_solve.priors.base import Prior
    from ambient_solve.results import Restoration

SIDE = 128
"""Side of the photograph, in pixels."""
SIGMA = 0.02
"""Noise of every damage, where pixel values go from 0 to 1."""
SHEET = "demo.png"
"""File name of the contact sheet."""
COLUMNS = ("original", "damaged", "mean", "sample 1", "sample 2", "std")
"""Headings of the contact sheet."""


@dataclass(frozen=True)
class Score:
    """One line of the demo's table; PSNR in dB. `sample` is the average over the samples, each scored by itself."""

    name: str
    psnr: dict[str, float]
    ssim: dict[str, float]
    chi2: float
    seconds: float


def photograph(side: int = SIDE) -> Tensor:
    """A portrait that scikit-image ships (NASA, public domain), averaged down to (3, side, side) in [0, 1]."""
    import torch
    from skimage import data

    x = torch.from_numpy(data.astronaut()).permute(2, 0, 1)[None].float() / 255
    # The face and the helmet; area averaging leaves no trace of the original's own noise and compression.
    return torch.nn.functional.interpolate(x[..., 0:384, 64:448], size=(side, side), mode="area")[0]


def damages(side: int = SIDE) -> list[tuple[str, Physics]]:
    """What the demo does to the photograph."""
    from ambient_solve.operators import gaussian_blur, inpaint_random, super_resolution

    size = (3, side, side)
    return [
        ("70 % of pixels missing", inpaint_random(size, missing=0.7, sigma=SIGMA)),
        ("blur of 1.5 pixels", gaussian_blur(size, width=1.5, sigma=SIGMA)),
        ("half the resolution", super_resolution(size, factor=2, sigma=SIGMA)),
    ]


def run_demo(
    prior: Prior,
    out: str | Path,
    *,
    steps: int = 25,
    n_samples: int = 4,
    seed: int = 0,
    side: int = SIDE,
    progress: bool | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[list[Score], Path]:
    """Damage a photograph three ways, restore it, score the results and draw them.

    Args:
        prior: The diffusion prior.
        out: Folder of the contact sheet, demo.png.
        steps: Noise levels, 1 or more.
        n_samples: Posterior samples of each damage, 2 or more.
        seed: Decides the noise of the damage and of the samples.
        side: Side of the photograph, in pixels.
        progress: Show progress bars; None shows them in a terminal and in a notebook.
        say: Is given the name of each damage before it is restored.

    Returns:
        The scores, and the path of the contact sheet.

    Raises:
        AmbientSolveError: there are fewer than two samples.
    """
    import torch

    from ambient_solve.evaluate.benchmark import as_picture
    from ambient_solve.solver import Solver

    if n_samples < 2:
        raise AmbientSolveError(
            f"The demo shows two samples; n_samples={n_samples} was given, 2 or more were expected."
        )
    if prior.shape[0] != 3:
        raise AmbientSolveError(
            f"The demo's photograph has 3 channels, this prior makes {prior.shape[0]}. Choose another prior."
        )
    x, solver = photograph(side), Solver(prior, steps=steps)
    scores, rows = [], []
    for name, op in damages(side):
        say(name)
        with torch.no_grad():
            clean = op.A(x[None])
            y = clean + op.noise_model.sigma * torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
        result = solver.solve(y, op, n_samples=n_samples, seed=seed, progress=progress)
        shown = as_picture(y, op)
        scores.append(_score(name, x, shown, result))
        rows.append(_row(x, shown, result, scores[-1]))
    Path(out).mkdir(parents=True, exist_ok=True)
    path = Path(out) / SHEET
    contact_sheet("ambient_solve: restorations that say how sure they are", COLUMNS, rows, side=2 * SIDE).save(path)
    return scores, path


def _score(name: str, x: Tensor, shown: Tensor, result: Restoration) -> Score:
    from ambient_solve.evaluate.metrics import Metrics

    metrics, samples = Metrics(), result.samples[0].cpu()
    pictures = {"damaged": [shown], "mean": [samples.mean(0)], "sample": list(samples)}
    found = {kind: [metrics(p, x) for p in group] for kind, group in pictures.items()}
    psnr, ssim = (
        {kind: sum(row[name] for row in rows) / len(rows) for kind, rows in found.items()} for name in ("psnr", "ssim")
    )
    return Score(name, psnr, ssim, float(result.chi2.mean()), result.seconds)


def _row(x: Tensor, shown: Tensor, result: Restoration, score: Score) -> Row:
    from ambient_solve.evaluate.metrics import psnr

    captions = {kind: f"{value:.1f} dB" for kind, value in score.psnr.items()}
    samples = result.samples[0]
    one = [f"{psnr(s.cpu().clamp(0, 1), x):.1f} dB" for s in samples[:2]]
    tiles = [
        picture_tile(x),
        picture_tile(shown, captions["damaged"]),
        picture_tile(result.mean[0], captions["mean"]),
        *(picture_tile(s, caption) for s, caption in zip(samples, one, strict=False)),
        std_tile(result.std[0]),
    ]
    return Row(
        f"{score.name[0].upper()}{score.name[1:]}, noise {SIGMA}", f"data misfit {score.chi2:.2f} (1 is right)", tiles
    )


@dataclasses.dataclass(frozen=True)
class Demo:
    """Damage a photograph three ways, restore it, and draw a contact sheet. Needs no argument and no network."""

    out: Path = Path("demo")
    """Folder of the contact sheet."""
    prior: str = "photos"
    """Embedded prior, folder, or hub id (owner/name)."""
    steps: int = 25
    """Noise levels; more is slower and usually better."""
    samples: int = 4
    """Posterior samples of each picture, at least 2."""
    seed: int = 0
    """Decides the noise of the damage and of the samples."""
    device: Device = "auto"
    """auto takes the graphics card where there is one."""

    def run(self) -> int:
        """See the class."""
        from rich.console import Console
        from rich.table import Table

        check_folder(self.out)
        from ambient_solve.priors.load import named_prior

        prior, console = named_prior(self.prior, self.device), Console()
        table = Table("damage", title="PSNR in dB / SSIM against the original; data misfit chi2 (1 is right)")
        for heading in ("damaged", "mean", "sample", "chi2", "seconds"):
            table.add_column(heading, justify="right", no_wrap=True)
        settings = {"steps": self.steps, "n_samples": self.samples, "seed": self.seed}
        say = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731
        scores, sheet = run_demo(prior, self.out, **settings, say=say)
        for s in scores:
            quality = [f"{s.psnr[kind]:.1f} / {s.ssim[kind]:.2f}" for kind in ("damaged", "mean", "sample")]
            table.add_row(s.name, *quality, f"{s.chi2:.2f}", f"{s.seconds:.1f}")
        console.print(table)
        print(f"Contact sheet: {sheet}")
        return 0
