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
        profile: The colour profile (ICC) of the numbers, which the restored picture keeps; empty where it is sRGB.
    """

    path: Path
    y: Tensor
    notes: tuple[str, ...]
    copies: int = 1
    profile: bytes = b""

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
    """Read a picture as a measurement, at its full depth; its numbers stay as they are stored.

    A colour profile is kept beside them. Of a file in printing or other colours it is applied, for a prior of grey
    pictures too.

    Args:
        path: The file.
        channels: 1 or 3.
        max_pixels: A larger picture is refused before it is decoded; `data.images.MAX_PIXELS` by default.

    Returns:
        The picture in [0, 1], with notes on what was converted.

    Raises:
        AmbientSolveError: the file cannot be read, or is too large.
    """
    import torch

    from ambient_solve.data.images import MAX_PIXELS, open_image, over_white, to_tensor
    from ambient_solve.reading.pictures import NOTES, deep_values, has_alpha, is_deep
    from ambient_solve.reading.profiles import PROFILE, profile_of, to_srgb

    image = open_image(path, max_pixels or MAX_PIXELS)
    notes, deep = list(image.info[NOTES]), is_deep(image)
    if has_alpha(image):
        notes.append("the picture has transparency, which was laid over white")
    grey = deep or image.mode in ("1", "L", "LA", "La")
    if not grey and channels == 1:
        notes.append("the picture is in colour, it was converted to grey for the grey prior")
    profile = profile_of(image, "GRAY" if grey else "RGB")
    if deep:
        values, scaled = deep_values(image, path)
        notes += scaled
        y = torch.from_numpy(values)[None].expand(channels, -1, -1)
    else:
        if not grey and (channels == 1 or not profile):
            image, converted = to_srgb(image)
            notes += ["its colour profile was converted to sRGB"] if converted else []
            profile = b""
        image = over_white(image)
        image.info.pop(PROFILE, None)
        y = to_tensor(image, channels).float() / 255
    grey = grey or (channels == 3 and torch.equal(y[0], y[1]) and torch.equal(y[0], y[2]))
    if grey and channels == 3:
        notes.append("the picture is grey, it was repeated in three channels for the colour prior")
    return Picture(Path(path), y[None].contiguous(), tuple(notes), channels if grey else 1, profile)


def read_mask(path: str | Path, size: Sequence[int], what: str = "the picture") -> Tensor:
    """The observed pixels, from a picture in which white is missing, as a brush paints it.

    Transparent pixels are observed, but the holes of a photograph; see `reading.masks.missing_pixels`.

    Args:
        path: The picture of the mask.
        size: (H, W) that it must have.
        what: What an error names as the thing of that size.

    Returns:
        (H, W), 1 = observed.

    Raises:
        AmbientSolveError: it cannot be read, has another size, or may mean two things.
    """
    return _mask(path, size, what)[0]


def mask_notes(path: str | Path, size: Sequence[int]) -> tuple[str, ...]:
    """What was made of a mask that is more than black and white, in words.

    Args:
        path: The picture of the mask.
        size: (H, W) that it must have.

    Returns:
        Sentences; none where nothing was made of it.
    """
    return _mask(path, size, "the picture")[1]


def _mask(path: str | Path, size: Sequence[int], what: str) -> tuple[Tensor, tuple[str, ...]]:
    """See `read_mask` and `mask_notes`."""
    import torch

    from ambient_solve.reading.masks import missing_pixels
    from ambient_solve.reading.pictures import image_size, open_image

    found = image_size(path)
    # What does not fit is not decoded; what lies on its side may be turned upright by its EXIF.
    image = open_image(path) if sorted(found) == sorted(size) else None
    found = found if image is None else image.size
    if image is None or found != (size[1], size[0]):
        raise UnreadableFile(path, f"is {found[0]}x{found[1]}, but {what} is {size[1]}x{size[0]}.", "The mask ")
    missing, notes = missing_pixels(image, path)
    if bool(missing.all()):
        raise UnreadableFile(
            path, "is white everywhere: every pixel is missing. White marks what is MISSING.", "The mask "
        )
    if not bool(missing.any()):
        raise UnreadableFile(path, "has no white pixel: nothing is missing. White marks what is MISSING.", "The mask ")
    return torch.from_numpy(~missing).float(), notes


def read_kernel(path: str | Path, max_pixels: int | None = None) -> Tensor:
    """A blur kernel from a picture of it: the background is cut off, and the sides made odd.

    The middle of the picture, pixel (H // 2, W // 2), is that of the kernel.

    Args:
        path: The picture of the kernel; bright is where the light went.
        max_pixels: A larger picture is refused before it is decoded; `data.images.MAX_PIXELS` by default.

    Returns:
        (h, w), 0 to 1.

    Raises:
        AmbientSolveError: it cannot be read, is too large, or is black everywhere.
    """
    return _kernel(path, max_pixels)[0]


def kernel_notes(path: str | Path, max_pixels: int | None = None) -> tuple[str, ...]:
    """What was made of a kernel whose background is not black, in words.

    Args:
        path: The picture of the kernel.
        max_pixels: As for `read_kernel`.

    Returns:
        Sentences; none where nothing was made of it.
    """
    return _kernel(path, max_pixels)[1]


def _kernel(path: str | Path, max_pixels: int | None) -> tuple[Tensor, tuple[str, ...]]:
    """See `read_kernel` and `kernel_notes`."""
    import torch

    from ambient_solve.reading.kernels import kernel_values
    from ambient_solve.reading.pictures import MAX_PIXELS, open_image

    values, notes = kernel_values(open_image(path, max_pixels or MAX_PIXELS), path)
    kernel = torch.from_numpy(values)
    return torch.nn.functional.pad(kernel, (0, 1 - kernel.shape[1] % 2, 0, 1 - kernel.shape[0] % 2)), notes


def black_ink(path: str | Path) -> Tensor | None:
    """The share of black ink of a picture in printing colours (CMYK), upright, (H, W) 0 to 1; None where there is none.

    Args:
        path: The picture.
    """
    import numpy as np
    import torch

    from ambient_solve.reading.pictures import open_image

    ink = np.asarray(open_image(path).getchannel("K"))
    return torch.from_numpy(ink / np.float32(255)) if ink.any() else None
