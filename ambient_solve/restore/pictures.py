"""Picture files as measurements, masks and blur kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ambient_solve.errors import UnreadableFile

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Picture:
    """A picture file as a measurement.

    A grey picture is one measurement, repeated in three channels for a colour prior, and comes back grey. The methods
    are that rule; of a picture in colour, and with a grey prior, they change nothing.

    Attributes:
        path: The file.
        y: Its pixels, (1, C, H, W) float32, 0 to 1.
        notes: What was converted, in words.
        copies: Channels in which one grey measurement stands, 3, or 1.
    """

    path: Path
    y: Tensor
    notes: tuple[str, ...]
    copies: int = 1

    def sigma_of_each(self, sigma: float) -> float:
        """The noise level to state for each channel where that of the picture is `sigma`: three then weigh as one."""
        return self.copies**0.5 * sigma

    def whole_chi2(self, chi2: Tensor) -> Tensor:
        """The misfit of the one measurement, from the `chi2` at the level `sigma_of_each`; any shape."""
        return self.copies * chi2

    def untinted(self, samples: Tensor) -> Tensor:
        """Samples (..., C, H, W) without a tint: the mean of the channels in each of them if the picture is grey."""
        return samples if self.copies == 1 else samples.mean(-3, keepdim=True).expand_as(samples)


def read_measurement(path: str | Path, channels: int = 3, max_pixels: int | None = None) -> Picture:
    """Read a picture as a measurement, at its full depth.

    Args:
        path: The file.
        channels: 1 or 3.
        max_pixels: A larger picture is refused before it is decoded; `data.images.MAX_PIXELS` by default.

    Returns:
        The picture in [0, 1], with notes on what was converted.

    Raises:
        AmbientSolveError: the file cannot be read, or is too large.
    """
    import numpy as np
    import torch

    from ambient_solve.data.images import MAX_PIXELS, open_image, to_tensor

    image, notes = open_image(path, max_pixels or MAX_PIXELS), []
    deep = image.mode.startswith("I") or image.mode == "F"
    if image.mode in ("RGBA", "LA", "PA") or (not deep and "transparency" in image.info):
        notes.append("the picture has transparency, which was laid over white")
    grey = deep or image.mode in ("1", "L", "LA", "La")
    if not grey and channels == 1:
        notes.append("the picture is in colour, it was converted to grey for the grey prior")
    if deep:
        y = torch.from_numpy(np.asarray(image).astype(np.float32))[None].expand(channels, -1, -1)
        y = y / 65535 if image.mode != "F" else y
        if not bool(((y >= -1) & (y <= 2)).all()):
            raise UnreadableFile(
                path, "has values of an unknown scale; 8 bit, 16 bit, or floats from 0 to 1 were expected."
            )
    else:
        y = to_tensor(image, channels).float() / 255
    grey = grey or (channels == 3 and torch.equal(y[0], y[1]) and torch.equal(y[0], y[2]))
    if grey and channels == 3:
        notes.append("the picture is grey, it was repeated in three channels for the colour prior")
    return Picture(Path(path), y[None].contiguous(), tuple(notes), channels if grey else 1)


def read_mask(path: str | Path, size: Sequence[int], what: str = "the picture") -> Tensor:
    """The observed pixels, from a picture in which white is missing, as a brush paints it.

    Transparent pixels are observed.

    Args:
        path: The picture of the mask.
        size: (H, W) that it must have.
        what: What an error names as the thing of that size.

    Returns:
        (H, W), 1 = observed.

    Raises:
        AmbientSolveError: it cannot be read, or has another size.
    """
    from PIL import Image

    from ambient_solve.data.images import image_size, open_image, to_tensor

    found = image_size(path)
    # What does not fit is not decoded; what lies on its side may be turned upright by its EXIF.
    image = open_image(path) if sorted(found) == sorted(size) else None
    found = found if image is None else image.size
    if image is None or found != (size[1], size[0]):
        raise UnreadableFile(path, f"is {found[0]}x{found[1]}, but {what} is {size[1]}x{size[0]}.", "The mask ")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image).convert("L")
    missing = to_tensor(image, 1)[0] >= 128
    if bool(missing.all()):
        raise UnreadableFile(
            path, "is white everywhere: every pixel is missing. White marks what is MISSING.", "The mask "
        )
    if not bool(missing.any()):
        raise UnreadableFile(path, "has no white pixel: nothing is missing. White marks what is MISSING.", "The mask ")
    return (~missing).float()


def read_kernel(path: str | Path, max_pixels: int | None = None) -> Tensor:
    """A blur kernel from a picture of it: black edges are cut off, and the sides made odd.

    Args:
        path: The picture of the kernel.
        max_pixels: A larger picture is refused before it is decoded; `data.images.MAX_PIXELS` by default.

    Returns:
        (h, w).

    Raises:
        AmbientSolveError: it cannot be read, is too large, or is black everywhere.
    """
    import torch

    kernel = read_measurement(path, 1, max_pixels).y[0, 0]
    lit = kernel.nonzero()
    if not len(lit):
        raise UnreadableFile(path, "is black everywhere; a blur kernel is bright where the light went.", "The kernel ")
    # Equal margins on both sides: the middle of the picture stays the middle of the kernel.
    margins = [min(int(lit[:, i].min()), n - 1 - int(lit[:, i].max())) for i, n in enumerate(kernel.shape)]
    kernel = kernel[margins[0] : kernel.shape[0] - margins[0], margins[1] : kernel.shape[1] - margins[1]]
    return torch.nn.functional.pad(kernel, (0, 1 - kernel.shape[1] % 2, 0, 1 - kernel.shape[0] % 2))


def jpeg_settings(path: str | Path) -> tuple[int, str] | None:
    """The libjpeg quality and the subsampling nearest to those in the header of a JPEG file; None for other files."""
    import torch
    from PIL import Image, JpegImagePlugin

    from ambient_solve.operators.jpeg import quantisation_tables
    from ambient_solve.reading.limits import FORMATS

    with Image.open(path, formats=FORMATS) as image:
        # MPO: a JPEG with others behind it, what many telephones write.
        if image.format not in ("JPEG", "MPO"):
            return None
        tables = torch.tensor([image.quantization[i] for i in sorted(image.quantization)[:2]]).float()
        full = JpegImagePlugin.get_sampling(image) == 0
    # Sorted, because programs differ in the order in which they store a table.
    tables = tables.sort(1).values
    distance = [
        float((quantisation_tables(q).flatten(1)[: len(tables)].sort(1).values - tables).abs().sum())
        for q in range(1, 101)
    ]
    return 1 + distance.index(min(distance)), "4:4:4" if full else "4:2:0"
