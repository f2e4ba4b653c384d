r"""Learn a prior from damaged pictures alone, in iterations of expectation and maximisation.

    python trainers/em.py --config trainers/configs/em_masked.yaml --data-root DATA --out runs/em
    python trainers/em.py --config trainers/configs/em_masked.yaml --data-root DATA --out runs/em --init runs/a/prior

    E   every damaged picture is replaced by a sample of its posterior under the prior of the iteration before
    M   the loop of trainers/train.py learns the next prior from these, starting at the last one

Where the samples are exact, the likelihood of the measurements rises in every iteration (Dempster et al., 1977). Modes:

    mmps         E by the solver, any algorithm of the library (DiEM; Rozet et al., 2024, arXiv 2405.13712)
    conditional  E by a network that is shown the measurement; M trains it on the restored pictures, damaged anew
                 (DiffEM; Hosseintabar et al., 2025, arXiv 2510.12691). An ordinary prior is trained on the last ones
    dataloop     E from the level below which a picture is not trusted; the restored picture is trusted above 1 / rho
                 of it (Ambient Dataloops, arXiv 2601.15417), and never declared clean

Some damaged pictures are held out, and every prior is compared on them: OUT/prior is the best one, and a
warning says where that is not the last, or the one that the run began with.

Iteration 0's prior is --init, or a stationary Gaussian fitted to the measurements. The same command resumes: a batch
that was restored is not drawn again, and training goes on from its checkpoint. The finished prior is in OUT/prior.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
import yaml

from ambient_solve.algorithms import ALGORITHMS
from ambient_solve.data.corruption import MANIFEST, read_settings
from ambient_solve.data.sample import Sample
from ambient_solve.distributed import choose_device
from ambient_solve.errors import AmbientSolveError, one_line, suggestion
from ambient_solve.knobs import build
from ambient_solve.objectives.conditional import Conditional
from ambient_solve.objectives.denoise import Denoise
from ambient_solve.priors.base import Prior
from ambient_solve.priors.load import load_prior, prior_folder
from ambient_solve.priors.network import CARD, NetworkPrior
from ambient_solve.saving import replace_text
from ambient_solve.training.compare import best_of, held_out_error, hold_out, verdict
from ambient_solve.training.config import Config, Source, check, make, settings_of
from ambient_solve.training.expectation import Conditioned, Expectation, FromLevel, FromSolver, incomplete
from ambient_solve.training.inventory import refuse_other_data, remember_data
from ambient_solve.training.locks import only_run_in
from ambient_solve.training.loop import train
from ambient_solve.training.restored import write_restored
from ambient_solve.training.sources import Data, read_data
from ambient_solve.training.texture import Texture, fit_texture
from ambient_solve.training.weights import starting_prior

OTHER_MASKS = ("box-mask", "patch-mask")
"""Damages whose masks are not independent pixels."""
ERRORS = "held-out.json"
"""File of the held-out error of each iteration."""
FREE = ("out", "data_root", "iterations")
"""Settings that may change when a run goes on."""


@dataclass(frozen=True)
class EM:
    """All of an EM run: its iterations, and the training of each."""

    out: str
    """Folder of the run: iteration-1, ..., each with the restored pictures and a training run; and the prior."""
    train: tyro.conf.Suppress[Config]
    """What trainers/train.py is given in each iteration; its sources and corruption are the damaged data."""
    data_root: str = "."
    """Relative source paths start here."""
    mode: Literal["mmps", "conditional", "dataloop"] = "mmps"
    """What the E-step draws from, as said above."""
    iterations: int = 4
    """Iterations of expectation and maximisation."""
    init: str = ""
    """Iteration 0's prior: a folder, an embedded name or a hub id; empty fits a Gaussian to the measurements."""
    keep: bool = True
    """Each training starts at the prior of the iteration before; no is from scratch."""
    algorithm: str = "mmps"
    """Algorithm of the E-step in mode mmps, and of the first iteration in mode conditional."""
    knobs: tyro.conf.Suppress[dict[str, Any]] = field(default_factory=dict)
    """Knobs of the algorithm, in the YAML file."""
    steps: int = 18
    """Noise levels of the E-step in the modes conditional and dataloop."""
    draws: int = 1
    """Posterior samples of each damaged picture."""
    batch: int = 64
    """Pictures that are restored together."""
    floor: float = 0.005
    """Least noise that a measurement is taken to have, in units of [-1, 1] pictures."""
    cg_iterations: int = 0
    """Steps from k-space stored as A^H y to the least picture that explains it; 0 where mri-train has stored that."""
    rho: float = 2.0
    """In mode dataloop: what an iteration divides sigma_min by."""
    held_out: int = 16
    """Damaged pictures of each source, a tenth of them at most, that the priors of all iterations are compared on."""
    seed: int = 0
    """Decides the posterior samples; that of `train` the training."""


