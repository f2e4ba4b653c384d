"""The public names; `__init__.py` imports each at first use."""

from . import operators as operators
from .algorithms import ADPS as ADPS
from .algorithms import ALGORITHMS as ALGORITHMS
from .algorithms import AOS as AOS
from .algorithms import DAPS as DAPS
from .algorithms import DDNM as DDNM
from .algorithms import DDRM as DDRM
from .algorithms import DPS as DPS
from .algorithms import FPS as FPS
from .algorithms import MGPS as MGPS
from .algorithms import MMPS as MMPS
from .algorithms import SITCOM as SITCOM
from .algorithms import TDS as TDS
from .algorithms import TMPD as TMPD
from .algorithms import Algorithm as Algorithm
from .algorithms import Langevin as Langevin
from .algorithms import PiGDM as PiGDM
from .algorithms import PnPDM as PnPDM
from .algorithms import Proximal as Proximal
from .algorithms import REDdiff as REDdiff
from .algorithms import RePaint as RePaint
from .algorithms import State as State
from .blind import Family as Family
from .blind import Unknown as Unknown
from .errors import AmbientSolveError as AmbientSolveError
from .errors import MisfitWarning as MisfitWarning
from .priors.ambient import AmbientPrior as AmbientPrior
from .priors.base import Prior as Prior
from .priors.denoiser import DenoiserPrior as DenoiserPrior
from .priors.denoiser import as_deepinv as as_deepinv
from .priors.gaussian import GaussianPrior as GaussianPrior
from .priors.gaussian import MixturePrior as MixturePrior
from .priors.load import load_prior as load_prior
from .priors.network import NetworkConfig as NetworkConfig
from .priors.network import NetworkPrior as NetworkPrior
from .results import Restoration as Restoration
from .results import Summary as Summary
from .sampling import generate as generate
from .solver import Solver as Solver
from .tuning import tune as tune

__version__: str
