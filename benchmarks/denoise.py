"""A prior as a plain denoiser: the PSNR of one call on every photograph of a folder or a pack, at known noise levels.

    python benchmarks/denoise.py FOLDER
    python benchmarks/denoise.py PACK.npz --priors photos runs/photos/prior --last 20

Noise is white, Gaussian, and not clipped; its deviation is given in units of 255. Picture i has the same noise each
time, scaled to the level, whichever prior is measured. The result is clipped to [0, 1] and not rounded.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ambient_solve import load_prior
from ambient_solve.data.images import read_images
from ambient_solve.noise import Streams
from ambient_solve.priors.base import Prior
from ambient_solve.priors.network import pad_to

LEVELS = (15.0, 25.0, 50.0)
"""Deviations of the noise, of 255."""
STRIDE = 16
"""Sides are padded to multiples of this number, by reflection."""


@torch.no_grad()
def psnr(prior: Prior, x: Tensor, level: float, seed: int) -> float:
    """PSNR in dB of one denoised picture.

    Args:
        prior: Anything that denoises pictures of this many channels.
        x: The clean picture, float (C, H, W) in [0, 1].
        level: Deviation of the noise, of 255.
        seed: Decides the noise.
    """
    height, width = x.shape[-2:]
    y = x[None] + level / 255 * Streams([seed], 1).normal(x[None])
    # `encode` takes x to z = (x - offset) / scale: noise grows as a picture's contrast does.
    ends = prior.encode(torch.stack([torch.zeros_like(x), torch.ones_like(x)]).to(prior.device))
    scale = float((ends[1] - ends[0]).mean())
    z = prior.denoise(prior.encode(pad_to(y, STRIDE).to(prior.device)), scale * level / 255)
    found = prior.decode(z)[0, :, :height, :width].clamp(0, 1).cpu()
    return float(-10 * (found - x).square().mean().log10())


def averages(prior: Prior, pictures: Iterable[Tensor], levels: Sequence[float] = LEVELS) -> list[float]:
    """Mean PSNR of uint8 pictures (C, H, W) at each level; picture i has the noise of seed i."""
    rows = [[psnr(prior, x.float() / 255, level, i) for level in levels] for i, x in enumerate(pictures)]
    return torch.tensor(rows, dtype=torch.float64).mean(0).tolist()


def table(rows: dict[str, Sequence[float]], levels: Sequence[float], pictures: int) -> str:
    """Markdown: a row for each prior, a column for each level."""
    head = [f"PSNR in dB, {pictures} pictures", *(f"{level:g} / 255" for level in levels)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(
        lines + [f"| {name} | " + " | ".join(f"{v:.2f}" for v in row) + " |" for name, row in rows.items()]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path, help="a folder of photographs, or an .npz pack")
    parser.add_argument("--priors", nargs="+", default=["photos"], help="embedded names, folders, or hub ids")
    parser.add_argument("--levels", nargs="+", type=float, default=list(LEVELS), metavar="SIGMA", help="of 255")
    parser.add_argument("--last", type=int, default=0, help="only this many pictures, the last ones; 0 is all")
    args = parser.parse_args(arguments)
    priors = {name: load_prior(name) for name in args.priors}
    channels = {prior.shape[0] for prior in priors.values()}
    if len(channels) > 1:
        parser.error(f"the priors have {sorted(channels)} channels; compare those of one number.")
    pictures = [picture for _, picture in read_images(args.pictures, channels.pop())]
    pictures = pictures[-args.last :] if args.last else pictures
    rows = {name: averages(prior, tqdm(pictures, name), args.levels) for name, prior in priors.items()}
    print(table(rows, args.levels, len(pictures)))


if __name__ == "__main__":
    main()
