r"""Words and classes as conditions, and classifier-free guidance by them.

    D = D(z; c_negative) + g (D(z; c) - D(z; c_negative))           (Ho and Salimans, 2022, arXiv 2207.12598)

What a network predicts is linear in D at a given state, so that this is the published rule for noise, velocity and flow
alike. At `g = 1` it is `D(z; c)`, and the second pass is not made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.noise import Level
from ambient_solve.priors.base import NO_WORDS, Prior, Vjp
from ambient_solve.priors.concepts import Placeholder, TimeDependentEmbedding, band_of, bands_of, concepts_in
from ambient_solve.priors.latent_networks import Embedded
from ambient_solve.priors.text_encoders import encoders_of, spelled, with_tokens
from ambient_solve.priors.wrapped import WrappedPrior

MOST_GUIDANCE = 100.0
"""Largest guidance scale."""
MOST_KNOWN = 1000
"""Encodings that are kept; a page sees the prompts of many."""
MOST_CHARACTERS = 4000
"""Characters of the longest prompt that is looked at; what an encoder takes is less."""
LONG_TEXTS = {"StableDiffusion3Pipeline": ("tokenizer_3", 256), "FluxPipeline": ("tokenizer_2", 512)}
"""The tokenizer of the T5 of a pipeline, and the tokens that it takes."""


@final
@dataclass(frozen=True)
class Prompt:
    """What a picture shows, in words.

    Args:
        text: The words; none is the empty prompt.
        negative: What it does not show; read where `guidance` is not 1.
        guidance: Scale of classifier-free guidance, 0 to 100. At 1, one pass a call; at any other, two.

    Raises:
        AmbientSolveError: the words are none, or the scale is out of range.
    """

    text: str = ""
    negative: str = ""
    guidance: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not isinstance(self.negative, str):
            raise AmbientSolveError(f"A prompt is words; {self.text!r} and {self.negative!r} were given.")
        _check_guidance(self.guidance)


@final
@dataclass(frozen=True)
class Label:
    """The class of a picture, for a network of classes with guidance.

    Args:
        number: The class, from 0.
        guidance: Scale of classifier-free guidance against no class, 0 to 100; at 1, one pass a call.

    Raises:
        AmbientSolveError: the scale is out of range.
    """

    number: int
    guidance: float = 1.0

    def __post_init__(self) -> None:
        _check_guidance(self.guidance)


def _check_guidance(scale: Any) -> None:
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 <= scale <= MOST_GUIDANCE:
        raise AmbientSolveError(f"guidance={scale!r} was given; a number from 0 to {MOST_GUIDANCE:g} was expected.")


Given = Prompt | Label
"""A condition with its guidance."""


@final
class GuidedPrior(WrappedPrior):
    """A conditioned prior, guided: `cond` is words or a class, or a list with one for each measurement.

    Args:
        inner: The prior; its `cond` is an `Embedded`.
        reader: Turns what was given into `Prompt`s or `Label`s, one for each row, and embeds them.
        as_input: Whether the network takes its guidance as an input, as a distilled Flux does: one pass is enough then.
    """

    def __init__(self, inner: Prior, reader: Words | Classes, *, as_input: bool = False) -> None:
        super().__init__(inner)
        self.reader, self._as_input = reader, as_input

    def with_concepts(self, concepts: Sequence[TimeDependentEmbedding]) -> GuidedPrior:
        """The same prior, which knows these concepts and no others; see `latent_pipeline.with_concepts`."""
        if not isinstance(self.reader, Words):
            raise AmbientSolveError(NO_WORDS)
        return GuidedPrior(self.inner, self.reader.with_concepts(concepts), as_input=self._as_input)

    @property
    def takes_words(self) -> bool:
        """See `Prior.takes_words`: it does, unless its conditions are classes."""
        return isinstance(self.reader, Words)

    def check_condition(self, cond: Any) -> None:
        """See `Prior.check_condition`: reads the condition, and measures the prompts."""
        rows = len(cond) if isinstance(cond, (list, tuple)) or (isinstance(cond, Tensor) and cond.ndim) else 1
        for given in self.reader.read(cond, rows):
            if isinstance(self.reader, Words) and isinstance(given, Prompt):
                self.reader.check(given)

    def passes(self, cond: Any = None) -> int:
        """See `Prior.passes`: 2 where any row is guided."""
        rows = len(cond) if isinstance(cond, (list, tuple)) or (isinstance(cond, Tensor) and cond.ndim) else 1
        return 2 if self._guided(self.reader.read(cond, rows)) else 1

    def condition(self, cond: Any) -> Embedded:
        """What the network inside is conditioned on at the highest level, one row, without guidance.

        Args:
            cond: Words or a class, for one picture.
        """
        return self.reader.embed(self.reader.read(cond, 1), False, self.sigma_max)

    def _guided(self, given: Sequence[Given]) -> bool:
        return not self._as_input and any(g.guidance != 1 for g in given)

    def denoise(self, z: Tensor, sigma: Level, cond: Any = None) -> Tensor:
        """See `Prior.denoise`."""
        given = self.reader.read(cond, len(z))
        wanted = self.inner.denoise(z, sigma, self.reader.embed(given, False, sigma))
        if not self._guided(given):
            return wanted
        other = self.inner.denoise(z, sigma, self.reader.embed(given, True, sigma))
        scale = torch.tensor([g.guidance for g in given], device=z.device)[:, None, None, None]
        return other + scale * (wanted - other)

    def denoise_vjp(self, z: Tensor, sigma: Level, cond: Any = None, *, once: bool = False) -> tuple[Tensor, Vjp]:
        """See `Prior.denoise_vjp`: through both passes."""
        return Prior.denoise_vjp(self, z, sigma, cond, once=once)


@final
class Words:
    """Reads prompts and embeds them by the text encoders of a pipeline; each text is encoded once.

    A prompt with concepts is one text in each of their bands of noise levels: at most K texts, whatever the levels.

    Args:
        pipeline: A diffusers pipeline with `encode_prompt`.
        device: Where the embeddings go; asked for at each call.
        as_input: Whether the network takes its guidance as an input, as a distilled Flux does.
        share: How far along the network's time levels lie, see `Parameterization.share`.
        concepts: What prompts may name beside the vocabulary.

    Raises:
        AmbientSolveError: two concepts have one name, or one belongs to other text encoders.
    """

    def __init__(
        self,
        pipeline: Any,
        device: Callable[[], torch.device],
        *,
        as_input: bool = False,
        share: Callable[[np.ndarray], np.ndarray] | None = None,
        concepts: Sequence[TimeDependentEmbedding] = (),
    ) -> None:
        self._device, self._as_input, self._share = device, as_input, share
        self._bands, self.concepts = bands_of(concepts), tuple(concepts)
        self.plain, self._pipeline = pipeline, with_tokens(pipeline, concepts) if concepts else pipeline
        self._known: dict[str, tuple[Tensor | None, Tensor | None]] = {}

    def with_concepts(self, concepts: Sequence[TimeDependentEmbedding]) -> Words:
        """Another reader of the same encoders, which knows these concepts and no others."""
        return Words(self.plain, self._device, as_input=self._as_input, share=self._share, concepts=concepts)

    def read(self, cond: Any, rows: int) -> list[Given]:
        """Prompts, one for each row.

        Args:
            cond: A string or a `Prompt` for all rows, a list with one for each, or None, the empty prompt.
            rows: How many.

        Returns:
            One for each row.

        Raises:
            AmbientSolveError: it is something else.
        """
        each = list(cond) if isinstance(cond, (list, tuple)) else [cond] * rows
        prompts = [Prompt(c or "") if c is None or isinstance(c, str) else c for c in each]
        if len(prompts) != rows or not all(isinstance(p, Prompt) for p in prompts):
            raise AmbientSolveError(
                f"cond={str(cond)[:60]!r} was given; a text, a Prompt(text, negative, guidance), or a list with one "
                "for each measurement was expected."
            )
        return prompts

    def embed(self, given: Sequence[Given], negative: bool, sigma: Level) -> Embedded:
        """The embeddings of prompts, or of what they exclude.

        Args:
            given: Prompts.
            negative: Whether what they exclude is wanted.
            sigma: Their noise level, a float, () or (B,): it decides the band of a concept.

        Returns:
            One row for each prompt.

        Raises:
            AmbientSolveError: a prompt is too long, or names what there is not.
        """
        texts = [g.negative if negative else g.text for g in given if isinstance(g, Prompt)]
        parts = [self._of(text, shown) for text, shown in zip(self._at_levels(texts, sigma), texts, strict=True)]
        tokens, pooled = (_joined([part[i] for part in parts]) for i in range(2))
        scales = torch.tensor([float(g.guidance) for g in given], device=self._device()) if self._as_input else None
        return Embedded(tokens=tokens, pooled=pooled, guidance=scales)

    def check(self, prompt: Prompt) -> None:
        """Raise `AmbientSolveError` where a prompt cannot be embedded, before any network is called."""
        for text in (prompt.text, prompt.negative):
            for band in (0.0, 1.0):
                self._check_length(self._spelled(self._parts(text), band), text)

    def _parts(self, text: str) -> list[str | Placeholder]:
        """The words and the concepts of a prompt, which is not trusted."""
        if len(text) > MOST_CHARACTERS or not "".join(text.split()).isprintable():
            what = f"has {len(text)} characters" if len(text) > MOST_CHARACTERS else "holds signs that are no text"
            raise AmbientSolveError(
                f"The prompt {text[:40]!r}... {what}; at most {MOST_CHARACTERS} printable characters were expected."
            )
        return concepts_in(text, self._bands)

    def _at_levels(self, texts: Sequence[str], sigma: Level) -> list[str]:
        """The texts with the tokens that stand for their concepts, each at its own level."""
        parts = {text: self._parts(text) for text in set(texts)}
        if self._share is None or all(isinstance(p, str) for own in parts.values() for p in own):
            return list(texts)
        levels = sigma.detach().double().cpu().numpy() if isinstance(sigma, Tensor) else np.asarray(sigma, dtype=float)
        shares = self._share(np.broadcast_to(levels, (len(texts),)))
        return [self._spelled(parts[text], share) for text, share in zip(texts, shares.tolist(), strict=True)]

    def _spelled(self, parts: Sequence[str | Placeholder], share: float) -> str:
        found = [
            p if isinstance(p, str) else spelled(p.name, p.row(band_of(share, self._bands[p.name]))) for p in parts
        ]
        return "".join(found)

    def _of(self, text: str, prompt: str) -> list[Tensor | None]:
        """Tokens and pooled embedding of the text that a prompt is at a level, one row, where the network is.

        While a concept is learned nothing is kept, and the embeddings have a gradient.
        """
        learned = any(t.requires_grad for concept in self.concepts for t in concept.tables.values())
        if learned or text not in self._known:
            self._check_length(text, prompt)
            place = next((e.device for e, _ in encoders_of(self._pipeline).values()), torch.device("cpu"))
            with torch.set_grad_enabled(learned and torch.is_grad_enabled()):
                found = encoded(self._pipeline, text, place)
            if learned:
                return self._placed(found)
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            self._known[text] = found
        return self._placed(self._known[text])

    def _placed(self, parts: Sequence[Tensor | None]) -> list[Tensor | None]:
        return [None if part is None else part.to(self._device()) for part in parts]

    def _check_length(self, text: str, prompt: str) -> None:
        """Refuse words that the encoder would cut off; a T5, which takes long texts, has a limit of its own."""
        name, most = LONG_TEXTS.get(type(self._pipeline).__name__, ("", 0))
        long = getattr(self._pipeline, name, None) if name else None
        tokenizer = self._pipeline.tokenizer if long is None else long
        held, most = len(tokenizer(text).input_ids), int(tokenizer.model_max_length) if long is None else most
        if held > most:
            raise AmbientSolveError(
                f"The prompt {prompt[:40]!r}... has {held} tokens, and the text encoder takes {most}: shorten it."
            )


def encoded(pipeline: Any, text: str, device: torch.device) -> tuple[Tensor | None, Tensor | None]:
    """The embeddings of a text, by the pipeline's own `encode_prompt`.

    Args:
        pipeline: One of Stable Diffusion, or Flux.
        text: The words.
        device: Where its encoders are.

    Returns:
        Tokens (1, tokens, features), and the pooled embedding (1, features) where the network takes one.
    """
    kind = type(pipeline).__name__
    if kind == "StableDiffusionPipeline":
        return pipeline.encode_prompt(text, device, 1, False)[0], None
    if kind == "StableDiffusionXLPipeline":
        found = pipeline.encode_prompt(text, device=device, do_classifier_free_guidance=False)
        return found[0], found[2]
    if kind == "StableDiffusion3Pipeline":
        found = pipeline.encode_prompt(text, None, None, device=device, do_classifier_free_guidance=False)
        return found[0], found[2]
    tokens, pooled, _ = pipeline.encode_prompt(text, None, device=device)
    return tokens, pooled


def _joined(rows: Sequence[Tensor | None]) -> Tensor | None:
    """The rows one below the other; None where an encoder has none."""
    kept = [row for row in rows if row is not None]
    return torch.cat(kept) if kept else None


@final
class Classes:
    """Reads classes and embeds them, for a network of classes whose last one, `count`, stands for none.

    Args:
        count: Classes that the network knows.
        device: Where the numbers go; asked for at each call.
    """

    def __init__(self, count: int, device: Callable[[], torch.device]) -> None:
        self._count, self._device = count, device

    def read(self, cond: Any, rows: int) -> list[Given]:
        """Classes, one for each row.

        Args:
            cond: A whole number or a `Label` for all rows, or a list or tensor with one for each.
            rows: How many.

        Returns:
            One for each row.

        Raises:
            AmbientSolveError: it is something else, or no class of the network.
        """
        if isinstance(cond, Tensor):
            cond = cond.tolist()
        each = list(cond) if isinstance(cond, (list, tuple)) else [cond] * rows
        labels = [Label(c) if type(c) is int else c for c in each]
        fine = len(labels) == rows and all(isinstance(c, Label) and 0 <= c.number < self._count for c in labels)
        if not fine:
            raise AmbientSolveError(
                f"cond={str(cond)[:60]} was given; a class from 0 to {self._count - 1}, a Label(number, guidance), or "
                "a list with one for each measurement was expected."
            )
        return labels

    def embed(self, given: Sequence[Given], negative: bool, sigma: Level) -> Embedded:
        """The classes as the network takes them.

        Args:
            given: Labels.
            negative: Whether the class that stands for none is wanted.
            sigma: Their noise level, on which classes do not depend.

        Returns:
            One row for each label.
        """
        numbers = [self._count if negative else g.number for g in given if isinstance(g, Label)]
        return Embedded(labels=torch.tensor(numbers, device=self._device()))
