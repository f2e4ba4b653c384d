"""Pictures as what a prior of latents learns: encoded once by its own autoencoder, noisy once, stored."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import PartialState
from torch import Tensor
from tqdm import tqdm

from ambient_solve.data.corruption import LEVELS, MANIFEST
from ambient_solve.errors import AmbientSolveError
from ambient_solve.priors.latent import LatentPrior
from ambient_solve.resume import remember
from ambient_solve.saving import replace_text, save_tensors
from ambient_solve.training.config import Config, Source
from ambient_solve.training.sources import listing, pictures_of

BATCH = 8
"""Pictures between two steps of the progress bar."""


def in_latents(config: Config, prior: LatentPrior) -> Config:
    """The configuration of a training on latents; the pictures are encoded into OUT/latents-I first, once.

    Args:
        config: Of pictures; `crop` is in pixels. Sources of `corrupted:` hold latents already.
        prior: The prior.

    Returns:
        The configuration, whose crop is in places of latents and whose sources are these folders.

    Raises:
        AmbientSolveError: a damage that is no noise, or a crop that is no multiple of the autoencoder's factor.
    """
    factor = prior.autoencoder.factor
    wrong = next((d.name for d in config.corruption.damages if d.name != "noise"), None)
    if wrong and config.corruption.clean_share < 1:
        raise AmbientSolveError(
            f"The damage {wrong} is one of pixels, and this prior learns latents: damages of latents are noise alone."
        )
    if config.crop % factor:
        raise AmbientSolveError(f"crop = {config.crop} must be a multiple of {factor}, the factor of the autoencoder.")
    sources = []
    with PartialState().main_process_first():
        for i, source in enumerate(config.sources):
            if source.path.startswith("corrupted:"):
                sources.append(source)
                continue
            place = (Path(config.out) / f"latents-{i}").resolve()
            _encode(config, prior, source, place)
            kept = {"share": source.share, "held_out": source.held_out, "terms": source.terms}
            sources.append(Source(f"corrupted:{place}", **kept))
    return replace(config, sources=tuple(sources), crop=config.crop // factor, mirror=False, duplicates=False)


@torch.no_grad()
def _encode(config: Config, prior: LatentPrior, source: Source, folder: Path) -> None:
    """Write the damaged latents of a source, those that are held out clean and last; an interrupted call goes on."""
    if (folder / MANIFEST).is_file():
        return
    colors = replace(config, network=replace(config.network, channels=prior.autoencoder.pictures))
    pictures = pictures_of(source, colors, [])
    keep = len(pictures) - source.held_out
    views = list(_views(pictures, keep, config.mirror))
    trained = keep * (2 if config.mirror else 1)
    plan, name = config.corruption.plan(trained), listing(source, config)
    folder.mkdir(parents=True, exist_ok=True)
    made = {"corruption": config.corruption.settings, "source": name, "mirror": config.mirror, "total": len(views)}
    remember(folder / "corruption.json", made, any(folder.glob("*.safetensors")))
    rows = []
    for start in tqdm(range(0, len(views), BATCH), desc=f"latents of {source.path}"):
        for i, z in enumerate(_latents(prior, [x for _, x in views[start : start + BATCH]]), start):
            damage = plan[i] if i < trained else None
            sample = config.corruption.damaged(views[i][0], z, i, damage, name)
            file = f"{i:06d}.safetensors"
            save_tensors({"z": sample.z.contiguous()}, folder / file)
            row = {"file": file, "name": sample.name, "damage": sample.damage}
            rows.append(json.dumps(row | {level: getattr(sample, level) for level in LEVELS}) + "\n")
    replace_text(folder / MANIFEST, "".join(rows))


def _views(pictures: list[tuple[str, Tensor]], keep: int, mirror: bool) -> Iterator[tuple[str, Tensor]]:
    """Pictures as they are encoded: those to learn from mirrored too, as latents cannot be mirrored."""
    for i, (name, picture) in enumerate(pictures):
        yield name, picture
        if mirror and i < keep:
            yield f"{name}, mirrored", picture.flip(-1)


def _latents(prior: LatentPrior, pictures: list[Tensor]) -> Iterator[Tensor]:
    """The latents of pictures (C, H, W), whose sides are cut to multiples of the autoencoder's factor."""
    factor = prior.autoencoder.factor
    for picture in pictures:
        height, width = (n - n % factor for n in picture.shape[1:])
        x = picture[:, :height, :width].float()[None] / 255
        yield prior.encode(x.to(prior.device))[0].cpu()
