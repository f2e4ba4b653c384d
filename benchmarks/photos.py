"""Restore held-out photographs with our algorithms and with the peers', all with the same network.

    python benchmarks/photos.py --data DATA --out runs/photos-table
    python benchmarks/photos.py --data DATA --out runs/arms/mix --prior runs/mix/prior --methods proximal
    python benchmarks/photos.py --out runs/photos-table --table        (print what has been measured)

Photographs: five that scikit-image ships, and from DATA/eval/eval256.npz those of the labels set5, urban, celebahq and
afhq (none of them in the training data). Sides of 256 and more are halved; the central 128x128 pixels are used. Each
measured row is kept in rows.jsonl, so an interrupted run goes on where it stopped. LPIPS needs
DATA/weights/alexnet_features_fp16.safetensors.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import skimage.data
import torch
from PIL import Image
from safetensors.torch import load_file
from skimage.metrics import structural_similarity
from torch import Tensor
from torch.nn.functional import interpolate
from tqdm import tqdm

from ambient_solve import MMPS, Proximal, Solver, as_deepinv, load_prior, operators
from ambient_solve.data.images import to_tensor
from ambient_solve.evaluate.calibration import variance_ratio

SIDE, SAMPLES = 128, 8
SIZE = (3, SIDE, SIDE)
TASKS = {
    "denoise": lambda: operators.denoise(SIZE, sigma=0.1),
    "gaussian blur": lambda: operators.gaussian_blur(SIZE, width=1.5, sigma=0.02),
    "motion blur": lambda: operators.motion_blur(SIZE, length=15, sigma=0.02),
    "super-resolution x2": lambda: operators.super_resolution(SIZE, factor=2, sigma=0.02),
    "random 70 % missing": lambda: operators.inpaint_random(SIZE, missing=0.7, sigma=0.02),
    "box 40x40 missing": lambda: operators.inpaint_box(SIZE, box=40, sigma=0.02),
}
BUNDLED = ("astronaut", "chelsea", "coffee", "rocket", "camera")
LABELS = {"set5": 5, "urban": 4, "celebahq": 3, "afhq": 3}
OURS = {
    "mmps": lambda: MMPS(),
    "proximal": lambda: Proximal(steps=25),
}


def photographs(data: Path | None) -> Iterator[tuple[str, Tensor]]:
    """(name, (3, 128, 128) in [0, 1])."""
    for name in BUNDLED:
        yield name, _crop(to_tensor(Image.fromarray(getattr(skimage.data, name)())))
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


class Metrics:
    """PSNR (dB), SSIM and, where the weights are at hand, LPIPS (AlexNet)."""

    def __init__(self, data: Path | None) -> None:
        self._lpips = None
        if data is not None:
            import lpips

            self._lpips = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
            features = load_file(data / "weights" / "alexnet_features_fp16.safetensors")
            own = self._lpips.net.state_dict()
            by_shape = dict(zip(own, (features[k].float() for k in sorted(features, key=_layer)), strict=True))
            self._lpips.net.load_state_dict(by_shape)

    def __call__(self, x: Tensor, truth: Tensor) -> dict[str, float]:
        x = x.clamp(0, 1)
        row = {
            "psnr": float(-10 * torch.log10((x - truth).square().mean())),
            "ssim": float(structural_similarity(truth.numpy(), x.numpy(), channel_axis=0, data_range=1.0)),
        }
        if self._lpips is not None:
            with torch.no_grad():
                row["lpips"] = float(self._lpips(x[None], truth[None], normalize=True))
        return row


def _layer(key: str) -> tuple[int, bool]:
    """Order of torchvision's `features.N.weight` and `features.N.bias`."""
    return int(key.split(".")[1]), key.endswith("bias")


def measured(y: Tensor, op) -> Tensor:
    """The measurement as a picture of the right size."""
    return y if y.shape[-2:] == (SIDE, SIDE) else interpolate(y, size=(SIDE, SIDE), mode="bicubic")


def total_variation(y: Tensor, op, weight: float, iterations: int = 100) -> Tensor:
    """`argmin |y - A x|^2 / 2 + weight TV(x)` by accelerated proximal gradient with deepinv's TV denoiser."""
    from deepinv.models import TVDenoiser

    denoiser = TVDenoiser(n_it_max=20)
    x = extrapolated = op.A_adjoint(y)
    t = 1.0
    for _ in range(iterations):
        gradient = op.A_adjoint(op.A(extrapolated) - y)
        new = denoiser(extrapolated - gradient, weight)
        t_new = (1 + (1 + 4 * t**2) ** 0.5) / 2
        extrapolated = new + (t - 1) / t_new * (new - x)
        x, t = new, t_new
    return x


def deepinv_dps(y: Tensor, op, prior, weight: float, steps: int = 100) -> Tensor:
    from deepinv.sampling import DPS as Peer

    return Peer(as_deepinv(prior), num_steps=steps, weight=weight, dtype=torch.float32)(y, op, seed=1).float()


def deepinv_diffpir(y: Tensor, op, prior, zeta: float, lambda_: float) -> Tensor:
    from deepinv.optim.data_fidelity import L2
    from deepinv.sampling import DiffPIR as Peer

    sigma = float(op.noise_model.sigma)
    return Peer(as_deepinv(prior), L2(), sigma=sigma, max_iter=100, zeta=zeta, lambda_=lambda_)(y, op, seed=1).float()


