"""Train a diffusion prior from clean and noisy pictures.

    accelerate launch trainers/train.py --config trainers/configs/photos.yaml --out runs/photos
    python trainers/train.py --config trainers/configs/photos.yaml --out runs/photos --images 64000

The same command resumes an interrupted run, bit for bit: every batch and its noise are functions of (seed, step), and
model, EMA, optimiser and step are checkpointed together. The finished prior is in OUT/prior.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import torch
import tyro
import yaml
from accelerate import Accelerator
from accelerate.utils import is_tensorboard_available
from checkpoints import Checkpoints, Statistics, refuse_another_run, remember
from tqdm import tqdm

from ambient_solve.data.corruption import Corruption, corrupt, read_corrupted
from ambient_solve.data.images import read_images
from ambient_solve.data.loader import Levels, Loader
from ambient_solve.data.sample import Sample
from ambient_solve.errors import AmbientSolveError, suggestion
from ambient_solve.objectives.denoise import Denoise, buffer
from ambient_solve.priors.card import denoising_psnr, model_card
from ambient_solve.priors.network import NetworkConfig, NetworkPrior

POSITIVE = "images batch accumulate crop lr level_std clip ema_half_life stats_every checkpoint_every".split()


@dataclass(frozen=True)
class Source:
    """A set of pictures: a folder, an .npz pack, imagefolder:PATH, or corrupted:PATH, damaged beforehand."""

    path: str
    share: float = 1.0
    """Share of the training samples drawn from this source."""
    shrink: int = 1
    """Divide both sides by this number first; 2 makes the pixels of a JPEG clean again."""
    held_out: int = 0
    """The last pictures, kept clean and out of training, to measure the denoiser on."""
    terms: str = "not stated"
    """Licence of the data, for the model card."""


@dataclass(frozen=True)
class Config:
    """All of a training run."""

    out: str
    """Folder of the run: checkpoints, stats.jsonl, and the finished prior."""
    name: str = "prior"
    data_root: str = "."
    """Relative source paths start here."""
    sources: tuple[Source, ...] = ()
    corruption: Corruption = field(default_factory=Corruption)
    drop_noisy: bool = False
    """Train on the clean pictures alone: the control arm."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    objective: Denoise = field(default_factory=Denoise)
    s_max: float = 4.0
    """Noisy samples are used where sigma^2 / (sigma^2 - sigma_noise^2) stays below this number."""
    level_mean: float = -0.9
    level_std: float = 1.6
    """Levels are log-normal with these moments of ln sigma, truncated to the network's range."""
    crop: int = 64
    images: int = 200_000
    """Length of the run, in samples seen."""
    batch: int = 32
    """Samples in one optimiser step, over all processes and accumulated micro-batches."""
    accumulate: int = 1
    lr: float = 5e-4
    warmup: int = 3_200
    """Samples over which the learning rate rises; it falls to 0 along a cosine afterwards."""
    clip: float = 1.0
    ema_half_life: int = 8_000
    """Half-life of the averaged weights, in samples; shorter while little has been seen."""
    precision: str = "bf16"
    """bf16 or no."""
    seed: int = 0
    stats_every: int = 50
    checkpoint_every: int = 500
    """Both in optimiser steps."""
    dry_run: bool = False
    """Print the resolved configuration and stop."""


def _make(cls: type, values: Any, where: str) -> Any:
    """The dataclass `cls` from a mapping of YAML; what does not fit is named."""
    if not isinstance(values, dict):
        raise AmbientSolveError(f"{where} must hold names and values, not {values!r}.")
    kinds, fitted = get_type_hints(cls), {}
    for name, value in values.items():
        kind = kinds.get(name)
        if kind is None:
            raise AmbientSolveError(f"{where}: {name!r} is unknown. {suggestion(str(name), kinds)}")
        if kind is float and isinstance(value, str):  # 5e-4 without a dot is a word in YAML
            with contextlib.suppress(ValueError):
                value = float(value)
        if kind in (int, float, str, bool) and type(value) not in ((int, float) if kind is float else (kind,)):
            raise AmbientSolveError(f"{where}: {name} = {value!r} is no {kind.__name__}.")
        if name == "sources":
            value = [_make(Source, s, f"sources[{i}]") for i, s in enumerate(value if type(value) is list else [value])]
        fitted[name] = _make(kind, value, name) if dataclasses.is_dataclass(kind) else value
        fitted[name] = tuple(value) if isinstance(value, list) else fitted[name]
    try:
        return cls(**fitted)
    except TypeError as error:
        raise AmbientSolveError(f"{where}: {error}.") from None


