r"""Learning from noisy or masked samples by Stein's lemma (GSURE-diffusion; Kawar et al., 2024, arXiv 2305.13128).

The baseline that needs neither a further mask nor a level above the noise of the data. Stored is `A y`, where `A`
projects onto what was observed of `y = z0 + sigma_n e`. Noise of level `sigma` fills the rest,

    h = A (y + sqrt(sigma^2 - sigma_n^2) n) + (I - A) sigma n

and as `E[(A D(h))'(sigma_n e)] = sigma_n^2 E[tr(A J)]`, `J = dD / dh` (Stein, 1981), the loss

    lambda (|A (D(h; sigma) - y)|^2 + 2 sigma_n^2 tr(A J) - sigma_n^2 tr A)

has the expectation of the supervised one, `lambda |A (D - z0)|^2`, for every `D`. The trace is estimated with one
random probe, `v'A J A v` (Hutchinson, 1989): a gradient by `h` within the loss, which then is differentiated again.

Where nothing is missing the minimizer is `E[z0 | z_sigma]`. Otherwise it is `E[z0_i | h, A_i = 1]` for entry i: the
network is not shown what is missing, and must guess which entries are noise alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.knobs import check_knobs, knob
from ambient_solve.noise import Streams, per_sample
from ambient_solve.objectives.base import Batch, Denoiser, Objective, edm_weight
from ambient_solve.objectives.masked import project


@final
@dataclass(frozen=True)
class GSURE(Objective):
    """Every sample must have `batch.sigma >= batch.sigma_noise`; masks of pixels or of coefficients, or none.

    The trainer's loader keeps the buffer of the ambient target above the noise, which this loss does not need.
    """

    incomplete: ClassVar[bool] = True

    sigma_data: float = knob(0.5, 1e-6, help="standard deviation of one entry of the data")

    def __post_init__(self) -> None:
        check_knobs(self)

    def loss(self, denoise: Denoiser, batch: Batch, streams: Streams) -> Tensor:
        """See `Objective.loss`; what was observed is summed and divided by the number of all entries, as in `Masked`.

        It estimates a squared error without knowing the truth, so it may be negative. Gradients by the parameters flow
        through the trace.
        """
        if batch.maps is not None:
            raise AmbientSolveError(
                "The objective 'gsure' was given coil maps, whose A^H A is no projection; use the objective 'kspace'."
            )
        mask = torch.ones_like(batch.z) if batch.mask is None else batch.mask.to(batch.z).expand_as(batch.z)
        n = streams.normal(batch.z)
        probe = project(streams.normal(batch.z).sign(), mask, batch.signs)
        sigma, extra = batch.sigma, torch.sqrt(batch.sigma**2 - batch.sigma_noise**2)
        h = per_sample(sigma, n) * n + project(batch.z + per_sample(extra - sigma, n) * n, mask, batch.signs)
        with torch.enable_grad():
            h = h.requires_grad_()
            z0 = denoise(h, sigma).float()
            (pulled,) = torch.autograd.grad((probe * z0).sum(), h, create_graph=True)
        error = project(z0 - batch.z, mask, batch.signs).square().flatten(1).mean(1)
        trace = (probe * pulled - 0.5 * mask).flatten(1).mean(1)
        return edm_weight(sigma, self.sigma_data) * (error + 2 * batch.sigma_noise**2 * trace)
