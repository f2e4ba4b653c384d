"""Priors of others as what a run trains: pipelines of diffusers, in pixels or latents, and converted checkpoints."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from ambient_solve.errors import AmbientSolveError
from ambient_solve.noise import Level
from ambient_solve.objectives.base import Objective
from ambient_solve.priors.adapted import AdaptedNetwork
from ambient_solve.priors.adm import AdmAttention, AdmBlock
from ambient_solve.priors.base import Prior, Vjp
from ambient_solve.priors.conditioning import Conditioning, widened
from ambient_solve.priors.convert import is_converted, load_converted, save_converted
from ambient_solve.priors.edm import EdmBlock
from ambient_solve.priors.edm2 import Edm2Block
from ambient_solve.priors.foreign import is_pipeline
from ambient_solve.priors.latent import LatentPrior
from ambient_solve.priors.latent_networks import Embedded, LatentNetwork
from ambient_solve.priors.latent_pipeline import is_latent_pipeline, load_latent_pipeline, words_of
from ambient_solve.priors.network import CARD
from ambient_solve.priors.network_config import CONFIG
from ambient_solve.priors.pipeline import PipelinePrior
from ambient_solve.priors.text import GuidedPrior
from ambient_solve.priors.unet import Block
from ambient_solve.priors.wrapped import WrappedPrior
from ambient_solve.reading.limits import read_json

BLOCKS = (Block, AdmBlock, AdmAttention, EdmBlock, Edm2Block)
"""Blocks of our own networks, which gradient checkpointing computes twice."""
Write = Callable[[Path, str, torch.dtype], None]
"""Writes a prior: folder, card, type of the weights."""


@final
class Texts(nn.Module):
    """The text encoder of a Stable Diffusion pipeline, which may learn: captions to what its network is conditioned on.

    Args:
        pipeline: The pipeline; nothing of it is changed but the weights of its text encoder.

    Raises:
        AmbientSolveError: it is another pipeline.
    """

    def __init__(self, pipeline: Any) -> None:
        super().__init__()
        kind = type(pipeline).__name__
        if kind != "StableDiffusionPipeline":
            raise AmbientSolveError(
                f"Captions are learned by a StableDiffusionPipeline, and --init is a {kind}: fine-tune that with "
                "objective: {kind: denoise} and one prompt, tuning: {cond: ...}."
            )
        self.encoder, self._pipeline = pipeline.text_encoder, (pipeline,)

    def forward(self, captions: Sequence[str]) -> Embedded:
        """Embed captions, each that occurs several times once.

        Args:
            captions: One for each state.

        Returns:
            One row for each of them.

        Raises:
            AmbientSolveError: one is longer than the encoder takes.
        """
        known = list(dict.fromkeys(captions))
        tokenizer = self._pipeline[0].tokenizer
        most = int(tokenizer.model_max_length)
        long = next((c for c in known if len(tokenizer(c).input_ids) > most), None)
        if long is not None:
            raise AmbientSolveError(
                f"The caption {long[:40]!r}... is longer than the text encoder takes, {most} tokens."
            )
        place = next(self.encoder.parameters()).device
        rows = self._pipeline[0].encode_prompt(known, place, 1, False)[0]
        return Embedded(tokens=rows[[known.index(c) for c in captions]])


@final
class InTraining(WrappedPrior):
    """A prior in training under one condition, or under captions, which is written as what it came from.

    Args:
        inner: With a `network`; its `decode` is not used.
        write: Writes it: `(folder, card, dtype)`.
        cond: What its network is conditioned on, for `rows` of one state each; None where it is not.
        texts: What embeds captions, which then are the condition; `cond` where none are given.
    """

    def __init__(
        self,
        inner: PipelinePrior | LatentNetwork,
        write: Write,
        cond: Callable[[int], Any] | None,
        texts: Texts | None = None,
    ) -> None:
        super().__init__(inner)
        self._write, self._cond, self.texts = write, cond, texts

    @property
    def network(self) -> Any:
        """What learns."""
        return self.inner.network

    def denoise(self, z: Tensor, sigma: Level, cond: Any = None) -> Tensor:
        """See `Prior.denoise`; the condition is that of the run, or what a widened input is shown."""
        if self.texts is not None:
            given = self.texts(self._cond(len(z)) if cond is None and self._cond is not None else cond)
            return self.inner.denoise(z, sigma, given)
        return self.inner.denoise(z, sigma, cond if self._cond is None else self._cond(len(z)))

    def denoise_vjp(self, z: Tensor, sigma: Level, cond: Any = None, *, once: bool = False) -> tuple[Tensor, Vjp]:
        """See `Prior.denoise_vjp`."""
        return Prior.denoise_vjp(self, z, sigma, cond, once=once)

    def save(self, folder: str | Path, card: str = "", dtype: torch.dtype = torch.float32) -> None:
        """Write the prior as what it came from.

        Args:
            folder: Where to.
            card: Text of the model card.
            dtype: Type of the stored weights of the network.
        """
        self._write(Path(folder), card, dtype)


def is_foreign(folder: Path) -> bool:
    """Whether a folder holds a prior whose network is none of our own."""
    return is_latent_pipeline(folder) or is_pipeline(folder) or is_converted(folder)


def foreign_prior(
    folder: Path, objective: Objective, keep_probability: float | None, cond: str
) -> PipelinePrior | InTraining:
    """The prior of others in a folder, as what a run trains, on the CPU and not yet set to learn.

    Args:
        folder: Where it is.
        objective: Of the run: the input is widened by its `mask_channels`, with weights of 0.
        keep_probability: Share in (0, 1] of the pixels that it will be shown; None if it is shown everything.
        cond: What a network of words or classes is conditioned on.

    Returns:
        The prior.

    Raises:
        AmbientSolveError: it cannot be trained, or not with this objective or condition.
    """
    more = objective.mask_channels
    if is_latent_pipeline(folder):
        return _of_latents(folder, objective, cond)
    prior = PipelinePrior.load(folder) if is_pipeline(folder) else load_converted(folder)
    if not isinstance(prior, PipelinePrior):
        raise AmbientSolveError(
            f"{folder} holds a restoration network, a denoiser of low noise: fine-tune a diffusion network instead."
        )
    if prior.classes is not None and more:
        raise AmbientSolveError(
            f"{folder} is a network of classes and cannot be shown {more} mask channels beside them: choose another "
            "prior, or objective: {kind: denoise}."
        )
    had = prior.conditioning.mask_channels
    if had > more:
        raise AmbientSolveError(f"{folder} is shown {had} mask channels, and the objective of this run {more}.")
    if more:
        _widen(prior.network, more - had)
        prior = PipelinePrior(prior.network, prior.scheduler, Conditioning(more, keep_probability))
    if cond and prior.classes is None:
        raise AmbientSolveError(f"tuning: cond = {cond!r}, and {folder} is an unconditional network: leave cond out.")
    if isinstance(prior.network, AdaptedNetwork):
        settings, adapted = read_json(folder / CONFIG), prior
        return InTraining(prior, lambda *given: save_converted(adapted, settings, *given), _class(prior, cond))
    return prior if prior.classes is None else InTraining(prior, prior.save, _class(prior, cond))


def _widen(network: Any, more: int) -> None:
    """Widen the input convolution of a network by channels, in place."""
    if isinstance(network, AdaptedNetwork):
        network.widen(more)
    else:
        network.conv_in = widened(network.conv_in, more)
        network.register_to_config(in_channels=network.config.in_channels + more)


def input_layer(network: nn.Module) -> str:
    """The name of the input convolution of a network of pixels."""
    own = f"network.{network.entry}" if isinstance(network, AdaptedNetwork) else ""
    return next(name for name, _ in network.named_modules() if name in ("enter", "conv_in", own) and name)


def condition_of(prior: Any, cond: str) -> int | str:
    """A condition, as a prior of words or of classes takes it.

    Args:
        prior: As `load_prior` gives it.
        cond: Words, or the number of a class.

    Returns:
        The words, or the number.
    """
    inner = getattr(prior, "inner", None)
    words = isinstance(inner, GuidedPrior) and not _labelled(inner)
    return int(cond) if cond.isdecimal() and not words else cond


def _labelled(prior: GuidedPrior) -> bool:
    """Whether it is conditioned on classes, not on words."""
    return getattr(prior.inner, "kind", "") == "DiTTransformer2DModel"


def _class(prior: PipelinePrior, cond: str) -> Callable[[int], Any] | None:
    """The class of a run, for each number of rows; None for a network without classes."""
    if prior.classes is None:
        return None
    if not cond.isdecimal() or int(cond) >= prior.classes:
        raise AmbientSolveError(
            f"tuning: cond = {cond!r} was given; the number of a class from 0 to {prior.classes - 1} was expected."
        )
    return lambda rows: torch.tensor(int(cond)).expand(rows)


def checked_condition(prior: LatentPrior, objective: Objective, cond: str) -> Embedded | None:
    """The condition of a run on latents, embedded, one row; None where its network has none.

    Args:
        prior: As `load_latent_pipeline` gives it.
        objective: Of the run.
        cond: Words, or the number of a class.

    Returns:
        The condition.

    Raises:
        AmbientSolveError: the network has no condition, or another; or the objective shows it masks of pixels.
    """
    if objective.mask_channels:
        raise AmbientSolveError(
            "--init is a prior of latents, and a mask of pixels says nothing of them: set objective: {kind: denoise}, "
            "or consistency."
        )
    if isinstance(prior.inner, GuidedPrior):
        return prior.inner.condition(condition_of(prior, cond))
    if cond:
        raise AmbientSolveError(f"tuning: cond = {cond!r}, and --init is an unconditional network: leave cond out.")
    return None


def _of_latents(folder: Path, objective: Objective, cond: str) -> InTraining:
    whole = load_latent_pipeline(folder)
    embedded = checked_condition(whole, objective, cond)
    inner: Any = whole.inner.inner if isinstance(whole.inner, GuidedPrior) else whole.inner
    texts = Texts(words_of(whole).plain) if objective.worded else None
    given = (lambda rows: (cond,) * rows) if texts is not None else None if embedded is None else embedded.rows
    parts = {"unet" if (folder / "unet").is_dir() else "transformer": inner.network}
    parts |= {} if texts is None else {"text_encoder": texts.encoder}

    def write(out: Path, card: str, dtype: torch.dtype) -> None:
        shutil.copytree(
            folder, out, ignore=lambda at, names: [*parts] if Path(at) == folder else [], dirs_exist_ok=True
        )
        for part, network in parts.items():
            network.to(dtype).save_pretrained(out / part, safe_serialization=True)
            network.float()
        (out / CARD).write_text(card)

    return InTraining(inner, write, given, texts)
