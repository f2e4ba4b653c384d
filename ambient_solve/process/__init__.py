"""Forward processes: what a level means, the grid of levels, and the reverse step.

`Additive` noise is the default; `Soft` adds a linear corruption, such as a blur, and `Drift` is a stochastic
differential equation of any drift. `base` derives the one step that DDIM, cold and soft samplers are settings of.
"""

from ambient_solve.process.additive import Additive as Additive
from ambient_solve.process.additive import ancestral_noise as ancestral_noise
from ambient_solve.process.additive import karras as karras
from ambient_solve.process.additive import log_linear as log_linear
from ambient_solve.process.base import SAMPLERS as SAMPLERS
from ambient_solve.process.base import Process as Process
from ambient_solve.process.base import degrade_again as degrade_again
from ambient_solve.process.base import noise_shares as noise_shares
from ambient_solve.process.base import share_kept as share_kept
from ambient_solve.process.drift import Drift as Drift
from ambient_solve.process.drift import Transition as Transition
from ambient_solve.process.drift import linear_transition as linear_transition
from ambient_solve.process.families import Downsample as Downsample
from ambient_solve.process.families import Fade as Fade
from ambient_solve.process.families import GaussianBlur as GaussianBlur
from ambient_solve.process.families import Identity as Identity
from ambient_solve.process.families import LinearFamily as LinearFamily
from ambient_solve.process.schedule import equal_distances as equal_distances
from ambient_solve.process.schedule import gaussian_distance as gaussian_distance
from ambient_solve.process.settings import FAMILIES as FAMILIES
from ambient_solve.process.settings import SoftSettings as SoftSettings
from ambient_solve.process.settings import checked_settings as checked_settings
from ambient_solve.process.soft import Soft as Soft
