r"""What a diffusers network is given for an EDM state, and how its output becomes the denoised state.

`z = z0 + sigma n` is scaled to the network's own state x, `sigma` becomes its time t, and its output F the estimate D:

    DDPM      x = sqrt(abar) z,  abar = 1 / (1 + sigma^2)           (Ho et al., 2020, arXiv 2006.11239)
      epsilon       D = z - sigma F
      sample        D = F
      v_prediction  D = sqrt(abar) x - sqrt(1 - abar) F             (Salimans and Ho, 2022, arXiv 2202.00512)
    flow      x = z / (1 + sigma),  D = x - s F,  s = sigma / (1 + sigma),  F = n - z0
                                                                    (Lipman et al., 2023, arXiv 2210.02747)
    EDM       x = z / sqrt(sigma^2 + c^2),  t = ln(sigma) / 4,  c = sigma_data
              D = c^2 / (sigma^2 + c^2) z +- sigma c / sqrt(sigma^2 + c^2) F    + for epsilon, - for v_prediction
                                                                    (Karras et al., 2022, arXiv 2206.00364)
    VE        x = z,  t = sigma,  D = z + sigma^2 F, F the score    (Song et al., 2021, arXiv 2011.13456)
    song-vp   x = z / sqrt(1 + sigma^2),  D = z - sigma F,
              t = 999 u,  ln(1 + sigma^2) = b u + d u^2 / 2,  b = 0.1,  d = 19.9
    song-ve   x = z,  t = ln(sigma / 2),  D = z + sigma F           (both: Karras et al., 2022, table 1)
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np
import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError, reason, suggestion
from ambient_solve.priors.foreign import checked_scheduler

PREDICTIONS = ("epsilon", "sample", "v_prediction", "flow_prediction")
"""What diffusers calls what a network predicts."""
SONG = ("song-vp", "song-ve")
"""The processes of Song et al. under the preconditioning of their own, which are no schedulers of diffusers."""
SLOWEST = 0.1
"""How fast the variance-preserving process adds noise at its beginning, b above."""
RISE = 19.9
"""How much faster it does so at its end, d above."""
LAST_TIME = 999.0
"""What a network is given as its last time."""
SAMPLE_UNITS = (0.5, 0.5)
"""`(a, b)` of `x = a z + b` where the network's pictures are in [-1, 1]."""


class Parameterization(abc.ABC):
    """How a network of a certain kind is called.

    Attributes:
        prediction: What the network predicts, one of `PREDICTIONS` or "score".
        levels: The levels that the network knows, rising, in units of z; for a continuous time the two ends.
        times: The network's time of each, or None where it follows from the level in closed form.
        affine: `(a, b)` of the picture `a z + b` in [0, 1].
        sigma_data: Standard deviation of one entry of the data, in units of z.
        steps: T, where the network's time goes from 0 to T; 0 where it is continuous in ln(sigma).
    """

    prediction: str
    levels: np.ndarray
    times: np.ndarray | None = None
    steps: int = 0
    affine: ClassVar[tuple[float, float]] = SAMPLE_UNITS
    sigma_data: float = 0.5

    def state(self, z: Tensor, s: Tensor) -> Tensor:
        """What the network is given.

        Args:
            z: States, (B, *shape).
            s: Their level, (B, 1, ..., 1).

        Returns:
            The shape of `z`.
        """
        return z

    def time(self, sigma: Tensor) -> Tensor:
        """The network's time of level `sigma` (B,), where `times` is None."""
        return sigma.log() / 4

    def share(self, sigma: np.ndarray) -> np.ndarray:
        """How far along the network's time levels lie: `t / T`, or the share of ln(sigma) where there is no T.

        Args:
            sigma: Levels above 0, (B,); what lies beyond those that the network knows counts as the nearest.

        Returns:
            Shares in [0, 1], (B,).
        """
        at, grid = np.log(np.asarray(sigma, dtype=float)), np.log(self.levels)
        if not self.steps:
            return np.interp(at, grid[[0, -1]], [0.0, 1.0])
        if self.times is None:
            return self.time(torch.from_numpy(np.exp(at))).numpy() / self.steps
        return np.interp(at, grid, self.times) / self.steps

    def level(self, share: np.ndarray) -> np.ndarray:
        """The levels at shares of the network's time, `share` the other way round; a schedule has whole times alone.

        Args:
            share: In [0, 1), (B,).

        Returns:
            Levels that the network knows, (B,).
        """
        share = np.asarray(share, dtype=float)
        if not self.steps:
            return np.exp(np.interp(share, [0.0, 1.0], np.log(self.levels[[0, -1]])))
        if self.times is None:
            found = share.clip(1 / self.steps, 1 - 1 / self.steps)
            return found / (1 - found)
        return self.levels[np.floor(share * self.steps).astype(int).clip(0, len(self.levels) - 1)]

    @abc.abstractmethod
    def denoised(self, z: Tensor, s: Tensor, x: Tensor, out: Tensor) -> Tensor:
        """The denoised state.

        Args:
            z: States at level `s`, (B, *shape).
            s: The level, (B, 1, ..., 1).
            x: What `state` made of them.
            out: The network's output, shape of `z`.

        Returns:
            The estimate of the clean state, shape of `z`.
        """


