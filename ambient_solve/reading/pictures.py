"""Picture files: what is opened at all, how large it may be, upright, and its gray values at their full depth."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path, PurePath

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ambient_solve.errors import AmbientSolveError, UnreadableFile, reason
from ambient_solve.reading.limits import FORMATS

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".j2k"),
)
"""Names of pictures end so."""
OTHERS = {
    **dict.fromkeys((".heic", ".heif", ".hif"), "HEIC is not read: export it as JPEG or PNG"),
    ".jxl": "JPEG XL is not read: export it as PNG",
    **dict.fromkeys(
        (".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"),
        "raw photographs are not read: develop it to TIFF or PNG",
    ),
    **dict.fromkeys((".psd", ".xcf", ".svg", ".eps", ".pdf", ".exr", ".hdr"), "not read: export it as PNG"),
}
"""Suffixes of pictures that are not read, with what to do about them."""
MAX_PIXELS = 64_000_000
"""Pixels of the largest picture that is decoded where nothing smaller is said; see `check_pixels`."""
DEPTHS = (255, 4095, 65535)
"""Largest values of files whose numbers are deeper than 8 bits and whose white is not stated: 8, 12 and 16 bits."""
MAX_SAMPLE_VALUE = 281
"""Tag of a TIFF file: its white."""
BITS_PER_SAMPLE = 258
"""Tag of a TIFF file: bits of each color."""
WHITE = "white"
"""Key of `Image.info`: the value that stands for white in a deep picture, where its file states it."""
STORED = "stored"
"""Key of `Image.info`: the format of the file, such as "JPEG"."""
TAKEN_FOR = "taken for"
"""Key of `Image.info`: the white by which `deep_values` has divided where the file did not state it."""
DEEP_COLORS = "the picture has 16 bits a color, of which 8 were used"
"""Note on colors that Pillow reads without their lower bits."""
NOTES = "notes"
"""Key of `Image.info`: what reading the file has converted, in words."""


def check_pixels(size: tuple[int, int], name: object, max_pixels: int = MAX_PIXELS) -> None:
    """Refuse a picture that is too large, before it is decoded. Every way to read a picture has this one limit.

    Args:
        size: (width, height) in pixels.
        name: What the error calls it.
        max_pixels: Most pixels.

    Raises:
        AmbientSolveError: it has more.
    """
    width, height = size
    if width * height > max_pixels:
        raise UnreadableFile(
            name, f"is {width}x{height}; at most {max_pixels / 1e6:g} million pixels are read, make it smaller first."
        )


def image_size(path: str | Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """The size of a picture as its file states it, not turned upright; no pixel is decoded.

    Args:
        path: The file.
        max_pixels: Most pixels.

    Returns:
        (width, height).

    Raises:
        AmbientSolveError: it cannot be read, or is larger.
    """
    with _open(Path(path), path, max_pixels) as image:
        return image.size


def open_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open and decode one picture, upright (EXIF). Its size is checked before a pixel is decoded.

    Args:
        path: The file.
        max_pixels: Most pixels that it may have.

    Returns:
        The decoded picture.

    Raises:
        AmbientSolveError: it is no picture, cannot be decoded, or is too large.
    """
    path = Path(path)
    if not path.is_file():
        raise UnreadableFile(path, ".", "There is no file ")
    if path.stat().st_size == 0:
        raise UnreadableFile(path, "is empty (0 bytes); expected a picture.")
    return decode_image(path, path, max_pixels)


