"""The presets: a word for an algorithm, its knobs and a number of samples, the same for Python, command line and page.

    Solver(prior, preset="balanced")
    ambient-solve restore photo.png --task denoise --sigma 0.1 --preset faithful

What a preset takes depends on what was measured: nothing but noise, with pixels missing, otherwise linearly, or not
linearly. `python benchmarks/presets.py` prints what each gives for how many seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from ambient_solve.errors import AmbientSolveError, suggestion

NOISE, MISSING, LINEAR, OTHER = "noise", "missing", "linear", "other"
"""What was measured: the picture with white noise; part of it; linearly otherwise; not linearly, or in photons."""
DEFAULT = "balanced"
"""The preset of `ambient-solve restore` and of `restore_file`."""
OF_TASKS = {"denoise": NOISE, "inpaint": MISSING, "jpeg": OTHER}
"""What the tasks of picture files measure; the others, and several at once, are linear."""

Choice = tuple[str, Mapping[str, Any]]
"""An algorithm, and its knobs."""


@final
@dataclass(frozen=True)
class Preset:
    """What a word stands for.

    Attributes:
        words: What to expect, in words.
        samples: How many are drawn.
        choices: The algorithm and its knobs, by what was measured.
    """

    words: str
    samples: int
    choices: Mapping[str, Choice]

    @property
    def algorithm(self) -> str:
        """The algorithm of most tasks."""
        return self.choices[LINEAR][0]

    @property
    def knobs(self) -> Mapping[str, Any]:
        """Its knobs."""
        return self.choices[LINEAR][1]

    def chosen(self, task: str | None = None) -> tuple[str, dict[str, Any]]:
        """The algorithm and the knobs for a task of picture files.

        Args:
            task: Its name, such as "denoise" or "inpaint+denoise"; None for most tasks.
        """
        algorithm, own = self.choices[measured_by(task)]
        return algorithm, dict(own)


def measured_by(task: str | None) -> str:
    """What a task of picture files measures, one of NOISE, MISSING, LINEAR, OTHER.

    Args:
        task: Its name; several are joined by "+", and a JPEG among them is measured linearly.
    """
    if task is None:
        return LINEAR
    parts = task.split("+")
    if len(parts) == 1:
        return OF_TASKS.get(task, LINEAR)
    return MISSING if set(parts) == {"inpaint", "denoise"} else LINEAR


# Thick strokes stay visible under the proximal rule, and go where the Jacobian is used. Where there is nothing but
# noise, mmps calls the denoiser once a level and no Jacobian; samples of few levels are nearly the posterior mean.
PRESETS: dict[str, Preset] = {
    "fast": Preset(
        "a first look",
        2,
        {
            NOISE: ("mmps", {"steps": 3, "covariance_noise": False}),
            MISSING: ("mmps", {"steps": 12, "iterations": 2, "covariance_noise": False}),
            LINEAR: ("proximal", {"steps": 12}),
            OTHER: ("daps", {"steps": 12, "ode_steps": 1, "langevin_steps": 10}),
        },
    ),
    "balanced": Preset(
        "cleaner, claims too small an error",
        4,
        {
            NOISE: ("mmps", {"steps": 8, "covariance_noise": False}),
            MISSING: ("mmps", {"steps": 12, "covariance_noise": False}),
            LINEAR: ("proximal", {"steps": 25}),
            OTHER: ("daps", {"steps": 20, "ode_steps": 1, "langevin_steps": 20}),
        },
    ),
    "faithful": Preset("honest about its error, slow", 4, dict.fromkeys((NOISE, MISSING, LINEAR, OTHER), ("auto", {}))),
    "creative": Preset(
        "varied samples, more invented",
        4,
        {
            **dict.fromkeys((NOISE, MISSING, LINEAR), ("proximal", {"steps": 50, "trust": "data", "draw": True})),
            OTHER: ("daps", {"steps": 20, "ode_steps": 2, "langevin_steps": 20, "width": 1.0}),
        },
    ),
}
"""The presets by name."""


def preset_named(name: str) -> Preset:
    """A preset by its name.

    Args:
        name: One of `PRESETS`.

    Returns:
        The preset.

    Raises:
        AmbientSolveError: there is none of that name.
    """
    if name not in PRESETS:
        raise AmbientSolveError(f"There is no preset {name!r}. {suggestion(str(name), PRESETS)}")
    return PRESETS[name]
