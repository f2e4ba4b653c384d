r"""How steady a restored clip is, and how sure of its motion: errors that need a true clip and the way it moves.

warping error     mean of |x_t - P x_(t-1)|^2 over the pixels that frame t - 1 shows, `P` pulling it along the flow
                  (Lai et al., 2018, arXiv 1808.00449). The true clip has one, too: what the flow cannot explain
temporal PSNR     that of the changes x_t - x_(t-1) against the true ones: flicker counts, a still error does not
calibration       whether the true changes lie within those of the samples
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.evaluate.calibration import coverage, variance_ratio
from ambient_solve.evaluate.metrics import psnr
from ambient_solve.video.flow import FlowOf, Motion, motion, pull, stays


def motions_of(clip: Tensor, flow: str | FlowOf = "tvl1") -> list[Motion]:
    """How a true clip moves, for `warping_error`.

    Args:
        clip: (T, C, H, W), T at least 2.
        flow: The name of a method, or a function of two frames.

    Returns:
        T - 1 motions.
    """
    return [motion(flow, t, clip[t - 1], clip[t]) for t in range(1, len(clip))]


def warping_error(clip: Tensor, motions: Sequence[Motion], where: Tensor | None = None) -> float:
    """The mean squared difference of frames along the motion, where each shows what the one before shows.

    Args:
        clip: (T, C, H, W).
        motions: T - 1 of them, those of the true clip; across a cut nothing is compared.
        where: Pixels that count, (H, W) or (T, H, W) bool, such as those that are missing; None for all.

    Returns:
        Mean square, in squared units of the clip.

    Raises:
        AmbientSolveError: there is not one motion for each pair of frames, or no pixel is left to compare.
    """
    if len(motions) != len(clip) - 1:
        raise AmbientSolveError(f"{len(clip)} frames have {len(clip) - 1} motions, got {len(motions)}.")
    total, count = 0.0, 0.0
    for t, moved in enumerate(motions, 1):
        if moved.cut:
            continue
        seen = stays(moved.flow) if moved.occluded is None else stays(moved.flow) & ~moved.occluded
        if where is not None:
            seen = seen & (where if where.ndim == 2 else where[t])
        away = (clip[t] - pull(clip[t - 1], moved.flow)).square().double()
        total, count = total + float(away[:, seen].sum()), count + float(seen.sum()) * len(away)
    if count == 0:
        raise AmbientSolveError("No pixel of this clip is seen in two frames that can be compared.")
    return total / count


def temporal_psnr(clip: Tensor, truth: Tensor, peak: float = 1.0) -> float:
    """PSNR of the changes from frame to frame.

    Args:
        clip: (T, C, H, W), T at least 2.
        truth: The same shape.
        peak: Largest value that a picture can have.

    Returns:
        dB.
    """
    return psnr(clip.diff(dim=0), truth.diff(dim=0), peak)


@final
@dataclass(frozen=True)
class TemporalCalibration:
    """Whether the samples of a clip are as unsure of its changes as they are wrong.

    Attributes:
        coverage: Share of the true changes in the central interval of the samples'; right is its level.
        ratio: Variance of the samples' changes over the squared error of their mean; 1 is right. Far above it the
            samples flicker more than the clip can; below it they are too sure of how it moves.
        still: The same ratio of the frames themselves, to compare with.
    """

    coverage: float
    ratio: float
    still: float


def temporal_calibration(samples: Tensor, truth: Tensor, level: float = 0.8) -> TemporalCalibration:
    """Whether the true change between frames lies inside the spread of the samples.

    Sample s of frame t must go with sample s of frame t - 1, as those of `VideoSolver` do.

    Args:
        samples: (T, S, C, H, W), S at least 2, and enough for the level: 9 for 0.8.
        truth: (T, C, H, W).
        level: Probability of the interval, in (0, 1).

    Returns:
        Coverage and ratios of variance and error.
    """
    changes, true = samples.diff(dim=0), truth.diff(dim=0)
    return TemporalCalibration(
        coverage(changes, true, level), variance_ratio(changes, true), variance_ratio(samples, truth)
    )
