r"""Denoising that is given what the picture shows in words, and at times is not, for classifier-free guidance.

A sample `z0` comes with a caption `c`. With a chance `p` the network is given the empty caption in its place (Ho and
Salimans, 2022, arXiv 2207.12598, algorithm 1), so that one network learns

    E[z0 | z_sigma, c]     and, given no words,     E[z0 | z_sigma]

whose difference is what `guidance` of a `Prompt` is a multiple of. Noise and its unbiased target are those of
`denoise`; at `p = 1` the loss is that of `denoise`, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.knobs import check_knobs, knob
from ambient_solve.noise import Streams
from ambient_solve.objectives.base import Batch, Denoiser, Objective
from ambient_solve.objectives.denoise import WEIGHTS, Denoise, unbiased_target


@final
@dataclass(frozen=True)
class Captioned(Objective):
    """Denoising conditioned on the captions of the samples; the network takes them as its condition."""

    worded: ClassVar[bool] = True

    dropout: float = knob(0.1, 0.0, 1.0, "chance that a sample is shown without its caption, for guidance")
    weight: str = knob("inverse_variance", choices=WEIGHTS, help="how noisy targets count")
    sigma_data: float = knob(0.5, 1e-6, help="standard deviation of one entry of the data")

    def __post_init__(self) -> None:
        check_knobs(self)

    def loss(self, denoise: Denoiser, batch: Batch, streams: Streams) -> Tensor:
        """See `Objective.loss`; the mean over the entries of each sample."""
        if batch.captions is None or batch.mask is not None:
            what = "samples without captions" if batch.captions is None else "incomplete samples"
            raise AmbientSolveError(
                f"The objective 'captioned' was given {what}; give each row of the manifest its caption "
                "(trainers/latents.py encode --captions), or choose 'denoise'."
            )
        z_sigma, tau = unbiased_target(batch, streams)
        kept = (streams.uniform(batch.z[:, :1, :1, :1]).flatten() >= self.dropout).tolist()
        captions = tuple(c if keep else "" for c, keep in zip(batch.captions, kept, strict=True))
        return self._plain.error(denoise(z_sigma, batch.sigma, captions), tau, batch)

    def held_out(self, denoise: Denoiser, batch: Batch, streams: Streams) -> Tensor:
        """See `Objective.held_out`: of pictures whose captions are not known, without words."""
        return self._plain.held_out(denoise, batch, streams)

    @property
    def _plain(self) -> Denoise:
        """The same without words."""
        return Denoise(self.weight, self.sigma_data)

    def of_data(self) -> Objective:
        """See `Objective.of_data`: what a sample is judged by without its words."""
        return self._plain
