"""Knobs as command-line flags: options made from knobs, and knobs read from what was typed."""

from __future__ import annotations

import dataclasses
import difflib
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from ambient_solve.errors import AmbientSolveError
from ambient_solve.knobs import AUTO, Knob, knobs, sentence
from ambient_solve.restore.several import WHOLE
from ambient_solve.restore.tasks import TASKS

if TYPE_CHECKING:
    from ambient_solve.data.damages import Damage

Device = Annotated[str, tyro.conf.arg(metavar="auto|cpu|cuda")]


ALIASES = {"angle": ("--direction",)}
"""Other names of an option."""


def knob_values(texts: dict[str, str], algorithm: str, own: Sequence[str]) -> dict[str, Any]:
    """Knobs of an algorithm, typed, from what was typed on the command line.

    Args:
        texts: Text by knob, such as {"lambda": "2"}.
        algorithm: Name of the algorithm; where several share a knob, its type is the one that counts.
        own: Options of the command itself, which an unknown word may have meant.

    Returns:
        Value by knob.

    Raises:
        AmbientSolveError: no algorithm has such a knob, or the text is no such value.
    """
    if not texts:
        return {}
    from ambient_solve.algorithms import ALGORITHMS

    known = {k.name: k for cls in ALGORITHMS.values() for k in knobs(cls)}
    # The knobs of the chosen algorithm last: where two share a name, its type is the one that counts.
    known |= {k.name: k for k in knobs(ALGORITHMS[algorithm])} if algorithm in ALGORITHMS else {}
    values = {}
    for typed, text in texts.items():
        name = typed.replace("-", "_")
        name = name if name in known else name + "_"
        if name not in known:
            options = [*own, *(n.rstrip("_") for n in known)]
            close = difflib.get_close_matches(typed.replace("-", "_"), options, n=1)
            hint = f"Did you mean --{close[0].replace('_', '-')}? " if close else ""
            raise AmbientSolveError(
                f"There is no option or knob --{typed}. {hint}"
                "The --help of the command and `ambient-solve info` list them."
            )
        values[name] = _parse(typed, text, known[name].type)
    return values


def _parse(name: str, text: str, kind: type) -> Any:
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        return kind(text)
    except (ValueError, KeyError):
        words = {bool: "true or false", int: "a whole number", float: "a number"}[kind]
        raise AmbientSolveError(f"--{name} {text} was given, {words} was expected.") from None


