r"""Soft score matching, from clean, noisy and blurred samples in one formula (Daras et al., 2022, arXiv 2209.05442).

For a process z_t = C_t z0 + s_t n the error of the estimate counts as far as the corruption lets it through:

    |C_t (D(z_t, t) - z0)|^2,      whose minimizer has C_t D = C_t E[z0 | z_t]

What is destroyed at a level is not learned there, nor is it needed to step to the next. The network predicts the
residual of the best linear estimate, of which the paper's z_t is the limit of little corruption and noise
(`SoftSettings.estimate`); the weight of a level is the inverse of what that estimate leaves of the loss.

A stored sample is y = C_b z0 + sigma_n e, of the same family, its blur b and noise sigma_n 0 or more. All C commute,
with gains g_b and g_t, so that R = C_t C_b^-1 has the gains r = g_t / g_b, at most 1 where t is blurrier than b: no
noise is amplified. In each part draw, with k^2 = s_t^2 - r^2 sigma_n^2,

    z_t = r y + k n                      which is C_t z0 + s_t n', a state, with n' unit noise, if sigma_n r <= s_t
    tau = r y - (r^2 sigma_n^2 / k) n    and E[tau | z_t] = C_t E[z0 | z_t]
    v   = Var(tau - C_t z0) = r^2 sigma_n^2 s_t^2 / k^2

because the error r sigma_n e - (r^2 sigma_n^2 / k) n of tau is uncorrelated with the noise r sigma_n e + k n of z_t:
sigma_n^2 r^2 - sigma_n^2 r^2 = 0. So tau is the unbiased target of what the loss sees of z0. Without a corruption it is
that of `Denoise`. Of a blurred sample without noise, sigma_n = 0, the target is exact, tau = C_t z0 itself: what the
blur destroyed is what the loss does not look at. At levels less blurry than b the same formula would need r > 1, the
inverse of the blur, and no other unbiased target exists without it: states with the same C_b z0 and another C_t z0
give the same y. Such samples are used above their level alone (`SoftSettings.level_of`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast, final

import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.knobs import check_knobs, knob
from ambient_solve.noise import Streams, per_sample
from ambient_solve.objectives.base import Batch, Denoiser, Objective, edm_weight
from ambient_solve.process import Additive, GaussianBlur, Identity, LinearFamily, Process, Soft

TINY = 1e-12
"""A loss below it is that of a level that shows nothing."""


@dataclass(frozen=True)
class SoftMatching(Objective):
    """Soft score matching; `of_process` gives it the process, without which it is that of additive noise."""

    sigma_data: float = knob(0.5, 1e-6, help="standard deviation of one entry of the data")

    def __post_init__(self) -> None:
        check_knobs(self)

    def of_process(self, process: Process) -> Objective:
        """See `Objective.of_process`; a linear corruption, or additive noise."""
        if not isinstance(process, (Additive, Soft)):
            raise AmbientSolveError(
                f"The objective 'soft' needs a process of a linear corruption and noise, Soft or Additive, not "
                f"{type(process).__name__}."
            )
        return _OfSoft(self.sigma_data, process)

    def loss(self, denoise: Denoiser, batch: Batch, streams: Streams) -> Tensor:
        """See `Objective.loss`; the mean over the entries of each sample."""
        return self.of_process(Additive()).loss(denoise, batch, streams)


@final
class _OfSoft(Objective):
    """Soft score matching of one process."""

    def __init__(self, sigma_data: float, process: Additive | Soft) -> None:
        self.sigma_data, self.process = sigma_data, process

    def loss(self, denoise: Denoiser, batch: Batch, streams: Streams) -> Tensor:
        """See `SoftMatching.loss`."""
        if batch.mask is not None:
            raise AmbientSolveError(
                "The objective 'soft' was given incomplete samples, whose gaps it would take for pictures: use "
                "process: {kind: additive} with 'masked', or 'kspace'."
            )
        if isinstance(self.process, Soft) and not isinstance(self.process.corruption, LinearFamily):
            return self._of_any(self.process, denoise, batch, streams)
        s, family, gains, seen = self._parts(batch)
        noise = (seen * per_sample(batch.sigma_noise, seen)).square()
        total = per_sample(s, seen) ** 2
        left = total - noise
        n, y = family.analyze(streams.normal(batch.z)), seen * family.analyze(batch.z)
        z = family.synthesize(y + left.sqrt() * n)
        # At the level of a sample's own noise there is no target (v is infinite): any will do, as its weight is 0.
        tau = y - torch.where((noise > 0) & (left > 0), noise / left.sqrt(), 0.0) * n
        error = gains * family.analyze(denoise(z, batch.sigma).float()) - tau
        v = family.share(batch.z, torch.where(noise > 0, noise * total / left, 0.0))
        # The inverse of what the best linear estimate leaves of the loss: all levels count alike at first, as in EDM.
        power = self.sigma_data**2 * family.power(batch.z)
        weight = 1 / family.share(batch.z, gains**2 * power * total / (gains**2 * power + total)).clamp_min(TINY)
        return weight / (1 + weight * v) * family.synthesize(error).square().flatten(1).mean(1)

    def _parts(self, batch: Batch) -> tuple[Tensor, LinearFamily, Tensor, Tensor]:
        """Deviation of the noise (B,), the family, the gains `g_t`, and `r`: what is left to do of the corruption."""
        z = batch.z
        if isinstance(self.process, Additive):
            none = Identity()
            gains = none.gains(z, batch.sigma)
            _refuse(batch.blur is not None and bool((batch.blur > 0).any()), none)
            return batch.sigma, none, gains, gains
        family, s = cast(LinearFamily, self.process.corruption), torch.as_tensor(self.process.noise(batch.sigma))
        gains = family.gains(z, self.process.strength(batch.sigma))
        if batch.blur is None:
            return s, family, gains, gains
        _refuse(not isinstance(family, GaussianBlur) and bool((batch.blur > 0).any()), family)
        own = family.gains(z, batch.blur)
        # A gain that underflows is one of both: nothing is left of the part in the sample, nor at a blurrier level.
        seen = torch.where(own > 0, gains / own, 0.0)
        return s, family, gains, seen.clamp(max=1)

    def _of_any(self, process: Soft, denoise: Denoiser, batch: Batch, streams: Streams) -> Tensor:
        """The loss of clean samples under any function that is linear in the states."""
        if bool((batch.sigma_noise > 0).any()) or batch.blur is not None:
            raise AmbientSolveError(
                "Noisy or blurred samples need a corruption with a spectrum: a LinearFamily, such as GaussianBlur()."
            )
        s = torch.as_tensor(process.noise(batch.sigma))
        z = process.perturb(batch.z, batch.sigma, streams.normal(batch.z))
        error = process.corrupt(denoise(z, batch.sigma).float() - batch.z, batch.sigma)
        return edm_weight(s, self.sigma_data) * error.square().flatten(1).mean(1)


def _refuse(wrong: bool, family: LinearFamily) -> None:
    if wrong:
        raise AmbientSolveError(
            f"Samples with a Gaussian blur were given, and the process knows {type(family).__name__}: set "
            "process: {kind: soft, family: blur}, or leave them out."
        )
