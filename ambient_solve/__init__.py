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

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ambient_solve.version import __version__

if TYPE_CHECKING:
    from ambient_solve import operators
    from ambient_solve.algorithms import (
        ADPS,
        ALGORITHMS,
        AOS,
        DAPS,
        DDNM,
        DDRM,
        DPS,
        FPS,
        MGPS,
        MMPS,
        SITCOM,
        TDS,
        TMPD,
        Algorithm,
        Langevin,
        PiGDM,
        PnPDM,
        Proximal,
        REDdiff,
        RePaint,
        State,
    )
    from ambient_solve.errors import AmbientSolveError
    from ambient_solve.priors.ambient import AmbientPrior
    from ambient_solve.priors.base import Prior
    from ambient_solve.priors.denoiser import DenoiserPrior, as_deepinv
    from ambient_solve.priors.gaussian import GaussianPrior, MixturePrior
    from ambient_solve.priors.load import load_prior
    from ambient_solve.priors.network import NetworkConfig, NetworkPrior
    from ambient_solve.results import Restoration, Summary
    from ambient_solve.sampling import generate
    from ambient_solve.solver import Solver
    from ambient_solve.tuning import tune

# Imported at first use: torch and deepinv take seconds, and `ambient-solve --help` needs neither.
_HOME = {
    "algorithms": "ADPS ALGORITHMS AOS DAPS DDNM DDRM DPS FPS MGPS MMPS SITCOM TDS TMPD Algorithm Langevin PiGDM PnPDM "
    "Proximal REDdiff RePaint",
    "errors": "AmbientSolveError",
    "priors.ambient": "AmbientPrior",
    "priors.base": "Prior",
    "priors.denoiser": "DenoiserPrior as_deepinv",
    "priors.gaussian": "GaussianPrior MixturePrior",
    "priors.load": "load_prior",
    "priors.network": "NetworkConfig NetworkPrior",
    "results": "Restoration Summary",
    "sampling": "generate",
    "solver": "Solver State",
    "tuning": "tune",
}
_MODULE = {name: module for module, names in _HOME.items() for name in names.split()}

__all__ = [
    "ADPS",
    "ALGORITHMS",
    "AOS",
    "DAPS",
    "DDNM",
    "DDRM",
    "DPS",
    "FPS",
    "MGPS",
    "MMPS",
    "SITCOM",
    "TDS",
    "TMPD",
    "Algorithm",
    "AmbientPrior",
    "AmbientSolveError",
    "DenoiserPrior",
    "GaussianPrior",
    "Langevin",
    "MixturePrior",
    "NetworkConfig",
    "NetworkPrior",
    "PiGDM",
    "PnPDM",
    "Prior",
    "Proximal",
    "REDdiff",
    "RePaint",
    "Restoration",
    "Solver",
    "State",
    "Summary",
    "__version__",
    "as_deepinv",
    "generate",
    "load_prior",
    "operators",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name == "operators":
        return import_module("ambient_solve.operators")
    if name not in _MODULE:
        raise AttributeError(f"module 'ambient_solve' has no attribute {name!r}")
    return getattr(import_module(f"ambient_solve.{_MODULE[name]}"), name)


def __dir__() -> list[str]:
    return __all__
