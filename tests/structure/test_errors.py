"""Errors are types with fields: no code reads or rewrites the text of one to decide. The check is checked too."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tree import SOURCES

TEXTS = ("str", "repr", "shown", "reason", "first_line", "one_line", "on_a_page")
"""Functions that make a text of an error."""
READS = ("replace", "startswith", "endswith", "find", "index", "split", "rsplit", "partition", "splitlines", "count")
READS += ("removeprefix", "removesuffix", "rpartition", "strip", "rstrip", "lstrip", "lower", "upper", "casefold")
ALLOWED = {
    ("ambient_solve/errors.py", "reason"): "what other libraries say is a text and no more; a path in it is cut out",
    ("ambient_solve/errors.py", "first_line"): "what other libraries say, shortened",
    ("ambient_solve/errors.py", "one_line"): "what other libraries say, on one line",
    ("ambient_solve/solver.py", "out_of_memory"): "the allocator of the CPU raises a plain RuntimeError",
}


def reads_a_sentence(name: str, source: str) -> list[tuple[str, str]]:
    """(file, function) for each place that compares or rewrites the text of an exception."""
    return [(name, function.name) for function in _functions(ast.parse(source)) if _reads(function)]


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def _reads(function: ast.AST) -> bool:
    errors = {node.name for node in ast.walk(function) if isinstance(node, ast.ExceptHandler) and node.name}
    for argument in ast.walk(function):
        if isinstance(argument, ast.arg) and argument.annotation is not None:
            kinds = ast.unparse(argument.annotation).replace("|", " ").split()
            errors |= {argument.arg} if any(kind.endswith(("Error", "Exception")) for kind in kinds) else set()
    texts: set[str] = set()

    def is_text(node: ast.AST) -> bool:
        """Whether the value is, or holds, the text of an error."""
        if isinstance(node, ast.Name):
            return node.id in texts
        if isinstance(node, ast.Attribute) and node.attr in ("args", "message"):
            return isinstance(node.value, ast.Name) and node.value.id in errors
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in TEXTS:
            return any(is_error(a) for a in node.args)
        if isinstance(node, ast.FormattedValue):
            return is_error(node.value) or is_text(node.value)
        inner = (ast.JoinedStr, ast.BinOp, ast.BoolOp, ast.IfExp, ast.Subscript)
        if isinstance(node, inner):
            return any(is_text(child) for child in ast.iter_child_nodes(node))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            return is_text(node.func.value)
        return False

    def is_error(node: ast.AST) -> bool:
        return isinstance(node, ast.Name) and node.id in errors

    for _ in range(3):  # a text may be handed on
        for node in ast.walk(function):
            if isinstance(node, ast.Assign) and is_text(node.value):
                texts |= {t.id for t in node.targets if isinstance(t, ast.Name)}
    for node in ast.walk(function):
        if isinstance(node, ast.Compare) and any(is_text(side) for side in (node.left, *node.comparators)):
            return True
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in READS and is_text(node.func.value):
                return True
            if ast.unparse(node.func.value) == "re" and any(is_text(a) for a in node.args):
                return True
    return False


def test_no_code_reads_the_sentence_of_an_error():
    held = [name for name in SOURCES if name.startswith(("ambient_solve/", "trainers/"))]
    found = {place for name in held for place in reads_a_sentence(name, SOURCES[name])}
    assert found == set(ALLOWED)


@pytest.mark.parametrize(
    "read",
    [
        "if 'no knob' in str(error):\n            raise",
        "if f'{error}' == 'wrong':\n            raise",
        "words = str(error)\n        words = words.replace(folder, name)",
        "if 'out of memory' in error.args[0]:\n            raise",
        "words = re.sub(pattern, field, str(error))",
        "words = reason(error)\n        found = re.search('a', words)",
        "return str(error).startswith('There is no')",
    ],
)
def test_reading_a_sentence_is_caught(read):
    source = "def f():\n    try:\n        g()\n    except ValueError as error:\n        {}\n"
    assert reads_a_sentence("new.py", source.format(read)) == [("new.py", "f")]
    for fine in ("raise A(f'{path} is wrong: {error}.') from None", "print(error)", "found = error.name == 'steps'"):
        assert reads_a_sentence("new.py", source.format(fine)) == []


def test_a_text_of_an_error_that_is_handed_over_is_caught():
    assert reads_a_sentence("new.py", "def f(error: RuntimeError) -> bool:\n    return 'memory' in str(error)\n")
    assert not reads_a_sentence("new.py", "def f(words: str) -> bool:\n    return 'memory' in str(words)\n")


FILES = {"path", "where", "header", "numbers", "part", "source", "self.source", "called", "known['source']"}
ROOMS = ("ambient_solve/mri/files.py", "ambient_solve/mri/magnitudes.py", "ambient_solve/mri/ismrmrd_files.py")
ROOMS += ("ambient_solve/mri/apart.py", "ambient_solve/mri/scan.py", "ambient_solve/reading/")
ROOMS += ("ambient_solve/mri/ismrmrd_header.py", "ambient_solve/mri/sampling.py")
ROOMS += ("ambient_solve/restore/pictures.py",)
"""What a page reads uploads with: an error must be able to leave out their folder, which is the server's."""


def quotes_a_file(name: str, source: str) -> list[str]:
    """Where a plain `AmbientSolveError` quotes a file, so that nothing could tell the page what to leave out."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "AmbientSolveError":
            quoted = {ast.unparse(v.value) for v in ast.walk(node) if isinstance(v, ast.FormattedValue)}
            found += [f"{name}, line {node.lineno}"] if quoted & FILES else []
    return found


def test_an_error_that_quotes_an_upload_has_it_as_a_field():
    assert [f for name in SOURCES if name.startswith(ROOMS) for f in quotes_a_file(name, SOURCES[name])] == []


def test_a_file_in_a_plain_sentence_is_caught():
    assert len(quotes_a_file("new.py", "raise AmbientSolveError(f'{path} is empty.')")) == 1
    assert quotes_a_file("new.py", "raise UnreadableFile(path, 'is empty.')") == []
