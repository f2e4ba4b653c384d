"""Algorithms, tasks, pictures and priors: a row of numbers for each combination, and the averages of the rows.

    jobs = plan_trials({"photos": load_prior("photos")}, arms, tasks, pictures, samples=8, seed=0)
    for row in measure_all(jobs, "out", Metrics()):
        print(row["task"], row["algorithm"], row["mean"]["psnr"])
    lines = averages(jobs, merge(jobs, "out", Metrics()))

A row is known by the content of what it measures (weights, knobs, operator, picture, seed, samples), so that nothing
is measured twice, whatever it is called. Its noise follows from that content alone: the rows are the same in any order
and from any number of processes, each of which writes a file of its own.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from deepinv.physics import Inpainting, Physics
from torch import Tensor

from ambient_solve.algorithms.base import Algorithm
from ambient_solve.errors import AmbientSolveError, Diverged, own_words_for_misfit
from ambient_solve.evaluate.calibration import coverage
from ambient_solve.evaluate.metrics import Metrics, variance_and_error
from ambient_solve.evaluate.trials import Trial
from ambient_solve.results import Restoration
from ambient_solve.saving import save_png

ROWS = "rows.jsonl"
"""File name of the results, a row for each job."""
PICTURES = "pictures"
"""Folder name of the pictures that are shown."""
LEVEL = 0.9
"""Probability of the interval whose coverage is measured."""
LEAST = 19
"""Fewest samples that such an interval takes."""
Row = dict[str, Any]


def measure_all(
    jobs: Sequence[Trial],
    out: str | Path,
    metrics: Metrics,
    *,
    rank: int = 0,
    world: int = 1,
    at_once: int | None = None,
) -> Iterator[Row]:
    """Measure the jobs whose rows are not stored yet.

    Args:
        jobs: What to measure; process `rank` takes every `world`-th job.
        out: Folder of the rows; each process appends to a file of its own.
        metrics: What to measure.
        rank: Number of this process, 0 to `world - 1`.
        world: Processes that share the jobs.
        at_once: Samples to draw together; all by default.

    Yields:
        Each row, once it is on disk.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    path = out / (ROWS if world == 1 else f"rows-{rank}.jsonl")
    known = read_rows(out)
    _mend(path)
    for job in list({job.key: job for job in jobs}.values())[rank::world]:
        if is_measured(job, known, metrics):
            continue
        row, result = measure(job, metrics, at_once)
        if job.picture.shown:
            save_pictures(job, result, out / PICTURES)
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        yield row


def is_measured(job: Trial, known: Mapping[str, Row], metrics: Metrics) -> bool:
    """Whether a job is done.

    Args:
        job: The job.
        known: Stored rows by the key of their job.
        metrics: What is asked for.

    Returns:
        True where its row is stored with every metric.
    """
    return job.key in known and set(metrics.names) <= set(known[job.key]["mean"])


def measure(job: Trial, metrics: Metrics, at_once: int | None = None) -> tuple[Row, Restoration]:
    """Run one job and measure its samples.

    Args:
        job: The job.
        metrics: What to measure.
        at_once: Samples to draw together; all by default, and always where they interact.

    Returns:
        Its row, and the restoration it was measured on.
    """
    y, x, S = job.measurement(), job.picture.x, job.samples
    # The sampler's noise is that of the picture, not the same in all pictures: their errors must be independent.
    together = isinstance(job.arm.method, Algorithm) and job.arm.method.interacting
    seed = int(job.measured[8:16], 16)
    at_once = None if together else at_once
    try:
        with own_words_for_misfit():  # the table has a column
            result = job.solver(y).solve(y, job.op, n_samples=S, seed=seed, at_once=at_once, progress=False)
    except Diverged:  # a row without numbers: the other jobs go on
        nothing = torch.full((1, S, *x.shape), torch.nan)
        result = Restoration(nothing, nothing.flatten(2)[..., 0], 0, 0, math.nan, {})
    samples = result.samples[0].cpu()
    learned = job.prior is not None
    V, B = variance_and_error(samples, x) if S > 1 else (math.nan, math.nan)
    row = {
        "key": job.key,
        "task": job.task.label,
        "algorithm": job.arm.label,
        "prior": job.prior_label,
        "image": job.picture.name,
        "seed": job.seed,
        "samples": S,
        "entries": x.numel(),
        "mean": metrics(samples.mean(0), x),
        "sample": metrics(samples[0], x) if learned else {},
        "chi2": float(result.chi2.mean()),
        "V": V,
        "B": B,
        "coverage": coverage(samples[None], x[None], LEVEL) if S >= LEAST else math.nan,
        "seconds": result.seconds,
        "network_calls": result.network_calls,
        "vjps": result.vjps,
        "settings": {"arm": job.arm.settings, "task": job.task.settings, "run": result.settings},
    }
    return _plain(row), result


