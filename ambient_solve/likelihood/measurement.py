"""The boundary of a likelihood: what a user may hand in, checked, and brought into one form.

Any measurement becomes one real float32 tensor, (B, ...), and any operator a copy of its own in float32 on one device.
What does not fit together is said in a sentence, before the first network call.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from deepinv.physics import Physics
from deepinv.physics.noise import NoiseModel
from deepinv.utils import TensorList
from torch import Tensor, nn

from ambient_solve.errors import AmbientSolveError, first_line

Measurement = Tensor | TensorList
"""What a deepinv operator returns, the batch axis first."""


def check_measurement(y: Any, op: Any, n_samples: int, cg_iterations: int) -> None:
    """Check `y`, `op` and the counts, each by itself.

    Args:
        y: A measurement, (B, *measurement) real or complex, or a `TensorList`.
        op: A deepinv physics.
        n_samples: 1 or more.
        cg_iterations: 1 or more.

    Raises:
        AmbientSolveError: one of them is not what it should be.
    """
    if not isinstance(op, Physics):
        raise AmbientSolveError(
            f"op is a {name_of(op)}, a deepinv physics was expected. ambient_solve.operators builds common ones; "
            "wrap a function of your own as deepinv.physics.LinearPhysics(A=..., img_size=(C, H, W)) or Physics(A=...)."
        )
    for part in y.x if isinstance(y, TensorList) else [y]:
        problem = None
        if not isinstance(part, Tensor):
            problem = f"y is a {name_of(part)}, a tensor (B, ...) was expected; torch.as_tensor(y) makes one."
        elif not (part.is_floating_point() or part.is_complex()):
            problem = f"y is {part.dtype}, floating point was expected; for 8-bit pictures pass y.float() / 255."
        elif part.ndim < 2 or part.numel() == 0:
            problem = f"y has shape {tuple(part.shape)}, a batch (B, ...) was expected; y[None] is a batch of one."
        elif not bool(torch.isfinite(part).all()):
            problem = "y has NaN or infinite entries. Pass y.nan_to_num() and mask those entries out of the operator."
        if problem:
            raise AmbientSolveError(problem)
    for name, value in (("n_samples", n_samples), ("cg_iterations", cg_iterations)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise AmbientSolveError(f"{name}={value!r} was given, a whole number of at least 1 was expected.")


def find_image_shape(
    op: Physics, make_image: Callable[[], Tensor], forward: Callable[[Tensor], Tensor], y: Tensor
) -> tuple[int, ...]:
    """The shape of one image, after a forward pass has shown that `op` and `y` fit together."""
    try:
        image = make_image()
        shape = tuple(forward(image).shape)
    except AmbientSolveError:
        raise
    except Exception as error:  # deepinv and torch raise half a dozen types for a shape that does not fit
        problem = first_line(error, 160)
    else:
        if shape == tuple(y.shape):
            return tuple(image.shape[1:])
        problem = f"it measures {shape} from an image of shape {tuple(image.shape)}"
    size = getattr(op, "img_size", None) or getattr(op, "imsize", None)
    built = f" It was built for images of shape {tuple(size)}." if size is not None else ""
    raise AmbientSolveError(
        f"y of shape {tuple(y.shape)} does not fit {name_of(op)}: {problem}.{built} "
        "Pass y as op(x) returns it, batch axis first."
    ) from None


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
            moved = value.detach().to(device)
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


def pack(y: Measurement) -> Tensor:
    """Any measurement as one real float32 tensor: complex parts as pairs, a list as one long row per image."""
    if isinstance(y, TensorList):
        return torch.cat([pack(part).flatten(1) for part in y.x], 1)
    return torch.view_as_real(y.resolve_conj()).float() if y.is_complex() else y.float()


def unpack(rows: Tensor, like: Measurement) -> Measurement:
    """The inverse of `pack` for any number of rows; `like` gives the shapes and the kind."""
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
