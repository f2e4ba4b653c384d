"""Train a diffusion prior from clean and noisy pictures.

    accelerate launch trainers/train.py --config trainers/configs/photos.yaml --out runs/photos
    python trainers/train.py --config trainers/configs/photos.yaml --out runs/photos --images 64000

The same command resumes an interrupted run, bit for bit: every batch and its noise are functions of (seed, step), and
model, EMA, optimiser and step are checkpointed together. The finished prior is in OUT/prior.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import tyro
import yaml
from accelerate import Accelerator, DataLoaderConfiguration
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from ambient_solve.data.corruption import Corruption, Sample, corrupt, read_corrupted
from ambient_solve.data.images import read_images
from ambient_solve.data.loader import Levels, Loader
from ambient_solve.errors import AmbientSolveError
from ambient_solve.objectives.denoise import Denoise, buffer
from ambient_solve.priors.card import denoising_psnr, model_card
from ambient_solve.priors.network import NetworkConfig, NetworkPrior

BUCKETS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0)


@dataclass(frozen=True)
class Source:
    """A set of pictures: a folder, an .npz pack, imagefolder:PATH, or corrupted:PATH for a data set damaged beforehand."""

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


def read_config(args: list[str]) -> Config:
    """The YAML file after `--config`, then the command line on top of it."""
    settings = {}
    if "--config" in args:
        at = args.index("--config")
        if at + 1 == len(args) or not Path(args[at + 1]).is_file():
            raise AmbientSolveError("--config needs the path of an existing YAML file, such as trainers/configs/photos.yaml.")
        settings = yaml.safe_load(Path(args[at + 1]).read_text())
        args = args[:at] + args[at + 2 :]
    nested = {"corruption": Corruption, "network": NetworkConfig, "objective": Denoise}
    try:
        for name, cls in nested.items():
            values = settings.get(name, {})
            settings[name] = cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
        settings["sources"] = tuple(Source(**s) for s in settings.get("sources", ()))
        default = Config(**{"out": tyro.MISSING, **settings})
    except TypeError as error:
        raise AmbientSolveError(f"The configuration does not fit: {error}. --help lists the names.") from None
    return tyro.cli(Config, args=args, default=default, description=__doc__)


def check(config: Config, processes: int) -> None:
    """Say at once what would fail later."""
    micro = processes * config.accumulate
    if config.batch % micro:
        raise AmbientSolveError(f"batch = {config.batch} does not divide over {processes} processes x {config.accumulate} accumulated.")
    if config.checkpoint_every % config.stats_every:
        raise AmbientSolveError("checkpoint_every must be a multiple of stats_every, or a resumed run would lose statistics.")
    if config.precision not in ("bf16", "no"):
        raise AmbientSolveError(f"precision = {config.precision!r}: choose bf16 or no (fp16 underflows at low noise).")
    if not config.sources:
        raise AmbientSolveError("There is no data: list at least one source, as trainers/configs/photos.yaml does.")


def read_samples(config: Config) -> tuple[list[Sample], np.ndarray, list[torch.Tensor]]:
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
            held_out += [picture for _, picture in pictures[keep:]]
            own = list(corrupt(tqdm(pictures[:keep], f"damage {rest}", leave=False), keep, config.corruption))
        if config.drop_noisy:
            own = [s for s in own if s.sigma_noise == 0]
        samples += own
        share += [source.share / max(len(own), 1)] * len(own)
    return samples, np.array(share), held_out


def learning_rate(config: Config, step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to 0."""
    rise = min(1.0, (step + 1) * config.batch / max(config.warmup, 1))
    return config.lr * rise * 0.5 * (1 + math.cos(math.pi * step / steps))


