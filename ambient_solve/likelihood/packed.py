"""One form for every measurement and operator: rows of real float32 numbers, and an operator on such rows.

Complex entries become pairs, stacked measurements one long row per image, an operator a copy of its own on one device.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeAlias, final

import torch
from deepinv.physics import Physics
from deepinv.physics.noise import NoiseModel
from deepinv.utils import TensorList
from torch import Tensor, nn

from ambient_solve.errors import AmbientSolveError

Measurement: TypeAlias = Tensor | TensorList
"""What a deepinv operator returns, the batch axis first."""


@final
class RowOperator:
    """An operator on rows, B of them or B * S, image-major; parameters of image b meet rows of image b only.

    Args:
        op: A deepinv physics, which is not changed.
        template: A measurement of B images, on the device to work on; it gives shapes and kind.

    Attributes:
        op: A copy of `op` in float32, on that device.
        images: B.
        weights: Factors of the entries of the measurement, (1 or B, *measurement); None is 1 everywhere.
    """

    weights: Tensor | None = None

    def __init__(self, op: Physics, template: Measurement) -> None:
        first = parts_of(template)[0]
        tensors: list[Tensor] = []
        self.op: Any = frozen_copy(op, first.device, tensors, {})
        self.images, self._template = len(first), template
        self._per_image = self.images > 1 and any(t.ndim and len(t) == self.images for t in tensors)

    def apply(self, function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        """Apply a function of the operator, which takes B rows, to any number of rows.

        Args:
            function: From B rows to B rows, such as `A`.
            rows: (B, ...) or (B * S, ...), the S rows of an image side by side.

        Returns:
            What the function makes of each row.
        """
        if not self._per_image or len(rows) == self.images:
            return function(rows)
        grouped = rows.reshape(self.images, -1, *rows.shape[1:])
        return torch.stack([function(part.contiguous()) for part in grouped.unbind(1)], 1).flatten(0, 1)

    def A(self, x: Tensor) -> Tensor:
        """What is measured of images `x`: (N, C, *spatial) to (N, *measurement)."""
        return self._weighted(self.apply(lambda rows: pack(self.op.A(rows)), x))

    def At(self, u: Tensor) -> Tensor:
        """The adjoint of a linear operator: (N, *measurement) to (N, C, *spatial)."""
        return self.apply(lambda rows: real(self.op.A_adjoint(unpack(rows, self._template))), self._weighted(u))

    def _weighted(self, u: Tensor) -> Tensor:
        """Rows of measurements (N, *measurement), each entry times its weight."""
        if self.weights is None:
            return u
        return u * self.weights.repeat_interleave(len(u) // len(self.weights), 0)


def parts_of(y: Measurement) -> list[Tensor]:
    """The measurements of stacked operators, or the only one."""
    return list(y.x) if isinstance(y, TensorList) else [y]


def frozen_copy(
    module: nn.Module, device: torch.device, tensors: list[Tensor], copies: dict[int, nn.Module]
) -> nn.Module:
    """A shallow copy of an operator, which shares its parameters, in float32 on `device`.

    deepinv's `A` and `A_adjoint` assign attributes and buffers (image sizes, the transform of the filter). On the copy
    this does not reach the user's operator. The noise model has no part in `A`.

    Args:
        module: The operator, or a part of it.
        device: Where the copy works.
        tensors: Collects the tensors of the copy.
        copies: Parts that are copied already, by `id`: a part that is used in two places is copied once.

    Returns:
        The copy.
    """
    if isinstance(module, NoiseModel):
        return module
    if id(module) in copies:
        return copies[id(module)]

    def convert(value: Any) -> Any:
        if isinstance(value, nn.Module):
            return frozen_copy(value, device, tensors, copies)
        if isinstance(value, Tensor):
            moved = plain(value.detach()).to(device)
            moved = moved.to(torch.complex64) if moved.is_complex() else moved
            tensors.append(moved.float() if moved.is_floating_point() else moved)
            return tensors[-1]
        if isinstance(value, (list, tuple)) and value and all(isinstance(v, nn.Module) for v in value):
            return type(value)(convert(v) for v in value)
        return value

    twin = copies[id(module)] = copy.copy(module)
    for name, value in vars(module).items():
        table = name in ("_parameters", "_buffers", "_modules")
        twin.__dict__[name] = {k: convert(v) for k, v in value.items()} if table else convert(value)
    return twin


def plain(tensor: Tensor) -> Tensor:
    """`tensor`; a copy of one that was made in inference mode, which autograd refuses."""
    return tensor.clone() if tensor.is_inference() else tensor


def pack(y: Measurement) -> Tensor:
    """Any measurement as one real float32 tensor: complex parts as pairs, a list as one long row per image."""
    if isinstance(y, TensorList):
        return torch.cat([pack(part).flatten(1) for part in y.x], 1)
    return torch.view_as_real(y.resolve_conj()).float() if y.is_complex() else y.float()


def unpack(rows: Tensor, like: Measurement) -> Measurement:
    """The inverse of `pack`, for any number of rows.

    Args:
        rows: (N, M), as `pack` returns them.
        like: A measurement, which gives the shapes and the kind; its values are not used.

    Returns:
        N measurements of that kind.
    """
    if isinstance(like, TensorList):
        shapes = [(*part.shape[1:], 2) if part.is_complex() else part.shape[1:] for part in like.x]
        pieces = rows.split([torch.Size(shape).numel() for shape in shapes], 1)
        unflat = [piece.reshape(len(rows), *shape) for piece, shape in zip(pieces, shapes, strict=True)]
        return TensorList([unpack(piece, part) for piece, part in zip(unflat, like.x, strict=True)])
    return torch.view_as_complex(rows.contiguous()) if like.is_complex() else rows


def real(x: Tensor) -> Tensor:
    """`x` in float32; a complex image is refused, a prior here has real channels."""
    if x.is_complex():
        raise AmbientSolveError(
            "A_adjoint returned a complex image; build op on (B, 2, H, W), real and imaginary part."
        )
    return x.float()


def name_of(thing: object) -> str:
    """What an error message calls `thing`: the name of its class."""
    return type(thing).__name__
