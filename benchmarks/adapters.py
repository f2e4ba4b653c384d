"""The samplers of deepinv 0.5 and azula behind one signature, on the same prior object, in the units of each.

deepinv is given images in which the data fill [0, 1] (it clips), azula states z. Settings are the packages' own; the
name of a row with others says which. `Watched` counts what any sampler asks of a prior.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from deepinv.physics import DecomposablePhysics, GaussianNoise, Physics
from torch import Tensor

from ambient_solve import as_deepinv
from ambient_solve.evaluate.exactness import Draw
from ambient_solve.noise import Level
from ambient_solve.priors.base import Prior, Vjp
from ambient_solve.priors.wrapped import WrappedPrior

LEVELS = 100


class _Mark(torch.autograd.Function):
    """The identity, whose backward pass is noticed; in the form that torch.func takes too."""

    @staticmethod
    def forward(z: Tensor, notice: Callable[[], None]) -> Tensor:
        return z.view_as(z)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.notice = inputs[1]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        ctx.notice()
        return g, None


class Watched(WrappedPrior):
    """A prior that counts forward and backward passes, however they are asked for, and the CPU time inside them.

    Attributes:
        calls, vjps: Forward and backward passes since `reset`. inside: CPU seconds in both.
        first: When the first call began, on the clock of `time.process_time`.
    """

    def __init__(self, inner: Prior) -> None:
        super().__init__(inner)
        self.reset()

    def reset(self) -> None:
        self.calls, self.vjps, self.inside, self.first = 0, 0, 0.0, math.nan

    def denoise(self, z: Tensor, sigma: Level, cond: Any = None) -> Tensor:
        started = time.process_time()
        self.first = self.first if self.calls else started
        self.calls += 1
        graph = torch.is_grad_enabled()
        z0 = self.inner.denoise(_Mark.apply(z, self._leave) if graph else z, sigma, cond)
        z0 = _Mark.apply(z0, self._enter) if graph else z0
        self.inside += time.process_time() - started
        return z0

    def denoise_vjp(self, z: Tensor, sigma: Level, cond: Any = None, *, once: bool = False) -> tuple[Tensor, Vjp]:
        return Prior.denoise_vjp(self, z, sigma, cond, once=once)

    def _enter(self) -> None:
        self._entered = time.process_time()

    def _leave(self) -> None:
        self.vjps += 1
        self.inside += time.process_time() - self._entered


class Scaled(Prior):
    """A prior in images whose range of data, `span` in z, is [0, 1] as deepinv expects."""

    def __init__(self, inner: Prior, span: float) -> None:
        super().__init__()
        self.inner, self.shape = inner, inner.shape
        self.sigma_min, self.sigma_max, self._scale = inner.sigma_min, inner.sigma_max, 0.5 / span
        self.sigma_jacobian = inner.sigma_jacobian

    @property
    def affine(self) -> tuple[float, float]:
        return self._scale, 0.5

    def denoise(self, z: Tensor, sigma: Level, cond: Any = None) -> Tensor:
        return self.inner.denoise(z, sigma, cond)


def linear_part(y: Tensor, op: Physics, prior: Prior) -> tuple[Tensor, float]:
    """`(y - A b) / a` and the noise level of that: the measurement in z units."""
    a, b = prior.affine
    offset = op.A(torch.full((1, *prior_shape(y, op, prior)), b)) if b else 0.0
    return (y - offset) / a, float(op.noise_model.sigma) / abs(a)


def prior_shape(y: Tensor, op: Physics, prior: Prior) -> tuple[int, ...]:
    """Shape of one state: the prior's, or that of the operator's images where any size will do."""
    return tuple(prior.shape) if -1 not in prior.shape else tuple(op.A_adjoint(y[:1]).shape[1:])


@dataclass(frozen=True)
class Problem:
    """A measurement, `n` times, in the units of a package.

    Attributes:
        y: (n, *measurement). op: With the noise level of these units. prior: As the package wants it.
    """

    y: Tensor
    op: Physics
    prior: Prior
    shape: tuple[int, ...]
    sigma: float


def deepinv_problem(y: Tensor, op: Physics, prior: Prior, n: int, span: float) -> Problem:
    """In images in [0, 1]: `A x = c A z + A (1 / 2)`."""
    scaled, shape = Scaled(prior, span), prior_shape(y, op, prior)
    (c, half), (y_z, sigma_z) = scaled.affine, linear_part(y, op, prior)
    y = c * y_z + op.A(torch.full((1, *shape), half))
    op = copy.deepcopy(op)
    op.noise_model = GaussianNoise(c * sigma_z)
    # A copy of its own: DDRM writes into y where U is the identity.
    return Problem(y.repeat(n, *[1] * (y.ndim - 1)), op, scaled, shape, c * sigma_z)


def deepinv_dps(p: Problem, seed: int, levels: int, weight: float = 1.0, guidance: str = "norm") -> Tensor:
    from deepinv.sampling import DPS

    rng = torch.Generator().manual_seed(seed)
    settings = {"num_steps": levels + 1, "weight": weight, "guidance": guidance, "dtype": torch.float32, "rng": rng}
    return DPS(as_deepinv(p.prior), **settings)(p.y, p.op)


def deepinv_diffpir(p: Problem, seed: int, levels: int, **settings: float) -> Tensor:
    from deepinv.optim.data_fidelity import L2
    from deepinv.sampling import DiffPIR

    return DiffPIR(as_deepinv(p.prior), L2(), sigma=p.sigma, max_iter=levels, **settings)(p.y, p.op)


def deepinv_ddrm(p: Problem, seed: int, levels: int) -> Tensor:
    from deepinv.sampling import DDRM

    return DDRM(as_deepinv(p.prior), sigmas=np.linspace(1, 0, levels + 1)[:-1])(p.y, p.op)


def _posterior_diffusion(p: Problem, seed: int, levels: int, fidelity: Any) -> Tensor:
    from deepinv.sampling import DDPMSolver, PosteriorDiffusion, VariancePreservingDiffusion

    real = torch.float32
    solver = DDPMSolver(torch.linspace(1, 0, levels + 1, dtype=real), rng=torch.Generator().manual_seed(seed))
    sde = VariancePreservingDiffusion(alpha=1.0, dtype=real)
    return PosteriorDiffusion(fidelity, as_deepinv(p.prior), sde, solver, dtype=real)(p.y, p.op)


def deepinv_pigdm(p: Problem, seed: int, levels: int) -> Tensor:
    from deepinv.sampling import PiGDMDataFidelity

    return _posterior_diffusion(p, seed, levels, PiGDMDataFidelity())


def deepinv_moment_matching(p: Problem, seed: int, levels: int, k: int = 3) -> Tensor:
    from deepinv.sampling import MomentMatchingDataFidelity

    return _posterior_diffusion(p, seed, levels, MomentMatchingDataFidelity(cg_max_iter=k))


def azula_problem(y: Tensor, op: Physics, prior: Prior, n: int, span: float) -> Problem:
    """In z units, one measurement a row: azula's solvers work on the last axis."""
    y_z, sigma = linear_part(y, op, prior)
    return Problem(y_z.flatten(1).expand(n, -1), op, prior, prior_shape(y, op, prior), sigma)


