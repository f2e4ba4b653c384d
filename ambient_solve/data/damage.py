"""What a kind of damage is: a frozen set of knobs, done once to a picture. Levels are in the units of the prior."""

from __future__ import annotations

import abc
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from ambient_solve.data.sample import Sample
from ambient_solve.data.units import with_picture_units
from ambient_solve.knobs import check_knobs, knob

PRIOR_UNIT = ", in units of [-1, 1] pictures"
"""What the help of a level says of its unit."""
NOISE = (0.0, 0.0, 100.0, "noise level in what is observed" + PRIOR_UNIT)
"""Default, range and help of a knob that is the noise of a damage."""
ABOVE = (0.0, 0.0, 1000.0, "level above which such a picture may be used; at 0 it passes for clean" + PRIOR_UNIT)
"""Default, range and help of a knob that is the level above which a damage may be used."""
NO_MASK = ""
"""What the mask of a damage is of, `Damage.hides`: nothing, everything is observed."""
PIXELS = "pixels"
"""The mask is one of pixels."""
COEFFICIENTS = "coefficients"
"""The mask is one of randomised coefficients, `transforms.randomised`."""
K_SPACE = "k-space"
"""The mask is one of k-space, `transforms.to_kspace`."""


@dataclass(frozen=True, kw_only=True)
class Damage(abc.ABC):
    """A kind of damage: what happens to a picture.

    Class attributes:
        name: What YAML files and the command line call it, its `kind`.
        hides: What its masks are masks of; "" where it has none.
        levels: Which of its knobs are noise levels of photographs, which have two units.
    """

    name: ClassVar[str]
    hides: ClassVar[str] = NO_MASK
    levels: ClassVar[tuple[str, ...]] = ("sigma", "sigma_noise", "sigma_min")

    share: float = knob(1.0, 1e-6, 1e6, "how often it happens, relative to the other kinds of the same data set")

    def __post_init__(self) -> None:
        check_knobs(self)

    @abc.abstractmethod
    def apply(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Damage one sample.

        Args:
            sample: A clean one, z float32 (C, H, W).
            rng: Where all that is random comes from.

        Returns:
            The damaged sample.
        """

    def whole(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """A sample of which everything is observed, in the form that a batch needs beside samples of this damage.

        Args:
            sample: The sample.
            rng: Where all that is random comes from.

        Returns:
            The sample.
        """
        return sample

    @property
    def parameters(self) -> dict[str, Any]:
        """Its knobs, for the manifest: all but the share, and levels in both units."""
        return with_picture_units({k: v for k, v in asdict(self).items() if k != "share"}, self.levels)

    @property
    def settings(self) -> dict[str, Any]:
        """What `make_damage` makes it from, levels in both units."""
        return with_picture_units({"kind": self.name, **asdict(self)}, self.levels)


def seed_of(rng: np.random.Generator) -> int:
    """A seed for a builder that makes its own generator."""
    return int(rng.integers(2**62))
