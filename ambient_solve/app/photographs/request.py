"""`RestoreRequest`: what the page says, in plain values. `job` checks it and makes a problem of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

WORKING = 512
"""Longer side up to which a picture is restored whole, unless the page says otherwise, in pixels."""
SIZES = {
    "auto": f"automatic: whole up to {WORKING} pixels, then the missing region or tiles",
    "whole": "whole picture at once",
    "region": "missing region and what is round it",
    "reduced": f"reduced to {WORKING} pixels, pasted back at full size",
    "tiles": "overlapping tiles, denoised together",
}
"""How a picture is brought to a size that the network works on."""


@dataclass(frozen=True)
class RestoreRequest:
    """What is to be restored, and how.

    Attributes:
        task: Name of the damage.
        options: Knobs of the damage.
        play: The picture is fine, and is damaged here before it is restored.
        painted: Missing pixels (h, w) drawn on the picture at any size, True = missing.
        mask: Picture of the missing pixels, white where they are.
        kernel: Picture of the blur.
        scattered: Share of the pixels that are lost at random, when playing, 0 to 1.
        prior: Name or folder of the prior.
        algorithm: Of the solver.
        knobs: Of the algorithm.
        samples: How many are drawn, at least 1.
        seed: Decides the samples, and what is lost when playing.
        size: One of SIZES.
        keep: Copy measured pixels into the samples.
        prompt: What the picture shows, in words; empty for none. negative: What it does not show.
        guidance: Scale of classifier-free guidance by the prompt, 0 to 100; 1 is none.
    """

    task: str
    options: Mapping[str, Any] = field(default_factory=dict)
    play: bool = False
    painted: np.ndarray | None = None
    mask: Path | None = None
    kernel: Path | None = None
    scattered: float = 0.0
    prior: str = "photos"
    algorithm: str = "auto"
    knobs: Mapping[str, Any] = field(default_factory=dict)
    samples: int = 2
    seed: int = 0
    size: str = "auto"
    keep: bool = True
    prompt: str = ""
    negative: str = ""
    guidance: float = 1.0
