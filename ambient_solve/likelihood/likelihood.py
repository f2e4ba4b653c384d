r"""A measurement `y` of a deepinv operator, seen from the prior's space: the two primitives every sampler is made of.

With `decode(z) = a z + b` and a linear operator `A`, the measurement `y = A(a z + b) + sigma_y e`, divided by `a`, is

    y_z = A z + sigma e,      y_z = (y - A b) / a,      sigma = sigma_y / a,

the only form used below ("z units"; `A` itself is not scaled). Rows are image-major: row `b * S + s` is sample `s` of
image `b`, `N = B * S`. The primitives are

    P1  prox, draw    N(z; v, q^2 I) N(y_z; A z, sigma^2 I), normalised: its mean, and a sample of it
    P2  solve         (sigma^2 I + A C A')^-1 r for a model C of the covariance of z

Photons are counted: `y = gain Poisson(p / gain) + sigma e`, of mean `p` and variance `gain p + sigma^2`. Its law is
taken as that of `y + sigma^2 / gain = gain Poisson((p + sigma^2 / gain) / gain)` ("shifted Poisson", Snyder et al.,
1993), which has the right mean and variance, is exact where sigma or gain is 0, and whose score is a weighted residual,

    d log p(y | p) / d p = (y - p) / (gain p + sigma^2)

There P1 has no closed form, `draw` takes a few Langevin steps, and P2 does not exist.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from deepinv.physics import LinearPhysics, Physics
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ambient_solve.errors import AmbientSolveError
from ambient_solve.likelihood.measurement import (
    Measurement,
    check_measurement,
    find_image_shape,
    frozen_copy,
    name_of,
    pack,
    real,
    unpack,
)
from ambient_solve.likelihood.noise_law import FAINT, noise_law
from ambient_solve.linalg.conjugate_gradient import WarmStart, carrying_conjugate_gradient, conjugate_gradient
from ambient_solve.linalg.convolution import Convolution, find_convolution
from ambient_solve.linalg.gram import CirculantGram, Gram, Scalar, find_gram, find_normal
from ambient_solve.noise import Level, Streams, per_sample
from ambient_solve.priors.base import Prior

Covariance = Level | Callable[[Tensor], Tensor]
"""A variance `q^2` (float or (N,)) that stands for `q^2 I`, or a product `v -> C v` on (N, *z_shape)."""

RTOL = 5e-6
"""Relative residual at which an iterative solve ends: its error is then far below the noise of a sample."""
SWEEPS = 16
"""Langevin steps of a `draw` under counted noise."""
RELAXATION = 0.3
"""Share of the way to the proximal point that each of these steps goes, 0 to 1."""


class Likelihood:
    """`p(y | z)` for a batch of B measurements and S samples of each.

    Args:
        y: What `op` returns: (B, *measurement), real or complex, or a `TensorList`. Neither it nor `op` is changed.
        op: A deepinv physics; its parameters may be shared or have one entry per image (leading axis B).
        prior: Says where `z` lives.
        sigma_y: Level of Gaussian noise in the operator's units, a number or one per image. By default the noise is
            that of `op.noise_model`: Gaussian, Poisson or Poisson-Gaussian.
        n_samples: S.
        cg_iterations: Steps of conjugate gradients where the operator has no closed form.

    Attributes:
        image_shape: (C, *spatial) of one image. z_shape: Shape of one state.
        rows: N = B * S. n_samples: S. linear: Whether `A`, `At` and `draw` exist.
        gaussian: Whether the noise has one level; if `linear` too, `prox`, `solve` and `spectral` exist.
        gram: AA' in closed form, or None. sigma: Noise level in z units, (N,). sigma_y: In the operator's, (1,), (B,).
        gain: Signal of one photon in the operator's units, (1,) or (B,); None for Gaussian noise.
        measurements: Entries of one measurement. count: Those observed, (N,).

    Raises:
        AmbientSolveError: `y`, `op`, `sigma_y` and `prior` do not fit together.
    """

    def __init__(
        self,
        y: Measurement,
        op: Physics,
        prior: Prior,
        *,
        sigma_y: float | Tensor | None = None,
        n_samples: int = 1,
        cg_iterations: int = 30,
    ) -> None:
        check_measurement(y, op, n_samples, cg_iterations)
        device = prior.device
        tensors: list[Tensor] = []
        self._op, self._prior, self._iterations = frozen_copy(op, device, tensors, {}), prior, cg_iterations
        self._template = y.detach().to(device)
        packed = pack(self._template).contiguous()
        self._images = len(packed)
        self.rows = self._images * n_samples
        self._per_image = self._images > 1 and any(t.ndim and len(t) == self._images for t in tensors)
        self.linear = isinstance(op, LinearPhysics) and prior.affine is not None
        self._a, self._b = prior.affine or (1.0, 0.0)
        self.n_samples = n_samples
        sigma_y, gain = noise_law(op, sigma_y, y)
        self.gaussian = gain is None
        self.sigma_y, self.gain = sigma_y.to(device), None if self.gaussian else gain.to(device)
        self.sigma = (self.sigma_y / abs(self._a)).expand(self._images).repeat_interleave(n_samples)
        with torch.no_grad():
            self._fit(op, packed)

    def _fit(self, op: Physics, y: Tensor) -> None:
        """Learn shapes, blind entries and the Gram matrix from a few products, before the first network call."""
        self._convolution: Convolution | None = None
        seen = torch.ones_like(y, dtype=torch.bool)
        if isinstance(op, LinearPhysics):
            self.image_shape = find_image_shape(op, lambda: self._adjoint(y), self._forward, y)
            seen = self._probe(op, y)
        else:
            size = tuple(getattr(op, "img_size", None) or y.shape[1:])
            self.image_shape = find_image_shape(op, lambda: y.new_zeros(len(y), *size), self._forward, y)
        self.z_shape = tuple(self._prior.state_shape(self.image_shape))
        self.gram: Gram | None = None
        if not self.gaussian:
            self._signal, self._seen = (t.repeat_interleave(self.n_samples, 0) for t in (y, seen))
            self._photon = self.gain.expand(self._images).repeat_interleave(self.n_samples)
        if self.linear:
            y = y - self._forward(y.new_full((len(y), *self.image_shape), self._b)) if self._b else y
            gram = find_gram(self._forward, self._adjoint, y, self._op, self._apply) if self.gaussian else None
            self.gram = None if gram is None else gram.repeat(self.n_samples)
            if gram is None or isinstance(gram, CirculantGram):
                found = find_convolution(self._forward, self._adjoint, y, self.image_shape)
                self._convolution = None if found is None else found.repeat(self.n_samples)
        # Whatever stands in entries that the operator never sees (garbage, a bright colour) must not count as misfit.
        self._y = torch.where(seen, y / self._a, 0).repeat_interleave(self.n_samples, 0)
        self.measurements = y[0].numel()
        self.count = seen.flatten(1).sum(1).repeat_interleave(self.n_samples).float()
        if self.linear:
            self._normal = find_normal(self._forward, self._adjoint, self._y, self._op, self._apply)

    def _probe(self, op: Physics, y: Tensor) -> Tensor:
        """Entries of `y` that see anything: an all-zero row of A gives exactly 0 in A x, for any x. Also checks A'."""
        generator = torch.Generator().manual_seed(0)
        seen = torch.zeros_like(y, dtype=torch.bool)
        for _ in range(2):
            u = torch.randn(y.shape, generator=generator).to(y)
            x = self._adjoint(u)
            image = self._forward(x)
            seen |= image != 0
            wanted = float(x.square().sum())
            if abs(float((image * u).sum()) - wanted) > 0.05 * wanted:
                raise AmbientSolveError(
                    f"A_adjoint of {name_of(op)} is not the adjoint of its A. "
                    "LinearPhysics(A=..., img_size=(C, H, W)) without A_adjoint derives the right one."
                )
        return seen

    def _apply(self, function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        """`function` of the operator on B or B * S rows; parameters of image b meet rows of image b only."""
        if not self._per_image or len(rows) == self._images:
            return function(rows)
        grouped = rows.reshape(self._images, -1, *rows.shape[1:])
        return torch.stack([function(part.contiguous()) for part in grouped.unbind(1)], 1).flatten(0, 1)

    def _forward(self, x: Tensor) -> Tensor:
        if self._convolution is not None:
            return self._convolution.A(x)
        return self._apply(lambda rows: pack(self._op.A(rows)), x)

    def _adjoint(self, u: Tensor) -> Tensor:
        if self._convolution is not None:
            return self._convolution.At(u)
        return self._apply(lambda rows: real(self._op.A_adjoint(unpack(rows, self._template))), u)

    def A(self, z: Tensor) -> Tensor:
        """`A z` for a linear operator: (N, *z_shape) to (N, *measurement)."""
        self._require_linear("A")
        return self._forward(z)

    def At(self, u: Tensor) -> Tensor:
        """`A'u` for a linear operator: (N, *measurement) to (N, *z_shape)."""
        self._require_linear("At")
        return self._adjoint(u)

    def forward(self, z0: Tensor) -> Tensor:
        """What a clean state would measure, without noise and in z units; differentiable. (N, *measurement)."""
        return self._forward(z0) if self.linear else self._forward(self._prior.decode(z0)) / self._a

    def residual(self, z0: Tensor) -> Tensor:
        """`y_z - forward(z0)`, 0 in entries that the operator never sees. (N, *measurement)."""
        return self._y - self.forward(z0)

    def variance(self, r: Tensor) -> Tensor:
        """Of the noise of each entry, in z units, where the noiseless measurement is `y_z - r`; broadcasts to `r`."""
        noise = per_sample(self.sigma, r) ** 2
        if self.gaussian:
            return noise
        return noise + per_sample(self._photon, r) * (self._signal - self._a * r).clamp_min(0) / self._a**2

    def weights(self, r: Tensor) -> Tensor:
        """`1 / variance(r)`, 0 in entries of counted noise that the operator never sees; broadcasts to `r`."""
        if self.gaussian:
            return 1 / self.variance(r)
        faintest = FAINT * (per_sample(self._photon, r) / self._a) ** 2
        return torch.where(self._seen, 1 / self.variance(r).maximum(faintest), 0)

    def _scale(self, r: Tensor) -> Tensor:
        """Weights to measure a Langevin step by, between those of the noiseless `y_z - r` and those of y itself.

        One photon is added to both: the curvature of the law of no photon is 0, that of its neighbour is not.
        """
        if self.gaussian:
            return self.weights(r)
        photon = (per_sample(self._photon, r) / self._a) ** 2
        both = (self.variance(r) + photon) * (self.variance(torch.zeros_like(r)) + photon)
        return torch.where(self._seen, both.rsqrt(), 0)

    def chi2(self, z0: Tensor) -> Tensor:
        """Mean squared residual in units of the noise, (N,): 1 for the true image, well above 1 is a misfit."""
        r = self.residual(z0)
        if self.gaussian:
            return r.square().flatten(1).sum(1) / (self.sigma**2 * self.count.clamp_min(1))
        weights = self.weights(r)
        expected = (weights * self.variance(r)).flatten(1).sum(1)  # the number of entries, less the faintest of them
        return (weights * r.square()).flatten(1).sum(1) / expected.clamp_min(1)

    def score(self, z0: Tensor) -> Tensor:
        """`d log p(y | z0) / d z0`, whatever the operator and the noise."""
        r, pullback = self.linearize(z0)
        return pullback(self.weights(r) * r)

    def descent(self, z0: Tensor) -> Tensor:
        """`J' W r / |W^1/2 r|` at `z0`, `W` relative to its mean: the gradient of DPS, with a norm for each sample."""
        r, pullback = self.linearize(z0)
        if self.gaussian:
            return pullback(r / per_sample(r.flatten(1).norm(dim=1).clamp_min(1e-12), r))
        weights = self.weights(r)
        mean = weights.flatten(1).sum(1) / (weights > 0).flatten(1).sum(1)
        weights = weights / per_sample(mean, weights)
        norm = (weights.sqrt() * r).flatten(1).norm(dim=1).clamp_min(1e-12)
        return pullback(weights * r / per_sample(norm, r))

    def curvature(self, z0: Tensor, probe: Tensor, iterations: int = 3) -> tuple[Tensor, Tensor]:
        """The largest eigenvalue of `J'WJ` at `z0`, (N,), `J` the Jacobian of `forward` and `W` the weights.

        By power iterations from `probe` (N, *z_shape), which is returned improved for the next call.
        """
        # J v is the derivative of u -> J'u. Fused attention, which a decoder may have, has no second derivative.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            leaf = z0.detach().requires_grad_()
            predicted = self.forward(leaf)
            u = torch.zeros_like(predicted, requires_grad=True)
            pulled = torch.autograd.grad(predicted, leaf, u, create_graph=True)[0]
        weights = self._scale(self._y - predicted.detach())
        for _ in range(iterations):
            probe = probe / per_sample(probe.flatten(1).norm(dim=1).clamp_min(1e-30), probe)
            pushed = torch.autograd.grad(pulled, u, probe, retain_graph=True)[0]
            probe = torch.autograd.grad(predicted, leaf, weights * pushed, retain_graph=True)[0]
        return probe.flatten(1).norm(dim=1), probe

    def linearize(self, z0: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The residual at `z0` and `u -> (d forward / d z0)' u`, which may be called any number of times."""
        if self.linear:
            return self.residual(z0), self.At
        with torch.enable_grad():
            leaf = z0.detach().requires_grad_()
            predicted = self.forward(leaf)

        def pullback(u: Tensor) -> Tensor:
            return torch.autograd.grad(predicted, leaf, u, retain_graph=True)[0]

        return self._y - predicted.detach(), pullback

    def prox(self, v: Tensor, q: Level, warm: WarmStart | None = None) -> Tensor:
        """P1, the mean: `argmin_z ||y - A z||^2 / 2 sigma^2 + ||z - v||^2 / 2 q^2`; `v` (N, *z_shape), `q` () or (N,).

        `warm`, one object for a sequence of calls at slowly changing `v` and `q`, is used where the solve is iterative.
        """
        self._require_gaussian("prox")
        return self._prox(self._y, v, q, warm)

    def draw(self, v: Tensor, q: Level, streams: Streams) -> Tensor:
        """P1, a sample: the proximal point of a perturbed `y` and a perturbed `v` (Papandreou and Yuille, 2010).

        Exact, because `H^-1 (A'(y + sigma e1) / sigma^2 + (v + q e2) / q^2)` has covariance `H^-1 H H^-1 = H^-1`.
        """
        self._require_linear("draw")
        if not self.gaussian:
            return self._draw_counted(v, q, streams)
        y = self._y + per_sample(self.sigma, self._y) * streams.normal(self._y)
        return self._prox(y, v + per_sample(q, v) * streams.normal(v), q, None)

    def _draw_counted(self, v: Tensor, q: Level, streams: Streams) -> Tensor:
        """Langevin steps in the metric `H = A'WA + I / q^2`, `W` the weights around `v`: exact if `W` were constant.

        z <- z + H^-1 (c grad log p(z) + sqrt(c (2 - c)) e),    e ~ N(0, H),    c = RELAXATION

        For a constant `W` that is an autoregression which keeps `N(mean, H^-1)` at every c.
        """
        q, z = per_sample(q, v), v
        for sweep in range(SWEEPS):
            r = self.residual(z)
            if sweep <= SWEEPS // 2:
                scale = self._scale(r)
            drift = q**2 * self.At(self.weights(r) * r) - (z - v)
            noise = q**2 * self.At(scale.sqrt() * streams.normal(r)) + q * streams.normal(v)
            step = RELAXATION * drift + (RELAXATION * (2 - RELAXATION)) ** 0.5 * noise
            matvec = partial(self._metric, scale=scale, q=q)
            z = z + conjugate_gradient(matvec, step, self._iterations)
        return z

    def _metric(self, p: Tensor, scale: Tensor, q: Level) -> Tensor:
        return p + q**2 * self.At(scale * self.A(p))

    def fluctuation(self, like: Tensor, q: Level, streams: Streams) -> Tensor:
        """`draw` less its mean: a sample of `N(0, (A'A / sigma^2 + I / q^2)^-1)`, shape of `like` (N, *z_shape)."""
        self._require_gaussian("fluctuation")
        y = per_sample(self.sigma, self._y) * streams.normal(self._y)
        return self._prox(y, per_sample(q, like) * streams.normal(like), q, None)

    def _prox(self, y: Tensor, v: Tensor, q: Level, warm: WarmStart | None) -> Tensor:
        if self.gram is not None:
            # Woodbury: H^-1 A'/sigma^2 = q^2 A' (sigma^2 + q^2 AA')^-1, one product with A and one with A'.
            ratio = per_sample((self.sigma / q) ** 2, self._y)
            if self._convolution is not None:
                return v + self._convolution.pull(lambda t: 1 / (ratio + t), y, v)
            return v + self.At(self.gram.function(lambda t: 1 / (ratio + t), y - self.A(v)))
        # Multiplied by q^2 the system is I + (q / sigma)^2 A'A: its floats stay near 1 at every noise level.
        ratio = per_sample((q / self.sigma) ** 2, v)
        warm, nearly = warm or WarmStart(), getattr(self._op, "precondition", None)
        warm.solution = conjugate_gradient(
            lambda p: p + ratio * self._normal(p),
            *(ratio * self.At(y - self.A(v)), self._iterations, warm.solution, RTOL),
            precondition=nearly and partial(nearly, ratio=ratio),
        )
        return v + warm.solution

    def solve(self, cov: Covariance, r: Tensor, iterations: int | None = None) -> Tensor:
        """P2: `(sigma^2 I + A C A')^-1 r` for `r` (N, *measurement).

        A variance has a closed form through `gram`; a product costs one call of `cov` per iteration, from zero.
        """
        if callable(cov):
            return self.solve_carrying(cov, r, iterations)[0]
        self._require_gaussian("solve")
        if self.gram is not None:
            return self.gram.function(self._inverse(cov), r)
        variance, noise = per_sample(cov, r), per_sample(self.sigma, r) ** 2
        return conjugate_gradient(
            lambda p: noise * p + variance * self.A(self.At(p)), r, iterations or self._iterations, rtol=RTOL
        )

    def solve_carrying(
        self, cov: Callable[[Tensor], Tensor], r: Tensor, iterations: int | None = None, tolerance: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """`u = (sigma^2 I + A C A')^-1 r` and `C A'u` (N, *z_shape) for exactly `iterations` calls of `cov`.

        With `tolerance` a row stays where its residual is that many times the noise; the calls may then be fewer.
        """
        self._require_gaussian("solve")
        noise = per_sample(self.sigma, r) ** 2

        def matvec(p: Tensor) -> tuple[Tensor, Tensor]:
            moved = cov(self.At(p))
            return noise * p + self.A(moved), moved

        atol = tolerance * self.sigma * self.count.sqrt() if tolerance else None
        return carrying_conjugate_gradient(matvec, r, iterations or self._iterations, self.sigma**2, atol)

    def spectral(self, f: Scalar, u: Tensor) -> Tensor:
        """`f(AA') u` for `u` (N, *measurement); `f` acts on eigenvalues, its constants may be (N, 1, ..., 1)."""
        self._require_gaussian("spectral")
        if self.gram is None:
            raise AmbientSolveError(
                f"{name_of(self._op)} has no closed-form spectrum, which this algorithm needs. "
                "Leave algorithm='auto', or choose one that works through conjugate gradients."
            )
        return self.gram.function(f, u)

    def _inverse(self, variance: Level) -> Scalar:
        """`t -> 1 / (sigma^2 + variance t)`."""
        noise, variance = per_sample(self.sigma**2, self._y), per_sample(variance, self._y)
        return lambda t: 1 / (noise + variance * t)

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
