"""The one vocabulary of verdicts: levels, causes, and what to try, for the command line, the page, scans and checks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

TURNED = 10.0
"""Degrees from which on a movement has another direction."""

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
BLUR_NARROWER, BLUR_WIDER, NO_BLUR = "blur narrower", "blur wider", "no blur"
MOVEMENT, ROUND_BLUR = "movement", "round blur"
DIRECTION, SHORTER, LONGER, KERNEL = "direction", "movement shorter", "movement longer", "kernel"
MASK, VALUES, QUALITY, DAMAGE = "mask", "values", "quality", "damage"

CAUSES = {
    NOISE_LOWER: Cause("The noise is probably lower than stated.", "State a smaller noise level, or estimate it."),
    NOISE_HIGHER: Cause("The noise is probably higher than stated.", "State a larger noise level, or estimate it."),
    BLUR_NARROWER: Cause("The blur is probably narrower than stated.", "State a smaller width of the blur."),
    BLUR_WIDER: Cause("The blur is probably wider than stated.", "State a larger width of the blur."),
    NO_BLUR: Cause("The picture is probably not blurred.", "State another kind of damage, such as noise alone."),
    MOVEMENT: Cause("The blur is probably a movement along a line.", "State a movement."),
    ROUND_BLUR: Cause("The blur is probably round, and no movement.", "State a round blur."),
    DIRECTION: Cause("The movement probably has another direction.", "State another direction, or estimate it."),
    SHORTER: Cause("The movement is probably shorter than stated.", "State a smaller length, or estimate it."),
    LONGER: Cause("The movement is probably longer than stated.", "State a larger length, or estimate it."),
    KERNEL: Cause(
        "The blur probably has another direction or shape than stated.",
        "State another direction or another blur, estimate it, or put in its kernel as a picture.",
    ),
    MASK: Cause("The mask is probably shifted, or too small.", "Make the mask larger by a few pixels on every side."),
    VALUES: Cause(
        "The values of the picture are probably not those that a camera or a scanner stored.",
        "Put in the picture as it was stored, from 0 to 255 or from 0 to 1, without a change of brightness or scale.",
    ),
    QUALITY: Cause(
        "The JPEG quality is probably another one, or the picture was changed after it was stored as JPEG.",
        "Let the quality be read from the file, or estimate it.",
    ),
    DAMAGE: Cause("", "State another kind of damage, another size of it, or another noise level."),
}
"""By key."""
BLURS = (BLUR_NARROWER, BLUR_WIDER, NO_BLUR, MOVEMENT, ROUND_BLUR, DIRECTION, SHORTER, LONGER, KERNEL)
"""Causes that are another blur, of which the spectrum says which one."""
NOISES = (NOISE_LOWER, NOISE_HIGHER)
"""Causes that are another noise level."""


def suggested(key: str, numbers: Mapping[str, float]) -> dict[str, float]:
    """The numbers that fit the measurement better than the stated ones, as far as it says.

    Args:
        key: Of the cause.
        numbers: Statistics by name.

    Returns:
        By the name of the knob: "width"; "length" and "angle"; or "sigma".
    """
    if key in BLURS and key != NO_BLUR and not (key == KERNEL and numbers.get("sharp")):
        found = {
            name: numbers[f"better {name}"] for name in ("width", "length", "angle") if f"better {name}" in numbers
        }
        return {name: float(f"{value:.2g}" if name != "angle" else f"{value:.0f}") for name, value in found.items()}
    square = numbers.get("noise", numbers.get("misfit", 0.0))
    if key in NOISES and "sigma" in numbers and 0.04 < square < 25 and (square < 1) == (key == NOISE_LOWER):
        return {"sigma": float(f"{numbers['sigma'] * square**0.5:.2g}")}
    return {}


def advice(key: str, better: Mapping[str, float]) -> str:
    """What to try, with the number that the measurement suggests.

    Args:
        key: Of the cause.
        better: Of `suggested`.

    Returns:
        One sentence.
    """
    if "sigma" in better:
        return f"State a noise level of about {better['sigma']:g}, or estimate it."
    if "width" in better:
        return f"State a round blur with a width of about {better['width']:g} pixels, or estimate it."
    if "length" in better:
        where = f"about {better['length']:g} pixels along {better['angle']:g} degrees"
        return f"State a movement of {where}, or estimate it."
    return CAUSES[key].advice


def flags(key: str, better: Mapping[str, float]) -> str:
    """What to try, as options of `ambient-solve restore`; empty where no option mends it.

    Args:
        key: Of the cause.
        better: Of `suggested`.

    Returns:
        Such as "--width 1.5, or --width auto".
    """
    if key in NOISES:
        return " or ".join([*([f"--sigma {better['sigma']:g}"] if "sigma" in better else []), "--sigma auto"])
    if key == QUALITY:
        return "--quality 0, which reads it from the file"
    if key == NO_BLUR:
        return "--task denoise --sigma auto"
    if key not in BLURS:
        return ""
    line = key in (MOVEMENT, DIRECTION, SHORTER, LONGER) or (key == KERNEL and "width" not in better)
    names = ("length", "angle") if line else ("width",)
    task = f"--task {'motion' if line else 'gaussian'}-blur " if key in (MOVEMENT, ROUND_BLUR, KERNEL) else ""
    given = [" ".join(f"--{name} {better[name]:g}" for name in names)] if all(n in better for n in names) else []
    return " or ".join(task + one for one in [*given, " ".join(f"--{name} auto" for name in names)])


STATISTICS = {
    "misfit": "misfit",
    "outside": "values outside 0 to 1, before clipping",
    "blind": "misfit at frequencies that the blur takes away",
    "kernel": "evidence against the stated blur, as a natural logarithm",
    "noise": "variance of the noise that the spectrum shows, 1 as stated",
    "rim": "steps at the rim of the mask",
    "white": "brightest values of the measurement",
    "repeated": "change of the picture by the stated JPEG",
    "fitted noise": "noise that was fitted",
    "right 1": "correlation of the residual, 1 px to the right",
    "down 1": "correlation of the residual, 1 px down",
}
"""Each statistic for readers, by name."""
TELLING = ("white", "rim", "repeated", "kernel")
"""Statistics that name the cause even where another one lies farther outside, the most telling first."""


def cause(family: str, statistic: str, side: int, numbers: Mapping[str, float]) -> str:
    """The key of what is probably wrong where a statistic is too small (side -1) or too large (1).

    Args:
        family: Of the operator that was stated.
        statistic: Its name.
        side: -1 or 1.
        numbers: All statistics by name, which say which blur fits better.

    Returns:
        A key of CAUSES: DAMAGE where measurement shows no cause that is right most of the time.
    """
    if statistic in ("misfit", "blind", "noise") and family != "jpeg":
        if side < 0:
            return NOISE_LOWER
        # What is wrong with a mask or with a filter leaves as much unexplained as noise does.
        return DAMAGE if family in ("inpaint", "super-resolution") else NOISE_HIGHER
    if statistic == "kernel" and side > 0:
        return blur_cause(family, numbers)
    named = {
        ("blur", "fitted noise", 1): BLUR_WIDER,
        ("blur", "outside", 1): BLUR_NARROWER,
        ("directed blur", "outside", 1): KERNEL,
        ("inpaint", "rim", 1): MASK,
        ("jpeg", "repeated", 1): QUALITY,
    }
    if statistic == "white" and side < 0:
        return VALUES
    return named.get((family, statistic, side), DAMAGE)


def blur_cause(family: str, numbers: Mapping[str, float]) -> str:
    """What is wrong with a blur, by the one that fits better.

    Args:
        family: "blur" of a round one, "directed blur" of another one.
        numbers: Of `judge.statistics`.

    Returns:
        One of BLURS.
    """
    line, width = "better length" in numbers, "better width" in numbers
    if not line and not width:
        return NO_BLUR
    if family == "blur":
        return MOVEMENT if line else BLUR_NARROWER if numbers["narrower"] else BLUR_WIDER
    # A real shake has points where the camera rested: it keeps detail that no movement along a line keeps. And a kernel
    # that was given as a picture may be none that a few numbers describe.
    if numbers.get("sharp") or "stated length" not in numbers:
        return KERNEL
    if not line:
        return ROUND_BLUR
    if angle_between(numbers["better angle"], numbers["stated angle"]) >= TURNED:
        return DIRECTION
    return SHORTER if numbers["better length"] < numbers["stated length"] else LONGER


def angle_between(one: float, other: float) -> float:
    """Degrees between two directions of movements.

    Args:
        one: In degrees.
        other: In degrees.

    Returns:
        From 0 to 90.
    """
    turned = abs(one - other) % 180
    return min(turned, 180 - turned)
