r"""Denoising from incomplete samples (Ambient Diffusion; Daras et al., 2023, arXiv 2305.19256, section 3).

Stored is `A y`, where `A` projects onto what was observed of `y = z0 + sigma_n e`, `sigma_n` mostly 0. At each training
step more is hidden: `A~ = B A`, where `B` hides each observed entry with chance `delta`, which is drawn anew each time.
The network is shown `A~ z_sigma` and `A~`, and judged on all that was observed:

    lambda |A (D(A~ z_sigma, A~; sigma) - tau)|_W^2,     z_sigma, tau as in `denoise.py`

It cannot know which of the entries that it misses will count, so it must predict them all: the minimizer solves
`E[A | A~] D = E[A | A~] E[z0 | A~ z_sigma, A~]`, and is `E[z0 | A~ z_sigma, A~]` on every entry with
`P(A_i = 1 | A~) > 0`. With `delta = 0` these are the entries that it sees, and the others stay unlearned. Where entries
are missing independently any `delta > 0` will do. A missing block stays unlearned if its shape gives it away, as
entries hidden one by one do not imitate it.

In this norm an entry that is seen counts once. What is hidden, a share `h` of all entries, stands for all that is not
seen, a share `u`, and counts `u / h` times: where entries are missing independently, the loss is then in expectation
that of whole samples (inverse probability weighting; Horvitz & Thompson, 1952, JASA 47(260)). It leaves the minimizer
alone.

The target is unbiased whatever is hidden. `tau - z0 = sigma_n e - sigma_n^2 / sqrt(sigma^2 - sigma_n^2) n` and
`z_sigma - z0 = sigma_n e + sqrt(sigma^2 - sigma_n^2) n` are jointly Gaussian of covariance `sigma_n^2 - sigma_n^2 = 0`,
so that the error of the target is independent of `z0`, `z_sigma`, `A` and `B`, hence of all that the network is given.

With `signs` the entries are randomised coefficients, `A = T^H m T` (compressed sensing). The network is then
unconditional: with noise, its input shows the subspace in which it lies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.knobs import check_knobs, knob
from ambient_solve.noise import Streams, per_sample
from ambient_solve.objectives.base import Batch, Denoiser, Objective
from ambient_solve.objectives.denoise import WEIGHTS, Denoise, unbiased_target
from ambient_solve.transforms import derandomised, randomised

LEAST = 0.01
"""Share of the entries that what is hidden is taken to be at least, so that few entries do not count for very many."""


@final
@dataclass(frozen=True)
class Masked(Objective):
    """Denoising from incomplete samples (B, C, H, W) as for `Denoise`, with a mask (B, 1 or C, H, W), 1 where observed.

    A mask that the channels share is thinned alike in all of them. With everything observed and `delta = 0` the loss
    is that of `Denoise`, bit for bit.
    """

    incomplete: ClassVar[bool] = True

    # A fixed share, be it the paper's .1 or .4, and hidden entries that count once each, err more (benchmarks/arms.py).
    delta: float = knob(0.5, 0.0, 0.99, "largest share of the observed that a step hides; 0 learns nothing missing")
    delta_min: float = knob(0.05, 0.0, 0.99, "smallest share; each step draws one in between, or takes delta if less")
    mask_channels: int = knob(1, 0, 1024, "channels of the mask that are shown: 1 if the channels share it, 0 for none")
    weight: str = knob("inverse_variance", choices=WEIGHTS, help="how noisy targets count")
    sigma_data: float = knob(0.5, 1e-6, help="standard deviation of one entry of the data")
    floor: float = knob(0.07, 0.0, 100.0, "level at which hidden entries count at most: they are never known better")

    def __post_init__(self) -> None:
        check_knobs(self)

    def loss(self, denoise: Denoiser, batch: Batch, streams: Streams) -> Tensor:
        """See `Objective.loss`; the sum over what was observed of each sample, divided by the number of all entries.

        So every entry that is seen counts the same, whichever sample it is in. Divided by the number of observed ones,
        it would count the more the less is known beside it. What the network does not see it cannot know the better
        the lower the level: such entries have the weight of level `floor` below it, which leaves the minimizer alone.
        """
        return self.step(denoise, batch, streams)[0]

    def step(self, denoise: Denoiser, batch: Batch, streams: Streams) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One training step of a batch.

        Args:
            denoise: The network that is trained.
            batch: B samples and their masks.
            streams: B streams of random numbers.

        Returns:
            The loss (B,), `z_sigma` (B, C, H, W), the answer to it, and the mask (B, 1 or C, H, W) of what was shown.
        """
        mask = self._mask(batch)
        z_sigma, tau = unbiased_target(batch, streams)
        seen = mask * (streams.uniform(mask) >= self._share(batch, streams))
        z0 = self.answer(denoise, z_sigma, batch.sigma, seen, batch.signs)
        return self._weighted(z0 - tau, seen, mask, batch), z_sigma, z0, seen

    def answer(self, denoise: Denoiser, z: Tensor, sigma: Tensor, seen: Tensor, signs: Tensor | None) -> Tensor:
        """What a network answers where it sees a part of its input alone.

        Args:
            denoise: The network.
            z: Its input (B, C, H, W).
            sigma: Levels (B,).
            seen: What of z it is shown, 1 or 0, (B, 1 or C, H, W).
            signs: +-1, shape of z, where `seen` is of coefficients; else None.

        Returns:
            The denoised pictures, float32, shape of z.
        """
        cond = seen.expand(-1, self.mask_channels, -1, -1) if self.mask_channels else None
        return denoise(project(z, seen, signs), sigma, cond).float()

    def held_out(self, denoise: Denoiser, batch: Batch, streams: Streams) -> Tensor:
        """See `Objective.held_out`; the mean over all entries, those that the denoiser does not see included."""
        z_sigma, tau = unbiased_target(batch, streams)
        mask = self._mask(batch)
        z0 = self.answer(denoise, z_sigma, batch.sigma, mask, batch.signs)
        return self._weighted(z0 - tau, mask, torch.ones_like(mask), batch)

    def keep_probability(self, observed: float) -> float | None:
        """See `Objective.keep_probability`."""
        return observed * (1 - (min(self.delta_min, self.delta) + self.delta) / 2) if self.mask_channels else None

    def _share(self, batch: Batch, streams: Streams) -> Tensor | float:
        """What share of the observed entries is hidden, (B, 1, 1, 1) unless it is always the same."""
        if self.delta_min >= self.delta:
            return self.delta
        return per_sample(self.delta_min + (self.delta - self.delta_min) * streams.uniform(batch.sigma), batch.z)

    def _weighted(self, error: Tensor, seen: Tensor, judged: Tensor, batch: Batch) -> Tensor:
        """The weighted mean square, (B,), of what of `error` is `judged`, be it `seen` or not."""
        weights, levels = Denoise(self.weight, self.sigma_data).weights, (batch.sigma, batch.sigma_noise)
        weight = weights(*levels)
        share = torch.where(weight > 0, weights(*levels, floor=self.floor) / weight, 0.0)
        square = (error if batch.signs is None else randomised(error, batch.signs)).square()
        hidden = judged - seen
        stands_for = (1 - seen).flatten(1).mean(1) / hidden.flatten(1).mean(1).clamp(min=LEAST)
        counts = seen + per_sample(share * stands_for, seen) * hidden
        return weight * (counts * square).flatten(1).mean(1)

    def _mask(self, batch: Batch) -> Tensor:
        if batch.maps is not None:
            raise AmbientSolveError(
                "The objective 'masked' was given coil maps, so the mask is one of k-space: use the objective 'kspace'."
            )
        if batch.signs is not None and self.mask_channels:
            raise AmbientSolveError(
                f"mask_channels = {self.mask_channels} was given, but the mask is one of coefficients, which are "
                "nowhere in the picture: set `mask_channels` to 0."
            )
        mask = torch.ones_like(batch.z[:, :1]) if batch.mask is None else batch.mask.to(batch.z)
        if self.mask_channels and mask.shape[1] not in (1, self.mask_channels):
            raise AmbientSolveError(
                f"A mask of {mask.shape[1]} channels was given, one of 1 or {self.mask_channels} expected: set "
                f"`mask_channels` to {mask.shape[1]}, or to 0 for an unconditional network."
            )
        return mask


def project(z: Tensor, mask: Tensor, signs: Tensor | None = None) -> Tensor:
    """The projection `A z` onto what a mask selects.

    Args:
        z: (B, C, H, W).
        mask: 1 where selected, broadcast to z.
        signs: +-1, shape of z, where the mask is one of coefficients; else None.

    Returns:
        Shape of z.
    """
    return mask * z if signs is None else derandomised(mask * randomised(z, signs), signs)
