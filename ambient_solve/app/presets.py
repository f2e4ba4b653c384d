"""The presets of `ambient_solve.presets` as the page names them, and what choosing one sets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ambient_solve.presets import PRESETS as EVERYWHERE
from ambient_solve.presets import Preset

if TYPE_CHECKING:
    from ambient_solve.app.wiring import Parts

PRESETS: dict[str, Preset] = {name.capitalize(): preset for name, preset in EVERYWHERE.items()}
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
