"""A knob is a dataclass field with a range and a sentence of help.

It is the one source of the command-line option, the app's control, the row of the docs table and the saved setting.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, get_type_hints

from ambient_solve.errors import AmbientSolveError, UnknownKnob, suggestion

AUTO = "auto"
"""What a knob may be in place of a number that is to be estimated."""


@dataclass(frozen=True)
class Knob:
    """One knob as the command line and the app see it: `lo` and `hi` bound numbers, `choices` lists words.

    A knob with `auto` may be the word "auto" too, until its number is estimated.
    """

    name: str
    type: type
    default: Any
    help: str
    lo: float | None
    hi: float | None
    choices: tuple[str, ...] | None
    auto: bool = False


def knob(
    default: Any,
    lo: float | None = None,
    hi: float | None = None,
    help: str = "",
    *,
    choices: tuple[str, ...] | None = None,
    auto: bool = False,
) -> Any:
    """A field of a dataclass that is a knob.

    Args:
        default: Value where none is given.
        lo: Least value, itself allowed.
        hi: Largest value, itself allowed.
        help: What it does, for the command line, the app and the docs.
        choices: Words that are allowed, in place of a range.
        auto: Whether "auto" is allowed too.

    Returns:
        A `dataclasses.field`; its metadata hold the knob, and `help`, which tyro shows where a dataclass is nested.
    """
    span = f" ({lo:g} to {hi:g})" if lo is not None and hi is not None else ""
    span = f" ({', '.join(choices)})" if choices else span
    record = {"lo": lo, "hi": hi, "choices": choices, "help": help, "auto": auto}
    return dataclasses.field(default=default, metadata={"knob": record, "help": sentence(help + span)})


def sentence(help: str) -> str:
    """The help of a knob as a sentence; what begins with a symbol, such as `q^2`, keeps its first letter."""
    first = help[:1].upper() if help[1:2].isalpha() else help[:1]
    return f"{first}{help[1:]}." if help else ""


def knobs(cls: type) -> list[Knob]:
    """The knobs of a dataclass, in the order of its fields."""
    types = get_type_hints(cls)
    return [
        Knob(name=f.name, type=types[f.name], default=f.default, **f.metadata["knob"])
        for f in dataclasses.fields(cls)
        if "knob" in f.metadata
    ]


def check_knobs(settings: Any) -> None:
    """Raise `AmbientSolveError` unless every knob of the dataclass instance `settings` is inside its range."""
    for k in knobs(type(settings)):
        value, owner = getattr(settings, k.name), type(settings).__name__
        if k.auto and isinstance(value, str) and value == AUTO:
            continue
        if k.choices is not None:
            if value not in k.choices:
                raise AmbientSolveError(
                    f"{owner}: {k.name}={value!r} is not a choice. {suggestion(str(value), k.choices)}"
                )
            continue
        if k.type is bool:
            if not isinstance(value, bool):
                raise AmbientSolveError(
                    f"{owner}: {k.name}={value!r} is not True or False; its default is {k.default}."
                )
            continue
        if k.type in (int, float) and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise AmbientSolveError(f"{owner}: {k.name}={value!r} is not a number; its default is {k.default}.")
        if k.type is int and not isinstance(value, int):
            raise AmbientSolveError(f"{owner}: {k.name}={value!r} must be a whole number; its default is {k.default}.")
        if (k.lo is not None and not value >= k.lo) or (k.hi is not None and not value <= k.hi):
            raise AmbientSolveError(
                f"{owner}: {k.name}={value!r} is outside [{k.lo}, {k.hi}]; its default is {k.default}."
            )


def build(cls: type, **values: Any) -> Any:
    """Construct the dataclass `cls` from knob values; an unknown name raises with a suggestion."""
    names = [k.name for k in knobs(cls)]
    for name in values:
        if name not in names:
            raise UnknownKnob(cls.__name__, name, names)
    return cls(**values)