def split_knobs(argv: Sequence[str], own: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Take --NAME VALUE and --NAME=VALUE out of `argv` unless NAME is one of the command's `own` options.

    A NAME without a value stands for true. --algorithm.NAME is a knob even where NAME is an option of the command.

    Args:
        argv: What was typed.
        own: Options of the command, with underscores.

    Returns:
        What is left of `argv`, and the text of each knob by its name.
    """
    rest, texts, words = [], {}, list(argv)
    while words:
        word = words.pop(0)
        if not word.startswith("--") or word == "--" or word[2:].split("=")[0].replace("-", "_") in own:
            rest.append(word)
            continue
        name, equals, text = word[2:].partition("=")
        if not equals:
            text = words.pop(0) if words and not words[0].startswith("--") else "true"
        texts[name.removeprefix("algorithm.")] = text
    return rest, texts


def with_knobs(cls: type, extra: Sequence[Knob], owners: dict[str, str] | None = None) -> type:
    """The command `cls` with one more option for each knob, help and range taken from the knob.

    With `owners`, what a knob belongs to, an option that is not given stays None.

    Args:
        cls: The command, a dataclass.
        extra: The knobs.
        owners: What each knob belongs to, in words, by its name; or None.

    Returns:
        The dataclass with the options.
    """
    fields = []
    for k in extra:
        bounds = f", {k.lo:g} to {k.hi:g}" if k.lo is not None and k.hi is not None else ""
        kind = k.type if k.type in (int, float) else str
        metavar = "|".join(k.choices) if k.choices else "PATH" if kind is str else kind.__name__.upper()
        if k.auto:
            kind, metavar = kind | Literal[AUTO], f"{metavar}|{AUTO}"
        default = "" if k.default is None else f", default: {k.default}"
        hint = f"({((owners[k.name] if owners else '') + bounds + default).removeprefix(', ')})"
        arg = tyro.conf.arg(
            help=sentence(k.help), metavar=metavar, help_behavior_hint=hint, aliases=ALIASES.get(k.name)
        )
        fields.append((k.name, Annotated[kind | None if owners else kind, arg], None if owners else k.default))
    made = dataclasses.make_dataclass(cls.__name__, fields, bases=(cls,), frozen=True)
    made.__doc__ = cls.__doc__
    return made


def task_options() -> dict[str, tuple[Knob, str]]:
    """The options of all tasks by name, each once, with the tasks that have it in words."""
    found: dict[str, tuple[Knob, list[str]]] = {}
    every = {**TASKS, **WHOLE}
    for name, task in every.items():
        for k in knobs(task):
            first, tasks = found.setdefault(k.name, (k, []))
            # One option serves all tasks: it takes "auto" if any of them does, the others refuse it.
            found[k.name] = (dataclasses.replace(first, auto=first.auto or k.auto), [*tasks, name])
    words = {name: "every task" if len(tasks) == len(every) else ", ".join(tasks) for name, (_, tasks) in found.items()}
    return {name: (k, words[name]) for name, (k, _) in found.items()}


def read_damages(
    texts: Sequence[str], sigma: float | None = None, sigma_noise: float | None = None
) -> tuple[Damage, ...]:
    """The damages of a data set from texts such as "jpeg quality=25 share=2"; noise where there are none.

    Args:
        texts: A kind with its knobs each.
        sigma: Level of the noise where pixel values go from 0 to 1; only without `texts`.
        sigma_noise: The same in units of [-1, 1] pictures, twice as large.

    Returns:
        The damages.

    Raises:
        AmbientSolveError: a text is no damage, or more than one of the three is given.
    """
    from ambient_solve.data.damages import Noise, make_damage
    from ambient_solve.data.units import PICTURE, SCALE

    if sigma is not None and sigma_noise is not None:
        raise AmbientSolveError(f"--sigma-noise {sigma_noise} is --sigma {sigma_noise / 2}: give one or the other.")
    level = sigma if sigma_noise is None else sigma_noise / 2
    if not texts:
        return (Noise() if level is None else make_damage({"kind": "noise", "sigma_01": level}),)
    if level is not None:
        raise AmbientSolveError(
            f'--sigma {level} is short for --damage "noise sigma_01={level}": give one or the other.'
        )
    damages = []
    for text in texts:
        try:
            kind, *rest = shlex.split(text)
            settings = dict(word.split("=", 1) for word in rest)
        except ValueError:
            raise AmbientSolveError(
                f'--damage {text!r} was given, a kind and its knobs were expected: --damage "jpeg quality=25 share=2".'
            ) from None
        damages.append(make_damage({**settings, "kind": kind}))
        for name in damages[-1].levels:
            if name in settings and name + PICTURE not in settings:
                level = getattr(damages[-1], name)
                print(
                    f"Note: {name}={level:g} is in units of [-1, 1] pictures; where pixel values go from 0 to 1 it is "
                    f"{name + PICTURE}={level / SCALE:g}.",
                    file=sys.stderr,
                )
    return tuple(damages)


def damage_help() -> str:
    """The kinds of damage that a data set may have, with their knobs, for the help of `ambient-solve corrupt`."""
    from ambient_solve.data.damages import DAMAGES, Damage, user_knobs

    shared = [k.name for k in knobs(Damage)]
    lines = ["Kinds of damage (share: " + knobs(Damage)[0].help + "):"]
    for name, cls in DAMAGES.items():
        lines += ["", f"{name}: {cls.__doc__.splitlines()[0]}"]
        for k in user_knobs(cls):
            if k.name not in shared:
                span = f" ({k.lo:g} to {k.hi:g})" if k.lo is not None and k.hi is not None else ""
                lines.append(f"    {k.name}={k.default}  {k.help}{span}")
    return "\n".join(lines)
