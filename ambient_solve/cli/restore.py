"""`ambient-solve restore`: damaged picture files to restored ones."""

from __future__ import annotations

import dataclasses
import os
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro

from ambient_solve.cli.console import tell_outcome
from ambient_solve.cli.flags import Device, knob_values, task_options, with_knobs
from ambient_solve.distributed import enter, worst
from ambient_solve.errors import AmbientSolveError, shown
from ambient_solve.knobs import knobs
from ambient_solve.restore.files import restore_files, unreadable
from ambient_solve.restore.tasks import TASKS, make_task
from ambient_solve.saving import check_folder


@dataclasses.dataclass(frozen=True)
class Restore:
    """Restore damaged pictures. Each IMAGE is the measurement itself: a file, or a folder of files.

    A knob of the algorithm is given as --KNOB VALUE, such as --steps 20; `ambient-solve info` lists them. Results go to
    OUT/NAME: mean.png, samples, std.png, settings.json. What an earlier run has finished is skipped. Under torchrun
    or accelerate launch each process does its share: the same samples, whatever the number of processes.
    """

    images: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE [IMAGE ...]", help_behavior_hint="")
    ]
    """Damaged pictures, or folders of them."""
    task: Annotated[str, tyro.conf.arg(metavar="|".join(TASKS), help_behavior_hint="(required)")] = ""
    """What happened to them; jpeg, which is not linear, takes about three times as long as the others."""
    samples: int = 8
    """Posterior samples of each picture; their mean is the restored picture."""
    algorithm: str = "auto"
    """auto (settings.json says which, and why), or one of those that `ambient-solve info` lists."""
    prior: str = "photos"
    """Embedded prior, folder, or hub id (owner/name)."""
    out: Path = Path("restored")
    """Folder of the results."""
    seed: int = 0
    """Sample s of every picture depends on (seed, s) alone."""
    device: Device = "auto"
    """auto takes the graphics card where there is one."""
    json: bool = False
    """Print one JSON object for each file, and nothing else."""

    def run(self, texts: dict[str, str]) -> int:
        """Restore with the knobs `texts`, as they were typed."""
        own = [f.name for f in dataclasses.fields(self)]
        if not self.images or not self.task:
            knob_values(texts, self.algorithm, own)  # the word that is missing may have been typed wrongly
            missing = "task (what happened to the picture)" if self.images else "picture"
            raise AmbientSolveError(
                f"No {missing} was given: ambient-solve restore IMAGE ... --task {'|'.join(TASKS)}."
            )
        given = {name: getattr(self, name) for name in task_options() if getattr(self, name) is not None}
        options = self._knobs_of_the_algorithm(given)
        damage = make_task(self.task, **given)
        for name in ("mask", "kernel"):
            if given.get(name) and not Path(given[name]).exists():
                raise AmbientSolveError(f"There is no file {given[name]} (--{name}).")
        if self.samples < 1:
            raise AmbientSolveError(f"--samples {self.samples} was given, at least 1 was expected.")
        check_folder(self.out)
        rank, world = enter(os.environ)
        # Until here torch, which takes seconds, has not been imported.
        outcomes, bad = unreadable(self.images) if world == 1 else [], []
        if not outcomes:
            options |= knob_values(texts, self.algorithm, own)
            settings = {"algorithm": self.algorithm, "options": options, "seed": self.seed, "n_samples": self.samples}
            settings |= {"rank": rank, "world": world, "progress": False if self.json else None}
            settings |= {"tell": partial(print, file=sys.stderr)}
            from ambient_solve.priors.load import named_prior

            outcomes = restore_files(
                self.images, named_prior(self.prior, self.device), damage, out=self.out, **settings
            )
        for outcome in outcomes:
            tell_outcome(outcome, self.json)
            bad += [outcome] if outcome.error else []
        if len(bad) > 1 or (bad and (len(self.images) > 1 or self.images[0].is_dir())):
            print(f"Not restored: {', '.join(shown(o.path) for o in bad)}.", file=sys.stderr)
        return worst(2 if bad else 0, os.environ)

    def _knobs_of_the_algorithm(self, given: dict[str, Any]) -> dict[str, Any]:
        """Take out of `given` what the task does not have and the algorithm does, such as the width of pigdm."""
        if self.task not in TASKS or self.algorithm == "auto":
            return {}
        from ambient_solve.algorithms import ALGORITHMS

        own = [k.name for k in knobs(TASKS[self.task])]
        theirs = [k.name for k in knobs(ALGORITHMS[self.algorithm])] if self.algorithm in ALGORITHMS else []
        return {name: given.pop(name) for name in list(given) if name not in own and name in theirs}


def restore_command() -> type:
    """`Restore` with the options of all tasks."""
    options = task_options()
    return with_knobs(Restore, [k for k, _ in options.values()], {name: words for name, (_, words) in options.items()})
