"""conditioning.json in the folder of a prior of others: the channels that fine-tuning has widened its input by."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from ambient_solve.errors import AmbientSolveError
from ambient_solve.reading.limits import read_json

CONDITIONING = "conditioning.json"
"""The file."""
MOST = 1025
"""Most channels that a picture is shown beside."""


@final
@dataclass(frozen=True)
class Conditioning:
    """What a network is shown beside its input.

    Attributes:
        mask_channels: How many channels; 0 is none.
        keep_probability: Share in (0, 1] of the pixels that training showed it, where they are masks; else None.
    """

    mask_channels: int = 0
    keep_probability: float | None = None

    def write(self, folder: Path) -> None:
        """Write the file into a folder; nothing where there is nothing to say."""
        if self.mask_channels:
            (folder / CONDITIONING).write_text(json.dumps(asdict(self), indent=1) + "\n")


NONE = Conditioning()
"""A network is shown its input alone."""


def read_conditioning(folder: Path) -> Conditioning:
    """What the file in a folder says; no channels where there is none.

    Args:
        folder: Of a prior, not trusted.

    Raises:
        AmbientSolveError: it holds something else than a number of channels and a share.
    """
    path = folder / CONDITIONING
    if not path.is_file():
        return NONE
    found = read_json(path)
    given = found if isinstance(found, dict) else {}
    channels, share = given.get("mask_channels"), given.get("keep_probability")
    number = isinstance(share, (int, float)) and not isinstance(share, bool) and 0 < share <= 1
    if type(channels) is not int or not 1 <= channels <= MOST or not (share is None or number):
        raise AmbientSolveError(
            f"{path} says mask_channels = {str(channels)[:40]} and keep_probability = {str(share)[:40]}; 1 to {MOST} "
            "channels, and null or a share above 0 and at most 1, were expected."
        )
    return Conditioning(channels, share)


def widened(layer: nn.Conv2d, more: int) -> nn.Conv2d:
    """A convolution that takes more channels, whose weights are 0: its answer is the same, to the bit.

    Args:
        layer: An input convolution without groups.
        more: Channels behind those that it takes.

    Returns:
        A new layer.
    """
    places: dict[str, Any] = {"kernel_size": layer.kernel_size, "stride": layer.stride, "padding": layer.padding}
    new = nn.Conv2d(layer.in_channels + more, layer.out_channels, bias=layer.bias is not None, **places)
    with torch.no_grad():
        new.weight.zero_()
        new.weight[:, : layer.in_channels] = layer.weight
        if layer.bias is not None and new.bias is not None:
            new.bias.copy_(layer.bias)
    return new.to(layer.weight)


def shown_part(z0: Tensor, out: Tensor, seen: Tensor) -> Tensor:
    """The estimate of a network that is shown a part: its usual one where it sees, its answer itself elsewhere.

    What a mask hides has infinite noise. An estimate made of the level would have to be answered there with numbers as
    large as 1 / sigma.

    Args:
        z0: The usual estimate, (B, C, H, W).
        out: What the network answers, in units of z, the same shape.
        seen: 1 or 0, (B, 1 or C, H, W).

    Returns:
        (B, C, H, W).
    """
    return seen * z0 + (1 - seen) * out
