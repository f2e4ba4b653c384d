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
    learned,
    refuse_another_run,
    remember,
    stored_form,
    tracker,
)
from ambient_solve.training.compiling import compiles
from ambient_solve.training.config import NOT_SETTINGS, Config, check, diffusion_streams, law_of, settings_of
from ambient_solve.training.export import write_prior
from ambient_solve.training.holding import share_held_out
from ambient_solve.training.inventory import refuse_other_data, remember_data
from ambient_solve.training.launch import missing_processes
from ambient_solve.training.locks import only_run_among
from ambient_solve.training.optimizer import made_optimizer
from ambient_solve.training.process import fitted_process
from ambient_solve.training.progress import Shown, denoised_picture, write_progress
from ambient_solve.training.report import PROGRESS, about_data, about_files, about_levels, about_start, remember_length
from ambient_solve.training.schedule import learning_rate, steps_of, validates
from ambient_solve.training.sources import read_data, refuse_noisy, refuse_unsuited
from ambient_solve.training.stages import current_stage, past_validations
from ambient_solve.training.stopping import Stopping
from ambient_solve.training.validation import held_out_loss, sample_sheet
from ambient_solve.training.weights import about_arithmetic, arithmetic, averaged, starting_prior


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
    settings["held_out"] = share_held_out(config)
    shorter = refuse_another_run(out, settings, grows="images")
    torch.manual_seed(config.seed)

    data = read_data(config, main)
    accelerator.print(*data.notes, sep="\n", end="\n" if data.notes else "", file=sys.stderr)
    refuse_other_data(out, data.inventories)
    refuse_unsuited(config.objective, data.samples)
    sharded = accelerator.distributed_type == DistributedType.FSDP
    soft = fitted_process(config, data.samples)
    prior = starting_prior(config, data.keep_probability(config.objective), accelerator.device, sharded, soft)
    objective = config.objective.of_process(prior.process)
    if compiles(config, accelerator.device, accelerator.num_processes):
        accelerator.print("The network is compiled at the first step, which takes a minute or more.", file=sys.stderr)
        prior.network.compile()
    if law_of(config) is not None:
        refuse_noisy(data.samples)
    spec = Levels(config.level_mean, config.level_std, prior.sigma_min, prior.sigma_max)
    loaders = [
        Loader(
            [s for s, own in zip(data.samples, data.stage, strict=True) if own == stage],
            data.share[data.stage == stage],
            spec,
            crop=config.crop,
            buffer=buffer(config.s_max),
            batch=config.batch,
            seed=config.seed,
            below=config.objective.below or bool(config.init),
            flat=config.flat,
            mirror=config.mirror,
        )
        for stage in range(int(data.stage.max(initial=0)) + 1)
    ]
    optimizer = made_optimizer(prior, config.lr, config.tuning.eight_bit, accelerator.device)
    model, optimizer = accelerator.prepare(prior, optimizer)
    ema = {k: v.detach().clone() for k, v in learned(prior).items()}
    checkpoints = Checkpoints(out, main)
    first, seconds = checkpoints.load(prior, ema, optimizer)
    agree_on(first, accelerator)
    if main:
        remember_length(out, first, shorter)
    remember(out, settings, main)
    remember_data(out, data.inventories, main)
    if accelerator.log_with:
        accelerator.init_trackers("ambient_solve")
    said = [about_data(config, data), about_arithmetic(config.precision, accelerator.device)]
    said += [missing_processes(os.environ, accelerator.num_processes)]
    said += [about_levels(config, min(loader.lowest for loader in loaders), prior.sigma_min)]
    said += [about_files(config, [t.name for t in accelerator.trackers]), about_start(config, first, shorter)]
    accelerator.print(*filter(None, said), sep="\n", file=sys.stderr)

    steps = steps_of(config)
    rows_each = config.batch // (accelerator.num_processes * config.accumulate)
    statistics = Statistics(out / "stats.jsonl", accelerator)
    statistics.trim(first)
    statistics.go_on(checkpoints.sums())
    accelerator.wait_for_everyone()
    validations = past_validations(out / "stats.jsonl")
    bar = tqdm(total=steps * config.batch, initial=first * config.batch, unit="img", disable=not main, desc=config.name)
    started = time.perf_counter()
    step = first
    try:
        with Stopping(accelerator.num_processes) as stopping:
            for step in range(first, steps):
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(config, step, steps)
                for micro in range(config.accumulate):
                    at = (micro * accelerator.num_processes + accelerator.process_index) * rows_each
                    loader = loaders[current_stage(validations, len(loaders))]
                    batch, streams = loader(step, slice(at, at + rows_each))
                    streams = diffusion_streams(config, streams)
                    with accelerator.accumulate(model):
                        losses = objective.loss(model, batch.to(accelerator.device), streams)
                        accelerator.backward(losses.mean())
                        if accelerator.sync_gradients:
                            accelerator.clip_grad_norm_(model.parameters(), config.clip)
                        optimizer.step()
                        optimizer.zero_grad()
                    statistics.add(batch.sigma, losses.detach())
                keep = config.ema.keep(step, config.batch)
                torch._foreach_lerp_(list(ema.values()), [v.detach() for v in learned(prior).values()], 1 - keep)
                bar.update(config.batch)
                done, last = step + 1, step + 1 == steps
                if done % config.stats_every == 0 or last:
                    held_out, samples, shown = {}, None, Shown()
                    if validates(config, done, steps):
                        with averaged(prior, ema):
                            held_out = held_out_loss(prior, config, data)
                            validations += [held_out] if held_out else []
                            if not sharded:
                                samples = sample_sheet(prior, config, out / f"samples-{done}.png", accelerator)
                                shown = denoised_picture(prior, config, data)
                    loss = statistics.write(done, done * config.batch, learning_rate(config, step, steps), held_out)
                    if main and validates(config, done, steps):
                        write_progress(out / PROGRESS, config, samples, shown)
                    bar.set_postfix(loss=f"{loss:.4f}")
                if done % config.checkpoint_every == 0 or last or stopping.asked:
                    spent = seconds + time.perf_counter() - started
                    checkpoints.save(done, spent, prior, ema, optimizer, statistics.unwritten)
                if stopping.asked and not last:
                    accelerator.end_training()
                    sys.exit(f"\nStopped after step {done} of {steps}; the same command goes on there.")
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
