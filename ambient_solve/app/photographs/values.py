"""`Controls`: what the tab for photographs says at the moment of an event, by name and type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from ambient_solve.app.controls import RunControls
from ambient_solve.app.photographs.controls import damage_knobs
from ambient_solve.app.photographs.session import Session


@dataclass(frozen=True, kw_only=True)
class Controls(RunControls):
    """The values of the controls of the tab. What an event does not read stands at its default.

    Attributes, beside those of `RunControls`:
        session: Picture and results of this browser session; None before the first event that needs them.
        file: Path of the picture that was just put in. many: Paths of pictures or zips of them.
        editor: What the painter holds, see `painter.painted`.
        mask: Path of a picture of the missing pixels. kernel: Path of a picture of the blur.
        task: Name of the damage. also: Names of those on top of it. damage: A value for each knob that some damage has.
        play: Damage the picture before it is restored. scattered: Share of the pixels then lost at random, 0 to 1.
        prior: Name or folder of the prior. samples: How many are drawn.
        size: One of `request.SIZES`. keep: Copy measured pixels into the samples.
        prompt: What the picture shows. negative: What it does not. guidance: How much words count.
        invented: How much of what a sample invents is shown, 0 to 100. kind: Format of the downloaded picture.
        each_noise: Estimate the noise of each of many pictures.
    """

    session: Session | None = None
    file: str | None = None
    many: list[str] | None = None
    editor: Mapping[str, Any] | None = None
    mask: str | None = None
    kernel: str | None = None
    task: str = "inpaint"
    also: Sequence[str] = ()
    damage: Mapping[str, Any] = field(default_factory=dict)
    play: bool = False
    scattered: float = 0.0
    prior: str = "photos"
    samples: int = 2
    size: str = "auto"
    keep: bool = True
    prompt: str = ""
    negative: str = ""
    guidance: float = 1.0
    invented: float = 0.0
    kind: str = "PNG"
    each_noise: bool = False

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Controls:
        """The controls whose parts of the page have these values.

        Args:
            values: By the name of the part; the knobs of a damage each have a part of their own.

        Raises:
            TypeError: a part is no control.
        """
        plain = {each.name for each in fields(cls)}
        damage = {name: values[name] for name in damage_knobs() if name in values}
        # A knob that shared the name of a control would be lost without a word.
        if shared := plain & set(damage):
            raise TypeError(f"{shared} are both knobs of a damage and controls of the tab")
        return cls(damage=damage, **{name: value for name, value in values.items() if name not in damage})
