"""Views of a restoration: arrays in, pictures and sentences out. Knows neither gradio nor a solver.

Pictures are (H, W, C) float arrays in [0, 1], samples (S, H, W, C), masks (H, W) with True where a pixel was measured.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ambient_solve.figures.sheet import HEAT
from ambient_solve.verdict.words import DOUBTFUL, RIGHT, WRONG

if TYPE_CHECKING:
    from ambient_solve.verdict.judge import Verdict

SIGNS = {RIGHT: "\u2713", DOUBTFUL: "?", WRONG: "\u2717"}
"""What stands before a verdict: a check mark, a question mark, a cross."""
INK = (28, 30, 34)
"""Colour of words, RGB from 0 to 255."""
SOFT = (86, 91, 99)
"""Colour of words that are less important, RGB from 0 to 255."""
PAPER = (255, 255, 255)
"""Colour of the background, RGB from 0 to 255."""
# Blue, white, orange: the two signs differ in hue and the size in lightness, for readers of all kinds of colour vision.
SIGNED = ("053061", "2f79b5", "9bc8df", "f7f7f7", "f9b77c", "c5602a", "7f2704")
"""Colours of a map of values of both signs, from the lowest to the highest, as hexadecimal RGB."""
BAR = 44
"""Height of a colour bar with its words, in pixels."""
FONT = 15
"""Height of the font, in pixels."""
ENLARGED = 512
"""Longer side up to which a map is enlarged, in pixels."""
LIMIT = 4.0
"""End of the residual map, in units of the noise: of Gaussian noise one value in 16,000 lies beyond."""


@dataclass(frozen=True)
class Map:
    """A drawn map: `image` shows each value `scale` times as wide and high, and a colour bar of BAR rows below.

    `size` is that of the values, of which there is one for each `step` pixels; `top` belongs to the last colour.
    """

    image: Image.Image
    scale: int
    size: tuple[int, int]
    top: float
    step: int = 1

    def pixel(self, x: float, y: float) -> tuple[int, int] | None:
        """The pixel of the picture under a point of the drawing.

        Args:
            x: From the left, in pixels.
            y: From the top, in pixels.

        Returns:
            (row, column); None on the colour bar.
        """
        row, column = int(y // self.scale), int(x // self.scale)
        inside = 0 <= row < self.size[0] and 0 <= column < self.size[1]
        return (row * self.step, column * self.step) if inside else None


def to_image(x: np.ndarray) -> Image.Image:
    """A picture for the screen."""
    array = (np.clip(x, 0, 1) * 255).round().astype(np.uint8)
    return Image.fromarray(array.repeat(3, -1) if array.shape[-1] == 1 else array)


def measured(y: np.ndarray, mask: np.ndarray | None = None) -> Image.Image:
    """The measurement as it is shown: where nothing was measured a grey checkerboard, which no photograph has.

    Args:
        y: (H, W, channels), 0 to 1.
        mask: Measured pixels, (H, W), or None where all were.

    Returns:
        The picture.
    """
    image = to_image(y)
    if mask is None:
        return image
    rows, columns = np.indices(mask.shape)
    side = max(4, min(mask.shape) // 48)
    board = np.where((rows // side + columns // side) % 2, 168, 208).astype(np.uint8)
    return Image.fromarray(np.where(mask[..., None], np.asarray(image), board[..., None]))


def slider_pair(before: Image.Image, after: Image.Image) -> tuple[Image.Image, Image.Image]:
    """Two pictures at the size of the larger one: a slider compares only pictures of the same size.

    Args:
        before: Enlarged by repeating its pixels.
        after: Enlarged smoothly.

    Returns:
        Both.
    """
    size = (max(before.width, after.width), max(before.height, after.height))
    return _grown(before, size, Image.Resampling.NEAREST), _grown(after, size, Image.Resampling.LANCZOS)


def std_map(samples: np.ndarray, longest: int = 1024) -> Map:
    """A map of the standard deviation over the samples, averaged over channels.

    The brightest colour is its largest value but for one pixel in 200 of those that differ at all.

    Args:
        samples: (S, H, W, channels), 0 to 1, S at least 2.
        longest: Longest side of which every pixel is shown; of a longer one every second, third ... pixel is.

    Returns:
        The map.
    """
    step = math.ceil(max(samples.shape[1:3]) / longest)
    std = samples[:, ::step, ::step].std(0, ddof=1).mean(-1)
    unsure = std[std > 1e-6]
    top = float(np.quantile(unsure, 0.995)) if unsure.size else 1e-6
    ends = ("all samples agree", f"they differ by {255 * top:.0f} of 255 or more")
    return replace(drawn(coloured(np.clip(std / top, 0, 1), HEAT), ends, HEAT, top), step=step)


def one_sample(x: np.ndarray) -> Image.Image:
    """What stands in the place of the map of standard deviations while there is one sample."""
    image = Image.new("RGB", (ENLARGED, max(BAR, round(ENLARGED * x.shape[0] / x.shape[1]))), (236, 239, 243))
    font, place = ImageFont.load_default(size=FONT + 5), (image.width / 2, image.height / 2)
    ImageDraw.Draw(image).text(place, "One sample has no standard deviation.", INK, font, anchor="mm")
    return image


def residual_map(residual: np.ndarray, mask: np.ndarray | None = None) -> Map:
    """A map of what the restored picture leaves unexplained, averaged over channels, in units of the noise alone.

    Args:
        residual: (H, W, channels), in standard deviations of the noise.
        mask: Measured pixels, (H, W), or None where all were.

    Returns:
        The map.
    """
    flat = residual.mean(-1) * residual.shape[-1] ** 0.5
    colours = coloured(np.clip(flat / LIMIT, -1, 1) / 2 + 0.5, SIGNED)
    if mask is not None:
        colours = np.where(mask[..., None], colours, np.uint8(168))
    return drawn(colours, (f"-{LIMIT:g} noise", f"+{LIMIT:g} noise"), SIGNED, LIMIT)


def steps_strip(frames: Sequence[tuple[str, np.ndarray]], height: int = 160) -> Image.Image:
    """The estimates of the sampler from left to right, each with its caption below.

    Args:
        frames: (caption, estimate (H, W, channels) from 0 to 1).
        height: Height of an estimate, in pixels.

    Returns:
        The picture.
    """
    font = ImageFont.load_default(size=FONT)
    images = [to_image(x) for _, x in frames]
    images = [i.resize((max(1, round(i.width * height / i.height)), height), Image.Resampling.LANCZOS) for i in images]
    strip = Image.new("RGB", (sum(i.width + 8 for i in images) - 8, height + 26), PAPER)
    draw, left = ImageDraw.Draw(strip), 0
    for (caption, _), image in zip(frames, images, strict=True):
        strip.paste(image, (left, 0))
        draw.text((left + image.width / 2, height + 6), caption, SOFT, font, anchor="mt")
        left += image.width + 8
    return strip


def swatches(samples: np.ndarray, row: int, column: int, reach: int = 12, side: int = 120) -> Image.Image:
    """The neighbourhood of one pixel in each sample, side by side, the pixel framed.

    Args:
        samples: (S, H, W, C).
        row: Of the pixel.
        column: Of the pixel.
        reach: Pixels on each side of it.
        side: Of the drawing of a sample, in pixels.

    Returns:
        A strip of S drawings.
    """
    near = np.pad(samples, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")
    near = near[:, row : row + 2 * reach + 1, column : column + 2 * reach + 1]
    strip = Image.new("RGB", (len(near) * (side + 8) - 8, side), PAPER)
    draw, unit = ImageDraw.Draw(strip), side / (2 * reach + 1)
    for s, x in enumerate(near):
        left = s * (side + 8)
        strip.paste(to_image(x).resize((side, side), Image.Resampling.NEAREST), (left, 0))
        box = (left + reach * unit - 2, reach * unit - 2, left + (reach + 1) * unit + 2, (reach + 1) * unit + 2)
        draw.rectangle(box, outline=(255, 255, 255), width=2)
        draw.rectangle((box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1), outline=INK)
    return strip


def pixel_words(samples: np.ndarray, row: int, column: int, mask: np.ndarray | None = None) -> str:
    """The mean, the standard deviation and every sample of one pixel, as a table in markdown.

    Args:
        samples: (S, H, W, channels), 0 to 1.
        row: From 0, downwards.
        column: From 0, to the right.
        mask: Measured pixels, (H, W), or None where all were.

    Returns:
        The table.
    """
    values = samples[:, row, column] * 255
    names = ("red", "green", "blue") if values.shape[1] == 3 else ("grey",)
    kind = "" if mask is None else ", which was measured" if mask[row, column] else ", which was **not** measured"
    lines = [
        f"**Column {column}, row {row}**{kind}; values from 0 to 255.",
        "",
        f"| | mean | standard deviation | {' | '.join(f'sample {s + 1}' for s in range(len(values)))} |",
        "|---|" + "---|" * (len(values) + 2),
    ]
    for c, name in enumerate(names):
        std = f"{values[:, c].std(ddof=1):.1f}" if len(values) > 1 else "unknown"
        each = " | ".join(f"{v:.0f}" for v in values[:, c])
        lines.append(f"| {name} | {values[:, c].mean():.0f} | {std} | {each} |")
    return "\n".join(lines)


def share_words(mask: np.ndarray | None, samples: np.ndarray | None, kept: bool) -> str:
    """Which part was measured and which was invented, and how far the inventions differ.

    Args:
        mask: Measured pixels (H, W), None where the damage is no mask.
        samples: (S, H, W, C), None where there are none.
        kept: Whether measured pixels are as they were.

    Returns:
        Two sentences at most.
    """
    if mask is None:
        words = (
            "Every pixel was measured, damaged: what the damage took away was filled in from what the prior has seen."
        )
    else:
        lost = 100 * (1 - mask.mean())
        figure = f"{lost:.0f}" if lost >= 1 else f"{lost:.2g}"
        words = (
            f"{100 - float(figure):.4g} % of the pixels were measured{' and are kept as they are' if kept else ''}; "
        )
        words += f"{figure} % were not, and are invented."
    if samples is not None and len(samples) > 1:
        std = samples.std(0, ddof=1).mean(-1)
        std = std.mean() if mask is None or mask.all() else std[~mask].mean()
        words += f" Where {'something was invented' if mask is not None else 'it was filled in'} the samples differ by "
        words += f"{255 * std:.1f} grey values of 255 on average."
    return words


def truth_words(truth: np.ndarray, mean: np.ndarray) -> str:
    """How near the restored picture comes to the undamaged one, as a sentence.

    Args:
        truth: The undamaged picture, (H, W, channels), 0 to 1.
        mean: The restored picture, the same shape.

    Returns:
        Its PSNR.
    """
    error = float(np.square(np.clip(mean, 0, 1) - truth).mean())
    return f"PSNR against the undamaged picture: {-10 * math.log10(max(error, 1e-10)):.1f} dB."


def fit_words(chi2: float, verdict: Verdict | None = None) -> str:
    """How well the restored picture explains the measurement, as a sentence, and the numbers of the verdict.

    Args:
        chi2: Reduced chi-squared, 1 where the residual is as large as the stated noise.
        verdict: What follows from it and the other numbers.

    Returns:
        Markdown.
    """
    said = f"The restored picture explains the measurement to **{chi2**0.5:.2f} times** the stated noise (1 is right)."
    if verdict is None:
        return said
    rows = [f"| {name} | {shown} | {span} |" for name, shown, span in verdict.table()]
    head = ["", "| | measured | of right statements |", "|---|---|---|"] if rows else []
    return "\n".join([f"{said} {verdict.sentence}".rstrip(), *head, *rows])


def verdict_card(verdict: Verdict, controls: str = "") -> str:
    """The verdict on the stated damage, in words and a color, as HTML.

    Args:
        verdict: Of the run.
        controls: A sentence that says which controls of the page to set; empty for none.

    Returns:
        HTML; the level stands in words, for readers who see no colors.
    """
    said = [f"<p>{html.escape(line)}</p>" for line in (*verdict.causes, controls or verdict.advice) if line]
    title = html.escape(f"{SIGNS[verdict.level]} {verdict.headline}")
    return f'<div class="as-verdict as-{verdict.level}" role="status"><strong>{title}</strong>{"".join(said)}</div>'


def progress_bar(share: float, words: str) -> str:
    """A progress bar and its words, as HTML that screen readers understand.

    Args:
        share: 0 to 1.
        words: What is going on; they are escaped.

    Returns:
        HTML.
    """
    percent, words = round(100 * min(max(share, 0), 1)), html.escape(words)
    return (
        f'<div class="as-progress" role="progressbar" aria-label="Progress of the restoration" aria-valuemin="0" '
        f'aria-valuemax="100" aria-valuenow="{percent}" aria-valuetext="{words}"><div style="width:{percent}%"></div>'
        f'</div><p class="as-status" role="status">{words}</p>'
    )


def duration(seconds: float) -> str:
    """Seconds in words of the right size."""
    if seconds < 90:
        return f"{max(seconds, 0):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _grown(image: Image.Image, size: tuple[int, int], rule: Image.Resampling) -> Image.Image:
    return image if image.size == size else image.resize(size, rule)


def coloured(values: np.ndarray, colours: Sequence[str]) -> np.ndarray:
    """Colours of numbers.

    Args:
        values: (H, W), 0 to 1.
        colours: Evenly spaced stops of the ramp, "rrggbb" each.

    Returns:
        (H, W, 3) uint8.
    """
    stops = np.linspace(0, 1, len(colours))
    channels = [np.interp(values, stops, [bytes.fromhex(colour)[c] for colour in colours]) for c in range(3)]
    return np.stack(channels, -1).round().astype(np.uint8)


def drawn(colours: np.ndarray, ends: tuple[str, str], ramp: Sequence[str], top: float, side: int = ENLARGED) -> Map:
    """A map, enlarged by a whole number, with its colour bar below it.

    Args:
        colours: (H, W, 3) uint8.
        ends: What is written at both ends of the bar.
        ramp: Colours of the bar, from the lowest value.
        top: Value at the upper end.
        side: Longest side of the enlarged map, in pixels.

    Returns:
        The map, which knows the pixel under a point.
    """
    height, width = colours.shape[:2]
    scale = max(1, side // max(height, width))
    big = Image.fromarray(colours.repeat(scale, 0).repeat(scale, 1))
    image = Image.new("RGB", (big.width, big.height + BAR), PAPER)
    image.paste(big)
    bar = coloured(np.linspace(0, 1, big.width)[None].repeat(14, 0), ramp)
    image.paste(Image.fromarray(bar), (0, big.height + 6))
    font = ImageFont.load_default(size=FONT if big.width >= 280 else 10)
    draw = ImageDraw.Draw(image)
    draw.text((2, big.height + 24), ends[0], INK, font, anchor="lt")
    draw.text((big.width - 2, big.height + 24), ends[1], INK, font, anchor="rt")
    return Map(image, scale, (height, width), top)
