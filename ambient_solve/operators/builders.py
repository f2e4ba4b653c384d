"""Named builders: each returns a deepinv physics with Gaussian noise of level `sigma` (images in [0, 1]).

Other noise is set on what they return: `op.set_noise_model(deepinv.physics.PoissonNoise(gain))`, `gain` the signal of
one photon. `img_size` is (C, H, W) everywhere. What is random (pixels, camera path, plate) depends on `seed` alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from deepinv.physics import (
    Blur,
    BlurFFT,
    Denoising,
    Downsampling,
    GaussianNoise,
    Inpainting,
    LinearPhysics,
    PhaseRetrieval,
    Physics,
    PoissonNoise,
)
from deepinv.physics.generator import MotionBlurGenerator
from torch import Tensor

from ambient_solve.errors import AmbientSolveError, suggestion
from ambient_solve.operators.jpeg import Jpeg
from ambient_solve.operators.nonlinear import CameraBlur, Clipping, Diffraction, Quantization
from ambient_solve.operators.reduction import ALIGNMENTS, KERNELS, aligned_filter

Size = tuple[int, int, int]
"""(C, H, W)."""
FILTERS = tuple(KERNELS)
"""Anti-aliasing filters of `super_resolution`."""
BOUNDARIES = ("circular", "valid")
"""What a blur sees beyond the edge of the image: the other side, or nothing."""


def inpaint(mask: Tensor, sigma: float = 0.02, channels: int = 3) -> Inpainting:
    """Inpainting: missing pixels.

    Args:
        mask: (H, W), (1, H, W) or (channels, H, W), with a batch axis before or not; 1 = observed, 0 = missing.
        sigma: Standard deviation of the Gaussian noise, >= 0, for images in [0, 1].
        channels: C of the images.

    Returns:
        The operator on images (B, channels, H, W).

    Raises:
        AmbientSolveError: the mask has another shape, values besides 0 and 1, or observes all or nothing.
    """
    mask = torch.as_tensor(mask).float()
    mask = mask[None] if mask.ndim == 2 else mask
    if mask.ndim not in (3, 4) or mask.shape[-3] not in (1, channels) or mask.numel() == 0:
        raise AmbientSolveError(
            f"The mask has shape {tuple(mask.shape)}; (H, W), (1, H, W) or ({channels}, H, W) was expected, "
            "pass channels=... for other images."
        )
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise AmbientSolveError(
            "The mask has values besides 0 (missing) and 1 (observed); mask > 0.5 makes a binary one."
        )
    if not bool(mask.any()):
        raise AmbientSolveError("The mask observes no pixel at all; 1 = observed, 0 = missing: did you mean 1 - mask?")
    if bool(mask.all()):
        raise AmbientSolveError("The mask has no missing pixel; use denoise(img_size, sigma) for a complete image.")
    size = (channels, *mask.shape[-2:])
    mask = mask.expand(*mask.shape[:-3], *size).contiguous()
    return Inpainting(img_size=size, mask=mask, noise_model=_noise(sigma))


def inpaint_box(
    img_size: Size, box: int | tuple[int, int] | tuple[int, int, int, int] | None = None, sigma: float = 0.02
) -> Inpainting:
    """Inpainting: a missing rectangle.

    Args:
        img_size: (C, H, W) of the images.
        box: A side, (height, width) or (top, left, height, width), in pixels. Without a position it is centered; by
            default it is half as high and half as wide as the image.
        sigma: Standard deviation of the Gaussian noise, >= 0, for images in [0, 1].

    Returns:
        The operator on images (B, C, H, W).

    Raises:
        AmbientSolveError: the rectangle is empty, the whole image, or not inside it.
    """
    channels, rows, columns = _size(img_size)
    given = (max(rows // 2, 1), max(columns // 2, 1)) if box is None else box
    sides: tuple[int, ...] = (given, given) if isinstance(given, int) else tuple(given)
    if len(sides) == 2:
        sides = ((rows - sides[0]) // 2, (columns - sides[1]) // 2, *sides)
    fits = len(sides) == 4 and min(sides) >= 0 and sides[0] + sides[2] <= rows and sides[1] + sides[3] <= columns
    if not fits or 0 in sides[2:] or sides[2:] == (rows, columns):
        raise AmbientSolveError(
            f"box={sides} is no part of an image of {rows}x{columns}; a side, (height, width) or "
            "(top, left, height, width) was expected."
        )
    mask = torch.ones(rows, columns)
    mask[sides[0] : sides[0] + sides[2], sides[1] : sides[1] + sides[3]] = 0
    return inpaint(mask, sigma, channels)


def inpaint_random(img_size: Size, missing: float = 0.7, sigma: float = 0.02, seed: int = 0) -> Inpainting:
    """Inpainting: pixels that are missing at random, the same in all channels.

    Args:
        img_size: (C, H, W) of the images.
        missing: Share of the pixels that is lost, above 0 and below 1.
        sigma: Standard deviation of the Gaussian noise, >= 0, for images in [0, 1].
        seed: Decides which are lost, a whole number of 0 or more.

    Returns:
        The operator on images (B, C, H, W).

    Raises:
        AmbientSolveError: `missing` is out of its range.
    """
    channels, rows, columns = _size(img_size)
    if not 0 < missing < 1:
        raise AmbientSolveError(
            f"missing={missing} was given, a fraction between 0 and 1 (both excluded) was expected."
        )
    order = torch.randperm(rows * columns, generator=torch.Generator().manual_seed(seed))
    lost = min(max(round(missing * rows * columns), 1), rows * columns - 1)
    return inpaint((order >= lost).float().reshape(rows, columns), sigma, channels)


def gaussian_blur(
    img_size: Size, width: float = 2.0, sigma: float = 0.02, boundary: str = "circular"
) -> BlurFFT | Blur:
    """Gaussian blur.

    Args:
        img_size: (C, H, W) of the images.
        width: Standard deviation of the kernel, in pixels, > 0; the kernel ends at three of them.
        sigma: Standard deviation of the Gaussian noise, >= 0, for images in [0, 1].
        boundary: "circular" (the image repeats; closed form) or "valid" (only where the kernel fits: y is smaller).

    Returns:
        The operator on images (B, C, H, W).

    Raises:
        AmbientSolveError: a value is out of its range, or the kernel is larger than the image.
    """
    if not (width > 0 and math.isfinite(width)):
        raise AmbientSolveError(f"width={width} was given, a number of pixels above 0 was expected.")
    reach = math.ceil(3 * width)
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / width) ** 2)
    return _blur(img_size, torch.outer(line, line), sigma, boundary)


def motion_blur(
    img_size: Size, length: int = 15, sigma: float = 0.02, seed: int = 0, boundary: str = "circular"
) -> BlurFFT | Blur:
    """Camera shake along a random smooth path.

    Args:
        img_size: (C, H, W) of the images.
        length: Side of the square that holds the path, in pixels, 2 or more; an even one is made odd.
        sigma: Standard deviation of the Gaussian noise, >= 0, for images in [0, 1].
        seed: Decides the path, a whole number of 0 or more.
        boundary: "circular" (the image repeats; closed form) or "valid" (only where the kernel fits: y is smaller).

    Returns:
        The operator on images (B, C, H, W).

    Raises:
        AmbientSolveError: a value is out of its range, or the kernel is larger than the image.
    """
    if isinstance(length, bool) or not isinstance(length, int) or length < 2:
        raise AmbientSolveError(f"length={length!r} was given, a whole number of at least 2 pixels was expected.")
    side = length | 1
    generator = MotionBlurGenerator((side, side), rng=torch.Generator().manual_seed(seed))
    return _blur(img_size, generator.step(batch_size=1)["filter"][0, 0], sigma, boundary)


def super_resolution(
    img_size: Size,
    factor: int = 2,
    filter: str | None = "bicubic",
    sigma: float = 0.02,
    alignment: str = "centers",
) -> Downsampling:
    """Super-resolution: every `factor`-th pixel after an anti-aliasing filter, on pictures that repeat at their edges.

    `Reduction` is the same but for the edges, where it does what Pillow does.

    Args:
        img_size: (C, H, W) of the large images; `factor` divides H and W.
        factor: Pixels from one that is kept to the next, 2 or more.
        filter: "bicubic", "bilinear", "gaussian", "sinc", "lanczos" or "box"; None is none.
        sigma: Standard deviation of the Gaussian noise, >= 0, for images in [0, 1].
        alignment: "centers", a small pixel lies in the middle of those it is made of, as Pillow, OpenCV, MATLAB and
            torch have it; or "corner", on the first of them, as deepinv has it, with deepinv's own filters. None has no
            filter and keeps the first.

    Returns:
        The operator on images (B, C, H, W); measurements are (B, C, H / factor, W / factor).

    Raises:
        AmbientSolveError: a value is out of its range, or the filter is larger than the image.
    """
    channels, rows, columns = _size(img_size)
    if isinstance(factor, bool) or not isinstance(factor, int) or factor < 2:
        raise AmbientSolveError(f"factor={factor!r} was given, a whole number of at least 2 was expected.")
    if filter is not None and filter not in FILTERS:
        raise AmbientSolveError(f"filter={filter!r} is not a filter. {suggestion(str(filter), FILTERS)}")
    if rows % factor or columns % factor:
        fit = f"{max(rows // factor, 1) * factor}x{max(columns // factor, 1) * factor}"
        raise AmbientSolveError(f"A {rows}x{columns} image cannot be reduced by {factor}; crop or resize it to {fit}.")
    if alignment not in ALIGNMENTS:
        raise AmbientSolveError(f"alignment={alignment!r} is no alignment. {suggestion(str(alignment), ALIGNMENTS)}")
    if alignment == "corner" and filter in ("lanczos", "box"):
        raise AmbientSolveError(f"filter={filter!r} has alignment='centers' only, deepinv has no such filter.")
    made: str | Tensor | None = filter
    if filter is not None and alignment == "centers":
        made = aligned_filter(factor, filter).to(torch.get_default_dtype())
    op = Downsampling(
        img_size=(channels, rows, columns), filter=made, factor=factor, padding="circular", noise_model=_noise(sigma)
    )
    side = 1 if op.filter is None else max(op.filter.shape[-2:])
    if side > min(rows, columns):
        raise AmbientSolveError(
            f"The {filter} filter for factor {factor} spans {side} pixels, more than the {rows}x{columns} image has; "
            "use a smaller factor or a larger image."
        )
    op.img_size = (channels, rows, columns)
    return op


def denoise(img_size: Size, sigma: float = 0.1) -> Denoising:
    """Denoising: nothing but noise.

    Args:
        img_size: (C, H, W) of the images.
        sigma: Standard deviation of the Gaussian noise, >= 0, for images in [0, 1].

    Returns:
        The identity on images (B, C, H, W).
    """
    return Denoising(_noise(sigma), img_size=_size(img_size))


def jpeg(img_size: Size, quality: int = 10, sigma: float = 0.02, subsampling: str = "4:2:0") -> Jpeg:
    """JPEG compression; see `Jpeg`.

    Args:
        img_size: (C, H, W) of the images; C is 1 or 3.
        quality: 1 to 100, libjpeg's scale.
        sigma: How closely the decoded picture must be reproduced, >= 0, for images in [0, 1].
        subsampling: "4:2:0" (chroma at half resolution, what most files have), "4:2:2", "4:4:0", "4:1:1" or "4:4:4".

    Returns:
        The operator on images (B, C, H, W).

    Raises:
        AmbientSolveError: a value is out of its range.
    """
    size = _size(img_size)
    if size[0] not in (1, 3):
        raise AmbientSolveError(f"JPEG pictures have 1 or 3 channels, img_size={size} was given.")
    return Jpeg(quality, subsampling, img_size=size, noise_model=_noise(sigma))


def clip(img_size: Size, factor: float = 2.0, pivot: float = 0.5, sigma: float = 0.02) -> Clipping:
    """High dynamic range: contrast raised about a gray value, then clipped to [0, 1]; see `Clipping`.

    Args:
        img_size: (C, H, W) of the images.
        factor: Of the contrast, > 0.
        pivot: Gray value that stays, 0 to 1.
        sigma: Standard deviation of the Gaussian noise, >= 0, for images in [0, 1].

    Returns:
        The operator on images (B, C, H, W).
    """
    return Clipping(factor, pivot, img_size=_size(img_size), noise_model=_noise(sigma))


def quantize(img_size: Size, bits: int = 2, sigma: float = 0.02) -> Quantization:
    """Quantization: few gray levels; see `Quantization`.

    Args:
        img_size: (C, H, W) of the images.
        bits: 1 to 8; each channel has `2^bits` levels.
        sigma: How closely the levels must be reproduced, >= 0, for images in [0, 1].

    Returns:
        The operator on images (B, C, H, W).
    """
    return Quantization(bits, img_size=_size(img_size), noise_model=_noise(sigma))


def camera_blur(
    img_size: Size, length: int = 15, sigma: float = 0.02, seed: int = 0, boundary: str = "circular"
) -> CameraBlur:
    """The camera shake of `motion_blur`, added up in light rather than in gray values, which is not linear.

    Args:
        img_size, length, sigma, seed, boundary: As for `motion_blur`.

    Returns:
        The operator on images (B, C, H, W); see `CameraBlur`.

    Raises:
        AmbientSolveError: a value is out of its range, or the kernel is larger than the image.
    """
    return CameraBlur(motion_blur(img_size, length, sigma, seed, boundary), noise_model=_noise(sigma))


def phase_retrieval(
    img_size: Size, oversampling: float = 2.0, gain: float = 0.001, seed: int | None = 0
) -> PhaseRetrieval:
    """Phase retrieval: the intensity of the far field of a picture behind a phase plate, counted in photons.

    Args:
        img_size: (C, H, W) of the images.
        oversampling: Side of the far field over that of the picture, 1 or more; 2 is what determines a picture.
        gain: Intensity of one photon, > 0 (Poisson noise); `sum y = sum x^2` but for the noise.
        seed: Decides the random plate; None is no plate.

    Returns:
        The operator on images (B, C, H, W).

    Raises:
        AmbientSolveError: `gain` is out of its range.
    """
    if isinstance(gain, bool) or not isinstance(gain, (int, float)) or not (gain > 0 and math.isfinite(gain)):
        raise AmbientSolveError(f"gain={gain!r} was given, the intensity of one photon, above 0, was expected.")
    size = _size(img_size)
    op = PhaseRetrieval(Diffraction(size, oversampling, seed), noise_model=PoissonNoise(float(gain)))
    op.img_size = size
    return op


BUILDERS: dict[str, Callable[..., Physics]] = {
    "inpaint": inpaint,
    "box": inpaint_box,
    "random": inpaint_random,
    "gaussian-blur": gaussian_blur,
    "motion-blur": motion_blur,
    "super-resolution": super_resolution,
    "denoise": denoise,
    "jpeg": jpeg,
    "clip": clip,
    "quantize": quantize,
    "camera-blur": camera_blur,
}
"""The builders by name. `inpaint` takes a mask, the others `img_size`;
for picture files see `ambient_solve.restore.tasks`."""

FORMER = {"quantise": "quantize"}
"""What a builder is called now, by the name that it had before."""


def _size(img_size: Size) -> Size:
    if isinstance(img_size, (tuple, list, torch.Size)) and len(img_size) == 3:
        if all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in img_size):
            return img_size[0], img_size[1], img_size[2]
    raise AmbientSolveError(f"img_size={img_size!r} was given, (C, H, W) was expected, for instance (3, 64, 64).")


def _noise(sigma: float) -> GaussianNoise:
    if isinstance(sigma, bool) or not isinstance(sigma, (int, float)) or not (sigma >= 0 and math.isfinite(sigma)):
        raise AmbientSolveError(
            f"sigma={sigma!r} was given, a noise level of at least 0 (images in [0, 1]) was expected."
        )
    return GaussianNoise(float(sigma))


def _blur(img_size: Size, kernel: Tensor, sigma: float, boundary: str) -> LinearPhysics:
    """A blur with `kernel` (h, w) of odd sides, normalized to keep the brightness."""
    size = _size(img_size)
    if boundary not in BOUNDARIES:
        raise AmbientSolveError(f"boundary={boundary!r} is not a boundary. {suggestion(str(boundary), BOUNDARIES)}")
    if max(kernel.shape) > min(size[1:]):
        raise AmbientSolveError(
            f"The blur kernel spans {max(kernel.shape)} pixels, more than the {size[1]}x{size[2]} image has; "
            "use a smaller width or length, or a larger image."
        )
    kernel = (kernel / kernel.sum())[None, None]
    if boundary == "circular":
        return BlurFFT(img_size=size, filter=kernel, noise_model=_noise(sigma))
    return Blur(filter=kernel, padding="valid", img_size=size, noise_model=_noise(sigma))
