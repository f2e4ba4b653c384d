"""Write the averaged weights of a run's latest checkpoint as a prior with its model card, into OUT/prior.

    python trainers/export.py --config trainers/configs/photos.yaml --data-root DATA --out runs/photos

The run may still be going on. The data are read again: the card holds their hash, and what was held out is measured.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.training.card import denoising_psnr, model_card
from ambient_solve.training.checkpoints import Checkpoints, put
from ambient_solve.training.config import Config, settings_of
from ambient_solve.training.holding import about_held_out, share_held_out
from ambient_solve.training.lora import ADAPTER, merge_lora, save_adapter
from ambient_solve.training.process import fitted_process
from ambient_solve.training.report import lengths
from ambient_solve.training.sources import Data, damaged_before
from ambient_solve.training.weights import starting_prior


def latest(out: Path) -> tuple[dict[str, Tensor], int, float]:
    """The averaged weights of the latest checkpoint in `out`, its step, and the seconds of training until then."""
    for _ in range(3):  # a run that goes on may replace the checkpoint in the meantime
        for folder in Checkpoints(out).all()[::-1]:
            try:
                record = json.loads((folder / "state.json").read_text())
                return load_file(folder / "ema.safetensors"), record["step"], record["seconds"]
            except FileNotFoundError:
                continue
    raise AmbientSolveError(f"{out} holds no checkpoint: give the --out of a run that has written one.")


def as_run(config: Config) -> Config:
    """`config` with the share that the run in its folder holds out, which a run of an earlier version did not."""
    path = Path(config.out) / "run.json"
    if not path.is_file():
        return config
    share = json.loads(path.read_text()).get("held_out", 0.0)
    return config if share == share_held_out(config) else replace(config, held_out=share)


def write_prior(
    config: Config, averages: dict[str, Tensor], step: int, seconds: float, data: Data, computed_in: str
) -> Path:
    """Write the prior of averaged weights, in float16, and its model card.

    Args:
        config: Of the run.
        averages: The averaged weights by name.
        step: Optimiser steps that they were trained for.
        seconds: How long that took.
        data: What they learned from.
        computed_in: The arithmetic of the network.

    Returns:
        Its folder, OUT/prior.
    """
    soft = fitted_process(config, data.samples)
    prior = starting_prior(config, data.keep_probability(config.objective), torch.device("cpu"), soft=soft)
    put(prior, averages)
    if config.tuning.kind == "lora":
        save_adapter(prior.network, Path(config.out) / ADAPTER)
        merge_lora(prior.network)
    prior.eval().requires_grad_(False)
    metrics = {} if config.objective.mask_channels else denoising_psnr(prior, data.held_out, config.crop, config)
    folder = Path(config.out) / "prior"
    card = model_card(
        config.name,
        settings_of(config),
        data.samples,
        step,
        seconds,
        metrics,
        computed_in=computed_in,
        soft=soft,
        damaged_before=damaged_before(config),
        held_out=[inventory.held_out for inventory in data.inventories],
        about_held_out=about_held_out(config, data.inventories),
        about_training=[
            f"Lengthened after step {row['step']}, from {row['images']} images to more."
            for row in lengths(Path(config.out))
        ],
    )
    prior.save(folder, card, dtype=torch.float16)
    print(f"The prior is in {folder}: ambient-solve info {folder}")
    return folder
