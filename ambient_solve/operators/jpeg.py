"""JPEG compression as a non-linear measurement operator."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from deepinv.physics import GaussianNoise, Physics
from deepinv.physics.noise import NoiseModel
from torch import Tensor

from ambient_solve.errors import AmbientSolveError

SUBSAMPLING = ("4:4:4", "4:2:0")
"""Chroma subsampling: none, or by two along both axes."""

# ITU-T T.81, annex K, tables K.1 (luminance) and K.2 (chrominance).
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
"""Quantisation of the luminance at quality 50, by frequency."""
CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
)
"""Quantisation of the chrominance at quality 50, by frequency."""

# JFIF 1.02: full-range BT.601, rows Y, Cb, Cr.
TO_YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
"""Matrix from RGB to YCbCr."""


class Jpeg(Physics):
    """The picture that a JPEG file of `quality` decodes to: `x` (B, 1 or 3, H, W) in [0, 1] to `y` of the same shape.

    Color transform, chroma subsampling, 8 x 8 cosine transform, quantization, and all of it back, as libjpeg does (box
    average down, triangle filter up, 8-bit samples between the steps). Sizes that are not whole blocks are continued by
    their edge. The entropy coder is left out, it loses nothing.

    The gradient is straight-through: rounding counts as the identity, so the Jacobian is that of the linear steps,
    except where a sample leaves [0, 255] and is clamped.

    Args:
        quality: 1 to 100, libjpeg's scale.
        subsampling: "4:2:0" (chroma at half resolution, what most files have) or "4:4:4".
        img_size: (C, H, W) of the images, if known.
        noise_model: A file has no noise besides the rounding, which is inside `A`. `GaussianNoise(sigma)` is nominal:
            it says how closely a reconstruction must reproduce the decoded picture; .02 is about 5 gray levels.
    """

    def __init__(
        self,
        quality: int = 10,
        subsampling: str = "4:2:0",
        img_size: tuple[int, int, int] | None = None,
        noise_model: NoiseModel | None = None,
    ) -> None:
        if isinstance(quality, bool) or not isinstance(quality, int) or not 1 <= quality <= 100:
            raise AmbientSolveError(f"quality={quality!r} was given, a whole number from 1 to 100 was expected.")
        if subsampling not in SUBSAMPLING:
            raise AmbientSolveError(f"subsampling={subsampling!r} was given, one of {SUBSAMPLING} was expected.")
        super().__init__(noise_model=noise_model or GaussianNoise(0.02))
        self.quality, self.subsampling, self.img_size = quality, subsampling, img_size
        self.register_buffer("tables", quantisation_tables(quality), persistent=False)
        self.register_buffer("dct", dct_matrix(), persistent=False)
        colour = torch.tensor(TO_YCBCR, dtype=torch.float64)
        self.register_buffer("to_ycbcr", colour.float(), persistent=False)
        self.register_buffer("to_rgb", colour.inverse().float(), persistent=False)
        self.register_buffer("offset", torch.tensor([0.0, 128.0, 128.0]).reshape(3, 1, 1), persistent=False)

    def A(self, x: Tensor, **_: object) -> Tensor:
        """Compress and decode. deepinv hands every keyword of `physics(x, ...)` to `A`; none has a meaning here."""
        if x.ndim != 4 or x.shape[1] not in (1, 3):
            raise AmbientSolveError(f"x has shape {tuple(x.shape)}; JPEG takes (B, 3, H, W), or (B, 1, H, W) for grey.")
        samples = 255 * x
        if x.shape[1] == 1:
            return self._code(_round(samples), self.tables[0]) / 255
        samples = _round(torch.einsum("ij,bjhw->bihw", self.to_ycbcr, samples) + self.offset)
        coded = torch.cat([self._code(samples[:, :1], self.tables[0]), self._chroma(samples[:, 1:])], 1)
        return _round(torch.einsum("ij,bjhw->bihw", self.to_rgb, coded - self.offset)).clamp(0, 255) / 255

    def _chroma(self, chroma: Tensor) -> Tensor:
        if self.subsampling == "4:4:4":
            return self._code(chroma, self.tables[1])
        height, width = chroma.shape[-2:]
        small = self._code(_round(F.avg_pool2d(_continue(chroma, 2), 2)), self.tables[1])
        # The triangle filter of libjpeg (weights 3/4, 1/4, edge repeated) is bilinear interpolation by 2.
        large = F.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False)
        return large[..., :height, :width]

    def _code(self, planes: Tensor, table: Tensor) -> Tensor:
        """Quantise `planes` (B, C, H, W), whole numbers in [0, 255], block by block; the same again."""
        height, width = planes.shape[-2:]
        whole = _continue(planes - 128, 8)
        blocks = whole.reshape(*whole.shape[:2], whole.shape[2] // 8, 8, whole.shape[3] // 8, 8)
        coefficients = torch.einsum("ui,bchiwj,vj->bchwuv", self.dct, blocks, self.dct) / table
        blocks = torch.einsum("ui,bchwuv,vj->bchiwj", self.dct, _round(coefficients) * table, self.dct)
        return _round(blocks.reshape(whole.shape)[..., :height, :width] + 128).clamp(0, 255)


def quantisation_tables(quality: int) -> Tensor:
    """The luminance and chrominance steps of libjpeg's `quality`, (2, 8, 8)."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    base = torch.tensor((LUMINANCE, CHROMINANCE))
    return ((base * scale + 50) // 100).clamp(1, 255).float()


def dct_matrix() -> Tensor:
    """The orthonormal 8-point cosine transform (DCT-II), (8, 8), frequency first."""
    k = torch.arange(8, dtype=torch.float64)
    matrix = torch.cos(math.pi / 8 * k[:, None] * (k + 0.5)) / 2
    matrix[0] /= math.sqrt(2)
    return matrix.float()


def _round(x: Tensor) -> Tensor:
    """Straight-through: the value is rounded, the derivative that of the unrounded."""
    return x + (x.round() - x).detach()


def _continue(planes: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column until both sides are multiples of `multiple`."""
    return F.pad(planes, (0, -planes.shape[-1] % multiple, 0, -planes.shape[-2] % multiple), mode="replicate")
