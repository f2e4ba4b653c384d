"""`Sample`: one stored picture, and all that is known of its damage."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """One stored picture in the prior's units ([-1, 1] for photographs), damage included.

    Attributes:
        z: float16 (C, H, W); 0 where nothing was observed, `A^H y` for compressed sensing and k-space.
        sigma_noise: Physical noise in `z`; 0 is none.
        sigma_min: May be used at levels above this one (Ambient Omni, arXiv 2506.10038); 0 is everywhere above its own
            noise, inf nowhere.
        sigma_max: May be used at levels below this one too; 0 is nowhere.
        mask: uint8 (1, H, W) or (C, H, W), 1 where observed; of coefficients or k-space where `signs` or `maps` is
            given. None is everything.
        signs: int8 (C, H, W) of +-1, see `transforms.randomised`.
        maps: complex64 coil maps (coils, H, W), see `transforms.to_kspace`.
        damage: What was done to it, in one word: the group in which an annotator counts it.
        weight: Chance to be drawn, relative to the other samples of its data set; 0 is never.
        blur: Deviation in pixels of the Gaussian blur in it, whose edges wrap round, as of a soft process; 0 is none.
        caption: What it shows, in words; empty where that is not known.
    """

    name: str
    z: Tensor
    sigma_noise: float = 0.0
    sigma_min: float = 0.0
    sigma_max: float = 0.0
    mask: Tensor | None = None
    signs: Tensor | None = None
    maps: Tensor | None = None
    damage: str = "clean"
    weight: float = 1.0
    blur: float = 0.0
    caption: str = ""
