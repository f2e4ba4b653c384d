"""One posterior-sampling method per file, and the names by which they are called."""

from __future__ import annotations

from ambient_solve.algorithms.adps import ADPS
from ambient_solve.algorithms.aos import AOS
from ambient_solve.algorithms.base import Algorithm, Guided, State, documented
from ambient_solve.algorithms.daps import DAPS
from ambient_solve.algorithms.ddnm import DDNM
from ambient_solve.algorithms.ddrm import DDRM
from ambient_solve.algorithms.dps import DPS
from ambient_solve.algorithms.fps import FPS
from ambient_solve.algorithms.langevin import Langevin
from ambient_solve.algorithms.latino import LATINO
from ambient_solve.algorithms.ldps import LDPS
from ambient_solve.algorithms.mgps import MGPS
from ambient_solve.algorithms.mmps import MMPS
from ambient_solve.algorithms.pigdm import PiGDM
from ambient_solve.algorithms.pnpdm import PnPDM
from ambient_solve.algorithms.proximal import Proximal
from ambient_solve.algorithms.psld import PSLD
from ambient_solve.algorithms.reddiff import REDdiff
from ambient_solve.algorithms.repaint import RePaint
from ambient_solve.algorithms.sitcom import SITCOM
from ambient_solve.algorithms.soft import SoftRestoration
from ambient_solve.algorithms.tds import TDS
from ambient_solve.algorithms.tmpd import TMPD

ALGORITHMS: dict[str, type[Algorithm]] = {
    a.name: documented(a)
    for a in (
        *(DPS, MMPS, Proximal, PiGDM, TMPD, DDNM, DDRM, DAPS, PnPDM, Langevin, REDdiff, SITCOM, MGPS, RePaint),
        *(TDS, FPS),
        *(ADPS, AOS),
        *(PSLD, LDPS, LATINO),
        SoftRestoration,
    )
}

__all__ = [
    "ADPS",
    "ALGORITHMS",
    "AOS",
    "DAPS",
    "DDNM",
    "DDRM",
    "DPS",
    "FPS",
    "LATINO",
    "LDPS",
    "MGPS",
    "MMPS",
    "PSLD",
    "SITCOM",
    "TDS",
    "TMPD",
    "Algorithm",
    "Guided",
    "Langevin",
    "PiGDM",
    "PnPDM",
    "Proximal",
    "REDdiff",
    "RePaint",
    "SoftRestoration",
    "State",
]
