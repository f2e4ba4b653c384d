"""`Prior`: a diffusion prior, which is a denoiser and the range of noise levels in which it is good."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ambient_solve.errors import AmbientSolveError
from ambient_solve.noise import Level, Streams, per_sample
from ambient_solve.process import Additive, Process

Vjp = Callable[[Tensor], Tensor]
"""`v -> J' v`, `J` the Jacobian of the denoiser at the point where it was taken; `v` and the result are (B, *shape)."""


NO_WORDS = (
    "This prior takes no words: leave out the prompt, or load a latent pipeline with text encoders, such as Stable "
    "Diffusion."
)
"""What is said where a prior without text encoders is given a prompt or a concept."""


class Prior(nn.Module, abc.ABC):
    """A distribution over `z` that can be denoised at any level in `[sigma_min, sigma_max]`.

    Attributes:
        shape: Shape of one `z` without the batch axis; -1 stands for "any size" (a fully convolutional prior).
        sigma_min: Lowest noise level at which `denoise` is valid, in units of z.
        sigma_max: Highest noise level at which `denoise` is valid, in units of z.
        sigma_data: Typical standard deviation of one entry of `z0`.
        sigma_jacobian: Up to this level the Jacobian of `denoise` may be trusted as a covariance. Ten times
            `sigma_data` unless given, which suits networks; `math.inf` if it is exact.
        process: The forward process whose states `denoise` takes.
    """

    shape: tuple[int, ...]
    sigma_min: float
    sigma_max: float
    sigma_data: float = 0.5
    process: Process = Additive()

    @abc.abstractmethod
    def denoise(self, z: Tensor, sigma: Level, cond: Any = None) -> Tensor:
        """The posterior mean of the clean image, `E[z0 | z0 + sigma * n = z]`.

        Args:
            z: Noisy states, (B, *shape).
            sigma: Their level in `z` units, a float, () or (B,).
            cond: What the prior is conditioned on, such as a mask (B, mask_channels, *spatial); None for most priors.

        Returns:
            (B, *shape) float32.
        """

    def forward(self, z: Tensor, sigma: Level, cond: Any = None) -> Tensor:
        """See `denoise`: the same, under the name that torch's data-parallel wrappers call."""
        return self.denoise(z, sigma, cond)

    def denoise_vjp(self, z: Tensor, sigma: Level, cond: Any = None, *, once: bool = False) -> tuple[Tensor, Vjp]:
        """The denoised `z` and its vector-Jacobian product, good for any number of calls, or for one with `once`.

        With `once` the memory of the forward pass is given back while the backward pass goes through it.

        For an exact denoiser `sigma^2 J` is the posterior covariance `Cov[z0 | z]`, hence symmetric (Efron, 2011).

        Args:
            z: Noisy states, (B, *shape).
            sigma: Their level in `z` units, a float, () or (B,).
            cond: See `denoise`.
            once: Whether the product is taken once.

        Returns:
            The denoised states (B, *shape) float32, and `v -> J'v` for `v` of that shape.
        """
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            z0 = self.denoise(leaf, sigma, cond)

        def vjp(v: Tensor) -> Tensor:
            return torch.autograd.grad(z0, leaf, v, retain_graph=not once)[0]

        return z0.detach(), vjp

    def shown(self, z: Tensor, cond: Any = None) -> Tensor:
        """What `denoise` looks at of states.

        Args:
            z: States (B, *shape).
            cond: As for `denoise`.

        Returns:
            The shape of `z`; all of it, but for priors that hide a part from their network.
        """
        return z

    @property
    def sigma_jacobian(self) -> float:
        """See the class: ten times `sigma_data` unless given. A network learns `D`; its J fails first at high noise."""
        given = self.__dict__.get("_sigma_jacobian")
        return 10 * self.sigma_data if given is None else given

    @sigma_jacobian.setter
    def sigma_jacobian(self, level: float) -> None:
        """Trust the Jacobian up to another level."""
        self.__dict__["_sigma_jacobian"] = level

    @property
    def affine(self) -> tuple[float, float] | None:
        """`(a, b)` where `decode(z) = a * z + b`, or None where `decode` is not affine."""
        return 1.0, 0.0

    def decode(self, z: Tensor) -> Tensor:
        """From the prior's space to the operator's: `x = decode(z)`."""
        a, b = _affine(self)
        return a * z + b

    def encode(self, x: Tensor) -> Tensor:
        """From the operator's space to the prior's: the inverse of `decode`."""
        a, b = _affine(self)
        return (x - b) / a

    def noise(self, shape: tuple[int, ...], streams: Streams) -> Tensor:
        """Unit noise of the prior's own kind; white unless overridden.

        All diffusion noise of a run comes from here: that of its start, and the fresh noise of each step.

        Args:
            shape: Of the states, (B * S, *z_shape).
            streams: One stream per row.

        Returns:
            Noise of that shape, float32, on the device of the prior.
        """
        return streams.normal(torch.empty(shape, device=self.device, dtype=torch.float32))

    @property
    def white(self) -> bool:
        """Whether `noise` is white, independent in all entries."""
        return type(self).noise is Prior.noise

    def correlate(self, v: Tensor) -> Tensor:
        """`Q v`, Q the covariance of the unit noise of `noise`: `v` itself, for white noise.

        Args:
            v: (B, *shape).

        Returns:
            The shape of `v`.
        """
        return v

    def streams_of_run(self, streams: Streams) -> Streams:
        """The streams of a run, where the prior changes what they give, such as for a frame of a clip.

        Args:
            streams: One stream per row, at their beginning.

        Returns:
            Those that the run draws from; the same unless overridden.
        """
        return streams

    def begin(self, shape: tuple[int, ...], streams: Streams) -> None:
        """Start a run, once, when the noise of its start has been drawn.

        A prior that draws something for each run, such as masks, draws it here.

        Args:
            shape: Of the states, (B * S, *z_shape).
            streams: One stream per row.
        """

    def state_shape(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of one `z` whose image has `image_shape` (C, *spatial); raises where this prior cannot make such."""
        fits = len(image_shape) == len(self.shape) and all(
            want in (-1, have) for have, want in zip(image_shape, self.shape, strict=True)
        )
        if not fits:
            raise AmbientSolveError(
                f"The operator works on images of shape {image_shape}, the prior {type(self).__name__} makes "
                f"{tuple('any' if n == -1 else n for n in self.shape)}. "
                "Build the operator with the prior's img_size, or resize (or convert the channels of) the measurement."
            )
        return image_shape

    def memory(self, pixels: int, backward: bool) -> float | None:
        """Memory that one state takes in `denoise`.

        Args:
            pixels: Of the state, all axes of space together.
            backward: Whether a backward pass follows.

        Returns:
            Bytes; None where that is not known.
        """
        return None

    @property
    def picture_channels(self) -> int:
        """Channels of the pictures that `decode` makes."""
        return self.shape[0]

    @property
    def takes_words(self) -> bool:
        """Whether its condition is a prompt."""
        return False

    def check_condition(self, cond: Any) -> None:
        """Check a condition before the first network call, as far as that can be done without one.

        Args:
            cond: As `Solver.solve` is given it: one for all rows, or a list with one for each measurement.

        Raises:
            AmbientSolveError: it is words, and this prior takes none; or words that it cannot take.
        """
        each = cond if isinstance(cond, (list, tuple)) else [cond]
        if any(isinstance(c, str) or isinstance(getattr(c, "text", None), str) for c in each):
            raise AmbientSolveError(NO_WORDS)

    def passes(self, cond: Any = None) -> int:
        """Passes through the network that one call of `denoise` takes under a condition: 1, or 2 where it is guided."""
        return 1

    def takes_tiles(self, side: int) -> bool:
        """Whether larger pictures may be denoised in tiles of that side, in pixels."""
        return False

    @property
    def device(self) -> torch.device:
        """Where the prior's tensors live; states are made there."""
        return next((tensor.device for tensor in (*self.parameters(), *self.buffers())), torch.device("cpu"))

    def __repr__(self) -> str:
        """Two lines in place of the tree of its modules, which `print(prior.network)` shows; see `describe`."""
        return f"{type(self).__name__}{describe(self)}"


def _affine(prior: Prior) -> tuple[float, float]:
    if prior.affine is None:
        raise AmbientSolveError(f"{type(prior).__name__} has no affine decode: it writes decode and encode itself.")
    return prior.affine


def describe(prior: Prior) -> str:
    """What the repr of a prior says after its name: what is in it, shape, levels, units, size and place."""
    words, inner = "", getattr(prior, "inner", None)
    while isinstance(inner, Prior):
        words, inner = f"{words} of {type(inner).__name__}", getattr(inner, "inner", None)
    shape = getattr(prior, "shape", None)
    words += ": states " + ("?" if shape is None else " x ".join("any" if n == -1 else str(n) for n in shape))
    levels = [getattr(prior, name, None) for name in ("sigma_min", "sigma_max")]
    if None not in levels:
        words += f", noise levels {levels[0]:g} to {levels[1]:g}"
    if prior.affine is not None:
        a, b = prior.affine
        words += f", x = {a:g} z + {b:g}"
    kind = next((str(p.dtype).removeprefix("torch.") for p in [*prior.parameters(), *prior.buffers()]), "")
    number = sum(p.numel() for p in prior.parameters())
    return f"{words}\n{number:,} parameters{' in ' * bool(kind)}{kind}, on {prior.device}"


def require_complete(prior: Prior) -> None:
    """Raise `AmbientSolveError` unless a prior says its shape and its levels."""
    name = type(prior).__name__
    for what, example in (("shape", "(3, -1, -1)"), ("sigma_min", "0.01"), ("sigma_max", "80.0")):
        if not hasattr(prior, what):
            raise AmbientSolveError(
                f"{name} has no {what}. A Prior says its shape, without the batch axis and with -1 for any size, and "
                f"its noise levels sigma_min and sigma_max: write {what} = {example} in the class."
            )
    if not isinstance(prior.shape, (tuple, list)) or not all(hasattr(n, "__index__") for n in prior.shape):
        raise AmbientSolveError(f"{name}.shape is {prior.shape!r}; whole numbers such as (3, -1, -1) were expected.")
    low, high = prior.sigma_min, prior.sigma_max
    if not (0 < low < high and math.isfinite(high)):
        raise AmbientSolveError(f"{name}: 0 < sigma_min < sigma_max was expected, got {low} and {high}.")


def noise_like(prior: Prior, z: Tensor, streams: Streams) -> Tensor:
    """Unit diffusion noise of a prior, `prior.noise`, for states.

    Args:
        prior: Whose noise it is.
        z: The states, (B * S, *z_shape); the noise has their shape, dtype and device.
        streams: One stream per row.

    Returns:
        (B * S, *z_shape).
    """
    return prior.noise(tuple(z.shape), streams).to(z)


def start(prior: Prior, shape: tuple[int, ...], level: float, streams: Streams) -> Tensor:
    """Start a run: states of the terminal law of the prior's process.

    Args:
        prior: Any prior; what it draws for a run, it draws after this noise.
        shape: That of the states, (B * S, *z_shape).
        level: The highest level of the run, in units of z, > 0.
        streams: One stream for each row.

    Returns:
        States at `level`, of `shape`, float32 on the prior's device.
    """
    z = prior.process.terminal(level, prior.noise(shape, streams))
    prior.begin(shape, streams)
    return z


def reverse(
    prior: Prior, z: Tensor, z0: Tensor, sigma: float, sigma_next: float, fresh: float, streams: Streams
) -> Tensor:
    """Take a reverse step of the prior's process, with fresh noise of the prior's kind.

    Args:
        prior: Any prior.
        z: States at level `sigma`, (B * S, *z_shape).
        z0: Estimates of the clean states, the same shape.
        sigma: Level before the step, > 0.
        sigma_next: Level after it, 0 to `sigma`.
        fresh: Deviation of the fresh noise, 0 to `sigma_next`.
        streams: Where the noise comes from; none is drawn where `fresh` is 0.

    Returns:
        States at level `sigma_next`, the shape of `z`.
    """
    n = noise_like(prior, z, streams) if fresh > 0 else None
    return prior.process.reverse(z, z0, sigma, sigma_next, fresh, n)


def require_additive(prior: Prior, who: str) -> None:
    """Check that the noise of a prior is additive, `z0 + sigma n`.

    Args:
        prior: Whose noise is looked at.
        who: What needs it, for the error, such as "mmps".

    Raises:
        AmbientSolveError: the process is another one.
    """
    if not isinstance(prior.process, Additive):
        raise AmbientSolveError(
            f"{who} needs additive noise, z0 + sigma n, and the process of this {type(prior).__name__} is "
            f"{type(prior.process).__name__}; give a prior that was trained with additive noise."
        )


def covariance_of(prior: Prior, vjp: Vjp, sigma: float) -> Vjp:
    """The posterior covariance of clean states, `Cov[z0 | z] = sigma^2 J Q`, as a product.

    Args:
        prior: Whose noise has the covariance `sigma^2 Q`.
        vjp: `v -> J'v` at the states, of its `denoise_vjp`.
        sigma: Their level.

    Returns:
        `v -> sigma^2 Q J'v`, the same for a denoiser whose covariance is symmetric.
    """
    return lambda v: sigma**2 * prior.correlate(vjp(v))


def score(prior: Prior, z: Tensor, sigma: Level) -> Tensor:
    """The score of a prior, `grad log p_sigma(z) = (D(z) - z) / sigma^2` (Tweedie's formula).

    Args:
        prior: Any prior.
        z: States (B, *shape).
        sigma: Noise level of z, a float, () or (B,), above 0.

    Returns:
        The score, shape of z.
    """
    return (prior.denoise(z, sigma) - z) / per_sample(sigma, z) ** 2