def read_config(args: list[str]) -> Config:
    """The YAML file after `--config`, then the command line on top of it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", nargs="?", const="")
    known, args = parser.parse_known_args(args)
    try:
        settings = {} if known.config is None else yaml.safe_load(Path(known.config).read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise AmbientSolveError(f"--config needs a readable YAML file: {' '.join(str(error).split())}.") from None
    default = _make(Config, {"out": "", **settings} if isinstance(settings, dict) else settings, str(known.config))
    default = dataclasses.replace(default, out=default.out or tyro.MISSING)
    return tyro.cli(Config, args=args, default=default, description=__doc__)


def check(config: Config, processes: int) -> None:
    """Say at once what would fail later."""
    micro, low, high = processes * config.accumulate, config.network.sigma_min, config.network.sigma_max
    for name in POSITIVE:
        if not 0 < getattr(config, name) < math.inf:
            raise AmbientSolveError(f"{name} = {getattr(config, name)} must be more than 0.")
    if config.precision not in ("bf16", "no"):
        raise AmbientSolveError(f"precision = {config.precision!r}: choose bf16 or no (fp16 underflows at low noise).")
    if config.batch % micro:
        raise AmbientSolveError(
            f"batch = {config.batch} does not divide over {processes} processes x {config.accumulate} accumulated."
        )
    if config.checkpoint_every % config.stats_every:
        raise AmbientSolveError("checkpoint_every must be a multiple of stats_every: resuming would lose statistics.")
    if config.seed < 0 or not 0 < low < high:
        raise AmbientSolveError("Expected seed >= 0 and 0 < network.sigma_min < network.sigma_max.")
    if not config.sources:
        raise AmbientSolveError("There is no data: list at least one source, as trainers/configs/photos.yaml does.")
    for source in config.sources:
        if not (source.share > 0 and source.shrink >= 1 and source.held_out >= 0):
            raise AmbientSolveError(f"{source.path}: expected share > 0, shrink >= 1 and held_out >= 0.")


def read_samples(config: Config, main: bool) -> tuple[list[Sample], np.ndarray, list[torch.Tensor]]:
    """All stored samples, the chance of each, and the held-out clean pictures (uint8)."""
    samples, share, held_out = [], [], []
    for source in config.sources:
        kind, _, rest = source.path.rpartition(":")
        path = f"{kind}:{Path(config.data_root) / rest}" if kind else str(Path(config.data_root) / rest)
        if kind == "corrupted":
            own = list(read_corrupted(path.removeprefix("corrupted:")))
        else:
            pictures = list(read_images(path, config.network.channels, source.shrink))
            keep = len(pictures) - source.held_out
            if keep < 1:
                raise AmbientSolveError(
                    f"{source.path} has but {len(pictures)} pictures; {source.held_out} are held out."
                )
            held_out += [picture for _, picture in pictures[keep:]]
            bar = tqdm(pictures[:keep], f"damage {rest}", leave=False, disable=not main)
            own = list(corrupt(bar, keep, config.corruption))
        if own and own[0].z.shape[0] != config.network.channels:
            raise AmbientSolveError(f"{source.path} has {own[0].z.shape[0]} channels, network.channels says otherwise.")
        if config.drop_noisy:
            own = [s for s in own if s.sigma_noise == 0]
        samples += own
        share += [source.share / max(len(own), 1)] * len(own)
    if any(min(picture.shape[-2:]) < config.crop for picture in held_out):
        raise AmbientSolveError(f"A held-out picture is smaller than the crop of {config.crop}. Lower `crop`.")
    return samples, np.array(share), held_out


def learning_rate(config: Config, step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to 0."""
    rise = min(1.0, (step + 1) * config.batch / max(config.warmup, 1))
    return config.lr * rise * 0.5 * (1 + math.cos(math.pi * step / steps))


