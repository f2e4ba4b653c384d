"""`ClipControls`: what the tab for clips says at the moment of an event, by name and type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ambient_solve.app.clips.session import ClipSession
from ambient_solve.app.controls import RunControls

KNOBS = ("sigma", "width", "length", "angle", "factor")
"""Knobs of damages that the tab shows."""


@dataclass(frozen=True, kw_only=True)
class ClipControls(RunControls):
    """The values of the controls of the tab. What an event does not read stands at its default.

    Attributes, beside those of `RunControls`:
        session: Clip and files of this browser session; None before the first event that needs them.
        file: Path of the clip that was just put in. mask: Path of a mask, a picture or a video.
        editor: What the painter holds, see `painter.painted`.
        wrong: What is wrong with the clip, one of `choices.WRONG`. damage: A value for each of KNOBS.
        found: Numbers are estimated from the first frame. scratches: How readily a line is taken for a scratch.
        first, last: Numbers of the first and of the last frame that is restored, from 0.
        size: Longer side at which frames are restored, in pixels; 0 leaves them.
        prior: Name or folder of the prior. samples: How many are drawn, of which the mean is shown.
        noise: How the noise moves. guidance: How strongly a frame is drawn to the one before, 0 to 1.
    """

    session: ClipSession | None = None
    file: str | None = None
    mask: str | None = None
    editor: Mapping[str, Any] | None = None
    wrong: str = "denoise"
    damage: Mapping[str, Any] = field(default_factory=dict)
    found: bool = True
    scratches: float = 0.5
    first: int = 0
    last: int = 0
    size: int = 256
    prior: str = "photos"
    samples: int = 1
    noise: str = "integral"
    guidance: float = 0.9

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> ClipControls:
        """The controls whose parts of the page have these values.

        Args:
            values: By the name of the part; the knobs of a damage each have a part of their own.

        Raises:
            TypeError: a part is no control.
        """
        damage = {name: values[name] for name in KNOBS if name in values}
        return cls(damage=damage, **{name: value for name, value in values.items() if name not in KNOBS})
