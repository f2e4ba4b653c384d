"""K Gaussian components and the linear algebra that `ambient_solve.priors.gaussian` needs of them, in two forms.

`Isotropic` holds one variance per component, `Spectral` eigenvalues in any basis. Both answer the same calls, for
`u_k = s2 (C_k + s2 I)^-1 (m_k - z)` and `s2` a squared noise level, (B, 1) or (1, 1):

    log_normal  log N(z; m_k, C_k + s2 I)        pull    sum_k weights_k u_k        dots   u_k' v
    shrink      sum_k weights_k C_k (C_k + s2 I)^-1 v                               times  C_k v
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ambient_solve.errors import AmbientSolveError


class Isotropic(nn.Module):
    """Components `N(means[k], variances[k] I)`, means (K, d). Matrix products only: never a (B, K, d) tensor."""

    means: Tensor
    variances: Tensor

    def __init__(self, means: Tensor, variances: Tensor) -> None:
        super().__init__()
        self.register_buffer("means", means)
        self.register_buffer("variances", variances)

    def residual(self, z: Tensor) -> Tensor:
        """What the methods below take for `z` (B, d): here `z` itself."""
        return z

    def log_normal(self, z: Tensor, s2: Tensor) -> Tensor:
        """Log densities of noisy states under each component.

        Args:
            z: States (B, d).
            s2: Variance of the noise, (B, 1) or (1, 1).

        Returns:
            `log N(z; m_k, C_k + s2 I)`, (B, K).
        """
        total = self.variances + s2
        distance2 = (z**2).sum(1, keepdim=True) - 2 * z @ self.means.T + (self.means**2).sum(1)
        return -0.5 * (distance2 / total + z.shape[1] * torch.log(2 * math.pi * total))

    def pull(self, z: Tensor, s2: Tensor, weights: Tensor) -> Tensor:
        """The weighted sum `sum_k weights_k u_k`.

        Args:
            z: What `residual` returns for noisy states, (B, d).
            s2: Squared noise level, (B or 1, 1).
            weights: (B, K).

        Returns:
            (B, d).
        """
        weights = weights * s2 / (self.variances + s2)
        return weights @ self.means - weights.sum(1, keepdim=True) * z

    def dots(self, z: Tensor, s2: Tensor, v: Tensor) -> Tensor:
        """The inner products `u_k'v`.

        Args:
            z: What `residual` returns for noisy states, (B, d).
            s2: Squared noise level, (B or 1, 1).
            v: Vectors, (B, d).

        Returns:
            (B, K).
        """
        return s2 / (self.variances + s2) * (v @ self.means.T - (z * v).sum(1, keepdim=True))

    def shrink(self, s2: Tensor, weights: Tensor, v: Tensor) -> Tensor:
        """The weighted sum `sum_k weights_k C_k (C_k + s2 I)^-1 v`.

        Args:
            s2: Squared noise level, (B or 1, 1).
            weights: (B, K).
            v: Vectors, (B, d).

        Returns:
            (B, d).
        """
        return (weights * self.variances / (self.variances + s2)).sum(1, keepdim=True) * v

    def sample(self, index: Tensor, unit: Tensor) -> Tensor:
        """One draw of the chosen component for each entry of `index`.

        Args:
            index: The component of each draw, (n,).
            unit: Unit noise (n, d).

        Returns:
            (n, d).
        """
        return self.means[index] + self.variances[index].sqrt()[:, None] * unit

    def times(self, v: Tensor) -> Tensor:
        """`C_k v` for v (B, d): (K, B, d)."""
        return self.variances[:, None, None] * v

    def diagonal(self) -> Tensor:
        """The variances of the entries, (K, d)."""
        return self.variances[:, None].expand_as(self.means)

    def conditioned(self, means: Tensor, A: Tensor, noise2: float, seen: Tensor) -> Spectral:
        """The components of the posterior given a linear measurement.

        Args:
            means: Their means, (K, d).
            A: (m, d).
            noise2: Variance of the measurement noise, > 0.
            seen: `C_k A' G_k^-1 A C_k` as `seen_k' seen_k`; not needed where all covariances are isotropic.

        Returns:
            The components.
        """
        # The right singular vectors of A diagonalise every posterior covariance: one rotation serves all components.
        _, singular, vh = torch.linalg.svd(A, full_matrices=True)
        gain = nn.functional.pad(singular**2, (0, A.shape[1] - len(singular)))
        v = self.variances[:, None]
        return Spectral(means, v * noise2 / (v * gain + noise2), vh.T[None])


class Spectral(nn.Module):
    """Components `N(means[k], Q_k diag(eigenvalues[k]) Q_k')`, means and eigenvalues (K, d).

    The eigenvectors are the columns of `columns`, (K, d, d), or (1, d, d) where all share one basis. Without it they
    are the real orthonormal Fourier (Hartley) basis of the last two axes of `shape`: its own inverse, it diagonalises
    every symmetric circulant matrix. No basis depends on the noise level: a level per sample costs no factorisation.
    """

    means: Tensor
    eigenvalues: Tensor
    columns: Tensor | None

    def __init__(self, means: Tensor, eigenvalues: Tensor, columns: Tensor | None, shape: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.register_buffer("means", means)
        self.register_buffer("eigenvalues", eigenvalues)
        self.register_buffer("columns", columns)
        self.shape, self.shared = shape, columns is None or len(columns) == 1

    @classmethod
    def dense(cls, means: Tensor, covariances: Tensor) -> Spectral:
        """Components from means and covariances.

        Args:
            means: (K, d).
            covariances: (K, d, d), symmetric up to rounding.

        Returns:
            The components.

        Raises:
            AmbientSolveError: a covariance has a negative eigenvalue.
        """
        eigenvalues, columns = torch.linalg.eigh((covariances + covariances.mT) / 2)
        largest = eigenvalues[:, -1:].clamp_min(torch.finfo(torch.float64).tiny)
        if (eigenvalues < -1e-6 * largest).any():
            raise AmbientSolveError(f"A covariance has the negative eigenvalue {float(eigenvalues.min()):.3g}.")
        return cls(means, eigenvalues.clamp_min(0), columns)

    def _rotate(self, v: Tensor) -> Tensor:
        """Coordinates `Q_k' v`: (B, 1 or K, d) to (B, K, d)."""
        if self.columns is not None:
            return torch.einsum("bkd,kde->bke", v, self.columns)
        f = torch.fft.fft2(v.reshape(*v.shape[:2], *self.shape), norm="ortho")
        return (f.real - f.imag).reshape(v.shape)

    def _back(self, v: Tensor) -> Tensor:
        """`Q_k v_k`: (B, K, d)."""
        return self._rotate(v) if self.columns is None else torch.einsum("bke,kde->bkd", v, self.columns)

    def _gather(self, v: Tensor) -> Tensor:
        """`sum_k Q_k v_k`, (B, d); where the basis is shared, sum first and rotate once."""
        return self._back(v.sum(1, keepdim=True))[:, 0] if self.shared else self._back(v).sum(1)

    def residual(self, z: Tensor) -> Tensor:
        """`Q_k' (m_k - z)`, (B, K, d)."""
        return self._rotate(self.means[None]) - self._rotate(z[:, None])  # a shared basis rotates z once, not K times

    def _kept(self, s2: Tensor) -> Tensor:
        """`s2 / (eigenvalues + s2)`, (B or 1, K, d)."""
        return s2[..., None] / (self.eigenvalues + s2[..., None])

    def log_normal(self, residual: Tensor, s2: Tensor) -> Tensor:
        """See `Isotropic`."""
        total = self.eigenvalues + s2[..., None]
        return -0.5 * (residual**2 / total + torch.log(2 * math.pi * total)).sum(-1)

    def pull(self, residual: Tensor, s2: Tensor, weights: Tensor) -> Tensor:
        """See `Isotropic`."""
        return self._gather(weights[..., None] * self._kept(s2) * residual)

    def dots(self, residual: Tensor, s2: Tensor, v: Tensor) -> Tensor:
        """See `Isotropic`."""
        return (self._kept(s2) * residual * self._rotate(v[:, None])).sum(-1)

    def shrink(self, s2: Tensor, weights: Tensor, v: Tensor) -> Tensor:
        """See `Isotropic`."""
        shrunk = self.eigenvalues / (self.eigenvalues + s2[..., None])
        return self._gather(weights[..., None] * shrunk * self._rotate(v[:, None]))

    def sample(self, index: Tensor, unit: Tensor) -> Tensor:
        """See `Isotropic`. By the symmetric root `Q sqrt(eigenvalues) Q'`, which is unique though its columns are not.

        Another library may return other eigenvectors; the same noise gives the same draw with all of them.
        """
        v = self._rotate(unit[:, None]) * self.eigenvalues.sqrt()  # (n, K, d)
        if self.shared:
            v = v.gather(1, index[:, None, None].expand(-1, 1, v.shape[2]))
        else:
            v = nn.functional.one_hot(index, len(self.means))[..., None] * v
        return self.means[index] + self._gather(v)

    def times(self, v: Tensor) -> Tensor:
        """See `Isotropic`."""
        return self._back(self.eigenvalues * self._rotate(v[:, None])).transpose(0, 1)

    def diagonal(self) -> Tensor:
        """See `Isotropic`."""
        if self.columns is None:  # stationary: the same variance everywhere in a channel
            grid = self.eigenvalues.reshape(-1, *self.shape)
            return grid.mean((-2, -1), keepdim=True).expand_as(grid).reshape(self.means.shape)
        return torch.einsum("kde,ke->kd", self.columns**2, self.eigenvalues)

    def conditioned(self, means: Tensor, A: Tensor, noise2: float, seen: Tensor) -> Spectral:
        """See `Isotropic`."""
        return Spectral.dense(means, self.times(torch.eye(A.shape[1]).to(A)) - seen.mT @ seen)
