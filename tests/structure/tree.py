"""The tree as text, for the tests of its structure: every file, every module, what each imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("ambient_solve", "trainers", "apps", "benchmarks", "examples", "tests")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
SOURCES = {str(path.relative_to(ROOT)): path.read_text() for path in FILES}
MODULES = {name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in SOURCES}
LIBRARY = [name for name in SOURCES if name.startswith("ambient_solve/")]


def imports(name: str, source: str) -> Iterator[tuple[str, bool]]:
    """(module, whether it is imported as soon as this file is) for every import in `source`."""
    package = name.removesuffix(".py").split("/")[:-1]

    def visit(node: ast.AST, at_once: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.Import):
            yield from ((alias.name, at_once) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                yield (inner if inner in MODULES else module), at_once
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            at_once = False
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            at_once = False
        for child in ast.iter_child_nodes(node):
            yield from visit(child, at_once)

    return visit(ast.parse(source), True)


def within(module: str, names: tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(name + ".") for name in names)
