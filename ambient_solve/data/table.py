"""The table of an annotator: at which noise levels each sample may be used, one JSON object a line.

    {"name": "7.png", "sigma_min": 0.42, "sigma_max": 0.0, "damage": "blur", "annotator": "heldout"}

A sample may be used at levels above its `sigma_min` or below its `sigma_max` (Ambient Diffusion Omni; Daras et al.,
2025, arXiv 2506.10038). Rows and samples are joined by name, which therefore must be unique on both sides; a level
without bound is written "inf".
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ambient_solve.data.sample import Sample
from ambient_solve.errors import AmbientSolveError, reason
from ambient_solve.reading.limits import parse_json

INK = "#1c1e22"
"""Colour of words and ticks of the chart."""
SOFT = "#c9ccd1"
"""Colour of its grid."""
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Colours of its curves, one for each damage in turn."""


@dataclass(frozen=True)
class Annotation:
    """An annotation: one row of a table, at which levels a sample may be used.

    Attributes:
        name: The sample's.
        sigma_min: It may be used at levels above this one, in units of z, 0 or more.
        sigma_max: It may be used at levels below this one too, 0 or more; 0 is at none.
        damage: The group in which it was counted.
        annotator: What made the row.
        score: Ranks the samples of one annotator, higher is worse; None where it does not rank them.
    """

    name: str
    sigma_min: float
    sigma_max: float
    damage: str
    annotator: str
    score: float | None = None

    def __post_init__(self) -> None:
        if not (self.sigma_min >= 0 and self.sigma_max >= 0):
            raise AmbientSolveError(
                f"{self.name}: sigma_min = {self.sigma_min} and sigma_max = {self.sigma_max} must be 0 or more."
            )


def group(sample: Sample) -> str:
    """The group in which an annotator counts a sample: its damage, or "noise" where nothing but noise is stated."""
    return "noise" if sample.damage == "clean" and sample.sigma_noise > 0 else sample.damage


def write_table(rows: Iterable[Annotation], path: str | Path) -> None:
    """Write annotations, one JSON object a line; the file appears when it is complete.

    Args:
        rows: The annotations, one for each name.
        path: The file to write.

    Raises:
        AmbientSolveError: two rows have one name.
    """
    rows, path = list(rows), Path(path)
    _unique([row.name for row in rows], "rows")
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    part.write_text("".join(json.dumps(_plain(row)) + "\n" for row in rows))
    part.replace(path)


def _plain(row: Annotation) -> dict[str, str | float]:
    known = {k: v for k, v in dataclasses.asdict(row).items() if v is not None}
    return {k: "inf" if v == math.inf else v for k, v in known.items()}


def read_table(path: str | Path) -> list[Annotation]:
    """Read what `write_table` wrote; what is wrong with a line is said with its number."""
    if not Path(path).is_file():
        raise AmbientSolveError(f"There is no table {path}; trainers/annotate.py writes one.")
    rows = []
    for number, line in enumerate(Path(path).read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line, "it")
            words = {k: str(row[k]) for k in ("name", "damage", "annotator")}
            score = None if row.get("score") is None else float(row["score"])
            rows.append(Annotation(**words, **{k: float(row[k]) for k in ("sigma_min", "sigma_max")}, score=score))
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            kind = "" if isinstance(error, AmbientSolveError) else f"{type(error).__name__}: "
            raise AmbientSolveError(f"{path}, line {number}: {kind}{reason(error)}.") from None
    _unique([row.name for row in rows], f"rows of {path}")
    return rows


def with_levels(samples: Sequence[Sample], table: Sequence[Annotation]) -> list[Sample]:
    """Give samples the levels of their rows. Rows of other samples are passed over, as where some are held out.

    Args:
        samples: With names of their own.
        table: A row for each of them.

    Returns:
        The samples, in their order.

    Raises:
        AmbientSolveError: a sample has no row or one of another damage, or a name occurs twice.
    """
    _unique([sample.name for sample in samples], "samples")
    _unique([row.name for row in table], "rows")
    rows = {row.name: row for row in table}
    for sample in samples:
        if sample.name not in rows:
            raise AmbientSolveError(f"{sample.name} has no row in the table: annotate the data that is trained on.")
        if (known := rows[sample.name].damage) != group(sample):
            raise AmbientSolveError(
                f"{sample.name} is {known!r} in the table and {group(sample)!r} in the data: annotate these data anew."
            )
    return [replace(s, sigma_min=rows[s.name].sigma_min, sigma_max=rows[s.name].sigma_max) for s in samples]


def _unique(names: Sequence[str], what: str) -> None:
    name, times = next(iter(Counter(names).most_common(1)), ("", 0))
    if times > 1:
        raise AmbientSolveError(f"{times} {what} are named {name}: names join the table to the data and must differ.")


def chart(rows: Sequence[Annotation], size: tuple[int, int] = (760, 420)) -> Image.Image:
    """A chart of the share of each damage that may be used at each noise level.

    Args:
        rows: The annotations.
        size: (width, height) in pixels.

    Returns:
        The picture.
    """
    (width, height), (left, top, right, bottom) = size, (64, 44, 24, 52)
    image = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=15)
    sigmas = np.geomspace(0.01, 100, width - left - right)
    x, y = left + np.arange(len(sigmas)), lambda share: top + (1 - share) * (height - top - bottom)
    for share in (0.0, 0.5, 1.0):
        draw.line((left, y(share), width - right, y(share)), SOFT, 1)
        draw.text((left - 8, y(share)), f"{share:.0%}", INK, font, anchor="rm")
    for level in (0.01, 0.1, 1.0, 10.0, 100.0):
        at = np.interp(math.log(level), np.log(sigmas), x)
        draw.line((at, y(0), at, y(0) + 5), INK, 1)
        draw.text((at, y(0) + 9), f"{level:g}", INK, font, anchor="mt")
    draw.text(((left + width - right) / 2, height - 8), "noise level sigma", INK, font, anchor="ms")
    at = left
    for number, damage in enumerate(sorted({row.damage for row in rows})):
        low, high = (np.array([getattr(r, k) for r in rows if r.damage == damage]) for k in ("sigma_min", "sigma_max"))
        share = np.mean((sigmas[:, None] > low) | (sigmas[:, None] < high), 1)
        colour, label = LINES[number % len(LINES)], f"{damage} ({len(low)})"
        draw.line([(a, y(b)) for a, b in zip(x, share, strict=True)], colour, 3)
        draw.text((at, 14), label, colour, font, anchor="lt")
        at += draw.textlength(label, font) + 18
    return image
