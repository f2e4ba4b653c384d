"""JPEG compression as a non-linear measurement operator."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from deepinv.physics import GaussianNoise, Physics
from deepinv.physics.noise import NoiseModel
from torch import Tensor

from ambient_solve.errors import AmbientSolveError

SUBSAMPLING = {"4:4:4": (1, 1), "4:2:2": (1, 2), "4:4:0": (2, 1), "4:2:0": (2, 2), "4:1:1": (1, 4)}
"""Chroma subsampling: what height and width of the chroma are divided by."""
SPACES = ("YCbCr", "RGB")
"""Colours that are coded: luminance and chroma, or, which is rare, the colours themselves."""

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

    Both are upright; the blocks lie in the frame of the file, which may be turned (EXIF).

    Color transform, chroma subsampling, 8 x 8 cosine transform, quantization, and all of it back, as libjpeg does (box
    average down, triangle filter up, 8-bit samples between the steps). Sizes that are not whole blocks are continued by
    their edge. The entropy coder is left out, it loses nothing.

    The gradient is straight-through: rounding counts as the identity, so the Jacobian is that of the linear steps,
    except where a sample leaves [0, 255] and is clamped.

    Args:
        quality: 1 to 100, libjpeg's scale.
        subsampling: "4:2:0" (chroma at half resolution, what most files have), or another of `SUBSAMPLING`.
        img_size: (C, H, W) of the images, if known.
        noise_model: A file has no noise besides the rounding, which is inside `A`. `GaussianNoise(sigma)` is nominal:
            it says how closely a reconstruction must reproduce the decoded picture; .02 is about 5 gray levels.
        tables: Quantization steps of a file that are not libjpeg's, one for each component that is coded, (1 or 3, 8,
            8), frequencies of the rows first; in place of those of `quality`.
        orientation: How the file lies, EXIF's number from 1, upright, to 8.
        space: "YCbCr", or "RGB" for a file without luminance and chroma.
        black: Share of black ink of each pixel of a file in printing colors, (H, W), which is known; with `space`
            "RGB".
    """

    nominal_noise = True
    """Whether the noise level is a tolerance and not the law of a noise: the misfit of a good sample need not be 1."""

    def __init__(
        self,
        quality: int = 10,
        subsampling: str = "4:2:0",
        img_size: tuple[int, int, int] | None = None,
        noise_model: NoiseModel | None = None,
        *,
        tables: Tensor | None = None,
        orientation: int = 1,
        space: str = "YCbCr",
        black: Tensor | None = None,
    ) -> None:
        if isinstance(quality, bool) or not isinstance(quality, int) or not 1 <= quality <= 100:
            raise AmbientSolveError(f"quality={quality!r} was given, a whole number from 1 to 100 was expected.")
        if subsampling not in SUBSAMPLING:
            raise AmbientSolveError(f"subsampling={subsampling!r} was given, one of {tuple(SUBSAMPLING)} was expected.")
        if orientation not in range(1, 9):
            raise AmbientSolveError(f"orientation={orientation!r} was given, EXIF's 1 to 8 was expected.")
        if space not in SPACES:
            raise AmbientSolveError(f"space={space!r} was given, one of {SPACES} was expected.")
        super().__init__(noise_model=noise_model or GaussianNoise(0.02))
        self.quality, self.subsampling, self.img_size = quality, subsampling, img_size
        self.orientation, self.space = orientation, space
        tables = quantisation_tables(quality) if tables is None else tables.float()
        self.register_buffer("tables", tables[[0, *[min(i, len(tables) - 1) for i in (1, 2)]]], persistent=False)
        self.register_buffer("black", None if black is None else black.float(), persistent=False)
        self.register_buffer("dct", dct_matrix(), persistent=False)
        colour = torch.tensor(TO_YCBCR, dtype=torch.float64)
        self.register_buffer("to_ycbcr", colour.float(), persistent=False)
        self.register_buffer("to_rgb", colour.inverse().float(), persistent=False)
        self.register_buffer("offset", torch.tensor([0.0, 128.0, 128.0]).reshape(3, 1, 1), persistent=False)

    def A(self, x: Tensor, **_: object) -> Tensor:
        """Compress and decode. deepinv hands every keyword of `physics(x, ...)` to `A`; none has a meaning here."""
        if x.ndim != 4 or x.shape[1] not in (1, 3):
            raise AmbientSolveError(f"x has shape {tuple(x.shape)}; JPEG takes (B, 3, H, W), or (B, 1, H, W) for grey.")
        paper = None if self.black is None else 1 - self.black
        samples = 255 * (x if paper is None else x / paper.clamp_min(1 / 255))
        samples = turned(samples, self.orientation)
        if x.shape[1] == 1:
            decoded = self._code(_round(samples), self.tables[0])
        elif self.space == "RGB":
            planes = _round(samples)
            decoded = torch.cat([self._code(planes[:, i : i + 1], self.tables[i]) for i in range(3)], 1)
        else:
            decoded = self._luminance_and_chroma(samples)
        y = upright(decoded, self.orientation) / 255
        return y if paper is None else y * paper

    def _luminance_and_chroma(self, samples: Tensor) -> Tensor:
        """Colours (B, 3, H, W) in [0, 255], coded as luminance and chroma."""
        samples = _round(torch.einsum("ij,bjhw->bihw", self.to_ycbcr.to(samples), samples) + self.offset)
        coded = torch.cat([self._code(samples[:, :1], self.tables[0]), self._chroma(samples[:, 1:])], 1)
        return _round(torch.einsum("ij,bjhw->bihw", self.to_rgb.to(samples), coded - self.offset)).clamp(0, 255)

    def _chroma(self, chroma: Tensor) -> Tensor:
        height, width = chroma.shape[-2:]
        down, along = SUBSAMPLING[self.subsampling]
        if (down, along) == (1, 1):
            return self._both(chroma)
        whole = F.pad(chroma, (0, -width % along, 0, -height % down), mode="replicate")
        small = self._both(_round(F.avg_pool2d(whole, (down, along))))
        # The triangle filter of libjpeg (weights 3/4, 1/4, edge repeated) is bilinear interpolation by 2.
        smooth = {"mode": "bilinear", "align_corners": False} if max(down, along) == 2 else {"mode": "nearest"}
        return F.interpolate(small, scale_factor=(down, along), **smooth)[..., :height, :width]

    def _both(self, chroma: Tensor) -> Tensor:
        return torch.cat([self._code(chroma[:, i : i + 1], self.tables[1 + i]) for i in range(2)], 1)

    def _code(self, planes: Tensor, table: Tensor) -> Tensor:
        """Quantise `planes` (B, C, H, W), whole numbers in [0, 255], block by block; the same again."""
        height, width = planes.shape[-2:]
        whole = _continue(planes - 128, 8)
        blocks = whole.reshape(*whole.shape[:2], whole.shape[2] // 8, 8, whole.shape[3] // 8, 8)
        dct = self.dct.to(planes)
        coefficients = torch.einsum("ui,bchiwj,vj->bchwuv", dct, blocks, dct) / table
        blocks = torch.einsum("ui,bchwuv,vj->bchiwj", dct, _round(coefficients) * table, dct)
        return _round(blocks.reshape(whole.shape)[..., :height, :width] + 128).clamp(0, 255)


def upright(x: Tensor, orientation: int) -> Tensor:
    """Turn a picture upright.

    Args:
        x: (..., H, W), lying as `orientation` says.
        orientation: That of EXIF, 1 to 8.

    Returns:
        (..., H, W), or (..., W, H) from 5 on.
    """
    if orientation in (2, 3, 4):
        return x.flip({2: (-1,), 3: (-2, -1), 4: (-2,)}[orientation])
    if orientation in (5, 7):
        return x.mT if orientation == 5 else x.mT.flip(-2, -1)
    return x.rot90({1: 0, 6: -1, 8: 1}[orientation], (-2, -1))


def turned(x: Tensor, orientation: int) -> Tensor:
    """Lay an upright picture as EXIF's `orientation` says: the inverse of `upright`.

    Args:
        x: (..., H, W), upright.
        orientation: That of EXIF, 1 to 8.

    Returns:
        (..., H, W), or (..., W, H) from 5 on.
    """
    return upright(x, {6: 8, 8: 6}.get(orientation, orientation))


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
