"""Fine-tune a prior that there is on pictures of your own, clean or damaged, without memorizing them.

    ambient-solve finetune --config trainers/configs/finetune.yaml --init photos --out runs/tuned
    accelerate launch trainers/finetune.py --config trainers/configs/finetune.yaml --init photos --out runs/tuned

It is `train` from the prior that --init names, whose sizes, levels and units it takes over: our own networks, pipelines
of diffusers (of pixels, of latents, of words or classes), and what `ambient-solve convert` made. Pictures for a prior
of latents are encoded once, and the corruption of the configuration, which is then noise alone, is done to the latents.
`tuning: {kind: lora}` trains matrices of low rank, which OUT/adapter keeps by themselves. OUT/prior is a prior of the
kind that --init was, and OUT/memorization.json says what it has memorized.
"""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ambient_solve.data.leaks import prior_units
from ambient_solve.distributed import choose_device
from ambient_solve.errors import AmbientSolveError
from ambient_solve.evaluate.memorization import Memorization, memorization
from ambient_solve.objectives.base import Objective
from ambient_solve.priors.base import Prior
from ambient_solve.priors.counted import CountedPrior
from ambient_solve.priors.latent import LatentPrior, is_latent
from ambient_solve.priors.load import load_prior, prior_folder
from ambient_solve.priors.network import NetworkPrior
from ambient_solve.priors.network_config import NetworkConfig, read_config_file, read_process
from ambient_solve.sampling import generate
from ambient_solve.saving import replace_text
from ambient_solve.training.card import centre
from ambient_solve.training.config import Config, DiffusionNoise
from ambient_solve.training.encoding import in_latents
from ambient_solve.training.foreign import checked_condition, condition_of, is_foreign
from ambient_solve.training.loop import train
from ambient_solve.training.sources import Data, read_data

REPORT = "memorization.json"
"""File of the report."""
SAMPLES = 64
"""Samples that the report looks at."""
PICTURES = 200
"""Training pictures, and held-out ones, that the report looks at, at most."""
STEPS = 18
"""Noise levels of these samples."""


def finetune(config: Config) -> Path:
    """Fine-tune a prior, or resume doing so; a resumed run is bit-identical to an uninterrupted one.

    Args:
        config: All of the run; `network` and what of the objective follows from the prior are taken from that.

    Returns:
        The folder of the finished prior, OUT/prior.

    Raises:
        AmbientSolveError: there is no prior to start from, or it, the settings and the data do not fit each other.
    """
    if not config.init:
        raise AmbientSolveError(
            "Fine-tuning starts from a prior: give --init photos, a folder, or a hub id; ambient-solve train starts "
            "from nothing."
        )
    config, latent = planned(config)
    out = train(config)
    if latent is not None and isinstance(latent.inner, NetworkPrior):
        LatentPrior(NetworkPrior.load(out), latent.autoencoder, latent.mean.flatten(), latent.std.flatten()).save(out)
    return out


def planned(config: Config) -> tuple[Config, LatentPrior | None]:
    """The configuration of the training, and the latent prior that it starts from, if it is one.

    Args:
        config: As the user gave it; pictures for a prior of latents are encoded here, once.

    Returns:
        Both.

    Raises:
        AmbientSolveError: see `finetune`.
    """
    folder = prior_folder(config.init)
    if is_latent(folder) or is_foreign(folder):
        prior: Any = load_prior(folder)
        latent = prior if isinstance(prior, LatentPrior) else None
        own = isinstance(getattr(prior, "inner", None), NetworkPrior)
        if latent is not None:  # before anything is encoded
            checked_condition(latent, config.objective, config.tuning.cond)
        network = prior.inner.config if own else sizes(prior if latent is None else prior.inner)
    else:
        latent, network = None, read_config_file(folder)
        if read_process(folder) is not None:
            raise AmbientSolveError(
                f"{config.init} is a prior of a soft process, whose levels mean something else: start from one of "
                "additive noise."
            )
    shown, masks = network.mask_channels, config.objective.mask_channels
    if shown > masks:
        raise AmbientSolveError(
            f"{config.init} is shown {shown} mask channels, and the objective of this run {masks}: set objective: "
            "{kind: masked}."
        )
    noise = config.noise
    if network.noise_length is not None:
        noise = DiffusionNoise("field", network.noise_length)
    network = replace(network, mask_channels=0, keep_probability=None, missing=0.0, noise_length=None)
    config = replace(config, network=network, noise=noise, objective=_fitted(config.objective, network, config.s_max))
    return (config, None) if latent is None else (in_latents(config, latent), latent)


def sizes(prior: Prior) -> NetworkConfig:
    """What a run has to know of a prior whose network is none of our own: channels, levels and units."""
    scale, offset = prior.affine or (1.0, 0.0)
    fixed = None if -1 in prior.shape else (int(prior.shape[1]), int(prior.shape[2]))
    levels = {"sigma_min": prior.sigma_min, "sigma_max": prior.sigma_max, "sigma_data": prior.sigma_data}
    return NetworkConfig(channels=prior.shape[0], size=fixed, scale=scale, offset=offset, **levels)


def _fitted(objective: Objective, network: NetworkConfig, s_max: float) -> Objective:
    """The objective with what of it follows from the prior."""
    follows = {"sigma_data": network.sigma_data, "sigma_min": network.sigma_min, "channels": network.channels}
    known = {f.name for f in fields(objective)}
    given = {name: value for name, value in {**follows, "s_max": s_max}.items() if name in known}
    return replace(objective, **given)


def memory_report(config: Config) -> Memorization | None:
    """Say what a fine-tuned prior has memorized, and write it to OUT/memorization.json.

    Args:
        config: Of the run, as the user gave it; it has finished.

    Returns:
        What was found; None where nothing was held out, less than two pictures learned from, or the prior draws
        nothing by itself, as one that is shown a measurement.
    """
    config, _ = planned(config)
    data = read_data(config, False)
    known, held_out = versions(data, config.crop)
    shown = config.objective.mask_channels and data.keep_probability(config.objective) is None
    if shown or len(known[0]) < 2 or not len(held_out[0]):
        return None
    device, cond = choose_device(), config.tuning.cond
    made: Any = [load_prior(name, device=device) for name in (Path(config.out) / "prior", config.init)]
    prior, reference = (CountedPrior(one, condition_of(one, cond)) if cond else one for one in made)
    samples = generate(prior, SAMPLES, size=config.crop, steps=STEPS, progress=False)
    found = memorization(prior, reference, samples.cpu(), known, held_out)
    replace_text(Path(config.out) / REPORT, json.dumps(found.as_row(), indent=1) + "\n")
    return found


def versions(data: Data, crop: int) -> tuple[list[Tensor], list[Tensor]]:
    """The pictures of a run as stored, and those that it holds out, the middle of each.

    Args:
        data: Of the run.
        crop: Side of the squares.

    Returns:
        Versions of what is learned from, and of what is held out, (N, C, crop, crop) each.
    """
    stored = [centre(s.z.float(), crop) for s in data.samples[:PICTURES]]
    apart = data.held_out or [s.z for s in data.held_out_noisy]
    others = [centre(prior_units(x), crop) for x in apart[:PICTURES]]
    return [torch.stack(stored)], [torch.stack(others) if others else torch.zeros(0)]
