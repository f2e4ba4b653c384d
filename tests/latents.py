"""What tests of latent priors share: small autoencoders whose posteriors are known, and samples from them."""

from __future__ import annotations

import torch
from deepinv.physics import LinearPhysics
from torch import Tensor

from ambient_solve.evaluate.exactness import matrix_operator
from ambient_solve.priors.autoencoder import Autoencoder
from ambient_solve.priors.gaussian import GaussianPrior
from ambient_solve.priors.latent import LatentPrior
from helpers import randn


class LinearCode(Autoencoder):
    """`Dec = S` with orthonormal columns, `Enc = S'`: that of section 8.4a of the paper's checks."""

    channels, factor, pictures = 8, 1, 32

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        q, r = torch.linalg.qr(randn(32, 8, seed=seed, dtype=torch.float64))
        self.register_buffer("S", (q * r.diagonal().sign()).float())  # the one with a positive diagonal

    def encode(self, x: Tensor) -> Tensor:
        return torch.einsum("pc,bphw->bchw", self.S, x)

    def decode(self, latent: Tensor) -> Tensor:
        return torch.einsum("pc,bchw->bphw", self.S, latent)


class Bent(Autoencoder):
    """A plane bent in space, `Dec(a, b) = (a, b + a^2 / 4, sin(a) + b / 2)`; `Enc` is its nearest point, nearly.

    Four Gauss-Newton steps from a point of the plane: exact on the surface, to a few percent off it.
    """

    channels, factor, pictures = 2, 1, 3

    def encode(self, x: Tensor) -> Tensor:
        a, b = x[:, :1], x[:, 1:2] - x[:, :1] ** 2 / 4
        for _ in range(4):
            r0, r1, r2 = x.split(1, 1)
            r0, r1, r2 = r0 - a, r1 - b - a**2 / 4, r2 - a.sin() - b / 2
            p, q = a / 2, a.cos()  # the Jacobian is ((1, 0), (p, 1), (q, 1 / 2))
            aa, ab, bb = 1 + p**2 + q**2, p + q / 2, 1.25
            ga, gb = r0 + p * r1 + q * r2, r1 + r2 / 2
            det = aa * bb - ab**2
            a, b = a + (bb * ga - ab * gb) / det, b + (aa * gb - ab * ga) / det
        return torch.cat([a, b], 1)

    def decode(self, latent: Tensor) -> Tensor:
        a, b = latent[:, :1], latent[:, 1:]
        return torch.cat([a, b + a**2 / 4, a.sin() + b / 2], 1)


def white(channels: int) -> GaussianPrior:
    """`z ~ N(0, I)`, one place."""
    return GaussianPrior(
        torch.zeros(channels, 1, 1), torch.eye(channels), sigma_min=0.01, sigma_max=80.0, sigma_data=1.0
    )


def latent_prior(code: Autoencoder) -> LatentPrior:
    return LatentPrior(white(code.channels), code)


def rows(A: Tensor, sigma_y: float, pictures: int) -> LinearPhysics:
    """A matrix (m, pictures) that acts on pictures of one place."""
    return matrix_operator(A, sigma_y, (pictures, 1, 1))
