"""What the commands take of words: a prompt, what it excludes, its guidance, and the concepts that it may name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ambient_solve.errors import AmbientSolveError

if TYPE_CHECKING:
    from ambient_solve.priors.base import Prior

Text = Annotated[str, tyro.conf.arg(metavar="TEXT", help_behavior_hint="(default: none)")]
Concepts = tyro.conf.UseAppendAction[
    Annotated[tuple[str, ...], tyro.conf.arg(metavar="FOLDER", help_behavior_hint="(may be repeated)")]
]


def prompted(
    prior: Prior, prompt: str, negative: str, guidance: float, concepts: Sequence[str]
) -> tuple[Any, Any | None]:
    """A prior with the concepts that a command names, and the condition of its prompt.

    Args:
        prior: As `load_prior` returns it.
        prompt: What the pictures show; empty where none was given.
        negative: What they do not show.
        guidance: Scale of classifier-free guidance.
        concepts: Folders of concepts.

    Returns:
        The prior, and a `Prompt`, or None where no words were given.

    Raises:
        AmbientSolveError: the prior takes no words, or not these; or words belong to a prompt that is missing.
    """
    if not prompt:
        if negative or concepts or guidance != 1:
            raise AmbientSolveError(
                '--negative, --prompt-guidance and --concept belong to a prompt: add --prompt "...".'
            )
        return prior, None
    from ambient_solve.priors.concepts import TimeDependentEmbedding
    from ambient_solve.priors.latent_pipeline import with_concepts, words_of
    from ambient_solve.priors.text import Prompt

    condition = Prompt(prompt, negative, guidance)
    words_of(prior)
    if concepts:
        prior = with_concepts(prior, [TimeDependentEmbedding.load(Path(folder)) for folder in concepts])
    prior.check_condition(condition)
    return prior, condition