def em(settings: EM) -> Path:
    """Run, or resume, EM.

    Args:
        settings: All of the run; `iterations` may have grown since it was interrupted.

    Returns:
        The folder of the finished prior, OUT/prior.

    Raises:
        AmbientSolveError: settings that cannot work, or a folder with a run of other settings.
    """
    check_em(settings)
    with only_run_in(Path(settings.out)):
        return _em(settings)


def _em(settings: EM) -> Path:
    out, root = Path(settings.out), Path(settings.data_root)
    read = [_read(settings, source, root) for source in settings.train.sources]
    data, inventories = [one.samples for one in read], [i for one in read for i in one.inventories]
    if not any(_method(settings, 1).restores(s) for samples in data for s in samples):
        raise AmbientSolveError("No picture of the sources is damaged: there is nothing to restore, use train.py.")
    # An E-step takes long: what the first training would refuse is said before it.
    starting_prior(_training(settings, 1, settings.init, data), None, torch.device("cpu"))
    _remember(settings)
    refuse_other_data(out, inventories, "iteration 1" if (out / "iteration-1").is_dir() else "")
    remember_data(out, inventories, True)
    parts = [hold_out(samples, _method(settings, 1), settings.held_out) for samples in data]
    data, held_out = [own for own, _ in parts], [s for _, apart in parts for s in apart]
    if not held_out:
        print(
            "No picture is held out, as there are too few or held_out is 0: iterations are not compared.",
            file=sys.stderr,
        )
    prior, errors = settings.init, [_error(settings, 0, settings.init, data, held_out)]
    for iteration in range(1, settings.iterations + 1):
        folder = out / f"iteration-{iteration}"
        _expect(settings, iteration, prior, data)
        config = _training(settings, iteration, prior, data)
        prior = str(folder / "prior")
        _train(config)
        errors.append(_error(settings, iteration, prior, data, held_out))
        if settings.mode == "dataloop":
            data = [_read(settings, s, folder).samples for s in config.sources]
    # Without anything to compare them by, the last one is taken.
    iteration = best_of(errors) if held_out else settings.iterations
    kept = "OUT/prior is a copy of that one"
    if not iteration and not settings.init:
        iteration, kept = (
            1 + best_of(errors[1:]),
            "OUT/prior is the best of the iterations, as a Gaussian is not stored there",
        )
    prior = out / f"iteration-{iteration}" / "prior" if iteration else prior_folder(settings.init)
    if settings.mode == "conditional" and iteration:
        objective = Denoise(sigma_data=settings.train.network.sigma_data)
        config = _training(settings, iteration, "", data)
        folder = out / f"iteration-{iteration}" / "unconditional"
        _train(replace(config, out=str(folder), objective=objective, init=settings.train.init))
        prior = folder / "prior"
    shutil.copytree(prior, out / "prior", dirs_exist_ok=True)
    if held_out and (warning := verdict(errors, kept)):
        print(warning, file=sys.stderr)
    return out / "prior"


def _error(settings: EM, iteration: int, prior_at: str, data: list[list[Sample]], held_out: list[Sample]) -> float:
    """The held-out error of the prior after `iteration`, 0 being the start; measured once and kept."""
    path = Path(settings.out) / ERRORS
    known = json.loads(path.read_text()) if path.is_file() else {}
    if held_out and str(iteration) not in known:
        method, prior = _method(settings, iteration + 1), _prior(settings, iteration + 1, prior_at, data)
        known[str(iteration)] = held_out_error(prior, method, held_out, settings.train, settings.batch, settings.seed)
        replace_text(path, json.dumps(known, indent=1) + "\n")
        print(f"iteration {iteration}: held-out error {known[str(iteration)]:.4g}", file=sys.stderr)
    return known.get(str(iteration), math.nan)


def _read(settings: EM, source: Source, root: Path) -> Data:
    config = replace(settings.train, out=settings.out, data_root=str(root), sources=(source,), held_out=0.0)
    data = read_data(config, True)
    print(*data.notes, sep="\n", end="\n" if data.notes else "", file=sys.stderr)
    return data


