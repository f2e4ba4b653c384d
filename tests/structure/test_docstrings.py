"""Every public function and class says what it is, takes and returns, and every knob has a sentence of help."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tree import LIBRARY, SOURCES

MANY = 2
"""Parameters, beside `self` and those that only swallow keywords, from which on a docstring lists them."""
NOTHING = (None, "None", "NoReturn", "Iterator[None]")
"""Annotations of functions that return nothing, and of contexts that yield nothing."""


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Names of the parameters beside `self` and `cls`; `**_`, which swallows keywords, is none."""
    a = function.args
    found = [p.arg for p in (*a.posonlyargs, *a.args, *a.kwonlyargs)] + [p.arg for p in (a.vararg, a.kwarg) if p]
    return [name for name in found if name not in ("self", "cls", "_")]


def listed(name: str, text: str) -> bool:
    """Whether the Args of a docstring have an entry for the parameter, alone or with others of its kind."""
    entries = text.partition("Args:\n")[2].partition("\n\n")[0]
    return re.search(rf"^    (\w+, )*{name}(, \w+)*: ", entries, re.MULTILINE) is not None


def undocumented(source: str) -> Iterator[str]:
    """`name: what is missing` for every public function and class of a module."""

    def visit(body: list[ast.stmt], owner: str) -> Iterator[str]:
        for node in body:
            is_class = isinstance(node, ast.ClassDef)
            if not (is_class or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))) or node.name[0] == "_":
                continue
            name, text = owner + node.name, ast.get_docstring(node)
            if not text:
                yield f"{name}: no docstring"
            elif not is_class and len(names := parameters(node)) >= MANY and not text.startswith("See `"):
                if unsaid := [each for each in names if not listed(each, text)]:
                    yield f"{name}: no Args for {', '.join(unsaid)}"
                returned = None if node.returns is None else ast.unparse(node.returns)
                if returned not in NOTHING and not re.search(r"^(Returns|Yields):$", text, re.MULTILINE):
                    yield f"{name}: no Returns"
            if is_class:
                yield from visit(node.body, f"{name}.")

    return visit(ast.parse(source).body, "")


def assigned(tree: ast.Module) -> dict[str, ast.expr]:
    """What stands behind each name that a module assigns."""
    return {ast.unparse(node.targets[0]): node.value for node in tree.body if isinstance(node, ast.Assign)}


def helpless(source: str) -> Iterator[str]:
    """The knobs of a module that have no sentence of help, in its place or at the end of a tuple that knobs share."""
    tree = ast.parse(source)
    shared = assigned(tree)
    for node in tree.body:  # tuples that knobs of several modules share
        if isinstance(node, ast.ImportFrom) and (origin := f"{(node.module or '').replace('.', '/')}.py") in SOURCES:
            shared = assigned(ast.parse(SOURCES[origin])) | shared
    for node in ast.walk(tree):
        call = node.value if isinstance(node, ast.AnnAssign) else None
        if not isinstance(call, ast.Call) or ast.unparse(call.func).split(".")[-1] != "knob":
            continue
        parts = [shared[ast.unparse(a.value)].elts if isinstance(a, ast.Starred) else [a] for a in call.args]
        given = sum(parts, [])[3:4] + [k.value for k in call.keywords if k.arg == "help"]
        if not given or (isinstance(given[0], ast.Constant) and not given[0].value):
            yield ast.unparse(node.target)


def test_every_public_name_says_what_it_is_and_takes():
    found = {f"{name}::{lack}" for name in LIBRARY for lack in undocumented(SOURCES[name])}
    assert found == set()


def test_every_knob_has_a_sentence_of_help():
    assert {name: found for name in LIBRARY if (found := list(helpless(SOURCES[name])))} == {}


def test_what_is_missing_is_found():
    source = """
from ambient_solve.data.damage import ABOVE
RANGE = (0, 2, "how many")
SILENT = (0, 2, "")
class Plain:
    def two(self, a, b) -> int: "Two arguments."
    def listed(self, a, b, *c): "Three.\\n\\nArgs:\\n    a: One.\\n    b, c: Two."
    def half(self, a, b): "Two.\\n\\nArgs:\\n    a: One, not\\n        b: two."
    def returning(self, a, b) -> int: "Two.\\n\\nArgs:\\n    a, b: Both.\\n\\nReturns:\\n    A number."
    def inherited(self, a, b, c) -> int: "See `Base.inherited`."
    def elsewhere(self, a, b): "Two, of which one is described elsewhere. See `Base.inherited`."
    def swallowing(self, a, **_) -> int: "One argument."
    def _private(self, a, b, c): ...
def silent(): ...
async def gathered(a, *b, **c): "Three arguments."
class Said:
    "A class."
    good: int = knob(1, 0, 2, "how many")
    named: str = knob("a", help="which", choices=("a",))
    bare: int = knob(1, 0, 2)
    empty: int = knob(1, help="")
    shared: int = knob(1, *RANGE)
    speechless: int = knob(1, *SILENT)
    imported: float = knob(*ABOVE)
    plain: int = field(default=1)
"""
    assert list(undocumented(source)) == [
        "Plain: no docstring",
        "Plain.two: no Args for a, b",
        "Plain.two: no Returns",
        "Plain.half: no Args for b",
        "Plain.elsewhere: no Args for a, b",
        "silent: no docstring",
        "gathered: no Args for a, b, c",
    ]
    assert list(helpless(source)) == ["bare", "empty", "speechless"]
