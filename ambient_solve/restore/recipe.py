"""`Recipe`: all that repeats a restoration but the picture itself, carried in the text chunk of the restored PNG.

    write_png(x, "restored.png", recipe)
    read_png("restored.png") == recipe
    print(python_snippet(recipe)); print(cli_command(recipe))

A recipe read from a file is untrusted data: names and numbers that are checked, nothing that is evaluated. Masks and
kernels are known by their file names alone; a recipe never points into a folder.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ambient_solve.errors import AmbientSolveError, suggestion
from ambient_solve.knobs import build, knobs
from ambient_solve.restore.tasks import TASKS, Task, make_task

if TYPE_CHECKING:
    from torch import Tensor

KEY = "ambient_solve"
"""Text chunk of a PNG that holds its recipe."""
VERSION = 1
"""Version of the format of a recipe."""
MAX_TEXT = 20_000
"""Characters of the longest recipe that is read; real ones have a few hundred."""
MAX_WORD = 300
"""Characters of the longest text in a recipe."""
MAX_PROMPT = 1000
"""Characters of the longest prompt in a recipe."""
MAX_GUIDANCE = 100.0
"""Largest scale of guidance by it."""
MAX_SAMPLES = 10_000
"""Most samples that a recipe may ask for."""
MAX_SEED = 2**63 - 1
"""Largest seed of a recipe."""
FILES = ("mask", "kernel")
"""Knobs of a damage that are files."""


@dataclass(frozen=True)
class Recipe:
    """What was done to a picture.

    Attributes:
        prior: Embedded name, folder or hub id, as `load_prior` takes it.
        task: Name of the damage. damage: Its knobs; `mask` and `kernel` are file names without a folder.
        algorithm: Its name or "auto". knobs: Those of the algorithm that are not left at their defaults.
        samples, seed: How many were drawn, and from which streams.
        prompt, negative, guidance: Words of a `Prompt`, where the prior takes them; none, and 1, where it does not.

    Raises:
        AmbientSolveError: a name is unknown, or a value has the wrong type or is out of range.
    """

    prior: str = "photos"
    task: str = "denoise"
    damage: Mapping[str, Any] = field(default_factory=dict)
    algorithm: str = "auto"
    knobs: Mapping[str, Any] = field(default_factory=dict)
    samples: int = 1
    seed: int = 0
    prompt: str = ""
    negative: str = ""
    guidance: float = 1.0

    def __post_init__(self) -> None:
        for name in ("prior", "task", "algorithm"):
            _check_word(name, getattr(self, name))
        for name in ("damage", "knobs"):
            object.__setattr__(self, name, _checked_values(name, getattr(self, name)))
        for name, low, high in (("samples", 1, MAX_SAMPLES), ("seed", 0, MAX_SEED)):
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise AmbientSolveError(
                    f"{name}={value!r} was given; a whole number from {low} to {high} was expected."
                )
        _check_prompt(self)
        for name in FILES:
            word = self.damage.get(name)
            if word is not None:
                _check_word(name, word)
                if word in (".", "..") or any(sign in word for sign in "/\\:"):
                    raise AmbientSolveError(f"{name}={word!r} was given; a file name without a folder was expected.")
        self.make_task()
        _check_algorithm(self.algorithm, self.knobs)

    def make_task(self, **files: Any) -> Task:
        """The damage, with `mask` or `kernel` replaced by the files (or the mask's tensor) that stand for them here."""
        return make_task(self.task, **{**self.damage, **files})


def to_json(recipe: Recipe) -> str:
    """`recipe` as text; of a prompt it says nothing where there is none."""
    record = dataclasses.asdict(recipe)
    for name in ("prompt", "negative", "guidance") if not recipe.prompt else ():
        del record[name]
    return json.dumps({"recipe": VERSION, **record}, indent=2)


def from_json(text: str) -> Recipe:
    """What `to_json` wrote, checked.

    Raises:
        AmbientSolveError: no JSON, no recipe, of a later version, with unknown keys, wrong types or values.
    """
    if len(text) > MAX_TEXT:
        raise AmbientSolveError(f"The recipe has {len(text)} characters; at most {MAX_TEXT} are read.")
    try:
        record = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        if isinstance(error, AmbientSolveError):
            raise
        raise AmbientSolveError("The recipe is not readable JSON; to_json writes one.") from None
    if not isinstance(record, dict) or "recipe" not in record:
        raise AmbientSolveError("This JSON is no recipe: it has no entry 'recipe'; to_json writes one.")
    version = record.pop("recipe")
    if version != VERSION or isinstance(version, bool):
        raise AmbientSolveError(f"The recipe has version {version!r}; {VERSION} was expected: update ambient_solve.")
    names = [f.name for f in dataclasses.fields(Recipe)]
    for name in record:
        if name not in names:
            raise AmbientSolveError(f"The recipe has an unknown entry {name[:50]!r}. {suggestion(name, names)}")
    return Recipe(**record)


def write_png(x: Tensor, path: str | Path, recipe: Recipe, profile: bytes = b"") -> None:
    """Write a picture as an 8-bit PNG that carries its recipe.

    Args:
        x: (1 or 3, H, W) in [0, 1].
        path: The file to write.
        recipe: How the picture was made.
        profile: Colour profile (ICC) of its numbers; empty for sRGB.
    """
    from ambient_solve.saving import save_png

    save_png(x, Path(path), to_json(recipe), profile)


def read_png(path: str | Path) -> Recipe | None:
    """The recipe in a PNG file, None where it has none. No pixel is decoded.

    Raises:
        AmbientSolveError: it has one that cannot be used.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG",)) as image:
            text = image.info.get(KEY)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    # `Restoration.save` and `ambient-solve restore` write what they did under the same key, in words of their own.
    if not isinstance(text, str) or '"recipe"' not in text[:MAX_TEXT]:
        return None
    return from_json(text)


def python_snippet(recipe: Recipe, picture: str = "photo.png", out: str = "restored") -> str:
    """Python that repeats a recipe; the results are those of `cli_command`.

    Args:
        recipe: How a picture was restored.
        picture: File to restore.
        out: Folder of the results.

    Returns:
        The program.
    """
    knobs = ", ".join(f"{name}={value!r}" for name, value in recipe.damage.items())
    damage = f"make_task({recipe.task!r}{', ' if knobs else ''}{knobs})"
    words = ", ".join(repr(part) for part in (recipe.prompt, recipe.negative, recipe.guidance))
    return (
        f"from ambient_solve import {'Prompt, ' if recipe.prompt else ''}load_prior\n"
        "from ambient_solve.restore.tasks import make_task\nfrom ambient_solve.restore import restore_file\n"
        "\n"
        "outcome = restore_file(\n"
        f"    {picture!r},\n"
        f"    load_prior({recipe.prior!r}),\n"
        f"    {damage},\n"
        f"    algorithm={recipe.algorithm!r},\n"
        f"    options={dict(recipe.knobs)!r},\n"
        f"    n_samples={recipe.samples},\n"
        f"    seed={recipe.seed},\n"
        + (f"    cond=Prompt({words}),\n" if recipe.prompt else "")
        + f"    out={f'{out}/{Path(picture).stem}'!r},\n"
        ")\n"
        "restored = outcome.restoration.mean  # also restored .samples, .std, .chi2\n"
    )


def cli_command(recipe: Recipe, picture: str = "photo.png", out: str = "restored") -> str:
    """The command line that repeats a recipe; the results are those of `python_snippet`.

    Args:
        recipe: How a picture was restored.
        picture: File to restore.
        out: Folder of the results.

    Returns:
        The command, quoted for a shell.
    """
    words = ["ambient-solve", "restore", picture, "--task", recipe.task]
    words += [word for name, value in recipe.damage.items() for word in _option(name, value)]
    words += ["--prior", recipe.prior, "--algorithm", recipe.algorithm]
    own = {k.name for cls in TASKS.values() for k in knobs(cls)}
    for name, value in recipe.knobs.items():
        words += _option(f"algorithm.{name}" if name in own else name, value)
    if recipe.prompt:
        words += _option("prompt", recipe.prompt) + _option("prompt_guidance", recipe.guidance)
        words += _option("negative", recipe.negative) if recipe.negative else []
    words += ["--samples", str(recipe.samples), "--seed", str(recipe.seed), "--out", out]
    return shlex.join(words)


def _option(name: str, value: Any) -> list[str]:
    """A flag and its value; a knob whose name Python reserves, `lambda_`, is typed without its mark."""
    flag, text = (
        f"--{name.rstrip('_').replace('_', '-')}",
        str(value).lower() if isinstance(value, bool) else str(value),
    )
    return [f"{flag}={text}"] if text.startswith("-") else [flag, text]


def _check_word(name: str, word: Any) -> None:
    if not isinstance(word, str) or not 0 < len(word) <= MAX_WORD or not word.isprintable() or word.startswith("-"):
        shown = repr(word) if len(repr(word)) < 60 else f"{repr(word)[:60]}..."
        raise AmbientSolveError(
            f"{name}={shown} was given; a word of at most {MAX_WORD} printable characters was expected."
        )


def _check_prompt(recipe: Recipe) -> None:
    """Raise `AmbientSolveError` unless the prompt is words, and what belongs to one stands beside one."""
    for name in ("prompt", "negative"):
        words = getattr(recipe, name)
        if not isinstance(words, str) or len(words) > MAX_PROMPT or not words.isprintable():
            raise AmbientSolveError(
                f"{name}={repr(words)[:60]} was given; at most {MAX_PROMPT} printable characters were expected."
            )
    scale = recipe.guidance
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 <= scale <= MAX_GUIDANCE:
        raise AmbientSolveError(f"guidance={scale!r} was given; a number from 0 to {MAX_GUIDANCE:g} was expected.")
    if not recipe.prompt and (recipe.negative or scale != 1):
        raise AmbientSolveError("negative and guidance belong to a prompt, and none was given.")


def _checked_values(name: str, values: Any) -> dict[str, Any]:
    """A plain copy: the names are words, the values words, numbers, true or false."""
    if not isinstance(values, Mapping):
        raise AmbientSolveError(f"{name} is a {type(values).__name__}; names with their values were expected.")
    for key, value in values.items():
        _check_word("a name in " + name, key)
        if not isinstance(value, (bool, int, float)):
            _check_word(key, value)
    return dict(values)


def _check_algorithm(algorithm: str, settings: Mapping[str, Any]) -> None:
    from ambient_solve.algorithms import ALGORITHMS
    from ambient_solve.algorithms.auto import check_settings

    if algorithm == "auto":
        check_settings(settings)
    elif algorithm in ALGORITHMS:
        build(ALGORITHMS[algorithm], **settings)
    else:
        raise AmbientSolveError(f"There is no algorithm {algorithm!r}. {suggestion(algorithm, [*ALGORITHMS, 'auto'])}")


def _no_number(name: str) -> NoReturn:
    raise AmbientSolveError(f"The recipe holds {name}; numbers were expected.")
