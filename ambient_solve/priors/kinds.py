"""The kinds of checkpoints of others that are read, and how each becomes a prior."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ambient_solve.errors import AmbientSolveError, reason, suggestion
from ambient_solve.priors.adapted import AdaptedNetwork
from ambient_solve.priors.adm import Adm, read_size
from ambient_solve.priors.conditioning import NONE
from ambient_solve.priors.denoiser import DenoiserPrior
from ambient_solve.priors.edm import GROUP_CHANNELS, GROUPS, Edm, read_edm
from ambient_solve.priors.edm2 import Edm2, named_edm2, read_edm2
from ambient_solve.priors.pipeline import PipelinePrior
from ambient_solve.priors.restoration import (
    RESTORMER,
    SIGMA_MAX,
    RestorationNetwork,
    read_restoration,
    read_restormer,
    what_is_lost,
)
from ambient_solve.priors.score_sde import as_edm

Converted = PipelinePrior | DenoiserPrior
"""What a checkpoint of others becomes."""
State = Mapping[str, Tensor]
"""Tensors by name."""
SCHEDULES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}
"""The noise schedules of guided-diffusion, and what diffusers calls them."""
HEAD_CHANNELS = 64
"""Channels of an attention head in the published networks."""
MAX_HEAD = 4096
"""Channels of an attention head, at most."""
EDM = {"_class_name": "EDMEulerScheduler", "prediction_type": "epsilon", "sigma_data": 0.5}
"""What diffusers calls the preconditioning of EDM."""
PRECONDITIONINGS: dict[str, dict[str, Any]] = {
    "edm": {**EDM, "sigma_min": 0.002, "sigma_max": 80.0},
    "vp": {"_class_name": "song-vp", "sigma_min": 0.0105, "sigma_max": 152.0},
    "ve": {"_class_name": "song-ve", "sigma_min": 0.02, "sigma_max": 100.0},
}
"""Preconditionings with their levels (Karras et al., 2022, table 1); those of VP belong to its times 0.001 and 1."""


@dataclass(frozen=True)
class Made:
    """A network and what becomes of it.

    Attributes:
        network: With weights or still without.
        prior: Makes the prior of it, filled.
        words: What the file does not say and was taken as given, and what is lost: sentences for the model card.
        inner: Name in it of the module whose tensors the checkpoint names; itself unless given.
    """

    network: nn.Module
    prior: Callable[[Any], Converted]
    words: str = ""
    inner: str = ""


@dataclass(frozen=True)
class Kind:
    """A kind of checkpoint.

    Attributes:
        make: What becomes of a state dict under some settings.
        words: What it is, for the model card.
        settings: Names of its settings, and what they are unless given.
        prefix: What may stand before all of its names.
        named: The tensors under the names that `make` takes, with more settings.
    """

    make: Callable[[State, Mapping[str, Any]], Made]
    words: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    prefix: str = ""
    named: Callable[[State], tuple[dict[str, Tensor], dict[str, Any]]] = lambda state: (dict(state), {})


def _shapes(state: State) -> dict[str, tuple[int, ...]]:
    return {name: tuple(t.shape) for name, t in state.items()}


def _head(settings: Mapping[str, Any]) -> int:
    head = settings.get("head_channels", HEAD_CHANNELS)
    if type(head) is not int or not 1 <= head <= MAX_HEAD:
        raise AmbientSolveError(f"head_channels = {head!r}; a whole number from 1 to {MAX_HEAD} was expected.")
    return head


def _guided_diffusion(state: State, settings: Mapping[str, Any]) -> Made:
    head, schedule = _head(settings), settings.get("schedule", "linear")
    if schedule not in SCHEDULES:
        raise AmbientSolveError(f"schedule = {schedule!r} is not a choice. {suggestion(str(schedule), SCHEDULES)}")
    scheduler = {"_class_name": "DDPMScheduler", "beta_schedule": SCHEDULES[schedule], "num_train_timesteps": 1000}
    size = read_size(_shapes(state), head)
    with torch.device("meta"):
        network = Adm(size)
    shown = settings.get("conditioning", NONE)
    many = (size.channels, size.out_channels, len(size.multiples), size.classes)
    return Made(
        network,
        lambda filled: PipelinePrior(AdaptedNetwork(filled, "input_blocks.0.0", *many), scheduler, shown),
        f"Taken as given, since the file does not say it: the {schedule} noise schedule of 1000 steps, and {head} "
        "channels of an attention head.",
    )


def _edm(state: State, settings: Mapping[str, Any]) -> Made:
    if "u" in state and "model.map_layer0.weight" in state:
        raise AmbientSolveError(
            "The checkpoint was trained under the preconditioning of iDDPM (it holds its schedule u), which is not "
            "read: kind edm expects that of EDM, VP or VE."
        )
    size, scheduler = read_edm(_shapes(state), _head(settings)), _preconditioning(settings)
    try:
        with torch.device("meta"):
            network = Edm(size)
    except (ValueError, ZeroDivisionError) as error:
        why = reason(error)
        raise AmbientSolveError(f"The checkpoint is no network of EDM ({why}): choose another --kind.") from None
    shown = settings.get("conditioning", NONE)
    many = (size.channels, size.out_channels, len(size.widths), size.classes, not size.residual)
    name, low, high = settings.get("preconditioning"), scheduler["sigma_min"], scheduler["sigma_max"]
    words = [
        f"Taken as given, since the file does not say it: the preconditioning of {str(name).upper()} (table 1 of "
        f"Karras et al., 2022), pictures in [-1, 1], and levels from {low:g} to {high:g}. The names are the same under "
        "another preconditioning, under which the weights mean something else."
    ]
    if name == "edm":
        words.append("The standard deviation of the data, sigma_data, is 0.5.")
    if settings.get("kind") == "edm":
        words.append(f"Its names say that it was trained on pictures of {size.resolution} by {size.resolution}.")
    elif not size.residual:
        words.append("It adds no picture at its levels, and is taken for a DDPM++, whose resolution changes by means.")
    if size.adm:
        words.append(f"An attention head has {size.head_channels} channels.")
    if size.width < GROUPS * GROUP_CHANNELS:
        words.append(f"A normalization has at least {GROUP_CHANNELS} channels in a group, as EDM has it.")
    return Made(
        network,
        lambda filled: PipelinePrior(AdaptedNetwork(filled, network.entry, *many), scheduler, shown),
        " ".join(words),
    )


def _edm2(state: State, settings: Mapping[str, Any]) -> Made:
    size = read_edm2(_shapes(state), _head(settings))
    with torch.device("meta"):
        network = Edm2(size)
    scheduler, shown = PRECONDITIONINGS["edm"], settings.get("conditioning", NONE)
    many = (size.channels, size.channels, len(size.widths), size.classes, False)
    return Made(
        network,
        lambda filled: PipelinePrior(AdaptedNetwork(filled, network.entry, *many), scheduler, shown),
        f"Its names say that it was trained on pictures of {size.resolution} by {size.resolution}. Taken as given, "
        "since the file does not say it: the preconditioning of EDM with sigma_data = 0.5, pictures in [-1, 1], levels "
        f"from 0.002 to 80, {size.head_channels} channels of an attention head, and the shares of the paper in sums "
        "(0.3) and concatenations (0.5).",
    )


def _preconditioning(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a network of EDM is called by, as `parameterization` takes it."""
    name = settings.get("preconditioning")
    if name not in PRECONDITIONINGS or (name == "edm" and settings.get("kind") == "score-sde"):
        most = [n for n in PRECONDITIONINGS if n != "edm" or settings.get("kind") != "score-sde"]
        given = "not given" if name is None else f"{str(name)[:60]!r}"
        raise AmbientSolveError(
            f"preconditioning is {given}, and the file does not say under which process it was trained: say "
            f"--preconditioning {' or '.join(most)}."
        )
    ends = {key: settings[key] for key in ("sigma_min", "sigma_max") if name == "ve" and key in settings}
    bad = next((key for key, value in ends.items() if type(value) not in (int, float)), None)
    if bad:
        raise AmbientSolveError(f"{bad} = {str(ends[bad])[:60]!r}; a number above 0 was expected.")
    return {**PRECONDITIONINGS[name], **ends}


