"""The weights of a run: where they start, and their average in place of themselves."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ambient_solve.errors import AmbientSolveError
from ambient_solve.objectives.kspace import KSpace
from ambient_solve.priors.load import prior_folder
from ambient_solve.priors.network import NetworkPrior, multiplies_bfloat16
from ambient_solve.priors.pipeline import PipelinePrior
from ambient_solve.process import SoftSettings
from ambient_solve.training.checkpoints import learned, put
from ambient_solve.training.config import Config
from ambient_solve.training.foreign import BLOCKS, InTraining, foreign_prior, input_layer, is_foreign
from ambient_solve.training.growth import deepened
from ambient_solve.training.lora import add_lora, add_recomputing

SAME = "channels widths unshuffle groups embedding sigma_data scale offset".split()
"""Settings of the network that weights to start from must share."""


def starting_prior(
    config: Config,
    keep_probability: float | None,
    device: torch.device,
    sharded: bool = False,
    soft: SoftSettings | None = None,
) -> NetworkPrior | PipelinePrior | InTraining:
    """The prior to train, with the mask channels of the objective; from `config.init` where given.

    Args:
        config: Of the run.
        keep_probability: Share in (0, 1] of the pixels that it will be shown; None if it is shown everything.
        device: Where its weights go.
        sharded: Whether its parameters will be: then they keep the plain memory layout, the only one that FSDP takes.
        soft: Its forward process, where that is no additive noise.

    Returns:
        The prior, on `device`; what of it learns asks for a gradient.

    Raises:
        AmbientSolveError: the prior to start from does not fit the settings.
    """
    folder = prior_folder(config.init) if config.init else None
    foreign = folder is not None and is_foreign(folder)
    prior = _foreign(config, keep_probability, device) if foreign else _own(config, keep_probability, device, soft)
    network = prior.network
    if config.tuning.kind == "lora":
        whole = (input_layer(network),) if config.objective.mask_channels else ()
        add_lora(network, config.tuning.rank, config.tuning.layers, whole)
    else:
        network.requires_grad_(True)
    if isinstance(prior, InTraining) and prior.texts is not None:
        prior.texts.requires_grad_(config.tuning.words)
    if config.tuning.checkpointing:
        add_recomputing(network, BLOCKS)
    if isinstance(prior, NetworkPrior):
        prior.take_notice()
        prior.channels_last = not sharded
        prior.to(device).match_layout(device)
    return prior.to(device).train()


def _own(
    config: Config, keep_probability: float | None, device: torch.device, soft: SoftSettings | None
) -> NetworkPrior:
    """A network of the settings; with the weights of `config.init` where given."""
    if config.objective.worded:
        raise AmbientSolveError(
            "The objective 'captioned' needs a network that takes words: give the folder of a pipeline as --init."
        )
    if config.tuning.cond:
        raise AmbientSolveError(f"tuning: cond = {config.tuning.cond!r}: our own networks have none, leave cond out.")
    mask_channels = config.objective.mask_channels
    missing = config.objective.missing if isinstance(config.objective, KSpace) else 0.0
    wanted = dataclasses.replace(
        config.network,
        mask_channels=mask_channels,
        keep_probability=keep_probability if mask_channels else None,
        missing=missing,
        noise_length=config.noise.length if config.noise.kind == "field" else None,
    )
    try:
        prior = NetworkPrior(wanted, arithmetic(config.precision, device), soft)
    except (TypeError, ValueError, IndexError, RuntimeError) as error:
        raise AmbientSolveError(f"network: {error}.") from None
    if config.init:
        _start_from(prior, NetworkPrior.load(prior_folder(config.init)), config.init)
    return prior


def _foreign(config: Config, keep_probability: float | None, device: torch.device) -> PipelinePrior | InTraining:
    """The prior of others that `config.init` names."""
    folder = prior_folder(config.init)
    prior = foreign_prior(folder, config.objective, keep_probability, config.tuning.cond)
    if prior.shape[0] != config.network.channels:
        raise AmbientSolveError(f"init: {config.init} has {prior.shape[0]} channels, network.channels says otherwise.")
    inner = prior.inner if isinstance(prior, InTraining) else prior
    if isinstance(inner, PipelinePrior):
        inner.half = arithmetic(config.precision, device) == "bfloat16"
    return prior


def arithmetic(precision: str, device: torch.device) -> str:
    """What the network computes in.

    Args:
        precision: auto, bf16, fp32 or no, as a run asks for it.
        device: Where the network computes.

    Returns:
        "bfloat16" or "float32".
    """
    half = precision == "bf16" or (precision == "auto" and multiplies_bfloat16(device))
    return "bfloat16" if half else "float32"


def about_arithmetic(precision: str, device: torch.device) -> str:
    """What `arithmetic` chose, in one sentence; a warning where the choice is a slow one.

    Args:
        precision: As for `arithmetic`.
        device: Where the network computes.

    Returns:
        The sentence.
    """
    native = multiplies_bfloat16(device)
    chosen = arithmetic(precision, device)
    if chosen == "bfloat16" and not native:
        return (
            "warning: precision: bf16 was asked for, and this hardware is not known to be fast at bfloat16 (graphics "
            "cards and CPUs with AMX or AVX512-BF16 are): training may be several times slower than with "
            "precision: auto."
        )
    why = f", and this hardware is {'' if native else 'not known to be '}fast at bfloat16"
    return f"The network computes in {chosen} (precision: {precision}{why if precision == 'auto' else ''})."


def _start_from(prior: NetworkPrior, saved: NetworkPrior, name: str) -> None:
    """Copy the weights; mask channels that `saved` lacks start with the weight 0, so that nothing changes at first.

    Nor do blocks change anything at first that `saved` does not have.
    """
    for field in SAME:
        have, want = getattr(saved.config, field), getattr(prior.config, field)
        if tuple(have) != tuple(want) if isinstance(want, (tuple, list)) else have != want:
            raise AmbientSolveError(f"init: {name} has network.{field} = {have}, the configuration says {want}.")
    if any(have > want for have, want in zip(saved.config.depths, prior.config.depths, strict=True)):
        raise AmbientSolveError(
            f"init: {name} has network.blocks = {saved.config.blocks}; the configuration says {prior.config.blocks}, "
            "and no block can be taken away."
        )
    own, given = prior.network.state_dict(), saved.network.state_dict()
    entry = "enter.weight"
    grown = torch.zeros_like(own[entry])
    common = min(grown.shape[1], given[entry].shape[1])
    grown[:, :common] = given[entry][:, :common]
    deepened(prior.network, {**given, entry: grown}, saved.config, prior.config)


@contextlib.contextmanager
def averaged(prior: nn.Module, ema: dict[str, Tensor]) -> Iterator[None]:
    """A context in which `prior` has its averaged weights and is not training.

    Nothing is compiled in it, not for a batch of another size either.

    Args:
        prior: The network in training.
        ema: Its averaged weights by name.
    """
    own = {k: v.detach().clone() for k, v in learned(prior).items()}
    put(prior, ema)
    prior.eval()
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        put(prior, own)
        prior.train()
