"""`ambient-solve train`, `finetune`, `em` and `annotate`: loops of `ambient_solve.training`, and the export of a run.

The files of `trainers/` open the same commands, for `accelerate launch`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
import yaml

from ambient_solve.cli.help import help_page
from ambient_solve.distributed import choose_device
from ambient_solve.errors import AmbientSolveError
from ambient_solve.knobs import knobs

if TYPE_CHECKING:
    from ambient_solve.training.config import Config

SMALLEST = """A configuration names the data at least, and may hold every option below:

    sources:     [{path: my_photos}]
    corruption:  {clean_share: 1.0}

Without the second line noise is added to nine pictures in ten."""
"""What --help says of the YAML file."""


def train_command(argv: Sequence[str], program: str = "ambient-solve train") -> None:
    """Entry point of `train`: bad input is one sentence and exit code 2.

    Args:
        argv: What was typed after `program`.
        program: What --help calls the command, such as `ambient-solve train`.
    """
    from ambient_solve.training import loop

    _run(argv, program, f"{loop.__doc__}\n\n{SMALLEST}", lambda config: loop.train(config))


def finetune_command(argv: Sequence[str], program: str = "ambient-solve finetune") -> None:
    """Entry point of `finetune`: bad input is one sentence and exit code 2.

    Args:
        argv: What was typed after `program`.
        program: What --help calls the command, such as `ambient-solve finetune`.
    """
    from ambient_solve.training import finetune as module

    def work(config: Config) -> None:
        from accelerate import PartialState

        module.finetune(config)
        if PartialState().is_main_process and (found := module.memory_report(config)) is not None:
            print(found)

    _run(argv, program, f"{module.__doc__}\n\n{SMALLEST}", work)


def _run(argv: Sequence[str], program: str, about: str, work: Callable[[Config], object]) -> None:
    """Read a configuration and do something with it."""
    from ambient_solve.training.checkpoints import Checkpoints
    from ambient_solve.training.config import check, read_config, settings_of

    config = None
    try:
        with help_page(program, about, config=True):
            config = read_config(list(argv), program)
        if config.dry_run:
            check(config, 1)
            print(yaml.safe_dump(settings_of(config), sort_keys=False))
            return
        work(config)
    except AmbientSolveError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if config is None:
            raise
        kept = Checkpoints(Path(config.out)).all()
        at = f"{kept[-1]} is intact: make room and give the same command again" if kept else "nothing was kept"
        where = error.filename or config.out
        print(f"{where} cannot be read or written ({error.strerror or error}); {at}.", file=sys.stderr)
        sys.exit(2)


def em_command(argv: Sequence[str], program: str = "ambient-solve em") -> None:
    """Entry point of `em`: bad input is one sentence and exit code 2.

    Args:
        argv: What was typed after `program`.
        program: What --help calls the command, such as `ambient-solve em`.
    """
    from ambient_solve.training import em as module
    from ambient_solve.training.em import read_em

    try:
        with help_page(program, module.__doc__, config=True):
            settings = read_em(list(argv), program)
        print(f"The prior is in {module.em(settings)}")
    except (AmbientSolveError, OSError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit("\nStopped; the same command resumes.")


def annotate_command(argv: Sequence[str], program: str = "ambient-solve annotate") -> None:
    """Entry point of `annotate`: bad input is one sentence and exit code 2.

    Args:
        argv: What was typed after `program`.
        program: What --help calls the command, such as `ambient-solve annotate`.
    """
    from ambient_solve.training import annotate as annotation
    from ambient_solve.training.annotate import METHODS, annotate, options

    with help_page(program, annotation.__doc__):
        command = tyro.cli(options(), prog=program, args=list(argv), description="")
    names = {k.name for cls in METHODS.values() for k in knobs(cls)}
    try:
        annotate(command, {name: getattr(command, name) for name in names if getattr(command, name) is not None})
    except (AmbientSolveError, OSError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit("\nStopped; the same command resumes.")


def export_command(argv: Sequence[str], program: str = "python trainers/export.py") -> None:
    """Entry point of `export`: bad input is one sentence and exit code 2.

    Args:
        argv: What was typed after `program`.
        program: What --help calls the command, such as `python trainers/export.py`.
    """
    import torch

    from ambient_solve.training import export
    from ambient_solve.training.config import check, read_config
    from ambient_solve.training.export import as_run, latest, write_prior
    from ambient_solve.training.inventory import refuse_other_data
    from ambient_solve.training.sources import read_data
    from ambient_solve.training.weights import arithmetic

    try:
        with help_page(program, export.__doc__, config=True):
            config = read_config(list(argv), program)
        check(config, 1)
        config = as_run(config)
        averages, step, seconds = latest(Path(config.out))
        computed_in = arithmetic(config.precision, torch.device(choose_device()))
        data = read_data(config, True)
        refuse_other_data(Path(config.out), data.inventories)
        write_prior(config, averages, step, seconds, data, computed_in)
    except AmbientSolveError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
