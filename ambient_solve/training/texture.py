r"""Iteration 0: the stationary Gaussian that explains incomplete, noisy pictures best, by EM in that family.

    z0 = mean + R w,      w_c independent, stationary, of spectrum S_c(f);      R orthogonal, mixes the channels

one number per channel, frequency and mean: a family that a few hundred pictures with most of their pixels missing
determine, and in which both steps of EM are exact:

    E   a posterior sample of every picture,  x + C A' (A C A' + sigma^2 I)^-1 (y - A x - sigma n),  x ~ N(mean, C)
        (Matheron's rule; one run of conjugate gradients, C by FFT)
    M   mean_c = the mean of channel c,   S_c(f) = the mean of |F (R'(z0 - mean))_c(f)|^2 over the pictures

R holds the eigenvectors of the covariance of the channels of a pixel, estimated once from the pixels observed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import torch
from safetensors.torch import load_file
from torch import Tensor
from tqdm import trange

from ambient_solve.data.sample import Sample
from ambient_solve.errors import AmbientSolveError
from ambient_solve.likelihood import Likelihood
from ambient_solve.noise import Level, Streams
from ambient_solve.priors.base import Prior, Vjp
from ambient_solve.priors.gaussian import GaussianPrior
from ambient_solve.saving import save_tensors
from ambient_solve.training.expectation import measurement


@final
class Texture(Prior):
    """`mean` (C,), `spectrum` (C, H, W) in the orthonormal `fft2` order, `mixing` R (C, C): all float64."""

    sigma_jacobian = math.inf

    def __init__(self, mean: Tensor, spectrum: Tensor, mixing: Tensor, scale: float = 0.5, offset: float = 0.5) -> None:
        super().__init__()
        turned = (mixing.T @ mean)[:, None, None].expand(spectrum.shape)
        self.inner = GaussianPrior.stationary(turned, spectrum, scale=scale, offset=offset)
        for name, tensor in (("mean", mean), ("spectrum", spectrum), ("mixing", mixing)):
            self.register_buffer(name, tensor)
        self.shape, self.sigma_data = tuple(spectrum.shape), self.inner.sigma_data
        self.sigma_min, self.sigma_max = self.inner.sigma_min, self.inner.sigma_max

    @property
    def affine(self) -> tuple[float, float]:
        """`decode(z) = scale * z + offset`."""
        return self.inner.affine

    def turn(self, z: Tensor) -> Tensor:
        """`R'z`, (B, C, H, W)."""
        return torch.einsum("cd,bchw->bdhw", self.mixing.to(z), z)

    def back(self, w: Tensor) -> Tensor:
        """`R w`, (B, C, H, W)."""
        return torch.einsum("cd,bdhw->bchw", self.mixing.to(w), w)

    def denoise(self, z: Tensor, sigma: Level, cond: Any = None) -> Tensor:
        """See `Prior.denoise`: exact, as white noise stays white under R."""
        return self.back(self.inner.denoise(self.turn(z), sigma))

    def denoise_vjp(self, z: Tensor, sigma: Level, cond: Any = None, *, once: bool = False) -> tuple[Tensor, Vjp]:
        """See `Prior.denoise_vjp`, in closed form."""
        w0, vjp = self.inner.denoise_vjp(self.turn(z), sigma, once=once)
        return self.back(w0), lambda v: self.back(vjp(self.turn(v)))

    def times(self, v: Tensor) -> Tensor:
        """`C v`, shape of `v` (B, *shape)."""
        flat = self.turn(v).flatten(1).double()
        return self.back(self.inner.components.times(flat)[0].to(v).reshape(v.shape))

    def draw(self, like: Tensor, streams: Streams) -> Tensor:
        """A sample of this Gaussian for each row.

        Args:
            like: Gives the shape (B, *shape), the dtype and the device.
            streams: Where the noise comes from; row i depends on stream i.

        Returns:
            (B, *shape).
        """
        # Turned first: with `back` after it this is a symmetric root, the same whatever signs the columns of R have.
        unit, rows = self.turn(streams.normal(like)).flatten(1).double(), torch.zeros(len(like), dtype=torch.long)
        return self.back(self.inner.components.sample(rows.to(like.device), unit).to(like).reshape(like.shape))

    def posterior_draw(self, likelihood: Likelihood, streams: Streams, iterations: int) -> Tensor:
        """A sample of the posterior for each measurement, by Matheron's rule.

        Args:
            likelihood: The measurements, B rows.
            streams: Where the noise comes from.
            iterations: Steps of conjugate gradients.

        Returns:
            (B, *shape).
        """
        x = self.draw(torch.empty(likelihood.rows, *self.shape, device=self.device), streams)
        residual = likelihood.residual(x)
        residual = residual - likelihood.sigma.reshape(-1, 1, 1, 1) * streams.normal(residual)
        return x + likelihood.solve_carrying(self.times, residual, iterations)[1]

    def save(self, path: Path) -> None:
        """Write mean, spectrum and mixing as one safetensors file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {name: getattr(self, name).cpu().contiguous() for name in ("mean", "spectrum", "mixing")}
        save_tensors({**tensors, "affine": torch.tensor(self.affine, dtype=torch.float64)}, path)

    @classmethod
    def load(cls, path: Path) -> Texture:
        """Read what `save` wrote."""
        stored = load_file(path)
        return cls(stored["mean"], stored["spectrum"], stored["mixing"], *stored["affine"].tolist())


