r"""Consistency: what is known at a high level of noise, carried down to the levels at which no sample may be used.

Along the reverse process `z_t -> z_s` of the true denoiser, `s < t`, the denoised image is a martingale (Daras et al.,
2023, arXiv 2302.09057):

    D(z_t, t) = E[ D(z_s, s) | z_t ]

Any distribution's denoiser fulfils this. Where noisy samples fix `D` above their own noise and this holds below it, `D`
is right everywhere (Daras et al., 2024, arXiv 2404.10177). The loss is that of `Denoise` plus
`consistency (1 / t^2 + 1 / sigma_data^2)` times an estimate of the squared residual, from `m` independent runs `z_s^j`
of the reverse process from one `z_t`, `r_j = D(z_s^j, s) - D(z_t, t)`:

    pair    mean over j != k of r_j . r_k     unbiased: it may be negative, its mean is 0 for the true denoiser
    mean    | mean_j r_j |^2                  arXiv 2411.02780; too large by Var(D(z_s) | z_t) / m, which favors a
                                              blurred D. What it exceeds `pair` of the same runs by is that floor

A run is `steps` ancestral steps `K_1` (see `noise`). Their mean is that of the true transition however long the step;
what they lack in covariance is `(1 - s^2 / t^2)^2 Cov[z0 | z_t]`, little where `z_t` tells the image. A step of
Euler-Maruyama is wrong in both at second order: one that halves the level leaves noise of deviation t, not t / 2.

Of incomplete samples the data term is that of `Masked`, and a training step shows the same entries `A~` at all levels.
As their noise is independent of that of the others, `A~ z_t` is a process of its own, whose denoised image is `A~` of

    D(A~ z_t, A~; t) = E[z0 | A~ z_t, A~] = E[ D(A~ z_s, A~; s) | A~ z_t ]

a martingale on all entries, seen or not: what `Masked` learns of hidden entries above the noise is carried down too.
A hidden entry counts as in `Masked`, by a level of `floor` at least.

A prior without this must stop sampling at the boundary and return `D`, a mean: blurred. With it, sampling goes on down
to `sigma_min`.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar, final

import torch
from torch import Tensor

from ambient_solve.knobs import check_knobs, knob
from ambient_solve.noise import Streams, per_sample
from ambient_solve.objectives.base import Batch, Denoiser, Objective, edm_weight
from ambient_solve.objectives.denoise import WEIGHTS, Denoise, buffer, unbiased_target
from ambient_solve.objectives.masked import Masked
from ambient_solve.transforms import randomised

WHERE = ("below", "boundary", "local")
ESTIMATORS = ("pair", "mean")
GRADIENTS = ("ends", "both", "chain")


@final
@dataclass(frozen=True, kw_only=True)
class Consistency(Objective):
    """`Denoise`, and consistency between two levels `s < t` of each sample.

    The boundary of a sample is the lowest level above which it may be used. `where` says which levels, with u uniform
    in [0, 1), `m = runs`, and the calls of the network for each sample, the one of `Denoise` included:

        local      t = sigma, the level drawn;  s = t (1 - window u)                   1 + m steps
        boundary   t = boundary;  ln s uniform between sigma_min and it                2 + m steps
        below      s as above;  t = s / (1 - window u), at most the boundary           2 + (m + 1) steps

    "below" reaches `z_t` by a run from the boundary, on which its place alone depends: the errors of a long run enter
    the residual of "boundary", not its own. A sample without a boundary above `sigma_min`, a clean one or one that may
    be used at low levels only, has the loss of `Denoise` in both; "local" treats all samples alike.

    `gradient` says what is learned. "ends": the `D(z_s^j, s)` towards a fixed `D(z_t, t)`, so that knowledge goes from
    high levels to low ones only. "both" (arXiv 2302.09057) also moves `D(z_t, t)` but not the runs that it starts: this
    is the gradient of no loss, and under the boundary, where no data hold `D(z_t, t)`, it can diverge. "chain" learns
    through the runs too, at the cost of `m (steps - 1)` more calls with a gradient.
    """

    consistency: float = knob(0.3, 0.0, 1e6, "weight of the consistency term; 0 is Denoise, bit for bit")
    where: str = knob("below", choices=WHERE, help="at which levels the denoiser is made consistent")
    estimator: str = knob("pair", choices=ESTIMATORS, help="pair is unbiased, mean favors a blurred denoiser")
    gradient: str = knob("ends", choices=GRADIENTS, help="what is learned: the ends, the start too, the runs too")
    runs: int = knob(2, 2, 64, "runs of the reverse process from each state; more is slower and less noisy")
    steps: int = knob(2, 1, 100, "steps of a run; more is slower and more exact")
    window: float = knob(0.5, 1e-3, 1.0, "how far s lies under t at most, as a share of t; not for boundary")
    s_max: float = knob(4.0, 1.0, help="noisy samples are used where sigma^2 / (sigma^2 - sigma_noise^2) is below it")
    sigma_min: float = knob(0.01, 1e-6, help="lowest level of the network")
    weight: str = knob("inverse_variance", choices=WEIGHTS, help="how noisy targets count in the loss of Denoise")
    sigma_data: float = knob(0.5, 1e-6, help="standard deviation of one entry of the data")
    mask_channels: int = knob(
        0, 0, 1024, "channels of the mask that are shown: 1 for masked pictures, 0 for all others"
    )
    delta: float = knob(0.5, 0.0, 0.99, "of masked samples: largest share of the observed that a step hides")
    delta_min: float = knob(0.05, 0.0, 0.99, "of masked samples: smallest such share")
    floor: float = knob(0.07, 0.0, 100.0, "of masked samples: level at which hidden entries count at most")

    incomplete: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_knobs(self)
        buffer(self.s_max)  # refuses 1

    @property
    def masked(self) -> Masked:
        """The data term of incomplete samples."""
        return Masked(self.delta, self.delta_min, self.mask_channels, self.weight, self.sigma_data, self.floor)

    @property
    def below(self) -> bool:  # type: ignore[override] # it follows from two knobs
        """Whether it learns levels at which no sample may be used."""
        return self.consistency > 0 and self.where != "local"

    def loss(self, denoise: Denoiser, batch: Batch, streams: Streams) -> Tensor:
        """See `Objective.loss`; with the estimator "pair" a loss may be negative."""
        if batch.mask is None and not self.mask_channels:
            seen = None
            z, tau = unbiased_target(batch, streams)
            z0 = denoise(z, batch.sigma)
            data = Denoise(self.weight, self.sigma_data).error(z0, tau, batch)
        else:
            data, z, z0, seen = self.masked.step(denoise, batch, streams)
            denoise = self._seeing(denoise, seen, batch.signs)
        if self.consistency == 0:
            return data
        if self.where == "local":
            t, s = batch.sigma, batch.sigma * (1 - self.window * streams.uniform(batch.sigma))
            s = torch.minimum(s.clamp_min(self.sigma_min), t)
            z0 = z0.detach() if self.gradient == "ends" else z0
        else:
            z, t, s = self._start(denoise, batch, streams)
            with _learned(self.gradient != "ends"):
                z0 = denoise(z, t)
        weight = self.consistency * edm_weight(t, self.sigma_data) * (s < t)
        square = self._residual(denoise, z, z0.float(), t, s, streams, batch.signs)
        if seen is not None:
            hidden = edm_weight(t.clamp_min(self.floor), self.sigma_data) / edm_weight(t, self.sigma_data)
            square = torch.where(seen > 0, square, per_sample(hidden, square) * square)
        return data + weight * square.flatten(1).mean(1)

    def of_data(self) -> Consistency:
        """See `Objective.of_data`."""
        return replace(self, consistency=0.0)

    def keep_probability(self, observed: float) -> float | None:
        """See `Objective.keep_probability`."""
        return self.masked.keep_probability(observed)

    def held_out(self, denoise: Denoiser, batch: Batch, streams: Streams) -> Tensor:
        """See `Objective.held_out`; of clean pictures all is known at every level."""
        if batch.mask is not None or self.mask_channels:
            return self.masked.held_out(denoise, batch, streams)
        return Denoise(self.weight, self.sigma_data).loss(denoise, batch, streams)

    def boundary(self, batch: Batch) -> Tensor:
        """The lowest level above which each sample may be used, (B,); `sigma_min` where that is lower, or none is."""
        above = buffer(self.s_max) * batch.sigma_noise
        above = torch.where(batch.sigma_max > batch.sigma_min, above, torch.maximum(above, batch.sigma_min))
        return torch.where(above.isfinite(), above, 0.0).clamp_min(self.sigma_min)

    def _start(self, denoise: Denoiser, batch: Batch, streams: Streams) -> tuple[Tensor, Tensor, Tensor]:
        """A state `z_t` and the levels t and s, neither above the boundary."""
        top = self.boundary(batch)
        n = streams.normal(batch.z)
        z = batch.z + per_sample(torch.sqrt(top**2 - batch.sigma_noise**2), n) * n
        u = streams.uniform(top.new_empty(len(top), 2))
        s = self.sigma_min * (top / self.sigma_min) ** u[:, 0]
        if self.where == "boundary":
            return z, top, s
        # Capped: as often as t is the boundary itself, what is learned from data enters the levels below it.
        t = torch.minimum(s / (1 - self.window * u[:, 1]), top)
        with torch.no_grad():
            return self._run(denoise, z, denoise(z, top).float(), top, t, streams, 1), t, s

    def _seeing(self, denoise: Denoiser, seen: Tensor, signs: Tensor | None) -> Denoiser:
        """`denoise` where it sees `seen` alone of each row, and of each run of it."""

        def answer(z: Tensor, sigma: Tensor) -> Tensor:
            runs = len(z) // len(seen)
            turned = None if signs is None else torch.cat([signs] * runs)
            return self.masked.answer(denoise, z, sigma, torch.cat([seen] * runs), turned)

        return answer

    def _residual(
        self, denoise: Denoiser, z: Tensor, z0: Tensor, t: Tensor, s: Tensor, streams: Streams, signs: Tensor | None
    ) -> Tensor:
        """The estimate of the square of `E[D(z_s, s) | z_t] - D(z_t, t)`, entry by entry, (B, *shape).

        Of samples with `signs` the entries are coefficients.
        """
        m = self.runs
        with _learned(self.gradient == "chain"):
            z_s = self._run(denoise, z, z0, t, s, streams, m)
        r = denoise(z_s, s.repeat(m)).float().unflatten(0, (m, -1)) - z0
        if signs is not None:
            r = torch.stack([randomised(each, signs) for each in r])
        square_of_mean = r.mean(0).square()
        if self.estimator == "mean":
            return square_of_mean
        return (m * square_of_mean - r.square().mean(0)) / (m - 1)

    def _run(
        self, denoise: Denoiser, z: Tensor, z0: Tensor, t: Tensor, s: Tensor, streams: Streams, runs: int
    ) -> Tensor:
        """The ends (runs * B, *shape) at level s of runs from `z` (B, *shape) at level t, denoised to `z0`."""
        z, z0, t, s = (torch.cat([a] * runs) for a in (z, z0, t, s))
        levels = [t * (s / t) ** (k / self.steps) for k in range(self.steps)] + [s]
        for k, (level, lower) in enumerate(pairwise(levels)):
            if k:
                z0 = denoise(z, level).float()
            kept = (lower / level) ** 2
            fresh = lower * torch.sqrt((1 - kept).clamp_min(0))
            n = streams.normal(z.unflatten(0, (runs, -1)).transpose(0, 1)).transpose(0, 1).flatten(0, 1)
            z = z0 + per_sample(kept, z) * (z - z0) + per_sample(fresh, z) * n
        return z


def _learned(yes: bool) -> contextlib.AbstractContextManager:
    """Where gradients are recorded, if they are outside, or not."""
    return contextlib.nullcontext() if yes else torch.no_grad()