def save_pictures(job: Trial, result: Restoration, folder: Path) -> None:
    """Write the truth, the measurement, the mean, the first sample and the standard deviation, white at its largest.

    Args:
        job: The job.
        result: Its restoration.
        folder: Where to; it is made if need be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_png(job.picture.x, folder / f"{job.measured}-truth.png")
    save_png(as_picture(job.measurement(), job.op), folder / f"{job.measured}-damaged.png")
    save_png(result.mean[0], folder / f"{job.key}-mean.png")
    if job.prior is not None:
        save_png(result.samples[0, 0], folder / f"{job.key}-sample.png")
    if job.samples > 1:
        std = result.std[0].mean(0, keepdim=True)
        save_png(std / std.max().clamp_min(1e-12), folder / f"{job.key}-std.png")


def as_picture(y: Tensor, op: Physics) -> Tensor:
    """The first measurement of a batch as a picture: missing pixels black, a small one enlarged by repeating pixels.

    Args:
        y: Measurement, (B, C, h, w).
        op: The operator.

    Returns:
        (C, H, W), on the CPU.
    """
    y = (y * op.mask if isinstance(op, Inpainting) else y)[0].cpu()
    size = tuple(op.img_size[-2:])
    return y if y.shape[-2:] == size else torch.nn.functional.interpolate(y[None], size=size, mode="nearest")[0]


def read_rows(out: str | Path) -> dict[str, Row]:
    """All rows of a folder by their key, those of every process. A last line without its end is not there yet."""
    known: dict[str, Row] = {}
    # The merged rows last: what another process merges meanwhile is then read there, if no more where it was.
    for path in [*sorted(Path(out).glob("rows-*.jsonl")), Path(out) / ROWS]:
        try:
            *lines, _ = path.read_text().split("\n")
        except FileNotFoundError:
            continue
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                key, names = row["key"], row["mean"]
            except (ValueError, KeyError, TypeError):
                raise AmbientSolveError(f"Line {number} of {path} is no row of a benchmark: remove it.") from None
            if key not in known or len(names) >= len(known[key]["mean"]):
                known[key] = row
    return known


def merge(jobs: Sequence[Trial], out: str | Path, metrics: Metrics) -> list[Row] | None:
    """The rows of a benchmark, collected from all processes into one file.

    Two processes that finish together write the same.

    Args:
        jobs: The jobs of all processes.
        out: Folder of the rows; the files of single processes are removed.
        metrics: What was asked for.

    Returns:
        The rows in the order of `jobs`; None where some are not measured yet.
    """
    out, known = Path(out), read_rows(out)
    if not all(is_measured(job, known, metrics) for job in jobs):
        return None
    keys = list(dict.fromkeys(job.key for job in jobs))
    keys += sorted(known.keys() - set(keys))
    write_whole(out / ROWS, "".join(json.dumps(known[key]) + "\n" for key in keys))
    for path in out.glob("rows-*.jsonl"):
        path.unlink(missing_ok=True)
    return [known[job.key] for job in jobs]


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Args:
        path: The file.
        text: What it holds afterwards.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}")
    part.write_text(text)
    os.replace(part, path)


def averages(jobs: Sequence[Trial], rows: Sequence[Row]) -> list[Row]:
    """The averages of a benchmark, one line for each task, method and prior.

    `V/B` and the coverage are those of all pictures together; the seconds are the median. A metric that a row lacks is
    left out, and NaN where a picture gave no number.

    Args:
        jobs: The jobs.
        rows: Their rows, in the same order.

    Returns:
        Lines: means over the pictures, with their standard errors (`_se`).
    """
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for job, row in zip(jobs, rows, strict=True):
        groups.setdefault((job.task.label, job.arm.label, job.prior_label), []).append(row)
    lines = []
    for (task, arm, prior), group in groups.items():
        line: Row = {"task": task, "algorithm": arm, "prior": prior, "pictures": len(group)}
        line["samples"] = group[0]["samples"]
        for metric in ("psnr", "ssim", "lpips"):
            for kind in ("mean", "sample"):
                if all(metric in row[kind] for row in group):
                    line |= _mean(f"{metric}_{kind}", [_number(row[kind][metric]) for row in group])
        line |= _mean("chi2", [_number(row["chi2"]) for row in group])
        if all(row["samples"] > 1 for row in group):
            V, B = (sum(row["entries"] * _number(row[name]) for row in group) for name in ("V", "B"))
            line["V/B"] = math.inf if B <= 0 else V / B
        if all(row["samples"] >= LEAST for row in group):
            covered = sum(row["entries"] * _number(row["coverage"]) for row in group)
            line["coverage"] = covered / sum(row["entries"] for row in group)
        line["seconds"] = median(row["seconds"] for row in group)
        for name in ("network_calls", "vjps"):
            line[name] = sum(row[name] for row in group) / len(group)
        lines.append(line)
    return lines


def _mean(name: str, values: list[float]) -> dict[str, float]:
    n, mean = len(values), sum(values) / len(values)
    error = math.sqrt(sum((v - mean) ** 2 for v in values) / (n * (n - 1))) if n > 1 else math.nan
    return {name: mean, f"{name}_se": error}


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _plain(value: Any) -> Any:
    """What JSON holds; a number that is none becomes null."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _mend(path: Path) -> None:
    """Cut off a last line that was interrupted before its end: the next row would be glued to it."""
    if path.is_file():
        with path.open("r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)