def decode_image(file: Path | io.BytesIO, name: str | Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture in `file`, upright, with what its header says of its numbers in `info`.

    Args:
        file: The file, or its content.
        name: What an error calls it.
        max_pixels: Most pixels that it may have.

    Returns:
        The decoded picture.

    Raises:
        AmbientSolveError: it is no picture, cannot be decoded, or is too large.
    """
    with _open(file, name, max_pixels) as image:
        white, notes = _header(image)
        image.load()
        if DEEP_COLORS in notes:
            _check_upper_bits(image, name)
        upright = ImageOps.exif_transpose(image)
        upright.info.update({WHITE: white, NOTES: notes, STORED: image.format})
        return upright


def _header(image: Image.Image) -> tuple[int | None, tuple[str, ...]]:
    """White, where the file states it, and what Pillow will convert without a word."""
    notes, bits, white = [], (), None
    if getattr(image, "is_animated", False):
        what = "is animated" if image.format == "GIF" else "holds several pictures"
        notes.append(f"the file {what}, its first picture was used")
    if image.mode == "CMYK":
        notes.append("the picture is in printing colors (CMYK), it was converted to RGB")
    if image.format == "TIFF":
        bits = image.tag_v2.get(BITS_PER_SAMPLE, ())
        white = image.tag_v2.get(MAX_SAMPLE_VALUE)
        white = white[0] if isinstance(white, tuple) and white else white
        white = white if isinstance(white, int) and white > 0 else None
    if image.format == "PPM" and image.mode.startswith("I"):
        white = 65535  # Pillow has scaled it
    deep = image.format == "PNG" and any(";16" in str(tile[3]) for tile in image.tile)
    if image.mode in ("RGB", "RGBA", "LA") and (deep or 16 in bits):
        notes.append(DEEP_COLORS)
    return white, tuple(notes)


def _check_upper_bits(image: Image.Image, name: str | Path) -> None:
    """Refuse colors of 16 bits that leave the upper bits, which are those that are read, empty."""
    colors = image.getextrema()[: 1 if image.mode == "LA" else 3]
    brightest = max(high for _, high in colors)
    if brightest <= DEPTHS[1] >> 8:
        raise UnreadableFile(
            name,
            "has 16 bits a color and fills the lower 12 at most: it would be read as black. Multiply its numbers by "
            "16 first, or store it with 8 bits a color.",
        )


@contextlib.contextmanager
def _open(file: Path | io.BytesIO, name: str | Path, max_pixels: int) -> Iterator[Image.Image]:
    """The picture in `file`, none of it decoded; what is wrong with it, then or later, is said of `name`."""
    most = f"{max_pixels / 1e6:g} million pixels"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file, formats=FORMATS)
            check_pixels(image.size, name, max_pixels)
            yield image
    except Image.DecompressionBombError:
        raise UnreadableFile(name, f"claims more than {most}. Make it smaller.") from None
    except UnidentifiedImageError:
        known = OTHERS.get(PurePath(str(name)).suffix.lower(), ", ".join(SUFFIXES))
        raise UnreadableFile(name, f"is not a picture that can be read ({known}).") from None
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, AmbientSolveError):
            raise
        raise UnreadableFile(name, f"is a damaged picture file: {reason(error, name)}.") from None


def is_deep(image: Image.Image) -> bool:
    """Whether a picture is gray with more than 8 bits: whole numbers of 16 or 32 bits, or floats."""
    return image.mode.startswith("I") or image.mode == "F"


def has_alpha(image: Image.Image) -> bool:
    """Whether some of its pixels may be transparent."""
    return image.mode in ("RGBA", "LA", "PA", "RGBa") or (not is_deep(image) and "transparency" in image.info)


def deep_values(image: Image.Image, name: object) -> tuple[np.ndarray, tuple[str, ...]]:
    """The numbers of a picture that `is_deep`, where 0 is black and 1 is white.

    Floats are taken as they are. Whole numbers are divided by the white that the file states, or else by that of the
    fewest bits, of 8, 12 and 16, that hold them all.

    Args:
        image: The picture.
        name: What an error calls it.

    Returns:
        (H, W) float32, and notes on how they were scaled, which `info` of the image says too.

    Raises:
        AmbientSolveError: the scale is unknown.
    """
    values = np.asarray(image).astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if image.mode == "F":
        if not (np.isfinite(values).all() and -1 <= low and high <= 2):
            raise UnreadableFile(
                name,
                f"has values of an unknown scale ({low:g} to {high:g}); 8 bit, 16 bit, or floats from 0 to 1 were "
                "expected: divide them by the value of white.",
            )
        # Noise goes below black in a few pixels, and above white in others.
        if high <= 1.001 and float(np.percentile(values, 5)) < -0.4:
            raise UnreadableFile(name, "has floats from -1 to 1; 0 to 1 was expected: store (x + 1) / 2.")
        return values.astype(np.float32), ()
    stated = image.info.get(WHITE)
    if low < 0 or high > max(DEPTHS[-1], stated or 0):
        raise UnreadableFile(
            name,
            f"has values of an unknown scale ({low:g} to {high:g}); 8 bit, 16 bit, or floats from 0 to 1 were "
            "expected: store x / white as floats.",
        )
    if stated and stated >= high:
        return (values / stated).astype(np.float32), ()
    white, notes = next(depth for depth in DEPTHS if high <= depth), []
    image.info[TAKEN_FOR] = white
    if white < DEPTHS[-1] and high > 0:
        bits = white.bit_length()
        notes.append(f"the brightest of its deep values is {high:g}, so that they were taken for {bits} bits")
    elif 0 < high < DEPTHS[-1] / 4:
        notes.append(f"the values end at {high:g} of 65535: multiply them by 4 first if they have 14 bits")
    return (values / white).astype(np.float32), tuple(notes)
