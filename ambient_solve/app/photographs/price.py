"""What a run will cost, before it begins: seconds and memory, from one measured pass through the network."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ambient_solve.app.panels import duration
from ambient_solve.app.photographs.request import WORKING
from ambient_solve.app.work import asked
from ambient_solve.knobs import knobs

if TYPE_CHECKING:
    import numpy as np

    from ambient_solve.app.photographs.job import PreparedRequest
    from ambient_solve.app.photographs.request import RestoreRequest
    from ambient_solve.app.photographs.run import Result
    from ambient_solve.priors.base import Prior

SIDE = 128
"""Side of the state whose pass is measured, in pixels."""
SAMPLE = 12
"""Bytes of a pixel of a finished sample, beside the network: three channels of floats."""
USED = 0.55
"""Passes that a run spends, of those that `work.passes` allows for: .46 to .66 for the presets."""
HOLE = 256
"""Side of the missing part for which a price is said before anything is painted, in pixels."""

_paces: dict[tuple[str, str], float] = {}
"""Seconds of a pass for a pixel, by the prior's name and by the algorithm; "" is one measured pass."""


@dataclass(frozen=True)
class Quote:
    """What a run will take.

    Attributes:
        seconds: On this machine; None where no pass was measured.
        bytes: Of memory, at most; None where the prior does not say.
        hole: Nothing is painted yet, and the price is that of a missing part of HOLE pixels a side.
    """

    seconds: float | None
    bytes: float | None
    hole: bool

    @property
    def words(self) -> str:
        """One sentence; empty where nothing is known."""
        parts = []
        if self.seconds is not None:
            parts.append(f"about {duration(max(self.seconds, 1.0))}")
        if self.bytes is not None:
            parts.append(f"{max(self.bytes / 1e9, 0.1):.1f} GB of memory")
        if not parts:
            return ""
        hint = ""
        if self.seconds is not None and self.seconds > 300:
            hint = " *Fast*, fewer samples or a smaller *Working size* (under *More*) take less."
        what = f"Restoring a missing part of {HOLE}x{HOLE} pixels" if self.hole else "Restoring it"
        return f"{what} takes {' and '.join(parts)} on this machine.{hint}"


def measure_pass(name: str, prior: Prior) -> float:
    """Seconds of a pass for a pixel, measured once for each prior.

    Args:
        name: Of the prior.
        prior: The prior.

    Returns:
        Seconds.
    """
    import torch

    if (name, "") not in _paces:
        side, factor = SIDE // _factor(prior), _factor(prior)
        z = torch.zeros(1, *(side if n < 0 else n for n in prior.shape), device=prior.device)
        with torch.no_grad():
            prior.denoise(z, 1.0).sum().item()
            started = time.perf_counter()
            prior.denoise(z, 1.0).sum().item()
        _paces[name, ""] = (time.perf_counter() - started) / (z.shape[-1] * z.shape[-2] * factor**2)
    return _paces[name, ""]


def _factor(prior: Prior) -> int:
    """Pixels along one side of a place of the state; 1 but for a prior of latents."""
    return getattr(getattr(prior, "autoencoder", None), "factor", 1)


def learn(result: Result) -> None:
    """Remember how long a run took, for the price of the next one with the same prior and algorithm."""
    request, finished = result.problem.request, len(result.samples)
    work = asked(request) * _of(result.problem) * finished / request.samples
    if result.seconds > 0 and work > 0:
        _paces[request.prior, request.algorithm] = result.seconds / work


def quote(request: RestoreRequest, prior: Prior, size: tuple[int, int], missing: np.ndarray | None = None) -> Quote:
    """What a restoration of a picture will take.

    Args:
        request: What is to be restored, and how.
        prior: The prior.
        size: (H, W) of the picture.
        missing: Missing pixels (h, w), where they are known.

    Returns:
        The price.
    """
    hole = request.task == "inpaint" and missing is None and request.size in ("auto", "region") and max(size) > HOLE
    pixels, worked = (HOLE**2, HOLE**2) if hole else _pixels(request, size, missing)
    pace = _paces.get((request.prior, request.algorithm))
    seconds = (USED * measure_pass(request.prior, prior) if pace is None else pace) * asked(request) * pixels
    backward = _backward(request.algorithm, request.knobs)
    memory = prior.memory(worked // _factor(prior) ** 2, backward)
    memory = None if memory is None else memory + SAMPLE * request.samples * size[0] * size[1]
    return Quote(seconds, memory, hole)


def price_of(problem: PreparedRequest) -> float | None:
    """Seconds that a prepared restoration is expected to take, None where no pass was measured."""
    request = problem.request
    one = _paces.get((request.prior, ""))
    pace = _paces.get((request.prior, request.algorithm), None if one is None else USED * one)
    return None if pace is None else pace * asked(request) * _of(problem)


def _of(problem: PreparedRequest) -> float:
    missing = None if problem.mask is None else ~problem.mask
    return _pixels(problem.request, tuple(problem.picture.y.shape[-2:]), missing)[0]


def _pixels(request: RestoreRequest, size: tuple[int, int], missing: np.ndarray | None) -> tuple[float, int]:
    """Pixels of the network, which sees where tiles overlap twice, and how many of them are in memory together."""
    import torch

    from ambient_solve.priors.tiled import starts
    from ambient_solve.restore.crops import missing_box
    from ambient_solve.restore.memory import AT_ONCE, OVERLAP, TILE

    height, width = size
    factor = int(request.options.get("factor", 1)) if "super-resolution" in request.task.split("+") else 1
    how, longer = request.size, max(size) * factor
    if request.task == "inpaint" and missing is not None and missing.any() and how in ("auto", "region"):
        scale = (height / missing.shape[0], width / missing.shape[1])
        top, left, bottom, right = missing_box(torch.from_numpy(~missing).float())
        box = (scale[0] * (bottom - top), scale[1] * (right - left))
        if how == "region" or (max(box) <= WORKING < longer):
            return box[0] * box[1], round(box[0] * box[1])
    if how == "reduced" and longer > WORKING:
        shrink = WORKING / longer
        pixels = height * width * shrink**2
        return pixels, round(pixels)
    pixels = height * width * factor**2
    if how == "tiles" or (how != "whole" and longer > WORKING):
        tiles = len(starts(height * factor, TILE, OVERLAP)) * len(starts(width * factor, TILE, OVERLAP))
        return max(pixels, tiles * TILE**2), min(pixels, AT_ONCE * TILE**2)
    return pixels, pixels


def _backward(algorithm: str, settings: Mapping[str, Any]) -> bool:
    from ambient_solve.algorithms import ALGORITHMS

    cls = ALGORITHMS.get(algorithm)
    if cls is None:
        return True
    own = [k.name for k in knobs(cls)]  # while a preset changes, the knobs may still be those of another algorithm
    return bool(cls(**{name: value for name, value in settings.items() if name in own}).gradient)
