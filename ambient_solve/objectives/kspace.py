r"""Denoising from undersampled k-space (Ambient Diffusion Posterior Sampling; Aali et al., 2025, arXiv 2403.08728).

A complex image, two real channels, is measured through `A = m F S`: coil maps `S`, the orthonormal Fourier transform
`F`, sampled lines or points `m`. Stored is `A^H y`. At each training step some sampled lines are dropped,
`A~ = B A`, and

    lambda |A (D(A~^H A~ z_sigma, m~; sigma) - tau)|^2,     z_sigma, tau as in `denoise.py`

has the minimizer `D = E[z0 | A~^H A~ z_sigma, m~]`, lines that were never sampled included: see `masked.py`. The noise
`sigma n` is real and white in each channel of the image, and so is `sigma_n e` in `y = A (z0 + sigma_n e)`. White noise
of the receivers is of this kind for one coil; for several it is not, and `sigma_n` then is an approximation.

All of this needs `A~ y`, and several coils mix the lines: `A~^H A~ A^H y` is not `A~^H A~ z0`, and it brings back some
of what was dropped. So the stored image is replaced by the least one that explains it, `w` with `A^H A w = A^H y`: then
`A w = A z0`, and `A~ w = A~ z0`. One coil needs no such solve, nor do data that are stored as `w` in the first place.

Published is the norm of `A^H A (D - tau)`, which counts what the coils hardly see less than `A` does, by its square.

Of the four channels that the published network sees, two are the image and one is `m~`, which is shown here too. The
last is constant: multiplied by the preconditioning it repeats the level, which the network knows, and is left out.

What is missing is not known better at low levels. Preconditioned and weighed by `sigma` alone, the network would there
answer with numbers as large as 1 / sigma, and the loss be made of what cannot be known: `missing`, its deviation, is
the least level that the weight takes a sample for, and counts as noise in the preconditioning of the network. The
minimizer stays what it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.knobs import check_knobs, knob
from ambient_solve.linalg.conjugate_gradient import conjugate_gradient
from ambient_solve.noise import Level, Streams, per_sample
from ambient_solve.objectives.base import Batch, Denoiser, Objective
from ambient_solve.objectives.denoise import WEIGHTS, Denoise, unbiased_target
from ambient_solve.transforms import from_kspace, to_kspace

RIM = 0.75
"""Share of the radius of the fully sampled center that is never dropped."""
MOST = 0.9
"""No more than this share of the other lines is dropped, however few they are."""


@final
@dataclass(frozen=True)
class KSpace(Objective):
    """Denoising from k-space.

    Samples (B, 2, H, W) with coil maps (B, coils, H, W), |S|^2 summing to 1, and a mask (B, 1, H, W) of k-space.
    """

    mask_channels: ClassVar[int] = 1  # type: ignore[misc] # a knob of others, one here
    incomplete: ClassVar[bool] = True

    extra: float = knob(1.0, 0.0, 100.0, "what dropping lines adds to the acceleration R; 0 learns no missing line")
    cg_iterations: int = knob(20, 0, 1000, "steps of the solve that undoes the mixing of coils; 0 if A z = y as stored")
    weight: str = knob("inverse_variance", choices=WEIGHTS, help="how noisy targets count")
    sigma_data: float = knob(0.5, 1e-6, help="standard deviation of one entry of the data")
    missing: float = knob(0.1, 0.0, 100.0, "deviation of what the sampled lines leave out, for data of that deviation")

    def __post_init__(self) -> None:
        check_knobs(self)

    def loss(self, denoise: Denoiser, batch: Batch, streams: Streams) -> Tensor:
        """See `Objective.loss`; the sum over k-space, divided by the number of entries of the picture."""
        maps, mask = _check(batch), torch.ones_like(batch.z[:, :1]) if batch.mask is None else batch.mask.to(batch.z)
        if self.cg_iterations:
            least = conjugate_gradient(lambda p: gram(p, mask, maps), batch.z, self.cg_iterations)
            batch = replace(batch, z=least)
        z_sigma, tau = unbiased_target(batch, streams)
        seen = fewer_lines(mask, share(mask, self.extra), streams)
        z0 = denoise(gram(z_sigma, seen, maps), batch.sigma, seen).float()
        error = (mask * to_kspace(z0 - tau, maps)).abs().square().flatten(1).sum(1) / z0[0].numel()
        weights = Denoise(self.weight, self.sigma_data).weights
        return weights(batch.sigma, batch.sigma_noise, floor=self.missing) * error


def gram(z: Tensor, mask: Tensor, maps: Tensor) -> Tensor:
    """What the sampled part of k-space says of a picture, `A^H A z`.

    Args:
        z: (B, 2, H, W), real and imaginary part.
        mask: 1 where sampled, (B, 1, H, W).
        maps: Complex coil maps (B, coils, H, W).

    Returns:
        Shape of z.
    """
    return from_kspace(mask * to_kspace(z, maps), maps)


def fewer_lines(mask: Tensor, delta: Level, streams: Streams) -> Tensor:
    """A mask with fewer lines; the calibration lines stay.

    Each line outside `calibration` is dropped with chance `delta`, row i by stream i alone. Lines are columns or rows,
    whichever is sampled in full, and single points where neither is.

    Args:
        mask: 1 where sampled, (B, 1, H, W).
        delta: Chance in [0, 1) that a line is dropped, a float or (B,).
        streams: B streams of random numbers.

    Returns:
        Shape of mask.
    """
    columns, rows = _lines(mask)
    u = streams.uniform(mask)
    u = torch.where(columns, u[..., :1, :], torch.where(rows, u[..., :1], u))
    return mask * torch.maximum(calibration(mask), (u >= per_sample(delta, u)).to(mask))


def share(mask: Tensor, extra: float) -> Tensor:
    """The `delta` of `further` by which the acceleration `R` of a mask becomes `R + extra`.

    `R~ = R + 1` is the published choice. A share `1 / R - 1 / (R + extra)` of k-space is dropped, on average.

    Args:
        mask: 1 where sampled, (B, 1, H, W).
        extra: What is added to the acceleration, 0 or more.

    Returns:
        (B,).
    """
    sampled = mask.flatten(1).mean(1)
    loose = (mask * (1 - calibration(mask))).flatten(1).mean(1)
    surplus = sampled - sampled / (1 + extra * sampled)
    return (surplus / loose.clamp(min=1e-9)).clamp(max=MOST)


def calibration(mask: Tensor) -> Tensor:
    """1 on the fully sampled center of `mask` (B, 1, H, W), its rim excepted, else 0.

    The center reaches to the nearest gap. Lines beside the true calibration lines belong to it if they happen to be
    sampled; were they therefore never dropped, the network would never have to predict them. Hence the rim.
    """
    height, width = mask.shape[-2:]
    down = ((torch.arange(height, device=mask.device) - height // 2).abs() / height)[:, None]
    across = (torch.arange(width, device=mask.device) - width // 2).abs() / width
    columns, rows = _lines(mask)
    distance = torch.where(columns, across, torch.where(rows, down, torch.maximum(down, across)))
    reach = distance.masked_fill(mask > 0, torch.inf).amin((-2, -1), keepdim=True)
    return (distance < RIM * reach).to(mask)


def _lines(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Whether `mask` samples whole columns, and whole rows, (B, 1, 1, 1) each."""
    columns, rows = (mask == mask[..., :1, :]), (mask == mask[..., :1])
    return columns.flatten(1).all(1)[:, None, None, None], rows.flatten(1).all(1)[:, None, None, None]


def _check(batch: Batch) -> Tensor:
    """The coil maps of a batch that this objective can learn from."""
    channels = 1 if batch.mask is None else batch.mask.shape[1]
    if batch.maps is None or batch.z.shape[1] != 2 or channels != 1:
        maps = "no coil maps" if batch.maps is None else f"{batch.maps.shape[1]} coil maps"
        raise AmbientSolveError(
            f"The objective 'kspace' was given {batch.z.shape[1]} channels, {maps} and a mask of {channels} channels; "
            "it needs the real and imaginary part, complex maps (all ones for one coil) and one mask for all coils."
        )
    return batch.maps
