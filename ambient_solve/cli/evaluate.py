"""`ambient-solve evaluate`: algorithms, tasks and priors on pictures of which the truth is known, as one table."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import Parameter, signature
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ambient_solve.cli.flags import knob_values
from ambient_solve.distributed import choose_device, processes
from ambient_solve.errors import AmbientSolveError, shown, suggestion
from ambient_solve.evaluate.tables import _words, write_tables
from ambient_solve.knobs import build, knobs
from ambient_solve.progress import progress_bar
from ambient_solve.saving import check_folder

if TYPE_CHECKING:
    from ambient_solve.evaluate.trials import Arm, BenchmarkTask, Trial, Truth
    from ambient_solve.priors.base import Prior

SIDE = 128
"""Side of the pictures where the prior takes any."""


@dataclass(frozen=True)
class Evaluate:
    """Compare algorithms, tasks and priors on undamaged pictures: each is damaged, restored and held against the truth.

    Writes OUT/table.html, .md and .csv, and rows.jsonl with a row for each picture. What an earlier run has measured is
    not measured again. Under torchrun or accelerate launch each process does its share; the last one writes the table.
    """

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA", help_behavior_hint="")]
    """Folder of pictures, .npz pack, webdataset:PATH, dataset:PATH or imagefolder:PATH."""
    algorithms: Annotated[tuple[str, ...], tyro.conf.arg(metavar='NAME|"NAME KNOB=VALUE ..." ...')] = (
        "mmps",
        "proximal",
        "tv",
        "pseudo-inverse",
    )
    """Algorithms that `ambient-solve info` lists, and the classical adjoint, pseudo-inverse, tv and wavelet."""
    tasks: Annotated[tuple[str, ...], tyro.conf.arg(metavar='NAME|"NAME OPTION=VALUE ..." ...')] = (
        "random",
        "gaussian-blur",
        "super-resolution",
    )
    """What happens to the pictures: builders of ambient_solve.operators, such as "random missing=0.5 sigma=0.02"."""
    priors: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PRIOR ...")] = ("photos",)
    """Embedded priors, folders, or hub ids (owner/name)."""
    samples: int = 8
    """Posterior samples of each picture; the coverage takes 19."""
    seed: int = 0
    """Decides the noise of the damage and of the samples."""
    limit: int = 16
    """Take the first pictures only; 0 takes all."""
    crop: int = 0
    """Side of the central square that is used, in pixels; 0 is the prior's own, or 128 where any will do."""
    shrink: int = 1
    """Divide both sides first, which makes the pixels of a JPEG clean again."""
    follow_outside: bool = False
    """Read pictures that dataset:PATH or imagefolder:PATH names outside of PATH; only if you trust it."""
    lpips: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """Safetensors file of torchvision's AlexNet features, to measure LPIPS too; needs the package lpips."""
    pictures: int = 3
    """Of how many pictures the restorations are shown in table.html."""
    at_once: int = 0
    """Samples that are drawn together, to need less memory; 0 is all. tds always draws all."""
    out: Path = Path("evaluation")
    """Folder of the results."""
    device: Annotated[str, tyro.conf.arg(metavar="auto|cpu|cuda")] = "auto"
    """auto takes the graphics card where there is one, each process its own."""

    def run(self) -> int:
        """See the class."""
        from ambient_solve.evaluate.benchmark import averages, measure_all, merge
        from ambient_solve.evaluate.metrics import Metrics
        from ambient_solve.evaluate.trials import plan_trials, unfit
        from ambient_solve.priors.load import load_prior

        for name in ("samples", "seed", "limit", "pictures", "crop", "shrink", "at_once"):
            least = int(name in ("samples", "shrink"))
            if getattr(self, name) < least:
                flag = name.replace("_", "-")
                raise AmbientSolveError(f"--{flag} {getattr(self, name)} was given, at least {least} was expected.")
        check_folder(self.out)
        rank, world, local = processes(os.environ)
        arms, tasks = [read_arm(text) for text in self.algorithms], [read_task(text) for text in self.tasks]
        device = _device(self.device, local)
        priors = {name: load_prior(name, device=device) for name in self.priors}
        metrics = Metrics(self.lpips)
        pictures = self._pictures(priors, metrics.smallest)
        jobs = plan_trials(priors, arms, tasks, pictures, samples=self.samples, seed=self.seed)
        reasons = unfit(jobs)
        left_out = list(dict.fromkeys(_left_out(job, reasons[job.key]) for job in jobs if job.key in reasons))
        jobs = [job for job in jobs if job.key not in reasons]
        if not jobs:
            raise AmbientSolveError(f"Nothing is left to measure: {left_out[0] if left_out else 'no name was given.'}")
        for sentence in left_out if rank == 0 else ():
            print(f"Left out: {shown(sentence)}", file=sys.stderr)
        rows = measure_all(jobs, self.out, metrics, rank=rank, world=world, at_once=self.at_once or None)
        measured = sum(1 for _ in progress_bar(rows, "measuring", unit="row"))
        merged = merge(jobs, self.out, metrics)
        if merged is None:
            print(f"{self.out}: {measured} rows of process {rank}; the table follows when all {len(jobs)} are there.")
            return 0
        write_tables(self.out, jobs, averages(jobs, merged), left_out, len(pictures))
        print((self.out / "table.md").read_text())
        print(f"{self.out}: {len(jobs)} rows, {measured} of them measured now, table {self.out / 'table.html'}")
        return 0

    def _pictures(self, priors: Mapping[str, Prior], smallest: int) -> list[Truth]:
        from ambient_solve.data.images import read_images
        from ambient_solve.evaluate.trials import Truth
        from ambient_solve.training.card import centre

        shapes = {tuple(prior.shape) for prior in priors.values()} or {(3, -1, -1)}
        sizes = {shape for shape in shapes if -1 not in shape} or {(shape[0], -1, -1) for shape in shapes}
        channels, *sides = next(iter(sizes))
        if len({shape[0] for shape in shapes}) > 1 or len(sizes) > 1 or channels not in (1, 3) or len(set(sides)) > 1:
            made = ", ".join(f"{n}: {tuple('any' if s == -1 else s for s in p.shape)}" for n, p in priors.items())
            raise AmbientSolveError(f"Priors of square pictures of one size, 1 or 3 channels, were expected; {made}.")
        side = self.crop or (SIDE if sides[0] == -1 else sides[0])
        if side < smallest:
            raise AmbientSolveError(f"--crop {side} is too small to be compared; at least {smallest} was expected.")
        found = []
        tell = partial(print, file=sys.stderr)
        read = read_images(self.data, channels, self.shrink, self.follow_outside, tell)
        for name, x in islice(read, self.limit or None):
            if min(x.shape[1:]) < side:
                raise AmbientSolveError(
                    f"{name} is {x.shape[2]}x{x.shape[1]}, smaller than {side}x{side}: choose a smaller --crop."
                )
            found.append(Truth(name, centre(x, side).float() / 255, shown=len(found) < self.pictures))
        return found


