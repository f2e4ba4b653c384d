"""A measurement `y` of a deepinv operator, seen from the prior's space: the two primitives every sampler is made of.

With `decode(z) = a z + b` and a linear operator `A`, the measurement `y = A(a z + b) + sigma_y e`, divided by `a`, is

    y_z = A z + sigma e,      y_z = (y - A b) / a,      sigma = sigma_y / a,

the only form used below ("z units"; `A` itself is not scaled). Rows are image-major: row `b * S + s` is sample `s` of
image `b`, `N = B * S`. The primitives are

    P1  prox, draw    N(z; v, q^2 I) N(y_z; A z, sigma^2 I), normalised: its mean, and a sample of it
    P2  solve         (sigma^2 I + A C A')^-1 r for a model C of the covariance of z
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from deepinv.physics import LinearPhysics, Physics
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.gram import Gram, Scalar, find_gram
from ambient_solve.krylov import WarmStart, carrying_conjugate_gradient, conjugate_gradient
from ambient_solve.measurement import (
    Measurement,
    check_measurement,
    find_image_shape,
    name_of,
    noise_level,
    pack,
    real,
    shadow,
    unpack,
)
from ambient_solve.noise import Level, Streams, per_sample
from ambient_solve.priors.base import Prior

Covariance = Level | Callable[[Tensor], Tensor]
"""A variance `q^2` (float or (N,)) that stands for `q^2 I`, or a product `v -> C v` on (N, *z_shape)."""


class Likelihood:
    """`p(y | z)` for a batch of B measurements and S samples of each.

    Args:
        y: What `op` returns: (B, *measurement), real or complex, or a `TensorList`. Neither it nor `op` is changed.
        op: A deepinv physics; its parameters may be shared or have one entry per image (leading axis B).
        prior: Says where `z` lives.
        sigma_y: Noise level in the operator's units, a number or one per image; `op.noise_model.sigma` by default.
        n_samples: S.
        cg_iterations: Steps of conjugate gradients where the operator has no closed form.

    Attributes:
        image_shape: (C, *spatial) of one image. z_shape: Shape of one state.
        rows: N = B * S. n_samples: S. linear: Whether `A`, `At` and the primitives exist.
        gram: AA' in closed form, or None. sigma: Noise level in z units, (N,). sigma_y: In the operator's, (1,), (B,).
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
        self._op, self._prior, self._iterations = shadow(op, device, tensors, {}), prior, cg_iterations
        self._template = y.detach().to(device)
        packed = pack(self._template).contiguous()
        self._images = len(packed)
        self.rows = self._images * n_samples
        self._per_image = self._images > 1 and any(t.ndim and len(t) == self._images for t in tensors)
        self.linear = isinstance(op, LinearPhysics) and prior.affine is not None
        self._a, self._b = prior.affine or (1.0, 0.0)
        self.n_samples = n_samples
        self.sigma_y = noise_level(op, sigma_y, self._images).to(device, torch.float32)
        self.sigma = (self.sigma_y / abs(self._a)).expand(self._images).repeat_interleave(n_samples)
        with torch.no_grad():
            self._fit(op, packed)

    def _fit(self, op: Physics, y: Tensor) -> None:
        """Learn shapes, blind entries and the Gram matrix from a few products, before the first network call."""
        seen = torch.ones_like(y, dtype=torch.bool)
        if isinstance(op, LinearPhysics):
            self.image_shape = find_image_shape(op, lambda: self._adjoint(y), self._forward, y)
            seen = self._probe(op, y)
        else:
            size = tuple(getattr(op, "img_size", None) or y.shape[1:])
            self.image_shape = find_image_shape(op, lambda: y.new_zeros(len(y), *size), self._forward, y)
        self.z_shape = tuple(self._prior.state_shape(self.image_shape))
        self.gram: Gram | None = None
        if self.linear:
            y = y - self._forward(y.new_full((len(y), *self.image_shape), self._b)) if self._b else y
            gram = find_gram(self._forward, self._adjoint, y, self._op, self._apply)
            self.gram = None if gram is None else gram.repeat(self.n_samples)
        # Whatever stands in entries that the operator never sees (garbage, a bright colour) must not count as misfit.
        self._y = torch.where(seen, y / self._a, 0).repeat_interleave(self.n_samples, 0)
        self.measurements = y[0].numel()
        self.count = seen.flatten(1).sum(1).repeat_interleave(self.n_samples).float()
        self._normal = self._find_normal()

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

    def _find_normal(self) -> Callable[[Tensor], Tensor]:
        """A'A for the iterative `prox`: the operator's own shortcut where it has one that gives the same."""

        def plain(x: Tensor) -> Tensor:
            return self._adjoint(self._forward(x))

        def fast(x: Tensor) -> Tensor:
            return self._apply(self._op.A_adjoint_A, x).float()

        if not self.linear or self.gram or type(self._op).A_adjoint_A is LinearPhysics.A_adjoint_A:
            return plain
        x = self._adjoint(self._y + 1)
        return fast if bool((fast(x) - plain(x)).norm() <= 1e-5 * plain(x).norm()) else plain

    def _apply(self, function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        """`function` of the operator on B or B * S rows; parameters of image b meet rows of image b only."""
        if not self._per_image or len(rows) == self._images:
            return function(rows)
        grouped = rows.reshape(self._images, -1, *rows.shape[1:])
        return torch.stack([function(part.contiguous()) for part in grouped.unbind(1)], 1).flatten(0, 1)

    def _forward(self, x: Tensor) -> Tensor:
        return self._apply(lambda rows: pack(self._op.A(rows)), x)

    def _adjoint(self, u: Tensor) -> Tensor:
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

    def chi2(self, z0: Tensor) -> Tensor:
        """Mean squared residual in units of the noise, (N,): 1 for the true image, well above 1 is a misfit."""
        squared = self.residual(z0).square().flatten(1).sum(1)
        return squared / (self.sigma**2 * self.count.clamp_min(1))

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
        return self._prox(self._y, v, q, warm)

    def draw(self, v: Tensor, q: Level, streams: Streams) -> Tensor:
        """P1, a sample: the proximal point of a perturbed `y` and a perturbed `v` (Papandreou and Yuille, 2010).

        Exact, because `H^-1 (A'(y + sigma e1) / sigma^2 + (v + q e2) / q^2)` has covariance `H^-1 H H^-1 = H^-1`.
        """
        self._require_linear("draw")
        y = self._y + per_sample(self.sigma, self._y) * streams.normal(self._y)
        return self._prox(y, v + per_sample(q, v) * streams.normal(v), q, None)

    def fluctuation(self, like: Tensor, q: Level, streams: Streams) -> Tensor:
        """`draw` less its mean: a sample of `N(0, (A'A / sigma^2 + I / q^2)^-1)`, shape of `like` (N, *z_shape)."""
        self._require_linear("fluctuation")
        y = per_sample(self.sigma, self._y) * streams.normal(self._y)
        return self._prox(y, per_sample(q, like) * streams.normal(like), q, None)

    def _prox(self, y: Tensor, v: Tensor, q: Level, warm: WarmStart | None) -> Tensor:
        residual = y - self.A(v)
        if self.gram is not None:
            # Woodbury: H^-1 A'/sigma^2 = q^2 A' (sigma^2 + q^2 AA')^-1, one product with A and one with A'.
            return v + per_sample(q, v) ** 2 * self.At(self.gram.function(self._inverse(q**2), residual))
        # Multiplied by q^2 the system is I + (q / sigma)^2 A'A: its floats stay near 1 at every noise level.
        ratio = per_sample((q / self.sigma) ** 2, v)
        warm = warm or WarmStart()
        warm.solution = conjugate_gradient(
            lambda p: p + ratio * self._normal(p), ratio * self.At(residual), self._iterations, warm.solution
        )
        return v + warm.solution

    def solve(self, cov: Covariance, r: Tensor, iterations: int | None = None) -> Tensor:
        """P2: `(sigma^2 I + A C A')^-1 r` for `r` (N, *measurement).

        A variance has a closed form through `gram`; a product costs one call of `cov` per iteration, from zero.
        """
        if callable(cov):
            return self.solve_carrying(cov, r, iterations)[0]
        self._require_linear("solve")
        if self.gram is not None:
            return self.gram.function(self._inverse(cov), r)
        variance, noise = per_sample(cov, r), per_sample(self.sigma, r) ** 2
        return conjugate_gradient(
            lambda p: noise * p + variance * self.A(self.At(p)), r, iterations or self._iterations
        )

    def solve_carrying(
        self, cov: Callable[[Tensor], Tensor], r: Tensor, iterations: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """`u = (sigma^2 I + A C A')^-1 r` and `C A'u` (N, *z_shape) for exactly `iterations` calls of `cov`."""
        self._require_linear("solve")
        noise = per_sample(self.sigma, r) ** 2

        def matvec(p: Tensor) -> tuple[Tensor, Tensor]:
            moved = cov(self.At(p))
            return noise * p + self.A(moved), moved

        return carrying_conjugate_gradient(matvec, r, iterations or self._iterations, floor=self.sigma**2)

    def spectral(self, f: Scalar, u: Tensor) -> Tensor:
        """`f(AA') u` for `u` (N, *measurement); `f` acts on eigenvalues, its constants may be (N, 1, ..., 1)."""
        self._require_linear("spectral")
        if self.gram is None:
            raise AmbientSolveError(
                f"{name_of(self._op)} has no closed-form spectrum, which this algorithm needs. "
                "Leave algorithm='auto', or choose one that works through conjugate gradients."
            )
        return self.gram.function(f, u)

    def _inverse(self, variance: Level) -> Scalar:
        """`t -> 1 / (sigma^2 + variance t)`."""
        like = self._y
        return lambda t: 1 / (per_sample(self.sigma, like) ** 2 + per_sample(variance, like) * t)

    def _require_linear(self, name: str) -> None:
        if not self.linear:
            raise AmbientSolveError(
                f"Likelihood.{name} needs a LinearPhysics and a prior whose decode is affine, not {name_of(self._op)} "
                f"with {name_of(self._prior)}. Leave algorithm='auto', or choose one that takes any operator."
            )
