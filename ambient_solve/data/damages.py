"""The kinds of damage that the pictures of a data set may have: a frozen set of knobs each, done once to a picture.

A kind makes, from a clean `Sample` and the random numbers of that picture, the sample that is stored, with all that may
be known of it: the noise in it, what was observed, and the levels at which it may be used. Levels are in the units of
the prior, [-1, 1] for photographs; users state them in those of pictures in [0, 1], see `data.units` and `user_knobs`.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

import numpy as np
from torch import Tensor

from ambient_solve.data.damage import ABOVE, PIXELS, PRIOR_UNIT, Damage
from ambient_solve.data.degradations import Downsampling, GaussianBlur, JpegBlocks, MotionBlur, PeriodicBlur
from ambient_solve.data.incomplete import BoxMask, CompressedSensing, KSpaceLines, PatchMask, RandomMask
from ambient_solve.data.observation import checked_mask, observed, with_noise
from ambient_solve.data.sample import Sample
from ambient_solve.data.units import PICTURE, SCALE, in_prior_units
from ambient_solve.errors import AmbientSolveError, suggestion
from ambient_solve.knobs import Knob, knob, knobs

PICTURE_UNIT = ", where pixel values go from 0 to 1"
"""What the help of a level says of its unit where users read it."""


@final
@dataclass(frozen=True, kw_only=True)
class Noise(Damage):
    """Gaussian noise: `z = z0 + sigma e`."""

    name: ClassVar[str] = "noise"
    sigma: float = knob(0.2, 0.0, 100.0, "noise level" + PRIOR_UNIT)

    def apply(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """See `Damage.apply`."""
        return with_noise(sample, self.sigma, rng)


@final
@dataclass(frozen=True, kw_only=True)
class Custom(Damage):
    """A function of your own: of z (C, H, W) float32 and a numpy Generator, to z or to (z, mask of pixels)."""

    name: ClassVar[str] = "custom"
    hides: ClassVar[str] = PIXELS
    function: str = knob("", help="the function, as package.module:function")
    sigma_noise: float = knob(0.0, 0.0, 100.0, "level of the Gaussian noise that the function itself adds" + PRIOR_UNIT)
    sigma_min: float = knob(*ABOVE)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._function()

    def apply(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """See `Damage.apply`."""
        found = self._function()(sample.z.clone(), rng)
        z, mask = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
        if not isinstance(z, Tensor) or z.shape != sample.z.shape or not bool(z.isfinite().all()):
            what = f"{z.dtype} {tuple(z.shape)}" if isinstance(z, Tensor) else f"a {type(z).__name__}"
            raise AmbientSolveError(
                f"{self.function} returned {what}; expected a finite tensor {tuple(sample.z.shape)}, or it and a mask."
            )
        if mask is not None:
            mask = checked_mask(mask, sample.z, f"the mask of {self.function}")
            z = observed(z, mask)
        return replace(sample, z=z.float(), mask=mask, sigma_noise=self.sigma_noise, sigma_min=self.sigma_min)

    def _function(self) -> Callable[..., Any]:
        module, _, name = str(self.function).partition(":")
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError, TypeError) as error:
            raise AmbientSolveError(
                f"function = {self.function!r} is no package.module:function that can be imported ({error}). "
                "Put its folder on PYTHONPATH."
            ) from None
        if not callable(found):
            raise AmbientSolveError(f"function = {self.function!r} is a {type(found).__name__} and cannot be called.")
        return found


DAMAGES: dict[str, type[Damage]] = {
    d.name: d
    for d in (Noise, RandomMask, BoxMask, PatchMask, GaussianBlur, MotionBlur, JpegBlocks, Downsampling)
    + (KSpaceLines, CompressedSensing, PeriodicBlur, Custom)
}
"""The damages by name."""
FORMER = {"centre": "center"}
"""What a knob of a damage is called now, by the name that it had before."""


def user_knobs(cls: type[Damage]) -> list[Knob]:
    """The knobs of a damage as users state them: noise levels where pixel values go from 0 to 1, named `_01`."""
    found = []
    for k in knobs(cls):
        if k.name in cls.levels:
            span = {name: None if getattr(k, name) is None else getattr(k, name) / SCALE for name in ("lo", "hi")}
            words = k.help.replace(PRIOR_UNIT, "") + PICTURE_UNIT
            k = replace(k, name=k.name + PICTURE, default=k.default / SCALE, help=words, **span)
        found.append(k)
    return found


def make_damage(settings: Mapping[str, Any]) -> Damage:
    """The damage that settings describe.

    Args:
        settings: Its `kind` and its knobs, such as {"kind": "noise", "sigma_01": 0.1}; numbers may be given as text.
            `sigma_01` is the noise level where pixel values go from 0 to 1, `sigma` in units of [-1, 1] pictures.

    Raises:
        AmbientSolveError: there is no such kind or knob, or a value is out of its range.
    """
    if not isinstance(settings, Mapping) or "kind" not in settings:
        raise AmbientSolveError(f"A damage is given as {{kind: noise, sigma_01: 0.1}}, not as {settings!r}.")
    kind = settings["kind"]
    if not isinstance(kind, str) or kind not in DAMAGES:
        raise AmbientSolveError(f"There is no kind of damage {kind!r}. {suggestion(str(kind), DAMAGES)}")
    known, values = {k.name: k for k in knobs(DAMAGES[kind])}, {}
    settings = {FORMER.get(name, name): value for name, value in settings.items()}
    for name, value in in_prior_units(settings, [n for n in DAMAGES[kind].levels if n in known]).items():
        if name == "kind":
            continue
        if name not in known:
            names = [k.name for k in user_knobs(DAMAGES[kind])]
            raise AmbientSolveError(f"The damage {kind} has no knob {name!r}. {suggestion(str(name), names)}")
        if isinstance(value, str) and known[name].type in (int, float):
            with contextlib.suppress(ValueError):  # what is no number is refused with the other knobs
                value = known[name].type(value)
        values[name] = value
    return DAMAGES[kind](**values)
