"""Restore held-out photographs with our algorithms and with the peers', all with the same network.

    python benchmarks/photos.py --data DATA --out runs/photos-table
    python benchmarks/photos.py --data DATA --out runs/photos-table --six --runs 8     (a mean of 8 of every method)
    python benchmarks/photos.py --out runs/photos-table --table [--six]                (print what has been measured)
    python benchmarks/photos.py --data DATA --out runs/photos-table --methods proximal \
        --priors photos=photos "10 % clean alone"=runs/clean10/prior                   (compare priors)

Photographs: five that scikit-image ships, and from DATA/eval/eval256.npz those of the labels set5, urban, celebahq and
afhq; none is in the training data, and nothing was chosen by looking at a restoration of any. Sides of 256 and more
are halved; the central 128x128 pixels are used. Without --data only the first five are there, without LPIPS (which
needs DATA/weights/alexnet_features_fp16.safetensors) and without the peers, which are tuned on two photographs of
DATA/photos/bsds232.npz. Each measured row is kept in rows.jsonl, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import skimage.data
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from tqdm import tqdm

from ambient_solve import MMPS, Proximal, Solver, as_deepinv, load_prior, operators
from ambient_solve.data.images import to_tensor
from ambient_solve.evaluate.baselines import total_variation
from ambient_solve.evaluate.calibration import variance_ratio
from ambient_solve.evaluate.metrics import Metrics
from ambient_solve.likelihood import Likelihood
from ambient_solve.priors.load import prior_folder
from ambient_solve.priors.network import WEIGHTS
from ambient_solve.tuning import best_inside

SIDE = 128
SIZE = (3, SIDE, SIDE)
TASKS = {
    "denoise": lambda: operators.denoise(SIZE, sigma=0.1),
    "gaussian blur": lambda: operators.gaussian_blur(SIZE, width=1.5, sigma=0.02),
    "motion blur": lambda: operators.motion_blur(SIZE, length=15, sigma=0.02),
    "super-resolution x2": lambda: operators.super_resolution(SIZE, factor=2, sigma=0.02),
    "random 70 % missing": lambda: operators.inpaint_random(SIZE, missing=0.7, sigma=0.02),
    "box 40x40 missing": lambda: operators.inpaint_box(SIZE, box=40, sigma=0.02),
}
BUNDLED = {
    "rocket": skimage.data.rocket,
    "camera": skimage.data.camera,
    "coins": skimage.data.coins,
    "motorcycle": lambda: skimage.data.stereo_motorcycle()[0],
    "hubble": skimage.data.hubble_deep_field,
}
LABELS = {"set5": 5, "urban": 4, "celebahq": 3, "afhq": 3}
SIX = ("rocket", "camera", "set5-1", "urban-1", "celebahq-1", "afhq-1")
"""The first colour and the first grey picture of scikit-image, and the first of each label."""
ALEXNET = Path("weights", "alexnet_features_fp16.safetensors")
OURS = {
    "mmps": (MMPS(), 8),
    "proximal": (Proximal(steps=25), 8),
    "proximal, 50 levels": (Proximal(), 1),
}
"""Algorithm and number of samples."""


def photographs(data: Path | None) -> Iterator[tuple[str, Tensor]]:
    """(name, (3, 128, 128) in [0, 1])."""
    for name, read in BUNDLED.items():
        yield name, _crop(to_tensor(Image.fromarray(read())))
    if data is None:
        return
    with np.load(data / "eval" / "eval256.npz", allow_pickle=False) as pack:
        files, offsets, labels = pack["data"], pack["offsets"], pack["label"]
    taken: dict[str, int] = defaultdict(int)
    for i, label in enumerate(labels):
        if taken[label] < LABELS.get(label, 0):
            taken[label] += 1
            image = Image.open(io.BytesIO(files[offsets[i] : offsets[i + 1]].tobytes()))
            yield f"{label}-{taken[label]}", _crop(to_tensor(image))


def _crop(picture: Tensor) -> Tensor:
    x = picture.float() / 255
    if min(x.shape[-2:]) >= 2 * SIDE:
        x = interpolate(x[None], scale_factor=0.5, mode="bicubic", antialias=True)[0].clamp(0, 1)
    top, left = ((n - SIDE) // 2 for n in x.shape[-2:])
    return x[:, top : top + SIDE, left : left + SIDE]


def measured(y: Tensor) -> Tensor:
    """The measurement as a picture of the right size."""
    return y if y.shape[-2:] == (SIDE, SIDE) else interpolate(y, size=(SIDE, SIDE), mode="bicubic")


def tv(y: Tensor, op, prior, weight: float) -> Tensor:
    return total_variation(y, op, weight)


def deepinv_dps(y: Tensor, op, prior, weight: float, steps: int = 100) -> Tensor:
    from deepinv.sampling import DPS as Peer

    return Peer(as_deepinv(prior), num_steps=steps, weight=weight, dtype=torch.float32)(y, op).float()


def deepinv_diffpir(y: Tensor, op, prior, lambda_: float, zeta: float) -> Tensor:
    from deepinv.optim.data_fidelity import L2
    from deepinv.sampling import DiffPIR as Peer

    sigma = float(op.noise_model.sigma)
    return Peer(as_deepinv(prior), L2(), sigma=sigma, max_iter=100, zeta=zeta, lambda_=lambda_)(y, op, seed=1).float()


@dataclass(frozen=True)
class Peer:
    """`run(y, op, prior, **setting)` restores a batch of measurements.

    Attributes:
        grid: Where the search for each knob starts. most: The largest value that a knob may have.
        random: Whether two runs differ.
    """

    run: Callable[..., Tensor]
    grid: dict[str, tuple[float, ...]]
    most: dict[str, float] = field(default_factory=dict)
    random: bool = True


PEERS = {
    "tv": Peer(tv, {"weight": (0.005, 0.01, 0.02)}, random=False),
    "deepinv DPS": Peer(deepinv_dps, {"weight": (300.0, 1000.0, 3000.0)}),
    "deepinv DiffPIR": Peer(deepinv_diffpir, {"lambda_": (0.3, 1.0, 3.0), "zeta": (0.3, 1.0)}, {"zeta": 1.0}),
}
METHODS = ("measured", *OURS, *PEERS)


def tuned(path: Path, data: Path, prior_name: str, prior, method: str, task: str) -> dict[str, float]:
    """The setting of a peer with the best PSNR on two photographs that are neither trained on nor in the table.

    One knob after the other, twice; `path` (tuning.json) keeps every setting tried, with its PSNR.
    """
    record = json.loads(path.read_text()) if path.is_file() else {}
    tried = record.setdefault(f"{prior_name} / {method} / {task}", [])
    peer = PEERS[method]
    grid = {knob: list(values) for knob, values in peer.grid.items()}
    best = {knob: values[-1] for knob, values in grid.items()}

    def psnr(setting: dict[str, float]) -> float:
        found = [value for known, value in tried if known == setting]
        if not found:
            op, x = TASKS[task](), _tuning_photographs(data)
            torch.manual_seed(5)
            error = (peer.run(op(x), op, prior, **setting).clamp(0, 1) - x).square().flatten(1).mean(1)
            found = [float(torch.nan_to_num(-10 * error.log10().mean(), nan=-99.0))]
            tried.append([setting, *found])
            path.write_text(json.dumps(record, indent=1))
        return found[0]

    for _ in range(2):
        for knob, values in grid.items():
            best[knob] = best_inside(values, lambda v, knob=knob: psnr(best | {knob: v}), peer.most.get(knob, math.inf))
    return best


def _tuning_photographs(data: Path) -> Tensor:
    with np.load(data / "photos" / "bsds232.npz", allow_pickle=False) as pack:
        files, offsets = pack["data"], pack["offsets"]
    last = len(offsets) - 1
    images = (Image.open(io.BytesIO(files[offsets[i] : offsets[i + 1]].tobytes())) for i in (last - 1, last - 2))
    return torch.stack([_crop(to_tensor(image)) for image in images])


def restore(y: Tensor, op, method: str, prior, setting: dict[str, float], n: int) -> Tensor:
    """`n` pictures of a method, (n, 3, 128, 128)."""
    if method == "measured":
        return measured(y)
    if method in OURS:
        return Solver(prior, OURS[method][0]).solve(y, op, n_samples=n).samples[0]
    return PEERS[method].run(y.repeat(n, 1, 1, 1), op, prior, **setting)


def pictures(method: str, runs: int) -> int:
    """How many pictures of a method are measured; `runs` at least, of those that draw random numbers."""
    if method in OURS:
        return max(runs, OURS[method][1])
    return runs if method in PEERS and PEERS[method].random else 1


def measure(name: str, x: Tensor, task: str, method: str, prior, metrics: Metrics, setting: dict, runs: int) -> dict:
    """One row: quality of the first picture and of the mean of all, misfit, and how honest the std is."""
    op = TASKS[task]()
    # A peer's own noise goes on where that of the measurement ends: it follows from the photograph alone.
    torch.manual_seed(sum(map(ord, name)))
    y = op(x[None])
    S = pictures(method, runs)
    started = time.process_time()
    samples = restore(y, op, method, prior, setting, S)
    row = {"photo": name, "task": task, "method": method, "pictures": S, "setting": setting}
    row["seconds"] = (time.process_time() - started) / S
    row["sample"] = metrics(samples[0], x)
    if method != "measured":
        row["chi2"] = float(Likelihood(y, op, prior, n_samples=S).chi2(prior.encode(samples)).mean())
    if S > 1:
        row["V"], row["ratio"] = float(samples.var(0).mean()), variance_ratio(samples[None], x[None])
        row["mean"] = metrics(samples.mean(0), x)
    return row


def table(rows: list[dict], priors: Sequence[str]) -> str:
    """Markdown, averages over the photographs; with several priors, over those measured with each of them, and how
    much PSNR (of the mean, or of the only picture) a prior gains over the first, with the standard error.

    "mean" is the mean of all pictures, and blank where some photograph has only one. V/B is the mean variance over
    the mean squared error, not the mean of the ratios, which a single photograph can rule.
    """
    grouped: dict[tuple[str, str, str], dict[str, dict]] = defaultdict(dict)
    for row in rows:
        grouped[row["task"], row["method"], row["prior"]][row["photo"]] = row
    several = len(priors) > 1
    head = ["task", "method", *(["prior"] if several else [])]
    head += ["PSNR mean", "single", "SSIM mean", "single", "LPIPS mean", "single", "misfit", "V/B", "s"]
    head += [f"gain over {priors[0]}, dB"] if several else []
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for task in TASKS:
        for method in METHODS:
            groups = [grouped.get((task, method, prior), {}) for prior in priors]
            common = sorted(set.intersection(*map(set, groups)))
            pairs = [[group[photo] for photo in common] for group in groups] if common else []
            for prior, group in zip(priors, pairs, strict=False):
                name = [f"{method} ({len(common)})", *([prior] if several else [])]
                gain = [_gain(group, pairs[0]) if group is not pairs[0] else ""] if several else []
                lines.append("| " + " | ".join([task, *name, *_cells(group), *gain]) + " |")
    return "\n".join(lines)


def _cells(group: list[dict]) -> list[str]:
    def average(read: Callable[[dict], float], digits: int) -> str:
        try:
            return f"{np.mean([read(row) for row in group]):.{digits}f}"
        except KeyError:
            return ""

    cells = [
        average(lambda row, k=kind, m=metric: row[k][m], digits)
        for metric, digits in (("psnr", 2), ("ssim", 3), ("lpips", 3))
        for kind in ("mean", "sample")
    ]
    V, B = average(lambda row: row["V"], 12), average(lambda row: row["V"] / row["ratio"], 12)
    seconds = f"{np.median([row['seconds'] for row in group]):.1f}"
    return [*cells, average(lambda row: row["chi2"], 2), f"{float(V) / float(B):.2f}" if V else "", seconds]


def _gain(group: list[dict], base: list[dict]) -> str:
    ours, theirs = (np.array([row.get("mean", row["sample"])["psnr"] for row in rows]) for rows in (group, base))
    error = np.std(ours - theirs, ddof=1) / len(group) ** 0.5 if len(group) > 1 else math.nan
    return f"{np.mean(ours - theirs):+.2f} ± {error:.2f}"


def latest(path: Path) -> dict[tuple[str, str, str, str], dict]:
    """The rows of rows.jsonl by (prior, photograph, task, method); a later one replaces an earlier."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return {(row["prior"], row["photo"], row["task"], row["method"]): row for row in rows}