# What each peer is tuned over, task by task, on two photographs held out of the training data and not in the table.
GRIDS: dict[str, tuple[Callable, list[dict]]] = {
    "tv": (
        lambda y, op, prior, **k: total_variation(y, op, **k),
        [{"weight": w} for w in (0.002, 0.005, 0.01, 0.02, 0.05, 0.1)],
    ),
    "deepinv DPS": (deepinv_dps, [{"weight": w} for w in (100.0, 300.0, 1000.0)]),
    "deepinv DiffPIR": (
        deepinv_diffpir,
        [{"zeta": z, "lambda_": v} for z, v in ((0.3, 7.0), (1.0, 1.0), (1.0, 7.0))],
    ),
}


def tuned(out: Path, data: Path, prior, method: str, task: str) -> dict:
    """The best setting of a peer for a task, by PSNR; remembered in tuning.json."""
    path = out / "tuning.json"
    found = json.loads(path.read_text()) if path.is_file() else {}
    key = f"{method} / {task}"
    if key not in found:
        run, grid = GRIDS[method]
        op = TASKS[task]()
        x = _tuning_photographs(data)
        torch.manual_seed(5)
        y = op(x)
        errors = [float((run(y, op, prior, **setting).clamp(0, 1) - x).square().mean()) for setting in grid]
        found[key] = grid[int(np.nanargmin(errors))]
        path.write_text(json.dumps(found, indent=1))
    return found[key]


def _tuning_photographs(data: Path) -> Tensor:
    with np.load(data / "photos" / "bsds300.npz", allow_pickle=False) as pack:
        files, offsets = pack["data"], pack["offsets"]
    last = len(offsets) - 1
    images = (Image.open(io.BytesIO(files[offsets[i] : offsets[i + 1]].tobytes())) for i in (last - 1, last - 2))
    return torch.stack([_crop(to_tensor(image)) for image in images])


def measure(
    name: str, x: Tensor, task: str, method: str, prior, metrics: Metrics, out: Path, data: Path | None
) -> dict:
    op = TASKS[task]()
    torch.manual_seed(sum(map(ord, name)))
    y = op(x[None])
    row = {"photo": name, "task": task, "method": method}
    started = time.perf_counter()
    if method in OURS:
        r = Solver(prior, OURS[method]()).solve(y, op, n_samples=SAMPLES)
        row |= {"seconds": r.seconds / SAMPLES, "chi2": float(r.chi2.mean())}
        row["V"], row["ratio"] = float(r.samples.var(1).mean()), variance_ratio(r.samples, x[None])
        row["mean"], row["sample"] = metrics(r.mean[0], x), metrics(r.samples[0, 0], x)
        return row
    if method == "measured":
        restored = measured(y, op)
    else:
        setting = tuned(out, data, prior, method, task)
        started = time.perf_counter()
        restored = GRIDS[method][0](y, op, prior, **setting)
    row["seconds"] = time.perf_counter() - started
    a = restored if method != "measured" else op.A_adjoint(y)
    row["chi2"] = float((y - op.A(a)).square().mean() / op.noise_model.sigma**2) if method != "measured" else None
    row["sample"] = metrics(restored[0], x)
    return row


def table(rows: list[dict]) -> str:
    """Markdown, one row per task and method, averages over the photographs."""
    grouped: dict[tuple[str, str], list[dict]] = defaultdict(list)
    for row in rows:
        grouped[row["task"], row["method"]].append(row)
    lines = [
        "| task | method | PSNR mean | sample | SSIM mean | sample | LPIPS mean | sample | misfit | V/B | s |",
        "|" + "---|" * 11,
    ]

    def average(group: list[dict], kind: str, metric: str, digits: int) -> str:
        values = [row[kind][metric] for row in group if kind in row and metric in row[kind]]
        return f"{np.mean(values):.{digits}f}" if values else ""

    for task in TASKS:
        for (t, method), group in grouped.items():
            if t != task:
                continue
            cells = [
                average(group, k, m, d) for m, d in (("psnr", 2), ("ssim", 3), ("lpips", 3)) for k in ("mean", "sample")
            ]
            misfit = [row["chi2"] for row in group if row.get("chi2") is not None]
            # Mean variance over mean squared error, not the mean of ratios, which a single photograph can rule.
            b = [row["V"] / row["ratio"] for row in group if row.get("ratio")]
            ratio = f"{np.mean([row['V'] for row in group if row.get('ratio')]) / np.mean(b):.2f}" if b else ""
            cells += [
                f"{np.mean(misfit):.2f}" if misfit else "",
                ratio,
                f"{np.mean([row['seconds'] for row in group]):.1f}",
            ]
            lines.append(f"| {task} | {method} ({len(group)}) | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with eval/, photos/ and weights/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--prior", default="photos")
    parser.add_argument("--methods", nargs="+", default=["measured", "mmps", "proximal", *GRIDS])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--photos", type=int, default=100, help="at most this many")
    parser.add_argument("--table", action="store_true", help="only print the table")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "rows.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    if not args.table:
        prior, metrics = load_prior(args.prior), Metrics(args.data)
        done = {(r["photo"], r["task"], r["method"]) for r in rows}
        photos = list(photographs(args.data))[: args.photos]
        todo = [(n, x, t, m) for m in args.methods for t in args.tasks for n, x in photos if (n, t, m) not in done]
        for name, x, task, method in tqdm(todo):
            rows.append(measure(name, x, task, method, prior, metrics, args.out, args.data))
            with path.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
