"""Dependency direction, size of files, what is never unpickled, what an import costs; the checks are checked too."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ambient_solve.algorithms import ALGORITHMS, Algorithm
from ambient_solve.evaluate.exactness import on_gaussian
from ambient_solve.knobs import knobs
from ambient_solve.likelihood import Likelihood
from ambient_solve.noise import Streams
from ambient_solve.objectives.base import Batch
from ambient_solve.objectives.denoise import Denoise
from ambient_solve.priors.gaussian import MixturePrior
from helpers import AffinePrior, rand

ROOT = Path(__file__).parents[2]
FOLDERS = ("ambient_solve", "trainers", "apps", "benchmarks", "examples", "tests")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
SOURCES = {str(path.relative_to(ROOT)): path.read_text() for path in FILES}
MODULES = {name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in SOURCES}

HEAVY = ("accelerate", "gradio", "trainers", "apps", "diffusers", "transformers", "datasets", "matplotlib", "sigpy")
"""Never imported when a module of the library is: where used, inside the function that uses it, or not at all."""
PICKLES = ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")
LONGEST = 400

GROUND = ("errors", "knobs", "noise", "transforms", "version", "saving", "distributed", "resume")
"""The ground floor: anyone may stand on it."""
ROOT_MODULES = (*GROUND, "process", "budget", "solver", "results", "moments", "sampling", "tuning")
"""All else of the library is in a room."""
OF_TRAINING = ("accelerate", "diffusers", "datasets")
"""What the loops of training import at their top: nothing but training needs them, nobody imports training."""
MAY_IMPORT = {
    "errors": (),
    "version": (),
    "transforms": (),
    "knobs": ("errors",),
    "noise": ("errors",),
    "saving": ("errors",),
    "distributed": ("errors",),
    "resume": ("errors",),
    "figures": (),
    "linalg": ("noise",),
    "process": GROUND,
    "reading": GROUND,
    "operators": GROUND,
    "priors": (*GROUND, "process", "reading"),
    "priors.base": ("errors", "noise", "process"),
    "objectives": (*GROUND, "linalg", "priors.base", "process"),
    "data": (*GROUND, "objectives.base", "operators", "reading"),
    "likelihood": (*GROUND, "linalg", "priors.base"),
    "algorithms": (*GROUND, "likelihood", "linalg", "priors.base", "process"),
    "moments": ("errors",),
    "results": (*GROUND, "moments"),
    "budget": (*GROUND, "algorithms", "likelihood", "priors.base", "priors.counted"),
    "solver": (
        *(*GROUND, "algorithms", "budget", "likelihood", "moments", "priors.base", "priors.counted"),
        *("process", "results"),
    ),
    "sampling": (*GROUND, "priors", "process"),
    "tuning": (*GROUND, "algorithms", "priors.base", "solver"),
    "restore": (*GROUND, "algorithms", "data", "operators", "priors", "reading", "results", "solver"),
    "evaluate": (*GROUND, "algorithms", "data", "operators", "priors", "results", "sampling", "solver"),
    "mri": (
        *(*GROUND, "data", "evaluate.baselines", "figures", "linalg", "operators", "priors", "reading"),
        "solver",
    ),
    "video": (
        *GROUND,
        "data",
        "figures",
        "likelihood",
        "linalg",
        "operators",
        "priors",
        "process",
        "results",
        "solver",
    ),
    "testbed": (*GROUND, "data", "evaluate", "objectives", "operators", "priors", "results", "sampling", "solver"),
    "training": (
        *(*GROUND, "algorithms", "data", "likelihood", "linalg", "objectives", "operators", "priors", "process"),
        *("reading", "sampling", "solver"),
    ),
    "app": (
        *(*GROUND, "algorithms", "data", "figures", "mri", "operators", "priors", "reading", "restore", "results"),
        "solver",
    ),
    "cli": (
        *(*GROUND, "algorithms", "app", "budget", "data", "evaluate", "figures", "linalg", "mri", "objectives"),
        *("operators", "priors", "restore", "results", "sampling", "solver", "testbed", "training", "tuning", "video"),
    ),
    "__main__": ("cli",),
    "ambient_solve": ("version",),
}
"""What a room, or a module at the root, may import of the library beside itself; the longest name that fits counts.
Rows stand from the ground up: each names only what stands above it in this table. Nobody imports the wings app, cli and
training, but that cli opens the other two."""


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


def wrong_imports(name: str, source: str) -> list[str]:
    """What the file `name` of the library imports against the table above."""
    own = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".").removeprefix("ambient_solve.")
    rule = max((r for r in MAY_IMPORT if within(own, (r,))), key=len, default=None)
    if rule is None:
        return [f"{name} is in no room of the table"]
    allowed, found = (*MAY_IMPORT[rule], own.split(".")[0]), []
    heavy = tuple(h for h in HEAVY if h not in OF_TRAINING) if within(own, ("training",)) else HEAVY
    if "." in rule:
        allowed = (*MAY_IMPORT[rule], own)
    for module, at_once in imports(name, source):
        if at_once and within(module, heavy):
            found.append(f"{name} imports {module} at module level")
        if module.startswith("ambient_solve"):
            if not within(module.removeprefix("ambient_solve").removeprefix("."), allowed):
                found.append(f"{name} may not import {module}")
    return found


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


def test_the_dependency_direction():
    assert [wrong for name in LIBRARY for wrong in wrong_imports(name, SOURCES[name])] == []


def test_a_room_that_is_not_listed_is_an_error():
    assert wrong_imports("ambient_solve/attic/new.py", "import math") == [
        "ambient_solve/attic/new.py is in no room of the table"
    ]
    assert wrong_imports("ambient_solve/attic.py", "import math") and not wrong_imports("ambient_solve/cli/new.py", "")


def upward(table: dict[str, tuple[str, ...]]) -> list[str]:
    """Rows that name what stands below them in the table."""
    rows, found = list(table), []
    for row, allowed in table.items():
        for name in allowed:
            room = name if name in table else name.split(".")[0]
            if rows.index(room) >= rows.index(row) and room != row.split(".")[0]:
                found.append(f"{row} names {name}")
    return found


def test_the_table_leads_downward():
    assert upward(MAY_IMPORT) == []
    assert upward({"errors": (), "data": ("errors", "cli"), "cli": ("data",)}) == ["data names cli"]


def circles(sources: dict[str, str]) -> list[list[str]]:
    """Rings of modules that import one another as soon as they are imported."""
    graph: dict[str, set[str]] = {}
    for name, source in sources.items():
        own = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        graph[own] = {module for module, at_once in imports(name, source) if at_once} - {own}
    found, done = [], set()

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            found.append([*path[path.index(module) :], module])
        elif module not in done and module in graph:
            for other in sorted(graph[module]):
                visit(other, [*path, module])
            done.add(module)

    for module in sorted(graph):
        visit(module, [])
    return found


def test_no_module_imports_itself_by_way_of_others():
    assert circles({name: SOURCES[name] for name in LIBRARY}) == []
    ring = {
        "a.py": "from b import x",
        "b.py": "import c",
        "c.py": "try:\n    from a import y\nexcept ImportError:\n    pass",
    }
    assert circles(ring) == [["a", "b", "c", "a"]]
    assert circles({**ring, "c.py": "def f():\n    from a import y"}) == []
    assert circles({**ring, "c.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from a import y"}) == []


def test_few_modules_stand_at_the_root():
    own = {Path(name).stem for name in LIBRARY if name.count("/") == 1}
    assert own <= {*ROOT_MODULES, "__init__", "__main__"}


def knows_gradio(name, source):
    """Imports at any depth; the page (ambient_solve/app) is the one place for them."""
    return not name.startswith("ambient_solve/app/") and any(within(m, ("gradio",)) for m, _ in imports(name, source))


def test_gradio_is_known_to_the_page_alone():
    assert [name for name in LIBRARY if knows_gradio(name, SOURCES[name])] == []
    page = "def f():\n    import gradio as gr"
    assert knows_gradio("ambient_solve/solver.py", page) and not knows_gradio(
        "ambient_solve/app/photographs/events.py", page
    )


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("algorithms/new.py", "from ambient_solve.priors.gaussian import MixturePrior", "priors.gaussian"),
        ("algorithms/new.py", "from ambient_solve.priors import network", "priors.network"),
        ("algorithms/new.py", "from ..priors import load", "priors.load"),
        ("algorithms/new.py", "def f():\n    import ambient_solve.solver", "ambient_solve.solver"),
        ("likelihood.py", "import ambient_solve", "ambient_solve"),
        ("likelihood.py", "from ambient_solve import GaussianPrior", "ambient_solve"),
        ("objectives/new.py", "from ambient_solve.algorithms.dps import DPS", "algorithms.dps"),
        ("noise.py", "from ambient_solve.knobs import knob", "knobs"),
        ("solver.py", "from ambient_solve.cli.dispatch import main", "cli"),
        ("data/new.py", "from ambient_solve.priors.base import Prior", "priors.base"),
        ("restore/new.py", "from ambient_solve.cli.dispatch import main", "cli"),
        ("evaluate/new.py", "from ambient_solve.training.loop import train", "training"),
        ("mri/new.py", "from ambient_solve.evaluate.metrics import psnr", "evaluate.metrics"),
        ("solver.py", "import accelerate", "module level"),
        ("cli.py", "try:\n    import gradio.themes\nexcept ImportError:\n    pass", "module level"),
        ("priors/new.py", "class A:\n    from diffusers import UNet2DModel", "module level"),
        ("cli/new.py", "from trainers.train import main", "module level"),
    ],
)
def test_a_wrong_import_is_caught(name, source, expected):
    (found,) = wrong_imports(f"ambient_solve/{name}", source)
    assert expected in found


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("algorithms/new.py", "from ambient_solve.priors.base import Prior\nfrom ambient_solve.noise import Streams"),
        ("priors/pipeline.py", "def load():\n    import diffusers"),
        ("solver.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import diffusers"),
        ("cli.py", "from ambient_solve.solver import Solver"),
        ("data/mri.py", "import accelerated, h5py"),
    ],
)
def test_a_right_import_is_not_caught(name, source):
    assert wrong_imports(f"ambient_solve/{name}", source) == []


def test_trainers_and_apps_are_imported_by_nothing_below_them():
    below = [name for name in SOURCES if not name.startswith(("trainers/", "apps/", "tests/"))]
    assert not [n for n in below for module, _ in imports(n, SOURCES[n]) if within(module, ("trainers", "tests"))]


def test_no_file_is_long():
    assert {name: n for name, source in SOURCES.items() if (n := source.count("\n")) > LONGEST} == {}


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


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_algorithm_says_what_it_is(name):
    algorithm = ALGORITHMS[name]
    assert issubclass(algorithm, Algorithm) and not algorithm.__subclasses__() and algorithm.name == name
    assert re.search(r"\D(19|20)\d\d\b", algorithm.paper), "author, year and where"
    assert "steps" in [k.name for k in knobs(algorithm)]
    for k in knobs(algorithm):
        assert k.help, f"{k.name} has no help"
        assert k.type is bool or k.choices or (k.lo is not None and k.hi is not None), f"{k.name} has no range"
        assert k.type is bool or (k.default in k.choices if k.choices else k.lo <= k.default <= k.hi)
    assert algorithm()  # the defaults pass their own checks


def test_every_algorithm_is_registered_and_has_a_file_of_its_own():
    files = {Path(name).stem for name in LIBRARY if name.startswith("ambient_solve/algorithms/")}
    shared = {"__init__", "base", "resampling"}
    assert sorted(files - shared) == sorted(a.__module__.split(".")[-1] for a in ALGORITHMS.values())


def loaded(code: str, *modules: str) -> set[str]:
    """Which of `modules` a fresh Python has imported after `code`."""
    report = f"{code}\nimport sys\nprint(*[m for m in {modules!r} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", report], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_what_an_import_costs():
    assert loaded("import ambient_solve", "torch", "deepinv", "numpy") == set()
    assert loaded("import ambient_solve.cli.dispatch", "torch", "deepinv") == set()
    extras = ("diffusers", "transformers", "gradio", "accelerate")
    use = "import ambient_solve as a; a.Solver, a.load_prior, a.operators.inpaint, a.ALGORITHMS, a.MixturePrior"
    assert loaded(use, "torch", *extras) == {"torch"}


def skeletons() -> dict[str, str]:
    """The Python of docs/design.md by its heading."""
    sections = (ROOT / "docs" / "design.md").read_text().split("\n## ")[1:]
    found = {s.splitlines()[0]: re.findall(r"```python\n(.*?)```", s, re.DOTALL) for s in sections}
    return {heading: blocks[0] for heading, blocks in found.items() if blocks}


def test_the_skeletons_of_the_design_page_are_true(tmp_path, monkeypatch):
    assert list(skeletons()) == ["An algorithm", "An objective", "An operator"]
    monkeypatch.syspath_prepend(tmp_path)
    made = {}
    for heading, source in skeletons().items():
        assert not unpickling(heading, source)
        name = "skeleton_of_" + heading.split()[1]
        (tmp_path / f"{name}.py").write_text(source)
        made[heading] = importlib.import_module(name)
    guided, blind = (on_gaussian(made["An algorithm"].Mine(steps=20, width=w), "mask", problems=4) for w in (1.0, 0.01))
    assert guided.bias < 0.5 * blind.bias
    assert not wrong_imports("ambient_solve/algorithms/mine.py", skeletons()["An algorithm"])
    assert not wrong_imports("ambient_solve/objectives/clean.py", skeletons()["An objective"])

    prior, zero = MixturePrior.ring(), torch.zeros(8)
    z = prior.sample(8, torch.Generator().manual_seed(0))
    batch = Batch(z=z, sigma=torch.linspace(0.1, 2, 8), sigma_noise=zero, sigma_min=zero, sigma_max=zero)
    clean, denoise = (
        o.loss(prior.denoise, batch, Streams(range(8), 1)) for o in (made["An objective"].Clean(), Denoise())
    )
    assert torch.equal(clean, denoise)

    op, x = made["An operator"].column_means((3, 6, 5), sigma=0.1), rand(2, 3, 6, 5)
    likelihood = Likelihood(op(x), op, AffinePrior())  # which checks the adjoint
    assert likelihood.linear and torch.equal(likelihood.A(x), x.mean(-2, keepdim=True))
