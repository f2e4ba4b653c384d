"""`ambient-solve train`, `em` and `annotate`: the loops of `ambient_solve.training`, and the export of a run.

The files of `trainers/` open the same commands, for `accelerate launch`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import tyro
import yaml

from ambient_solve.distributed import choose_device
from ambient_solve.errors import AmbientSolveError
from ambient_solve.knobs import knobs


def train_command(argv: Sequence[str]) -> None:
    """Entry point: bad input is one sentence and exit code 2."""
    from ambient_solve.training import loop
    from ambient_solve.training.checkpoints import Checkpoints
    from ambient_solve.training.config import check, read_config, settings_of
    from ambient_solve.training.loop import train

    config = None
    try:
        config = read_config(list(argv), loop.__doc__)
        if config.dry_run:
            check(config, 1)
            print(yaml.safe_dump(settings_of(config), sort_keys=False))
            return
        train(config)
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


def em_command(argv: Sequence[str]) -> None:
    """Entry point: bad input is one sentence and exit code 2."""
    from ambient_solve.training.em import em, read_em

    try:
        print(f"The prior is in {em(read_em(list(argv)))}")
    except (AmbientSolveError, OSError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit("\nStopped; the same command resumes.")


def annotate_command(argv: Sequence[str]) -> None:
    """Entry point: bad input is one sentence and exit code 2."""
    from ambient_solve.training import annotate as annotation
    from ambient_solve.training.annotate import METHODS, annotate, options

    command = tyro.cli(options(), args=list(argv), description=annotation.__doc__)
    names = {k.name for cls in METHODS.values() for k in knobs(cls)}
    try:
        annotate(command, {name: getattr(command, name) for name in names if getattr(command, name) is not None})
    except (AmbientSolveError, OSError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit("\nStopped; the same command resumes.")


def export_command(argv: Sequence[str]) -> None:
    """Entry point: bad input is one sentence and exit code 2."""
    import torch

    from ambient_solve.training import export
    from ambient_solve.training.config import check, read_config
    from ambient_solve.training.export import as_run, latest, write_prior
    from ambient_solve.training.inventory import refuse_other_data
    from ambient_solve.training.sources import read_data
    from ambient_solve.training.weights import arithmetic

    try:
        config = read_config(list(argv), export.__doc__)
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
