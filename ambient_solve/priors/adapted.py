"""Our own networks of others' checkpoints, as `PipelinePrior` calls a network of diffusers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import final

from torch import Tensor, nn

from ambient_solve.errors import AmbientSolveError
from ambient_solve.priors.conditioning import widened


@final
class AdaptedNetwork(nn.Module):
    """A network that is called as `network(x, times, labels)`, in the form of a diffusers `UNet2DModel`.

    Args:
        network: The network.
        entry: Name in it of the convolution that takes the picture.
        channels: That it takes.
        out_channels: That it gives.
        levels: Of its resolutions.
        classes: That it knows; 0 is none.
        widens: Whether the picture enters at `entry` alone, a plain convolution, which may be shown more channels.
    """

    def __init__(
        self,
        network: nn.Module,
        entry: str,
        channels: int,
        out_channels: int,
        levels: int,
        classes: int = 0,
        widens: bool = True,
    ) -> None:
        super().__init__()
        self.network, self.entry, self.widens = network, entry, widens
        self.config = SimpleNamespace(
            in_channels=channels,
            out_channels=out_channels,
            block_out_channels=(0,) * levels,
            num_class_embeds=classes or None,
            class_embed_type=None,
        )

    def forward(
        self, x: Tensor, times: Tensor, return_dict: bool = False, class_labels: Tensor | None = None
    ) -> tuple[Tensor]:
        """The answer of the network, in a tuple.

        Args:
            x: What it is given, (B, channels, H, W).
            times: Its times, (B,).
            return_dict: Not used.
            class_labels: A class for each, (B,); None where it knows none.

        Returns:
            One tensor, (B, out_channels, H, W).
        """
        return (self.network(x, times, class_labels),)

    def widen(self, more: int) -> None:
        """Widen the convolution that takes the picture by channels whose weights are 0, in place."""
        if not self.widens:
            raise AmbientSolveError(
                f"This {type(self.network).__name__} cannot be shown {more} mask channels beside the picture: choose "
                "another prior, or objective: {kind: denoise}."
            )
        layer = self.network.get_submodule(self.entry)
        if isinstance(layer, nn.Conv2d):
            parent, _, name = self.entry.rpartition(".")
            self.network.get_submodule(parent).add_module(name, widened(layer, more))
            self.config.in_channels += more
