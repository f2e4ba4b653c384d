"""Nothing is unpickled, and files of others are opened in one place each. The checks are checked too."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tree import SOURCES, imports, within

PICKLES = ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")


def unpickling(name: str, source: str) -> list[str]:
    """Where the file could run code that a data file holds."""
    found = [f"{name} imports {module}" for module, _ in imports(name, source) if within(module, PICKLES)]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "torch" and "load" in [a.name for a in node.names]:
            found.append(f"{name} imports load from torch, which hides it from this check")
        if isinstance(node, ast.Call):
            call = ast.unparse(node.func)
            settings = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
            if call == "torch.load" and settings.get("weights_only") is not True:
                found.append(f"{name}, line {node.lineno}: torch.load without weights_only=True")
            if call in ("np.load", "numpy.load") and settings.get("allow_pickle") not in (None, False):
                found.append(f"{name}, line {node.lineno}: {call} with allow_pickle")
            if call.endswith(("read_pickle", ".hub.load")):
                found.append(f"{name}, line {node.lineno}: {call}")
    return found


LIBRARY = [name for name in SOURCES if name.startswith("ambient_solve/")]


def test_nothing_is_unpickled():
    assert [found for name, source in SOURCES.items() for found in unpickling(name, source)] == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def f(p):\n    from pickle import load\n    return load(p)",
        "import torch\ntorch.load('a.pt')",
        "import torch\ntorch.load('a.pt', weights_only=False)",
        "import torch\nsafe = 1\ntorch.load('a.pt', weights_only=safe)",
        "from torch import load",
        "import numpy as np\nnp.load('a.npy', allow_pickle=True)",
        "import torch\ntorch.hub.load('a/b', 'c')",
    ],
)
def test_unpickling_is_caught(source):
    assert len(unpickling("new.py", source)) == 1
    assert unpickling("new.py", "import torch\ntorch.load('a.pt', weights_only=True)") == []


OPENERS = {
    "h5py.File": "ambient_solve/reading/hdf5.py",
    "ismrmrd.Dataset": "benchmarks/untrusted.py",
    "pydicom.dcmread": "ambient_solve/mri/magnitudes.py",
}
"""What opens a file of others without asking what it points at or claims, and the one module that may call it."""


def careless_opening(name: str, source: str) -> list[str]:
    """Where a file of the library, or of what stands on it, is opened past the checks."""
    if name.startswith("tests/"):
        return []
    calls = [ast.unparse(node.func) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    calls += [f"{module}.{alias.name}" for module, alias in from_imports(source)]
    return [
        f"{name} calls {call}" for call in calls if any(within_call(call, o) and name != m for o, m in OPENERS.items())
    ]


def within_call(call: str, opener: str) -> bool:
    package, _, function = opener.rpartition(".")
    return call == opener or (call.endswith(f".{function}") and package in call)


def from_imports(source: str) -> Iterator[tuple[str, ast.alias]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias) for alias in node.names)


def test_files_of_others_are_opened_in_one_place_each():
    assert [found for name, source in SOURCES.items() for found in careless_opening(name, source)] == []


@pytest.mark.parametrize(
    "source",
    [
        "import h5py\nh5py.File('a.h5')",
        "def f(p):\n    from h5py import File\n    return File(p)",
        "_module('h5py').File('a.h5')",
        "import ismrmrd\nismrmrd.Dataset('a.h5')",
        "import pydicom\npydicom.dcmread('a.dcm')",
    ],
)
def test_careless_opening_is_caught(source):
    assert len(careless_opening("benchmarks/new.py", source)) == 1
    assert careless_opening("benchmarks/new.py", "with open_hdf5(path) as file:\n    file['x']") == []


OWN_PICTURES = ("ambient_solve/app/photographs/events.py", "ambient_solve/app/photographs/example.py")
"""Modules that open pictures which the page itself has written, or which come with it."""


def careless_pictures(name: str, source: str) -> list[str]:
    """Where Pillow may choose among all its formats for a file of others; some of them start other programs."""
    if not name.startswith("ambient_solve/") or name in OWN_PICTURES:
        return []
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    opened = [call for call in calls if ast.unparse(call.func).endswith("Image.open")]
    return [f"{name}, line {c.lineno}" for c in opened if "formats" not in [k.arg for k in c.keywords]]


def test_pictures_are_opened_in_known_formats():
    assert [found for name, source in SOURCES.items() for found in careless_pictures(name, source)] == []
    assert len(careless_pictures("ambient_solve/new.py", "from PIL import Image\nImage.open('a.png')")) == 1
    assert careless_pictures("ambient_solve/new.py", "Image.open('a.png', formats=('PNG',))") == []
