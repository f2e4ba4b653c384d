"""What tests share: small operators of every kind, a prior without a network, dense algebra, the form of an error."""

from __future__ import annotations

import math

import pytest
import torch
from deepinv import physics as dp
from torch import Tensor

from ambient_solve.likelihood import Likelihood
from ambient_solve.operators import MultiCoil
from ambient_solve.priors.base import Prior

NOISE = dp.GaussianNoise(0.1)


class AffinePrior(Prior):
    """Any image, `x = a z + b`; the likelihood never calls the denoiser."""

    sigma_min, sigma_max = 0.01, 80.0

    def __init__(self, a: float = 1.0, b: float = 0.0, axes: int = 3) -> None:
        super().__init__()
        self.shape, self._affine = (-1,) * axes, (a, b)

    @property
    def affine(self) -> tuple[float, float] | None:
        return self._affine

    def denoise(self, z: Tensor, sigma: object, cond: object = None) -> Tensor:
        raise AssertionError("a likelihood needs no network")


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def kernel(seed: int = 3, size: int = 3, images: int = 1) -> Tensor:
    k = rand(images, 1, size, size, seed=seed)
    return k / k.sum((-2, -1), keepdim=True)


def rotation(rows: int, columns: int) -> Tensor:
    return torch.linalg.qr(randn(rows, rows, seed=4, dtype=torch.float64))[0][:, :columns].float()


def tall() -> dp.DecomposablePhysics:
    """Orthonormal columns that do not span the measurement: f(0) acts on the rest."""
    q, shape = rotation(30, 24), (1, 6, 4)
    return dp.DecomposablePhysics(
        U=lambda x: x.flatten(1) @ q.T,
        U_adjoint=lambda y: (y @ q).reshape(-1, *shape),
        V_adjoint=lambda x: x,
        V=lambda x: x,
        mask=rand(1, *shape, seed=6) + 0.2,
        noise_model=NOISE,
    )


def complex_fourier() -> dp.LinearPhysics:
    return dp.LinearPhysics(A=torch.fft.fft2, A_adjoint=lambda y: y.shape[-1] * y.shape[-2] * torch.fft.ifft2(y).real)


OPERATORS = {
    "mask": (lambda: dp.Inpainting((3, 6, 5), mask=(rand(3, 6, 5) > 0.5).float(), noise_model=NOISE), (3, 6, 5)),
    "denoising": (lambda: dp.Denoising(NOISE), (3, 6, 5)),
    "grey": (lambda: dp.Decolorize(noise_model=NOISE), (3, 6, 5)),
    "single-coil": (lambda: dp.MRI(mask=(rand(6, 5) > 0.5).float(), noise_model=NOISE), (2, 6, 5)),
    "decimation": (lambda: dp.Downsampling((3, 6, 4), filter=None, factor=2, noise_model=NOISE), (3, 6, 4)),
    "fft-blur": (lambda: dp.BlurFFT((3, 7, 5), filter=kernel(), noise_model=NOISE), (3, 7, 5)),
    "circular-blur": (lambda: dp.Blur(filter=kernel(), padding="circular", noise_model=NOISE), (3, 6, 5)),
    "super-resolution": (lambda: dp.Downsampling((2, 8, 12), filter="bicubic", noise_model=NOISE), (2, 8, 12)),
    "tall-svd": (tall, (1, 6, 4)),
    "compressed": (lambda: dp.CompressedSensing(m=20, img_size=(1, 6, 5), noise_model=NOISE), (1, 6, 5)),
    "valid-blur": (lambda: dp.Blur(filter=kernel(), padding="valid", noise_model=NOISE), (1, 8, 7)),
    "complex": (complex_fourier, (1, 6, 5)),
    "reflect-blur": (lambda: dp.Blur(filter=kernel(), padding="reflect", noise_model=NOISE), (2, 12, 11)),
    "multi-coil": (
        lambda: dp.MultiCoilMRI(
            mask=(rand(8, 7) > 0.5).float(),
            coil_maps=randn(1, 3, 8, 7, dtype=torch.complex64),
            img_size=(8, 7),
            noise_model=NOISE,
        ),
        (2, 8, 7),
    ),
    "fused-multi-coil": (
        lambda: MultiCoil(randn(3, 8, 7, dtype=torch.complex64), (rand(8, 7) > 0.5).float(), sigma=0.1),
        (2, 8, 7),
    ),
    "stacked": (lambda: OPERATORS["mask"][0]().stack(OPERATORS["reflect-blur"][0]()), (3, 6, 5)),
    "composed": (
        lambda: dp.Downsampling((1, 12, 9), filter=None, factor=3) * dp.BlurFFT((1, 12, 9), filter=kernel(size=5)),
        (1, 12, 9),
    ),
}


def problem(name: str, images: int = 2, **settings) -> tuple[Likelihood, tuple[int, ...]]:
    torch.manual_seed(0)
    build, shape = OPERATORS[name]
    op = build()
    y = op.A(rand(images, *shape, seed=1))
    sigma = torch.linspace(0.05, 0.2, images)
    settings = {"sigma_y": sigma, "n_samples": 2, "cg_iterations": 250} | settings
    return Likelihood(y, op, AffinePrior(), **settings), shape


def dense(likelihood: Likelihood, shape: tuple[int, ...]) -> Tensor:
    """A as a float64 matrix, from its action on the identity."""
    n = torch.Size(shape).numel()
    return likelihood.A(torch.eye(n).reshape(n, *shape)).flatten(1).T.double()


def flat64(x: Tensor) -> Tensor:
    return x.flatten(1).double()


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((flat64(found) - flat64(wanted)).norm() / flat64(wanted).norm())


def one_sentence(error: pytest.ExceptionInfo | str) -> bool:
    """Short, without a traceback; at most three lines."""
    text = error if isinstance(error, str) else str(error.value)
    return 0 < len(text) < 400 and text.count("\n") < 3 and "Traceback" not in text and text.rstrip().endswith(".")


# In standard errors: an effect must exceed DECISIVE, a zero must stay below NULL. The draws are the same in every run.
DECISIVE, NULL = 6.0, 4.5


class Draws:
    """`Streams`, but one stream for all rows: a test of means needs many rows, not one stream for each."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator, dtype=like.dtype)

    def uniform(self, like: Tensor) -> Tensor:
        return torch.rand(like.shape, generator=self.generator, dtype=like.dtype)


def standard_errors(difference: Tensor) -> float:
    return float(difference.mean() / (difference.std() / math.sqrt(len(difference))))


def covariance(n: int) -> Tensor:
    """A covariance of n entries, in float64."""
    root = randn(n, n, seed=9, dtype=torch.float64)
    return root @ root.T / n + 0.1 * torch.eye(n, dtype=torch.float64)
