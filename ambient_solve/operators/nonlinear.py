"""Non-linear measurements that deepinv lacks: clipping, quantization, blur behind a camera's response, diffraction.

Images are in [0, 1]. Each is a deepinv physics whose gradient automatic differentiation finds; what rounds has the
straight-through gradient, as `Jpeg` does.
"""

from __future__ import annotations

import math

import torch
from deepinv.physics import GaussianNoise, LinearPhysics, Physics
from deepinv.physics.noise import NoiseModel
from torch import Tensor

from ambient_solve.errors import AmbientSolveError


class Clipping(Physics):
    """High dynamic range: `y = clip(pivot + factor (x - pivot), 0, 1)`, what is too bright or too dark is lost.

    With factor 2 and pivot 1/2 it is the task of Mardani et al. (2023, arXiv 2305.04391) and of DAPS; pivot 0 is an
    exposure `factor` times too long, pivot 1 one that loses the shadows. The derivative is `factor`, 0 where clipped.

    Args:
        factor: Of the contrast, > 0.
        pivot: Gray value that stays, 0 to 1.
        img_size: (C, H, W) of the images, if known.
        noise_model: Added after the clipping; by default Gaussian noise of .02.

    Raises:
        AmbientSolveError: a value is out of its range.
    """

    def __init__(
        self,
        factor: float = 2.0,
        pivot: float = 0.5,
        img_size: tuple[int, int, int] | None = None,
        noise_model: NoiseModel | None = None,
    ) -> None:
        if not (factor > 0 and math.isfinite(factor)) or not 0 <= pivot <= 1:
            raise AmbientSolveError(
                f"factor={factor}, pivot={pivot} was given; a factor above 0 and a pivot in [0, 1] were expected."
            )
        super().__init__(noise_model=noise_model or GaussianNoise(0.02))
        self.factor, self.pivot, self.img_size = float(factor), float(pivot), img_size

    def A(self, x: Tensor, **_: object) -> Tensor:
        """Stretch and clip. deepinv hands every keyword of `physics(x, ...)` to `A`; none has a meaning here."""
        return (self.pivot + self.factor * (x - self.pivot)).clamp(0, 1)


class Quantization(Physics):
    """`y = round((2^bits - 1) x) / (2^bits - 1)`, clamped to [0, 1]: so few gray levels that they show.

    The gradient is straight-through: rounding counts as the identity, except where x leaves [0, 1] and is clamped.

    Args:
        bits: 1 to 8, of each channel.
        img_size: (C, H, W) of the images, if known.
        noise_model: The rounding is inside `A`. `GaussianNoise(sigma)` says how closely the levels must be reproduced.
    """

    def __init__(
        self, bits: int = 2, img_size: tuple[int, int, int] | None = None, noise_model: NoiseModel | None = None
    ) -> None:
        if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 8:
            raise AmbientSolveError(f"bits={bits!r} was given, a whole number from 1 to 8 was expected.")
        super().__init__(noise_model=noise_model or GaussianNoise(0.02))
        self.bits, self.img_size = bits, img_size

    def A(self, x: Tensor, **_: object) -> Tensor:
        """Round to the nearest of the `2^bits` levels (see `Clipping.A` for the keywords)."""
        steps = 2**self.bits - 1
        scaled = x.clamp(0, 1) * steps
        return (scaled + (scaled.round() - scaled).detach()) / steps


class CameraBlur(Physics):
    """A blur of light, seen through the response curve of a camera: `y = encode(blur(decode(x)))`.

    A shutter adds up light, not gray values: `decode` is the curve of sRGB (IEC 61966-2-1), from gray values to light,
    `encode` its inverse (the model of Nah et al., 2017, arXiv 1612.02177, section 3.1, with the standard's curve for
    their power 2.2). Where dark meets bright it is far from linear: a bright point keeps its streak.

    Args:
        blur: A linear operator that keeps the brightness, such as `motion_blur(img_size)`; its noise is not used.
        noise_model: Added to the gray values.
    """

    def __init__(self, blur: LinearPhysics, noise_model: NoiseModel | None = None) -> None:
        if not isinstance(blur, LinearPhysics):
            raise AmbientSolveError(
                f"blur is a {type(blur).__name__}, a linear operator such as motion_blur((3, 64, 64)) was expected."
            )
        super().__init__(noise_model=noise_model or GaussianNoise(0.02))
        self.blur, self.img_size = blur, getattr(blur, "img_size", None)

    def A(self, x: Tensor, **_: object) -> Tensor:
        """Gray values to gray values (see `Clipping.A` for the keywords)."""
        return encode(self.blur.A(decode(x)))


class Diffraction(LinearPhysics):
    """The far field of a picture behind a phase plate: `F (phase * x)`, `x` (B, C, H, W) surrounded by zeros.

    The linear part of coded diffraction imaging: `deepinv.physics.PhaseRetrieval(Diffraction(...))` measures its
    intensity. F is orthonormal, so that `sum |F x|^2 = sum x^2`.

    Args:
        img_size: (C, H, W).
        oversampling: Side of the far field over that of the picture; 2 is what determines a picture.
        seed: Of the random phase plate, one for all channels; None is no plate, plain Fourier phase retrieval, which
            cannot tell a picture from its turned or shifted copies.
    """

    def __init__(self, img_size: tuple[int, int, int], oversampling: float = 2.0, seed: int | None = 0) -> None:
        if not (oversampling >= 1 and math.isfinite(oversampling)):
            raise AmbientSolveError(f"oversampling={oversampling} was given, a number of at least 1 was expected.")
        super().__init__(img_size=img_size)
        self.img_size = img_size
        self.field = tuple(round(oversampling * n) for n in img_size[-2:])
        turns = torch.zeros(img_size[-2:])
        if seed is not None:
            turns = torch.rand(img_size[-2:], generator=torch.Generator().manual_seed(seed))
        self.register_buffer("phase", torch.polar(torch.ones_like(turns), 2 * math.pi * turns), persistent=False)

    def A(self, x: Tensor, **_: object) -> Tensor:
        """(B, C, H, W) real or complex to (B, C, *field) complex."""
        return torch.fft.fft2(self.phase * x, s=self.field, norm="ortho")

    def A_adjoint(self, y: Tensor, **_: object) -> Tensor:
        """The adjoint on complex pictures."""
        rows, columns = self.phase.shape
        return self.phase.conj() * torch.fft.ifft2(y, norm="ortho")[..., :rows, :columns]


def decode(gray: Tensor) -> Tensor:
    """Light of sRGB gray values; below 0 the line at 0 goes on."""
    bright = ((gray.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4
    return torch.where(gray > 0.04045, bright, gray / 12.92)


def encode(light: Tensor) -> Tensor:
    """The inverse of `decode`."""
    bright = 1.055 * light.clamp_min(0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(light > 0.0031308, bright, 12.92 * light)
