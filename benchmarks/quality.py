"""How good a picture for how many seconds? Our algorithms and deepinv's, the same network, photographs nobody tuned on.

    python benchmarks/quality.py --data DATA --out runs/quality
    python benchmarks/quality.py --out runs/quality --table                    (print what has been measured)

Each method restores the first photographs of benchmarks/photos.py at several numbers of levels; ours also as a mean of
several samples, and with the settings of the page's preset Fast. Seconds are CPU seconds (OMP_NUM_THREADS=1). Peers are
given the network as ours have it, bfloat16 where the prior chooses that, and, as *float32*, as deepinv runs one. The
table says how soon ours have the quality of deepinv's DPS with 1000 steps (PSNR within .1 dB and LPIPS within .005)
and the PSNR of its DiffPIR, which are tuned like all peers of that benchmark; quality.png shows all. Rows are kept in
rows.jsonl; an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import photos
from ambient_solve import ALGORITHMS, Solver, load_prior
from ambient_solve.app.presets import PRESETS
from ambient_solve.evaluate.metrics import Metrics
from ambient_solve.knobs import build

TASKS = ("random 70 % missing", "gaussian blur", "super-resolution x2")
REFERENCE, DEFAULT = "deepinv DPS, 1000 steps", "mmps"
CLOSE = {"psnr": -0.1, "lpips": 0.005}
"""How far from the reference still has its quality."""
LEVELS = {
    "mmps": (3, 4, 6, 8, 12, 25),
    "proximal": (5, 10, 25, 50),
    "ddnm": (25, 50),
    "pigdm": (10, 25, 50),
    "tmpd": (10, 25),
    "dps": (50, 200),
    "daps": (10, 25),
    "langevin": (10, 25),
    "reddiff": (50, 200),
    "mgps": (10,),
    "sitcom": (5,),
}
SAMPLES = {"mmps": (1, 2, 3, 4), "proximal": (1, 4)}
FAST = PRESETS["Fast"].chosen("inpaint")[1]
"""What the preset Fast of the page sets where pixels are missing; chosen on other photographs."""
SWITCHES = (1.0, 0.5, 0.25)
"""Below these levels mmps uses the Jacobian, above them it is a proximal step; by default the switch is at 5."""
photos.PEERS |= {
    REFERENCE: photos.Peer(partial(photos.deepinv_dps, steps=1000), {"weight": (300.0, 1000.0)}),
}
PEERS = (REFERENCE, "deepinv DPS", "deepinv DiffPIR")


@dataclass(frozen=True)
class Try:
    """One way to restore: a method, its levels (0: those of the peer), how many samples are averaged.

    `switch` is the level up to which the Jacobian of the network is used, 0 that of the prior; `precision` is that of
    the network; `fast` takes the settings of FAST, but for the levels.
    """

    method: str
    levels: int = 0
    samples: int = 1
    switch: float = 0.0
    precision: str = "auto"
    fast: bool = False

    @property
    def name(self) -> str:
        """As in the table."""
        words = [self.method, *([f"{self.levels} levels"] if self.levels else [])]
        words += ["as in Fast"] if self.fast else []
        words += [f"mean of {self.samples}"] if self.samples > 1 else []
        words += [self.precision] if self.precision != "auto" else []
        return ", ".join([*words, *([f"Jacobian below {self.switch:g}"] if self.switch else [])])


def tries() -> Iterator[Try]:
    """All that is measured, cheap ones first."""
    for method, levels in LEVELS.items():
        yield from (Try(method, n, s) for s in SAMPLES.get(method, (1,)) for n in levels)
    yield from (Try("mmps", 25, 4, switch) for switch in SWITCHES)
    yield from (Try("mmps", n, s, fast=True) for n, s in ((8, 1), (12, 1), (10, 2), (12, 2)))
    yield from (Try(peer, precision=precision) for peer in reversed(PEERS) for precision in ("auto", "float32"))


def restored(attempt: Try, y: Tensor, op, prior, setting: dict[str, float]) -> Tensor:
    """One picture, (3, 128, 128)."""
    prior.set_precision(attempt.precision)
    if attempt.method in PEERS:
        return photos.PEERS[attempt.method].run(y, op, prior, **setting)[0]
    own = prior.sigma_jacobian
    prior.sigma_jacobian = attempt.switch or own
    options = {**(FAST if attempt.fast else {}), "steps": attempt.levels}
    solver = Solver(prior, build(ALGORITHMS[attempt.method], **options))
    picture = solver.solve(y, op, n_samples=attempt.samples).mean[0]
    prior.sigma_jacobian = own
    return picture


def averages(rows: Sequence[dict]) -> dict[tuple[str, str], dict[str, float]]:
    """Means over the photographs, by task and try, of those that all tries of the task have."""
    grouped: dict[tuple[str, str], dict[str, dict]] = defaultdict(dict)
    for row in rows:
        grouped[row["task"], row["try"]][row["photo"]] = row
    found = {}
    for (task, name), own in grouped.items():
        common = set.intersection(*(set(g) for (t, _), g in grouped.items() if t == task))
        part = [own[photo] for photo in sorted(common)]
        found[task, name] = {k: float(np.mean([r[k] for r in part])) for k in ("seconds", "psnr", "lpips")}
    return found


def saved(peer: str, found: dict[str, dict], ours: dict[str, dict], close: dict[str, float]) -> list[str]:
    """How much sooner the quickest of `ours` has the quality of `peer`, but for what is `close`; nothing if unknown."""
    same, plain = found.get(peer), found.get(f"{peer}, float32")
    if same is None or plain is None:
        return []
    sign = {"psnr": 1, "lpips": -1}
    good = [
        (q["seconds"], k) for k, q in ours.items() if all(sign[m] * (q[m] - same[m] - c) >= 0 for m, c in close.items())
    ]
    if not good:
        return [f"- No setting that was tried has the quality of {peer}."]
    seconds, name = min(good)
    what = " and ".join(m.upper() for m in close)
    return [
        f"- *{name}* has the {what} of {peer} in 1/{plain['seconds'] / seconds:.1f} of its time as deepinv runs a "
        f"network, in 1/{same['seconds'] / seconds:.1f} of its time with the network as ours has it ({seconds:.2f} s)."
    ]


def table(rows: Sequence[dict]) -> str:
    """Markdown: all tries, and when the default has the quality of the reference."""
    found, lines = averages(rows), []
    for task in dict.fromkeys(task for task, _ in found):
        lines += ["", f"## {task}", "", "| method | seconds | PSNR | LPIPS |", "|---|---|---|---|"]
        own = {name: q for (t, name), q in found.items() if t == task}
        for name, q in sorted(own.items(), key=lambda item: item[1]["seconds"]):
            lines.append(f"| {name} | {q['seconds']:.2f} | {q['psnr']:.2f} | {q['lpips']:.3f} |")
        default = {k: q for k, q in own.items() if k.startswith(DEFAULT) and "Jacobian" not in k and "Fast" not in k}
        ours = {k: q for k, q in own.items() if k.split(",")[0] in LEVELS}
        said = [*saved(REFERENCE, own, default, CLOSE), *saved(REFERENCE, own, ours, CLOSE)]
        lines += ["", *dict.fromkeys(said), *saved("deepinv DiffPIR", own, ours, {"psnr": CLOSE["psnr"]})]
    return "\n".join(lines).strip()


def plot(rows: Sequence[dict], path: Path) -> None:
    """PSNR and LPIPS over seconds, a column for each task, a line for each method."""
    from matplotlib.figure import Figure

    found = averages(rows)
    tasks = list(dict.fromkeys(task for task, _ in found))
    figure = Figure(figsize=(4.2 * len(tasks), 7), layout="constrained")
    axes = figure.subplots(2, len(tasks), squeeze=False, sharex=True)
    marks = {method: f"C{i % 10}" for i, method in enumerate((*LEVELS, *PEERS))}
    for column, task in enumerate(tasks):
        for method, colour in marks.items():
            for samples in (1, *SAMPLES.get(method, ())[1:]):
                wanted = Try(method, 0, samples)
                names = [t.name for t in tries() if replace(t, levels=0) == wanted]
                points = [found[task, name] for name in names if (task, name) in found]
                label = method if samples == 1 else f"{method}, mean of {samples}"
                style = {
                    "color": colour,
                    "marker": "s" if method in PEERS else "o",
                    "alpha": 1 if samples == 1 else 0.5,
                }
                for row, metric in enumerate(("psnr", "lpips")):
                    x, y = ([p[key] for p in points] for key in ("seconds", metric))
                    axes[row, column].plot(x, y, label=label, linewidth=1, markersize=4, **style)
        axes[0, column].set(title=task, xscale="log", ylabel="PSNR in dB" if column == 0 else "")
        axes[1, column].set(xscale="log", xlabel="CPU seconds", ylabel="LPIPS" if column == 0 else "")
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8, frameon=False
    )
    figure.savefig(path, dpi=110)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with eval/, photos/ and weights/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--photos", type=int, default=4, help="how many, of those of --six in benchmarks/photos.py")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--table", action="store_true", help="only print")
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "rows.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    if not args.table:
        if args.data is None:
            parser.error("--data is needed to measure; --table alone prints what has been measured.")
        prior, metrics = load_prior("photos"), Metrics(args.data / photos.ALEXNET)
        chosen = [p for p in photos.photographs(args.data) if p[0] in photos.SIX][: args.photos]
        known = (args.out / "tuning.json", args.data, "photos", prior)
        todo = [(t, task, name, x) for t in tries() for task in args.tasks for name, x in chosen]
        done = {(row["try"], row["task"], row["photo"]) for row in rows}
        for attempt, task, name, x in tqdm(todo, desc="quality"):
            if (attempt.name, task, name) in done:
                continue
            setting = photos.tuned(*known, attempt.method, task) if attempt.method in PEERS else {}
            op = photos.TASKS[task]()
            torch.manual_seed(sum(map(ord, name)))
            y = op(x[None])
            started = time.process_time()
            picture = restored(attempt, y, op, prior, setting)
            row = {"try": attempt.name, "task": task, "photo": name, "seconds": time.process_time() - started}
            rows.append({**row, **metrics(picture, x)})
            with path.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    print(table(rows))
    if rows:
        plot(rows, args.out / "quality.png")


if __name__ == "__main__":
    main()
