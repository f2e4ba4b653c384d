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

import lazy_loader

from ambient_solve.version import __version__

# Those of __init__.pyi, imported at first use: torch and deepinv take seconds, `ambient-solve --help` needs neither.
__getattr__, __dir__, _public = lazy_loader.attach_stub(__name__, __file__)
__all__ = [*_public, "__version__"]