def _flat(p: Problem) -> Callable[[Tensor], Tensor]:
    """`A` on states (n, d)."""
    return lambda z: p.op.A(z.unflatten(1, p.shape)).flatten(1)


def _azula(p: Problem) -> Any:
    """The prior as azula's denoiser of `x_t = alpha z0 + s n`, variance preserving, between the same levels."""
    from azula.denoise import Denoiser, DiracPosterior
    from azula.noise import VPSchedule

    class View(Denoiser):
        schedule = VPSchedule(alpha_min=(1 + p.prior.sigma_max**2) ** -0.5, sigma_min=p.prior.sigma_min)

        def forward(self, x_t: Tensor, t: Tensor) -> DiracPosterior:
            alpha, sigma = self.schedule(t)
            z = (x_t / alpha).unflatten(1, p.shape)
            return DiracPosterior(p.prior.denoise(z, sigma / alpha).flatten(1))

    return View()


def _azula_run(p: Problem, sampler: Any) -> Tensor:
    x = sampler.init((len(p.y), math.prod(p.shape)), var=p.prior.sigma_data**2)
    return p.prior.decode(sampler(x).unflatten(1, p.shape))


def azula_dps(p: Problem, seed: int, levels: int, zeta: float = 1.0) -> Tensor:
    from azula.guidance import DPSSampler

    # Its norm is that of the whole batch, sqrt(n) times that of one sample: the step of a run of its own, on average.
    zeta = zeta * len(p.y) ** 0.5
    return _azula_run(p, DPSSampler(_azula(p), p.y, _flat(p), zeta, steps=levels, silent=True))


def azula_pgdm(p: Problem, seed: int, levels: int) -> Tensor:
    from azula.guidance import PGDMSampler

    like = p.op.A(torch.zeros(1, *p.shape)).shape[1:]
    inverse = lambda u: p.op.A_dagger(u.unflatten(1, like)).flatten(1)  # noqa: E731
    return _azula_run(p, PGDMSampler(_azula(p), p.y, _flat(p), inverse, eta=1.0, steps=levels, silent=True))


