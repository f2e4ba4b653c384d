r"""A subject as words at many resolutions: one embedding for each band of noise levels, and how prompts name them.

A network's time is cut into K bands of one width; the band of time t is `j = floor(K t / T)`, 0 the least noise. Band j
has an embedding `v_j` of its own, and a prompt names resolution i of the concept c in one of these ways (Daras and
Dimakis, 2022, arXiv 2211.17115):

    <c|i|>    fixed    v_i in every band
    <c[i]>    fully    v_max(i, j): from coarse to fine, and no finer than band i
    <c(i)>    semi     v_j where j > i, and no concept, a zero vector, below: it says the coarse part alone
    <c>                <c[0]>, the whole of it

A number with a point is the paper's S*(tau), `i = floor(K tau)`: `<c(0.6)>`. 0 is the whole subject, near 1 its layout.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, final

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ambient_solve.errors import AmbientSolveError, UnreadableFile, reason
from ambient_solve.reading.limits import read_json
from ambient_solve.saving import replace_text, save_tensors

WEIGHTS = "concept.safetensors"
"""File of the embeddings of a concept, one table (K, features) for each text encoder."""
SETTINGS = "concept.json"
"""File of its token and of the number of its bands."""
KIND = "concept"
"""What `SETTINGS` says it holds."""
MOST_BANDS = 1000
"""Most bands that a concept has."""
LARGEST = 1e4
"""Largest entry of an embedding that is read from a file."""
MODES = ("fixed", "fully", "semi")
"""Ways in which a prompt may name a resolution."""
NAME = r"[A-Za-z][A-Za-z0-9_-]{0,31}"
"""What a concept may be called."""
PLACEHOLDER = re.compile(rf"<({NAME})(?:\|([^|<>]{{1,12}})\||\[([^\]<>]{{1,12}})\]|\(([^)<>]{{1,12}})\))?>")
"""A concept in a prompt, with the number of one of `MODES`."""
ROUNDING = 1e-4
"""By how much of a band a level may miss its edge, as levels are rounded; under 1 / T for every T in use."""


@final
@dataclass(frozen=True)
class Placeholder:
    """A concept in a prompt, at a resolution.

    Attributes:
        name: Of the concept.
        mode: One of `MODES`.
        resolution: i, the finest band that it says, from 0.
    """

    name: str
    mode: str
    resolution: int

    def row(self, band: int) -> int | None:
        """Which embedding stands for it in a band.

        Args:
            band: j, from 0, the least noise.

        Returns:
            The row of the table; None for no concept, a zero vector.
        """
        if self.mode == "fixed":
            return self.resolution
        if self.mode == "fully":
            return max(self.resolution, band)
        return band if band > self.resolution else None


def band_of(share: float, bands: int) -> int:
    """The band of a level, `floor(K t / T)`.

    Args:
        share: t / T, 0 to 1, see `Parameterization.share`; 1 is in the last band.
        bands: K.

    Returns:
        The band, 0 to K - 1.
    """
    return min(bands - 1, max(0, math.floor(bands * share + ROUNDING)))


def concepts_in(text: str, bands: Mapping[str, int]) -> list[str | Placeholder]:
    """A prompt, taken apart.

    Args:
        text: The prompt.
        bands: K of each concept that there is, by its name.

    Returns:
        Words and placeholders, in their order.

    Raises:
        AmbientSolveError: it names an unknown concept, or a resolution that there is not.
    """
    parts: list[str | Placeholder] = []
    end = 0
    for found in PLACEHOLDER.finditer(text):
        parts += [text[end : found.start()], _placeholder(found, bands)]
        end = found.end()
    parts.append(text[end:])
    open_ended = next((p for p in parts if isinstance(p, str) and re.search(rf"<{NAME}", p)), None)
    if open_ended is not None:
        raise AmbientSolveError(
            f"{open_ended.strip()[:40]!r} has a < that begins no concept: write <cat>, <cat|3|>, <cat[3]> or <cat(3)>, "
            "or leave it out."
        )
    return [part for part in parts if part]


def _placeholder(found: re.Match[str], bands: Mapping[str, int]) -> Placeholder:
    name, given = found[1], [found[2], found[3], found[4]]
    if name not in bands:
        known = f"it knows {', '.join(f'<{n}>' for n in sorted(bands))}" if bands else "it knows none"
        raise AmbientSolveError(
            f"The prompt names the concept <{name}>, which the prior does not know; {known}: give the folder of the "
            "concept, with_concepts(prior, [TimeDependentEmbedding.load(FOLDER)]) or --concept FOLDER."
        )
    mode, text = next(
        ((mode, text.strip()) for mode, text in zip(MODES, given, strict=True) if text is not None), ("fully", "0")
    )
    count = bands[name]
    whole = re.fullmatch(r"\d{1,4}", text)
    decimal = re.fullmatch(r"0?\.\d{1,9}|0\.", text)
    resolution = int(text) if whole else math.floor(count * Fraction(text)) if decimal else count
    if resolution >= count:
        raise AmbientSolveError(
            f"{found[0]} names the resolution {text!r}; a whole number from 0 to {count - 1}, or a share of the noise "
            "from 0.0 to under 1.0, was expected."
        )
    return Placeholder(name, mode, resolution)


@final
class TimeDependentEmbedding(nn.Module):
    """A concept: for each text encoder a table of K embeddings, one for each band of noise levels.

    Args:
        name: What prompts call it, between < and >.
        tables: (K, features) by the name of the text encoder, such as "text_encoder"; K the same for all.

    Raises:
        AmbientSolveError: the name is none, or the tables are.
    """

    def __init__(self, name: str, tables: Mapping[str, Tensor]) -> None:
        super().__init__()
        if not isinstance(name, str) or not re.fullmatch(NAME, name):
            raise AmbientSolveError(
                f"token={str(name)[:40]!r} was given; a name of letters, digits, _ and -, such as <cat>, was expected."
            )
        shapes = [tuple(table.shape) for table in tables.values()]
        if not shapes or any(len(s) != 2 or s[0] != shapes[0][0] or not 1 <= s[0] <= MOST_BANDS for s in shapes):
            raise AmbientSolveError(
                f"Tables of shapes {shapes} were given; (K, features) for each text encoder, with one K of 1 to "
                f"{MOST_BANDS} bands, was expected."
            )
        self.name, self.bands = name, shapes[0][0]
        self.tables = nn.ParameterDict({key: table.detach().clone().float() for key, table in tables.items()})

    def save(self, folder: str | Path, about: Mapping[str, Any] | None = None) -> None:
        """Write concept.safetensors and concept.json.

        Args:
            folder: Where to, made where it is missing.
            about: What else the JSON is to hold, such as how it was learned.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors({k: t.detach().cpu().contiguous() for k, t in self.tables.items()}, folder / WEIGHTS)
        record = {"kind": KIND, "token": f"<{self.name}>", "bands": self.bands}
        record["features"] = {key: table.shape[1] for key, table in self.tables.items()}
        replace_text(folder / SETTINGS, json.dumps({**record, **dict(about or {})}, indent=1) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> TimeDependentEmbedding:
        """Read what `save` wrote; the files are not trusted.

        Args:
            folder: With concept.safetensors and concept.json.

        Returns:
            The concept, on the CPU, its embeddings frozen.

        Raises:
            AmbientSolveError: a file is missing or unreadable, or they do not fit each other.
        """
        folder = Path(folder)
        if not (folder / SETTINGS).is_file() or not (folder / WEIGHTS).is_file():
            raise AmbientSolveError(f"{folder} holds no concept: {SETTINGS} and {WEIGHTS} were expected.")
        settings = read_json(folder / SETTINGS)
        if not isinstance(settings, dict) or settings.get("kind") != KIND:
            raise UnreadableFile(folder / SETTINGS, f"describes no concept: kind = {KIND!r} was expected.")
        try:
            tables = load_file(folder / WEIGHTS)
        except (SafetensorError, OSError) as error:
            raise UnreadableFile(folder / WEIGHTS, f"cannot be read ({reason(error)}).") from None
        made = cls(token_name(settings.get("token")), tables)
        sound = all(bool((table.abs() <= LARGEST).all()) for table in made.tables.values())
        if made.bands != settings.get("bands") or not sound:
            raise UnreadableFile(
                folder / WEIGHTS,
                f"holds {made.bands} bands where {SETTINGS} says {str(settings.get('bands'))[:20]}, or numbers that "
                "are no embedding.",
            )
        return made.requires_grad_(False)


def token_name(token: Any) -> str:
    """The name in a token.

    Args:
        token: Such as "<cat>".

    Returns:
        Such as "cat".

    Raises:
        AmbientSolveError: it is no such token.
    """
    found = re.fullmatch(rf"<({NAME})>", token) if isinstance(token, str) else None
    if found is None:
        raise AmbientSolveError(
            f"token={str(token)[:40]!r} was given; a name between < and >, of letters, digits, _ and -, such as "
            '"<cat>", was expected.'
        )
    return found[1]


def bands_of(concepts: Sequence[TimeDependentEmbedding]) -> dict[str, int]:
    """K of each concept by its name.

    Raises:
        AmbientSolveError: two have one name.
    """
    names = [concept.name for concept in concepts]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise AmbientSolveError(f"Two concepts are called <{twice}>: give each a token of its own.")
    return {concept.name: concept.bands for concept in concepts}
