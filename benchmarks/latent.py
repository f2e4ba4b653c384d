"""Restore held-out faces of 128 px through latents, beside a prior of pixels and the best the autoencoder allows.

    python benchmarks/latent.py --data DATA --latents runs/faces-latents --out runs/latent-table
    python benchmarks/latent.py --data DATA --latents runs/faces-latents --prior runs/faces-latent/prior --out ...
    python benchmarks/latent.py --out runs/latent-table --table

The faces are those of DATA/faces/utkface128.npz beyond the first 5700 of `shuffled(faces, 0)`, which
trainers/latents.py encoded; none was learned from. The autoencoder is TAEF2. Without --prior, the prior of the latents
is a Gaussian: mean and 1000 principal axes of 2000 of them, white noise in the rest. Seconds are those of the
processor, which other programs on the machine do not lengthen. Every measured row is kept in rows.jsonl: an interrupted
run goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from ambient_solve import DAPS, LATINO, LDPS, PSLD, LatentPrior, Prior, Proximal, Solver, load_prior, operators
from ambient_solve.data.images import read_images, shuffled
from ambient_solve.evaluate.metrics import Metrics
from ambient_solve.priors.autoencoder import TAEF2
from ambient_solve.priors.latent import read_code

LEARNED = 5700
"""Faces that the prior may have seen."""
SIZE = (3, 128, 128)
TASKS = {
    "box 40x40 missing": lambda: operators.inpaint_box(SIZE, box=40, sigma=0.02),
    "super-resolution x4": lambda: operators.super_resolution(SIZE, factor=4, sigma=0.02),
}
METHODS = {
    "latino, 8 levels": LATINO(steps=8),
    "latino, 16 levels": LATINO(steps=16),
    "latino, 50 levels": LATINO(steps=50),
    "latino, 16 levels, width 2": LATINO(steps=16, width=2.0),
    "latino, 16 levels, a draw": LATINO(steps=16, draw=True),
    "latino as published, 16 levels": LATINO(steps=16, difference=False),
    "ldps, 100 levels": LDPS(steps=100),
    "psld, 100 levels": PSLD(steps=100),
    "psld, 100 levels, gamma 1": PSLD(steps=100, gamma=1.0),
    "psld of norms, 100 levels": PSLD(steps=100, squared=False),
    "latent daps, 16 levels": DAPS(steps=16, ode_steps=1, width=1.0, langevin_steps=10),
}
PIXELS = "pixel prior `photos`, proximal, 25 levels"
CEILING = "decode(encode(x))"
ALEXNET = Path("weights", "alexnet_features_fp16.safetensors")


class PrincipalAxes(Prior):
    """A Gaussian of few principal axes, `N(mean, U diag(values) U' + rest (I - U U'))`, with its exact denoiser."""

    def __init__(self, latents: Tensor, axes: int) -> None:
        super().__init__()
        self.shape, self.sigma_min, self.sigma_max = tuple(latents.shape[1:]), 0.02, 80.0
        flat = latents.flatten(1)
        mean = flat.mean(0)
        centred = flat - mean
        values, vectors = torch.linalg.eigh(centred @ centred.T / len(flat))
        values, vectors = values[-axes:], vectors[:, -axes:]
        self.register_buffer("mean", mean)
        self.register_buffer("values", values)
        self.register_buffer("axes", (centred.T @ vectors) / (values * len(flat)).sqrt())
        total = centred.square().sum() / len(flat)
        self.rest = float((total - values.sum()) / (flat.shape[1] - axes))
        self.sigma_data = float((total / flat.shape[1]).sqrt())
        self.sigma_jacobian = float("inf")

    def denoise(self, z: Tensor, sigma: object, cond: object = None) -> Tensor:
        noise = torch.as_tensor(sigma, dtype=z.dtype) ** 2
        noise = noise.expand(len(z))[:, None]
        centred = z.flatten(1) - self.mean
        seen = centred @ self.axes
        kept = self.rest / (self.rest + noise)
        z0 = kept * centred + ((self.values / (self.values + noise) - kept) * seen) @ self.axes.T
        return (self.mean + z0).reshape(z.shape)


def latent_prior(latents: Path, trained: Path | None) -> LatentPrior:
    mean, std = read_code(latents)
    code = TAEF2.load(latents)
    if trained is not None:
        return LatentPrior(load_prior(trained), code, mean, std)
    files = sorted(latents.glob("*.safetensors"))[:2000]
    z = torch.stack([load_file(file)["z"].float() for file in files if file.stem.isdecimal()])
    return LatentPrior(PrincipalAxes(z, 1000), code, mean, std)


def faces(data: Path, count: int) -> list[tuple[str, Tensor]]:
    every = shuffled(list(read_images(data / "faces" / "utkface128.npz")), 0)
    return [(name, x.float()[None] / 255) for name, x in every[LEARNED : LEARNED + count]]


class Table:
    """Rows of numbers on disk, each measured once."""

    def __init__(self, out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.path = out / "rows.jsonl"
        self.rows = [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []

    def measure(self, key: dict[str, str], make: Callable[[], dict[str, float]]) -> None:
        if any(all(row[k] == v for k, v in key.items()) for row in self.rows):
            return
        row = {**key, **make()}
        self.rows.append(row)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def __str__(self) -> str:
        groups: dict[tuple[str, str], list[dict]] = defaultdict(list)
        for row in self.rows:
            groups[row["task"], row["method"]].append(row)
        lines = ["| task | method | faces | PSNR | LPIPS | misfit | passes | seconds |", "|---" * 8 + "|"]
        for (task, method), rows in sorted(groups.items()):
            mean = {k: statistics.mean(r[k] for r in rows) for k in ("psnr", "lpips", "chi2", "seconds")}
            lines.append(
                f"| {task} | {method} | {len(rows)} | {mean['psnr']:.2f} | {mean['lpips']:.3f} | {mean['chi2']:.2f} | "
                f"{rows[0]['passes']} | {mean['seconds']:.1f} |"
            )
        return "\n".join(lines)


def restored(solver: Solver, y: Tensor, op: object, truth: Tensor, metrics: Metrics) -> dict[str, float]:
    started = time.process_time()
    found = solver.solve(y, op, n_samples=1, seed=0, progress=False)
    seconds, x = time.process_time() - started, found.samples[0].clamp(0, 1)
    passes = f"{found.network_calls} + {found.vjps}"
    return {"chi2": float(found.chi2.mean()), "passes": passes, "seconds": seconds, **quality(x, truth, metrics)}


def quality(x: Tensor, truth: Tensor, metrics: Metrics) -> dict[str, float]:
    return {name: value for name, value in metrics(x[0], truth[0]).items() if name in ("psnr", "lpips")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder of data")
    parser.add_argument("--latents", type=Path, help="what trainers/latents.py encoded")
    parser.add_argument("--prior", type=Path, help="a trained network of these latents; by default a Gaussian")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--faces", type=int, default=8)
    parser.add_argument("--methods", nargs="+", choices=[*METHODS, PIXELS], default=[*METHODS, PIXELS])
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--table", action="store_true", help="only print what has been measured")
    args = parser.parse_args()
    table = Table(args.out)
    if not args.table:
        run(args, table)
    print(table)


def run(args: argparse.Namespace, table: Table) -> None:
    metrics, pictures = Metrics(args.data / ALEXNET), faces(args.data, args.faces)
    prior, pixels = latent_prior(args.latents, args.prior), load_prior("photos")
    solvers = {name: Solver(prior, algorithm) for name, algorithm in METHODS.items()}
    solvers[PIXELS] = Solver(pixels, Proximal(steps=25))
    for name, x in pictures:

        def ceiling(x: Tensor = x) -> dict[str, float]:
            with torch.no_grad():
                coded = prior.decode(prior.encode(x)).clamp(0, 1)
            return {"chi2": float("nan"), "passes": "0", "seconds": 0.0, **quality(coded, x, metrics)}

        table.measure({"task": "all", "method": CEILING, "face": name}, ceiling)
    for method in args.methods:
        for task in args.tasks:
            op = TASKS[task]()
            for number, (name, x) in enumerate(pictures):
                torch.manual_seed(number)
                y = op(x)
                work = partial(restored, solvers[method], y, op, x, metrics)
                table.measure({"task": task, "method": method, "face": name}, work)


if __name__ == "__main__":
    main()
