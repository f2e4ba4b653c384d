"""One posterior-sampling method per file, and the names by which they are called."""

from __future__ import annotations

from ambient_solve.algorithms.base import Algorithm, Guided, State
from ambient_solve.algorithms.daps import DAPS
from ambient_solve.algorithms.ddnm import DDNM
from ambient_solve.algorithms.dps import DPS
from ambient_solve.algorithms.mmps import MMPS
from ambient_solve.algorithms.pigdm import PiGDM
from ambient_solve.algorithms.proximal import Proximal
from ambient_solve.algorithms.tds import TDS

ALGORITHMS: dict[str, type[Algorithm]] = {a.name: a for a in (DPS, MMPS, Proximal, PiGDM, DDNM, DAPS, TDS)}

__all__ = ["ALGORITHMS", "DAPS", "DDNM", "DPS", "MMPS", "TDS", "Algorithm", "Guided", "PiGDM", "Proximal", "State"]