def _deepinv(state: State, settings: Mapping[str, Any]) -> Made:
    import deepinv

    shapes = _shapes(state)
    if RESTORMER in shapes:
        restormer, channels = read_restormer(shapes)
        return _restoring(restormer, channels, "Restormer")
    if "m_head.weight" in shapes:
        out, given = shapes.get("m_tail.weight", (0, 0))[0], shapes["m_head.weight"]
        make: Callable[[], nn.Module] = lambda: deepinv.models.DRUNet(out, out, pretrained=None)  # noqa: E731
        channels, top = given[1] - 1, 2.0  # trained for noise up to one, in units of [0, 1]
    elif "in_conv.weight" in shapes:
        channels, top = shapes["in_conv.weight"][1], 0.2
        depth, width = 2 + sum(n.startswith("conv_list.") and n.endswith("weight") for n in shapes), 0
        width, bias = shapes["in_conv.weight"][0], "in_conv.bias" in shapes
        make = lambda: deepinv.models.DnCNN(channels, channels, depth, bias, width, pretrained=None)  # noqa: E731
    else:
        raise AmbientSolveError(
            "The checkpoint is no DRUNet and no DnCNN of deepinv, and no Restormer: m_head.weight, in_conv.weight and "
            f"{RESTORMER} are missing. Choose another --kind."
        )
    network = make().to("meta")
    return Made(network, lambda filled: DenoiserPrior(filled, channels, sigma_max=top))


def _spandrel(state: State, settings: Mapping[str, Any]) -> Made:
    return _restoring(*read_restoration(state))


def _restoring(network: RestorationNetwork, channels: int, name: str) -> Made:
    prior = lambda filled: DenoiserPrior(filled, channels, sigma_max=SIGMA_MAX)  # noqa: E731
    return Made(network, prior, f"The network is a {name}. {what_is_lost(network.takes_level)}", "network")


KINDS = {
    "guided-diffusion": Kind(
        _guided_diffusion,
        "U-Net of guided-diffusion (ADM), which predicts the noise of pictures in [-1, 1]",
        settings={"head_channels": HEAD_CHANNELS, "schedule": "linear"},
    ),
    "edm": Kind(
        _edm,
        "U-Net of EDM (DDPM++, NCSN++ or ADM)",
        settings={"head_channels": HEAD_CHANNELS, "preconditioning": "edm"},
        prefix="model.",
    ),
    "edm2": Kind(
        _edm2,
        "magnitude-preserving U-Net of EDM2",
        settings={"head_channels": HEAD_CHANNELS},
        named=named_edm2,
    ),
    "score-sde": Kind(
        _edm,
        "network of score_sde (DDPM++, or NCSN++ for small pictures), under the names of EDM",
        settings={"preconditioning": None},
        named=as_edm,
    ),
    "deepinv": Kind(_deepinv, "restoration network, read by deepinv: a denoiser of low noise, no generator"),
    "spandrel": Kind(_spandrel, "restoration network, read by spandrel"),
}
"""The kinds of checkpoints that are read."""
