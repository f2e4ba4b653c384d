"""Noise that is frozen into pictures before training: the network never sees them without it at high levels."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from ambient_solve.data.corruption import LEVELS
from ambient_solve.data.observation import with_noise
from ambient_solve.data.sample import Sample
from ambient_solve.data.seeds import generator, source_key
from ambient_solve.errors import AmbientSolveError


def freeze(samples: Iterable[Sample], sigma: float, seed: int, buffer: float, source: str = "") -> list[Sample]:
    """Each clean sample becomes two: itself up to level `buffer * sigma`, and a noisy copy of it for those above.

    What the network may see of a picture at high levels is one copy with the noise of level `sigma` frozen in, so that
    it cannot learn the picture by heart there (Shah et al., 2025, arXiv 2502.21278). Other samples stay as they are.

    Args:
        samples: Clean and others.
        sigma: Level of the frozen noise, in units of z.
        seed: Decides the noise.
        buffer: How far above its own noise a noisy sample may be used, `objectives.denoise.buffer`.
        source: As for `corrupt`.

    Returns:
        Two samples for each clean one, one for each other, in their order.
    """
    if not (0 < sigma < math.inf and 1 <= buffer < math.inf):
        raise AmbientSolveError(
            f"sigma = {sigma}, buffer = {buffer}; expected sigma above 0 and a buffer of 1 or more."
        )
    frozen = []
    for index, sample in enumerate(samples):
        if any(getattr(sample, level) for level in LEVELS) or not (sample.mask is None or bool(sample.mask.all())):
            frozen.append(sample)
            continue
        # Below sigma_max is strictly below: the next number leaves no level between the two.
        frozen.append(replace(sample, sigma_min=math.inf, sigma_max=math.nextafter(buffer * sigma, math.inf)))
        frozen.append(replace(_frozen(sample, sigma, generator(seed, 4, index, *source_key(source))), damage="frozen"))
    return frozen


def hide(samples: Iterable[Sample], seed: int, source: str = "") -> list[Sample]:
    """Freeze noise of level `sigma_min` into every sample without noise that may be used above that level alone.

    This is the target of Ambient Omni (arXiv 2506.10038): what is learned is the same, and the network never sees the
    picture itself. A sample that may also be used below some `sigma_max` stays as it is: there it is seen.

    Args:
        samples: The samples, in order.
        seed: Decides the noise.
        source: Name of the data set, as `corrupt` has it.

    Returns:
        The samples, in order.
    """
    return [
        _frozen(s, s.sigma_min, generator(seed, 5, i, *source_key(source)))
        if 0 < s.sigma_min < math.inf and s.sigma_noise == 0 == s.sigma_max
        else s
        for i, s in enumerate(samples)
    ]


def _frozen(sample: Sample, sigma: float, rng: np.random.Generator) -> Sample:
    noisy = with_noise(replace(sample, z=sample.z.float()), sigma, rng)
    return replace(noisy, z=noisy.z.half())
