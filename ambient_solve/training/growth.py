"""More residual blocks for a trained U-Net: the larger network computes at first what the smaller one did."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ambient_solve.priors.network_config import NetworkConfig
from ambient_solve.priors.unet import Block


def deepened(network: nn.Module, saved: dict[str, Tensor], before: NetworkConfig, after: NetworkConfig) -> None:
    """Fill `network` with the weights `saved`, and make the blocks that it has more than those had the identity.

    Args:
        network: The U-Net of `after`, new: the second convolution of each of its blocks is zero.
        saved: The weights of the U-Net of `before`.
        before: As `after`, with at most as many blocks at each level.
        after: What `network` was made of.
    """
    weights = network.state_dict()
    weights |= {k: v for k, v in saved.items() if k.split(".")[0] not in ("down", "up")}
    for part in ("down", "up"):
        old = {place: i for i, place in enumerate(_places(part, before))}
        for i, place in enumerate(_places(part, after)):
            if place in old:
                prefix = f"{part}.{old[place]}."
                weights |= {f"{part}.{i}.{k[len(prefix) :]}": v for k, v in saved.items() if k.startswith(prefix)}
    network.load_state_dict(weights)
    kept = set(_places("up", before))
    for layer, place in zip(network.up, _places("up", after), strict=True):
        if place not in kept and isinstance(layer, Block):
            _pass_on(layer)


def _places(part: str, config: NetworkConfig) -> list[tuple[int, str]]:
    """(level, what) of each layer of `part`, as `UNet` makes them.

    On the way down new blocks come last. On the way up the first block stays the first, since it takes what the coarser
    level gives; its skip comes from the last block down, and new ones there change nothing. The others are named by the
    block down from which their skip comes, -1 for the level's entry.
    """
    levels = list(enumerate(config.depths))
    places = []
    for level, blocks in levels if part == "down" else reversed(levels):
        resample = [(level, "resample")] * (level > 0)
        if part == "down":
            places += resample + [(level, f"block {i}") for i in range(blocks)]
        else:
            places += [(level, "first"), *((level, f"skip {i}") for i in range(blocks - 2, -2, -1))] + resample
    return places


@torch.no_grad()
def _pass_on(block: Block) -> None:
    """Make a new block the identity on the first of its channels, those that do not come from a skip."""
    width = block.skip.weight.shape[0]
    block.skip.weight.zero_()
    block.skip.weight[:, :width, 0, 0] = torch.eye(width)
    block.skip.bias.zero_()
