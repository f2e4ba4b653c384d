r"""Conditional denoising: the network is shown a measurement, and its reverse process draws from the posterior.

A clean sample `z0` is measured anew at each training step, `y = m (z0 + sigma_y e)` with random pixels `m`, and the
network is shown `y` and `m` beside `z_sigma = z0 + sigma n`. As the two noises are independent, the minimizer of

    lambda |D(z_sigma, sigma; y, m) - z0|^2      is      D = E[z0 | z_sigma, y, m]

the denoiser of `p(z0 | y, m)`: no likelihood is needed to sample it. On restored pictures this is the M-step of DiffEM
(Hosseintabar et al., 2025, arXiv 2510.12691, algorithm 1), on clean ones the supervised inpainter that learning from
damaged data is compared with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.knobs import check_knobs, knob
from ambient_solve.noise import Streams, per_sample
from ambient_solve.objectives.base import Batch, Denoiser, Objective, edm_weight


@final
@dataclass(frozen=True)
class Conditional(Objective):
    """Conditional denoising of whole, clean samples: what is hidden from the network is drawn here."""

    noisy: ClassVar[bool] = False

    missing: float = knob(0.75, 0.0, 0.99, "share of the pixels that are hidden at each training step; 0 is noise only")
    sigma_y: float = knob(0.02, 0.0, 100.0, "noise of the measurement, in units of [-1, 1] pictures")
    channels: int = knob(3, 1, 1024, "channels of a picture: the network is shown as many, and the mask")
    sigma_data: float = knob(0.5, 1e-6, help="standard deviation of one entry of the data")

    def __post_init__(self) -> None:
        check_knobs(self)

    @property
    def mask_channels(self) -> int:  # type: ignore[override] # it follows from `channels`
        """The measurement and the mask of its pixels."""
        return self.channels + 1

    def loss(self, denoise: Denoiser, batch: Batch, streams: Streams) -> Tensor:
        """See `Objective.loss`; the mean over the entries of each sample, hidden or not."""
        if batch.mask is not None or batch.z.shape[1] != self.channels:
            what = "masked samples" if batch.mask is not None else f"samples of {batch.z.shape[1]} channels"
            raise AmbientSolveError(
                f"The objective 'conditional' was given {what}; it learns from whole, clean ones of {self.channels} "
                "channels: set its `channels`, or restore the samples first (trainers/em.py)."
            )
        n = streams.normal(batch.z)
        mask = (streams.uniform(batch.z[:, :1]) >= self.missing).to(batch.z)
        cond = condition(batch.z + self.sigma_y * streams.normal(batch.z), mask)
        error = denoise(batch.z + per_sample(batch.sigma, n) * n, batch.sigma, cond).float() - batch.z
        return edm_weight(batch.sigma, self.sigma_data) * error.square().flatten(1).mean(1)


def condition(y: Tensor, mask: Tensor) -> Tensor:
    """What the network is shown beside its input.

    Args:
        y: The measurement (B, C, H, W); what the mask hides of it may be anything finite.
        mask: 1 where observed, (B, 1, H, W).

    Returns:
        The measurement, 0 where unobserved, and the mask: (B, C + 1, H, W).
    """
    return torch.cat([mask * y, mask], 1)
