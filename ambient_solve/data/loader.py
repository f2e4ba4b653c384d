"""Training batches as a pure function of (seed, step): nothing to save, nothing to skip on resume.

They are the same for any number of processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ambient_solve.data.annotation import Admission, log_normal_levels
from ambient_solve.data.sample import Sample
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
        levels: The law of the noise levels.
        crop: Side in pixels of what is cut out.
        batch: Samples of a batch.
        seed: Decides all draws, with the step.
        buffer: How far above its own noise a noisy sample may be used (`objectives.denoise.buffer`).
        below: Whether levels under the noise of all samples need not be drawn: the objective reaches them by itself
            (`Objective.below`), or the prior that training starts from knows them.
        flat: A crop with a smaller deviation, its noise taken off, is drawn once more: half of many photographs is sky.
            Of complete samples alone.
        mirror: Whether half of the samples are mirrored.

    Attributes:
        lowest: The lowest level that is drawn.

    Raises:
        AmbientSolveError: samples that are too small, or cannot be trained on together.
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
        below: bool = False,
        flat: float = 0.0,
        mirror: bool = True,
    ) -> None:
        if not samples:
            raise AmbientSolveError("No sample is left to train on. Add pictures, or hold out and drop fewer.")
        small = [s for s in samples if min(s.z.shape[-2:]) < crop]
        if small:
            height, width = small[0].z.shape[-2:]
            raise AmbientSolveError(
                f"{small[0].name} is {width}x{height}, smaller than the crop of {crop}. Lower `crop`, or set "
                "drop_small."
            )
        domains = {(s.signs is not None, s.maps is not None) for s in samples}
        if len(domains) > 1 or (domains != {(False, False)} and any(s.mask is None for s in samples)):
            raise AmbientSolveError(
                "Samples measured in pixels, in coefficients and in k-space cannot be trained on together."
            )
        channels = {s.z.shape[0] for s in samples}
        if len(channels) > 1:
            raise AmbientSolveError(f"The pictures have {sorted(channels)} channels; all must have the same number.")
        whole = [s for s in samples if s.signs is not None or s.maps is not None]
        if any(s.z.shape[-2:] != (crop, crop) for s in whole):
            raise AmbientSolveError(
                f"{whole[0].name} was measured in coefficients of the whole picture and cannot be cropped: set `crop` "
                f"to its side, {whole[0].z.shape[-1]}, and give square pictures of one size."
            )
        columns = ([getattr(s, name) for s in samples] for name in ("sigma_noise", "sigma_min", "sigma_max"))
        self._admission = Admission(*map(np.array, columns), share, buffer)
        low, high = self._admission.gap()
        if below and low < levels.sigma_min:
            levels = replace(levels, sigma_min=max(levels.sigma_min, high * (1 + 1e-6)))
        elif max(low, levels.sigma_min) <= min(high, levels.sigma_max):
            mask_channels = max((s.mask.shape[0] for s in samples if s.mask is not None and s.signs is None), default=0)
            way = f"the objective 'consistency'{f' with mask_channels: {mask_channels}' if mask_channels else ''}"
            choice = "Add clean ones, or raise network.sigma_min."
            if not any(s.maps is not None for s in samples):
                choice = f"Add clean ones, raise network.sigma_min, or choose {way}."
            raise AmbientSolveError(
                f"No sample may be used between sigma = {max(low, levels.sigma_min)} and {high:.4g}: every picture is "
                f"damaged. {choice}"
            )
        self._samples, self._levels, self._crop, self.batch, self._seed = samples, levels, crop, batch, seed
        self._flat, self._mirror, self.lowest = flat, mirror, levels.sigma_min
        self._channels = max((s.mask.shape[0] for s in samples if s.mask is not None), default=0)

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
        drawn = [self._samples[index[i]] for i in chosen]
        if self._flat:
            again = draw.random((self.batch, 2))
            for i, sample in zip(chosen, drawn, strict=True):
                place[i] = again[i] if self._is_flat(sample, place[i]) else place[i]
        flip &= self._mirror
        mirrored = [bool(flip[i]) and s.signs is None and s.maps is None for i, s in zip(chosen, drawn, strict=True)]

        def views(tensors: list[torch.Tensor]) -> torch.Tensor:
            at = zip(tensors, (place[i] for i in chosen), mirrored, strict=True)
            return torch.stack([self._view(t, p, m) for t, p, m in at])

        batch = Batch(
            z=views([s.z for s in drawn]).float(),
            sigma=torch.from_numpy(sigma[rows]).float(),
            sigma_noise=torch.tensor([s.sigma_noise for s in drawn]),
            sigma_min=torch.tensor([s.sigma_min for s in drawn]),
            sigma_max=torch.tensor([s.sigma_max for s in drawn]),
            mask=views([self._mask(s) for s in drawn]) if self._channels else None,
            signs=torch.stack([s.signs for s in drawn]).float() if drawn[0].signs is not None else None,
            maps=torch.stack([s.maps for s in drawn]) if drawn[0].maps is not None else None,
            blur=torch.tensor([s.blur for s in drawn]) if any(s.blur for s in drawn) else None,
            captions=tuple(s.caption for s in drawn) if any(s.caption for s in drawn) else None,
        )
        keys = [int(np.random.SeedSequence((self._seed, 3, step, i)).generate_state(1, np.uint64)[0]) for i in chosen]
        return batch, Streams(keys, 1)

    def _is_flat(self, sample: Sample, place: np.ndarray) -> bool:
        """Whether nothing but the sample's own noise is seen in the crop at `place`."""
        if sample.mask is not None:
            return False
        view = self._view(sample.z, place, False).float()
        return float(view.var(dim=(-2, -1)).mean()) < sample.sigma_noise**2 + self._flat**2

    def _mask(self, sample: Sample) -> torch.Tensor:
        mask = torch.ones(1, *sample.z.shape[-2:]) if sample.mask is None else sample.mask.float()
        return mask.expand(self._channels, -1, -1)

    def _view(self, z: torch.Tensor, place: np.ndarray, flip: bool) -> torch.Tensor:
        top, left = (int(p * (n - self._crop + 1)) for p, n in zip(place, z.shape[-2:], strict=True))
        view = z[:, top : top + self._crop, left : left + self._crop]
        return view.flip(-1) if flip else view
