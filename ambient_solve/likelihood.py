"""A measurement `y` of a deepinv operator, seen from the prior's space: the two primitives every sampler is made of.

With `decode(z) = a z + b` and a linear operator `A`, the measurement `y = A(a z + b) + sigma_y e`, divided by `a`, is

    y_z = A z + sigma e,      y_z = (y - A b) / a,      sigma = sigma_y / a,

the only form used below ("z units"; `A` itself is not scaled). Rows are image-major: row `b * S + s` is sample `s` of
image `b`, `N = B * S`. The primitives are

    P1  prox, draw    N(z; v, q^2 I) N(y_z; A z, sigma^2 I), normalised: its mean, and a sample of it
    P2  solve         (sigma^2 I + A C A')^-1 r for a model C of the covariance of z
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from deepinv.physics import GaussianNoise, LinearPhysics, Physics, ZeroNoise
from deepinv.physics.noise import NoiseModel
from deepinv.utils import TensorList
from torch import Tensor, nn

from ambient_solve.errors import AmbientSolveError
from ambient_solve.gram import Gram, Operator, Scalar, find_gram
from ambient_solve.krylov import WarmStart, carrying_conjugate_gradient, conjugate_gradient
from ambient_solve.noise import Level, Streams, per_sample
from ambient_solve.priors.base import Prior

Measurement = Tensor | TensorList
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
        rows: N = B * S. linear: Whether `A`, `At` and the primitives exist.
        gram: AA' in closed form, or None. sigma: Noise level in z units, (N,). count: Entries observed, (N,).

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
        _check(y, op, n_samples, cg_iterations)
        device = prior.device
        tensors: list[Tensor] = []
        self._op, self._prior, self._iterations = _shadow(op, device, tensors, {}), prior, cg_iterations
        self._template = y.detach().to(device)
        packed = _pack(self._template).contiguous()
        self._images, self._samples = len(packed), n_samples
        self.rows = self._images * n_samples
        self._per_image = self._images > 1 and any(t.ndim and len(t) == self._images for t in tensors)
        self.linear = isinstance(op, LinearPhysics) and prior.affine is not None
        self._a, self._b = prior.affine or (1.0, 0.0)
        sigma = _noise_level(op, sigma_y, self._images).to(device, torch.float32) / abs(self._a)
        self.sigma = sigma.expand(self._images).repeat_interleave(n_samples)
        with torch.no_grad():
            self._fit(op, packed)

    def _fit(self, op: Physics, y: Tensor) -> None:
        """Learn shapes, blind entries and the Gram matrix from a few products, before the first network call."""
        seen = torch.ones_like(y, dtype=torch.bool)
        if isinstance(op, LinearPhysics):
            self.image_shape = _trial(op, lambda: self._adjoint(y), self._forward, y)
            seen = self._probe(op, y)
        else:
            size = tuple(getattr(op, "img_size", None) or y.shape[1:])
            self.image_shape = _trial(op, lambda: y.new_zeros(len(y), *size), self._forward, y)
        self.z_shape = tuple(self._prior.state_shape(self.image_shape))
        self.gram: Gram | None = None
        if self.linear:
            y = y - self._forward(y.new_full((len(y), *self.image_shape), self._b)) if self._b else y
            gram = find_gram(self._forward, self._adjoint, y, self._op, self._apply)
            self.gram = None if gram is None else gram.repeat(self._samples)
        # Whatever stands in entries that the operator never sees (garbage, a bright colour) must not count as misfit.
        self._y = torch.where(seen, y / self._a, 0).repeat_interleave(self._samples, 0)
        self.count = seen.flatten(1).sum(1).repeat_interleave(self._samples).float()
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
                    f"A_adjoint of {_name(op)} is not the adjoint of its A. "
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
        return self._apply(lambda rows: _pack(self._op.A(rows)), x)

    def _adjoint(self, u: Tensor) -> Tensor:
        return self._apply(lambda rows: _real(self._op.A_adjoint(_unpack(rows, self._template))), u)

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
                f"{_name(self._op)} has no closed-form spectrum, which this algorithm needs. "
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
                f"Likelihood.{name} needs a LinearPhysics and a prior whose decode is affine, not {_name(self._op)} "
                f"with {_name(self._prior)}. Leave algorithm='auto', or choose one that takes any operator."
            )


# The boundary: everything below is about what a user may hand in.


def _check(y: Any, op: Any, n_samples: int, cg_iterations: int) -> None:
    if not isinstance(op, Physics):
        raise AmbientSolveError(
            f"op is a {_name(op)}, a deepinv physics was expected. ambient_solve.operators builds common ones; wrap a "
            "function of your own as deepinv.physics.LinearPhysics(A=..., img_size=(C, H, W)) or Physics(A=...)."
        )
    for part in y.x if isinstance(y, TensorList) else [y]:
        problem = None
        if not isinstance(part, Tensor):
            problem = f"y is a {_name(part)}, a tensor (B, ...) was expected; torch.as_tensor(y) makes one."
        elif not (part.is_floating_point() or part.is_complex()):
            problem = f"y is {part.dtype}, floating point was expected; for 8-bit pictures pass y.float() / 255."
        elif part.ndim < 2 or part.numel() == 0:
            problem = f"y has shape {tuple(part.shape)}, a batch (B, ...) was expected; y[None] is a batch of one."
        elif not bool(torch.isfinite(part).all()):
            problem = "y has NaN or infinite entries. Pass y.nan_to_num() and mask those entries out of the operator."
        if problem:
            raise AmbientSolveError(problem)
    for name, value in (("n_samples", n_samples), ("cg_iterations", cg_iterations)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise AmbientSolveError(f"{name}={value!r} was given, a whole number of at least 1 was expected.")


def _noise_level(op: Physics, sigma_y: float | Tensor | None, images: int) -> Tensor:
    """The noise level in the operator's units, (1,) or (images,)."""
    if sigma_y is None:
        models = [part.noise_model for part in getattr(op, "physics_list", None) or [op]]
        models = [op.noise_model] if isinstance(op.noise_model, GaussianNoise) else models
        for model in models:
            if isinstance(model, ZeroNoise) or model is None:
                raise AmbientSolveError(f"{_name(op)} has no noise level. Pass sigma_y=..., for instance sigma_y=0.02.")
            if not isinstance(model, GaussianNoise):
                raise AmbientSolveError(
                    f"{_name(op)} has {_name(model)}; this version handles Gaussian noise. "
                    "Pass sigma_y=... to treat the noise as Gaussian of that level."
                )
        levels = [model.sigma.detach().flatten() for model in models]
        if any(not torch.equal(level, levels[0]) for level in levels):
            raise AmbientSolveError("The stacked operators have different noise levels. Pass one for all: sigma_y=...")
        sigma_y = levels[0]
    try:
        sigma = torch.as_tensor(sigma_y, dtype=torch.float32).detach().flatten()
    except (TypeError, ValueError, RuntimeError):
        raise AmbientSolveError(f"sigma_y={sigma_y!r} is not a number; pass for instance sigma_y=0.02.") from None
    if len(sigma) not in (1, images):
        raise AmbientSolveError(
            f"{len(sigma)} noise levels were given for {images} image(s). Pass one, or a tensor of shape ({images},)."
        )
    if not bool((torch.isfinite(sigma) & (sigma > 0)).all()):
        raise AmbientSolveError(
            f"The noise level is {sigma.tolist()}, it must be finite and above 0. "
            "For measurements that are almost free of noise pass a small one, such as sigma_y=0.001."
        )
    return sigma


