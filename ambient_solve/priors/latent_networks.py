"""The networks of latent pipelines of diffusers as priors of latents; `parameterization` says how they are called.

Each takes its state, its time and its condition in a way of its own: `CALLS` holds one function for each class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.noise import Level
from ambient_solve.priors.base import Prior
from ambient_solve.priors.network import pad_to
from ambient_solve.priors.parameterization import interpolated, parameterization


@final
@dataclass(frozen=True, eq=False)
class Embedded:
    """What a network is conditioned on, one row for each state.

    Attributes:
        tokens: The words, (B, tokens, features).
        pooled: All words together, (B, features).
        labels: A class, (B,).
        guidance: The guidance that a distilled network takes as an input, (B,).
    """

    tokens: Tensor | None = None
    pooled: Tensor | None = None
    labels: Tensor | None = None
    guidance: Tensor | None = None

    def __len__(self) -> int:
        return len(next(t for t in (self.tokens, self.pooled, self.labels) if t is not None))

    def rows(self, count: int) -> Embedded:
        """One row, `count` times."""
        made = {k: None if t is None else t.expand(count, *t.shape[1:]) for k, t in vars(self).items()}
        return Embedded(**made)


def _unet(network: Any, x: Tensor, t: Tensor, c: Embedded, factor: int) -> Tensor:
    extra = {}
    if c.pooled is not None:  # SDXL takes the original size, the crop and the target size
        height, width = (n * factor for n in x.shape[-2:])
        sizes = x.new_tensor([height, width, 0, 0, height, width]).expand(len(x), -1)
        extra = {"added_cond_kwargs": {"text_embeds": c.pooled, "time_ids": sizes}}
    return network(x, t, encoder_hidden_states=c.tokens, return_dict=False, **extra)[0]


def _dit(network: Any, x: Tensor, t: Tensor, c: Embedded, factor: int) -> Tensor:
    return network(x, timestep=t, class_labels=c.labels, return_dict=False)[0][:, : x.shape[1]]


def _sd3(network: Any, x: Tensor, t: Tensor, c: Embedded, factor: int) -> Tensor:
    return network(
        hidden_states=x, timestep=t, encoder_hidden_states=c.tokens, pooled_projections=c.pooled, return_dict=False
    )[0]


def _flux(network: Any, x: Tensor, t: Tensor, c: Embedded, factor: int) -> Tensor:
    """Flux takes squares of 2x2 places as a sequence, with the place of each."""
    height, width = (n // 2 for n in x.shape[-2:])
    places = x.new_zeros(height, width, 3)
    places[..., 1] = torch.arange(height, device=x.device)[:, None]
    places[..., 2] = torch.arange(width, device=x.device)
    tokens = c.tokens
    if tokens is None:
        raise AmbientSolveError("Flux is conditioned on words: pass cond='...'.")
    rows = x.reshape(len(x), -1, height, 2, width, 2).permute(0, 2, 4, 1, 3, 5).reshape(len(x), height * width, -1)
    out = network(
        hidden_states=rows,
        timestep=t / 1000,
        guidance=c.guidance,
        pooled_projections=c.pooled,
        encoder_hidden_states=tokens,
        txt_ids=x.new_zeros(tokens.shape[1], 3),
        img_ids=places.reshape(height * width, 3),
        return_dict=False,
    )[0]
    return out.reshape(len(x), height, width, -1, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(x.shape)


CALLS: dict[str, Callable[[Any, Tensor, Tensor, Embedded, int], Tensor]] = {
    "UNet2DConditionModel": _unet,
    "DiTTransformer2DModel": _dit,
    "SD3Transformer2DModel": _sd3,
    "FluxTransformer2DModel": _flux,
}
"""How each class of network is called: `(network, state, time, condition, factor) -> output`, the shape of the state;
`factor` is the pixels along one side of a place."""


@final
class LatentNetwork(Prior):
    """A conditioned network of diffusers as a prior of latents of one deviation; `decode` is the identity.

    Args:
        network: One of `CALLS`.
        scheduler: The scheduler's configuration.
        channels: Of the latents.
        factor: Pixels along one side of a place of the latents.

    Raises:
        AmbientSolveError: an unknown network, scheduler or prediction, or another number of channels.
    """

    _log_levels: Tensor
    _times: Tensor | None

    def __init__(self, network: Any, scheduler: Mapping[str, Any], channels: int, factor: int) -> None:
        super().__init__()
        kind, config = type(network).__name__, network.config
        if kind not in CALLS:
            raise AmbientSolveError(f"The network is a {kind}; one of {', '.join(CALLS)} was expected.")
        taken = config.in_channels // 4 if kind == "FluxTransformer2DModel" else config.in_channels
        if taken != channels:
            raise AmbientSolveError(
                f"The network takes latents of {taken} channels, the autoencoder makes {channels}: the two must come "
                "from one model."
            )
        self.network, self.kind, self.rule = network, kind, parameterization(scheduler)
        self.factor = factor
        fixed = config.sample_size if kind == "DiTTransformer2DModel" else -1
        self.shape = (channels, fixed, fixed)
        self.stride = 2 ** (len(config.block_out_channels) - 1) if kind == "UNet2DConditionModel" else 2
        levels, times = self.rule.levels, self.rule.times
        self.sigma_data, self.sigma_jacobian = 1.0, 10.0
        self.sigma_min, self.sigma_max = float(levels[0]), float(levels[-1])
        self.register_buffer("_log_levels", torch.tensor(np.log(levels)).float(), persistent=False)
        self.register_buffer("_times", None if times is None else torch.tensor(times).float(), persistent=False)

    def denoise(self, z: Tensor, sigma: Level, cond: Any = None) -> Tensor:
        """See `Prior.denoise`; `cond` is an `Embedded`, one row for each state."""
        if not isinstance(cond, Embedded) or len(cond) != len(z):
            raise AmbientSolveError("This network is conditioned: pass cond=..., words or a class.")
        sigma = torch.as_tensor(sigma, dtype=torch.float32, device=z.device).expand(len(z))
        s, (height, width) = sigma[:, None, None, None], z.shape[-2:]
        x = self.rule.state(z, s)
        time = self.rule.time(sigma) if self._times is None else interpolated(self._log_levels, self._times, sigma)
        out = CALLS[self.kind](self.network, pad_to(x, self.stride), time, cond, self.factor)
        return self.rule.denoised(z, s, x, out[..., :height, :width].float())
