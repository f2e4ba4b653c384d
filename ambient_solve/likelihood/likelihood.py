r"""A measurement `y` of a deepinv operator, seen from the prior's space: the two primitives every sampler is made of.

With `decode(z) = a z + b` and a linear operator `A`, the measurement `y = A(a z + b) + sigma_y e`, divided by `a`, is

    y_z = A z + sigma e,      y_z = (y - A b) / a,      sigma = sigma_y / a,

the only form used below ("z units"; `A` itself is not scaled). Rows are image-major: row `b * S + s` is sample `s` of
image `b`, `N = B * S`. The primitives are

    P1  prox, draw    N(z; v, q^2 I) N(y_z; A z, sigma^2 I), normalised: its mean, and a sample of it
    P2  solve         (sigma^2 I + A C A')^-1 r for a model C of the covariance of z

The law of the noise is one of two, in `noise_law`. Of counted photons P1 has no closed form, `draw` takes a few
Langevin steps, and P2 does not exist.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any, final

import torch
from deepinv.physics import LinearPhysics, Physics
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ambient_solve.errors import AmbientSolveError
from ambient_solve.likelihood.measurement import check_counts, receive
from ambient_solve.likelihood.noise_law import CountingLaw, GaussianLaw
from ambient_solve.likelihood.noise_levels import Given, noise_levels
from ambient_solve.likelihood.packed import Measurement, name_of
from ambient_solve.likelihood.ranges import check_range
from ambient_solve.linalg.conjugate_gradient import WarmStart, conjugate_gradient
from ambient_solve.linalg.convolution import Convolution, find_convolution
from ambient_solve.linalg.galerkin import galerkin
from ambient_solve.linalg.gram import CirculantGram, DiagonalGram, Gram, Scalar, find_gram, find_normal
from ambient_solve.noise import Level, Streams, per_sample
from ambient_solve.priors.base import Prior

Covariance = Level | Callable[[Tensor], Tensor]
"""A variance `q^2` (float or (N,)) that stands for `q^2 I`, or a product `v -> C v` on (N, *z_shape)."""

RTOL = 5e-6
"""Relative residual at which an iterative solve ends: its error is then far below the noise of a sample."""
FIT = (0.5, 2.0)
"""The misfit, reduced chi-squared, of samples that explain many measurements as well as they should."""
CHANCE = 8.0
"""Standard deviations of the misfit of the true image that are taken for chance."""


@final
class PictureState(Prior):
    """Pictures that are their own state, `decode(z) = z`; it knows nothing of them and denoises none.

    Args:
        shape: (C, *spatial).
        device: Where they are.
    """

    sigma_min, sigma_max = 1e-6, 1e6

    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        super().__init__()
        self.shape, self._device = shape, device

    @property
    def device(self) -> torch.device:
        """See `Prior.device`."""
        return self._device

    def denoise(self, z: Tensor, sigma: Level, cond: Any = None) -> Tensor:
        """See `Prior.denoise`: it raises `AmbientSolveError`, since there is no network."""
        raise AmbientSolveError("A picture alone is no prior: it denoises nothing.")


class Likelihood:
    """`p(y | z)` for a batch of B measurements and S samples of each.

    Args:
        y: What `op` returns: (B, *measurement), real or complex, or a `TensorList`. Neither it nor `op` is changed.
        op: A deepinv physics; its parameters may be shared or have one entry per image (leading axis B).
        prior: Says where `z` lives.
        sigma_y: Level of Gaussian noise in the operator's units: a number, one per image, a map that broadcasts to `y`,
            or a list with one of these for each of several stacked operators. By default the noise is that of
            `op.noise_model`: Gaussian, Poisson or Poisson-Gaussian.
        n_samples: S.
        cg_iterations: Steps of conjugate gradients where the operator has no closed form.

    Attributes:
        image_shape: (C, *spatial) of one image. z_shape: Shape of one state.
        rows: N = B * S. n_samples: S. linear: Whether `A`, `At` and `draw` exist: both the operator is linear and the
            prior's decode affine. operator_linear: Whether the operator is. affine: Whether the decode is.
        noise: The law of the noise.
        gaussian: Whether it is Gaussian; if `linear` too, `prox`, `solve` and `spectral` exist.
        identity: Whether `y_z = z + sigma e`, with white noise: there is nothing but noise.
        gram: AA' in closed form, or None. sigma: Noise level in z units, (N,). sigma_y: In the operator's, (1,), (B,).
            Where entries differ in their noise it is the root mean square, and `A`, `y_z` and all residuals are those
            of entries times it over their own level: their noise is the same then.
        gain: Signal of one photon in the operator's units, (1,) or (B,); None for Gaussian noise.
        y: The measurement as rows of real numbers, (B, *measurement). seen: Entries of it that see anything, as `y`.
        measurements: Entries of one measurement. count: Those observed, (N,).

    Raises:
        AmbientSolveError: `y`, `op`, `sigma_y` and `prior` do not fit together; later, a method needs a linear
            operator, Gaussian noise or a closed form, and this problem has none.
    """

    def __init__(
        self,
        y: Measurement,
        op: Physics,
        prior: Prior,
        *,
        sigma_y: Given | None = None,
        n_samples: int = 1,
        cg_iterations: int = 30,
    ) -> None:
        check_counts(n_samples=n_samples, cg_iterations=cg_iterations)
        received = receive(y, op, prior.device)
        self._operator, self._op = received.operator, received.operator.op
        self._prior, self._iterations = prior, cg_iterations
        self._images = received.operator.images
        self.rows, self.n_samples = self._images * n_samples, n_samples
        self.image_shape, self.z_shape = received.image_shape, tuple(prior.state_shape(received.image_shape))
        self.operator_linear, self.affine = isinstance(op, LinearPhysics), prior.affine is not None
        self.linear = self.operator_linear and self.affine
        self._a, self._b = prior.affine or (1.0, 0.0)
        self._given = (y, op, sigma_y)
        levels = noise_levels(op, sigma_y, y)
        check_range(received, prior.affine, levels.sigma, levels.gain)
        received = received if levels.weights is None else received.weighted(levels.weights)
        self.sigma_y = levels.sigma.to(prior.device)
        self.gain = None if levels.gain is None else levels.gain.to(prior.device)
        self.sigma = self._of_rows(self.sigma_y / abs(self._a))
        self.measurements = received.y[0].numel()
        self.y, self.seen = received.y, received.seen
        self.count = self._repeat(received.seen.flatten(1).sum(1)).float()
        self.noise: GaussianLaw | CountingLaw = GaussianLaw(self.sigma, self.count)
        if self.gain is not None:
            signal, seen = self._repeat(received.y), self._repeat(received.seen)
            self.noise = CountingLaw(self.sigma, self._of_rows(self.gain), self._a, signal, seen)
        self.gaussian, self.identity = self.noise.gaussian, False
        with torch.no_grad():
            self._fit(received.y, received.seen)

    @cached_property
    def of_picture(self) -> Likelihood:
        """The same measurement seen from the picture itself, `z = x`; a decode that is not affine is no matter."""
        y, op, sigma_y = self._given
        picture, counts = PictureState(self.image_shape, self._prior.device), (self.n_samples, self._iterations)
        return Likelihood(y, op, picture, sigma_y=sigma_y, n_samples=counts[0], cg_iterations=counts[1])

    def _fit(self, y: Tensor, seen: Tensor) -> None:
        """Learn the closed forms of the operator from a few products, before the first network call."""
        self._convolution: Convolution | None = None
        self.gram: Gram | None = None
        apply = self._operator.apply
        if self.linear:
            y = y - self._forward(y.new_full((len(y), *self.image_shape), self._b)) if self._b else y
            gram = find_gram(self._forward, self._adjoint, y, self._op, apply) if self.gaussian else None
            self.gram = None if gram is None else gram.repeat(self.n_samples)
            if gram is None or isinstance(gram, CirculantGram):
                found = find_convolution(self._forward, self._adjoint, y, self.image_shape)
                self._convolution = None if found is None else found.repeat(self.n_samples)
        # Whatever stands in entries that the operator never sees (garbage, a bright colour) must not count as misfit.
        self._y = self._repeat(torch.where(seen, y / self._a, 0))
        self.identity = isinstance(self.gram, DiagonalGram) and self._is_identity(seen)
        if self.linear:
            self._normal = find_normal(self._forward, self._adjoint, self._y, self._op, apply)

    def _is_identity(self, seen: Tensor) -> bool:
        if self._y.shape[1:] != self.z_shape or self._operator.weights is not None or not bool(seen.all()):
            return False
        v = torch.randn(self._y.shape, generator=torch.Generator().manual_seed(0)).to(self._y)
        return torch.allclose(self._forward(v), v, rtol=1e-5, atol=1e-6)

    def combined(self, z: Tensor, level: float) -> tuple[Tensor, Tensor]:
        """Of an `identity`, the state and its level that say of `z0` what `z` and the measurement say together.

        Both are `z0` with white noise, and so is their mean with the inverse variances as weights.

        Args:
            z: States at `level`, (N, *z_shape).
            level: In z units, > 0.

        Returns:
            The states, (N, *z_shape), and their levels, (N,).
        """
        share = self.sigma**2 / (self.sigma**2 + level**2)
        return self._y.lerp(z, per_sample(share, z)), share.sqrt() * level

    def _repeat(self, of_images: Tensor) -> Tensor:
        """(B, ...) to (N, ...)."""
        return of_images.repeat_interleave(self.n_samples, 0)

    def _of_rows(self, level: Tensor) -> Tensor:
        """A level of the noise (1,) or (B,) for each row, (N,)."""
        return self._repeat(level.expand(self._images))

    def _forward(self, x: Tensor) -> Tensor:
        return (self._convolution or self._operator).A(x)

    def _adjoint(self, u: Tensor) -> Tensor:
        return (self._convolution or self._operator).At(u)

    def A(self, z: Tensor) -> Tensor:
        """`A z` of a linear operator, in z units and without noise: (N, *z_shape) to (N, *measurement)."""
        self._require_linear("A")
        return self._forward(z)

    def At(self, u: Tensor) -> Tensor:
        """`A'u` of a linear operator: (N, *measurement) to (N, *z_shape)."""
        self._require_linear("At")
        return self._adjoint(u)

    def forward(self, z0: Tensor) -> Tensor:
        """What clean states would measure, without noise, in z units, (N, *measurement); differentiable."""
        return self._forward(z0) if self.linear else self._forward(self._prior.decode(z0)) / self._a

    def residual(self, z0: Tensor) -> Tensor:
        """`y_z - forward(z0)` in z units, (N, *measurement). A linear operator leaves 0 in entries it never sees."""
        return self._y - self.forward(z0)

    def variance(self, r: Tensor) -> Tensor:
        """Of the noise of each entry, in z units, where the noiseless measurement is `y_z - r`; broadcasts to `r`."""
        return self.noise.variance(r)

    def weights(self, r: Tensor) -> Tensor:
        """`1 / variance(r)`, 0 in entries of counted noise that the operator never sees; broadcasts to `r`."""
        return self.noise.weights(r)

    def chi2(self, z0: Tensor) -> Tensor:
        """Mean squared residual in units of the noise (reduced chi-squared), (N,): 1 for the true image."""
        return self.noise.chi2(self.residual(z0))

    def chi2_range(self) -> tuple[Tensor, Tensor]:
        """The least and the largest misfit, each (N,), that need no other reason than noise.

        That is `FIT`, or more where few measurements or few photons leave more to chance. Where the noise level of the
        operator is nominal (`op.nominal_noise`, as of a JPEG file), any misfit may be right.
        """
        reach = CHANCE * self.noise.chi2_std()
        if getattr(self._op, "nominal_noise", False):
            reach = torch.full_like(reach, torch.inf)
        return (-reach).exp().clamp_max(FIT[0]), (1 + reach).clamp_min(FIT[1])

    def score(self, z0: Tensor) -> Tensor:
        """`d log p(y | z0) / d z0`, (N, *z_shape) as `z0`, whatever the operator and the noise."""
        r, pullback = self.linearize(z0)
        return pullback(self.weights(r) * r)

    def descent(self, z0: Tensor) -> Tensor:
        """The gradient of DPS, with a norm for each sample: `J' W r / |W^1/2 r|`, `W` relative to its mean.

        Args:
            z0: States, (N, *z_shape); `J` is the Jacobian of `forward` there and `r` the residual.

        Returns:
            Its direction of descent, (N, *z_shape).
        """
        r, pullback = self.linearize(z0)
        return pullback(self.noise.direction(r))

    def curvature(self, z0: Tensor, probe: Tensor, iterations: int = 3) -> tuple[Tensor, Tensor]:
        """The largest eigenvalue of `J'WJ`, `J` the Jacobian of `forward` and `W` the weights, by power iterations.

        Args:
            z0: Where `J` is taken, (N, *z_shape).
            probe: First guess of the eigenvector, (N, *z_shape), not 0.
            iterations: Power iterations, 1 or more; each takes one product with `J` and one with `J'`.

        Returns:
            The eigenvalue (N,), from below, and a better `probe` for the next call.
        """
        # J v is the derivative of u -> J'u. Fused attention, which a decoder may have, has no second derivative.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            leaf = z0.detach().requires_grad_()
            predicted = self.forward(leaf)
            u = torch.zeros_like(predicted, requires_grad=True)
            pulled = torch.autograd.grad(predicted, leaf, u, create_graph=True)[0]
        weights = self.noise.step_weights(self._y - predicted.detach())
        for _ in range(iterations):
            probe = probe / per_sample(probe.flatten(1).norm(dim=1).clamp_min(1e-30), probe)
            pushed = torch.autograd.grad(pulled, u, probe, retain_graph=True)[0]
            probe = torch.autograd.grad(predicted, leaf, weights * pushed, retain_graph=True)[0]
        return probe.flatten(1).norm(dim=1), probe

    def linearize(self, z0: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The residual at `z0` (N, *z_shape), and the transposed Jacobian of `forward` there.

        Returns:
            `residual(z0)` (N, *measurement), and `u -> J'u`, (N, *z_shape), to be called any number of times.
        """
        if self.linear:
            return self.residual(z0), self.At
        with torch.enable_grad():
            leaf = z0.detach().requires_grad_()
            predicted = self.forward(leaf)

        def pullback(u: Tensor) -> Tensor:
            return torch.autograd.grad(predicted, leaf, u, retain_graph=True)[0]

        return self._y - predicted.detach(), pullback

    def prox(self, v: Tensor, q: Level, warm: WarmStart | None = None) -> Tensor:
        """P1, the mean: `argmin_z ||y_z - A z||^2 / 2 sigma^2 + ||z - v||^2 / 2 q^2`.

        Args:
            v: Centre of the Gaussian factor, (N, *z_shape).
            q: Its standard deviation in z units, > 0, () or (N,).
            warm: One object for a sequence of calls at slowly changing `v` and `q`; an iterative solve starts from it.

        Returns:
            (N, *z_shape).
        """
        self._require_gaussian("prox")
        return self._prox(self._y, v, q, warm)

    def draw(self, v: Tensor, q: Level, streams: Streams) -> Tensor:
        """P1, a sample: the proximal point of a perturbed `y` and a perturbed `v` (Papandreou and Yuille, 2010).

        Exact, because `H^-1 (A'(y + sigma e1) / sigma^2 + (v + q e2) / q^2)` has covariance `H^-1 H H^-1 = H^-1`.
        Under counted noise it is a few Langevin steps, see `CountingLaw.draw`.

        Args:
            v: Centre of the Gaussian factor, (N, *z_shape).
            q: Its standard deviation in z units, > 0, () or (N,).
            streams: The noise, one stream per row.

        Returns:
            (N, *z_shape).
        """
        self._require_linear("draw")
        if isinstance(self.noise, CountingLaw):
            return self.noise.draw(
                v, q, streams, residual=self.residual, A=self.A, At=self.At, iterations=self._iterations
            )
        y = self._y + per_sample(self.sigma, self._y) * streams.normal(self._y)
        return self._prox(y, v + per_sample(q, v) * streams.normal(v), q, None)

    def fluctuation(self, like: Tensor, q: Level, streams: Streams) -> Tensor:
        """`draw` less its mean: a sample of `N(0, (A'A / sigma^2 + I / q^2)^-1)`.

        Args:
            like: States (N, *z_shape), of which the sample has shape, dtype and device.
            q: Standard deviation of the Gaussian factor in z units, > 0, () or (N,).
            streams: The noise, one stream per row.

        Returns:
            The sample, of the shape of `like`.
        """
        self._require_gaussian("fluctuation")
        y = per_sample(self.sigma, self._y) * streams.normal(self._y)
        return self._prox(y, per_sample(q, like) * streams.normal(like), q, None)

    def undecided(self, v: Tensor, q: Level) -> Tensor:
        """What the measurement leaves of `v`, `(I + q^2 A'A / sigma^2)^-1 v`: all where nothing is measured.

        Args:
            v: (N, *z_shape).
            q: Standard deviation of the Gaussian factor in z units, > 0, () or (N,).

        Returns:
            The shape of `v`.
        """
        self._require_gaussian("undecided")
        return self._prox(torch.zeros_like(self._y), v, q, None)

    def _prox(self, y: Tensor, v: Tensor, q: Level, warm: WarmStart | None) -> Tensor:
        if self.gram is not None:
            # Woodbury: H^-1 A'/sigma^2 = q^2 A' (sigma^2 + q^2 AA')^-1, one product with A and one with A'.
            ratio = per_sample((self.sigma / q) ** 2, self._y)
            if self._convolution is not None:
                return v + self._convolution.pull(lambda t: 1 / (ratio + t), y, v)
            return v + self.At(self.gram.function(lambda t: 1 / (ratio + t), y - self.A(v)))
        # Multiplied by q^2 the system is I + (q / sigma)^2 A'A: its floats stay near 1 at every noise level.
        ratio = per_sample((q / self.sigma) ** 2, v)
        own = self._operator.weights is None  # of weighted entries the operator knows nothing
        warm, nearly = warm or WarmStart(), getattr(self._op, "precondition", None) if own else None
        warm.solution = conjugate_gradient(
            lambda p: p + ratio * self._normal(p),
            *(ratio * self.At(y - self.A(v)), self._iterations, warm.solution, RTOL),
            precondition=nearly and partial(nearly, ratio=ratio),
        )
        return v + warm.solution

    def solve(self, cov: Covariance, r: Tensor, iterations: int | None = None) -> Tensor:
        """P2: `(sigma^2 I + A C A')^-1 r`.

        Args:
            cov: `C`. A variance has a closed form through `gram`; a product is called once per iteration.
            r: (N, *measurement).
            iterations: Steps of conjugate gradients, from zero; by default `cg_iterations`.

        Returns:
            (N, *measurement).
        """
        if callable(cov):
            return self.solve_carrying(cov, r, iterations)[0]
        self._require_gaussian("solve")
        variance, noise = per_sample(cov, r), per_sample(self.sigma, r) ** 2
        if self.gram is not None:
            return self.gram.function(lambda t: 1 / (noise + variance * t), r)
        return conjugate_gradient(
            lambda p: noise * p + variance * self.A(self.At(p)), r, iterations or self._iterations, rtol=RTOL
        )

    def solve_carrying(
        self, cov: Callable[[Tensor], Tensor], r: Tensor, iterations: int | None = None, tolerance: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """`u = (sigma^2 I + A C A')^-1 r` and `C A'u`, for no more products than `u` alone.

        Args:
            cov: `v -> C v` on (N, *z_shape), called exactly `iterations` times; fewer are possible with `tolerance`.
                It need be symmetric only up to the error of a network, see `linalg.galerkin`.
            r: (N, *measurement).
            iterations: Vectors of the Krylov space that holds `u`; by default `cg_iterations`.
            tolerance: A row stays where the norm of its residual is this many times that of the noise; 0 never.

        Returns:
            `u` (N, *measurement) and `C A'u` (N, *z_shape).
        """
        self._require_gaussian("solve")
        noise = per_sample(self.sigma, r) ** 2

        def matvec(p: Tensor) -> tuple[Tensor, Tensor]:
            moved = cov(self.At(p))
            return noise * p + self.A(moved), moved

        atol = tolerance * self.sigma * self.count.sqrt() if tolerance else None
        return galerkin(matvec, r, iterations or self._iterations, self.sigma**2, atol)

    def spectral(self, f: Scalar, u: Tensor) -> Tensor:
        """A function of `AA'`, through its closed form.

        Args:
            f: Acts on eigenvalues; its constants may be (N, 1, ..., 1).
            u: (N, *measurement).

        Returns:
            `f(AA') u`, (N, *measurement).
        """
        self._require_gaussian("spectral")
        if self.gram is None:
            raise AmbientSolveError(
                f"{name_of(self._op)} has no closed-form spectrum, which this algorithm needs. "
                "Leave algorithm='auto', or choose one that works through conjugate gradients."
            )
        return self.gram.function(f, u)

    def _require_linear(self, name: str) -> None:
        if not self.linear:
            raise AmbientSolveError(
                f"Likelihood.{name} needs a LinearPhysics and a prior whose decode is affine, not {name_of(self._op)} "
                f"with {name_of(self._prior)}. Leave algorithm='auto', or choose one that takes any operator."
            )

    def _require_gaussian(self, name: str) -> None:
        self._require_linear(name)
        if not self.gaussian:
            raise AmbientSolveError(
                f"Likelihood.{name} needs Gaussian noise, {name_of(self._op)} has {name_of(self._op.noise_model)}. "
                "Choose 'daps' or 'dps', or pass sigma_y=... to treat the noise as Gaussian of that level."
            )
