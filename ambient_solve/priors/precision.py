r"""Whether bfloat16 does for a network: its error against float32, beside the posterior deviation there.

    error = rms(D_16(z) - D_32(z)),      std^2 = sigma^2 v'J v / n,      v of random signs

For an exact denoiser `sigma^2 J` is the posterior covariance (Efron, 2011) and `std` the deviation of a pixel. The
states are the network's own: noise at the first level, then what it makes of that with the noise of the next.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

SHARE = 0.1
"""Most that the error may be, as a share of the posterior standard deviation."""
LEVELS = (4.0, 1.0, 0.1)
"""Noise levels at which it is measured, in standard deviations of the data."""
SIDE = 32
"""Side of the one state on which it is measured, in pixels."""


@dataclass(frozen=True)
class Verdict:
    """The verdict on bfloat16.

    Attributes:
        share: The error, as a share of the posterior standard deviation, at the level where it is largest.
        sigma: That level, in units of z.
    """

    share: float
    sigma: float

    @property
    def fine(self) -> bool:
        """Whether bfloat16 may be used; no where the network gives NaN, or claims no deviation."""
        return self.share <= SHARE

    def __str__(self) -> str:
        chosen = "bfloat16" if self.fine else "float32"
        found = f"bfloat16 errs by {self.share:.2g} of the posterior std at sigma = {self.sigma:g}"
        return f"{chosen}: {found}; {SHARE} is allowed"


def compare(
    full: Callable[..., Tensor],
    half: Callable[..., Tensor],
    shape: tuple[int, ...],
    data: float,
    device: torch.device,
) -> Verdict:
    """Judge a denoiser in bfloat16 by the same one in float32; random numbers come from a generator of its own.

    Args:
        full: `denoise(z, sigma)` in float32.
        half: The same in bfloat16.
        shape: Shape of z, the batch axis included.
        data: Standard deviation of one entry of the data.
        device: Where both compute.

    Returns:
        How far they are apart at the worst level.
    """
    generator = torch.Generator().manual_seed(0)
    z0, worst = torch.zeros(shape, device=device, dtype=torch.float32), Verdict(0.0, data)
    for level in LEVELS:
        sigma = level * data
        n, v = (torch.randn(shape, generator=generator, dtype=torch.float32).to(device) for _ in range(2))
        z, v = z0 + sigma * n, v.sign()
        # That of torch.func, which a caller may be inside of: its own autograd is refused there.
        z0, pull, *_ = torch.func.vjp(lambda z, sigma=sigma: full(z, sigma), z)
        pulled = pull(v)[0]
        with torch.no_grad():
            error = float((half(z, sigma) - z0).square().mean().sqrt())
        std = sigma * math.sqrt(max(0.0, float((v * pulled).mean())))
        share = error / std if std > 0 else 0.0 if error == 0 else math.inf
        # A comparison with NaN is false: what is not below the worst so far is worse.
        worst = worst if share <= worst.share else Verdict(share, sigma)
    return worst


def converted(network: nn.Module, dtype: torch.dtype, layout: torch.memory_format) -> nn.Module:
    """A frozen copy of `network` whose convolutions and linear layers hold their weights as they will be used.

    Args:
        network: In float32; it is not changed.
        dtype: Of these weights: what autocast would convert in every call is converted once.
        layout: Memory format of the weights of convolutions.

    Returns:
        The copy.
    """
    made = copy.deepcopy(network)
    for module in made.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            for name, weight in [*module.named_parameters()]:
                form = layout if weight.ndim == 4 else torch.contiguous_format
                held = weight.detach().to(dtype).contiguous(memory_format=form)
                setattr(module, name, nn.Parameter(held, requires_grad=False))
    return made
