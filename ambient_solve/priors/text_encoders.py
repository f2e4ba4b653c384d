"""Text encoders that know tokens of concepts, beside the vocabulary that they have; theirs is never changed."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from ambient_solve.errors import AmbientSolveError
from ambient_solve.priors.concepts import TimeDependentEmbedding

ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
"""What pipelines call their text encoders."""
OPEN, CLOSE = "\ue000", "\ue001"
"""Around a token of a concept; no prompt may hold them, as they are for private use in Unicode."""


def spelled(name: str, row: int | None) -> str:
    """The token that the tokenizers of `with_tokens` know.

    Args:
        name: Of the concept.
        row: Of its table; None is the zero vector.

    Returns:
        One token.
    """
    return f"{OPEN}{name}/{'none' if row is None else row}{CLOSE}"


def encoders_of(pipeline: Any) -> dict[str, tuple[Any, Any]]:
    """The text encoders of a pipeline, and their tokenizers, by name."""
    found = {name: getattr(pipeline, name, None) for name in ENCODERS}
    return {
        name: (encoder, getattr(pipeline, name.replace("text_encoder", "tokenizer")))
        for name, encoder in found.items()
        if encoder is not None
    }


@final
class Extended(nn.Module):
    """An embedding of tokens with further rows: token `-1 - r` is row r of the concepts, -1 - (their sum) is zero.

    Args:
        own: The embedding of the vocabulary, used as it is.
        concepts: Their tables are read at each call, and are no part of this module.
        encoder: Which of their tables.
    """

    def __init__(self, own: nn.Module, concepts: Sequence[TimeDependentEmbedding], encoder: str) -> None:
        super().__init__()
        self.own = own
        self._concepts, self._encoder = tuple(concepts), encoder

    @property
    def weight(self) -> Tensor:
        """That of the vocabulary, which some encoders ask for their type."""
        return self.own.get_parameter("weight")

    def forward(self, ids: Tensor) -> Tensor:
        """Embeddings (..., features) of tokens `ids` (...)."""
        known = self.own(ids.clamp_min(0))
        tables = [concept.tables[self._encoder].to(known) for concept in self._concepts]
        rows = torch.cat([*tables, known.new_zeros(1, known.shape[-1])])
        return torch.where((ids < 0)[..., None], rows[(-1 - ids).clamp_min(0)], known)


def with_tokens(pipeline: Any, concepts: Sequence[TimeDependentEmbedding]) -> Any:
    """A pipeline with tokens for concepts; the one that is given stays as it is, and the two share their weights.

    Args:
        pipeline: A diffusers pipeline with text encoders.
        concepts: With a table for each of its encoders.

    Returns:
        A copy, whose tokenizers and text encoders know the tokens of `spelled`.

    Raises:
        AmbientSolveError: a concept is one of other text encoders.
    """
    made = copy.copy(pipeline)
    for name, (encoder, tokenizer) in encoders_of(pipeline).items():
        own = encoder.get_input_embeddings()
        for concept in concepts:
            _check_features(concept, name, own.weight.shape[1])
        shared = {id(t): t for t in (*encoder.parameters(), *encoder.buffers())}
        encoder, tokenizer = copy.deepcopy(encoder, shared), copy.deepcopy(tokenizer)
        encoder.set_input_embeddings(Extended(encoder.get_input_embeddings(), concepts, name))
        tokens = [spelled(concept.name, row) for concept in concepts for row in range(concept.bands)]
        ends = [spelled(concept.name, None) for concept in concepts]
        _add(tokenizer, [*tokens, *ends])
        numbers = tokenizer.convert_tokens_to_ids([*tokens, *ends])
        rows = [*range(len(tokens)), *[len(tokens)] * len(ends)]
        encoder.register_forward_pre_hook(_Renumbered(numbers, rows), with_kwargs=True)
        setattr(made, name, encoder)
        setattr(made, name.replace("text_encoder", "tokenizer"), tokenizer)
    return made


def _check_features(concept: TimeDependentEmbedding, encoder: str, features: int) -> None:
    table = concept.tables[encoder] if encoder in concept.tables else None
    if table is None or table.shape[1] != features:
        held = {key: t.shape[1] for key, t in concept.tables.items()}
        raise AmbientSolveError(
            f"The concept <{concept.name}> has embeddings of {held} features, and the {encoder} of this prior takes "
            f"{features}: a concept serves the pipeline that it was learned with, and those of the same text encoders."
        )


def _add(tokenizer: Any, tokens: Sequence[str]) -> None:
    from transformers import AddedToken

    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in tokens])


@final
class _Renumbered:
    """A hook before an encoder: the numbers of added tokens become negative ones.

    CLIP finds the end of a text by the largest number in it, which a number beyond the vocabulary would be.
    """

    def __init__(self, numbers: Sequence[int], rows: Sequence[int]) -> None:
        self._table = dict(zip(numbers, rows, strict=True))

    def __call__(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        given = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        ids = given.clone()
        for number, row in self._table.items():
            ids[given == number] = -1 - row
        if "input_ids" in kwargs:
            return args, {**kwargs, "input_ids": ids}
        return (ids, *args[1:]), kwargs
