r"""From only what the data support to one plausible picture, and how much of what is seen was invented.

The mean of the posterior samples is what the data support: of all pictures it has the least expected error. One sample
is a picture as there might have been one. Between them, with t from 0 to 1,

    x_t = mean + t (sample - mean),      E |x - x_t|^2 = (1 + t^2) E |x - mean|^2

errs the more the more of the sample it shows: a posterior sample errs twice as much as the mean (Blau and Michaeli,
2018, "The perception-distortion tradeoff", CVPR).

What was invented is measured on the detail near each pixel, its variance in a small window: of S samples x_s

    total = mean over s of var(x_s),      invented = S / (S - 1) (total - var(mean over s of x_s))

are unbiased for the variance of a sample and for the part of it on which the samples disagree. The share at t is
t^2 invented / (total - invented + t^2 invented).
"""

from __future__ import annotations

import numpy as np

from ambient_solve.app import panels
from ambient_solve.figures.sheet import HEAT

WINDOW = 9
"""Side of the window whose variance is the detail at a pixel, in pixels."""
ROUNDING = (1 / 255) ** 2
"""Variance below which detail is not seen: one gray level of 8 bits."""


def blended(samples: np.ndarray, chosen: int, invented: float) -> np.ndarray:
    """A picture between the mean and one sample.

    Args:
        samples: (S, H, W, C).
        chosen: Which sample, 1 to S; 0 is the mean itself.
        invented: t, 0 for the mean to 1 for the sample.

    Returns:
        (H, W, C).
    """
    mean = samples.mean(0)
    if chosen == 0 or invented == 0:
        return mean
    sample = samples[min(chosen, len(samples)) - 1]
    return sample if invented >= 1 else mean + np.float32(invented) * (sample - mean)


def invented_share(samples: np.ndarray, invented: float = 1.0) -> np.ndarray:
    """The share of the detail near each pixel that was invented.

    Args:
        samples: (S, H, W, C), 0 to 1, S at least 2.
        invented: t, 0 for the mean to 1 for a sample.

    Returns:
        (H, W), 0 to 1; 0 where there is no detail.
    """
    count = len(samples)
    total = sum(_variance(x) for x in samples) / count
    part = np.clip(count / (count - 1) * (total - _variance(samples.mean(0))), 0, total)
    seen = invented**2 * part
    return seen / (total - part + seen + ROUNDING)


def share_picture(x: np.ndarray, share: np.ndarray) -> panels.Map:
    """A picture of what was invented: bright is invented, dark is supported by the data.

    Args:
        x: The picture, (H, W, C), whose outlines are shown faintly.
        share: (H, W), 0 to 1.

    Returns:
        The map, whose color bar goes from nothing to everything.
    """
    colors = panels.coloured(share, HEAT).astype(np.float32)
    gray = np.clip(x.mean(-1, keepdims=True), 0, 1)
    drawn = colors * (0.55 + 0.45 * gray)
    return panels.drawn(drawn.round().astype(np.uint8), ("supported by the data", "all invented"), HEAT, 1.0)


def invented_words(share: np.ndarray, invented: float) -> str:
    """What the picture is, in two sentences.

    Args:
        share: (H, W), 0 to 1.
        invented: t, 0 to 1.

    Returns:
        Markdown.
    """
    if invented == 0:
        said = "Where they say little it is smooth; no other picture errs less on average."
        return f"**Only what the data support.** {said}"
    error = f"its expected squared error is {1 + invented**2:.2g} times the least possible"
    much = float((share > 0.5).mean())
    where = f"in {100 * much:.2g} % of the picture more than half of the detail is invented"
    way = "One" if invented == 1 else f"{100 * invented:.0f} % of the way to one"
    return f"**{way} plausible picture**: {where}, and {error}."


def _variance(x: np.ndarray) -> np.ndarray:
    """The variance in the window round each pixel, averaged over the channels, (H, W)."""
    from scipy.ndimage import uniform_filter

    x = x.astype(np.float32)
    size = (WINDOW, WINDOW, 1)
    mean = uniform_filter(x, size, mode="reflect")
    return np.maximum(uniform_filter(x * x, size, mode="reflect") - mean * mean, 0).mean(-1)
