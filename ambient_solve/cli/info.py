"""`ambient-solve info`: priors, tasks and algorithms with their knobs, or one of them."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import tyro

from ambient_solve.cli.console import describe_prior, print_knobs
from ambient_solve.restore.several import WHOLE
from ambient_solve.restore.tasks import TASKS as SINGLE
from ambient_solve.version import __version__

TASKS = SINGLE | WHOLE
"""Every damage by its name: single ones, and those whose parts are fixed."""


@dataclasses.dataclass(frozen=True)
class Info:
    """List the embedded priors, the tasks and the algorithms with their knobs; or describe one of them.

    `auto` is described like an algorithm: what it takes for which problem.
    """

    prior: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: all)")] = ""
    """Embedded prior, folder, hub id (owner/name), task or algorithm."""

    def run(self) -> int:
        """See the class."""
        from ambient_solve.priors.load import embedded_priors, prior_folder

        if self.prior in TASKS:
            print_knobs(f"task {self.prior}", TASKS[self.prior])
            return 0
        from ambient_solve.algorithms import ALGORITHMS
        from ambient_solve.algorithms.auto import AUTO

        if self.prior == AUTO:
            print_auto()
            return 0
        if self.prior in ALGORITHMS:
            print_knobs(f"algorithm {self.prior} ({ALGORITHMS[self.prior].paper})", ALGORITHMS[self.prior])
            return 0
        if self.prior:
            describe_prior(prior_folder(self.prior))
            return 0
        print(f"ambient_solve {__version__}\n\nPriors: {', '.join(embedded_priors()) or 'none embedded'}\n")
        for name, task in TASKS.items():
            print_knobs(f"task {name}", task)
        print_auto()
        for name, algorithm in ALGORITHMS.items():
            print_knobs(f"algorithm {name} ({algorithm.paper})", algorithm)
        return 0


def print_auto() -> None:
    """What "auto" takes for which problem, and whose knobs it has."""
    from ambient_solve.algorithms.auto import AUTO, CASES, TUNABLE

    print(f"algorithm {AUTO}: one of the others, by the problem")
    for problem, name in CASES:
        print(f"  {problem:<45}{name}")
    print(f"It has the knobs of {' and '.join(cls.name for cls in TUNABLE)}; a result says what was taken, and why.\n")
