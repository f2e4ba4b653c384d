"""Which lines of an ISMRMRD file are k-space of one picture, and where each of their samples belongs.

A file holds all that a scanner acquired, one line after another: noise, navigators, echoes that measure a phase, every
average, contrast and repetition. Its flags and counters tell them apart. What is left out is said.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ambient_solve.mri.ismrmrd_header import APART, Header

NOISE = 1 << 18
"""Flag of a line that was acquired without a signal: ACQ_IS_NOISE_MEASUREMENT, the 19th."""
CALIBRATION = 1 << 19
"""ACQ_IS_PARALLEL_CALIBRATION: a line for coil maps, which is one of the picture where it fits in."""
REVERSED = 1 << 21
"""ACQ_IS_REVERSE: the samples of the line run backwards."""
OTHER = {
    "navigator": 1 << 22,
    "phase-correction": 1 << 23,
    "feedback": 1 << 25 | 1 << 27,
    "dummy": 1 << 26,
    "surface coil correction": 1 << 28,
    "phase stabilization": 1 << 29 | 1 << 30,
}
"""Flags of lines that are of no picture, by what they are called."""
FIRST_OF_EACH = ("repetition", "contrast", "set", "phase")
"""Counters of a line that tell pictures apart, of which the first is read; averages are averaged."""


@dataclass(frozen=True)
class Lines:
    """The lines of one picture in each slice.

    Attributes:
        used: Which lines are, (lines,) bool. noise: Which are noise.
        slice, column: Where each lies, (lines,). start: Where its first kept sample lies on the grid.
        first, last: Which samples of it are kept, before it is turned round. reversed: Whether it runs backwards.
        shape: (slices, coils, samples, lines) of the grid. notes: What was left out.
    """

    used: np.ndarray
    noise: np.ndarray
    slice: np.ndarray
    column: np.ndarray
    start: np.ndarray
    first: np.ndarray
    last: np.ndarray
    reversed: np.ndarray
    shape: tuple[int, int, int, int]
    notes: tuple[str, ...]


def chosen_lines(heads: np.ndarray, header: Header) -> Lines | None:
    """Sort the lines of a file.

    Args:
        heads: The header of each line, as ISMRMRD stores it.
        header: That of the file.

    Returns:
        The lines of one picture; None where there is none.
    """
    flags, idx, notes = heads["flags"], heads["idx"], []
    noise = flags & NOISE != 0
    used = ~noise
    for what, bits in OTHER.items():
        used = _without(used, flags & bits != 0, f"{what} line", notes)
    if not used.any():
        return None
    space, coils = heads["encoding_space_ref"], heads["active_channels"]
    used = _without(used, space != space[used].min(), "line of another encoding space", notes)
    used = _without(used, coils != _most(coils[used]), "line of other coils", notes)
    for name in FIRST_OF_EACH:
        values = np.unique(idx[name][used])
        used = used & (idx[name] == values[0])
        notes += [f"the first of {len(values)} {name}s alone was read"] if len(values) > 1 else []
    at, step = (idx[name].astype(int) for name in ("slice", "kspace_encode_step_1"))
    width = max(header.lines, 1 + int(step[used].max()))
    column = step + (width // 2 - header.centre if header.centre else 0)
    first = heads["discard_pre"].astype(int)
    last = np.maximum(heads["number_of_samples"].astype(int) - heads["discard_post"], first)
    alone = used & (flags & CALIBRATION != 0)
    if (used & ~alone).any():
        apart = (last - first != _most((last - first)[used & ~alone])) | (header.calibration in APART)
        used = _without(used, alone & apart, "calibration line of a scan of their own", notes)
        place = at * width + column
        there = np.isin(place, place[used & ~alone])
        used = _without(used, alone & there, "calibration line that the picture has already", notes)
    used = _without(used, (column < 0) | (column >= width), "line outside of the encoded space", notes)
    if not used.any():
        return None
    start, samples = _placed(heads, header, used, first, last)
    shape = (1 + int(at[used].max()), int(coils[used][0]), samples, width)
    return Lines(used, noise, at, column, start, first, last, flags & REVERSED != 0, shape, tuple(notes))


def _without(used: np.ndarray, out: np.ndarray, what: str, notes: list[str]) -> np.ndarray:
    """`used` without `out`; how many lines that takes is added to `notes`."""
    n = int((used & out).sum())
    notes += [f"left out: {n} x {what}"] if n else []
    return used & ~out


def _placed(
    heads: np.ndarray, header: Header, used: np.ndarray, first: np.ndarray, last: np.ndarray
) -> tuple[np.ndarray, int]:
    """Where each line starts on the grid, so that all echoes peak in its middle, and the samples of the grid."""
    length, centre = last - first, heads["center_sample"].astype(int)
    # Writers that say nothing leave 0; the echo is in the middle then.
    centre = np.where(centre > 0, centre - first, length // 2)
    backwards = heads["flags"] & REVERSED != 0
    # The middle of a symmetric line stays the middle when the line is turned round.
    centre = np.where(backwards, length - length % 2 - centre, centre)
    before, after = int(centre[used].max()), int((length - centre)[used].max())
    needed = max(2 * before, 2 * after - 1, int(length[used].max()))
    asymmetric = bool((centre != length // 2)[used].any())
    samples = max(needed, header.samples) if asymmetric else needed
    return samples // 2 - centre, samples


def _most(values: np.ndarray) -> int:
    """The value that most have."""
    found, counts = np.unique(values, return_counts=True)
    return int(found[counts.argmax()])
