"""What a level costs beside the network: our algorithms and those of deepinv and azula, one network, one run.

    pip install -e ".[bench]"
    python benchmarks/speed.py --json runs/speed.json
    python benchmarks/speed.py --json runs/speed.json --table                          (print what has been measured)
    python benchmarks/speed.py --json runs/x.json --only proximal "deepinv DiffPIR" --tasks "fft blur" --rounds 9

The network is that of the embedded prior with random weights, 64x64 pixels, batch 1, in float32 and in the precision
that "auto" picks; its levels stop where its Jacobian is trusted, so that mmps pays for it at every level. Seconds are
CPU seconds of this process: run it on one thread (OMP_NUM_THREADS=1). All methods take turns, round after round.

    F, B        forward and backward passes per level, counted
    / network   all seconds after the first call of the network over those that its passes take when they are called
                alone (those inside of it, times what a call costs besides: autograd, giving memory back): min, median,
                max of the rounds
    / F, / F+B  the median level over one forward pass, and over one with its backward pass, measured in the same round
    set-up      seconds before the first call, over those of one forward pass
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from deepinv.physics import Physics
from torch import Tensor
from tqdm import tqdm

from adapters import PEERS, Watched
from ambient_solve import AmbientSolveError, Solver, operators
from ambient_solve.algorithms import ALGORITHMS, MMPS, Algorithm
from ambient_solve.knobs import build
from ambient_solve.priors.network import NetworkConfig, NetworkPrior

SIDE = 64
TASKS: dict[str, Callable[[int], Physics]] = {
    "inpainting": lambda side: operators.inpaint_random((3, side, side), missing=0.7, sigma=0.05),
    "fft blur": lambda side: operators.gaussian_blur((3, side, side), width=1.0, sigma=0.05),
    "super-resolution": lambda side: operators.super_resolution((3, side, side), factor=4, sigma=0.05),
    "blur (cg)": lambda side: operators.gaussian_blur((3, side, side), width=1.0, sigma=0.05, boundary="valid"),
}
PRECISIONS = ("float32", "auto")
OURS: dict[str, Callable[[int], Algorithm]] = {
    **{name: lambda levels, cls=cls: build(cls, steps=levels) for name, cls in ALGORITHMS.items() if cls.additive},
    "mmps, published, 1 iteration": lambda levels: MMPS(steps=levels, iterations=1, covariance_noise=False),
    "mmps, published, 3 iterations": lambda levels: MMPS(steps=levels, iterations=3, covariance_noise=False),
}
THEIRS = {name: peer for name, peer in PEERS.items() if peer.settings.keys() <= {"k"}}
"""Other settings of a sampler cost the same."""
METHODS = (*OURS, *THEIRS)

RIVALS = {
    "proximal": ("deepinv DiffPIR", "azula DiffPIR"),
    "ddrm": ("deepinv DDRM",),
    "dps": ("deepinv DPS", "azula DPS"),
    "pigdm": ("deepinv PiGDM", "azula PGDM"),
    "tmpd": ("azula TMPD",),
    "mmps, published, 1 iteration": ("azula MMPS",),
    "mmps, published, 3 iterations": ("deepinv MomentMatching", "azula MMPS, 3 iterations"),
}
"""Whose rule is the same; with as many solver iterations for mmps."""
PASSES = {"mmps, published, 1 iteration": (1, 1), "mmps, published, 3 iterations": (1, 3), "mmps": (1, 4)}
"""Forward and backward passes of a level: F + kB, and one more for the width that the published rule leaves out."""
OVERHEAD = {("proximal", task): 1.03 for task in ("inpainting", "fft blur", "super-resolution")}
OVERHEAD |= {("dps", task): 1.02 for task in TASKS}
"""The most that / network may be."""


@dataclass(frozen=True)
class Timed:
    """One run: CPU seconds before the first network call, after it, and inside the network; passes of the network."""

    setup: float
    after: float
    inside: float
    calls: int
    vjps: int


def network(precision: str, config: NetworkConfig | None = None) -> NetworkPrior:
    """The architecture of the embedded prior, with random weights in every layer."""
    torch.manual_seed(0)
    prior = NetworkPrior(config or NetworkConfig(sigma_max=10 * NetworkConfig.sigma_data), precision)
    for parameter in prior.parameters():
        if not parameter.any():
            # A last layer that starts at zero would make the Jacobian a multiple of I, and every solver stop early.
            torch.nn.init.normal_(parameter, std=0.02)
    return prior.eval().requires_grad_(False)


def timed(method: str, y: Tensor, op: Physics, prior: Watched, levels: int) -> Timed:
    """One run of a method, one picture."""
    prior.reset()
    if method in OURS:
        started = time.process_time()
        deque(Solver(prior, OURS[method](levels)).stream(y, op), maxlen=0)
    else:
        call = THEIRS[method].prepare(y, op, prior, levels=levels)
        started = time.process_time()
        call()
    ended = time.process_time()
    return Timed(prior.first - started, ended - prior.first, prior.inside, prior.calls, prior.vjps)


@dataclass(frozen=True)
class Alone:
    """CPU seconds of a forward pass, and of one with its backward pass: in all, and inside of the network."""

    forward: float
    both: float
    forward_inside: float
    both_inside: float

    def besides(self, calls: int, vjps: int) -> float:
        """What so many passes take in all over what they take inside of the network."""
        inside = (calls - vjps) * self.forward_inside + vjps * self.both_inside
        return ((calls - vjps) * self.forward + vjps * self.both) / inside


def passes(prior: Watched, side: int, repeats: int = 3) -> Alone:
    """The network called alone."""
    z = torch.randn(1, 3, side, side)

    def forward() -> None:
        with torch.no_grad():
            prior.denoise(z, 1.0)

    def both() -> None:
        prior.denoise_vjp(z, 1.0, once=True)[1](z)

    seconds, inside = [], []
    for function in (forward, both):
        prior.reset()
        started = time.process_time()
        for _ in range(repeats):
            function()
        seconds.append((time.process_time() - started) / repeats)
        inside.append(prior.inside / repeats)
    return Alone(*seconds, *inside)


def why_not(method: str, y: Tensor, op: Physics, prior: Watched) -> str:
    """Why a method cannot do a task; empty where it can, and warm after it."""
    if method in THEIRS and THEIRS[method].refuses(op):
        return THEIRS[method].refuses(op)
    try:
        timed(method, y, op, prior, levels=2)
    except AmbientSolveError as error:
        return str(error)
    return ""


def measure(
    prior: NetworkPrior, tasks: Sequence[str], methods: Sequence[str], levels: int, rounds: int, side: int = SIDE
) -> list[dict[str, Any]]:
    """One row for each task and method."""
    watched, rows = Watched(prior), []
    for task in tasks:
        op = TASKS[task](side)
        torch.manual_seed(0)
        y = op(torch.rand(1, 3, side, side))
        reasons = {method: why_not(method, y, op, watched) for method in methods}
        runs: dict[str, list[Timed]] = {method: [] for method in methods if not reasons[method]}
        alone = []
        for _ in tqdm(range(rounds), desc=f"{prior.precision}, {task}"):
            alone.append(passes(watched, side))
            for method in runs:
                runs[method].append(timed(method, y, op, watched, levels))
        for method in methods:
            row = {"precision": prior.precision, "task": task, "method": method, "levels": levels}
            if reasons[method]:
                rows.append({**row, "skipped": reasons[method]})
                continue
            found = runs[method]
            level = [t.after / levels for t in found]
            rows.append(
                {
                    **row,
                    "calls": found[0].calls / levels,
                    "vjps": found[0].vjps / levels,
                    "network": [
                        t.after / (t.inside * a.besides(t.calls, t.vjps)) for t, a in zip(found, alone, strict=True)
                    ],
                    "forward": [s / a.forward for s, a in zip(level, alone, strict=True)],
                    "both": [s / a.both for s, a in zip(level, alone, strict=True)],
                    "setup": [t.setup / a.forward for t, a in zip(found, alone, strict=True)],
                    "seconds": {"forward": [a.forward for a in alone], "both": [a.both for a in alone]},
                }
            )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, one table for each precision and task."""
    lines = []
    for precision, task in dict.fromkeys((row["precision"], row["task"]) for row in rows):
        part = [row for row in rows if (row["precision"], row["task"]) == (precision, task)]
        done = [row for row in part if "skipped" not in row]
        one, both = (statistics.median(done[0]["seconds"][k]) * 1000 for k in ("forward", "both")) if done else (0, 0)
        lines += ["", f"## {task}, {precision}: F = {one:.1f} ms, F+B = {both:.1f} ms", ""]
        lines += ["| method | F | B | / network: min, median, max | / F | / F+B | set-up |", "|" + "---|" * 7]
        for row in done:
            low, middle, high = min(row["network"]), statistics.median(row["network"]), max(row["network"])
            forward, two, setup = (statistics.median(row[k]) for k in ("forward", "both", "setup"))
            cells = [row["method"], f"{row['calls']:g}", f"{row['vjps']:g}", f"{low:.3f}, {middle:.3f}, {high:.3f}"]
            lines.append("| " + " | ".join([*cells, f"{forward:.2f}", f"{two:.2f}", f"{setup:.2f}"]) + " |")
        lines += [f"| {row['method']} | not run: {row['skipped']} | | | | | |" for row in part if "skipped" in row]
    return "\n".join(lines)


