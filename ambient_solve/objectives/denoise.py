r"""Denoising from clean and noisy samples in one formula.

A stored sample is `y = z0 + sigma_n e`, the noise `e` drawn once; `sigma_n = 0` is a clean sample. At a level
`sigma > sigma_n` draw `z_sigma = y + sqrt(sigma^2 - sigma_n^2) n`. Then (ambient Tweedie; Daras et al., 2024, arXiv
2404.10177)

    E[y | z_sigma] = a E[z0 | z_sigma] + (1 - a) z_sigma,     a = 1 - sigma_n^2 / sigma^2

so that regressing `a D + (1 - a) z_sigma` on `y` learns `D = E[z0 | z_sigma]` without a clean sample. The same loss,
written on the clean estimate, has the unbiased target

    tau = (y - (1 - a) z_sigma) / a = y - sigma_n^2 / sqrt(sigma^2 - sigma_n^2) n
    v = Var(tau - z0) = sigma_n^2 sigma^2 / (sigma^2 - sigma_n^2)

and the published losses differ in the weight of `|D - tau|^2` alone, `lambda` being the weight of EDM:

    laws              lambda a^2             "How Much is a Noisy Image Worth?" (arXiv 2411.02780)
    omni              lambda                 "Ambient Diffusion Omni" (arXiv 2506.10038); needs the buffer, v explodes
    inverse_variance  1 / (1 / lambda + v)   a target counts by its variance: posterior variance plus v
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.knobs import check_knobs, knob
from ambient_solve.noise import Streams, per_sample
from ambient_solve.objectives.base import Batch, Denoiser, Objective, edm_weight

WEIGHTS = ("laws", "omni", "inverse_variance")


@dataclass(frozen=True)
class Denoise(Objective):
    """Denoising towards a target that is unbiased whatever noise the samples hold.

    Every sample must have `batch.sigma >= batch.sigma_noise`; for a clean sample the loss is EDM's, bit for bit.

    A sample at the level of its own noise says nothing of `z0` (v is infinite): its loss is 0, as are its gradients.
    """

    weight: str = knob("inverse_variance", choices=WEIGHTS, help="how noisy targets count")
    sigma_data: float = knob(0.5, 1e-6, help="standard deviation of one entry of the data")

    def __post_init__(self) -> None:
        check_knobs(self)

    def loss(self, denoise: Denoiser, batch: Batch, streams: Streams) -> Tensor:
        """See `Objective.loss`; the mean over the entries of each sample."""
        if batch.mask is not None:
            raise AmbientSolveError(
                "The objective 'denoise' was given incomplete samples, whose gaps it would take for pictures: use "
                "'masked', or 'kspace'."
            )
        z_sigma, tau = unbiased_target(batch, streams)
        return self.error(denoise(z_sigma, batch.sigma), tau, batch)

    def error(self, z0: Tensor, tau: Tensor, batch: Batch) -> Tensor:
        """The weighted squared error of an estimate.

        Args:
            z0: The estimate, (B, C, H, W).
            tau: Its target, the same shape.
            batch: The samples, with their noise levels.

        Returns:
            (B,).
        """
        error = (z0.float() - tau).square().flatten(1).mean(1)
        return self.weights(batch.sigma, batch.sigma_noise) * error

    def weights(self, sigma: Tensor, sigma_noise: Tensor, floor: float = 0.0) -> Tensor:
        """The weight of the squared error at each level.

        Args:
            sigma: Level of the network's input, (B,).
            sigma_noise: Noise that the sample already held, (B,), at most `sigma`.
            floor: Level below which the weight `lambda` of EDM no longer grows.

        Returns:
            (B,).
        """
        weight = edm_weight(sigma.clamp_min(floor), self.sigma_data)
        if self.weight == "laws":
            return weight * (1 - sigma_noise**2 / sigma**2) ** 2
        if self.weight == "omni":
            return torch.where(sigma == sigma_noise, 0.0, weight)
        v = sigma_noise**2 * sigma**2 / (sigma**2 - sigma_noise**2)
        return weight / (1 + weight * v)


def unbiased_target(batch: Batch, streams: Streams) -> tuple[Tensor, Tensor]:
    """The input of the network and its target.

    Where `sigma` equals `sigma_noise` there is no such target; any finite one will do, as its weight is 0.

    Args:
        batch: B samples with `sigma >= sigma_noise`.
        streams: B streams of random numbers.

    Returns:
        `z_sigma` and `tau`, both of the shape of z.
    """
    extra = torch.sqrt(batch.sigma**2 - batch.sigma_noise**2)
    n = streams.normal(batch.z)
    back = torch.where(extra == 0, 0.0, batch.sigma_noise**2 / extra)
    return batch.z + per_sample(extra, n) * n, batch.z - per_sample(back, n) * n


def buffer(s_max: float) -> float:
    """The factor by which `sigma` must exceed `sigma_noise`, so that the weight of the target stays bounded.

    Args:
        s_max: Bound of `sigma^2 / (sigma^2 - sigma_noise^2)`, above 1 (arXiv 2506.10038).

    Returns:
        The factor, above 1.

    Raises:
        AmbientSolveError: s_max is 1 or less.
    """
    if not s_max > 1:
        raise AmbientSolveError(f"s_max = {s_max} must exceed 1, the value of a clean sample; 4 is usual.")
    return math.sqrt(1 + 1 / (s_max - 1))
