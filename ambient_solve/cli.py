"""The command line: `ambient-solve demo | restore | sample | corrupt | check | evaluate | info`.

Exit codes: 0 fine; 2 bad input, with a sentence on standard error; 130 interrupted. A command imports what it
needs when it runs, so that `--help` answers at once.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from ambient_solve.console import describe_prior, load, print_knobs, stderr, tell_outcome
from ambient_solve.errors import AmbientSolveError, shown, suggestion
from ambient_solve.flags import damage_help, knob_values, read_damages, split_knobs, task_options, with_knobs
from ambient_solve.knobs import knobs
from ambient_solve.restore import DAMAGES, check_folder, make_damage, restore_files, unreadable
from ambient_solve.sharing import enter, worst
from ambient_solve.version import __version__

Device = Annotated[str, tyro.conf.arg(metavar="auto|cpu|cuda")]
PLAIN = (tyro.conf.FlagCreatePairsOff, tyro.conf.HelptextFromCommentsOff)


@dataclasses.dataclass(frozen=True)
class Demo:
    """Damage a photograph three ways, restore it, and draw a contact sheet. Needs no argument and no network."""

    out: Path = Path("demo")
    """Folder of the contact sheet."""
    prior: str = "photos"
    """Embedded prior, folder, or hub id (owner/name)."""
    steps: int = 25
    """Noise levels; more is slower and usually better."""
    samples: int = 4
    """Posterior samples of each picture, at least 2."""
    seed: int = 0
    """Decides the noise of the damage and of the samples."""
    device: Device = "auto"
    """auto takes the graphics card where there is one."""

    def run(self) -> int:
        """See the class."""
        from rich.console import Console
        from rich.table import Table

        from ambient_solve.demo import run_demo

        check_folder(self.out)
        prior, console = load(self.prior, self.device), Console()
        table = Table("damage", title="PSNR in dB / SSIM against the original; data misfit chi2 (1 is right)")
        for heading in ("damaged", "mean", "sample", "chi2", "seconds"):
            table.add_column(heading, justify="right", no_wrap=True)
        settings = {"steps": self.steps, "n_samples": self.samples, "seed": self.seed}
        say = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731
        scores, sheet = run_demo(prior, self.out, **settings, progress=True, say=say)
        for s in scores:
            quality = [f"{s.psnr[kind]:.1f} / {s.ssim[kind]:.2f}" for kind in ("damaged", "mean", "sample")]
            table.add_row(s.name, *quality, f"{s.chi2:.2f}", f"{s.seconds:.1f}")
        console.print(table)
        print(f"Contact sheet: {sheet}")
        return 0


@dataclasses.dataclass(frozen=True)
class Restore:
    """Restore damaged pictures. Each IMAGE is the measurement itself: a file, or a folder of files.

    A knob of the algorithm is given as --KNOB VALUE, such as --steps 20; `ambient-solve info` lists them. Results go to
    OUT/NAME: mean.png, samples, spread.png, settings.json. What an earlier run has finished is skipped. Under torchrun
    or accelerate launch each process does its share: the same samples, whatever the number of processes.
    """

    images: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE [IMAGE ...]", help_behavior_hint="")
    ]
    """Damaged pictures, or folders of them."""
    task: Annotated[str, tyro.conf.arg(metavar="|".join(DAMAGES), help_behavior_hint="(required)")] = ""
    """What happened to them; jpeg, which is not linear, takes about three times as long as the others."""
    samples: int = 8
    """Posterior samples of each picture; their mean is the restored picture."""
    algorithm: str = "auto"
    """auto, or one of those that `ambient-solve info` lists."""
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
                f"No {missing} was given: ambient-solve restore IMAGE ... --task {'|'.join(DAMAGES)}."
            )
        given = {name: getattr(self, name) for name in task_options() if getattr(self, name) is not None}
        options = self._knobs_of_the_algorithm(given)
        damage = make_damage(self.task, **given)
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
            settings |= {"rank": rank, "world": world, "progress": sys.stderr.isatty() and not self.json and rank == 0}
            outcomes = restore_files(self.images, load(self.prior, self.device), damage, out=self.out, **settings)
        for outcome in outcomes:
            tell_outcome(outcome, self.json)
            bad += [outcome] if outcome.error else []
        if len(bad) > 1 or (bad and (len(self.images) > 1 or self.images[0].is_dir())):
            print(f"Not restored: {', '.join(shown(o.path) for o in bad)}.", file=sys.stderr)
        return worst(2 if bad else 0, os.environ)

    def _knobs_of_the_algorithm(self, given: dict[str, Any]) -> dict[str, Any]:
        """Take out of `given` what the task does not have and the algorithm does, such as the width of pigdm."""
        if self.task not in DAMAGES or self.algorithm == "auto":
            return {}
        from ambient_solve.algorithms import ALGORITHMS

        own = [k.name for k in knobs(DAMAGES[self.task])]
        theirs = [k.name for k in knobs(ALGORITHMS[self.algorithm])] if self.algorithm in ALGORITHMS else []
        return {name: given.pop(name) for name in list(given) if name not in own and name in theirs}


@dataclasses.dataclass(frozen=True)
class Sample:
    """Draw pictures from a prior alone, without a measurement: what it has learned."""

    prior: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PRIOR")] = "photos"
    """Embedded prior, folder, or hub id (owner/name)."""
    n: int = 16
    """How many."""
    size: int = 0
    """Their side in pixels; 0 is the prior's own, or 64 where any will do."""
    out: Path = Path("samples")
    """Folder of the pictures and of their contact sheet, sheet.png."""
    seed: int = 0
    """Picture i depends on (seed, i) alone."""
    device: Device = "auto"
    """auto takes the graphics card where there is one."""

    def run(self) -> int:
        """See the class."""
        from ambient_solve.priors.ambient import AmbientPrior
        from ambient_solve.restoration import save_png
        from ambient_solve.sampling import Sampling, generate
        from ambient_solve.sheet import Row, Tile, contact_sheet, picture_tile

        check_folder(self.out)
        prior = load(self.prior, self.device)
        if prior.shape[0] not in (1, 3):
            raise AmbientSolveError(f"{self.prior} makes {prior.shape[0]} channels; PNG files hold 1 or 3.")
        settings = {k.name: getattr(self, k.name) for k in knobs(Sampling)}
        size = self.size or (64 if -1 in prior.shape else None)
        pictures = prior.decode(
            generate(prior, self.n, size=size, seed=self.seed, progress=sys.stderr.isatty(), **settings)
        )
        self.out.mkdir(parents=True, exist_ok=True)
        for i, x in enumerate(pictures):
            record = {"prior": self.prior, "seed": self.seed, "sample": i, **settings}
            save_png(x, self.out / f"{i:04d}.png", json.dumps(record))
        tiles, wide = [picture_tile(x, f"{i:04d}") for i, x in enumerate(pictures)], min(self.n, 4)
        tiles += [Tile(tiles[0].picture * 0 + 255)] * (-self.n % wide)
        rows = [Row("", f"seed {self.seed}", tiles[i : i + wide]) for i in range(0, self.n, wide)]
        contact_sheet(f"samples of {self.prior}", [""] * wide, rows, side=192).save(self.out / "sheet.png")
        print(f"{self.out}: {self.n} samples of {self.prior}, contact sheet {self.out / 'sheet.png'}")
        if isinstance(prior, AmbientPrior):
            print("  Note: this prior is told what it may see. What it does not see it fills with means: less variety.")
        return 0


