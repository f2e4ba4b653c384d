r"""Equivariance self-guidance: the estimates of a frame are drawn to those of the frame before, along the motion.

A network is not equivariant: moved noise gives a picture that is moved, and a little different. What it estimated for
the frame before, D_(j-1), at the same step of the run, says what that difference is. With `P` pulling a picture along
the flow and a weight `W`,

    blend      D' = D(z) + W d,   d = P D_(j-1) - D(z)
    gradient   D' = D(z - l grad_z e / sqrt(e)),   e = d' W d                                     (Warped Diffusion)

The first is the mean of two Gaussian estimates of one picture; it needs no further pass through the network. The second
is the step of Daras et al. (2024, arXiv 2410.16152, equation 12), of one forward and one backward pass more, and moves
the estimate where the paper moves the state. Both are wrappers round a prior, so that every algorithm takes them; the
measurement has its say afterwards, in the algorithm.

What is measured of a frame and what is not are weighed apart. With `U` the part of a picture that the measurement
leaves open, w the weight asked for, and n how many frames before have measured a pixel,

    W d = trust (w U d + min(w, n / (n + 1)) (d - U d))                                                  (weights)

so that what is measured becomes the running mean of the frames, which takes the noise out of it and leaves the misfit
where it is, what comes out of a hole owes nothing to what was imagined there, and what is in a hole stays what it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from deepinv.physics import LinearPhysics, Physics
from torch import Tensor
from torch.nn import functional as F

from ambient_solve.errors import AmbientSolveError
from ambient_solve.knobs import check_knobs, knob
from ambient_solve.noise import Level, Streams
from ambient_solve.priors.base import Prior, Vjp
from ambient_solve.priors.wrapped import WrappedPrior
from ambient_solve.video.flow import Motion, pull, stays


@final
@dataclass(frozen=True, kw_only=True)
class Guidance:
    """How strongly a frame is drawn to the one before."""

    weight: float = knob(0.9, 0.0, 1.0, "weight of the frame before, where it shows the same point; 0 is no guidance")
    rule: str = knob("blend", choices=("blend", "gradient"), help="mix the estimates, or step along the gradient")
    length: float = knob(1.0, 0.0, 1000.0, "length of the step of the rule 'gradient', in z units over all pixels")

    def __post_init__(self) -> None:
        check_knobs(self)


@final
@dataclass(frozen=True)
class Before:
    """What is known of the frame before.

    Attributes:
        estimates: What the denoiser gave it, one for each call of its run, (B * S, C, H, W) each.
        levels: Of these calls, in z units.
        flow: From this frame back to that one, (2, H, W) in pixels of the states.
        open_weight: Of that frame's estimates in what is not measured, (H, W), 0 to 1: see (weights) of the module.
        seen_weight: The same in what is measured.
    """

    estimates: list[Tensor]
    levels: list[float]
    flow: Tensor
    open_weight: Tensor
    seen_weight: Tensor


@final
class EquivariantPrior(WrappedPrior):
    """A prior that is drawn to its own estimates for the frame before, call by call.

    A call is guided where the run of the frame before had a call of that number at that level.

    Args:
        inner: The prior.
        guidance: How strongly.
        before: Of the frame before; None for the first frame of a scene.

    Attributes:
        left_open: `U` of the module, (N, C, H, W) to the same, symmetric; None leaves nothing open.
        estimates: What this run gave so far.
        levels: Of its calls.
    """

    def __init__(self, inner: Prior, guidance: Guidance, before: Before | None = None) -> None:
        super().__init__(inner)
        self.guidance, self.before = guidance, before
        self.left_open: Callable[[Tensor], Tensor] | None = None
        self.estimates: list[Tensor] = []
        self.levels: list[float] = []

    def begin(self, shape: tuple[int, ...], streams: Streams) -> None:
        """See `Prior.begin`: the calls are counted from here."""
        self.estimates, self.levels = [], []
        self.inner.begin(shape, streams)

    def denoise(self, z: Tensor, sigma: Level, cond: Any = None) -> Tensor:
        """See `Prior.denoise`."""
        target = self._target(z, sigma)
        if target is not None and self.guidance.rule == "gradient":
            z = self._step(z, sigma, cond, target)
        z0 = self.inner.denoise(z, sigma, cond)
        if target is not None and self.guidance.rule == "blend":
            z0 = z0 + self._weighed(target - z0)
        self._remember(z0, sigma)
        return z0

    def denoise_vjp(self, z: Tensor, sigma: Level, cond: Any = None, *, once: bool = False) -> tuple[Tensor, Vjp]:
        """See `Prior.denoise_vjp`; the step of the gradient counts as a constant."""
        target = self._target(z, sigma)
        if target is not None and self.guidance.rule == "gradient":
            z, target = self._step(z, sigma, cond, target), None
        z0, vjp = self.inner.denoise_vjp(z, sigma, cond, once=once)
        if target is None:
            self._remember(z0, sigma)
            return z0, vjp
        z0 = z0 + self._weighed(target - z0)
        self._remember(z0, sigma)
        return z0, lambda v: vjp(v - self._weighed(v, transposed=True))

    def _remember(self, z0: Tensor, sigma: Level) -> None:
        self.estimates.append(z0.detach())
        self.levels.append(float(sigma))

    def _weighed(self, d: Tensor, transposed: bool = False) -> Tensor:
        """`W d`, or `W' d`."""
        seen, open_ = (w.to(d) for w in (self.before.seen_weight, self.before.open_weight))
        if self.left_open is None:
            return seen * d
        if transposed:
            return seen * d + self.left_open((open_ - seen) * d)
        return seen * d + (open_ - seen) * self.left_open(d)

    def _target(self, z: Tensor, sigma: Level) -> Tensor | None:
        """What the frame before estimated in this call, along the motion; None where it did not."""
        number = len(self.estimates)
        if self.before is None or self.guidance.weight == 0 or number >= len(self.before.estimates):
            return None
        if isinstance(sigma, Tensor) and sigma.ndim or self.before.levels[number] != float(sigma):
            return None
        estimate = self.before.estimates[number].to(z)
        if estimate.shape != z.shape:
            raise AmbientSolveError(
                f"The frame before has estimates of shape {tuple(estimate.shape)}, this one {tuple(z.shape)}: guidance "
                "needs the same samples of each frame, drawn at once."
            )
        return follow_flow(estimate, self.before.flow.to(z.device))

    def _step(self, z: Tensor, sigma: Level, cond: Any, target: Tensor) -> Tensor:
        """`z` after the step of the rule 'gradient'."""
        z0, vjp = self.inner.denoise_vjp(z, sigma, cond, once=True)
        away = self._weighed(z0 - target)
        norm = away.flatten(1).norm(dim=1).clamp_min(1e-12).reshape(-1, 1, 1, 1)
        # No further than to where both agree: for an identity as denoiser a step of half the gradient is all of it.
        length = torch.minimum(2 * self.guidance.length * torch.ones_like(norm), norm)
        return z - length / norm * vjp(away)


def follow_flow(states: Tensor, flow: Tensor) -> Tensor:
    """What states show where a flow leads, by cubic interpolation, which blurs less than a linear one.

    Args:
        states: (N, C, H, W).
        flow: (2, H, W) in pixels.

    Returns:
        (N, C, H, W); beyond the frame, its edge.
    """
    height, width = flow.shape[1:]
    rows, columns = (torch.arange(n, device=flow.device, dtype=flow.dtype) for n in (height, width))
    places = flow + torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
    grid = torch.stack([2 * places[1] / max(width - 1, 1) - 1, 2 * places[0] / max(height - 1, 1) - 1], -1)
    grid = grid.to(states).expand(len(states), -1, -1, -1)
    return F.grid_sample(states, grid, mode="bicubic", padding_mode="border", align_corners=True)


def trust_of(before: Tensor, after: Tensor, motion: Motion, tolerance: float) -> Tensor:
    """How far a frame shows what the one before shows where a flow leads.

    Args:
        before: Picture that the flow was estimated from, (C, H, W).
        after: The next.
        motion: From one to the other.
        tolerance: Difference of the pictures at which the trust is exp(-1/2).

    Returns:
        (H, W), 0 to 1; 0 where the flow leads out of the frame, to what was hidden, or across a cut.
    """
    if motion.cut:
        return torch.zeros_like(after[0])
    away = (after - pull(before, motion.flow)).square().mean(0)
    trust = (-0.5 * away / tolerance**2).exp() * stays(motion.flow)
    return trust if motion.occluded is None else trust * ~motion.occluded


def measured_pixels(op: Physics, like: Tensor) -> Tensor:
    """The pixels of which an operator measures something, where `A'A 1` is not 0.

    Args:
        op: The operator.
        like: An image, (1, C, H, W).

    Returns:
        (H, W), 1 or 0; 1 everywhere where the operator is not linear.
    """
    if not isinstance(op, LinearPhysics):
        return torch.ones_like(like[0, 0])
    return (op.A_adjoint(op.A(torch.ones_like(like)))[0].abs().amax(0) > 1e-4).float()