def read_arm(text: str) -> Arm:
    """An algorithm or a baseline with its knobs, such as "mmps steps=10 iterations=2"."""
    from functools import partial

    from ambient_solve.algorithms import ALGORITHMS
    from ambient_solve.evaluate.baselines import BASELINES
    from ambient_solve.evaluate.trials import Arm

    name, given = _words(text, "--algorithms", "mmps steps=10")
    if name in BASELINES:
        values = _typed(name, BASELINES[name], given, ("y", "op"))
        return Arm(text, partial(BASELINES[name], **values), {"name": name, **values})
    if name not in ALGORITHMS:
        raise AmbientSolveError(f"There is no algorithm {name!r}. {suggestion(name, [*ALGORITHMS, *BASELINES])}")
    own = [k.name.rstrip("_") for k in knobs(ALGORITHMS[name])]
    for knob in given:
        if knob.replace("-", "_").rstrip("_") not in own:
            raise AmbientSolveError(f"{name} has no knob {knob!r}. {suggestion(knob, own)}")
    algorithm = build(ALGORITHMS[name], **knob_values(given, name, ()))
    return Arm(text, algorithm, {"name": name, **{k.name: getattr(algorithm, k.name) for k in knobs(type(algorithm))}})


def read_task(text: str) -> BenchmarkTask:
    """A builder of `ambient_solve.operators` with its options, such as "random missing=0.5 sigma=0.02"."""
    import hashlib

    from ambient_solve.data.images import open_mask
    from ambient_solve.evaluate.trials import BenchmarkTask
    from ambient_solve.operators import BUILDERS
    from ambient_solve.operators.builders import FORMER

    name, given = _words(text, "--tasks", "random missing=0.5")
    name = FORMER.get(name, name)
    if name not in BUILDERS:
        raise AmbientSolveError(f"There is no task {name!r}. {suggestion(name, BUILDERS)}")
    if name != "inpaint":
        values = _typed(name, BUILDERS[name], given, ("img_size",))
        return BenchmarkTask(text, lambda size: BUILDERS[name](size, **values), {"name": name, **values})
    if "mask" not in given:
        raise AmbientSolveError(
            'inpaint needs a mask, white where pixels are missing: "inpaint mask=FILE"; random and box make their own.'
        )
    mask = open_mask(given.pop("mask"))[0]
    values = _typed(name, BUILDERS[name], given, ("mask", "channels"))

    def masked(size: tuple[int, int, int]) -> Any:
        if tuple(mask.shape) != size[1:]:
            raise AmbientSolveError(
                f"The mask is {mask.shape[1]}x{mask.shape[0]}, the pictures {size[2]}x{size[1]}: see --crop."
            )
        return BUILDERS[name](mask, channels=size[0], **values)

    digest = hashlib.sha256(mask.numpy().tobytes()).hexdigest()[:16]
    return BenchmarkTask(text, masked, {"name": name, "mask": digest, **values})


def _typed(name: str, function: Callable[..., Any], given: Mapping[str, str], skip: Sequence[str]) -> dict[str, Any]:
    """All settings of `function` but those of `skip`: what was given in words, else its defaults."""
    own: dict[str, Parameter] = {k: p for k, p in signature(function).parameters.items() if k not in skip}
    values = {k: p.default for k, p in own.items()}
    for key, text in given.items():
        if key not in own:
            raise AmbientSolveError(f"{name} has no option {key!r}. {suggestion(key, own)}")
        kind = own[key].annotation.split("|")[0].strip()
        try:
            values[key] = {"int": int, "float": float, "str": str}[kind](text)
        except ValueError:
            words = {"int": "a whole number", "float": "a number"}[kind]
            raise AmbientSolveError(f"{name}: {key}={text} was given, {words} was expected.") from None
    return values


def _left_out(job: Trial, reason: str) -> str:
    prior = f" with {job.prior_label}" if job.prior_label else ""
    return f"{job.arm.label}{prior} on {job.task.label}: {reason}"


def _device(device: str, local: int) -> str:
    import torch

    device = choose_device(device)
    return device if device == "cpu" else f"cuda:{local % torch.cuda.device_count()}"
