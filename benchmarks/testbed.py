"""The baselines of the testbed: what eleven ways to curate a pool are worth, and what a bad picture is.

    python benchmarks/testbed.py pool --domain photographs --out runs/testbed
    python benchmarks/testbed.py arms --domain photographs --scale xxs --out runs/testbed
    python benchmarks/testbed.py worth --domain photographs --scale xxs --out runs/testbed
    python benchmarks/testbed.py table --out runs/testbed

Each arm is an entry that `ambient-solve testbed train` and `score` take, and `table` prints what they came to, the
agreement of scales, and the worth of a picture. `--minutes` ends a call early; the same call goes on.

- *everything-as-clean*; *random-subset*, as many pictures as are clean; *stated-clean*, those said to be clean;
- *oracle-clean* and *oracle-levels* know the truth: the clean pictures alone, and all with the noise that they hold or
  the levels of Ambient Omni for their damage at 32 pixels (arXiv 2506.10038);
- *de-duplication* leaves one of each group of near-duplicates; *sharpness-filter* keeps the sharper half;
- *classifier-filter* keeps the three tenths that look most like those stated to be clean, by a logistic regression on
  the power in eight bands of frequency, the estimated noise and the range;
- *noise-estimate* gives each picture the noise that is estimated from it alone;
- *held-out-loss* groups pictures by what can be seen of them (noisy, soft, odd), and gives each group the level above
  which training with it does not worsen the loss on held-out pictures that are stated to be clean;
- *changing-admission* begins with everything, goes on with the table of held-out-loss and ends with what that takes for
  clean; each stage ends when the loss on held-out pictures rises at some level.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor

from ambient_solve.cli.testbed import is_scored, pool_command, score_seed, train_seed
from ambient_solve.data.duplicates import duplicate_groups
from ambient_solve.data.sample import Sample
from ambient_solve.data.seeds import generator
from ambient_solve.restore.estimate import noise_level
from ambient_solve.testbed import score
from ambient_solve.testbed.board import markdown
from ambient_solve.testbed.entry import Choice, read_entry, write_entry
from ambient_solve.testbed.intervals import mean_interval, paired_interval, rank_agreement
from ambient_solve.testbed.pool import Pool, read_pool, read_truth
from ambient_solve.testbed.prepare import entry_of_run, write_data
from ambient_solve.testbed.recipe import RECIPES
from ambient_solve.training.annotate import HeldOutLoss

ADDED = 0.3
"""Noise that is added to find out by how much the estimate is too low, in units of z."""
NOISY = 0.1
"""Estimated noise, in units of z, from which a picture counts as noisy; well above what clean ones seem to hold."""
KEPT = 0.3
"""Share of the pictures that the classifier keeps."""
STEPS = 150
"""Steps of each of the small networks of held-out-loss."""
HELD_OUT = 12
"""Pictures that end the stages of changing-admission."""
LEVELS = {"gaussian-blur": {0.8: 1.89, 1.2: 2.5}, "jpeg": {10: 1.8, 25: 1.27}, "downsampling": {2: 1.9}}
"""sigma_min of a damage by its strength: arXiv 2506.10038 at 32 pixels, and the nearest where it has none."""
FOREIGN = 0.15
"""sigma_max of pictures of another domain: below it small contexts suffice."""
CURVE = (0.25, 0.5, 1.0)
"""Shares of the clean pictures alone, by which worth is read off; bad pictures are added to the middle one."""
MIDDLE = 0.5


@cache
def noise_of(pool: Pool) -> np.ndarray:
    """Noise estimated from each picture alone, in units of z.

    Of pictures as small as these the estimate is too low, by a factor that noise added to those
    stated to be clean shows.
    """

    def estimate(z: Tensor) -> float:
        return 2 * float(noise_level((z.float()[None] + 1) / 2)[0])

    trusted = [s.z.float() for s in pool.samples if pool.stated[s.name] == "clean"]
    rng, ratios = generator(15), []
    for z in trusted:
        noise = torch.from_numpy(rng.standard_normal(tuple(z.shape))).float()
        ratios.append(ADDED / max(estimate(z + ADDED * noise), 1e-3))
    return float(np.median(ratios)) * np.array([estimate(s.z) for s in pool.samples])


def sharpness(samples: Sequence[Sample]) -> np.ndarray:
    """Variance of the Laplacian of each picture, over its own variance."""
    found = []
    for s in samples:
        x = s.z.float().numpy().mean(0)
        edges = 4 * x[1:-1, 1:-1] - x[:-2, 1:-1] - x[2:, 1:-1] - x[1:-1, :-2] - x[1:-1, 2:]
        found.append(edges.var() / (x.var() + 1e-3))
    return np.array(found)


@cache
def likeness(pool: Pool) -> np.ndarray:
    """How much each picture looks like those that are stated to be clean: the probability of a logistic regression."""
    features = []
    for s in pool.samples:
        x = s.z.float().numpy().mean(0)
        power = np.abs(np.fft.fft2(x - x.mean())) ** 2
        f = np.hypot(*np.meshgrid(np.fft.fftfreq(len(x)), np.fft.fftfreq(len(x))))
        bands = [np.log(power[(f > lo) & (f <= lo + 0.0625)].mean() + 1e-6) for lo in np.arange(0, 0.5, 0.0625)]
        features.append([*bands, x.mean(), x.std(), np.abs(x).max()])
    x = np.column_stack([np.array(features), np.log(noise_of(pool) + 1e-3)])
    x = np.column_stack(
        [(x - x.mean(0)) / x.std(0).clip(1e-9), ((x - x.mean(0)) / x.std(0).clip(1e-9)) ** 2, 0 * x[:, :1] + 1]
    )
    y = np.array([pool.stated[s.name] == "clean" for s in pool.samples])
    weight = np.where(y, 0.5 / y.mean(), 0.5 / (1 - y.mean()))

    def loss(w: np.ndarray) -> float:
        return float((weight * np.logaddexp(0, np.where(y, -1, 1) * (x @ w))).mean() + 0.01 * w @ w)

    return expit(x @ minimize(loss, np.zeros(x.shape[1]), method="L-BFGS-B").x)


def everything(pool: Pool, folder: Path) -> list[Choice]:
    return [Choice(s.name) for s in pool.samples]


def random_subset(pool: Pool, folder: Path) -> list[Choice]:
    order = generator(13).permutation(len(pool.samples))[: pool.record["kinds"]["clean"]]
    return [Choice(pool.samples[i].name) for i in order]


def stated_clean(pool: Pool, folder: Path) -> list[Choice]:
    return [Choice(name) for name, stated in pool.stated.items() if stated == "clean"]


def oracle_clean(pool: Pool, folder: Path) -> list[Choice]:
    return [Choice(name) for name, row in read_truth(pool).rows.items() if row["kind"] == "clean"]


def oracle_levels(pool: Pool, folder: Path) -> list[Choice]:
    return [oracle_choice(name, row) for name, row in read_truth(pool).rows.items()]


def oracle_choice(name: str, row: dict) -> Choice:
    """How a picture is used whose truth is known."""
    if row["kind"] == "foreign":
        return Choice(name, sigma_min=float("inf"), sigma_max=FOREIGN)
    strength = next((row["parameters"][k] for k in ("width", "quality", "factor") if k in row["parameters"]), None)
    level = LEVELS.get(row["damage"], {}).get(strength, 0.0)
    return Choice(name, 0.5 if row["kind"] == "duplicate" else 1.0, row["sigma_noise"], level)


def de_duplication(pool: Pool, folder: Path) -> list[Choice]:
    pictures = [(s.name, ((s.z.float() + 1) * 127.5).round().clamp(0, 255).byte()) for s in pool.samples]
    again = {name for group in duplicate_groups(pictures) for name in group[1:]}
    return [Choice(s.name) for s in pool.samples if s.name not in again]


def sharpness_filter(pool: Pool, folder: Path) -> list[Choice]:
    score = sharpness(pool.samples)
    return [Choice(s.name) for s, v in zip(pool.samples, score, strict=True) if v >= np.median(score)]


def classifier_filter(pool: Pool, folder: Path) -> list[Choice]:
    score = likeness(pool)
    least = np.quantile(score, 1 - KEPT)
    return [Choice(s.name) for s, v in zip(pool.samples, score, strict=True) if v >= least]


def noise_estimate(pool: Pool, folder: Path) -> list[Choice]:
    found = noise_of(pool)
    return [
        Choice(s.name, sigma_noise=float(v) if v > NOISY else 0.0) for s, v in zip(pool.samples, found, strict=True)
    ]


def held_out_loss(pool: Pool, folder: Path) -> list[Choice]:
    noise, sharp, alike = noise_of(pool), sharpness(pool.samples), likeness(pool)
    trusted = np.array([pool.stated[s.name] == "clean" for s in pool.samples]) & (noise <= NOISY)
    trusted &= alike >= np.quantile(alike[trusted], 0.25)
    group = np.where(noise > NOISY, "noisy", np.where(sharp < np.quantile(sharp[trusted], 0.25), "soft", "plain"))
    group = np.where((group == "plain") & (alike < np.quantile(alike[trusted], 0.1)), "odd", group)
    group = np.where(trusted, "clean", group)
    levels = np.where(noise > NOISY, noise, 0.0)
    samples = [
        replace(s, damage=str(g), sigma_noise=float(v)) for s, g, v in zip(pool.samples, group, levels, strict=True)
    ]
    few = {g for g in set(group) if (group == g).sum() < 4}
    method = HeldOutLoss(steps=STEPS, batch=16, width=8, levels=8, highest=4.0, held_out=0.35)
    rows = {row.name: row for row in method.annotate([s for s in samples if s.damage not in few], folder / "held-out")}
    found = []
    for s in samples:
        row = rows.get(s.name)
        found.append(Choice(s.name, 0.0) if row is None else Choice(s.name, 1.0, s.sigma_noise, row.sigma_min))
    return found


def changing_admission(pool: Pool, folder: Path) -> list[Choice]:
    table = held_out_loss(pool, folder)
    plain = [c for c in table if c.weight and not c.sigma_noise and not c.sigma_min]
    alike = dict(zip((s.name for s in pool.samples), likeness(pool), strict=True))
    apart = [c.id for c in plain if pool.stated[c.id] == "clean"]
    apart = set(sorted(apart, key=lambda name: -alike[name])[: 2 * HELD_OUT : 2])
    first = [Choice(s.name, held_out=s.name in apart) for s in pool.samples]
    second = [replace(c, stage=1, weight=0.0 if c.id in apart else c.weight) for c in table]
    return [*first, *second, *(replace(c, stage=2) for c in plain if c.id not in apart)]


ARMS: dict[str, tuple[str, Callable[[Pool, Path], list[Choice]]]] = {
    "everything-as-clean": ("select", everything),
    "random-subset": ("select", random_subset),
    "stated-clean": ("select", stated_clean),
    "oracle-clean": ("select", oracle_clean),
    "oracle-levels": ("annotate", oracle_levels),
    "de-duplication": ("select", de_duplication),
    "sharpness-filter": ("select", sharpness_filter),
    "classifier-filter": ("select", classifier_filter),
    "noise-estimate": ("annotate", noise_estimate),
    "held-out-loss": ("annotate", held_out_loss),
    "changing-admission": ("annotate", changing_admission),
}


def worth_arms(pool: Pool) -> dict[str, list[Choice]]:
    """A few clean pictures alone, and the middle number of them with all pictures of one kind, at their true levels."""
    truth = read_truth(pool).rows
    clean = sorted(name for name, row in truth.items() if row["kind"] == "clean")
    clean = [clean[i] for i in generator(14).permutation(len(clean))]
    arms = {f"clean-{round(s * len(clean))}": [Choice(n) for n in clean[: round(s * len(clean))]] for s in CURVE}
    base = [Choice(n) for n in clean[: round(MIDDLE * len(clean))]]
    for kind in pool.record["kinds"]:
        rows = [(n, row) for n, row in truth.items() if row["kind"] == kind]
        if kind not in ("clean", "mislabeled"):
            arms[f"with-{kind}"] = base + [oracle_choice(n, row) for n, row in rows]
    return arms


def filled(rows: Sequence[Choice], pool: Pool) -> list[Choice]:
    """A table with a row for every picture, those that it lacks with weight 0."""
    known = {c.id for c in rows}
    return [*rows, *(Choice(s.name, 0.0) for s in pool.samples if s.name not in known)]


def headlines(run: Path) -> dict[int, float]:
    """The headline of each seed that is scored."""
    found = sorted(run.glob("seed-*/score.json"))
    return {int(p.parent.name[5:]): json.loads(p.read_text())["row"]["headline"] for p in found}


def tables_of(pool: Pool, folder: Path, worth: bool) -> dict[str, tuple[str, Path]]:
    """The table of each arm, with its track; written once."""
    arms = {n: ("annotate", lambda p, f, rows=r: rows) for n, r in worth_arms(pool).items()} if worth else ARMS
    found = {}
    for name, (track, make) in arms.items():
        path = folder / f"{name}.jsonl"
        if not path.is_file():
            rows = make(pool, folder)
            write_entry(path, filled(rows, pool) if track == "annotate" else rows)
        found[name] = track, path
    return found


def run_arms(
    out: Path, domain: str, scale: str, seeds: int, minutes: float, worth: bool, jobs: int, full: bool
) -> None:
    """Train and score every arm, one seed after another, until the time is over; so many at once."""
    end, folder = time.time() + 60 * minutes, out / domain
    pool, recipe = read_pool(folder / "pool"), RECIPES[scale]
    runs = folder / ("worth" if worth else "arms") / scale
    tables = tables_of(pool, folder / "tables", worth)
    for name, (track, table) in tables.items():  # before there are several processes, which would both write them
        write_data(read_entry(table, pool, track), pool, runs / name)
    left = [(s, n) for s in range(min(seeds, recipe.seeds)) for n in tables if not is_scored(runs / n, s)]
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=work, args=(folder / "pool", runs, scale, left[i::jobs], end, full)) for i in range(jobs)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    missing = sum(not is_scored(runs / n, s) for s, n in left)
    print(f"{missing} are left; the same call goes on." if missing else "All is measured.")


def work(folder: Path, runs: Path, scale: str, left: Sequence[tuple[int, str]], end: float, full: bool) -> None:
    """Train and score some seeds of some arms, until the time is over."""
    pool = read_pool(folder)
    truth, recipe = read_truth(pool), RECIPES[scale]
    for seed, name in left:
        if time.time() > end:
            return
        run, started = runs / name, time.time()
        entry = entry_of_run(run, pool)
        with (run / "log.txt").open("a") as log, contextlib.redirect_stderr(log), contextlib.redirect_stdout(log):
            train_seed(recipe, pool, entry, run, seed)
            score_seed(recipe, pool, entry, truth, run, seed, alone=not full)
        print(f"{runs} {name} seed {seed}: {headlines(run)[seed]:.3f}, {time.time() - started:.0f} s", flush=True)


def arms_table(folder: Path, scale: str) -> str:
    """What the arms came to, the best first, each beside everything-as-clean, seed by seed."""
    found = {run.name: headlines(run) for run in sorted((folder / "arms" / scale).glob("*"))}
    found = {name: found[name] for name in ARMS if found.get(name)}
    seeds = sorted(set.intersection(*(set(v) for v in found.values())))
    values = {name: [v[s] for s in seeds] for name, v in found.items()}
    lines = []
    for name in sorted(values, key=lambda n: -np.mean(values[n])):
        mean, low, high = mean_interval(values[name])
        cells = [name, ARMS[name][0], f"{mean:.3f} ({low:.3f} to {high:.3f})"]
        for other in ("everything-as-clean", "oracle-clean"):
            if name == other or other not in values:
                cells.append("")
                continue
            mean, low, high = paired_interval(values[name], values[other], len(values) - 1)
            cells.append(f"{mean:+.3f} ({low:+.3f} to {high:+.3f}){'' if low <= 0 <= high else ' *'}")
        rows = [json.loads((folder / "arms" / scale / name / f"seed-{i}" / "score.json").read_text()) for i in seeds]
        cells += [
            f"{np.mean([row['row']['denoising'][level] for row in rows]):.2f}" for level in rows[0]["row"]["denoising"]
        ]
        lines.append(cells)
    head = ["arm", "track", "headline (dB)", "over everything as clean", "over oracle-clean"]
    head += [f"at {level:g}" for level in score.LEVELS]
    return f"{folder.name}, scale {scale}, {len(seeds)} seeds:\n\n{markdown(head, lines)}"


def agreement(folder: Path, small: str, large: str) -> str:
    """Spearman's correlation of the headlines of the arms at two scales."""
    scales = [{n: h for n in ARMS if (h := headlines(folder / "arms" / scale / n))} for scale in (small, large)]
    names = [n for n in ARMS if all(n in s for s in scales)]
    values = []
    for scale in scales:
        seeds = sorted(set.intersection(*(set(scale[n]) for n in names)))
        values.append(np.array([[scale[n][s] for s in seeds] for n in names]))
    found, low, high = rank_agreement(*values)
    return (
        f"Rank agreement of {small} ({values[0].shape[1]} seeds) and {large} ({values[1].shape[1]} seeds) over "
        f"{len(names)} arms: Spearman {found:.2f} ({low:.2f} to {high:.2f}, bootstrap over the seeds)."
    )