@torch.no_grad()
def fit_texture(
    samples: Sequence[Sample],
    *,
    seed: int,
    em_iterations: int = 12,
    most: int = 256,
    iterations: int = 40,
    floor: float = 0.005,
    affine: tuple[float, float] = (0.5, 0.5),
    device: torch.device | str = "cpu",
) -> Texture:
    """The stationary Gaussian that explains damaged pictures best, by EM.

    Args:
        samples: Damaged pictures (C, H, W) of one size, no scans.
        seed: Decides the posterior draws.
        em_iterations: Iterations of EM; 0 is the first guess.
        most: Pictures that are used at most.
        iterations: Steps of conjugate gradients of a draw.
        floor: Least noise of a picture, in units of z.
        affine: (a, b) of `x = a z + b`.
        device: Where the draws are computed.

    Returns:
        The Gaussian.

    Raises:
        AmbientSolveError: the pictures have several sizes, or are scans.
    """
    shapes = {tuple(s.z.shape) for s in samples}
    if len(shapes) != 1:
        raise AmbientSolveError(
            f"The pictures have {len(shapes)} sizes; the Gaussian of iteration 0 needs one. Cut them to one size, or "
            "give the prior of iteration 0 with --init."
        )
    if any(s.maps is not None for s in samples):
        raise AmbientSolveError(
            "The Gaussian of iteration 0 is fitted to pictures, these are scans: give its prior with --init, such as "
            "one of L1-wavelet pictures (ambient-solve mri-train --target l1)."
        )
    samples = list(samples[:most])
    prior = _first_guess(samples, affine).to(device)
    y, op, sigma = measurement(samples, prior, floor)
    likelihood = Likelihood(y, op, prior, sigma_y=sigma)
    for iteration in trange(em_iterations, desc="iteration 0: Gaussian", unit="iteration", leave=False):
        streams = Streams([_seed(seed, iteration, i) for i in range(len(samples))], 1, prior.device)
        z = prior.posterior_draw(likelihood, streams, iterations).double()
        mean = z.mean((0, 2, 3))
        power = torch.fft.fft2(prior.turn(z - mean[:, None, None]), norm="ortho").abs().square().mean(0)
        prior = Texture(mean, power, prior.mixing, *affine)
    return prior


def _seed(seed: int, iteration: int, index: int) -> int:
    return (seed * 1_000_003 + iteration) * 1_000_003 + index


def _first_guess(samples: list[Sample], affine: tuple[float, float]) -> Texture:
    """Mean and covariance of the channels from the pixels observed, and the spectrum `1 / f^2` of photographs."""
    z = torch.stack([s.z.double() for s in samples])
    whole = [s.mask is None or s.signs is not None for s in samples]
    seen = [torch.ones_like(s.z) if w else s.mask.expand_as(s.z) for s, w in zip(samples, whole, strict=True)]
    seen = torch.stack(seen).double()
    mean = (seen * z).sum((0, 2, 3)) / seen.sum((0, 2, 3)).clamp_min(1)
    centred = seen * (z - mean[:, None, None])
    pairs = torch.einsum("bchw,bdhw->cd", seen, seen).clamp_min(1)
    noise = torch.tensor([s.sigma_noise**2 for s in samples]).mean().double()
    covariance = torch.einsum("bchw,bdhw->cd", centred, centred) / pairs - noise * torch.eye(z.shape[1]).double()
    variances, mixing = torch.linalg.eigh(covariance)
    height, width = z.shape[-2:]
    f2 = torch.fft.fftfreq(height)[:, None] ** 2 + torch.fft.fftfreq(width)[None] ** 2
    shape = 1 / (f2.double() + 1 / (height * width))
    floor = 1e-3 * float(variances.clamp_min(1e-6).max())
    spectrum = variances.clamp_min(floor)[:, None, None] * shape / shape.mean()
    return Texture(mean, spectrum, mixing, *affine)
