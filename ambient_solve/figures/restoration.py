"""A result as one picture: for each measurement the mean, its standard deviation and some samples; and as HTML."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ambient_solve.errors import AmbientSolveError
from ambient_solve.figures.sheet import Row, Tile, contact_sheet, picture_tile, std_tile

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

MOST = 4
"""Measurements of a batch that are drawn."""
OUTSIDE = 0.1
"""How far values may lie outside of [0, 1] and still be those of a photograph, which is drawn as it is."""
TAIL = 0.002
"""Share of the values of other pictures that may be clipped, at each end."""
ODD = 0.02
"""Share of the values at each end that do not decide whether it is a photograph: errors of a few pixels."""


def visible(x: Tensor, name: str) -> Tensor:
    """One picture (C, *spatial) as (1 or 3, H, W): the magnitude of 2 channels, the middle slice of more axes.

    Args:
        x: The picture, real or complex.
        name: What it is called where it cannot be drawn.

    Returns:
        The picture, float32 on the CPU.

    Raises:
        AmbientSolveError: it has no height and width.
    """
    if x.ndim < 3 or min(x.shape) < 1:
        raise AmbientSolveError(f"{name} is {tuple(x.shape)}; a picture (channels, ..., height, width) was expected.")
    x = (x.abs() if x.is_complex() else x).detach().float().cpu()
    while x.ndim > 3:
        x = x[:, x.shape[1] // 2]
    if len(x) == 2:
        return x.norm(dim=0, keepdim=True)
    return x if len(x) in (1, 3) else x.mean(0, keepdim=True)


def window(x: Tensor) -> tuple[float, float]:
    """The values that are drawn black and white: 0 and 1 for a photograph, else nearly the range of `x`."""
    some = x.flatten()[:: max(1, x.numel() // 100_000)]
    low, least, most, high = (float(some.quantile(p)) for p in (TAIL, ODD, 1 - ODD, 1 - TAIL))
    if -OUTSIDE <= least and 0.05 < high and most <= 1 + OUTSIDE:
        return 0.0, 1.0
    return min(low, 0.0), max(high, low + 1e-12)


def columns(
    mean: Tensor,
    std: Tensor | None,
    samples: Sequence[Tensor],
    measured: Tensor | None = None,
    truth: Tensor | None = None,
) -> dict[str, list[Tile]]:
    """The tiles of a contact sheet by the heading of their column, one for each of the first few measurements.

    Args:
        mean: (B, C, *spatial).
        std: The same shape; None leaves it out.
        samples: Each of that shape.
        measured: (B, C, *spatial) of any size, in a window of its own; None leaves it out.
        truth: (B, C, *spatial).

    Returns:
        The tiles of each column, by its heading.

    Raises:
        AmbientSolveError: one of them is no batch of as many pictures.
    """
    named = {"measured": measured, "truth": truth, "mean": mean, "standard deviation": std}
    named |= {f"sample {i}": x for i, x in enumerate(samples, 1)}
    found: dict[str, list[Tile]] = {}
    for name, batch in named.items():
        if batch is None:
            continue
        if len(batch) != len(mean):
            raise AmbientSolveError(f"{name} holds {len(batch)} pictures, the result {len(mean)}: one for each.")
        for x, center in zip(batch[:MOST], mean, strict=False):
            picture = visible(x, name)
            if name == "standard deviation":
                found.setdefault(name, []).append(std_tile(picture))
                continue
            low, high = window(picture if name == "measured" else visible(center, name))
            found.setdefault(name, []).append(picture_tile((picture - low) / (high - low)))
    return found


def draw_result(title: str, tiles: dict[str, list[Tile]], notes: Sequence[str], side: int) -> Image.Image:
    """The contact sheet of `columns`.

    Args:
        title: Of the sheet.
        tiles: Column by heading.
        notes: Beside each row.
        side: Of each picture, in pixels.

    Returns:
        A Pillow image.
    """
    names = ["std. deviation" if name == "standard deviation" else name for name in tiles]
    made = list(zip(notes, *tiles.values(), strict=False))
    rows = [Row(f"picture {i}" * (len(made) > 1), note, tile) for i, (note, *tile) in enumerate(made)]
    return contact_sheet(title, names, rows, side)


def as_html(text: str, picture: Image.Image | None) -> str:
    """A picture above its text, self-contained.

    Args:
        text: Plain; it is escaped.
        picture: A Pillow image, or None for the text alone.

    Returns:
        An HTML element.
    """
    shown = ""
    if picture is not None:
        stream = io.BytesIO()
        picture.save(stream, "png")
        data = base64.b64encode(stream.getvalue()).decode()
        shown = f'<img alt="{html.escape(text)}" src="data:image/png;base64,{data}" style="max-width: 100%"/>'
    return f"<div>{shown}<pre>{html.escape(text)}</pre></div>"