def _is_done(row: dict | None, setting: dict[str, float], method: str, runs: int) -> bool:
    return row is not None and row["setting"] == setting and row["pictures"] >= pictures(method, runs)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with eval/, photos/ and weights/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--priors", nargs="+", default=["photos=photos"], metavar="NAME=PRIOR")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--six", action="store_true", help=f"only {', '.join(SIX)}")
    parser.add_argument("--runs", type=int, default=1, help="pictures of each random method, at least")
    parser.add_argument("--table", action="store_true", help="only print the table")
    args = parser.parse_args(arguments)
    if args.data is None and not args.table and not PEERS.keys().isdisjoint(args.methods):
        parser.error("the peers are tuned on photographs of DATA: give --data, or leave them out of --methods.")
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "rows.jsonl"
    priors = dict(pair.split("=", 1) for pair in args.priors)
    for prior_name, where in priors.items() if not args.table else ():
        weights = hashlib.sha256((prior_folder(where) / WEIGHTS).read_bytes()).hexdigest()[:12]
        rows = latest(path)
        if any(row["weights"] != weights for row in rows.values() if row["prior"] == prior_name):
            parser.error(f"{path} holds rows of {prior_name!r} with other weights: give the prior another name.")
        prior, metrics = load_prior(where), Metrics(args.data and args.data / ALEXNET)
        photos = [(name, x) for name, x in photographs(args.data) if name in SIX or not args.six]
        known = (args.out / "tuning.json", args.data, prior_name, prior)
        settings = {(m, t): tuned(*known, m, t) if m in PEERS else {} for m in args.methods for t in args.tasks}
        todo = [
            (name, x, task, method)
            for method, task in settings
            for name, x in photos
            if not _is_done(rows.get((prior_name, name, task, method)), settings[method, task], method, args.runs)
        ]
        for name, x, task, method in tqdm(todo, desc=prior_name):
            row = measure(name, x, task, method, prior, metrics, settings[method, task], args.runs)
            with path.open("a") as file:
                file.write(json.dumps({"prior": prior_name, "weights": weights, **row}) + "\n")
    shown = [row for row in latest(path).values() if row["photo"] in SIX or not args.six]
    print(table(shown, list(priors)))


if __name__ == "__main__":
    main()
