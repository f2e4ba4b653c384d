"""What the axes of an array of k-space are, from its numbers where its shape does not tell.

The coils of one slice see one object, each with a smooth map of its own. What one coil measured therefore follows from
what the others did, at the same place of k-space and next to it (GRAPPA; Griswold et al., 2002, Magn. Reson. Med. 47,
1202). Slices show different objects, and nothing follows; or, near each other and in a phantom, much the same object,
equally bright, which no two coils make of it.
"""

from __future__ import annotations

import numpy as np

MANY = 64
"""An array of three axes has its coils or slices along an axis of at most this and half the other lengths."""
WIDEST = 24
"""Rows and columns of the middle of k-space that are read."""
SIDE = 3
"""Side of the window from which an entry is predicted."""
RIDGE = 1e-3
"""Weight of the norm of the coefficients, over the mean power of the windows."""
OTHERS = 2
"""Members from which another is predicted: more of them predict slices, too, and take more windows to fit."""
PREDICTED = 0.15
"""Coils leave less than this part of the energy unpredicted."""
UNPREDICTED = 0.6
"""Slices leave more than this."""
CONTRAST = 0.13
"""Coils change the brightness of the picture against each other by more than this; slices that lie close do not."""
STRONG = 0.3
"""Share of the largest magnitude above which a pixel is compared."""
LOUD = 10.0
"""Windows this many times as strong as the edge of k-space tell one slice from another; noise follows from nothing."""


def axes_of(data: np.ndarray) -> tuple[str, dict[str, str]]:
    """What the axes of k-space are, in letters: s slices, c coils, h height, w width.

    Args:
        data: Complex, of two to four axes.

    Returns:
        The axes, or "" with what they may be, and what that would mean; nothing where the shape does not tell height
        and width.
    """
    if data.ndim == 2:
        return "hw", {}
    if data.ndim == 3:
        return _three(data)
    if data.ndim != 4 or min(data.shape[2:]) < 2:
        return "", {}
    if min(data.shape[2:]) < min(data.shape[:2]):
        return "", {"hwcs": "coils before slices", "hwsc": "slices before coils"}
    a, b = data.shape[:2]
    if a == b == 1 or _has_no_middle(data[:, 0]):
        return "schw", {}
    power = np.nan_to_num(abs(data) ** 2, nan=0, posinf=0).sum((2, 3))
    strength = [int(power.sum(axis).argmax()) for axis in (1, 0)]
    first, second = coils_or_slices(data[:, strength[1]]), coils_or_slices(data[strength[0]])
    if (second == "c" and first != "c") or (b == 1 and first == "s"):
        return "schw", {}
    if (first == "c" and second != "c") or (a == 1 and second == "s"):
        return "cshw", {}
    return "", {
        "schw": f"{_many(a, 'slice')} of {_many(b, 'coil')}",
        "cshw": f"{_many(b, 'slice')} of {_many(a, 'coil')}",
    }


def _many(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n > 1)}"


def _three(data: np.ndarray) -> tuple[str, dict[str, str]]:
    """`axes_of` an array of three axes, one of which is much shorter than the others."""
    short = [i for i, n in enumerate(data.shape) if n <= MANY and sum(m >= 2 * n for m in data.shape) == 2]
    if len(short) != 1:
        return "", {}
    named = {letter: "hw"[: short[0]] + letter + "hw"[short[0] :] for letter in "cs"}
    moved = np.moveaxis(data, short[0], 0)
    found = "c" if len(moved) == 1 or _has_no_middle(moved) else coils_or_slices(moved)
    meanings = {named["c"]: "coils of a single slice", named["s"]: "slices of a single coil"}
    return (named[found], {}) if found else ("", meanings)


def _has_no_middle(kspace: np.ndarray) -> bool:
    """Whether no scan can be made of k-space (n, H, W), whose middle was not sampled: `Scan` says so of any axes."""
    return _middle(_centred(kspace)).shape[-1] <= SIDE


