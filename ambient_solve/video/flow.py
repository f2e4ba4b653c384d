r"""How a clip moves: the flow between two frames, what it cannot explain, and where a scene ends.

A flow leads back in time: the frame `after` shows at pixel `p` what `before` shows at `p + flow[:, p]`. It has the
shape (2, H, W), rows and columns, in pixels, and comes as a tensor, as a function of two frames, or by the name of a
method:

    tvl1   total variation and an absolute data term (Zach et al., 2007), of scikit-image: the default
    ilk    iterative Lucas and Kanade (Le Besnerais and Champagnat, 2005), of scikit-image: faster, and too
           smooth to show what a motion uncovers
    dis    dense inverse search (Kroeger et al., 2016), of OpenCV: for large frames
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ambient_solve.errors import AmbientSolveError, suggestion

FlowOf = Callable[[Tensor, Tensor], Tensor]
"""`(after, before) -> flow`: two frames (C, H, W) to (2, H, W)."""
CUT = 0.75
"""Photometric error above which two frames show two scenes: unrelated frames have .85 to 2, frames of one scene below
.1 without noise, and below .7 where the deviation of the noise is a tenth of their range."""
LEAST_DIS = 12
"""Pixels along the shorter side that dense inverse search needs."""


@final
@dataclass(frozen=True)
class Motion:
    """What leads from one frame to the next.

    Attributes:
        flow: (2, H, W) in pixels, from the next frame back to this one.
        occluded: Pixels of the next frame that this one does not show, (H, W) bool; None where the flow was given.
        cut: Whether the next frame shows another scene.
    """

    flow: Tensor
    occluded: Tensor | None
    cut: bool


def motion(flow: str | Tensor | FlowOf, number: int, before: Tensor, after: Tensor) -> Motion:
    """The motion between two frames of a clip.

    Args:
        flow: The name of a method, a function of two frames, or the flows of the clip, (T - 1, 2, H, W).
        number: Of the frame `after`, 1 to T - 1.
        before: Frame `number - 1`, (C, H, W).
        after: The next one, of the same shape.

    Returns:
        The motion.

    Raises:
        AmbientSolveError: the frames do not fit each other, or the flow does not fit them.
    """
    if before.ndim != 3 or before.shape != after.shape:
        raise AmbientSolveError(
            f"Two frames (C, H, W) of one size were expected, got {tuple(before.shape)} and {tuple(after.shape)}."
        )
    if isinstance(flow, Tensor):
        if flow.ndim != 4 or not 1 <= number <= len(flow):
            raise AmbientSolveError(
                f"A flow of shape {tuple(flow.shape)} has none for frame {number}; (frames - 1, 2, H, W) was expected."
            )
        back = _checked(flow[number - 1], after)
        return Motion(back, None, photometric_error(before, after, back) > CUT)
    estimate = flow_method(flow) if isinstance(flow, str) else flow
    back, forth = _checked(estimate(after, before), after), _checked(estimate(before, after), after)
    return Motion(back, occlusion(back, forth), is_cut(before, after, back, forth))


def is_cut(before: Tensor, after: Tensor, back: Tensor, forth: Tensor) -> bool:
    """Whether two frames show two scenes.

    Args:
        before: (C, H, W).
        after: The next one.
        back: The flow from `after` to `before`, (2, H, W).
        forth: The flow from `before` to `after`.

    Returns:
        True where one of the flows does not explain its frame.
    """
    # Both ways: a method may build a smooth frame out of the gray values of any other, but not the other out of it.
    return max(photometric_error(before, after, back), photometric_error(after, before, forth)) > CUT


def flow_method(name: str) -> FlowOf:
    """A method by its name.

    Args:
        name: One of `FLOWS`.

    Returns:
        A function of two frames.

    Raises:
        AmbientSolveError: there is none of that name.
    """
    if name not in FLOWS:
        raise AmbientSolveError(f"There is no flow {name!r}. {suggestion(name, FLOWS)}")
    return FLOWS[name]


def occlusion(back: Tensor, forth: Tensor) -> Tensor:
    """Where going back and forth does not lead to the same place (Sundaram et al., 2010, equation 5).

    Args:
        back: From the next frame to this one, (2, H, W) in pixels.
        forth: From this frame to the next one.

    Returns:
        Pixels of the next frame that this one hides, (H, W) bool; none that lead out of the frame.
    """
    there = pull(forth, back)
    apart = (back + there).square().sum(0)
    return (apart > 0.01 * (back.square().sum(0) + there.square().sum(0)) + 0.5) & stays(back)


def stays(flow: Tensor) -> Tensor:
    """Which pixels a flow leads to a place in the frame.

    Args:
        flow: (2, H, W) in pixels.

    Returns:
        (H, W) bool.
    """
    places = _places(flow)
    last = places.new_tensor([places.shape[1] - 1, places.shape[2] - 1]).reshape(2, 1, 1)
    return ((places >= 0) & (places <= last)).all(0)


def pull(image: Tensor, flow: Tensor) -> Tensor:
    """What an image shows where a flow leads, bilinear; for pictures and flows, never for noise.

    Args:
        image: (C, H, W).
        flow: (2, H, W) in pixels.

    Returns:
        (C, H, W); beyond the frame, its edge.
    """
    rows, columns = _places(flow)
    height, width = flow.shape[1:]
    grid = torch.stack([2 * columns / max(width - 1, 1) - 1, 2 * rows / max(height - 1, 1) - 1], -1)[None]
    return F.grid_sample(image[None].float(), grid.float(), padding_mode="border", align_corners=True)[0]


def photometric_error(before: Tensor, after: Tensor, flow: Tensor) -> float:
    """How badly a flow explains a frame by the one before.

    Args:
        before: (C, H, W).
        after: The same shape.
        flow: From `after` back to `before`, (2, H, W).

    Returns:
        Mean absolute difference over the pixels that stay in the frame, in units of the larger contrast of the two, the
        mean absolute deviation of a frame from its mean; infinite where no pixel stays.
    """
    kept = stays(flow)
    if not bool(kept.any()):
        return float("inf")
    contrast = max(float((f - f.mean((1, 2), keepdim=True)).abs().mean()) for f in (before.float(), after.float()))
    difference = float((after.float() - pull(before, flow)).abs()[:, kept].mean())
    if contrast == 0:
        return float("inf") if difference > 0 else 0.0
    return difference / contrast


def _checked(flow: Tensor, frame: Tensor) -> Tensor:
    expected = (2, *frame.shape[1:])
    if not isinstance(flow, Tensor) or tuple(flow.shape) != expected or not bool(flow.isfinite().all()):
        got = f"of shape {tuple(flow.shape)}" if isinstance(flow, Tensor) else f"a {type(flow).__name__}"
        raise AmbientSolveError(
            f"A finite flow {expected}, in pixels, rows first, was expected for a frame; got {got}."
        )
    return flow.float()


def _places(flow: Tensor) -> Tensor:
    rows, columns = (torch.arange(n, device=flow.device, dtype=flow.dtype) for n in flow.shape[1:])
    return flow + torch.stack(torch.meshgrid(rows, columns, indexing="ij"))


def _gray(after: Tensor, before: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The mean of the channels, both frames scaled alike to [0, 1], float32."""
    one, two = (frame.detach().float().mean(0) for frame in (after, before))
    low, high = min(float(one.min()), float(two.min())), max(float(one.max()), float(two.max()))
    one, two = (((frame - low) / max(high - low, 1e-12)).numpy(force=True) for frame in (one, two))
    return one, two