@dataclasses.dataclass(frozen=True)
class Corrupt:
    """Damage a data set once, for training, and write a manifest of it. An interrupted command goes on where it was."""

    source: tyro.conf.Positional[str]
    """Folder of pictures, .npz pack, webdataset:PATH, dataset:PATH or imagefolder:PATH."""
    out: tyro.conf.Positional[Path]
    """Folder for the damaged pictures; must not hold a finished damaged data set."""
    damage: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]],
        tyro.conf.arg(metavar='"KIND KNOB=VALUE ..."', help_behavior_hint="(may be repeated, default: noise)"),
    ] = ()
    """What happens to the pictures that do not stay clean, such as "jpeg quality=25 share=2"."""
    sigma_noise: Annotated[
        float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint='(short for --damage "noise sigma=FLOAT")')
    ] = None
    """Noise level of the damaged pictures, in units of [-1, 1] pictures."""
    shrink: int = 1
    """Divide both sides first, which makes the pixels of a JPEG clean again."""
    follow_outside: bool = False
    """Read pictures that dataset:PATH or imagefolder:PATH names outside of PATH; only if you trust it."""

    def run(self) -> int:
        """See the class."""
        from rich.progress import track

        from ambient_solve.data.corruption import Corruption, write_corrupted
        from ambient_solve.data.images import read_images

        if self.shrink < 1:
            raise AmbientSolveError(f"--shrink {self.shrink} was given, at least 1 was expected.")
        damages = read_damages(self.damage, self.sigma_noise)
        corruption = Corruption(**{k.name: getattr(self, k.name) for k in knobs(Corruption)}, damages=damages)
        check_folder(self.out)
        # Read once before anything is written: a bad picture then leaves no half-made data set behind.
        how = {"shrink": self.shrink, "follow_outside": self.follow_outside}
        total = sum(1 for _ in track(read_images(self.source, **how), "reading", console=stderr()))
        pictures = track(read_images(self.source, **how), "damaging", total=total, console=stderr())
        write_corrupted(pictures, total, corruption, self.out, os.path.normpath(self.source), {"shrink": self.shrink})
        counts = sorted(Counter(damage.name if damage else "clean" for damage in corruption.plan(total)).items())
        print(f"{shown(self.out)}: {total} pictures, {', '.join(f'{n} {name}' for name, n in counts)}")
        return 0