@final
@dataclass(frozen=True, eq=False)
class Preserving(Parameterization):
    """The variance-preserving states of DDPM; `times` is None where the network is given ln(sigma) / 4."""

    prediction: str
    levels: np.ndarray
    times: np.ndarray | None
    steps: int = 0

    def state(self, z: Tensor, s: Tensor) -> Tensor:
        """See `Parameterization.state`."""
        return z * (1 + s**2).rsqrt()

    def denoised(self, z: Tensor, s: Tensor, x: Tensor, out: Tensor) -> Tensor:
        """See `Parameterization.denoised`."""
        if self.prediction == "epsilon":
            return z - s * out
        return out if self.prediction == "sample" else (x - s * out) * (1 + s**2).rsqrt()


@final
@dataclass(frozen=True, eq=False)
class Flow(Parameterization):
    """Flow matching along straight lines."""

    levels: np.ndarray
    steps: int
    prediction: str = "flow_prediction"

    def time(self, sigma: Tensor) -> Tensor:
        """See `Parameterization.time`."""
        return (self.steps * sigma / (1 + sigma)).clamp(1, self.steps - 1)

    def state(self, z: Tensor, s: Tensor) -> Tensor:
        """See `Parameterization.state`."""
        return z / (1 + s)

    def denoised(self, z: Tensor, s: Tensor, x: Tensor, out: Tensor) -> Tensor:
        """See `Parameterization.denoised`."""
        return x - s / (1 + s) * out


@final
@dataclass(frozen=True, eq=False)
class Preconditioned(Parameterization):
    """The preconditioning of EDM."""

    prediction: str
    levels: np.ndarray
    sigma_data: float

    def state(self, z: Tensor, s: Tensor) -> Tensor:
        """See `Parameterization.state`."""
        return z * (s**2 + self.sigma_data**2).rsqrt()

    def denoised(self, z: Tensor, s: Tensor, x: Tensor, out: Tensor) -> Tensor:
        """See `Parameterization.denoised`."""
        total, sign = s**2 + self.sigma_data**2, 1 if self.prediction == "epsilon" else -1
        return self.sigma_data**2 / total * z + sign * s * self.sigma_data * total.rsqrt() * out


@final
@dataclass(frozen=True, eq=False)
class Exploding(Parameterization):
    """The score of variance-exploding states, of pictures in [0, 1]."""

    levels: np.ndarray
    prediction: str = "score"
    sigma_data: float = 0.25
    affine: ClassVar[tuple[float, float]] = (1.0, 0.0)

    def time(self, sigma: Tensor) -> Tensor:
        """See `Parameterization.time`."""
        return sigma

    def denoised(self, z: Tensor, s: Tensor, x: Tensor, out: Tensor) -> Tensor:
        """See `Parameterization.denoised`."""
        return z + s**2 * out


@final
@dataclass(frozen=True, eq=False)
class SongPreserving(Parameterization):
    """The variance-preserving process of Song et al. at continuous times, of pictures in [-1, 1]."""

    levels: np.ndarray
    prediction: str = "epsilon"

    def state(self, z: Tensor, s: Tensor) -> Tensor:
        """See `Parameterization.state`."""
        return z * (1 + s**2).rsqrt()

    def time(self, sigma: Tensor) -> Tensor:
        """See `Parameterization.time`."""
        u = ((SLOWEST**2 + 2 * RISE * sigma.double().square().log1p()).sqrt() - SLOWEST) / RISE
        return (LAST_TIME * u).to(sigma.dtype)

    def denoised(self, z: Tensor, s: Tensor, x: Tensor, out: Tensor) -> Tensor:
        """See `Parameterization.denoised`."""
        return z - s * out


