"""The command line: `ambient-solve demo | restore | video | sample | corrupt | check | evaluate | info`.

Exit codes: 0 fine; 2 bad input, with a sentence on standard error; 130 interrupted. A command imports what it
needs when it runs, so that `--help` answers at once.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from functools import partial

import tyro

from ambient_solve.cli import train
from ambient_solve.cli.corrupt import corrupt_command
from ambient_solve.cli.demo import Demo
from ambient_solve.cli.flags import ALIASES, split_knobs
from ambient_solve.cli.help import help_page, started_as
from ambient_solve.cli.info import Info
from ambient_solve.cli.restore import restore_command
from ambient_solve.cli.sample import sample_command
from ambient_solve.cli.video import video_command
from ambient_solve.errors import AmbientSolveError, own_words_for_misfit, shown, suggestion
from ambient_solve.version import __version__

PLAIN = (tyro.conf.FlagCreatePairsOff, tyro.conf.HelptextFromCommentsOff)
"""Settings of the parser: no --no-FLAG pairs, and no help from comments."""


def _check() -> type:
    from ambient_solve.cli.check import Check

    return Check


def _app() -> type:
    from ambient_solve.cli.app import App

    return App


def _convert() -> type:
    from ambient_solve.cli.convert import Convert

    return Convert


def _invert() -> type:
    from ambient_solve.cli.invert import invert_command

    return invert_command()


def _evaluate() -> type:
    from ambient_solve.cli.evaluate import Evaluate

    return Evaluate


def _testbed(name: str) -> type:
    from ambient_solve.cli import testbed

    return testbed.pool_command() if name == "MakePool" else getattr(testbed, name)


TESTBED = {"pool": "MakePool", "train": "TrainEntry", "score": "ScoreRun", "submit": "SubmitRun", "board": "ShowBoard"}
"""The commands after `testbed`."""


def _mri(train: bool) -> type:
    from ambient_solve.cli.mri import Mri, mri_train

    return mri_train() if train else Mri


COMMANDS: dict[str, Callable[[], type]] = {
    "demo": lambda: Demo,
    "restore": restore_command,
    "video": video_command,
    "sample": sample_command,
    "corrupt": corrupt_command,
    "check": _check,
    "evaluate": _evaluate,
    "mri": lambda: _mri(False),
    "mri-train": lambda: _mri(True),
    "convert": _convert,
    "invert": _invert,
    "info": lambda: Info,
    "app": _app,
    **{f"testbed {name}": partial(_testbed, cls) for name, cls in TESTBED.items()},
}
"""What makes the class of a command, by its name; only that of the command that runs is imported."""
RAW = ("train", "finetune", "em", "annotate")
"""Commands that read what was typed themselves, with a configuration in YAML."""
WITH_KNOBS = ("restore", "video", "check", "mri")
"""Commands that take the knobs of an algorithm beside their own options."""
USAGE = """usage: ambient-solve COMMAND ...

  demo      damage a photograph, restore it, and draw a contact sheet
  restore   restore damaged pictures
  video     restore a damaged video without flicker
  sample    draw pictures from a prior alone
  corrupt   damage a data set once, for training
  check     say whether an algorithm draws from the posterior
  evaluate  compare algorithms, tasks and priors where the truth is known
  mri       reconstruct undersampled MRI scans
  mri-train make training data of undersampled scans, and train a prior
  train     train a prior from clean, noisy or damaged data; takes a YAML file
  finetune  train a prior that there is further, full or LoRA, on pictures of
            your own; takes a YAML file
  em        learn a prior from damaged pictures alone, restoring and training in
            turn; takes a YAML file
  annotate  find the noise levels at which training may use damaged pictures
  invert    learn a subject from a few pictures, as a word for prompts
  convert   make a prior folder of a checkpoint of others
  info      list priors, tasks and algorithms with their knobs, or describe one
  app       open the page that restores pictures in a browser
  testbed pool     make a pool of good and bad pictures: which are worth
                   training on?
  testbed train    train the priors of an entry for a pool, by a fixed recipe
  testbed score    score them on held-out pictures
  testbed submit   put a scored run on a board
  testbed board    show a board

`ambient-solve COMMAND --help` lists the options of a command, and gives an
example; `ambient-solve --version` prints the version.

examples:
  ambient-solve demo
  ambient-solve restore photo.png --task denoise --sigma 0.1"""
"""What --help without a command prints."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (by default that of the process) and return the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        with own_words_for_misfit():  # every command says the misfit of what it made
            return _dispatch(argv)
    except (AmbientSolveError, OSError) as error:
        print(shown(error), file=sys.stderr)
        return 2
    except SystemExit as stop:
        # tyro prints the help, or what is wrong with the options, and leaves.
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
            return 1
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
    if name == "testbed" and rest and f"testbed {rest[0]}" in COMMANDS:
        name, rest = f"testbed {rest[0]}", rest[1:]
    if name in RAW:
        getattr(train, f"{name}_command")(rest, f"{started_as()} {name}")
        return 0
    if name not in COMMANDS:
        raise AmbientSolveError(f"There is no command {name!r}. {suggestion(name, (*COMMANDS, *RAW))}")
    command, texts = COMMANDS[name](), {}
    if name in WITH_KNOBS:
        own = [f.name for f in dataclasses.fields(command)]
        aliases = [alias[2:] for name in own for alias in ALIASES.get(name, ())]
        rest, texts = split_knobs(rest, [*own, *aliases, "help"])
    program = f"{started_as()} {name}"
    with help_page(program, command.__doc__):
        given = tyro.cli(command, prog=program, args=rest, config=PLAIN, description="")
    return given.run(texts) if name in WITH_KNOBS else given.run()
