"""Contact sheets: rows of equal pictures under column headings, with a caption below each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from torch import Tensor

GUTTER = 20
"""Space between two tiles, in pixels."""
MARGIN = 36
"""Space around the sheet, in pixels."""
INK = (28, 30, 34)
"""Colour of headings, RGB 0 to 255."""
SOFT = (105, 110, 118)
"""Colour of captions, RGB 0 to 255."""
HEAT = ("000004", "280b54", "65156e", "9f2a63", "d44842", "f57d15", "fac127", "fcffa4")
"""Colours of a map, hexadecimal RGB: dark to bright through violet and orange, ordered also for readers who do not see
all colours, and in grey print."""


@dataclass(frozen=True)
class Tile:
    """One picture (H, W, 3) uint8 with the `caption` below it; `bar` draws a colour bar with these two end labels."""

    picture: np.ndarray
    caption: str = ""
    bar: tuple[str, str] | None = None


@dataclass(frozen=True)
class Row:
    """A `title` in bold words, a `note` beside it and one tile for each column."""

    title: str
    note: str
    tiles: Sequence[Tile]


def picture_tile(x: Tensor, caption: str = "") -> Tile:
    """A tile of a contact sheet.

    Args:
        x: (1 or 3, H, W) in [0, 1]; what lies outside is clipped.
        caption: Written below it.

    Returns:
        The tile.
    """
    array = (x.detach().float().cpu().clamp(0, 1) * 255).round().byte().numpy()
    return Tile(np.ascontiguousarray(array.transpose(1, 2, 0).repeat(3 // len(array), 2)), caption)


def std_tile(std: Tensor) -> Tile:
    """A tile of a standard deviation `std` (C, H, W), averaged over channels.

    The brightest colour is its largest value but for one pixel in 200, and is written beside the bar.
    """
    mean = std.detach().float().cpu().mean(0).numpy()
    top = max(float(np.quantile(mean, 0.995)), 1e-12)
    return Tile(_heat((mean / top).clip(0, 1)), bar=("0", f"{top:.2g}+"))


def contact_sheet(title: str, columns: Sequence[str], rows: Sequence[Row], side: int = 256) -> Image.Image:
    """Draw rows of captioned pictures under one title.

    Args:
        title: Title of the sheet.
        columns: Heading of each column.
        rows: The rows, with one picture for each column.
        side: Side of each picture on the sheet; small ones are enlarged by repeating pixels, where that comes out even.

    Returns:
        The sheet.
    """
    heading, bold, small = (ImageFont.load_default(size=n) for n in (30, 22, 18))
    top, title_height, caption_height = MARGIN + 58, 44, 34
    pitch = title_height + side + caption_height + GUTTER
    width = 2 * MARGIN + len(columns) * side + (len(columns) - 1) * GUTTER
    sheet = Image.new("RGB", (width, top + 34 + len(rows) * pitch + MARGIN - GUTTER), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title, INK, heading, anchor="lt")
    left = [MARGIN + i * (side + GUTTER) for i in range(len(columns))]
    for x, name in zip(left, columns, strict=True):
        draw.text((x + side / 2, top + 28), name, INK, bold, anchor="ms")
    for number, row in enumerate(rows):
        y = top + 34 + number * pitch
        draw.line((MARGIN, y + 8, width - MARGIN, y + 8), (222, 224, 228), 1)
        draw.text((MARGIN, y + 34), row.title, INK, bold, anchor="ls")
        draw.text((width - MARGIN, y + 34), row.note, SOFT, small, anchor="rs")
        for x, tile in zip(left, row.tiles, strict=True):
            sheet.paste(enlarge(tile.picture, side), (x, y + title_height))
            below = y + title_height + side + 10
            draw.text((x + side / 2, below), tile.caption, SOFT, small, anchor="mt")
            if tile.bar:
                _bar(sheet, draw, (x, below, side), tile.bar, small)
    return sheet


def enlarge(picture: np.ndarray, side: int) -> Image.Image:
    """A picture that fills a square; its pixels are repeated where that comes out even.

    Args:
        picture: (H, W, 3) uint8.
        side: Side of the square, in pixels.

    Returns:
        The square, white where the picture does not reach.
    """
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    even = scale == int(scale)
    image = Image.fromarray(picture).resize(
        (round(width * scale), round(height * scale)), Image.Resampling.NEAREST if even else Image.Resampling.LANCZOS
    )
    tile = Image.new("RGB", (side, side), "white")
    tile.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return tile


def _bar(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int, int],
    labels: tuple[str, str],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """A colour bar over the width of a tile, with its end labels inside that width."""
    x, y, side = place
    ends = [draw.textlength(label, font) + 10 for label in labels]
    length = int(side - sum(ends))
    ramp = _heat(np.linspace(0, 1, length)[None].repeat(14, 0))
    sheet.paste(Image.fromarray(ramp), (x + int(ends[0]), y))
    draw.text((x, y), labels[0], SOFT, font, anchor="lt")
    draw.text((x + side, y), labels[1], SOFT, font, anchor="rt")


def _heat(values: np.ndarray) -> np.ndarray:
    """Colours (..., 3) uint8 of `values` in [0, 1]."""
    stops = np.linspace(0, 1, len(HEAT))
    channels = [np.interp(values, stops, [bytes.fromhex(colour)[c] for colour in HEAT]) for c in range(3)]
    return np.stack(channels, -1).round().astype(np.uint8)
