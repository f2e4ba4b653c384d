r"""Unconditional samples of a prior.

Order 2 is the deterministic sampler of EDM (Karras et al., 2022, arXiv 2206.00364, algorithm 1), Heun's method for
`dz / dsigma = (z - D(z; sigma)) / sigma`. Order 1 is the step of `ambient_solve.process`, which every forward process
has; `sampler` and `eta` are its settings. On additive noise `deterministic` is Euler's method for `eta = 0` (DDIM) and
DDPM for `eta = 1`; `momentum` and `naive` are those of Soft Diffusion (Daras et al., 2022, arXiv 2209.05442).

From an `AmbientPrior` these are not samples of the data's law, see there. Reconstruction guidance (Daras et al., 2023,
arXiv 2305.19256) descends, at each level, the squared difference between predictions under different masks:

    z <- step(z) - w grad_z mean_k |h(M z, M) - h(M_k z, M_k)|^2 / 2

It buys agreement with variety: means agree best. A weight that is too large diverges.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.knobs import check_knobs, knob
from ambient_solve.noise import Streams
from ambient_solve.priors.ambient import AmbientPrior
from ambient_solve.priors.base import Prior, noise_like, require_additive, reverse, start
from ambient_solve.priors.forwarded import as_prior
from ambient_solve.process import SAMPLERS, ancestral_noise, noise_shares
from ambient_solve.progress import progress_bar

if TYPE_CHECKING:
    from tqdm import tqdm


@final
@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The knobs of `generate`, checked."""

    steps: int = knob(40, 1, 10_000, "noise levels; order 2 calls the network twice at each but the last")
    order: int = knob(2, 1, 2, "2 is Heun's method, 1 is Euler's, or ancestral with eta")
    sampler: str = knob(
        "deterministic", help="the step of order 1: how much noise stays, how much is fresh", choices=SAMPLERS
    )
    eta: float = knob(0.0, 0.0, 1.0, "fresh noise of order 1: 1 is ancestral (DDPM), 0 deterministic (DDIM)")
    guidance: float = knob(0.0, 0.0, 1.0, "reconstruction guidance of a mask-conditioned prior; 0.1 is much")
    masks: int = knob(2, 2, 64, "masks that guidance compares, that of the run included")

    def __post_init__(self) -> None:
        check_knobs(self)
        if self.order == 2 and self.eta > 0:
            raise AmbientSolveError(f"eta={self.eta} was given with order=2, which is deterministic; add order=1.")
        if self.sampler != "deterministic" and (self.order == 2 or self.eta > 0):
            raise AmbientSolveError(
                f"sampler={self.sampler!r} was given with order={self.order} and eta={self.eta}; it is a step of "
                "order 1, whose fresh noise is its own: take order=1 and eta=0."
            )


@torch.inference_mode(False)
@torch.no_grad()
def generate(
    prior: Prior,
    n: int,
    *,
    size: int | tuple[int, int] | None = None,
    steps: int = Sampling.steps,
    order: int = Sampling.order,
    sampler: str = Sampling.sampler,
    eta: float = Sampling.eta,
    guidance: float = Sampling.guidance,
    masks: int = Sampling.masks,
    seed: int = 0,
    batch: int = 16,
    progress: bool | None = None,
    cond: Any = None,
) -> Tensor:
    """Draw `n` samples of `prior`; sample i depends on (seed, i) alone, not on `batch`.

    Args:
        prior: Any `Prior`, such as `load_prior("photos")`.
        n: Samples, 1 or more.
        size: (H, W) of the samples, or one number for both, where the prior takes any; otherwise it may be left out.
        steps: Noise levels, 1 or more; order 2 calls the network at each twice, but once at the last.
        order: 2 is Heun's method, for additive noise; 1 is Euler's, or ancestral with `eta`, for any forward process.
        sampler: The step of order 1: "deterministic", "momentum" or "naive", see `ambient_solve.process`.
        eta: Fresh noise of order 1, 0 to 1: 1 is ancestral (DDPM), 0 deterministic (DDIM).
        guidance: Weight of reconstruction guidance, 0 to 1, for an `AmbientPrior`; 0 is none.
        masks: Masks that guidance compares, 2 or more, that of the run included.
        seed: Whole number of 0 or more.
        batch: Samples that are drawn together, 1 or more; fewer need less memory.
        progress: Show a progress bar; None shows one in a terminal and in a notebook.
        cond: What every sample is conditioned on, such as a class; the prior says what it takes.

    Returns:
        (n, *z_shape) float32 in the prior's space: `prior.decode` makes images of them.

    Raises:
        AmbientSolveError: before the first network call, where the input does not fit.
    """
    prior = as_prior(prior)
    sampling = Sampling(steps=steps, order=order, sampler=sampler, eta=eta, guidance=guidance, masks=masks)
    shape = _check(prior, n, size, sampling, seed, batch)
    prior.check_condition(cond)
    drawn = []
    with progress_bar(None, "sample", show=progress, total=n * steps) as bar:
        for first in range(0, n, batch):
            rows = min(batch, n - first)
            streams = Streams([seed], rows, prior.device, first)
            drawn.append(_draw(prior, (rows, *shape), sampling, streams, bar, cond))
            _require_numbers(drawn[-1], prior)
    return torch.cat(drawn)


