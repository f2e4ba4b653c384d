"""`progress.png` of a run: the held-out loss so far, samples, and a held-out picture denoised at several levels."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ambient_solve.data.leaks import prior_units
from ambient_solve.figures.progress import Denoised, progress_figure
from ambient_solve.figures.sheet import picture_tile
from ambient_solve.noise import Streams
from ambient_solve.priors.base import Prior
from ambient_solve.process import Additive
from ambient_solve.training.card import centre
from ambient_solve.training.config import Config
from ambient_solve.training.schedule import steps_of
from ambient_solve.training.sources import Data

SHOWN_LEVELS = (0.1, 0.2, 0.5, 1.0, 2.0)
"""Noise levels at which a picture is shown, in units of z."""


@dataclass(frozen=True)
class Shown:
    """The held-out picture as it is stored (H, W, 3) uint8, its caption, it at each noise level, and what those are."""

    picture: np.ndarray | None = None
    caption: str = ""
    levels: Sequence[Denoised] = field(default_factory=tuple)
    note: str = ""


@torch.no_grad()
def denoised_picture(prior: Prior, config: Config, data: Data) -> Shown:
    """The first held-out picture, a clean one where there is any, noisy and denoised; the same noise each time.

    Args:
        prior: The prior to judge.
        config: Of the run.
        data: With what is held out.

    Returns:
        What to show; nothing of a prior that is shown masks, nor where no whole picture is held out.
    """
    whole = [s for s in data.held_out_noisy if s.mask is None or bool(s.mask.all())]
    if config.objective.mask_channels or not (data.held_out or whole) or config.network.channels > 3:
        return Shown()
    if not (data.held_out or isinstance(prior.process, Additive)):
        return Shown()  # a damaged sample may be no state of a soft process
    noise = 0.0 if data.held_out else whole[0].sigma_noise
    stored = centre(prior_units(data.held_out[0] if data.held_out else whole[0].z), config.crop)[None].to(prior.device)
    fresh, levels = Streams([0], 1, prior.device).normal(stored), []
    for level in SHOWN_LEVELS:
        if not max(noise, prior.sigma_min) <= level <= prior.sigma_max:
            continue
        noisy = prior.process.perturb(stored, math.sqrt(level**2 - noise**2), fresh)
        clean = prior.denoise(noisy, level)
        captions = ("noisy", "denoised")
        if data.held_out:
            captions = tuple(f"{k}, {_psnr(z, stored):.1f} dB" for k, z in zip(captions, (noisy, clean), strict=True))
        levels.append(Denoised(f"noise {level:g}", _array(prior, noisy), _array(prior, clean), captions))
    units = "noise levels in units of [-1, 1] pictures"
    if data.held_out:
        return Shown(_array(prior, stored), "clean", levels, f"{units}; dB: PSNR against the clean one")
    return Shown(_array(prior, stored), f"as stored, noise {noise:g}", levels, units)


def write_progress(path: Path, config: Config, samples: Tensor | None, shown: Shown) -> None:
    """Draw what the statistics of a run hold until now.

    Args:
        path: The file; stats.jsonl lies beside it.
        config: Of the run.
        samples: (N, C, H, W) in [0, 1], if there are any.
        shown: The held-out picture.
    """
    rows = [json.loads(line) for line in (path.parent / "stats.jsonl").read_text().splitlines()]
    heading, curves = loss_curves(rows)
    done = rows[-1]["step"]
    image = progress_figure(
        f"{config.name}: step {done} of {steps_of(config)}, {rows[-1]['images']} images",
        heading,
        curves,
        [] if samples is None else [picture_tile(x).picture for x in samples],
        shown.picture,
        shown.caption,
        shown.levels,
        shown.note,
    )
    part = path.with_name(f"{path.stem}.part{path.suffix}")
    image.save(part)
    part.replace(path)


def loss_curves(rows: Sequence[dict]) -> tuple[str, dict[str, list[tuple[float, float]]]]:
    """What to draw of the rows of stats.jsonl: of clean held-out pictures, else of noisy ones, else of training.

    Args:
        rows: Of the file.

    Returns:
        A heading, and (images, loss) by noise level, the lowest first.
    """
    measured = [row for row in rows if row.get("held out")]
    names = {name for row in measured for name in row["held out"]}
    clean = {name for name in names if not name.startswith("noisy ")}
    heading, key = "Held-out loss by noise level" + ("" if clean else ", of damaged pictures"), "held out"
    if not names:
        heading, key, measured = "Training loss by noise level (nothing is held out)", "buckets", rows
        names = {name for row in rows for name in row[key]}
    names = clean or names
    order = sorted(names, key=lambda name: (float(name.split()[-1].strip("<=>")), name.startswith(">")))
    return heading, {
        name.removeprefix("noisy "): [(row["images"], row[key][name]) for row in measured if name in row[key]]
        for name in order
    }


def _psnr(z: Tensor, clean: Tensor) -> float:
    return float(10 * torch.log10(4 / (z - clean).square().mean()))  # z is in [-1, 1]: its peak is 2


def _array(prior: Prior, z: Tensor) -> np.ndarray:
    """One state (1, C, H, W) as it is shown, (H, W, 3) uint8; of a complex picture the magnitude."""
    x = prior.decode(z)[0].float()
    return picture_tile(x.square().sum(0, keepdim=True).sqrt() if len(x) == 2 else x).picture
