"""`RunControls`: what both tabs of the page say of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ambient_solve.app.rules import Rules


@dataclass(frozen=True, kw_only=True)
class RunControls:
    """The controls that both tabs have.

    Attributes:
        device: Where the prior works.
        rules: What visitors may choose.
        preset: Name of the preset that is lit, or None.
        algorithm: Of the solver.
        knobs: Those of the algorithm.
        seed: Decides the samples.
        same_seed: Take this seed, in place of a new one.
        row: Of the pixel to read, from 0.
        column: Of the pixel to read, from 0.
        visitor: Whose event it is, known to gradio; None for nobody's.
    """

    device: str = "auto"
    rules: Rules = field(default_factory=Rules)
    preset: str | None = None
    algorithm: str = "auto"
    knobs: Mapping[str, Any] | None = None
    seed: int = 0
    same_seed: bool = True
    row: int | None = None
    column: int | None = None
    visitor: str | None = None