@final
@dataclass(frozen=True, eq=False)
class SongExploding(Parameterization):
    """The score of variance-exploding states times their level, of pictures in [-1, 1]."""

    levels: np.ndarray
    prediction: str = "score"

    def time(self, sigma: Tensor) -> Tensor:
        """See `Parameterization.time`."""
        return (sigma / 2).log()

    def denoised(self, z: Tensor, s: Tensor, x: Tensor, out: Tensor) -> Tensor:
        """See `Parameterization.denoised`."""
        return z + s * out


def parameterization(scheduler: Mapping[str, Any]) -> Parameterization:
    """How the network that was trained with a diffusers scheduler is called.

    Args:
        scheduler: The scheduler's configuration.

    Raises:
        AmbientSolveError: an unknown scheduler or prediction, or a schedule that adds no noise.
    """
    config = checked_scheduler(dict(scheduler), "The scheduler")
    name = config.get("_class_name", "")
    if name in SONG:
        return (SongPreserving if name == "song-vp" else SongExploding)(_ends(config, name))
    made = _made(config)
    full = {**getattr(made, "config", {}), **config}
    prediction = full.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        raise AmbientSolveError(
            f"{name}: prediction_type = {prediction[:60]!r} is not a choice. {suggestion(prediction, PREDICTIONS)}"
        )
    if name.startswith("FlowMatch") or prediction == "flow_prediction":
        # A network trained at s = t / steps; `shift` only moves a sampler's steps.
        steps = full.get("num_train_timesteps", 1000)
        s = np.array([1, steps - 1]) / steps
        return Flow(s / (1 - s), steps)
    if name.startswith("EDM"):
        if prediction not in ("epsilon", "v_prediction"):
            raise AmbientSolveError(f"{name}: prediction_type = {prediction!r}; epsilon or v_prediction was expected.")
        return Preconditioned(prediction, _ends(full, name), float(_positive(full, "sigma_data", name)))
    if name == "ScoreSdeVeScheduler":
        return Exploding(_ends(full, name))
    if not hasattr(made, "alphas_cumprod"):
        raise AmbientSolveError(
            f"The scheduler {name!r} is unknown; diffusers' FlowMatch, EDM and VE schedulers are read, and those with "
            "alphas_cumprod."
        )
    return _preserving(made, full, name, prediction)


def _made(config: dict[str, Any]) -> Any:
    """The scheduler itself, or None where the name is none of diffusers'."""
    import diffusers

    name = config.get("_class_name", "")
    kind = getattr(diffusers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)):
        return None
    try:
        return kind.from_config(config)
    except Exception as error:  # noqa: BLE001 - diffusers raises whatever its arithmetic raises
        raise AmbientSolveError(f"The scheduler {name!r} cannot be made ({reason(error)}).") from None


def _preserving(made: Any, config: dict[str, Any], name: str, prediction: str) -> Preserving:
    bar = made.alphas_cumprod.double().numpy()
    bar = bar[bar > 1e-8]  # a schedule with no signal left at its end has no finite level there
    if len(bar) < 2 or not (np.isfinite(bar) & (bar < 1)).all() or (np.diff(bar) >= 0).any():
        raise AmbientSolveError(
            f"The scheduler {name!r} does not add noise step by step: its alphas_cumprod must fall."
        )
    levels = np.sqrt((1 - bar) / bar)
    if config.get("timestep_type") == "continuous" and prediction == "v_prediction":
        given = config.get("sigma_min") is not None and config.get("sigma_max") is not None
        return Preserving(prediction, _ends(config, name) if given else levels[[0, -1]], None)
    return Preserving(prediction, levels, np.arange(float(len(levels))), len(made.alphas_cumprod))


def _ends(config: dict[str, Any], name: str) -> np.ndarray:
    low, high = (_positive(config, key, name) for key in ("sigma_min", "sigma_max"))
    if low >= high:
        raise AmbientSolveError(f"{name}: sigma_min = {low} must be below sigma_max = {high}.")
    return np.array([low, high], dtype=float)


def _positive(config: dict[str, Any], key: str, name: str) -> float:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise AmbientSolveError(f"{name}: {key} = {str(value)[:60]}; a number above 0 was expected.")
    return float(value)


def interpolated(grid: Tensor, times: Tensor, sigma: Tensor) -> Tensor:
    """The network's time of a level, interpolated in ln sigma.

    Args:
        grid: ln of the levels, rising, (T,).
        times: The time of each, (T,).
        sigma: Levels, (B,).

    Returns:
        Times, (B,), inside the range of `times`.
    """
    at = sigma.log()
    i = torch.searchsorted(grid, at).clamp(1, len(grid) - 1)
    share = ((at - grid[i - 1]) / (grid[i] - grid[i - 1])).clamp(0, 1)
    return times[i - 1] + share * (times[i] - times[i - 1])