def _draw(prior: Prior, shape: tuple[int, ...], sampling: Sampling, streams: Streams, bar: tqdm, cond: Any) -> Tensor:
    """One batch, of `shape` (B, *z_shape)."""
    sigmas = prior.process.levels(sampling.steps, prior.sigma_min, prior.sigma_max)
    z = start(prior, shape, sigmas[0], streams)
    ambient = prior if isinstance(prior, AmbientPrior) else None
    others = [
        ambient.draw_masks(shape, streams) for _ in range(sampling.masks - 1) if ambient and sampling.guidance > 0
    ]
    for sigma, sigma_next in zip(sigmas, sigmas[1:], strict=False):
        # The gradient is taken only where it counts: it costs several times what a prediction does.
        if ambient and others:
            z0, gradient = ambient.disagreement(z, sigma, others)
        else:
            z0, gradient = prior.denoise(z, sigma, cond), None
        moved = _step(prior, z, z0, sigma, sigma_next, sampling, streams)
        if sampling.order == 2 and sigma_next > 0:
            slope = (z - z0) / sigma
            slope_next = (moved - prior.denoise(moved, sigma_next, cond)) / sigma_next
            moved = z + (sigma_next - sigma) * (slope + slope_next) / 2
        z = moved if gradient is None else moved - sampling.guidance * gradient
        bar.update(len(z))
    return z


def _step(
    prior: Prior, z: Tensor, z0: Tensor, level: float, level_next: float, sampling: Sampling, streams: Streams
) -> Tensor:
    """The step of order 1, from `level` to `level_next`."""
    s, s_next = prior.process.deviations(level, level_next)
    if sampling.sampler == "deterministic":
        fresh = ancestral_noise(s, s_next, sampling.eta) if sampling.eta > 0 else 0.0
        return reverse(prior, z, z0, level, level_next, fresh, streams)
    kept, fresh = noise_shares(sampling.sampler, s, s_next)
    n = noise_like(prior, z, streams) if fresh > 0 else None
    return prior.process.reverse(z, z0, level, level_next, fresh, n, kept)


def _require_numbers(z: Tensor, prior: Prior) -> None:
    if not bool(z.isfinite().all()):
        raise AmbientSolveError(
            f"The samples are NaN or infinite: {type(prior).__name__} gave such numbers, or guidance diverged. Check "
            "its weights, and take less guidance."
        )


def _check(
    prior: Prior, n: int, size: int | tuple[int, int] | None, sampling: Sampling, seed: int, batch: int
) -> tuple[int, ...]:
    """The shape of one sample, or an `AmbientSolveError`."""
    if sampling.order == 2 or sampling.guidance > 0:
        require_additive(prior, "generate, unless order=1 and guidance=0,")
    for name, value, least in (("n", n, 1), ("batch", batch, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise AmbientSolveError(f"{name}={value!r} was given, a whole number of at least {least} was expected.")
    ambient = prior if isinstance(prior, AmbientPrior) else None
    for given in (ambient.mask, ambient.maps) if ambient else ():
        if given is not None and len(given) > 1:
            raise AmbientSolveError(
                f"The prior holds {len(given)} masks or maps, one for each measurement; give with_mask a single one."
            )
    if sampling.guidance > 0 and not (ambient and ambient.maps is None and ambient.keep_probability):
        raise AmbientSolveError(
            f"guidance={sampling.guidance} compares predictions under random masks of pixels; this "
            f"{type(prior).__name__} is given none, leave guidance out."
        )
    sides = () if size is None else (size, size) if isinstance(size, int) else tuple(size)
    if any(isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in sides):
        raise AmbientSolveError(f"size={size!r} was given, a side or (height, width) of at least 1 was expected.")
    shape = (*prior.shape[: -len(sides)], *sides) if sides else tuple(prior.shape)
    if -1 in shape:
        raise AmbientSolveError("This prior makes samples of any size; give one, such as size=64 or size=(48, 64).")
    if len(shape) != len(prior.shape) or any(
        want not in (-1, have) for want, have in zip(prior.shape, shape, strict=True)
    ):
        raise AmbientSolveError(
            f"size={size!r} was given, but this prior makes samples of shape {tuple(prior.shape)} only; leave size out."
        )
    return shape
