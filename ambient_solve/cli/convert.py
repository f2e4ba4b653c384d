"""`ambient-solve convert`: a checkpoint of others as a prior folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ambient_solve.errors import shown


@dataclasses.dataclass(frozen=True)
class Convert:
    """Turn a checkpoint of others into the folder of a prior, with a model card; no code in it is run.

    guided-diffusion reads the U-Nets of ADM, DPS and their kin; edm those of Karras et al. (2022): DDPM++, NCSN++ and
    ADM; edm2 those of Karras et al. (2024) for pictures; score-sde DDPM++ and NCSN++ of Song et al. (2021); deepinv
    DRUNet, DnCNN and Restormer; spandrel SwinIR, SCUNet, DRUNet and DnCNN.
    """

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """The checkpoint: a state dict, as torch.save or safetensors write it."""
    kind: Literal["guided-diffusion", "edm", "edm2", "score-sde", "deepinv", "spandrel"]
    """What network it is of."""
    out: Path = Path("converted")
    """The folder to write."""
    head_channels: int = 64
    """Channels of an attention head of guided-diffusion, edm2 and the ADM of edm, which the file does not say."""
    schedule: Literal["linear", "cosine"] = "linear"
    """Noise schedule of guided-diffusion."""
    preconditioning: Literal["auto", "edm", "vp", "ve"] = "auto"
    """How a network of edm or score-sde was trained: edm unless given, and vp or ve must be given for score-sde."""

    def run(self) -> int:
        """See the class."""
        from ambient_solve.priors.convert import convert
        from ambient_solve.priors.network import CARD

        usual = {field.name: field.default for field in dataclasses.fields(self)}
        given = {name: getattr(self, name) for name in ("head_channels", "schedule", "preconditioning")}
        given = {name: None if value == usual[name] else value for name, value in given.items()}
        prior = convert(self.file, self.kind, self.out, **given)
        print(f"{prior!r}\n\n{shown((self.out / CARD).read_text(), lines=True)}")
        print(f"The prior is in {self.out}: ambient-solve info {self.out}")
        return 0