def cost(row: dict[str, Any]) -> float:
    """A level in forward passes: the passes counted, times the overhead. The noise of single timings drops out."""
    backward = statistics.median(row["seconds"]["both"]) / statistics.median(row["seconds"]["forward"]) - 1
    return statistics.median(row["network"]) * (row["calls"] + row["vjps"] * backward)


def targets(rows: list[dict[str, Any]]) -> list[tuple[bool, str]]:
    """Whether each target holds: overhead, passes of mmps, and no rule more expensive than a peer's."""
    found = {(r["precision"], r["task"], r["method"]): r for r in rows if "skipped" not in r}
    verdicts = []
    for (precision, task, method), row in found.items():
        where, ratio = f"{method}, {task}, {precision}", statistics.median(row["network"])
        most = OVERHEAD.get((method, task), math.inf)
        if most < math.inf:
            verdicts.append((ratio <= most, f"{where}: {ratio:.3f} of the network, at most {most}"))
        if method in PASSES:
            count = (row["calls"], row["vjps"])
            verdicts.append((count == PASSES[method], f"{where}: F, B = {count}, expected {PASSES[method]}"))
        for rival in RIVALS.get(method, ()):
            other = found.get((precision, task, rival))
            if other is not None:
                mine, theirs = cost(row), cost(other)
                verdicts.append((mine <= 1.01 * theirs, f"{where}: {mine:.2f} F a level, {rival} {theirs:.2f}"))
    return verdicts


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="file of rows, which a new run replaces")
    parser.add_argument("--levels", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD")
    parser.add_argument("--table", action="store_true", help="only print")
    args = parser.parse_args(arguments)
    rows = json.loads(args.json.read_text()) if args.json.is_file() else []
    for precision in args.precisions if not args.table else ():
        for task in args.tasks:
            new = measure(network(precision), [task], args.only, args.levels, args.rounds)
            mine = {(r["precision"], r["task"], r["method"]) for r in new}
            rows = [r for r in rows if (r["precision"], r["task"], r["method"]) not in mine] + new
            args.json.write_text(json.dumps(rows, indent=1) + "\n")
    print(f"{torch.get_num_threads()} thread(s) of {os.cpu_count()} CPUs, torch {torch.__version__}")
    print(table(rows))
    print("\n## Targets\n")
    for holds, text in targets(rows):
        print(f"- {'holds' if holds else 'MISSED'}: {text}")


if __name__ == "__main__":
    main()
