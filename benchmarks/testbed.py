"""The baselines of the testbed: what eleven ways to curate a pool are worth, and what a bad picture is.

    python benchmarks/testbed.py pool --domain photographs --out runs/testbed
    python benchmarks/testbed.py arms --domain photographs --scale xxs --out runs/testbed
    python benchmarks/testbed.py worth --domain photographs --scale xxs --out runs/testbed
    python benchmarks/testbed.py table --out runs/testbed

Each arm is an entry that `ambient-solve testbed train` and `score` take, and `table` prints what they came to, the
agreement of scales, and the worth of a picture. `--minutes` ends a call early; the same call goes on. The ways are
those of benchmarks/curation.py.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from ambient_solve.cli.seeds import is_scored, score_seed, train_seed
from ambient_solve.cli.testbed import pool_command
from ambient_solve.testbed import score
from ambient_solve.testbed.board import markdown
from ambient_solve.testbed.entry import read_entry, write_entry
from ambient_solve.testbed.intervals import mean_interval, paired_interval, rank_agreement
from ambient_solve.testbed.pool import Pool, read_pool, read_truth
from ambient_solve.testbed.prepare import entry_of_run, write_data
from ambient_solve.testbed.recipe import RECIPES
from curation import ARMS, CURVE, MIDDLE, filled, worth_arms


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
    left = [(s, n) for s in range(min(seeds, recipe.seeds)) for n in tables if not is_scored(runs / n, s, whole=full)]
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=work, args=(folder / "pool", runs, scale, left[i::jobs], end, full)) for i in range(jobs)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    missing = sum(not is_scored(runs / n, s, whole=full) for s, n in left)
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