def azula_tmpd(p: Problem, seed: int, levels: int) -> Tensor:
    from azula.guidance import TMPDenoiser

    return _azula_ancestral(p, TMPDenoiser(_azula(p), p.y, _flat(p), p.sigma**2), levels)


def azula_mmps(p: Problem, seed: int, levels: int, k: int = 1) -> Tensor:
    from azula.guidance import MMPSDenoiser
    from azula.linalg.covariance import IsotropicCovariance

    noise = IsotropicCovariance(torch.tensor(p.sigma**2))
    return _azula_ancestral(p, MMPSDenoiser(_azula(p), p.y, _flat(p), noise, iterations=k), levels)


def azula_diffpir(p: Problem, seed: int, levels: int, **settings: float) -> Tensor:
    from azula.guidance import DiffPIRDenoiser

    return _azula_ancestral(p, DiffPIRDenoiser(_azula(p), p.y, _flat(p), p.sigma**2, **settings), levels)


def _azula_ancestral(p: Problem, denoiser: Any, levels: int) -> Tensor:
    from azula.sample import DDPMSampler

    return _azula_run(p, DDPMSampler(denoiser, steps=levels, silent=True))


@dataclass(frozen=True)
class Peer:
    """A sampler of another package.

    Attributes:
        ours: The algorithm of `ambient_solve.algorithms.ALGORITHMS` that follows the same paper.
        spectral: Whether it needs deepinv's singular vectors.
    """

    ours: str
    problem: Callable[..., Problem]
    run: Callable[..., Tensor]
    settings: dict[str, Any] = field(default_factory=dict)
    spectral: bool = False

    def refuses(self, op: Physics) -> str:
        """Why it cannot work with `op`; empty where it can."""
        lacks = self.spectral and not isinstance(op, DecomposablePhysics)
        return "needs a DecomposablePhysics" if lacks else ""

    def prepare(
        self,
        y: Tensor,
        op: Physics,
        prior: Prior,
        n: int = 1,
        seed: int = 0,
        *,
        levels: int = LEVELS,
        span: float = 1.0,
    ) -> Callable[[], Tensor]:
        """A call that draws `n` images (n, *shape) of one measurement `y` (1, *measurement).

        `span` is the largest |z| of the data. Units are converted here, so that a clock round the call sees none of it.
        """
        problem = self.problem(y, op, prior, n, span)

        def call() -> Tensor:
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                torch.manual_seed(seed)
                x = self.run(problem, seed, levels, **self.settings).float()
            # Back from the package's images to those of the operator, by way of z.
            return prior.decode(problem.prior.encode(x))

        return call

    def draw(self, span: float, levels: int = LEVELS) -> Draw:
        """The signature that the tables below use."""
        return lambda y, op, prior, n, seed: self.prepare(y, op, prior, n, seed, levels=levels, span=span)()


PEERS = {
    "deepinv DPS": Peer("dps", deepinv_problem, deepinv_dps),
    "deepinv DPS, weight 300": Peer("dps", deepinv_problem, deepinv_dps, {"weight": 300.0}),
    "deepinv DDRM": Peer("ddrm", deepinv_problem, deepinv_ddrm, spectral=True),
    "deepinv DiffPIR": Peer("proximal", deepinv_problem, deepinv_diffpir),
    "deepinv DiffPIR, lambda 1, zeta 1": Peer(
        "proximal", deepinv_problem, deepinv_diffpir, {"lambda_": 1.0, "zeta": 1.0}
    ),
    "deepinv PiGDM": Peer("pigdm", deepinv_problem, deepinv_pigdm),
    "deepinv MomentMatching": Peer("mmps", deepinv_problem, deepinv_moment_matching),
    "azula DPS": Peer("dps", azula_problem, azula_dps),
    "azula DPS, zeta 0.1": Peer("dps", azula_problem, azula_dps, {"zeta": 0.1}),
    "azula PGDM": Peer("pigdm", azula_problem, azula_pgdm),
    "azula TMPD": Peer("tmpd", azula_problem, azula_tmpd),
    "azula MMPS": Peer("mmps", azula_problem, azula_mmps),
    "azula MMPS, 3 iterations": Peer("mmps", azula_problem, azula_mmps, {"k": 3}),
    "azula DiffPIR": Peer("proximal", azula_problem, azula_diffpir),
    "azula DiffPIR, lambda 1": Peer("proximal", azula_problem, azula_diffpir, {"lmbda": 1.0}),
}
