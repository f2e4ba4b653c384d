"""A public name means one thing: no two modules define a function or a class of the same name, but for a few."""

from __future__ import annotations

import ast
from collections.abc import Mapping

from tree import LIBRARY, SOURCES

ALLOWED = {
    # A kind of a registry is named by the field's word; the objective, the task and the damage are of that kind.
    "Denoise": "the objective that learns to denoise, and the task of restoring a noisy picture; `denoise` in both",
    "GaussianBlur": "the same blur: of a data set before training, of one file that is restored, of a soft process",
    "MotionBlur": "the same blur: of a data set before training, and of one file that is restored",
    "JpegBlocks": "the same compression: of a data set before training, and of one file that is restored",
    # One thing done to two kinds of data.
    "birdcage": "coil maps of loops on a circle: evenly spaced, and drawn at random for training",
    "centre": "cuts out the middle: of a picture, and of k-space",
    "noise_level": "estimates the level of white noise: in a picture, and in k-space",
    "total_variation": "the reconstruction of least total variation: of a picture, and of a scan by sigpy",
    "progress_bar": "how far a run is: in a terminal or a notebook, and on the page in the browser",
    "remember": "stores the settings of what is being made, which nothing else may go on with: a data set, and a run",
    "Verdict": "whether something will do, in numbers: half precision for a network, and a statement for a measurement",
    "main": "the entry point of a process: the command line, and the reader of one file",
}
"""Names that several modules define, with the reason."""
WINGS = ("ambient_solve/app/photographs/", "ambient_solve/app/scans/", "ambient_solve/app/clips/")
"""Rooms of the same plan: what they define under one name does the same in several tabs of the page."""


def defined(sources: Mapping[str, str]) -> dict[str, list[str]]:
    """The modules that define each public function or class of the first level."""
    found: dict[str, list[str]] = {}
    for module, source in sources.items():
        for node in ast.parse(source).body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and node.name[0] != "_":
                found.setdefault(node.name, []).append(module)
    return found


def repeated(sources: Mapping[str, str]) -> dict[str, list[str]]:
    """The names that more than one module defines; those that wings of the page share count once."""
    found = {}
    for name, modules in defined(sources).items():
        inside = [sum(m.startswith(wing) for m in modules) for wing in WINGS]
        once = len(modules) - (max(sum(inside) - 1, 0) if max(inside) == 1 else 0)
        if once > 1:
            found[name] = modules
    return found


def test_no_name_means_two_things():
    found = repeated({name: SOURCES[name] for name in LIBRARY})
    assert {name: modules for name, modules in found.items() if name not in ALLOWED} == {}
    assert set(ALLOWED) <= set(found), "an exception that nobody needs any more"


def test_a_second_meaning_is_found():
    sources = {
        "ambient_solve/a.py": "def solve(): ...\nclass Job: ...\ndef _own(): ...\nx = 1",
        "ambient_solve/b.py": "async def solve(): ...\ndef _own(): ...\nx = 2\nclass C:\n    def Job(self): ...",
        "ambient_solve/app/photographs/a.py": "def views(): ...\ndef run(): ...",
        "ambient_solve/app/scans/b.py": "def views(): ...",
        "ambient_solve/app/clips/a.py": "def views(): ...",
        "ambient_solve/app/scans/c.py": "def run(): ...",
        "ambient_solve/app/run.py": "def run(): ...",
    }
    assert set(repeated(sources)) == {"solve", "run"}
