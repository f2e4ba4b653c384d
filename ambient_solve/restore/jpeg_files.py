"""What the header of a JPEG file says of how its picture was coded, and the operator that does the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ambient_solve.errors import UnreadableFile

if TYPE_CHECKING:
    from torch import Tensor

ORIENTATION = 0x0112
"""EXIF tag of how the picture lies in the file."""
RGB_NAMES = (82, 71, 66)
"""Names of the components, "RGB", of a file without luminance and chroma."""


@dataclass(frozen=True)
class JpegCoding:
    """How a JPEG file was coded.

    Attributes:
        quality: libjpeg's, the nearest.
        subsampling: One of `operators.jpeg.SUBSAMPLING`; that of a gray file is "4:2:0".
        tables: Quantisation steps (components, 8, 8) where they are not those of `quality`, or None.
        orientation: EXIF's number, 1 to 8.
        space: "YCbCr" or "RGB"; "CMYK" for printing colors.
    """

    quality: int
    subsampling: str
    tables: Tensor | None = None
    orientation: int = 1
    space: str = "YCbCr"

    def steps(self, quality: int = 0) -> Tensor | None:
        """The quantisation steps for `operators.Jpeg`, or None where they are those of the quality.

        Args:
            quality: One that is stated in place of that of the file, 1 to 100; 0 for none.
        """
        from ambient_solve.operators.jpeg import quantisation_tables

        if quality and self.space != "YCbCr":
            return quantisation_tables(quality)[:1]  # no component is chroma
        return None if quality else self.tables

    @property
    def notes(self) -> tuple[str, ...]:
        """What is unusual, in words."""
        if self.tables is None:
            return ()
        return (f"the quantisation of the file is not libjpeg's, it was read from the file (quality {self.quality})",)


def jpeg_settings(path: str | Path) -> tuple[int, str] | None:
    """The libjpeg quality and the subsampling nearest to those in the header of a JPEG file; None for other files."""
    coding = jpeg_coding(path)
    return None if coding is None else (coding.quality, coding.subsampling)


def jpeg_coding(path: str | Path) -> JpegCoding | None:
    """How a file was coded; None where it is no JPEG.

    Args:
        path: The file.

    Raises:
        AmbientSolveError: its colors were coded in a way that is not known.
    """
    import torch
    from PIL import Image

    from ambient_solve.operators.jpeg import quantisation_tables
    from ambient_solve.reading.limits import FORMATS

    with Image.open(path, formats=FORMATS) as image:
        # MPO: a JPEG with others behind it, what many telephones write.
        if image.format not in ("JPEG", "MPO"):
            return None
        layers = image.layer
        tables = torch.tensor([image.quantization[layer[3]] for layer in layers[:3]]).float()
        space, orientation = _space(image, path), image.getexif().get(ORIENTATION, 1)
    quality, exact = _nearest(tables)
    subsampling = _subsampling([(h, v) for _, h, v, _ in layers], path)
    one_table = space != "YCbCr" and exact
    tables = quantisation_tables(quality)[:1] if one_table else None if exact else tables.reshape(-1, 8, 8)
    if orientation not in range(1, 9):
        orientation = 1
    return JpegCoding(quality, subsampling, tables, orientation, space)


def _space(image: object, path: str | Path) -> str:
    """The colors that were coded."""
    transform, names = image.info.get("adobe_transform"), tuple(layer[0] for layer in image.layer)
    if image.mode == "CMYK":
        if transform == 2 or image.info.get("icc_profile"):
            raise UnreadableFile(
                path,
                "is in printing colors (CMYK) that another program has transformed, so that its blocks are not those "
                "of its red, green and blue: save it as PNG, and restore that with --quality.",
            )
        return "CMYK"
    return "RGB" if len(names) == 3 and (transform == 0 or names == RGB_NAMES) else "YCbCr"


def _nearest(tables: Tensor) -> tuple[int, bool]:
    """libjpeg's quality nearest to the steps (components, 64), and whether they are its own."""
    from ambient_solve.operators.jpeg import quantisation_tables

    kinds = tables if len(tables) == 1 or not bool((tables == tables[:1]).all()) else tables[:1]
    # Sorted, because programs differ in the order in which they store a table.
    own = kinds[:2].sort(1).values
    found = [quantisation_tables(q).flatten(1)[: len(own)] for q in range(1, 101)]
    distance = [float((steps.sort(1).values - own).abs().sum()) for steps in found]
    best = distance.index(min(distance))
    return 1 + best, bool(distance[best] == 0) and bool((found[best] == kinds[:2]).all())


def _subsampling(factors: list[tuple[int, int]], path: str | Path) -> str:
    """The name of the chroma subsampling, from the factors (horizontal, vertical) of the components."""
    from ambient_solve.operators.jpeg import SUBSAMPLING

    if len(factors) == 1:
        return "4:2:0"  # a gray file has none; its measurement in three channels is coded as most files are
    (across, down), others = factors[0], set(factors[1:3])
    ratios = {(down / v, across / h) for h, v in others}
    for name, wanted in SUBSAMPLING.items():
        if ratios == {wanted}:
            return name
    raise UnreadableFile(path, f"has a chroma subsampling that is not known; {', '.join(SUBSAMPLING)} are.")
