"""Public names, options, help texts and pages are spelled the American way; names of before are still understood."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator

import pytest

import ambient_solve
from ambient_solve import ALGORITHMS, operators
from ambient_solve.cli import dispatch
from ambient_solve.cli.evaluate import read_task
from ambient_solve.data.damages import DAMAGES, make_damage
from ambient_solve.knobs import knobs
from ambient_solve.objectives import OBJECTIVES
from ambient_solve.operators import BUILDERS
from ambient_solve.restore.tasks import TASKS
from test_documents import DOCUMENTS, ROOT

BRITISH = re.compile(
    r"""colour|\bgrey|_grey|grey_|centre|neighbour|favour|behaviour|honour|licence|artefact|catalogue|analyse|defence
    |\bmetres?\b|(model|label|travel|cancel)l(ed|ing)|fulfil\b
    |(normal|quant|optim|summar|random|minim|maxim|recogn|regular|initial|discret|visual|general|organ|character|penal
    |util|memor|categor|standard|symmetr|real|equal|local|util|priorit|parametr|author)is(e[drs]?|ing|ations?|able)""",
    re.IGNORECASE | re.VERBOSE,
)


def members(cls: type) -> Iterator[tuple[str, object]]:
    """The public members of a class of this library, its fields included, with those that it inherits from it."""
    for owner in cls.__mro__:
        if owner.__module__.startswith("ambient_solve"):
            yield from ((name, value) for name, value in vars(owner).items() if not name.startswith("_"))
            yield from ((name, None) for name in getattr(owner, "__annotations__", ()) if not name.startswith("_"))


def public() -> dict[str, str]:
    """Every public name, with the text that help shows of it."""
    found = {}
    spaces = {"ambient_solve": ambient_solve, "operators": operators}
    for space, module in spaces.items():
        for name in module.__all__:
            thing = getattr(module, name)
            found[f"{space}.{name}"] = inspect.getdoc(thing) or ""
            parts = members(thing) if isinstance(thing, type) else ()
            for member, value in [("", thing), *parts]:
                own = f"{space}.{name}.{member}"
                found[own] = (inspect.getdoc(value) or "") if value is not None else ""
                if inspect.isfunction(value):
                    found |= {f"{own}({p})": "" for p in inspect.signature(value).parameters}
    registries = {"task": TASKS, "damage": DAMAGES, "algorithm": ALGORITHMS, "objective": OBJECTIVES}
    for kind, registry in registries.items():
        for name, cls in registry.items():
            found |= {f"{kind} {name}.{k.name} {k.choices}": k.help for k in knobs(cls)}
    found |= {f"builder {name}": "" for name in BUILDERS}
    for name, make in dispatch.COMMANDS.items():
        found |= {f"command {name} --{f.name}": "" for f in dataclasses.fields(make())}
    return found


def test_public_names_and_their_help_are_american():
    wrong = {
        n: found for n, text in public().items() if (found := {h.group() for h in BRITISH.finditer(f"{n} {text}")})
    }
    assert wrong == {}


@pytest.mark.parametrize(
    "path", [*DOCUMENTS, *sorted((ROOT / "docs" / "notebooks").glob("*.md"))], ids=lambda p: p.name
)
def test_a_page_is_american(path):
    assert {hit.group() for hit in BRITISH.finditer(path.read_text())} == set()


def test_what_is_british_is_found():
    for word in ("summarise", "Quantisation", "centre", "grey", "--colour", "normalised", "Licence", "modelling"):
        assert BRITISH.search(word), word
    for word in ("summarize", "noise", "denoise", "precise", "raised", "center", "angrey", "realistic", "concise"):
        assert not BRITISH.search(word), word
    assert len(public()) > 300


def test_the_names_of_before_are_understood():
    assert read_task("quantise bits=3").settings == read_task("quantize bits=3").settings
    old, new = (make_damage({"kind": "kspace", word: 6}) for word in ("centre", "center"))
    assert old == new and old.center == 6
