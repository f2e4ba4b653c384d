r"""What a JPEG file measures, as a linear operator: the cosine coefficients of its blocks, each with noise of its own.

A file holds the coefficients c = T x of a picture, rounded to whole steps q. Where the picture had noise of level s
when it was compressed, the rounding adds about that of a uniform number, so that

    c + e,      e ~ N(0, s^2 |row of T|^2 + q^2 / 12)

is linear and Gaussian: nothing of the network has to be differentiated, and the noise before the compression is where
it belongs, which `Jpeg`, whose noise comes after it, cannot say. It is the better model of a noisy picture that was
compressed, and of a coarse one, too (`python benchmarks/mixed.py --jpeg`).

Blocks with missing pixels have no coefficients; the pixels that are left of them are measured one by one.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from deepinv.physics import GaussianNoise, LinearPhysics
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.operators.jpeg import SPACES, SUBSAMPLING, TO_YCBCR, dct_matrix, quantisation_tables, turned, upright

BLOCK = 8
"""Side of a block, in pixels."""
LEAST = 1 / (255 * math.sqrt(12))
"""Least deviation of a pixel of a file: it was rounded to 8 bits."""
SHARE = 0.5
"""Of the deviation that rounding every coefficient would leave in a pixel: most coefficients are 0, and lose less."""


class JpegCoefficients(LinearPhysics):
    """The coefficients of the blocks of a JPEG, `x` (B, 1 or 3, H, W) in [0, 1] to (B, M), in units of [0, 1].

    First those of the luminance, block by block, then those of the chroma; with a mask, all pixels behind them.
    `measure(y)` gives them for the decoded picture of a file; the noise model holds a level for each.

    Args:
        img_size: (C, H, W), upright; C is 1 or 3.
        quality: 1 to 100, libjpeg's scale.
        sigma: Noise of each channel before the compression, >= 0, for images in [0, 1].
        subsampling: A name of `SUBSAMPLING`.
        tables: Steps in place of those of `quality`, (1 or 3, 8, 8).
        orientation: How the file lies, EXIF's 1 to 8.
        space: "YCbCr", or "RGB" for a file without luminance and chroma.
        mask: Observed pixels (H, W), 1 = observed, or None.
        gray: Whether a gray picture stands in three channels, whose noise is one and the same.

    Raises:
        AmbientSolveError: a value is out of its range.
    """

    nominal_noise = True
    """Rounding takes less from most coefficients than a uniform number has: the misfit of a good sample is below 1."""

    def __init__(
        self,
        img_size: tuple[int, int, int],
        quality: int = 75,
        sigma: float = 0.0,
        subsampling: str = "4:2:0",
        *,
        tables: Tensor | None = None,
        orientation: int = 1,
        space: str = "YCbCr",
        mask: Tensor | None = None,
        gray: bool = False,
    ) -> None:
        if isinstance(quality, bool) or not isinstance(quality, int) or not 1 <= quality <= 100:
            raise AmbientSolveError(f"quality={quality!r} was given, a whole number from 1 to 100 was expected.")
        if subsampling not in SUBSAMPLING or space not in SPACES:
            raise AmbientSolveError(
                f"subsampling={subsampling!r}, space={space!r} were given; one of {tuple(SUBSAMPLING)} and one of "
                f"{SPACES} were expected."
            )
        if len(img_size) != 3 or img_size[0] not in (1, 3) or not sigma >= 0:
            raise AmbientSolveError(
                f"img_size={tuple(img_size)}, sigma={sigma} were given; (1 or 3, H, W) and a level of at least 0 were "
                "expected."
            )
        super().__init__(img_size=tuple(img_size))
        self.img_size, self.orientation = tuple(img_size), orientation
        own = quantisation_tables(quality) if tables is None else tables.float()
        tables = own[[0, *[min(i, len(own) - 1) for i in (1, 2)]]]
        colors = torch.tensor(TO_YCBCR) if space == "YCbCr" else torch.eye(3)
        self.register_buffer("colors", colors if img_size[0] == 3 else torch.ones(1, 1), persistent=False)
        self.register_buffer("dct", dct_matrix(), persistent=False)
        halves = SUBSAMPLING[subsampling] if space == "YCbCr" else (1, 1)
        self.halves = ((1, 1), halves, halves)[: img_size[0]]
        side = turned(torch.empty(img_size[-2:], device="meta"), orientation).shape
        self.file_size = (int(side[0]), int(side[1]))
        """Height and width of the picture as it lies in the file."""
        whole = None if mask is None else self._whole_blocks(turned(mask.float()[None], orientation))
        self.register_buffer("whole", whole, persistent=False)
        self.register_buffer("mask", None if mask is None else mask.float(), persistent=False)
        self.noise_model = GaussianNoise(self._levels(tables, sigma, gray))

    def measure(self, y: Tensor) -> Tensor:
        """What a decoded picture says of the coefficients.

        Args:
            y: The picture of a file, (B, C, H, W) in [0, 1], upright.

        Returns:
            (B, M).
        """
        return self.A(y)

    def A(self, x: Tensor, **_: object) -> Tensor:
        """The coefficients, without any rounding."""
        mixed = torch.einsum("ij,bjhw->bihw", self.colors.to(x), turned(x, self.orientation))
        parts = [self._blocks(self._reduced(mixed[:, i], *half)).flatten(1) for i, half in enumerate(self.halves)]
        found = torch.cat(parts, 1)
        if self.mask is None:
            return found
        return torch.cat([found * self.whole.to(x), (x * self.mask.to(x)).flatten(1)], 1)

    def A_adjoint(self, u: Tensor, **_: object) -> Tensor:
        """The transpose of `A`."""
        pixels = torch.zeros((), dtype=u.dtype, device=u.device)
        if self.mask is not None:
            count = self.whole.numel()
            u, rest = u[:, :count] * self.whole.to(u), u[:, count:]
            pixels = rest.reshape(len(u), *self.img_size) * self.mask.to(u)
        planes = []
        for half in self.halves:
            rows, columns = self._plane(*half)
            part, u = u[:, : rows * columns], u[:, rows * columns :]
            planes.append(self._enlarged(self._unblocks(part, rows, columns), *half))
        mixed = torch.einsum("ij,bihw->bjhw", self.colors.to(planes[0]), torch.stack(planes, 1))
        return upright(mixed, self.orientation) + pixels

    def _plane(self, down: int, along: int) -> tuple[int, int]:
        """Height and width of a plane of whole blocks."""
        height, width = (-(-n // by) for n, by in zip(self.file_size, (down, along), strict=True))
        return height + -height % BLOCK, width + -width % BLOCK

    def _reduced(self, plane: Tensor, down: int, along: int) -> Tensor:
        """A plane (B, H, W) averaged over (down, along) pixels, and continued by its edge to whole blocks."""
        plane = F.pad(plane, (0, -plane.shape[-1] % along, 0, -plane.shape[-2] % down), mode="replicate")
        small = F.avg_pool2d(plane[:, None], (down, along))[:, 0]
        rows, columns = self._plane(down, along)
        return F.pad(small, (0, columns - small.shape[-1], 0, rows - small.shape[-2]), mode="replicate")

    def _enlarged(self, plane: Tensor, down: int, along: int) -> Tensor:
        """The transpose of `_reduced`."""
        height, width = self.file_size
        small = _folded(plane, -(-height // down), -(-width // along))
        whole = small.repeat_interleave(down, 1).repeat_interleave(along, 2) / (down * along)
        return _folded(whole, height, width)

    def _blocks(self, plane: Tensor) -> Tensor:
        """The transforms of the blocks of a plane (B, H, W): (B, H / 8, W / 8, 8, 8), frequencies of the rows first."""
        blocks = plane.unfold(1, BLOCK, BLOCK).unfold(2, BLOCK, BLOCK)
        dct = self.dct.to(plane)
        return torch.einsum("ui,bhwij,vj->bhwuv", dct, blocks, dct)

    def _unblocks(self, u: Tensor, rows: int, columns: int) -> Tensor:
        """The transpose of `_blocks`, (B, rows columns) to (B, rows, columns)."""
        dct = self.dct.to(u)
        blocks = u.reshape(len(u), rows // BLOCK, columns // BLOCK, BLOCK, BLOCK)
        blocks = torch.einsum("ui,bhwuv,vj->bhwij", dct, blocks, dct)
        return blocks.permute(0, 1, 3, 2, 4).reshape(len(u), rows, columns)

    def _whole_blocks(self, mask: Tensor) -> Tensor:
        """Which coefficients (1, M) belong to blocks of which no pixel is missing, `mask` (1, H, W) as in the file."""
        down, along = (BLOCK * max(half[i] for half in self.halves) for i in (0, 1))
        padded = F.pad(mask, (0, -mask.shape[-1] % along, 0, -mask.shape[-2] % down), value=1.0)
        unit = -F.max_pool2d(-padded[:, None], (down, along))[:, 0]
        parts = []
        for half in self.halves:
            rows, columns = (n // BLOCK for n in self._plane(*half))
            reach = down // half[0] // BLOCK, along // half[1] // BLOCK
            blocks = unit.repeat_interleave(reach[0], 1).repeat_interleave(reach[1], 2)[:, :rows, :columns]
            parts.append(blocks[..., None].expand(-1, -1, -1, BLOCK**2).flatten(1))
        return torch.cat(parts, 1)

    def _levels(self, tables: Tensor, sigma: float, gray: bool) -> Tensor:
        """The level of each coefficient and pixel, (1, M); infinite for those that are not used."""
        parts, errors = [], []
        for i, (down, along) in enumerate(self.halves):
            rows, columns = self._plane(down, along)
            row = self.colors[i]
            unit = float(row.sum().abs()) if gray else float(row.square().sum().sqrt())
            own = (unit * sigma) ** 2 / (down * along) + LEAST**2
            steps = (tables[i] / 255).square() / 12
            errors.append(float(steps.mean()))
            parts.append((own + steps).sqrt().flatten().repeat(rows * columns // BLOCK**2))
        levels = torch.cat(parts)[None]
        if self.mask is None:
            return levels
        levels = torch.where(self.whole > 0, levels, torch.inf)
        # Pixels of blocks that are whole are in their coefficients already.
        down, along = (BLOCK * max(half[i] for half in self.halves) for i in (0, 1))
        lying = turned(self.mask[None], self.orientation)
        padded = F.pad(lying, (0, -lying.shape[-1] % along, 0, -lying.shape[-2] % down), value=1.0)
        broken = F.max_pool2d(1 - padded[:, None], (down, along))[:, 0]
        broken = broken.repeat_interleave(down, 1).repeat_interleave(along, 2)[:, : lying.shape[-2], : lying.shape[-1]]
        used = (upright(broken, self.orientation) > 0) & (self.mask > 0)
        level = math.sqrt(sigma**2 + SHARE**2 * errors[0] + LEAST**2)
        pixels = torch.where(used, level, torch.inf).expand(self.img_size)
        return torch.cat([levels, pixels.flatten()[None]], 1)


def _folded(plane: Tensor, rows: int, columns: int) -> Tensor:
    """The transpose of continuing a plane (B, rows, columns) by its edge."""
    kept = plane[:, :rows].clone()
    kept[:, -1] += plane[:, rows:].sum(1)
    out = kept[:, :, :columns].clone()
    out[:, :, -1] += kept[:, :, columns:].sum(2)
    return out
