"""Training batches as a pure function of (seed, step): nothing to save, nothing to skip on resume.

They are the same for any number of processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ambient_solve.data.annotation import Admission, log_normal_levels
from ambient_solve.data.corruption import Sample
from ambient_solve.errors import AmbientSolveError
from ambient_solve.noise import Streams
from ambient_solve.objectives.base import Batch


@dataclass(frozen=True)
class Levels:
    """`ln sigma ~ N(mean, std^2)`, truncated to [sigma_min, sigma_max]."""

    mean: float
    std: float
    sigma_min: float
    sigma_max: float


class Loader:
    """Draws the levels first, then admissible samples, then a crop and a flip of each.

    Only flips and integer shifts are applied: anything that interpolates would change the level of the noise.

    Args:
        samples: The stored data; every picture at least `crop` high and wide, all with the same number of channels.
        share: Relative chance of each sample, (n,).
        buffer: How far above its own noise a noisy sample may be used (`objectives.denoise.buffer`).
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        share: np.ndarray,
        levels: Levels,
        *,
        crop: int,
        buffer: float,
        batch: int,
        seed: int,
    ) -> None:
        if not samples:
            raise AmbientSolveError("No sample is left to train on. Add pictures, or hold out and drop fewer.")
        small = [s for s in samples if min(s.z.shape[-2:]) < crop]
        if small:
            height, width = small[0].z.shape[-2:]
            raise AmbientSolveError(
                f"{small[0].name} is {width}x{height}, smaller than the crop of {crop}. Lower `crop`."
            )
        channels = {s.z.shape[0] for s in samples}
        if len(channels) > 1:
            raise AmbientSolveError(f"The pictures have {sorted(channels)} channels; all must have the same number.")
        zero = np.zeros(len(samples))
        noise = np.array([s.sigma_noise for s in samples])
        self._admission = Admission(noise, zero, zero, share, buffer)
        if self._admission.lowest() >= levels.sigma_min:
            raise AmbientSolveError(
                f"No sample may be used between sigma = {levels.sigma_min} and {self._admission.lowest():.4g}: every "
                "picture holds noise. Add clean ones, or raise sigma_min."
            )
        self._samples, self._levels, self._crop, self.batch, self._seed = samples, levels, crop, batch, seed

    def __call__(self, step: int, rows: slice = slice(None)) -> tuple[Batch, Streams]:
        """Rows `rows` of the batch of `step`, and the noise streams of exactly these rows."""
        draw = np.random.default_rng((self._seed, 2, step))
        # One level in each of `batch` equal-probability bins: the same density, less variance in the loss.
        u = (draw.permutation(self.batch) + draw.random(self.batch)) / self.batch
        spec = self._levels
        sigma = log_normal_levels(u, spec.mean, spec.std, spec.sigma_min, spec.sigma_max)
        index = self._admission.draw(sigma, draw.random(self.batch))
        place, flip = draw.random((self.batch, 2)), draw.random(self.batch) < 0.5
        chosen = range(self.batch)[rows]
        z = torch.stack([self._view(self._samples[index[i]].z, place[i], flip[i]) for i in chosen])
        sigma_noise = torch.tensor([self._samples[index[i]].sigma_noise for i in chosen])
        batch = Batch(
            z=z.float(),
            sigma=torch.from_numpy(sigma[rows]).float(),
            sigma_noise=sigma_noise,
            sigma_min=sigma_noise,
            sigma_max=torch.zeros_like(sigma_noise),
        )
        keys = [int(np.random.SeedSequence((self._seed, 3, step, i)).generate_state(1, np.uint64)[0]) for i in chosen]
        return batch, Streams(keys, 1)

    def _view(self, z: torch.Tensor, place: np.ndarray, flip: bool) -> torch.Tensor:
        top, left = (int(p * (n - self._crop + 1)) for p, n in zip(place, z.shape[-2:], strict=True))
        view = z[:, top : top + self._crop, left : left + self._crop]
        return view.flip(-1) if flip else view
