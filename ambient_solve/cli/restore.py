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
from ambient_solve.cli.prompts import Concepts, Text, prompted
from ambient_solve.distributed import enter, worst
from ambient_solve.errors import AmbientSolveError, shown
from ambient_solve.knobs import knobs
from ambient_solve.presets import DEFAULT, PRESETS
from ambient_solve.restore.files import chosen_method, restore_files, unreadable
from ambient_solve.restore.several import WHOLE, task_class
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
    task: Annotated[str, tyro.conf.arg(metavar="|".join([*TASKS, *WHOLE]), help_behavior_hint="(required)")] = ""
    """What happened to them; several are joined by +, in any order: inpaint+denoise+jpeg. old-photograph finds
    scratches by itself, and estimates grain and JPEG; camera-shake finds the path of the camera; enlarged how many
    times a program has enlarged them."""
    preset: Annotated[str, tyro.conf.arg(metavar="|".join(PRESETS), help_behavior_hint=f"(default: {DEFAULT})")] = ""
    """How much time is taken, and whether samples are to be right on average or varied."""
    samples: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: of the preset)")] = None
    """Posterior samples of each picture; their mean is the restored picture."""
    algorithm: Annotated[str, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: that of the preset)")] = ""
    """In place of a preset: auto (settings.json says which, and why), or one that `ambient-solve info` lists."""
    cond: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: none)")] = None
    """Class of the pictures, a whole number, where the prior was trained with classes."""
    prompt: Text = ""
    """What the pictures show, in words, where the prior takes them: "a photo of <cat(3)>"."""
    negative: Text = ""
    """What they do not show; counts where the guidance is not 1."""
    prompt_guidance: float = 1.0
    """Scale of classifier-free guidance by the prompt; 1 is none."""
    concept: Concepts = ()
    """Folder of a concept that the prompt may name, as `ambient-solve invert` writes it."""
    prior: str = "photos"
    """Embedded prior, folder, or hub id (owner/name)."""
    size: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: all of it)")] = None
    """Longer side at which a picture is restored by inpaint and denoise; what changed is put back at full size."""
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
        name, _, _ = chosen_method(task_class(self.task).name, self.preset or None, self.algorithm or None)
        options = self._knobs_of_the_algorithm(given, name)
        damage = make_task(self.task, **given)
        for name in ("mask", "kernel"):
            if given.get(name) and not Path(given[name]).exists():
                raise AmbientSolveError(f"There is no file {given[name]} (--{name}).")
        if self.size is not None and self.size < 16:
            raise AmbientSolveError(f"--size {self.size} was given, at least 16 pixels were expected.")
        if self.samples is not None and self.samples < 1:
            raise AmbientSolveError(f"--samples {self.samples} was given, at least 1 was expected.")
        if self.prompt and self.cond is not None:
            raise AmbientSolveError("--cond is a class and --prompt words: give the one that the prior takes.")
        check_folder(self.out)
        rank, world = enter(os.environ)
        # Until here torch, which takes seconds, has not been imported.
        outcomes, bad = unreadable(self.images) if world == 1 else [], []
        if not outcomes:
            options |= knob_values(texts, name, own)
            settings = {"preset": self.preset or None, "algorithm": self.algorithm or None, "options": options}
            settings |= {"seed": self.seed, "n_samples": self.samples, "cond": self.cond, "size": self.size}
            settings |= {"rank": rank, "world": world, "progress": False if self.json else None}
            settings |= {"tell": partial(print, file=sys.stderr)}
            from ambient_solve.priors.load import named_prior

            prior = named_prior(self.prior, self.device)
            prior, words = prompted(prior, self.prompt, self.negative, self.prompt_guidance, self.concept)
            settings |= {"cond": words} if words else {}
            outcomes = restore_files(self.images, prior, damage, out=self.out, **settings)
        for outcome in outcomes:
            tell_outcome(outcome, self.json)
            bad += [outcome] if outcome.error else []
        if len(bad) > 1 or (bad and (len(self.images) > 1 or self.images[0].is_dir())):
            print(f"Not restored: {', '.join(shown(o.path) for o in bad)}.", file=sys.stderr)
        return worst(2 if bad else 0, os.environ)

    def _knobs_of_the_algorithm(self, given: dict[str, Any], algorithm: str) -> dict[str, Any]:
        """Take out of `given` what the task does not have and the algorithm does, such as the width of pigdm."""
        own = [k.name for k in knobs(task_class(self.task))]
        if not self.algorithm or algorithm == "auto" or set(given) <= set(own):
            return {}
        from ambient_solve.algorithms import ALGORITHMS

        theirs = [k.name for k in knobs(ALGORITHMS[algorithm])] if algorithm in ALGORITHMS else []
        return {name: given.pop(name) for name in list(given) if name not in own and name in theirs}


def restore_command() -> type:
    """`Restore` with the options of all tasks."""
    options = task_options()
    return with_knobs(Restore, [k for k, _ in options.values()], {name: words for name, (_, words) in options.items()})
