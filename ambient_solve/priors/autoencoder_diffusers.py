"""The autoencoders of diffusers (AutoencoderKL, VQModel, AutoencoderTiny), with the scale of their pipelines."""

from __future__ import annotations

from typing import Any, final

from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.priors.autoencoder import Autoencoder

KINDS = ("AutoencoderKL", "VQModel", "AutoencoderTiny")
"""Classes of diffusers that are read."""


@final
class DiffusersAutoencoder(Autoencoder):
    """An autoencoder of diffusers: `latent = (code - shift) * scale`, as its pipeline hands them to the network.

    An `AutoencoderKL` codes a picture as a Gaussian, of which the mode is taken; a `VQModel` rounds to its codebook
    when it decodes, through which the gradient passes unchanged.

    Args:
        model: One of `KINDS`, of pictures in [-1, 1].

    Raises:
        AmbientSolveError: it is none of these.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        kind, config = type(model).__name__, model.config
        if kind not in KINDS:
            raise AmbientSolveError(f"The autoencoder is a {kind}; one of {', '.join(KINDS)} was expected.")
        self.model, self.kind = model, kind
        self.channels, self.pictures = config.latent_channels, config.in_channels
        widths = config.decoder_block_out_channels if kind == "AutoencoderTiny" else config.block_out_channels
        self.factor = 2 ** (len(widths) - 1)
        self.scale = 1.0 if kind == "AutoencoderTiny" else float(getattr(config, "scaling_factor", None) or 1.0)
        self.shift = 0.0 if kind == "AutoencoderTiny" else float(getattr(config, "shift_factor", None) or 0.0)

    def encode(self, x: Tensor) -> Tensor:
        """See `Autoencoder.encode`."""
        found = self.model.encode(2 * x - 1)
        code = found.latent_dist.mode() if self.kind == "AutoencoderKL" else found.latents
        return (code - self.shift) * self.scale

    def decode(self, latent: Tensor) -> Tensor:
        """See `Autoencoder.decode`."""
        return (self.model.decode(latent / self.scale + self.shift).sample + 1) / 2
