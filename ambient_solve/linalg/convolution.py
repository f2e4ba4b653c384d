r"""Periodic convolution by FFT, all of it, every f-th entry, or a corner: what blur and super-resolution are.

    A x = (h * x)[::f, ::f]   or   (h * x)[:m, :n],      A'u = h~ * stuffed(u)

with `h~` the kernel turned round and `stuffed` the picture that has zeros where A did not look. The corner is that of
a blur which sees no further than the picture: its kernel, shifted, never wraps round. As with the Gram matrix, whether
an operator has this form is found by measurement, not by its class; the products of some classes take many times as
long, and a level of `proximal` is little else.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from ambient_solve.linalg.gram import TOLERANCE, Operator, Scalar


@final
class Convolution:
    """`A` for rows of images (N, C, H, W).

    Args:
        spectrum: Half-plane transform of the kernel, (1 or N, 1 or C, H, W // 2 + 1), complex.
        size: H and W of an image.
        seen: Rows and columns of a measurement.
    """

    def __init__(self, spectrum: Tensor, size: tuple[int, int], seen: tuple[int, int]) -> None:
        self.spectrum, self.size, self.seen = spectrum, size, seen
        self._known: tuple[Tensor | None, Tensor | None] = (None, None)
        thinned = seen != size and all(n % m == 0 for n, m in zip(size, seen, strict=True))
        self.factor = tuple(n // m for n, m in zip(size, seen, strict=True)) if thinned else None
        self.gram = spectrum.abs().square()
        # A view that is marked as conjugate would be conjugated anew in every product.
        self.adjoint = spectrum.conj().resolve_conj()
        if self.factor:
            # Rows in blocks, and the columns of a half-plane: what a transform is repeated over.
            self.adjoint = self.adjoint.unflatten(-2, (self.factor[0], seen[0]))
            self.columns = torch.arange(spectrum.shape[-1], device=spectrum.device) % seen[1]
            delta = spectrum.real.new_zeros(*spectrum.shape[:2], *seen)
            delta[..., 0, 0] = 1
            self.gram = torch.fft.fft2(self.A(self.At(delta))).real.clamp_min(0)

    def A(self, x: Tensor) -> Tensor:
        """One pair of FFTs."""
        return self._look(self._inverse(self.spectrum * torch.fft.rfft2(x)))

    def At(self, u: Tensor) -> Tensor:
        """One pair of FFTs."""
        if self.factor:
            return self._lifted(torch.fft.fft2(u))
        return self._inverse(self.adjoint * torch.fft.rfft2(u, s=self.size))

    def pull(self, f: Scalar, y: Tensor, v: Tensor) -> Tensor:
        """`A' f(AA') (y - A v)`, the step of a proximal point from `v`.

        Args:
            f: Function of the eigenvalues of AA'.
            y: Measurement, (B, C, H, W).
            v: Where it starts, (B, C, H, W).

        Returns:
            (B, C, H, W). Not for an operator that measures only a corner: its AA' is another.
        """
        if self.factor is None:
            if self._known[0] is not y:  # at most levels it is the measurement, as before
                self._known = (y, torch.fft.rfft2(y))
            r = self._known[1] - self.spectrum * torch.fft.rfft2(v)
            return self._inverse(self.adjoint * f(self.gram) * r)
        r = torch.fft.fft2(y - self.A(v))
        return self._lifted(f(self.gram) * r)

    def repeat(self, n_samples: int) -> Convolution:
        """The same for `n_samples` consecutive rows per image."""
        if len(self.spectrum) == 1:
            return self
        return Convolution(self.spectrum.repeat_interleave(n_samples, 0), self.size, self.seen)

    def _look(self, image: Tensor) -> Tensor:
        if self.factor:
            return image[..., :: self.factor[0], :: self.factor[1]]
        return image[..., : self.seen[0], : self.seen[1]]

    def _lifted(self, transform: Tensor) -> Tensor:
        """`A'u` from the transform of `u`: that of the stuffed picture is the same, repeated."""
        stuffed = transform.index_select(-1, self.columns).unsqueeze(-3)
        return self._inverse((self.adjoint * stuffed).flatten(-3, -2))

    def _inverse(self, transform: Tensor) -> Tensor:
        return torch.fft.irfft2(transform, s=self.size)


def find_convolution(A: Operator, At: Operator, y_like: Tensor, image: tuple[int, ...]) -> Convolution | None:
    """The convolution that reproduces A and A' on random rows to a relative error of 1e-5, or None.

    Args:
        A: The operator on rows of images (B, C, H, W).
        At: Its adjoint.
        y_like: A real tensor of the measurement's shape (B, C, h, w); its values are not used.
        image: (C, H, W) of one image.

    Returns:
        The convolution; None where no convolution is these operators.
    """
    seen = tuple(y_like.shape[2:])
    fits = y_like.ndim == 4 and len(image) == 3 and image[0] == y_like.shape[1]
    if not fits or any(m > n for m, n in zip(seen, image[1:], strict=True)):
        return None
    delta = torch.zeros_like(y_like)
    delta[..., 0, 0] = 1
    spectrum = torch.fft.rfft2(At(delta)).conj()
    for axis in (0, 1):
        if bool((spectrum == spectrum.narrow(axis, 0, 1)).all()):
            spectrum = spectrum.narrow(axis, 0, 1)
    found = Convolution(spectrum, (image[1], image[2]), (seen[0], seen[1]))
    generator = torch.Generator().manual_seed(0)
    x, u = (torch.randn(shape, generator=generator).to(y_like) for shape in ((len(y_like), *image), y_like.shape))
    pairs = ((found.A(x), A(x)), (found.At(u), At(u)))
    return found if all(bool((a - b).norm() <= TOLERANCE * b.norm()) for a, b in pairs) else None
