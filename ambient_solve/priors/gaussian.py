r"""Gaussians and Gaussian mixtures: exact denoiser, Jacobian, sampler and posterior. The measuring stick.

With components `N(m_k, C_k)`, weights `w_k`, and `u_k = sigma^2 (C_k + sigma^2 I)^-1 (m_k - z)`, all is linear algebra:

    r_k          softmax over k of  log w_k + log N(z; m_k, C_k + sigma^2 I)
    D(z)       = z + sum_k r_k u_k                                                 (Tweedie; Efron, 2011, equation 1.4)
    J v        = sum_k r_k C_k (C_k + sigma^2 I)^-1 v + sum_k r_k (u_k'v - u'v) u_k / sigma^2,      u = sum_k r_k u_k

`sigma^2 J = Cov[z0 | z]` is symmetric. Writing `D` as a move away from `z` keeps it accurate at every level.
The posterior under `y = A x + N(0, sigma_y^2 I)` is again a Gaussian (mixture), so it is returned as a prior of the
same class: it can be sampled, denoised and measured like any other. The algebra is float64 whatever the input's dtype.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ambient_solve.errors import AmbientSolveError
from ambient_solve.noise import Level
from ambient_solve.priors.base import Prior, Vjp
from ambient_solve.priors.components import Isotropic, Spectral

if TYPE_CHECKING:
    from typing_extensions import Self  # of torch's own requirements; in typing from Python 3.11 on


def _f64(values: Any) -> Tensor:
    return torch.as_tensor(values).to(torch.float64)


class ExactPrior(Prior):
    """What `GaussianPrior` and `MixturePrior` share: K components, log weights, `decode(z) = scale * z + offset`.

    The default noise range and `sigma_data` follow EDM: `sigma_data` is the root of the mean variance of an entry (the
    the variance of the component means included), the range .004 to 160 of them (.002 to 80 where `sigma_data` is .5).
    """

    sigma_jacobian = math.inf
    log_weights: Tensor
    components: Isotropic | Spectral

    @abc.abstractmethod
    def __init__(
        self,
        log_weights: Tensor,
        components: Isotropic | Spectral,
        shape: tuple[int, ...],
        affine: tuple,
        levels: tuple,
    ) -> None:
        super().__init__()
        self.register_buffer("log_weights", log_weights.log_softmax(0))
        self.components, self.shape, (self.scale, self.offset) = components, tuple(shape), affine
        sigma_min, sigma_max, sigma_data = levels  # None stands for the default
        self.sigma_data = sigma_data or math.sqrt(self.variance.mean())
        self.sigma_min = sigma_min or 0.004 * self.sigma_data
        self.sigma_max = sigma_max or 160 * self.sigma_data

    def _like(self, log_weights: Tensor, components: Isotropic | Spectral) -> Self:
        """The same space, noise range and units with other components."""
        new, levels = type(self).__new__(type(self)), (self.sigma_min, self.sigma_max, None)
        ExactPrior.__init__(new, log_weights, components, self.shape, self.affine, levels)
        return new

    @property
    def affine(self) -> tuple[float, float]:
        """`decode(z) = scale * z + offset`."""
        return self.scale, self.offset

    @property
    def weights(self) -> Tensor:
        """(K,) float64."""
        return self.log_weights.exp()

    @property
    def mean(self) -> Tensor:
        """Mean of z0, (*shape) float64."""
        return (self.weights @ self.components.means).reshape(self.shape)

    @property
    def variance(self) -> Tensor:
        """Variance of each entry of z0, (*shape) float64."""
        offsets = self.components.means - self.mean.flatten()
        return (self.weights @ (self.components.diagonal() + offsets**2)).reshape(self.shape)

    @property
    def covariance(self) -> Tensor:
        """Covariance of z0, (d, d) float64."""
        offsets = self.components.means - self.mean.flatten()
        within = self.components.times(torch.eye(offsets.shape[1]).to(offsets))
        return torch.einsum("k,kde->de", self.weights, within) + (self.weights[:, None] * offsets).T @ offsets

    def _flat(self, z: Tensor, sigma: Level) -> tuple[Tensor, Tensor]:
        """`z` as (B, d) and the squared level as (B or 1, 1), in the dtype of the buffers."""
        like = self.log_weights
        if not isinstance(sigma, Tensor):
            sigma = torch.full((), sigma, dtype=like.dtype, device=like.device)  # a fill, not a copy: no device sync
        return z.reshape(len(z), -1).to(like), sigma.to(like).reshape(-1, 1) ** 2

    @staticmethod
    def _as(flat: Tensor, z: Tensor) -> Tensor:
        return flat.reshape(z.shape).to(torch.promote_types(z.dtype, torch.float32))

    def _responsibilities(self, residual: Tensor, s2: Tensor) -> Tensor:
        if len(self.log_weights) == 1:
            return residual.new_ones(len(residual), 1)
        return (self.log_weights + self.components.log_normal(residual, s2)).softmax(1)

    def denoise(self, z: Tensor, sigma: Level, cond: Any = None) -> Tensor:
        """See `Prior.denoise`: `E[z0 | z]` exactly; float32, or float64 for float64 `z`."""
        flat, s2 = self._flat(z, sigma)
        residual = self.components.residual(flat)
        return self._as(flat + self.components.pull(residual, s2, self._responsibilities(residual, s2)), z)

    def denoise_vjp(self, z: Tensor, sigma: Level, cond: Any = None, *, once: bool = False) -> tuple[Tensor, Vjp]:
        """See `Prior.denoise_vjp`: `v -> J v` in closed form, the second and third lines of the module's formulas."""
        flat, s2 = self._flat(z.detach(), sigma)
        residual = self.components.residual(flat)
        r = self._responsibilities(residual, s2)
        z0 = flat + self.components.pull(residual, s2, r)

        def vjp(v: Tensor) -> Tensor:
            w = v.reshape(len(v), -1).to(flat)
            out = self.components.shrink(s2, r, w)
            if len(self.log_weights) > 1:
                dots = self.components.dots(residual, s2, w)
                centered = r * (dots - (r * dots).sum(1, keepdim=True))
                out = out + self.components.pull(residual, s2, centered) / s2
            return self._as(out, v)

        return self._as(z0, z), vjp

    def log_prob(self, z: Tensor, sigma: Level = 0.0) -> Tensor:
        """`log p_sigma(z)`, the density of `z0 + sigma n`; its gradient is the score.

        Args:
            z: States (B, *shape).
            sigma: Noise level in z units, 0 or more, () or (B,).

        Returns:
            (B,) float64.
        """
        flat, s2 = self._flat(z, sigma)
        return (self.log_weights + self.components.log_normal(self.components.residual(flat), s2)).logsumexp(1)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Independent draws of z0.

        Args:
            n: How many.
            generator: Draws on its own device: the draws are the same on any device of the prior.

        Returns:
            (n, *shape) float32.
        """
        weights = self.weights.to(generator.device)
        index = weights.multinomial(n, replacement=True, generator=generator).to(self.device)
        unit = weights.new_empty(n, self.components.means.shape[1]).normal_(generator=generator)
        return self.components.sample(index, unit.to(self.device)).reshape(n, *self.shape).float()

    def posterior(self, A: Tensor, y: Tensor, sigma_y: float) -> Self:
        """The exact law of z0 given `y = A decode(z0) + N(0, sigma_y^2 I)`, as a prior of the same class and units.

        With `G_k = A C_k A' + sigma_y^2 I`: weights `w_k N(y; A m_k, G_k)`, means `m_k + C_k A' G_k^-1 (y - A m_k)`,
        covariances `C_k - C_k A' G_k^-1 A C_k`. Only m x m systems are solved.

        Args:
            A: (m, d), acts on images; see `dense`.
            y: One measurement of m numbers, in any shape.
            sigma_y: Standard deviation of its noise, above 0.

        Returns:
            The posterior.

        Raises:
            AmbientSolveError: these do not fit each other or the prior.
        """
        like, d = self.log_weights, self.components.means.shape[1]
        if A.ndim != 2 or A.shape[1] != d or y.numel() != len(A) or not sigma_y > 0:
            got = f"got {tuple(A.shape)}, {tuple(y.shape)} and {sigma_y}."
            raise AmbientSolveError(f"posterior needs A (m, {d}), one y of m entries and sigma_y > 0, {got}")
        y = y.flatten().to(like) - self.offset * A.to(like).sum(1)
        A = self.scale * A.to(like)
        means, seen = self.components.means, self.components.times(A)  # A C_k, (K, m, d)
        root = torch.linalg.cholesky(seen @ A.T + sigma_y**2 * torch.eye(len(A)).to(A))
        white = torch.linalg.solve_triangular(root, (y - means @ A.T)[..., None], upper=False)
        seen = torch.linalg.solve_triangular(root, seen, upper=False)
        log_evidence = -0.5 * (white**2).sum((1, 2)) - root.diagonal(dim1=1, dim2=2).log().sum(1)
        means = means + (seen.mT @ white)[..., 0]
        components = self.components.conditioned(means, A, sigma_y**2, seen)
        return self._like(self.log_weights + log_evidence, components)


class GaussianPrior(ExactPrior):
    """A Gaussian prior `z0 ~ N(mean, covariance)`, whose denoiser, samples and posterior are exact.

    Args:
        mean: (*shape), d numbers.
        covariance: (d, d), symmetric, positive semi-definite.
        scale: `x = scale * z + offset` takes z to images.
        offset: See `scale`.
        sigma_min: Lowest noise level in units of z; .004 `sigma_data` by default.
        sigma_max: Highest noise level in units of z; 160 `sigma_data` by default.
        sigma_data: Standard deviation of one entry; that of the Gaussian by default.

    Raises:
        AmbientSolveError: mean and covariance do not fit each other.
    """

    def __init__(
        self,
        mean: Tensor,
        covariance: Tensor,
        *,
        scale: float = 1.0,
        offset: float = 0.0,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        sigma_data: float | None = None,
    ) -> None:
        mean = _f64(mean)
        if tuple(covariance.shape) != (mean.numel(),) * 2:
            raise AmbientSolveError(f"A mean of shape {tuple(mean.shape)} has no covariance {tuple(covariance.shape)}.")
        components = Spectral.dense(mean.reshape(1, -1), _f64(covariance)[None])
        one, levels = mean.new_zeros(1), (sigma_min, sigma_max, sigma_data)
        super().__init__(one, components, mean.shape, (scale, offset), levels)

    @classmethod
    def stationary(cls, mean: Tensor, spectrum: Tensor, *, scale: float = 1.0, offset: float = 0.0) -> Self:
        """A texture: covariance diagonal in the 2-D Fourier basis of the last two axes, at the cost of an FFT.

        Args:
            mean: (*shape), at least (H, W).
            spectrum: `E|F(z0 - mean)|^2` for the orthonormal F, in `fft2` order; (H, W) or the shape of `mean`. A real
                texture has an even one, `spectrum[f] = spectrum[-f]`.
            scale: As in the constructor.
            offset: As in the constructor.

        Returns:
            The prior.

        Raises:
            AmbientSolveError: the spectrum is negative somewhere, or not even.
        """
        mean, spectrum = _f64(mean), _f64(spectrum).expand(mean.shape)
        mirrored = spectrum.flip(-2, -1).roll((1, 1), (-2, -1))
        if (spectrum < 0).any() or (spectrum - mirrored).abs().max() > 1e-5 * spectrum.max():
            raise AmbientSolveError("A spectrum is non-negative and even: spectrum[f] == spectrum[-f], fft2 order.")
        spectrum = ((spectrum + mirrored) / 2).reshape(1, -1)
        components = Spectral(mean.reshape(1, -1), spectrum, None, tuple(mean.shape))
        new = cls.__new__(cls)
        ExactPrior.__init__(new, mean.new_zeros(1), components, mean.shape, (scale, offset), (None, None, None))
        return new

    def posterior_circulant(self, transfer: Tensor, y: Tensor, sigma_y: float) -> Self:
        """The posterior given `y = ifft2(transfer * fft2(x)) + N(0, sigma_y^2 I)`, stationary again.

        Args:
            transfer: Complex, broadcasts to (*shape): `fft2(op.A(delta))`, delta 1 at [0, 0].
            y: One measurement, with as many entries as an image.
            sigma_y: Standard deviation of its noise, above 0.

        Returns:
            The posterior.

        Raises:
            AmbientSolveError: this prior is not stationary.
        """
        if self.components.columns is not None:
            raise AmbientSolveError("Not a stationary prior. Use posterior(dense(op, shape), y, sigma_y).")
        like, mean, noise2 = self.log_weights, self.mean, sigma_y**2
        transfer = transfer.to(like.device, torch.complex128).expand(self.shape)
        power = (self.scale * transfer).abs() ** 2
        spectrum = self.components.eigenvalues.reshape(self.shape)
        x = self.scale * mean + self.offset
        residual = torch.fft.fft2(y.reshape(self.shape).to(like)) - transfer * torch.fft.fft2(x)
        gain = spectrum * self.scale * transfer.conj() / (spectrum * power + noise2)
        mean = mean + torch.fft.ifft2(gain * residual).real
        spectrum = spectrum * noise2 / (spectrum * power + noise2)
        return self._like(like, Spectral(mean.reshape(1, -1), spectrum.reshape(1, -1), None, self.shape))


class MixturePrior(ExactPrior):
    """A mixture of K Gaussians, `z0 ~ sum_k weights[k] N(means[k], C_k)`, of which all is exact, too.

    Args:
        weights: (K,), positive; only their ratios count.
        means: (K, *shape), d numbers each.
        covariances: (K, d, d), or (K,) variances of isotropic components.
        scale: As for `GaussianPrior`; so are the other settings.
    """

    def __init__(
        self,
        weights: Tensor,
        means: Tensor,
        covariances: Tensor,
        *,
        scale: float = 1.0,
        offset: float = 0.0,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        sigma_data: float | None = None,
    ) -> None:
        weights, means, covariances = _f64(weights), _f64(means), _f64(covariances)
        shape, means = means.shape[1:], means.flatten(1)
        k, d = means.shape
        if weights.shape != (k,) or covariances.shape not in ((k,), (k, d, d)):
            raise AmbientSolveError(f"Means ({k}, {d}) need weights ({k},), covariances ({k},) or ({k}, {d}, {d}).")
        components = (Isotropic if covariances.ndim == 1 else Spectral.dense)(means, covariances)
        super().__init__(weights.log(), components, shape, (scale, offset), (sigma_min, sigma_max, sigma_data))

    @classmethod
    def ring(cls, modes: int = 8, radius: float = 1.0, std: float = 0.05) -> Self:
        """Equal modes on a circle in the plane.

        Args:
            modes: How many, 1 or more.
            radius: Radius of the circle, in `z` units.
            std: Standard deviation of each mode, > 0.

        Returns:
            A prior of shape (2,).
        """
        angle = 2 * math.pi * torch.arange(modes, dtype=torch.float64) / modes
        return cls(torch.ones(modes), radius * torch.stack([angle.cos(), angle.sin()], 1), std**2 + 0 * angle)

    @classmethod
    def mcgdiff(cls, d: int, generator: torch.Generator, *, sigma_min: float = 0.02) -> Self:
        """The prior of the protocol of Cardoso et al. (2023, arXiv 2308.07983, section 4).

        It has 25 unit components of means (8i, 8j, ..., 8i, 8j) for i, j in -2..2; their weights are chi-square numbers
        of one degree of freedom, normalized. The largest level is ten times the distance `8 sqrt(d / 2)` of
        neighboring modes: at the usual 160 the modes of d = 800 are apart before a sampler starts.

        Args:
            d: Dimension, even.
            generator: Where the weights come from.
            sigma_min: Least noise level, in `z` units.

        Returns:
            A prior of shape (d,).
        """
        sigma_max = 80 * math.sqrt(d / 2)
        grid = 8 * torch.cartesian_prod(torch.arange(-2.0, 3), torch.arange(-2.0, 3))
        weights = torch.randn(25, generator=generator) ** 2
        return cls(weights, grid.repeat(1, d // 2), torch.ones(25), sigma_min=sigma_min, sigma_max=sigma_max)


def dense(operator: Callable[[Tensor], Tensor] | nn.Module, shape: tuple[int, ...], chunk: int = 256) -> Tensor:
    """The matrix of a linear map, as `posterior` takes it.

    Args:
        operator: A deepinv physics on the CPU, whose noiseless `A` is used, or any linear callable on (B, *shape)
            float32.
        shape: Shape of one image, d numbers.
        chunk: Columns that are computed together.

    Returns:
        (m, d) float64.
    """
    apply, identity = getattr(operator, "A", operator), torch.eye(math.prod(shape)).reshape(-1, *shape)
    with torch.no_grad():
        columns = torch.cat([apply(part).flatten(1) for part in identity.split(chunk)])
    return columns.double().T
