"""Numbers of a network that are none: NaN and infinite weights, which would make black pictures."""

from __future__ import annotations

from torch import nn

from ambient_solve.errors import AmbientSolveError


def require_finite(network: nn.Module, where: object) -> None:
    """Raise unless all weights and buffers of a network are finite.

    Args:
        network: Any module.
        where: What the sentence calls it, such as its folder.

    Raises:
        AmbientSolveError: one of them is NaN or infinite; the sentence says which.
    """
    for name, tensor in network.state_dict().items():
        if (tensor.is_floating_point() or tensor.is_complex()) and not bool(tensor.isfinite().all()):
            count = int((~tensor.isfinite()).sum())
            raise AmbientSolveError(
                f"{where}: {count} of the {tensor.numel()} numbers of {name} are NaN or infinite: its training has "
                "diverged, or the file is damaged. Take an earlier checkpoint, or copy it again."
            )
