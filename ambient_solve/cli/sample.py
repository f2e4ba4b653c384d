"""`ambient-solve sample`: pictures from a prior alone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import tyro

from ambient_solve.cli.flags import Device, with_knobs
from ambient_solve.cli.prompts import Concepts, Text, prompted
from ambient_solve.errors import AmbientSolveError
from ambient_solve.knobs import knobs
from ambient_solve.saving import check_folder


@dataclasses.dataclass(frozen=True)
class SamplePrior:
    """Draw pictures from a prior alone, without a measurement: what it has learned."""

    prior: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PRIOR")] = "photos"
    """Embedded prior, folder, or hub id (owner/name)."""
    n: int = 16
    """How many pictures are drawn."""
    size: int = 0
    """Their side in pixels; 0 is the prior's own, or 64 where any will do."""
    out: Path = Path("samples")
    """Folder of the pictures and of their contact sheet, sheet.png."""
    prompt: Text = ""
    """What the pictures show, in words, where the prior takes them: "a photo of <cat(3)>"."""
    negative: Text = ""
    """What they do not show; counts where the guidance is not 1."""
    prompt_guidance: float = 1.0
    """Scale of classifier-free guidance by the prompt; 1 is none."""
    concept: Concepts = ()
    """Folder of a concept that the prompt may name, as `ambient-solve invert` writes it."""
    seed: int = 0
    """Picture i depends on (seed, i) alone."""
    device: Device = "auto"
    """auto takes the graphics card where there is one."""

    def run(self) -> int:
        """See the class."""
        import torch

        from ambient_solve.figures.sheet import Row, Tile, contact_sheet, picture_tile
        from ambient_solve.priors.ambient import AmbientPrior
        from ambient_solve.priors.latent_pipeline import own_side
        from ambient_solve.sampling import Sampling, generate
        from ambient_solve.saving import save_png

        check_folder(self.out)
        from ambient_solve.priors.load import named_prior

        prior = named_prior(self.prior, self.device)
        channels = prior.picture_channels
        if channels not in (1, 3):
            raise AmbientSolveError(f"{self.prior} makes {channels} channels; PNG files hold 1 or 3.")
        given = (self.prompt, self.negative, self.prompt_guidance, self.concept)
        prior, cond = prompted(prior, *given)
        settings = {k.name: getattr(self, k.name) for k in knobs(Sampling)}
        size = self.size or own_side(prior) or (64 if -1 in prior.shape else None)
        size = size if size is None or prior.affine is not None else prior.state_shape((channels, size, size))[-1]
        drawn = generate(prior, self.n, size=size, seed=self.seed, progress=None, cond=cond, **settings)
        with torch.no_grad():
            pictures = torch.cat([prior.decode(z[None]) for z in drawn])
        self.out.mkdir(parents=True, exist_ok=True)
        for i, x in enumerate(pictures):
            record = {"prior": self.prior, "seed": self.seed, "sample": i, **settings}
            record |= {"prompt": self.prompt, "negative": self.negative} if cond else {}
            save_png(x, self.out / f"{i:04d}.png", json.dumps(record))
        tiles, wide = [picture_tile(x, f"{i:04d}") for i, x in enumerate(pictures)], min(self.n, 4)
        tiles += [Tile(tiles[0].picture * 0 + 255)] * (-self.n % wide)
        rows = [Row("", f"seed {self.seed}", tiles[i : i + wide]) for i in range(0, self.n, wide)]
        contact_sheet(f"samples of {self.prior}", [""] * wide, rows, side=192).save(self.out / "sheet.png")
        print(f"{self.out}: {self.n} samples of {self.prior}, contact sheet {self.out / 'sheet.png'}")
        if isinstance(prior, AmbientPrior):
            print("  Note: this prior is mask-conditioned. What its mask hides it fills with means: less variety.")
        return 0


def sample_command() -> type:
    """`Sample` with the knobs of `generate`."""
    from ambient_solve.sampling import Sampling

    return with_knobs(SamplePrior, knobs(Sampling))
