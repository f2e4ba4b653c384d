"""The door into a likelihood: what a user may hand in, checked, and brought into one form.

What does not fit together is said in a sentence, before the first network call.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from deepinv.physics import LinearPhysics, Physics
from deepinv.utils import TensorList
from torch import Tensor

from ambient_solve.errors import AmbientSolveError, first_line
from ambient_solve.likelihood.packed import Measurement, RowOperator, name_of, pack, parts_of, plain


@final
@dataclass(frozen=True, eq=False)
class Received:
    """A measurement and its operator, which fit together, on one device.

    Attributes:
        y: The measurement, (B, *measurement) real float32: complex entries as pairs, stacked ones as one long row.
        operator: The operator on such rows.
        image_shape: (C, *spatial) of one image.
        seen: The entries of `y` that see anything, bool in its shape; all of them where the operator is not linear.
    """

    y: Tensor
    operator: RowOperator
    image_shape: tuple[int, ...]
    seen: Tensor

    def weighted(self, weights: Tensor) -> Received:
        """The same with entries times `weights` (1 or B, *measurement), of which 0 sees nothing."""
        weights = weights.to(self.y.device)
        self.operator.weights = weights
        return dataclasses.replace(self, y=self.y * weights, seen=self.seen & (weights > 0))


@torch.no_grad()
def receive(y: Measurement, op: Physics, device: torch.device) -> Received:
    """Check that `y` and `op` fit together, and bring them into one form on `device`.

    Args:
        y: What `op` returns: (B, *measurement), real or complex, or a `TensorList`, on any device.
        op: A deepinv physics, on any device. Neither is changed.
        device: Where the likelihood works.

    Returns:
        Both, in float32.

    Raises:
        AmbientSolveError: one of them is not what it should be, or they do not fit together.
    """
    _check(y, op)
    template = TensorList([plain(part.detach()).to(device) for part in parts_of(y)])
    template = template if isinstance(y, TensorList) else template.x[0]
    packed, operator = pack(template).contiguous(), RowOperator(op, template)
    if isinstance(op, LinearPhysics):
        shape = _find_image_shape(op, lambda: operator.At(packed), operator.A, packed)
        return Received(packed, operator, shape, _probe(operator, packed))
    size = tuple(getattr(op, "img_size", None) or packed.shape[1:])
    shape = _find_image_shape(op, lambda: packed.new_zeros(len(packed), *size), operator.A, packed)
    return Received(packed, operator, shape, torch.ones_like(packed, dtype=torch.bool))


def check_counts(least: int = 1, **counts: Any) -> None:
    """Refuse what is no whole number of at least `least`.

    Args:
        least: The smallest that makes sense.
        counts: Numbers by the name that the caller gave them.

    Raises:
        AmbientSolveError: one of them is something else.
    """
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise AmbientSolveError(f"{name}={value!r} was given, a whole number of at least {least} was expected.")


def _check(y: Any, op: Any) -> None:
    """Check `y` and `op`, each by itself."""
    if not isinstance(op, Physics):
        raise AmbientSolveError(
            f"op is a {name_of(op)}, a deepinv physics was expected. ambient_solve.operators builds common ones; "
            "wrap a function of your own as deepinv.physics.LinearPhysics(A=..., img_size=(C, H, W)) or Physics(A=...)."
        )
    for part in parts_of(y):
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


def _find_image_shape(
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


def _probe(operator: RowOperator, y: Tensor) -> Tensor:
    """Entries of `y` that see anything: an all-zero row of A gives exactly 0 in A x, for any x. Also checks A'."""
    generator = torch.Generator().manual_seed(0)
    seen = torch.zeros_like(y, dtype=torch.bool)
    for _ in range(2):
        u = torch.randn(y.shape, generator=generator).to(y)
        x = operator.At(u)
        image = operator.A(x)
        seen |= image != 0
        wanted = float(x.square().sum())
        if abs(float((image * u).sum()) - wanted) > 0.05 * wanted:
            raise AmbientSolveError(
                f"A_adjoint of {name_of(operator.op)} is not the adjoint of its A. "
                "LinearPhysics(A=..., img_size=(C, H, W)) without A_adjoint derives the right one."
            )
    return seen
