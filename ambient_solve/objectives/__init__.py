"""Training losses, one a file; all take a `Batch` of whatever is known of each sample."""

from ambient_solve.objectives.base import Batch, Objective
from ambient_solve.objectives.captioned import Captioned
from ambient_solve.objectives.conditional import Conditional
from ambient_solve.objectives.consistency import Consistency
from ambient_solve.objectives.denoise import Denoise
from ambient_solve.objectives.gsure import GSURE
from ambient_solve.objectives.kspace import KSpace
from ambient_solve.objectives.masked import Masked
from ambient_solve.objectives.soft import SoftMatching

OBJECTIVES: dict[str, type[Objective]] = {
    "denoise": Denoise,
    "masked": Masked,
    "kspace": KSpace,
    "consistency": Consistency,
    "conditional": Conditional,
    "captioned": Captioned,
    "gsure": GSURE,
    "soft": SoftMatching,
}
"""What a configuration calls them, their `kind`."""

__all__ = ["OBJECTIVES", "Batch", "Objective"]
