"""What there is to choose on the tab for scans: the methods, and the priors of complex pictures."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from ambient_solve.app.desk import LONG
from ambient_solve.app.loaded import kept_prior
from ambient_solve.app.scans.values import ScanControls
from ambient_solve.app.wiring import libraries
from ambient_solve.distributed import choose_device
from ambient_solve.errors import AmbientSolveError

OWN_PRIOR = "brain-mri"
"""The embedded prior that the tab starts with, where it is there."""
NEEDS_SIGPY = ("l1-wavelet", "tv")
"""Methods that need the package of that name."""


def prior_of(name: str, device: str, lane: str = "quick") -> Any:
    """See `kept_prior`; of complex pictures."""
    return kept_prior(_read_prior, name, device, lane)


def _read_prior(name: str, device: str) -> Any:
    from ambient_solve.mri.reconstruction import load_mri_prior

    return load_mri_prior(name, choose_device(device))


def priors() -> list[str]:
    """The embedded priors that make two channels, real and imaginary part; the tab's own first."""
    libraries()
    from ambient_solve.priors.load import embedded_priors, prior_folder

    found = [n for n in embedded_priors() if json.loads((prior_folder(n) / "config.json").read_text())["channels"] == 2]
    return sorted(found, key=lambda name: name != OWN_PRIOR)


def _further(names: tuple[str, ...]) -> list[str]:
    """Those of `names` that may be priors for scans: hub ids, and folders of a network of two channels."""
    libraries()
    from ambient_solve.priors.load import embedded_priors

    def fits(name: str) -> bool:
        config = Path(name) / "config.json"
        return not Path(name).exists() or (config.is_file() and json.loads(config.read_text()).get("channels") == 2)

    return [name for name in names if name not in embedded_priors() and fits(name)]


def offers(values: ScanControls) -> dict[str, Any]:
    """What there is to choose, once the page stands: it takes torch, which takes seconds."""
    import gradio as gr

    embedded = priors()
    found = [*embedded, *_further(values.rules.priors)]
    from ambient_solve.algorithms import ALGORITHMS

    updates: dict[str, Any] = {"algorithm": gr.update(choices=["auto", *ALGORITHMS])}
    updates["prior"] = gr.update(choices=found, value=embedded[0] if embedded else None)
    if embedded:
        updates |= {"method": "prior", **choose_method(ScanControls(method="prior"))}
    return updates


def choose_method(values: ScanControls) -> dict[str, Any]:
    """Show the controls of a learned prior, or hide them; and say what a method lacks."""
    import gradio as gr

    learned = values.method == "prior"
    lacks = values.method in NEEDS_SIGPY and importlib.util.find_spec("sigpy") is None
    words = "This method needs sigpy, which is not installed: `pip install 'ambient-solve[mri]'`." if lacks else ""
    return {"learned": gr.update(visible=learned), "lacking": gr.update(value=words, visible=lacks)}


def check_prior(values: ScanControls) -> None:
    """Check before the job waits for its turn that its prior may be used.

    Args:
        values: Method, prior and rules are read.

    Raises:
        AmbientSolveError: it lacks a prior, or this one is not offered.
    """
    if values.method == "prior" and not values.prior:
        raise AmbientSolveError(
            "No prior for scans is chosen: give the folder of one that ambient-solve mri-train made, or take the "
            "method l1-wavelet."
        )
    if values.method == "prior":
        values.rules.check_prior(values.prior)


def chosen_prior(values: ScanControls, lane: str = "quick") -> Any:
    """The prior that is chosen, where it is offered here.

    Args:
        values: Of the tab.
        lane: Name of the lane that works with it.

    Returns:
        The prior, loaded once for each lane; None for a method without one.

    Raises:
        AmbientSolveError: none is chosen, or it is not offered here.
    """
    check_prior(values)
    return lane_prior(values.prior, values.device, lane) if values.method == "prior" else None


def lane_prior(name: str, device: str, lane: str) -> Any:
    """The prior of a lane.

    Args:
        name: Embedded prior, folder, or hub id.
        device: Where it runs.
        lane: "quick" or "long".

    Returns:
        The prior.
    """
    return prior_of(name, device, *([lane] if lane == LONG else []))
