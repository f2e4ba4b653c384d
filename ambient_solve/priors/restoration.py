"""Restoration networks of others, blind or given the noise level, on pictures of any size.

Through spandrel, which knows an architecture by the names of its tensors: SwinIR (Liang et al., 2021, arXiv
2108.10257), SCUNet (Zhang et al., 2022, arXiv 2203.13278), DRUNet (Zhang et al., 2021, arXiv 2008.13751), DnCNN and
FDnCNN (Zhang et al., 2017, arXiv 1608.03981). Through deepinv: Restormer (Zamir et al., 2022, arXiv 2111.09881).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ambient_solve.errors import AmbientSolveError, reason

KNOWN = ("SwinIR", "SCUNet", "DRUNet", "DnCNN")
"""The architectures that are denoisers, as spandrel calls them."""
RESTORMER = "encoder_level1.0.attn.temperature"
"""A tensor by whose name a Restormer is known."""
LEVELS = ("encoder_level1", "encoder_level2", "encoder_level3", "latent")
"""The levels of a Restormer, as its tensors name them."""
EXPANSION = 2.66
"""Share of a block's channels by which its middle is wider, in the paper of Restormer."""
SIGMA_MAX = 2 * 50 / 255
"""Highest level in units of [-1, 1] at which their authors trained them: 50 of 255."""


@final
class RestorationNetwork(nn.Module):
    """A restoration network as `DenoiserPrior` calls it, on pictures of any size.

    Args:
        network: Takes pictures in [0, 1].
        takes_level: Whether it is given a map of the level as one more channel; a blind network is not.
        multiple: Height and width that it takes are multiples of this.
        least: Height and width that it takes, at least.
        square: Whether they are the same.
    """

    def __init__(
        self, network: nn.Module, takes_level: bool, multiple: int = 1, least: int = 0, square: bool = False
    ) -> None:
        super().__init__()
        self.network, self.takes_level = network, takes_level
        self.multiple, self.least, self.square = multiple, least, square

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The restored pictures.

        Args:
            x: Pictures in [0, 1], (B, C, H, W).
            sigma: Their level, (B,); a blind network is not shown it.

        Returns:
            The shape of `x`.
        """
        height, width = x.shape[-2:]
        rows, columns = (-(-max(n, self.least) // self.multiple) * self.multiple for n in (height, width))
        if self.square:
            rows = columns = max(rows, columns)
        u = _extended(x, rows - height, columns - width)
        if self.takes_level:
            u = torch.cat([u, sigma[:, None, None, None].to(u).expand(-1, 1, rows, columns)], 1)
        return self.network(u)[..., :height, :width]


def _extended(x: Tensor, rows: int, columns: int) -> Tensor:
    """More rows and columns behind the last ones: those before them, in turn, and then the last again."""
    height, width = x.shape[-2:]
    near = (min(rows, height - 1), min(columns, width - 1))
    if any(near):
        x = F.pad(x, (0, near[1], 0, near[0]), mode="reflect")
    far = (rows - near[0], columns - near[1])
    return F.pad(x, (0, far[1], 0, far[0]), mode="replicate") if any(far) else x


def read_restoration(state: Mapping[str, Tensor]) -> tuple[RestorationNetwork, int, str]:
    """A restoration network with its weights.

    Args:
        state: Tensors by name.

    Returns:
        The network; the channels of its pictures; what it is called.

    Raises:
        AmbientSolveError: spandrel is not installed, or this is no denoiser that it knows.
    """
    try:
        import spandrel
    except ImportError:
        raise AmbientSolveError("This kind needs spandrel: pip install 'ambient-solve[spandrel]'.") from None
    if RESTORMER in state:
        raise AmbientSolveError("The checkpoint is a Restormer, which is read without spandrel: take --kind deepinv.")
    try:
        found: Any = spandrel.ModelLoader().load_from_state_dict(dict(state))
    except spandrel.UnsupportedModelError:
        raise AmbientSolveError(
            f"The checkpoint is no network that spandrel knows; {', '.join(KNOWN)} are read. Choose another --kind."
        ) from None
    except Exception as error:  # noqa: BLE001 - spandrel raises whatever its networks raise
        raise AmbientSolveError(
            f"The checkpoint fits no network of spandrel ({reason(error)}); one of {', '.join(KNOWN)} was expected."
        ) from None
    name, network = found.architecture.id, found.model
    channels, out, size = found.input_channels, found.output_channels, found.size_requirements
    if name not in KNOWN or found.scale != 1 or channels != out:
        raise AmbientSolveError(
            f"The checkpoint is a {name} that makes {out} channels of {channels}, enlarged by {found.scale}; a "
            f"denoiser, which keeps both, was expected: {', '.join(KNOWN)}."
        )
    takes_level = name == "DRUNet" or getattr(network, "mode", "") == "FDnCNN"
    return RestorationNetwork(network, takes_level, size.multiple_of, size.minimum, size.square), channels, name


def read_restormer(shapes: Mapping[str, tuple[int, ...]]) -> tuple[RestorationNetwork, int]:
    """A Restormer without its weights.

    Args:
        shapes: Of the tensors of a checkpoint, by name.

    Returns:
        The network, on the meta device, and the channels of its pictures.

    Raises:
        AmbientSolveError: the shapes are none of a Restormer that denoises.
    """
    import deepinv

    def count(part: str) -> int:
        return sum(n.startswith(f"{part}.") and n.endswith(".attn.temperature") for n in shapes)

    try:
        width, taken = shapes["patch_embed.proj.weight"][:2]
        given, hidden = shapes["output.weight"][0], shapes["encoder_level1.0.ffn.project_out.weight"][1]
        heads = [shapes[f"{level}.0.attn.temperature"][0] for level in LEVELS]
        with torch.device("meta"):
            network = deepinv.models.Restormer(
                in_channels=taken,
                out_channels=given,
                dim=width,
                num_blocks=[count(level) for level in LEVELS],
                num_refinement_blocks=count("refinement"),
                heads=heads,
                ffn_expansion_factor=EXPANSION if int(width * EXPANSION) == hidden else hidden / width,
                bias="encoder_level1.0.attn.qkv.bias" in shapes,
                LayerNorm_type="WithBias" if "encoder_level1.0.norm1.body.bias" in shapes else "BiasFree",
                pretrained=None,
            )
    except (KeyError, IndexError, ValueError, ZeroDivisionError, RuntimeError) as error:
        raise AmbientSolveError(f"The checkpoint is no whole Restormer ({reason(error)}): copy it again.") from None
    if taken != given:
        raise AmbientSolveError(
            f"This Restormer makes {given} channels of {taken}; a denoiser, which keeps them, was expected."
        )
    return RestorationNetwork(network, takes_level=False, multiple=8, least=8), taken


def what_is_lost(takes_level: bool) -> str:
    """What a restoration network is not, as a prior, in sentences for the model card.

    Args:
        takes_level: Whether it is given the level.
    """
    level = (
        "It is given the noise level."
        if takes_level
        else "It is blind: it guesses the noise level from the picture and is not given the one that the sampler asks "
        "for. At a level other than those of its training, its answer is no posterior mean."
    )
    return (
        f"{level} It is a denoiser of low noise and no generator: levels up to {SIGMA_MAX:.2g} (50 of 255) are taken "
        "as good, sampling starts there, and the samples lean on the measurement. What else than noise it was trained "
        "to remove, such as blocks of JPEG, the file does not say; a prior that removes more than noise is biased."
    )
