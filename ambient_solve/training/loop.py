"""Train a diffusion prior from the data that there are: clean, noisy, masked, blurred, any mixture.

    accelerate launch trainers/train.py --config trainers/configs/photos.yaml --out runs/photos
    python trainers/train.py --config trainers/configs/photos.yaml --out runs/photos --images 64000
    torchrun --nproc_per_node 2 trainers/train.py --config trainers/configs/photos.yaml --out runs/photos

Several processes on CPUs are started by torchrun: without MPI, `accelerate launch --cpu --num_processes 2` starts one.

The same command resumes an interrupted run, bit for bit: every batch and its noise are functions of (seed, step), and
model, EMA, optimiser and step are checkpointed together. One run at a time may write to OUT; the finished prior is in
OUT/prior.
"""

from __future__ import annotations

import math
import os
import sys
import time
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedType
from tqdm import tqdm

from ambient_solve.data.loader import Levels, Loader
from ambient_solve.objectives.denoise import buffer
from ambient_solve.training.checkpoints import (
    Checkpoints,
    Statistics,
    agree_on,
    refuse_another_run,
    remember,
    stored_form,
    tracker,
)
from ambient_solve.training.config import NOT_SETTINGS, Config, check, settings_of
from ambient_solve.training.export import write_prior
from ambient_solve.training.launch import missing_processes
from ambient_solve.training.locks import only_run_among
from ambient_solve.training.sources import read_data, refuse_unsuited
from ambient_solve.training.validation import held_out_loss, sample_sheet
from ambient_solve.training.weights import about_arithmetic, arithmetic, averaged, compiles, starting_prior


def learning_rate(config: Config, step: int, steps: int) -> float:
    """The learning rate of a step: a linear warm-up, then what `config.schedule` says.

    Args:
        config: Of the run.
        step: From 0.
        steps: Of the whole run.

    Returns:
        0 to `config.lr`.
    """
    seen = (step + 1) * config.batch
    rise = min(1.0, seen / max(config.warmup, 1))
    fall = {
        "cosine": 0.5 * (1 + math.cos(math.pi * step / steps)),
        "constant": 1.0,
        "inverse_sqrt": 1 / math.sqrt(max(1.0, seen / config.decay)),
    }
    return config.lr * rise * fall[config.schedule]


def train(config: Config) -> Path:
    """Run, or resume, a training; a resumed run is bit-identical to an uninterrupted one.

    Args:
        config: All of the run.

    Returns:
        The folder of the finished prior, OUT/prior.

    Raises:
        AmbientSolveError: settings or data that cannot work, or a folder with a run of other settings.
    """
    check(config, 1)
    accelerator = Accelerator(
        mixed_precision="no",  # the prior chooses bfloat16 for its network itself: all else stays float32
        gradient_accumulation_steps=config.accumulate,
        log_with=tracker(config.tracker),
        project_dir=config.out,
    )
    check(config, accelerator.num_processes)
    with only_run_among(accelerator, Path(config.out)):
        return _train(config, accelerator)


def _train(config: Config, accelerator: Accelerator) -> Path:
    out, main = Path(config.out), accelerator.is_main_process
    settings = {k: v for k, v in settings_of(config).items() if k not in NOT_SETTINGS}
    refuse_another_run(out, settings)
    torch.manual_seed(config.seed)

    data = read_data(config, main)
    refuse_unsuited(config.objective, data.samples)
    sharded = accelerator.distributed_type == DistributedType.FSDP
    prior = starting_prior(config, data.keep_probability(config.objective), accelerator.device, sharded)
    if compiles(config, accelerator.device, accelerator.num_processes):
        accelerator.print("The network is compiled at the first step, which takes a minute or more.", file=sys.stderr)
        prior.network.compile()
    spec = Levels(config.level_mean, config.level_std, prior.sigma_min, prior.sigma_max)
    loader = Loader(
        data.samples,
        data.share,
        spec,
        crop=config.crop,
        buffer=buffer(config.s_max),
        batch=config.batch,
        seed=config.seed,
        below=config.objective.below,
        flat=config.flat,
    )
    fused = accelerator.device.type in ("cpu", "cuda")
    optimizer = torch.optim.AdamW(prior.parameters(), lr=config.lr, betas=(0.9, 0.99), weight_decay=0.0, fused=fused)
    model, optimizer = accelerator.prepare(prior, optimizer)
    ema = {k: v.detach().clone() for k, v in prior.state_dict().items()}
    checkpoints = Checkpoints(out, main)
    first, seconds = checkpoints.load(prior, ema, optimizer)
    agree_on(first, accelerator)
    remember(out, settings, main)
    said = [missing_processes(os.environ, accelerator.num_processes)]
    said += [about_arithmetic(config.precision, accelerator.device)]
    accelerator.print(*filter(None, said), sep="\n", file=sys.stderr)
    if accelerator.log_with:
        accelerator.init_trackers("ambient_solve")

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
            keep = config.ema.keep(step, config.batch)
            torch._foreach_lerp_(list(ema.values()), [v.detach() for v in prior.state_dict().values()], 1 - keep)
            bar.update(config.batch)
            done, last = step + 1, step + 1 == steps
            if done % config.stats_every == 0 or last:
                held_out = {}
                if config.validate_every and (done % config.validate_every == 0 or last):
                    with averaged(prior, ema):
                        held_out = held_out_loss(prior, config, data)
                        if not sharded:
                            sample_sheet(prior, config, out / f"samples-{done}.png", accelerator)
                loss = statistics.write(done, done * config.batch, learning_rate(config, step, steps), held_out)
                bar.set_postfix(loss=f"{loss:.4f}")
            if done % config.checkpoint_every == 0 or last:
                checkpoints.save(done, seconds + time.perf_counter() - started, prior, ema, optimizer)
    except KeyboardInterrupt:
        at = checkpoints.all()[-1].name if checkpoints.all() else "the start"
        sys.exit(f"\nStopped at step {step}; the same command resumes from {at}.")
    finally:
        bar.close()
    averages = stored_form(ema)
    accelerator.wait_for_everyone()
    if main:
        step, seconds = checkpoints.state()
        write_prior(config, averages, step, seconds, data, arithmetic(config.precision, accelerator.device))
    accelerator.end_training()
    return out / "prior"