def train(config: Config) -> Path:
    """Run, or resume, the training that `config` describes; returns the folder of the finished prior."""
    check(config, 1)
    out = Path(config.out)
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in ("dry_run", "data_root", "out")}
    refuse_another_run(out, settings)
    accelerator = Accelerator(
        mixed_precision=config.precision,
        gradient_accumulation_steps=config.accumulate,
        log_with="tensorboard" if is_tensorboard_available() else None,
        project_dir=config.out,
    )
    check(config, accelerator.num_processes)
    torch.manual_seed(config.seed)
    main = accelerator.is_main_process

    samples, share, held_out = read_samples(config, main)
    spec = Levels(config.level_mean, config.level_std, config.network.sigma_min, config.network.sigma_max)
    loader = Loader(
        samples, share, spec, crop=config.crop, buffer=buffer(config.s_max), batch=config.batch, seed=config.seed
    )
    try:
        prior = NetworkPrior(config.network, "bfloat16" if config.precision == "bf16" else "float32")
    except (TypeError, ValueError) as error:
        raise AmbientSolveError(f"network: {error}.") from None
    prior.to(accelerator.device).match_layout(accelerator.device)
    optimizer = torch.optim.AdamW(prior.parameters(), lr=config.lr, betas=(0.9, 0.99), weight_decay=0.0)
    ema = {k: v.detach().clone() for k, v in prior.state_dict().items()}
    checkpoints = Checkpoints(out)
    first, seconds = checkpoints.load(prior, ema, optimizer)
    model, optimizer = accelerator.prepare(prior, optimizer)
    remember(out, settings, main)
    if accelerator.log_with:
        accelerator.init_trackers("tensorboard")

    steps = math.ceil(config.images / config.batch)
    rows_each = config.batch // (accelerator.num_processes * config.accumulate)
    statistics = Statistics(out / "stats.jsonl", accelerator)
    statistics.trim(first)
    bar = tqdm(total=steps * config.batch, initial=first * config.batch, unit="img", disable=not main, desc=config.name)
    started = time.perf_counter()
    step = first
    try:
        for step in range(first, steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, step, steps)
            for micro in range(config.accumulate):
                at = (micro * accelerator.num_processes + accelerator.process_index) * rows_each
                batch, streams = loader(step, slice(at, at + rows_each))
                with accelerator.accumulate(model):
                    losses = config.objective.loss(model, batch.to(accelerator.device), streams)
                    accelerator.backward(losses.mean())
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(model.parameters(), config.clip)
                    optimizer.step()
                    optimizer.zero_grad()
                statistics.add(batch.sigma, losses.detach())
            seen = (step + 1) * config.batch
            keep = 0.5 ** (config.batch / min(config.ema_half_life, 0.1 * seen))
            torch._foreach_lerp_(list(ema.values()), [v.detach() for v in prior.state_dict().values()], 1 - keep)
            bar.update(config.batch)
            if (step + 1) % config.stats_every == 0 or step + 1 == steps:
                loss = statistics.write(step + 1, seen, learning_rate(config, step, steps))
                bar.set_postfix(loss=f"{loss:.4f}")
            if main and ((step + 1) % config.checkpoint_every == 0 or step + 1 == steps):
                checkpoints.save(step + 1, seconds + time.perf_counter() - started, prior, ema, optimizer)
    except KeyboardInterrupt:
        at = checkpoints.all()[-1].name if checkpoints.all() else "the start"
        sys.exit(f"\nStopped at step {step}; the same command resumes from {at}.")
    finally:
        bar.close()
    accelerator.wait_for_everyone()
    if main:
        prior.load_state_dict(ema)
        _finish(config, prior, samples, held_out)
    accelerator.end_training()
    return out / "prior"


def _finish(config: Config, prior: NetworkPrior, samples: list[Sample], held_out: list[torch.Tensor]) -> None:
    """Write the averaged weights, the configuration and the model card."""
    prior.eval().requires_grad_(False)
    record = json.loads((Checkpoints(Path(config.out)).all()[-1] / "state.json").read_text())
    metrics, folder = denoising_psnr(prior, held_out, config.crop), Path(config.out) / "prior"
    card = model_card(config.name, dataclasses.asdict(config), samples, record["step"], record["seconds"], metrics)
    prior.save(folder, card, dtype=torch.float16)
    print(f"The prior is in {folder}: ambient-solve info {folder}")


def main() -> None:
    """Entry point: bad input is one sentence and exit code 2."""
    try:
        config = read_config(sys.argv[1:])
        if config.dry_run:
            check(config, 1)
            print(yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(config))), sort_keys=False))
            return
        train(config)
    except AmbientSolveError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
