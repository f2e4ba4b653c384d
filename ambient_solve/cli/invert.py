"""`ambient-solve invert`: a few pictures of a subject to a word that prompts may use."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from ambient_solve.cli.flags import Device, with_knobs
from ambient_solve.errors import AmbientSolveError
from ambient_solve.knobs import knobs


@dataclasses.dataclass(frozen=True)
class Invert:
    """Learn a subject from a few pictures: one embedding for each band of noise levels, the network stays as it is.

    The concept goes to OUT/concept, for --concept of `sample` and `restore`. The same command resumes a run.
    """

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Pictures of the subject, or corrupted:FOLDER, as `ambient-solve corrupt` writes it."""
    pipeline: Annotated[str, tyro.conf.arg(metavar="DIR", help_behavior_hint="(required)")] = ""
    """A latent pipeline of diffusers with text encoders: folder, or hub id (owner/name)."""
    token: str = "<concept>"
    """What prompts call the subject, between < and >."""
    init: str = "photo"
    """Word that the embeddings begin as, such as that of the subject's kind."""
    out: Path = Path("runs/concept")
    """Folder of the run."""
    size: int = 0
    """Side in pixels of what is learned from; 0 is that of the network."""
    sigma: float = 0.0
    """Noise that all the pictures hold, where pixel values go from 0 to 1."""
    limit: int = 0
    """At most this many pictures; 0 is all."""
    device: Device = "auto"
    """auto takes the graphics card where there is one."""

    def run(self) -> int:
        """See the class."""
        from ambient_solve.training.inversion import Inversion, invert

        if not self.pipeline:
            raise AmbientSolveError("No pipeline was given: ambient-solve invert FOLDER --pipeline DIR ...")
        if self.size < 0 or not 0 <= self.sigma < 100 or self.limit < 0:
            raise AmbientSolveError("--size, --sigma and --limit are numbers of 0 or more.")
        settings = Inversion(**{k.name: getattr(self, k.name) for k in knobs(Inversion)})
        folder = invert(
            self.data, self.pipeline, self.token, self.out, settings, init=self.init, size=self.size, sigma=self.sigma,
            limit=self.limit, device=self.device,
        )  # fmt: skip
        print(f'The concept is in {folder}: ambient-solve sample {self.pipeline} --concept {folder} --prompt "..."')
        return 0


def invert_command() -> type:
    """`Invert` with the knobs of `Inversion`."""
    from ambient_solve.training.inversion import Inversion

    return with_knobs(Invert, knobs(Inversion))
