"""The weights of a run: where they start, and their average in place of themselves."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import torch
from config import Config
from torch import Tensor, nn

from ambient_solve.errors import AmbientSolveError
from ambient_solve.objectives.kspace import KSpace
from ambient_solve.priors.load import prior_folder
from ambient_solve.priors.network import NetworkPrior
from ambient_solve.priors.pipeline import INDEX, PipelinePrior

SAME = "channels widths blocks unshuffle groups embedding sigma_data scale offset".split()


def starting_prior(
    config: Config, survival: float | None, device: torch.device, sharded: bool = False
) -> NetworkPrior | PipelinePrior:
    """The prior to train, on `device`, with the planes that the objective tells; from `config.init` where given.

    `survival` is the share of the pixels that it will be shown; None if it is shown everything. Parameters that will be
    `sharded` keep the plain memory layout, the only one that FSDP takes.
    """
    planes = config.objective.planes
    folder = prior_folder(config.init) if config.init else None
    if folder is not None and (folder / INDEX).is_file():
        if planes:
            raise AmbientSolveError(f"init: {config.init} is a diffusers pipeline and cannot be told {planes} planes.")
        prior = PipelinePrior.load(folder)
        if prior.shape[0] != config.network.channels:
            raise AmbientSolveError(
                f"init: {config.init} has {prior.shape[0]} channels, network.channels says otherwise."
            )
        prior.half = config.precision == "bf16"
        return prior.to(device).train().requires_grad_(True)
    missing = config.objective.missing if isinstance(config.objective, KSpace) else 0.0
    wanted = dataclasses.replace(config.network, planes=planes, survival=survival if planes else None, missing=missing)
    precision = "bfloat16" if config.precision == "bf16" else "float32"
    try:
        prior = NetworkPrior(wanted, precision)
    except (TypeError, ValueError, IndexError, RuntimeError) as error:
        raise AmbientSolveError(f"network: {error}.") from None
    if folder is not None:
        _start_from(prior, NetworkPrior.load(folder), config.init)
    prior.channels_last = not sharded
    prior.to(device).match_layout(device)
    if config.compile:
        prior.network.compile()
    return prior.train()


def _start_from(prior: NetworkPrior, saved: NetworkPrior, name: str) -> None:
    """Copy the weights; planes that `saved` was not told start with the weight 0, so that nothing changes at first."""
    for field in SAME:
        have, want = getattr(saved.config, field), getattr(prior.config, field)
        if tuple(have) != tuple(want) if isinstance(want, (tuple, list)) else have != want:
            raise AmbientSolveError(f"init: {name} has network.{field} = {have}, the configuration says {want}.")
    own, given = prior.network.state_dict(), saved.network.state_dict()
    entry = "enter.weight"
    grown = torch.zeros_like(own[entry])
    common = min(grown.shape[1], given[entry].shape[1])
    grown[:, :common] = given[entry][:, :common]
    prior.network.load_state_dict({**given, entry: grown})


@contextlib.contextmanager
def averaged(prior: nn.Module, ema: dict[str, Tensor]) -> Iterator[None]:
    """`prior` with its averaged weights, not training, for as long as the block lasts."""
    own = {k: v.detach().clone() for k, v in prior.state_dict().items()}
    prior.load_state_dict(ema)
    prior.eval()
    try:
        yield
    finally:
        prior.load_state_dict(own)
        prior.train()