def worth_table(folder: Path, scale: str, resamples: int = 2000) -> str:
    """How many clean pictures a picture of each kind replaces, read off the headlines of clean pictures alone."""
    record = json.loads((folder / "pool" / "pool.json").read_text())
    found = {run.name: headlines(run) for run in (folder / "worth" / scale).glob("*")}
    found = {name: v for name, v in found.items() if v}
    seeds = sorted(set.intersection(*(set(v) for v in found.values())))
    values = {name: np.array([v[s] for s in seeds]) for name, v in found.items()}
    curve = sorted((n for n in values if n.startswith("clean-")), key=lambda n: int(n[6:]))
    numbers = np.log([int(n[6:]) for n in curve])
    middle = int(curve[CURVE.index(MIDDLE)][6:])
    rng, lines = np.random.default_rng(0), []
    draws = [np.arange(len(seeds)), *(rng.integers(len(seeds), size=len(seeds)) for _ in range(resamples))]
    for name in sorted(n for n in values if n.startswith("with-")):
        kind, worth = name[5:], []
        for draw in draws:
            line = np.maximum.accumulate([values[n][draw].mean() for n in curve])
            worth.append((np.exp(_read_off(values[name][draw].mean(), line, numbers)) - middle) / record["kinds"][kind])
        low, high = np.quantile(worth[1:], [0.025, 0.975])
        mean, lower, upper = paired_interval(values[name], values[f"clean-{middle}"])
        lines.append(
            [
                kind,
                str(record["kinds"][kind]),
                f"{mean:+.3f} ({lower:+.3f} to {upper:+.3f})",
                f"{worth[0]:.2f} ({low:.2f} to {high:.2f})",
            ]
        )
    clean = ", ".join(f"{values[n].mean():.3f} dB with {n[6:]}" for n in curve)
    head = ["kind", "pictures", f"gain over {middle} clean alone (dB)", "clean pictures that one replaces"]
    return f"{folder.name}, scale {scale}, {len(seeds)} seeds; clean alone: {clean}.\n\n{markdown(head, lines)}"