def _trial(op: Physics, make_image: Callable[[], Tensor], forward: Operator, y: Tensor) -> tuple[int, ...]:
    """The shape of one image, after a forward pass has shown that `op` and `y` fit together."""
    try:
        image = make_image()
        shape = tuple(forward(image).shape)
    except AmbientSolveError:
        raise
    except Exception as error:  # deepinv and torch raise half a dozen types for a shape that does not fit
        problem = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
    else:
        if shape == tuple(y.shape):
            return tuple(image.shape[1:])
        problem = f"it measures {shape} from an image of shape {tuple(image.shape)}"
    size = getattr(op, "img_size", None) or getattr(op, "imsize", None)
    built = f" It was built for images of shape {tuple(size)}." if size is not None else ""
    raise AmbientSolveError(
        f"y of shape {tuple(y.shape)} does not fit {_name(op)}: {problem}.{built} "
        "Pass y as op(x) returns it, batch axis first."
    ) from None


def _shadow(module: nn.Module, device: torch.device, tensors: list[Tensor], done: dict[int, nn.Module]) -> nn.Module:
    """A shallow copy that shares the parameters, in float32 on `device`; `tensors` collects them.

    deepinv's `A` and `A_adjoint` assign attributes and buffers (image sizes, the transform of the filter). On the copy
    this does not reach the user's operator. The noise model has no part in `A`.
    """
    if isinstance(module, NoiseModel):
        return module
    if id(module) in done:
        return done[id(module)]

    def convert(value: Any) -> Any:
        if isinstance(value, nn.Module):
            return _shadow(value, device, tensors, done)
        if isinstance(value, Tensor):
            moved = value.detach().to(device)
            moved = moved.to(torch.complex64) if moved.is_complex() else moved
            tensors.append(moved.float() if moved.is_floating_point() else moved)
            return tensors[-1]
        if isinstance(value, (list, tuple)) and value and all(isinstance(v, nn.Module) for v in value):
            return type(value)(convert(v) for v in value)
        return value

    twin = done[id(module)] = copy.copy(module)
    for name, value in vars(module).items():
        table = name in ("_parameters", "_buffers", "_modules")
        twin.__dict__[name] = {k: convert(v) for k, v in value.items()} if table else convert(value)
    return twin


def _pack(y: Measurement) -> Tensor:
    """Any measurement as one real float32 tensor: complex parts as pairs, a list as one long row per image."""
    if isinstance(y, TensorList):
        return torch.cat([_pack(part).flatten(1) for part in y.x], 1)
    return torch.view_as_real(y.resolve_conj()).float() if y.is_complex() else y.float()


def _unpack(rows: Tensor, like: Measurement) -> Measurement:
    """The inverse of `_pack` for any number of rows; `like` gives the shapes."""
    if isinstance(like, TensorList):
        shapes = [(*part.shape[1:], 2) if part.is_complex() else part.shape[1:] for part in like.x]
        pieces = rows.split([torch.Size(shape).numel() for shape in shapes], 1)
        unflat = [piece.reshape(len(rows), *shape) for piece, shape in zip(pieces, shapes, strict=True)]
        return TensorList([_unpack(piece, part) for piece, part in zip(unflat, like.x, strict=True)])
    return torch.view_as_complex(rows.contiguous()) if like.is_complex() else rows


def _real(x: Tensor) -> Tensor:
    if x.is_complex():
        raise AmbientSolveError(
            "A_adjoint returned a complex image; build op on (B, 2, H, W), real and imaginary part."
        )
    return x.float()


def _name(thing: object) -> str:
    return type(thing).__name__
