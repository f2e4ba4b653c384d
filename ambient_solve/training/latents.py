"""Encode a set of pictures once: latents in files, normalised per channel, which the training loop reads as its data.

    python trainers/latents.py --data faces.npz --autoencoder taef2.safetensors --out runs/faces-latents
    python trainers/train.py --config trainers/configs/faces_latent.yaml --data-root runs --out runs/faces-latent

The training then never calls the encoder. Latents of a mirrored picture are no mirrored latents: the configuration
says `mirror: false`, and `mirror` here encodes every picture both ways.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ambient_solve.data.captions import read_captions
from ambient_solve.data.corruption import MANIFEST
from ambient_solve.data.images import read_images, shuffled
from ambient_solve.errors import AmbientSolveError
from ambient_solve.priors.autoencoder import AUTOENCODER, TAEF2
from ambient_solve.priors.latent import LatentPrior, read_code, write_code
from ambient_solve.priors.network import NetworkPrior
from ambient_solve.saving import replace_text, save_tensors

STATISTICS = 256
"""Pictures by which the channels are normalised."""
MIRRORED = ", mirrored"
"""Behind the name of a picture that was mirrored."""
LARGEST = 8
"""Largest number by which pictures are enlarged."""
BATCH = 8
"""Pictures that are encoded together."""


@torch.no_grad()
def encode_pictures(
    data: str,
    autoencoder: str | Path,
    out: str | Path,
    *,
    limit: int = 0,
    seed: int = 0,
    mirror: bool = False,
    enlarge: int = 1,
    captions: str = "",
    template: str = "{}",
) -> int:
    """Write the latents of pictures into a folder that `corrupted:OUT` reads; an interrupted call goes on.

    Args:
        data: Pictures, as `data.images.read_images` takes them, whose sides are multiples of 8; one size each.
        autoencoder: The weights of TAEF2.
        out: The folder, made where it is missing.
        limit: At most this many pictures, the first ones after `shuffled(pictures, seed)`; 0 is all.
        seed: Of their order.
        mirror: Whether each picture is encoded mirrored, too.
        enlarge: What both sides are multiplied by first: an autoencoder of large pictures loses most of small ones.
        captions: Text file of what the pictures show, as `data.captions.read_captions` takes it; none by default.
        template: What a line of it becomes, with {} in its place.

    Returns:
        How many latents there are.

    Raises:
        AmbientSolveError: the pictures or the weights cannot be read or used.
    """
    out, coder = Path(out), TAEF2.load(autoencoder)
    if (out / MANIFEST).is_file():
        raise AmbientSolveError(f"{out} already holds a data set: choose another folder.")
    out.mkdir(parents=True, exist_ok=True)
    if not 1 <= enlarge <= LARGEST:
        raise AmbientSolveError(f"enlarge={enlarge} was given; a whole number from 1 to {LARGEST} was expected.")
    pictures = list(read_images(data))
    words = read_captions(captions, data, [name for name, _ in pictures], template) if captions else None
    known = {} if words is None else {name: text for (name, _), text in zip(pictures, words, strict=True)}
    pictures = [(name, _enlarged(x, enlarge)) for name, x in shuffled(pictures, seed)[: limit or None]]
    uneven = next((name for name, x in pictures if any(n % coder.factor for n in x.shape[1:])), None)
    if uneven is not None:
        raise AmbientSolveError(f"{uneven}: the sides of the pictures must be multiples of {coder.factor}.")
    if not (out / AUTOENCODER).is_file():
        mean, std = _statistics(coder, pictures[:STATISTICS])
        write_code(out, mean, std)
        save_tensors({k: v.half() for k, v in coder.state_dict().items()}, out / AUTOENCODER)
    mean, std = (numbers[:, None, None] for numbers in read_code(out))
    views = list(_views(pictures, mirror))
    todo = [i for i in range(len(views)) if not (out / _file(i)).is_file()]
    for start in tqdm(range(0, len(todo), BATCH), desc="latents"):
        part = todo[start : start + BATCH]
        latents = coder.encode(torch.stack([_floats(*views[i][1:]) for i in part]))
        for i, z in zip(part, (latents - mean) / std, strict=True):
            save_tensors({"z": z.half().contiguous()}, out / (_file(i) + ".part"))
            os.replace(out / (_file(i) + ".part"), out / _file(i))
    rows = [{"file": _file(i), "name": name, "sigma_noise": 0.0} for i, (name, _, _) in enumerate(views)]
    for row, (name, _, _) in zip(rows, views, strict=True):
        row |= {"caption": known[name.removesuffix(MIRRORED)]} if known else {}
    replace_text(out / MANIFEST, "".join(json.dumps(row) + "\n" for row in rows))
    return len(views)


def assemble(prior: str | Path, latents: str | Path, card: str = "") -> LatentPrior:
    """A prior trained on latents, with their autoencoder, in one folder that `load_prior` reads.

    Args:
        prior: Folder of the finished prior, to which the autoencoder is added.
        latents: Folder that `encode_pictures` wrote.
        card: Text of the model card; by default it stays as it is.

    Returns:
        The latent prior, on the CPU.
    """
    folder, mean_std = Path(prior), read_code(Path(latents))
    made = LatentPrior(NetworkPrior.load(folder), TAEF2.load(latents), *mean_std)
    made.save(folder, card)
    return LatentPrior.load(folder)


def _views(pictures: Sequence[tuple[str, Tensor]], mirror: bool) -> Iterator[tuple[str, Tensor, bool]]:
    for name, picture in pictures:
        yield name, picture, False
        if mirror:
            yield f"{name}{MIRRORED}", picture, True


def _enlarged(picture: Tensor, by: int) -> Tensor:
    """A picture, uint8 (C, H, W), with both sides multiplied."""
    if by == 1:
        return picture
    x = torch.nn.functional.interpolate(picture[None].float(), scale_factor=by, mode="bicubic", antialias=True)
    return x[0].round().clamp(0, 255).byte()


def _floats(picture: Tensor, mirrored: bool) -> Tensor:
    x = picture.float() / 255
    return x.flip(-1) if mirrored else x


def _statistics(coder: TAEF2, pictures: Sequence[tuple[str, Tensor]]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, (C,) each."""
    batches: Any = (pictures[i : i + BATCH] for i in range(0, len(pictures), BATCH))
    found = torch.cat(
        [coder.encode(torch.stack([_floats(x, False) for _, x in batch])).flatten(2) for batch in batches]
    )
    entries = found.transpose(0, 1).flatten(1)
    return entries.mean(1), entries.std(1)


def _file(index: int) -> str:
    return f"{index:06d}.safetensors"
