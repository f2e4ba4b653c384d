"""The model card: what a prior was trained on, how damaged that was, and how well it denoises."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ambient_solve.data.corruption import fingerprint, levels_in_two_units
from ambient_solve.data.leaks import prior_units
from ambient_solve.data.sample import Sample
from ambient_solve.data.units import SCALE
from ambient_solve.noise import Streams
from ambient_solve.priors.base import Prior
from ambient_solve.process import Additive, SoftSettings

PATHS = ("source", "sources", "coils_of")
"""Settings that are paths, which a model card does not show in full."""
CARD_LEVELS = (0.05, 0.1, 0.2, 0.4, 1.0, 2.0)
"""Noise levels of the losses on the model card, in `z` units."""


@torch.no_grad()
def denoising_psnr(prior: Prior, pictures: Sequence[Tensor], crop: int) -> dict[float, tuple[float, float]]:
    """How well a prior denoises clean pictures.

    Args:
        prior: An unconditional prior.
        pictures: (C, H, W), uint8 or floats in the units of the prior.
        crop: Side in pixels of the central square that is used.

    Returns:
        For each level of the process, in units of z: mean PSNR in dB of the states and of the denoised pictures.
    """
    if not pictures:
        return {}
    clean = torch.stack([centre(prior_units(p), crop) for p in pictures])
    clean = clean.to(prior.device)
    table = {}
    additive = isinstance(prior.process, Additive)
    for sigma in CARD_LEVELS:
        if not (additive or prior.sigma_min <= sigma <= prior.sigma_max):
            continue
        noisy = prior.process.perturb(clean, sigma, Streams(range(len(clean)), 1, prior.device).normal(clean))
        table[sigma] = tuple(_psnr(z, clean) for z in (noisy, prior.denoise(noisy, sigma)))
    return table


def centre(picture: Tensor, crop: int) -> Tensor:
    """The square in the middle of a picture.

    Args:
        picture: (C, H, W).
        crop: Side of the square, at most H and W.

    Returns:
        (C, crop, crop).
    """
    top, left = ((n - crop) // 2 for n in picture.shape[-2:])
    return picture[:, top : top + crop, left : left + crop]


def _psnr(z: Tensor, clean: Tensor) -> float:
    # The range of z is [-1, 1], so the peak is 2.
    return float((10 * torch.log10(4 / (z - clean).square().flatten(1).mean(1))).mean())


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _noise(samples: Sequence[Sample]) -> str:
    """The noise of samples of one damage in both units, as two cells; complex pictures have one unit."""
    levels = [s.sigma_noise for s in samples]
    halves = _range([level / SCALE for level in levels]) if levels_in_two_units(samples[0].z) else "-"
    return f"{halves} | {_range(levels)}"


def _usable(samples: Sequence[Sample]) -> str:
    """The levels at which samples of one damage may be used, in words."""
    above = [max(s.sigma_min, s.sigma_noise) for s in samples if s.sigma_max <= s.sigma_min < math.inf]
    below = [s.sigma_max for s in samples if 0 < s.sigma_max <= s.sigma_min]
    if len(above) < len(samples) and not below:
        above += [s.sigma_noise for s in samples if s.sigma_max > s.sigma_min]
    words = {"above": above if any(above) else [], "below": below}
    return " or ".join(f"{word} {_range(levels)}" for word, levels in words.items() if levels) or "all"


def _observed(samples: Sequence[Sample]) -> str:
    shares = [1.0 if s.mask is None else float(s.mask.float().mean()) for s in samples]
    return f"{100 * sum(shares) / len(shares):.0f} %"


def _shrink(source: dict[str, Any], before: Mapping[str, dict[str, Any]]) -> Any:
    """What the sides were divided by, be it before the run."""
    return before[source["path"]].get("shrink", "not recorded") if source["path"] in before else source["shrink"]


def _lines_of(path: str, found: dict[str, Any]) -> list[str]:
    """What is recorded of a source that was damaged before the run."""
    if not found:
        return [f"`{path}` was damaged before this run; how is not recorded.", ""]
    return [f"`{path}` was damaged before this run, as recorded there:", "", "```json", json.dumps(found), "```", ""]


def _without_folders(found: dict[str, Any]) -> dict[str, Any]:
    """A record without the folders of the machine that it was made on."""
    short = lambda path: path.replace("\\", "/").rstrip("/").rpartition("/")[2]  # noqa: E731
    return {
        key: short(value)
        if key in PATHS and isinstance(value, str)
        else [short(str(v)) for v in value]
        if key in PATHS and isinstance(value, list)
        else value
        for key, value in found.items()
    }


def _process(soft: SoftSettings) -> list[str]:
    """What the card of a soft prior says of its process."""
    return [
        f"**Its forward process is soft**, not additive noise: `C_t z0 + sigma n`, C_t a {soft.family} whose strength "
        f"grows from 0 at sigma {soft.lowest:g} to {soft.strongest:g} at sigma {soft.highest:g} (curve "
        f"{soft.curve:g}). It samples with `generate(prior, n, order=1)`, and of the algorithms it has `soft` alone, "
        "for measurements that are states of that process.",
        "",
    ]


def model_card(
    name: str,
    settings: dict[str, Any],
    samples: Sequence[Sample],
    steps: int,
    seconds: float,
    metrics: dict[float, tuple[float, float]],
    *,
    computed_in: str = "",
    soft: SoftSettings | None = None,
    damaged_before: Mapping[str, dict[str, Any]] | None = None,
    held_out: Sequence[int] = (),
    about_held_out: str = "",
    about_training: Sequence[str] = (),
) -> str:
    """The README.md of a prior, in Hugging Face's form.

    Args:
        name: What it is called.
        settings: All of the run's.
        samples: What it learned from.
        steps: Optimiser steps of the training.
        seconds: How long it took.
        metrics: What `denoising_psnr` found; empty where nothing was measured.
        computed_in: The arithmetic of the network.
        soft: Its forward process, where that is no additive noise.
        damaged_before: Of each source, by its path, that was damaged before the run: what is recorded of that, see
            `corruption.read_settings`. The run's own corruption was not applied to it.
        held_out: Pictures of each source that are held out, where the settings do not say.
        about_held_out: A sentence on how they were chosen.
        about_training: Sentences on how the training went.

    Returns:
        Markdown, with a header in YAML.
    """
    kinds: dict[str, list[Sample]] = {}
    for sample in samples:
        kinds.setdefault(sample.damage, []).append(sample)
    before = {path: _without_folders(found) for path, found in (damaged_before or {}).items()}
    used = {k: v for k, v in settings.items() if k not in ("out", "data_root", "dry_run")}
    if all(s["path"] in before for s in settings["sources"]):
        used.pop("corruption", None)  # none of it was applied
    apart = held_out or [s["held_out"] for s in settings["sources"]]
    lines = [
        "---",
        "library_name: ambient_solve",
        "tags: [diffusion, prior, inverse-problems, ambient-diffusion]",
        "---",
        f"# {name}",
        "",
        "A diffusion prior for `ambient_solve`: `load_prior(folder)`, then `Solver(prior).solve(y, op)`.",
        "",
        *(_process(soft) if soft is not None else ()),
        "## Data",
        "",
        "| source | share of samples drawn | sides divided by | held out | terms |",
        "|---|---|---|---|---|",
        *(
            f"| {s['path']} | {s['share']} | {_shrink(s, before)} | {number} | {s['terms']} |"
            for s, number in zip(settings["sources"], apart, strict=True)
        ),
        "",
        *([about_held_out, ""] if about_held_out else []),
        *(line for path, found in before.items() for line in _lines_of(path, found)),
        "Damage, done once before training; noise where pixel values go from 0 to 1, and in units of the prior:",
        "",
        "| damage | noise, 0 to 1 | noise, prior | observed, of all entries | used at levels, prior | pictures |",
        "|---|---|---|---|---|---|",
        *(
            f"| {kind} | {_noise(own)} | {_observed(own)} | {_usable(own)} | {len(own)} |"
            for kind, own in sorted(kinds.items())
        ),
        "",
        f"Hash of the damaged data: `{fingerprint(samples)}`.",
        "",
        "## Training",
        "",
        f"{steps} steps of {settings['batch']} samples, seed {settings['seed']}, {seconds:.0f} seconds"
        f"{f', the network in {computed_in}' if computed_in else ''}. Written by `trainers/train.py` with:",
        "",
        *(line for sentence in about_training for line in (sentence, "")),
        *([f"The weights started from those of `{settings['init']}`.", ""] if settings.get("init") else []),
        "```json",
        json.dumps(used, indent=1),
        "```",
    ]
    if metrics:
        lines += [
            "",
            "## Denoising of held-out clean pictures",
            "",
            "| sigma | noisy, dB | denoised, dB |",
            "|---|---|---|",
            *(f"| {sigma} | {noisy:.2f} | {denoised:.2f} |" for sigma, (noisy, denoised) in metrics.items()),
        ]
    lines += [
        "",
        "## Limits",
        "",
        "What the data did not hold, the prior invents: look at the standard deviation, and at the data misfit, "
        "before you believe a detail.",
        "",
        *([settings["note"], ""] if settings.get("note") else []),
    ]
    return "\n".join(lines)