class Checkpoints:
    """One folder `checkpoint-STEP` at a time, renamed into place when complete. Only safetensors and JSON."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def save(self, step: int, seconds: float, model: NetworkPrior, ema: dict, optimizer: torch.optim.Optimizer) -> None:
        part = self.out / "checkpoint.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        state = optimizer.state_dict()["state"]
        save_file(_contiguous(model.state_dict()), part / "model.safetensors")
        save_file(_contiguous(ema), part / "ema.safetensors")
        save_file(_contiguous({f"{i}.{k}": v for i, s in state.items() for k, v in s.items()}), part / "optimizer.safetensors")
        (part / "state.json").write_text(json.dumps({"step": step, "seconds": seconds}))
        old = self.all()
        part.rename(self.out / f"checkpoint-{step}")
        for folder in old:
            shutil.rmtree(folder)

    def all(self) -> list[Path]:
        return sorted(self.out.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))

    def load(self, model: NetworkPrior, ema: dict, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
        """Restore the latest checkpoint in place; (0, 0) where there is none."""
        if not self.all():
            return 0, 0.0
        folder = self.all()[-1]
        model.load_state_dict(load_file(folder / "model.safetensors"))
        for name, tensor in load_file(folder / "ema.safetensors").items():
            ema[name].copy_(tensor)
        state: dict[int, dict] = {}
        for name, tensor in load_file(folder / "optimizer.safetensors").items():
            i, key = name.split(".", 1)
            state.setdefault(int(i), {})[key] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        record = json.loads((folder / "state.json").read_text())
        return record["step"], record["seconds"]


def _contiguous(tensors: dict) -> dict:
    return {k: v.detach().cpu().contiguous() for k, v in tensors.items()}


def train(config: Config) -> Path:
    """Run, or resume, the training that `config` describes; returns the folder of the finished prior."""
    accelerator = Accelerator(
        mixed_precision=config.precision,
        gradient_accumulation_steps=config.accumulate,
        dataloader_config=DataLoaderConfiguration(),
        log_with="tensorboard" if _has_tensorboard() else None,
        project_dir=config.out,
    )
    check(config, accelerator.num_processes)
    torch.manual_seed(config.seed)
    out = Path(config.out)
    main = accelerator.is_main_process
    _remember(config, out, main)

    samples, share, held_out = read_samples(config)
    spec = Levels(config.level_mean, config.level_std, config.network.sigma_min, config.network.sigma_max)
    loader = Loader(
        samples, share, spec, crop=config.crop, buffer=buffer(config.s_max), batch=config.batch, seed=config.seed
    )
    prior = NetworkPrior(config.network, "bfloat16" if config.precision == "bf16" else "float32").to(accelerator.device)
    prior.match_layout(accelerator.device)
    optimizer = torch.optim.AdamW(prior.parameters(), lr=config.lr, betas=(0.9, 0.99), weight_decay=0.0)
    ema = {k: v.detach().clone() for k, v in prior.state_dict().items()}
    checkpoints = Checkpoints(out)
    first, seconds = checkpoints.load(prior, ema, optimizer)
    model, optimizer = accelerator.prepare(prior, optimizer)
    if accelerator.log_with:
        accelerator.init_trackers("tensorboard")

    steps = math.ceil(config.images / config.batch)
    rows_each = config.batch // (accelerator.num_processes * config.accumulate)
    edges = torch.tensor(BUCKETS, device=accelerator.device)
    sums = torch.zeros(2, len(BUCKETS) + 1, device=accelerator.device)
    bar = tqdm(total=steps * config.batch, initial=first * config.batch, unit="img", disable=not main, desc=config.name)
    _trim(out / "stats.jsonl", first, main)
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
                bucket = torch.bucketize(batch.sigma.to(accelerator.device), edges)
                sums[0].index_add_(0, bucket, losses.detach())
                sums[1].index_add_(0, bucket, torch.ones_like(losses))
            seen = (step + 1) * config.batch
            keep = 0.5 ** (config.batch / min(config.ema_half_life, 0.1 * seen))
            torch._foreach_lerp_(list(ema.values()), [v.detach() for v in prior.state_dict().values()], 1 - keep)
            bar.update(config.batch)
            if (step + 1) % config.stats_every == 0 or step + 1 == steps:
                total = accelerator.reduce(sums.clone(), "sum").cpu()
                sums.zero_()
                _log(accelerator, out, bar, step + 1, seen, total, learning_rate(config, step, steps))
            if main and ((step + 1) % config.checkpoint_every == 0 or step + 1 == steps):
                checkpoints.save(step + 1, seconds + time.perf_counter() - started, prior, ema, optimizer)
    except KeyboardInterrupt:
        at = checkpoints.all()[-1].name if checkpoints.all() else "the start"
        sys.exit(f"\nStopped at step {step}; the same command resumes from {at}.")
    finally:
        bar.close()
    accelerator.wait_for_everyone()
    if main:
        _finish(config, out, prior, ema, samples, held_out, steps)
    accelerator.end_training()
    return out / "prior"


def _finish(config, out, prior, ema, samples, held_out, steps) -> None:
    """Write the averaged weights, the configuration and the model card."""
    prior.load_state_dict(ema)
    prior.eval().requires_grad_(False)
    seconds = json.loads((Checkpoints(out).all()[-1] / "state.json").read_text())["seconds"]
    metrics = denoising_psnr(prior, held_out, config.crop)
    card = model_card(config.name, dataclasses.asdict(config), samples, steps, seconds, metrics)
    prior.save(out / "prior", card, dtype=torch.float16)
    print(f"The prior is in {out / 'prior'}: ambient-solve info {out / 'prior'}")


def _remember(config: Config, out: Path, main: bool) -> None:
    """Keep the configuration in the run's folder, and refuse to go on with another one."""
    ignored = ("dry_run", "data_root", "out")
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in ignored}
    path = out / "run.json"
    text = json.dumps(settings, indent=2)
    if path.is_file() and path.read_text() != text:
        raise AmbientSolveError(f"{out} holds a run with another configuration ({path}). Choose another --out, or delete it.")
    if main and not path.is_file():
        out.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _trim(path: Path, step: int, main: bool) -> None:
    """Drop statistics later than the checkpoint: they will be written again."""
    if main and path.is_file():
        rows = [line for line in path.read_text().splitlines() if json.loads(line)["step"] <= step]
        path.write_text("".join(row + "\n" for row in rows))


def _log(accelerator, out, bar, step, seen, total, lr) -> None:
    loss, count = total
    names = [f"<={b}" for b in BUCKETS] + [f">{BUCKETS[-1]}"]
    buckets = {n: float(s / c) for n, s, c in zip(names, loss, count, strict=True) if c > 0}
    row = {"step": step, "images": seen, "loss": float(loss.sum() / count.sum()), "lr": lr, "buckets": buckets}
    if accelerator.is_main_process:
        with (out / "stats.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        bar.set_postfix(loss=f"{row['loss']:.4f}")
    accelerator.log({"loss": row["loss"], "lr": lr, **{f"loss {n}": v for n, v in buckets.items()}}, step=step)


def _has_tensorboard() -> bool:
    from accelerate.utils import is_tensorboard_available

    return is_tensorboard_available()


def main() -> None:
    """Entry point: bad input is one sentence and exit code 2."""
    try:
        config = read_config(sys.argv[1:])
        if config.dry_run:
            print(yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(config))), sort_keys=False))
            return
        train(config)
    except AmbientSolveError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
