"""Whether a data set shows anything: pictures of one value, and values far outside their range, teach nothing.

Both come of a file that was read in the wrong units: floats of 0 to 1 taken for 0 to 255 are black, and so are 12 bits
stored in 16, but for a trace.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ambient_solve.data.leaks import prior_units
from ambient_solve.data.sample import Sample
from ambient_solve.errors import AmbientSolveError

FLAT = 0.002
"""Standard deviation, in [-1, 1] units, up to which a data set is of one value: a quarter of a gray level of 8 bits."""
FAINT = 0.05
"""Standard deviation below which a data set is suspicious; photographs have .3 to .6."""
FAR = 8.0
"""Root mean square, in units of the standard deviation that the network expects, from which on values are far out."""
CERTAIN = 4.0
"""Standard errors that noise is allowed to add."""


class Contrast:
    """The contrast of a data set, measured picture by picture; noise is taken off as far as it is stated."""

    def __init__(self) -> None:
        self.pictures = 0
        self._entries = 0.0
        self._variance = 0.0
        self._square = 0.0
        self._noise = 0.0

    def add(self, picture: Tensor | Sample) -> None:
        """Count a picture.

        Args:
            picture: (C, H, W), uint8 or floats in the units of the prior; or a sample, of what was observed of it.
        """
        sample = picture if isinstance(picture, Sample) else Sample("", picture)
        z = prior_units(sample.z)
        pixels = sample.signs is None and sample.maps is None
        seen = torch.ones_like(z) if sample.mask is None or not pixels else sample.mask.expand_as(z).float()
        sigma = sample.sigma_noise if pixels else 0.0
        each = seen.flatten(1).sum(1).clamp_min(1)
        mean = (seen * z).flatten(1).sum(1) / each
        entries = float(seen.sum())
        self.pictures += 1
        self._entries += entries
        self._variance += float((seen * (z - mean[:, None, None]).square()).sum()) - entries * sigma**2
        self._square += float((seen * z.square()).sum()) - entries * sigma**2
        self._noise += 2 * entries * sigma**4

    def about(self, source: object, sigma_data: float = 0.5) -> str:
        """A warning where the contrast is suspiciously low.

        Args:
            source: The data set.
            sigma_data: Standard deviation that the network expects.

        Returns:
            The warning, empty where there is nothing to say.

        Raises:
            AmbientSolveError: there is no contrast at all, or the values are far outside their range.
        """
        if self._entries <= self.pictures:
            return ""  # one entry a picture has no contrast that could be measured
        error = CERTAIN * math.sqrt(self._noise) / self._entries
        std, rms = (math.sqrt(max(total / self._entries, 0.0)) for total in (self._variance, self._square))
        judged = error <= FAINT**2  # else noise hides whether there is any
        if judged and std**2 <= FLAT**2 + error:
            raise AmbientSolveError(
                f"{source}: {_pictures(self.pictures)} of one value, there is nothing to learn. Look at one as it is "
                "read: values of another range, floats of 0 to 1 say, come out black or white; save them as 8 bits."
            )
        if rms > FAR * sigma_data:
            raise AmbientSolveError(
                f"{source}: values lie far outside their range (root mean square {rms:.3g}); expected about [-1, 1], "
                "for scans a magnitude of about 1: scale them, 8-bit values as x / 127.5 - 1."
            )
        if judged and std < FAINT:
            return (
                f"warning: {source}: {_pictures(self.pictures)} almost of one value (standard deviation {std:.2g} in "
                "units of [-1, 1]; photographs have .3 to .6). Are 10 or 12 bits stored in 16? Then stretch them first."
            )
        return ""


def _pictures(number: int) -> str:
    return f"all {number} pictures are each" if number > 1 else "its one picture is"
