"""The presets of the page: an algorithm, its knobs and a number of samples under one word."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ambient_solve.app.wiring import Parts


@dataclass(frozen=True)
class Preset:
    """An algorithm with its knobs and a number of samples; `words` tell what to expect.

    `tasks` holds the algorithm and the knobs of the tasks that need others.
    """

    words: str
    algorithm: str
    samples: int
    knobs: Mapping[str, Any] = field(default_factory=dict)
    tasks: Mapping[str, tuple[str, Mapping[str, Any]]] = field(default_factory=dict)

    def chosen(self, task: str | None = None) -> tuple[str, dict[str, Any]]:
        """The algorithm and the knobs for `task`."""
        algorithm, settings = self.tasks.get(task, (self.algorithm, self.knobs))
        return algorithm, dict(settings)


FLOWER = {"steps": 50, "trust": "data", "draw": True}
"""Knobs of "proximal" that make the samples varied."""


# Thick strokes stay visible under the proximal rule, and go where the Jacobian is used; JPEG is not linear.
FAST = {
    "inpaint": ("mmps", {"steps": 12, "iterations": 2, "covariance_noise": False}),
    "jpeg": ("daps", {"steps": 12, "ode_steps": 1, "langevin_steps": 10}),
}
"""Settings of Fast for single damages: algorithm and knobs by damage."""
BALANCED = {
    "inpaint": ("mmps", {"steps": 12, "covariance_noise": False}),
    "jpeg": ("daps", {"steps": 20, "ode_steps": 1, "langevin_steps": 20}),
}
"""Settings of Balanced for single damages: algorithm and knobs by damage."""
CREATIVE = {"jpeg": ("daps", {"steps": 20, "ode_steps": 2, "langevin_steps": 20, "width": 1.0})}
"""Settings of Creative for single damages: algorithm and knobs by damage."""
PRESETS = {
    "Fast": Preset("a first look", "proximal", 2, {"steps": 12}, FAST),
    "Balanced": Preset("cleaner, claims too small an error", "proximal", 4, {"steps": 25}, BALANCED),
    "Faithful": Preset("honest about its error, slow", "auto", 4),
    "Creative": Preset("varied samples, more invented", "proximal", 4, FLOWER, CREATIVE),
}
"""The presets of the page by name."""


def preset_of(task: str, algorithm: str, settings: Mapping[str, Any], samples: int) -> str | None:
    """The preset with exactly these settings.

    Args:
        task: Name of the damage.
        algorithm: Name of the algorithm.
        settings: Its knobs.
        samples: Posterior samples.

    Returns:
        Its name; None where there is none.
    """
    asked = (algorithm, dict(settings))
    return next((name for name, p in PRESETS.items() if (p.chosen(task), p.samples) == (asked, samples)), None)


def samples_follow_preset(parts: Parts) -> None:
    """Set the number of samples with the preset; to be called before what else the preset starts, which it waits for.

    Done in the browser: what a busy server answers a second later would undo the number that was typed meanwhile.
    """
    table = json.dumps({name: preset.samples for name, preset in PRESETS.items()})
    script = f"(preset) => ({table})[preset]"
    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    parts["preset"].input(None, parts["preset"], parts["samples"], js=script, **quiet)


def choose_preset(name: str | None, task: str | None = None) -> dict[str, Any]:
    """Set algorithm and knobs; the number of samples is set by the browser (see `controls`).

    Args:
        name: Of the preset; None for none.
        task: Name of the damage, where the preset depends on it.

    Returns:
        Updates of the controls by name.
    """
    if name not in PRESETS:
        return {}
    algorithm, kept = PRESETS[name].chosen(task)
    return {"algorithm": algorithm, "knobs": kept, "loaded": kept}