def _expect(settings: EM, iteration: int, prior_at: str, data: list[list[Sample]]) -> None:
    """The E-step of an iteration: what is missing of its restored pictures."""
    folders = [Path(settings.out) / f"iteration-{iteration}" / f"restored-{i}" for i in range(len(data))]
    if all((folder / MANIFEST).is_file() for folder in folders):
        return
    method, prior = _method(settings, iteration), _prior(settings, iteration, prior_at, data)
    before = f"iteration {iteration - 1}" if iteration > 1 else settings.init or "a Gaussian fitted to the measurements"
    record = {"iteration": iteration, "prior": before}
    for i, (folder, samples) in enumerate(zip(folders, data, strict=True)):
        if not (folder / MANIFEST).is_file():
            write_restored(
                samples,
                folder,
                method,
                prior,
                draws=settings.draws,
                batch=settings.batch,
                seed=(settings.seed, iteration, i),
                record=record,
                origin=_origin(settings, settings.train.sources[i], iteration),
                title=f"iteration {iteration}: restore {settings.train.sources[i].path}",
            )


def _origin(settings: EM, source: Source, iteration: int) -> dict[str, Any]:
    """How the pictures of a source came to be as they are restored: for the folder of the restored ones."""
    kind, _, rest = source.path.rpartition(":")
    damaged = {"source": source.path, "shrink": source.shrink}
    if kind == "corrupted":
        found = read_settings(Path(settings.data_root) / rest)
        damaged = {"source": source.path, **found} if found else {"source": source.path}
    else:
        damaged |= settings_of(settings.train.corruption)
    return {**damaged, "restored in iteration": iteration}


def _method(settings: EM, iteration: int) -> Expectation:
    if settings.mode == "dataloop":
        return FromLevel(settings.steps, settings.rho)
    if settings.mode == "conditional" and iteration > 1:
        return Conditioned(settings.steps)
    algorithm = build(ALGORITHMS[settings.algorithm], **settings.knobs)
    return FromSolver(algorithm, settings.floor, settings.cg_iterations)


def _prior(settings: EM, iteration: int, prior_at: str, data: list[list[Sample]]) -> Prior:
    """The prior of the iteration before, on the device."""
    device = choose_device()
    if settings.mode == "conditional" and iteration > 1:
        return NetworkPrior.load(prior_at).to(device)
    if prior_at:
        return load_prior(prior_at, device=device)
    stored, network = Path(settings.out) / "iteration-0.safetensors", settings.train.network
    if not stored.is_file():
        affine = (network.scale, network.offset)
        samples = [s for rows in data for s in rows if s.sigma_min <= s.sigma_noise]
        fit_texture(samples, seed=settings.seed, floor=settings.floor, affine=affine, device=device).save(stored)
    return Texture.load(stored).to(device)


def _training(settings: EM, iteration: int, prior_at: str, data: list[list[Sample]]) -> Config:
    """What the M-step of an iteration is given."""
    folder, config = Path(settings.out) / f"iteration-{iteration}", settings.train
    sources = [
        Source(f"corrupted:restored-{i}", share=source.share, terms=source.terms)
        for i, source in enumerate(config.sources)
    ]
    objective = config.objective
    if settings.mode == "conditional":
        objective = Conditional(**_damage(data), channels=config.network.channels, sigma_data=config.network.sigma_data)
    return replace(
        config,
        out=str(folder),
        data_root=str(folder),
        name=f"{config.name}, iteration {iteration}",
        sources=tuple(sources),
        init=(prior_at if settings.keep else "") or config.init,
        objective=objective,
        drop_noisy=False,
        held_out=0.0,  # EM holds out damaged pictures itself
    )


def _damage(data: list[list[Sample]]) -> dict[str, float]:
    """The share of missing pixels and the noise level that the damaged samples have in common."""
    damaged = [s for samples in data for s in samples if incomplete(s) or s.sigma_noise > 0]
    kinds = {(s.damage, s.sigma_noise) for s in damaged}
    if len(kinds) != 1 or any(s.damage in OTHER_MASKS or s.signs is not None for s in damaged):
        raise AmbientSolveError(
            "mode = 'conditional' learns one kind of measurement, random pixels or noise, here are "
            f"{sorted(kinds)}: use mode: mmps."
        )
    observed = sum(float(s.mask.float().mean()) if incomplete(s) else 1.0 for s in damaged) / len(damaged)
    return {"missing": min(1 - observed, 0.99), "sigma_y": damaged[0].sigma_noise}


