"""The one vocabulary of verdicts: levels, causes, and what to try, for the command line, the page, scans and checks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

RIGHT, DOUBTFUL, WRONG = "right", "doubtful", "wrong"
"""The levels of a verdict."""
HEADLINES = {
    RIGHT: "What was stated fits the measurement.",
    DOUBTFUL: "What was stated may not fit the measurement.",
    WRONG: "What was stated does not fit the measurement.",
}
"""The first sentence of a verdict, by its level."""
MISSES = "misses the measurement"
"""Of samples whose misfit is far above 1."""
FITS_NOISE = "fits the noise"
"""Of samples whose misfit is far below 1."""


class Cause(NamedTuple):
    """What is probably wrong, and one sentence that says what to try; empty words where no cause stands out."""

    words: str
    advice: str


NOISE_LOWER, NOISE_HIGHER = "noise lower", "noise higher"
BLUR_NARROWER, BLUR_WIDER = "blur narrower", "blur wider"
KERNEL, MASK, VALUES, QUALITY, DAMAGE = "kernel", "mask", "values", "quality", "damage"

CAUSES = {
    NOISE_LOWER: Cause("The noise is probably lower than stated.", "State a smaller noise level, or estimate it."),
    NOISE_HIGHER: Cause("The noise is probably higher than stated.", "State a larger noise level, or estimate it."),
    BLUR_NARROWER: Cause("The blur is probably narrower than stated.", "State a smaller width of the blur."),
    BLUR_WIDER: Cause("The blur is probably wider than stated.", "State a larger width of the blur."),
    KERNEL: Cause(
        "The kind, the length or the direction of the blur is probably another one.",
        "State another direction or length of the movement, or a round blur.",
    ),
    MASK: Cause("The mask is probably shifted, or too small.", "Make the mask larger by a few pixels on every side."),
    VALUES: Cause(
        "The values of the picture are probably not those that a camera or a scanner stored.",
        "Put in the picture as it was stored, without a change of brightness or scale.",
    ),
    QUALITY: Cause(
        "The JPEG quality is probably another one, or the picture was changed after it was stored as JPEG.",
        "Let the quality be read from the file, or estimate it.",
    ),
    DAMAGE: Cause("", "State another kind of damage, another size of it, or another noise level."),
}
"""By key."""


def advice(key: str, numbers: Mapping[str, float]) -> str:
    """What to try, with a number where the measurement says how far the statement is off.

    Args:
        key: Of the cause.
        numbers: Statistics by name.
    """
    square = numbers.get("exponent" if key in (BLUR_NARROWER, BLUR_WIDER) else "noise", 0.0)
    times = square**0.5 if square > 0 else 0.0
    if 0.2 < times < 5 and (times < 1) == (key in (NOISE_LOWER, BLUR_NARROWER)):
        if key in (BLUR_NARROWER, BLUR_WIDER):
            return f"State a width of the blur about {times:.1f} times as large."
        if key in (NOISE_LOWER, NOISE_HIGHER):
            return f"State a noise level about {times:.1f} times as large, or estimate it."
    return CAUSES[key].advice


STATISTICS = {
    "misfit": "misfit",
    "outside": "values outside 0 to 1, before clipping",
    "blind": "misfit at frequencies that the blur takes away",
    "width": "width of the blur beside the stated one, in standard errors",
    "noise": "variance of the noise that the spectrum shows, 1 as stated",
    "rim": "steps at the rim of the mask",
    "white": "brightest values of the measurement",
    "repeated": "change of the picture by the stated JPEG",
    "fitted noise": "noise that was fitted",
    "right 1": "correlation of the residual, 1 px to the right",
    "down 1": "correlation of the residual, 1 px down",
}
"""Each statistic for readers, by name."""
TELLING = ("white", "rim", "repeated", "width")
"""Statistics that name the cause even where another one lies farther outside, the most telling first."""


def cause(family: str, statistic: str, side: int) -> str:
    """The key of what is probably wrong where a statistic is too small (side -1) or too large (1).

    Args:
        family: Of the operator that was stated.
        statistic: Its name.
        side: -1 or 1.

    Returns:
        A key of CAUSES: DAMAGE where measurement shows no cause that is right most of the time.
    """
    if statistic in ("misfit", "blind", "noise") and family != "jpeg":
        if side < 0:
            return NOISE_LOWER
        # What is wrong with a mask or with a filter leaves as much unexplained as noise does.
        return DAMAGE if family in ("inpaint", "super-resolution") else NOISE_HIGHER
    named = {
        ("blur", "width", -1): BLUR_NARROWER,
        ("blur", "width", 1): BLUR_WIDER,
        ("directed blur", "width", -1): KERNEL,
        ("directed blur", "width", 1): KERNEL,
        ("blur", "fitted noise", 1): BLUR_WIDER,
        ("blur", "outside", 1): BLUR_NARROWER,
        ("directed blur", "outside", 1): KERNEL,
        ("inpaint", "rim", 1): MASK,
        ("jpeg", "repeated", 1): QUALITY,
    }
    if statistic == "white" and side < 0:
        return VALUES
    return named.get((family, statistic, side), DAMAGE)