def _tvl1(after: Tensor, before: Tensor) -> Tensor:
    from skimage.registration import optical_flow_tvl1

    return torch.from_numpy(optical_flow_tvl1(*_gray(after, before), dtype=np.float32)).to(after.device)


def _ilk(after: Tensor, before: Tensor) -> Tensor:
    from skimage.registration import optical_flow_ilk

    return torch.from_numpy(optical_flow_ilk(*_gray(after, before), dtype=np.float32)).to(after.device)


def _dis(after: Tensor, before: Tensor) -> Tensor:
    try:
        import cv2
    except ImportError:
        raise AmbientSolveError("The flow 'dis' needs OpenCV: pip install 'ambient-solve[video]'.") from None
    if min(after.shape[1:]) < LEAST_DIS:
        raise AmbientSolveError(
            f"Frames of {after.shape[1]} x {after.shape[2]} are too small for the flow 'dis', which needs {LEAST_DIS} "
            "pixels along each side: take 'tvl1'."
        )
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    found = search.calc(*((255 * frame).round().astype(np.uint8) for frame in _gray(after, before)), None)
    return torch.from_numpy(found).movedim(-1, 0).flip(0).contiguous().to(after.device)


FLOWS: dict[str, FlowOf] = {"tvl1": _tvl1, "ilk": _ilk, "dis": _dis}