def coils_or_slices(kspace: np.ndarray) -> str:
    """Whether the first axis of k-space (n, H, W) holds the coils of one slice or slices.

    Args:
        kspace: (n, H, W) complex, the zero frequency in the middle or in a corner.

    Returns:
        "c" or "s"; "" where the numbers do not tell, as for a single one.
    """
    kspace = _centred(kspace)
    k = _middle(kspace)
    if len(k) < 2 or min(k.shape[1:]) <= SIDE or not np.isfinite(k).all() or (abs(k).sum((1, 2)) == 0).any():
        return ""
    edge = abs(kspace[:, 0 :: max(kspace.shape[1] - 1, 1)])
    floor = LOUD * float(np.median(edge[edge > 0])) if (edge > 0).any() else 0.0
    left = unpredicted(k, floor)
    if left is None:
        return ""
    if left > UNPREDICTED:
        return "s"
    return "c" if left < PREDICTED and contrast(k) > CONTRAST else ""


def unpredicted(k: np.ndarray, floor: float = 0.0) -> float | None:
    """The part of the energy of each member that does not follow from the others; the median over the members.

    Coefficients are fitted on one half of the windows and judged on the other.

    Args:
        k: (n, rows, columns) complex.
        floor: Strength of a window below which it is left out.

    Returns:
        0 where all follows, about 1 where nothing does; None where too few windows are strong.
    """
    level = np.sqrt((abs(k) ** 2).mean((1, 2), keepdims=True))
    k, floor = k / level, floor / float(level.mean())
    half, left = SIDE // 2, []
    views = np.lib.stride_tricks.sliding_window_view(k, (SIDE, SIDE), axis=(1, 2))
    inner = k[:, half : k.shape[1] - half, half : k.shape[2] - half]
    chequered = (np.add.outer(np.arange(inner.shape[1]), np.arange(inner.shape[2])) // SIDE) % 2 == 0
    for i in range(len(k)):
        others = np.delete(np.arange(len(k)), i)[: OTHERS if i < OTHERS else None][-OTHERS:]
        windows = np.moveaxis(views[others], 0, 2).reshape(*inner.shape[1:], -1)
        # All entries count alike: the strongest, in the very middle, are much the same in all slices.
        strength = np.sqrt((abs(windows) ** 2).mean(-1)) + 1e-30
        windows, wanted, loud = windows / strength[..., None], inner[i] / strength, strength > floor
        fit, test = chequered & loud, ~chequered & loud
        if min(fit.sum(), test.sum()) < windows.shape[-1] // 2:
            continue
        gram = windows[fit].conj().T @ windows[fit]
        gram += RIDGE * np.trace(gram).real / len(gram) * np.eye(len(gram))
        found = windows[test] @ np.linalg.solve(gram, windows[fit].conj().T @ wanted[fit])
        left.append(float((abs(found - wanted[test]) ** 2).sum() / max((abs(wanted[test]) ** 2).sum(), 1e-300)))
    return float(np.median(left)) if left else None


def contrast(k: np.ndarray) -> float:
    """How much the brightness of the members changes over the picture against that of their mean: 0 for one picture.

    Args:
        k: (n, rows, columns) complex.

    Returns:
        The standard deviation of the ratio, whose mean is 1; the median over the members.
    """
    window = np.outer(*(np.hanning(n + 2)[1:-1] for n in k.shape[1:]))
    x = abs(np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(window * k, axes=(-2, -1))), axes=(-2, -1)))
    together = np.sqrt((x**2).mean(0))
    strong = together > STRONG * together.max()
    ratio = x[:, strong] / together[strong]
    return float(np.median(ratio.std(1) / ratio.mean(1)))


def _centred(kspace: np.ndarray) -> np.ndarray:
    """K-space (n, H, W) with its strongest row and column nearer to the middle than to the edge."""
    power = np.nan_to_num(abs(kspace) ** 2, nan=0, posinf=0).sum(0)
    for axis in (0, 1):
        n, at = power.shape[axis], int(power.sum(1 - axis).argmax())
        kspace = np.fft.fftshift(kspace, 1 + axis) if min(at, n - at) < n // 4 else kspace
    return kspace


def _middle(kspace: np.ndarray) -> np.ndarray:
    """The fully sampled middle of k-space, at most WIDEST entries on a side."""
    height, width = kspace.shape[1:]
    found = (kspace != 0).any(0)
    top, left = height // 2, width // 2
    rows, columns = min(height, WIDEST), 0
    for n in range(1, min(width, WIDEST) + 1):
        part = found[top - rows // 2 : top - rows // 2 + rows, left - n // 2 : left - n // 2 + n]
        if part.mean() < 1:
            break
        columns = n
    return kspace[:, top - rows // 2 : top - rows // 2 + rows, left - columns // 2 : left - columns // 2 + columns]
