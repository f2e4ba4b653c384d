"""Which room may import which; no circles; what an import costs. The checks are checked too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tree import LIBRARY, ROOT, SOURCES, imports, within

HEAVY = ("accelerate", "gradio", "trainers", "apps", "diffusers", "transformers", "datasets", "matplotlib", "sigpy")
"""Never imported when a module of the library is: where used, inside the function that uses it, or not at all."""
GROUND = ("errors", "knobs", "noise", "transforms", "version", "saving", "distributed", "resume", "progress")
"""The ground floor: anyone may stand on it."""
ROOT_MODULES = (
    *GROUND,
    "process",
    "presets",
    "budget",
    "solver",
    "request",
    "misfit",
    "results",
    "moments",
    "sampling",
    "tuning",
)
"""All else of the library is in a room."""
OF_TRAINING = ("accelerate", "diffusers", "datasets")
"""What the loops of training import at their top: nothing but training needs them, nobody imports training."""
MAY_IMPORT = {
    "errors": (),
    "version": (),
    "transforms": (),
    "progress": (),
    "knobs": ("errors",),
    "noise": ("errors",),
    "saving": ("errors",),
    "distributed": ("errors",),
    "resume": ("errors",),
    "figures": ("errors",),
    "linalg": ("noise",),
    "process": (*GROUND, "figures"),
    "reading": GROUND,
    "operators": GROUND,
    "blind": (*GROUND, "operators"),
    "priors": (*GROUND, "process", "reading"),
    "priors.base": ("errors", "noise", "process"),
    "objectives": (*GROUND, "linalg", "priors.base", "process"),
    "data": (*GROUND, "objectives.base", "operators", "process", "reading"),
    "presets": ("errors",),
    "likelihood": (*GROUND, "linalg", "priors.base"),
    "algorithms": (*GROUND, "likelihood", "linalg", "presets", "priors.base", "process"),
    "moments": ("errors",),
    "verdict": (*GROUND, "blind", "likelihood", "operators"),
    "results": (*GROUND, "figures", "moments", "verdict"),
    "budget": (*GROUND, "algorithms", "likelihood", "priors.base", "priors.counted"),
    "misfit": ("errors",),
    "request": ("errors", "likelihood"),
    "solver": (
        *(*GROUND, "algorithms", "blind", "budget", "likelihood", "moments", "priors.base", "priors.counted"),
        *("misfit", "presets", "priors.forwarded", "process", "request", "results", "verdict"),
    ),
    "sampling": (*GROUND, "priors", "process"),
    "tuning": (*GROUND, "algorithms", "priors.base", "solver"),
    "restore": (
        *(*GROUND, "algorithms", "blind", "budget", "data", "likelihood", "operators", "presets", "priors"),
        *("reading", "results", "solver", "verdict"),
    ),
    "video": (
        *(*GROUND, "algorithms", "blind", "budget", "data", "figures", "likelihood", "linalg", "operators", "priors"),
        *("process", "reading", "request", "restore", "results", "solver", "verdict"),
    ),
    "evaluate": (
        *(*GROUND, "algorithms", "data", "operators", "priors", "results", "sampling", "solver", "verdict", "video"),
    ),
    "mri": (
        "algorithms",
        *(*GROUND, "data", "evaluate.baselines", "figures", "linalg", "operators", "priors", "reading"),
        "solver",
    ),
    "testbed": (
        *(*GROUND, "algorithms", "data", "evaluate", "figures", "objectives", "operators", "priors", "reading"),
        *("results", "sampling", "solver"),
    ),
    "training": (
        *(*GROUND, "algorithms", "data", "evaluate.memorization", "figures", "likelihood", "linalg", "objectives"),
        *("operators", "priors", "process", "reading", "sampling", "solver"),
    ),
    "app": (
        *(*GROUND, "algorithms", "data", "figures", "mri", "operators", "presets", "priors", "reading", "restore"),
        *("results", "solver", "verdict", "video"),
    ),
    "cli": (
        *(*GROUND, "algorithms", "app", "budget", "data", "evaluate", "figures", "linalg", "mri", "objectives"),
        *("operators", "presets", "priors", "restore", "results", "sampling", "solver", "testbed", "training"),
        *("tuning", "verdict", "video"),
    ),
    "__main__": ("cli",),
    "ambient_solve": ("version",),
}
"""What a room, or a module at the root, may import of the library beside itself; the longest name that fits counts.
Rows stand from the ground up: each names only what stands above it in this table. Nobody imports the wings app, cli and
training, but that cli opens the other two."""


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
