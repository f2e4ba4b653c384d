"""Learn diffusion priors from the data you really have, and draw honest posterior samples with them.

Tensor conventions, everywhere in this package:

    z        state in the prior's space, (B, *prior.shape), float32; z_sigma = z0 + sigma * n
    x        image in the operator's space, (B, C, *spatial), x = prior.decode(z); photographs in [0, 1]
    sigma    noise level in z units, a float or (B,)
    y, op    measurement and the deepinv physics that made it, used as they are, never changed
    sigma_y  measurement noise in x units, from op.noise_model unless given
    samples  result, (B, S, C, *spatial)
"""

from __future__ import annotations

from ambient_solve.algorithms import ALGORITHMS, DAPS, DDNM, DPS, MMPS, TDS, Algorithm, PiGDM, Proximal
from ambient_solve.errors import AmbientSolveError
from ambient_solve.priors.base import Prior
from ambient_solve.priors.load import load_prior
from ambient_solve.priors.network import NetworkConfig, NetworkPrior
from ambient_solve.solver import Restoration, Solver, State
from ambient_solve.version import __version__

__all__ = [
    "ALGORITHMS",
    "DAPS",
    "DDNM",
    "DPS",
    "MMPS",
    "TDS",
    "Algorithm",
    "AmbientSolveError",
    "NetworkConfig",
    "NetworkPrior",
    "PiGDM",
    "Prior",
    "Proximal",
    "Restoration",
    "Solver",
    "State",
    "__version__",
    "load_prior",
]
