"""A damaged data set that was interrupted goes on with the pictures that it began with.

No hash of a clean picture is kept for that, which would tell whoever guesses the picture that the guess is right: the
damage depends on (seed, number, source) alone and is done once more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from ambient_solve.data.sample import Sample
from ambient_solve.errors import AmbientSolveError

SAME = 1e-3
"""Mean difference of a picture damaged twice, in units of [-1, 1]: other machines round in other ways."""


def same_pictures(
    pictures: Iterable[tuple[str, Tensor]],
    finished: list[dict[str, Any]],
    folder: Path,
    again: Callable[[str, Tensor, int], Sample],
) -> Iterator[tuple[str, Tensor]]:
    """`pictures`, of which those that are finished are damaged once more and compared with what is stored of them.

    Args:
        pictures: (name, picture), all of them.
        finished: The rows of those that are finished, the first ones.
        folder: Where they are.
        again: Damages a picture, given its name, itself and its number, as it was damaged before.

    Returns:
        The same pictures.

    Raises:
        AmbientSolveError: one is not the picture that it was.
    """
    for index, (name, picture) in enumerate(pictures):
        if index < len(finished):
            before = finished[index]["name"]
            if before != name:
                raise AmbientSolveError(
                    f"{folder} is unfinished, and its picture {index} was {before}, not {name}: the pictures have "
                    "changed. Choose another folder."
                )
            stored = load_file(folder / finished[index]["file"])["z"]
            made = again(name, picture, index).z
            if made.shape != stored.shape or float((made.float() - stored.float()).abs().mean()) > SAME:
                raise AmbientSolveError(
                    f"{folder} is unfinished, and {name} is not the picture that it was made of: the pictures have "
                    "changed. Choose another folder."
                )
        yield name, picture