def _train(config: Config) -> None:
    """The M-step; the card is what a finished one writes last."""
    if not (Path(config.out) / "prior" / CARD).is_file():
        train(config)


def check_em(settings: EM) -> None:
    """Say at once what would fail later."""
    check(replace(settings.train, out=settings.out), 1)
    for name, least in (
        ("iterations", 1),
        ("draws", 1),
        ("batch", 1),
        ("steps", 2),
        ("cg_iterations", 0),
        ("held_out", 0),
        ("seed", 0),
    ):
        if getattr(settings, name) < least:
            raise AmbientSolveError(f"{name} = {getattr(settings, name)} must be at least {least}.")
    if not (settings.floor > 0 and settings.rho > 1):
        raise AmbientSolveError(f"Expected floor > 0 and rho > 1, not {settings.floor} and {settings.rho}.")
    if not isinstance(settings.knobs, dict):
        raise AmbientSolveError(f"knobs = {settings.knobs!r} must hold names and values, as {{steps: 25}}.")
    if any(source.held_out for source in settings.train.sources):
        raise AmbientSolveError("held_out of a source is for trainers/train.py: give held_out of the EM run itself.")
    if settings.algorithm not in ALGORITHMS:
        known = suggestion(settings.algorithm, ALGORITHMS)
        raise AmbientSolveError(f"There is no algorithm {settings.algorithm!r}. {known}")
    build(ALGORITHMS[settings.algorithm], **settings.knobs)
    if settings.train.objective.mask_channels:
        raise AmbientSolveError(
            "train.objective: the M-step learns from restored pictures; leave it out, or choose kind: denoise."
        )
    if settings.mode == "dataloop" and not settings.init:
        raise AmbientSolveError(
            "mode = 'dataloop' restores with the prior that the pictures gave: train it, and --init."
        )
    if settings.mode == "dataloop" and settings.draws > 1:
        raise AmbientSolveError("mode = 'dataloop' restores what it restored before: draws = 1 is expected.")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise AmbientSolveError("em.py runs in one process: start it with python, not with accelerate launch.")


def _remember(settings: EM) -> None:
    """Keep the settings in the run's folder, and refuse a folder of other ones."""
    path = Path(settings.out) / "em.json"
    record = json.loads(json.dumps({k: v for k, v in settings_of(settings).items() if k not in FREE}))
    record["train"].pop("held_out")  # of a training by itself
    before = {"held_out": 0, **json.loads(path.read_text())} if path.is_file() else record
    if changed := [k for k in record if record[k] != before.get(k)]:
        raise AmbientSolveError(
            f"{settings.out} holds an EM run with other settings ({', '.join(changed)}). Choose another --out, or "
            "delete it."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps(record, indent=2) + "\n")


def read_em(args: list[str], program: str | None = None) -> EM:
    """The settings of an EM run: a YAML file, then the command line on top of it.

    Args:
        args: `--config FILE` and any other options; the section `train` is in the file alone.
        program: What --help calls the command; None takes the name of the script.

    Returns:
        The settings.

    Raises:
        AmbientSolveError: the file is unreadable, or has a setting that there is not.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    known, args = parser.parse_known_args(args)
    if known.config is None and not {"-h", "--help"} & {*args}:
        raise AmbientSolveError("--config needs a YAML file, such as trainers/configs/em_masked.yaml.")
    if known.config is None:
        blank = make(EM, {"out": "", "train": {"out": ""}}, "em")
        return tyro.cli(EM, prog=program, args=args, default=replace(blank, out=tyro.MISSING), description="")
    try:
        written = yaml.safe_load(Path(known.config).read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise AmbientSolveError(f"--config needs a readable YAML file: {one_line(error)}.") from None
    if not isinstance(written, dict) or not isinstance(written.get("train"), dict):
        raise AmbientSolveError(f"{known.config} needs a section `train` as trainers/configs/em_masked.yaml has one.")
    default = make(EM, {"out": "", **written, "train": {"out": "", **written["train"]}}, known.config)
    default = replace(default, out=default.out or tyro.MISSING)
    return tyro.cli(EM, prog=program, args=args, default=default, description="")