def _read_off(value: float, line: np.ndarray, numbers: np.ndarray) -> float:
    """The logarithm of the number of clean pictures that reaches `value`; the curve goes on straight at its ends."""
    at = int(np.clip(np.searchsorted(line, value), 1, len(line) - 1))
    slope = (line[at] - line[at - 1]) / (numbers[at] - numbers[at - 1])
    return float(np.clip(numbers[at - 1] + (value - line[at - 1]) / max(slope, 1e-9), 0, numbers[-1] + np.log(4)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["pool", "arms", "worth", "table"])
    parser.add_argument("--domain", default="photographs")
    parser.add_argument("--data", nargs="*", default=[], help="folders or packs of pictures, in place of those shipped")
    parser.add_argument("--foreign-data", nargs="*", default=[], help="the same of another domain")
    parser.add_argument("--side", type=int, default=24)
    parser.add_argument("--limit", type=int, default=0, help="at most this many pictures")
    parser.add_argument("--scale", default="xxs", choices=list(RECIPES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--full", action="store_true", help="measure all, not the headline alone")
    parser.add_argument("--minutes", type=float, default=1e6, help="end after this time; the same call goes on")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once, with one thread each")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    folder = args.out / args.domain
    if args.what == "pool":
        command = pool_command()
        apart = {"held_out": 20} if args.domain == "faces" and not args.data else {}
        given = {"data": tuple(args.data), "foreign_data": tuple(args.foreign_data), "side": args.side, **apart}
        command(out=folder / "pool", domain=args.domain, limit=args.limit, **given).run()
    elif args.what == "table":
        for domain in sorted(p for p in args.out.iterdir() if p.is_dir()):
            scales = [s for s in RECIPES if (domain / "arms" / s).is_dir()]
            print(*(f"{arms_table(domain, s)}\n" for s in scales), sep="\n")
            print(*(f"{agreement(domain, a, b)}\n" for a, b in pairwise(scales)), sep="\n")
            print(*(f"{worth_table(domain, s)}\n" for s in RECIPES if (domain / "worth" / s).is_dir()), sep="\n")
    else:
        run_arms(
            args.out, args.domain, args.scale, args.seeds, args.minutes, args.what == "worth", args.jobs, args.full
        )


if __name__ == "__main__":
    main()