@dataclasses.dataclass(frozen=True)
class Info:
    """List the embedded priors, the tasks and the algorithms with their knobs; or describe one PRIOR."""

    prior: tyro.conf.Positional[str] = ""
    """Embedded prior, folder, or hub id (owner/name)."""

    def run(self) -> int:
        """See the class."""
        from ambient_solve.priors.load import embedded_priors, prior_folder

        if self.prior:
            describe_prior(prior_folder(self.prior))
            return 0
        from ambient_solve.algorithms import ALGORITHMS

        print(f"ambient_solve {__version__}\n\nPriors: {', '.join(embedded_priors()) or 'none embedded'}\n")
        for name, task in DAMAGES.items():
            print_knobs(f"task {name}", task)
        for name, algorithm in ALGORITHMS.items():
            print_knobs(f"algorithm {name} ({algorithm.paper})", algorithm)
        return 0


def _restore() -> type:
    options = task_options()
    return with_knobs(Restore, [k for k, _ in options.values()], {name: words for name, (_, words) in options.items()})


def _sample() -> type:
    from ambient_solve.sampling import Sampling

    return with_knobs(Sample, knobs(Sampling))


def _corrupt() -> type:
    from ambient_solve.data.corruption import SHARING, Corruption

    made = with_knobs(Corrupt, knobs(Corruption))
    made.__doc__ = f"{Corrupt.__doc__}\n\n{SHARING}\n\n{damage_help()}"
    return made


def _check() -> type:
    from ambient_solve.check import Check

    return Check


def _app() -> type:
    from ambient_solve.app.command import App

    return App


def _evaluate() -> type:
    from ambient_solve.evaluation import Evaluate

    return Evaluate


def _mri(train: bool) -> type:
    from ambient_solve.mri_commands import Mri, mri_train

    return mri_train() if train else Mri


COMMANDS: dict[str, Callable[[], type]] = {
    "demo": lambda: Demo,
    "restore": _restore,
    "sample": _sample,
    "corrupt": _corrupt,
    "check": _check,
    "evaluate": _evaluate,
    "mri": lambda: _mri(False),
    "mri-train": lambda: _mri(True),
    "info": lambda: Info,
    "app": _app,
}
WITH_KNOBS = ("restore", "check", "mri")
"""Commands that take the knobs of an algorithm beside their own options."""
USAGE = """usage: ambient-solve COMMAND ...

  demo      damage a photograph, restore it, and draw a contact sheet; needs no argument
  restore   restore damaged pictures
  sample    draw pictures from a prior alone
  corrupt   damage a data set once, for training
  check     say whether the samples of an algorithm are those of the posterior
  evaluate  compare algorithms, tasks and priors on pictures whose truth is known
  mri       reconstruct undersampled MRI scans
  mri-train make training data of undersampled scans, and train a prior from them
  info      list priors, tasks and algorithms with their knobs, or describe one prior
  app       open the page that restores pictures in a browser

`ambient-solve COMMAND --help` lists the options of a command; `ambient-solve --version` tells the version."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (by default that of the process) and return the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(argv)
    except (AmbientSolveError, OSError) as error:
        print(shown(error), file=sys.stderr)
        return 2
    except SystemExit as stop:
        # tyro prints the help, or what is wrong with the options, and leaves.
        return int(stop.code or 0)
    except KeyboardInterrupt:
        print("Interrupted. What was finished is kept.", file=sys.stderr)
        return 130


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    if argv[0] == "--version":
        print(f"ambient-solve {__version__}")
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        raise AmbientSolveError(f"There is no command {name!r}. {suggestion(name, COMMANDS)}")
    command, texts = COMMANDS[name](), {}
    if name in WITH_KNOBS:
        rest, texts = split_knobs(rest, [f.name for f in dataclasses.fields(command)] + ["help"])
    given = tyro.cli(command, prog=f"ambient-solve {name}", args=rest, config=PLAIN)
    return given.run(texts) if name in WITH_KNOBS else given.run()


if __name__ == "__main__":
    sys.exit(main())
