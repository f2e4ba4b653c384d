"""`ambient-solve convert`: a checkpoint of others as a prior folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclasses.dataclass(frozen=True)
class Convert:
    """Turn a checkpoint of others into the folder of a prior, with a model card; no code in it is run.

    guided-diffusion reads the U-Nets of ADM, DPS and their kin; deepinv reads DRUNet and DnCNN.
    """

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """The checkpoint: a state dict, as torch.save or safetensors write it."""
    kind: Literal["guided-diffusion", "deepinv"]
    """What network it is of."""
    out: Path = Path("converted")
    """The folder to write."""
    head_channels: int = 64
    """Channels of an attention head of guided-diffusion, which the file does not say."""
    schedule: Literal["linear", "cosine"] = "linear"
    """Noise schedule of guided-diffusion."""

    def run(self) -> int:
        """See the class."""
        from ambient_solve.priors.convert import convert

        prior = convert(self.file, self.kind, self.out, head_channels=self.head_channels, schedule=self.schedule)
        print(f"{prior!r}\nThe prior is in {self.out}: ambient-solve info {self.out}")
        return 0
