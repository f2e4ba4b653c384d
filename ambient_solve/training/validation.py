"""How good a prior is while it trains, on pictures it never saw: loss by noise level, and a sheet of samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor
from torchvision.utils import make_grid, save_image

from ambient_solve.data.annotation import admitted
from ambient_solve.data.leaks import prior_units
from ambient_solve.data.sample import Sample
from ambient_solve.noise import Streams
from ambient_solve.objectives.base import Batch
from ambient_solve.objectives.denoise import buffer
from ambient_solve.priors.ambient import AmbientPrior
from ambient_solve.priors.base import Prior
from ambient_solve.priors.field import FieldPrior
from ambient_solve.process import Additive
from ambient_solve.sampling import generate
from ambient_solve.training.card import centre
from ambient_solve.training.config import Config, diffusion_streams, law_of
from ambient_solve.training.sources import Data

LEVELS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Noise levels of the held-out loss, in units of z."""
PICTURES = 64
"""Held-out pictures that are denoised, at most."""
SAMPLES = 16
"""Samples on the sheet of a validation."""
STEPS = 20
"""Noise levels of their reverse process."""


@torch.no_grad()
def held_out_loss(prior: Prior, config: Config, data: Data) -> dict[str, float]:
    """Mean loss on held-out samples at each of LEVELS; the same pictures and noise each time.

    A mask-conditioned denoiser is given masks of training samples. Where noisy samples are held out, the loss of
    training on them is there too, as "noisy LEVEL", at the levels at which they may be used: it falls and rises with
    the error of the denoiser, and holds what noise adds to its target besides.

    Args:
        prior: The prior to judge.
        config: Configuration of the training.
        data: The samples, those held out among them.

    Returns:
        Loss by level; empty where nothing is held out.
    """
    return _clean_loss(prior, config, data) | _noisy_loss(prior, config, data.held_out_noisy[:PICTURES])


def _noisy_loss(prior: Prior, config: Config, samples: Sequence[Sample]) -> dict[str, float]:
    found, crop = {}, config.crop
    objective = config.objective.of_process(prior.process).of_data()
    mask_channels = max((len(s.mask) for s in samples if s.mask is not None), default=0)
    for level in LEVELS if samples else ():
        at = [
            (i, s)
            for i, s in enumerate(samples)
            if admitted(level, s.sigma_noise, s.sigma_min, s.sigma_max, buffer(config.s_max))
        ]
        if not at or not prior.sigma_min <= level <= prior.sigma_max:
            continue
        losses = []
        for start in range(0, len(at), config.batch):
            rows = at[start : start + config.batch]
            own = [s for _, s in rows]
            batch = Batch(
                torch.stack([centre(s.z, crop).float() for s in own]),
                torch.full((len(own),), level),
                *(torch.tensor([getattr(s, k) for s in own]) for k in ("sigma_noise", "sigma_min", "sigma_max")),
                torch.stack([_mask(s, crop, mask_channels) for s in own]) if mask_channels else None,
                torch.stack([s.signs.float() for s in own]) if own[0].signs is not None else None,
                torch.stack([s.maps for s in own]) if own[0].maps is not None else None,
                torch.tensor([s.blur for s in own]) if any(s.blur for s in own) else None,
            )
            losses.append(objective.loss(prior, batch.to(prior.device), Streams([i for i, _ in rows], 1)))
        found[f"noisy {level:g}"] = float(torch.cat(losses).mean())
    return found


def _clean_loss(prior: Prior, config: Config, data: Data) -> dict[str, float]:
    if not data.held_out:
        return {}
    z = torch.stack([centre(prior_units(p), config.crop) for p in data.held_out[:PICTURES]])
    incomplete = [s for s in data.samples if s.mask is not None][: len(z)]
    masked = (
        config.objective.mask_channels and incomplete and all(s.maps is None and s.signs is None for s in incomplete)
    )
    masks = None
    if masked:
        masks = torch.stack(
            [_mask(incomplete[i % len(incomplete)], config.crop, config.objective.mask_channels) for i in range(len(z))]
        )
    found, objective = {}, config.objective.of_process(prior.process)
    for level in LEVELS:
        if not prior.sigma_min <= level <= prior.sigma_max:
            continue
        losses = []
        for rows in torch.arange(len(z)).split(config.batch):
            zero = torch.zeros(len(rows))
            clean = Batch(z[rows], zero + level, zero, zero, zero, None if masks is None else masks[rows])
            streams = diffusion_streams(config, Streams(rows.tolist(), 1))
            losses.append(objective.held_out(prior, clean.to(prior.device), streams))
        found[f"{level:g}"] = float(torch.cat(losses).mean())
    return found


def _mask(sample: Sample, crop: int, mask_channels: int) -> Tensor:
    mask = torch.ones(1, *sample.z.shape[-2:]) if sample.mask is None else sample.mask
    return centre(mask, crop).float().expand(mask_channels, -1, -1)


def sample_sheet(prior: Prior, config: Config, path: Path, accelerator: Accelerator) -> Tensor | None:
    """Write SAMPLES samples of a prior as one picture, and log it to TensorBoard; the same seeds each time.

    Args:
        prior: The prior.
        config: Configuration of the training.
        path: The file to write.
        accelerator: Where the trackers are.

    Returns:
        The samples, (SAMPLES, C, crop, crop) in [0, 1]; None where none can be drawn or shown.
    """
    keep_probability = getattr(getattr(prior, "config", None), "keep_probability", None)
    if config.network.channels not in (1, 3) or (config.objective.mask_channels and keep_probability is None):
        return None
    prior = (
        AmbientPrior(prior, keep_probability, mask_channels=config.objective.mask_channels)
        if keep_probability
        else prior
    )
    order = 2 if isinstance(prior.process, Additive) else 1
    law = law_of(config)
    prior = prior if law is None else FieldPrior(prior, law)
    z = generate(prior, SAMPLES, size=config.crop, steps=STEPS, order=order, batch=SAMPLES, progress=False)
    x = prior.decode(z).clamp(0, 1)
    if not accelerator.is_main_process:
        return x
    save_image(x, path, nrow=4)
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard":
            tracker.log_images({"samples": make_grid(x, nrow=4)[None]}, step=int(path.stem.split("-")[-1]))
    return x
