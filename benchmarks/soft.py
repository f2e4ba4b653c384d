"""A soft prior, blur and noise together, beside an additive one of the same network, data and budget: faces at 32 px.

    python benchmarks/soft.py --data DATA --out runs/soft --part clean       (train and sample: three seeds of both)
    python benchmarks/soft.py --data DATA --out runs/soft --part damaged     (10 % clean faces and 90 % blurred)
    python benchmarks/soft.py --data DATA --out runs/soft --part restore     (restoration with the priors of `clean`)
    python benchmarks/soft.py --out runs/soft --table                        (print what has been measured)

Every arm is `trainers/train.py` with the same network, number of pictures and learning rate; the process, its objective
and the law of the levels are those of its kind. What is measured is kept in soft.jsonl; an interrupted arm resumes, and
with --minutes a call stops after so many. The Frechet distance is that of `benchmarks/arms.py`, of 250 samples against
4000 faces, in the 64 features of a ResNet-56 trained on CIFAR-10. It is no FID.

The held-out error is that of the denoiser over the best linear estimate's (`SoftSettings.estimate`), mean over five
levels evenly apart in the logarithm: 1 learned nothing. Both kinds are measured at their own levels, so that it
compares arms of one kind. Ambient-o stands for the additive prior that uses blurred faces at high noise alone.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from deepinv.physics import GaussianNoise, LinearPhysics
from torch import Tensor

from ambient_solve import NetworkPrior, Solver, generate, load_prior
from ambient_solve.data.images import read_images, shuffled
from ambient_solve.evaluate.calibration import variance_ratio
from ambient_solve.evaluate.metrics import Metrics, psnr
from ambient_solve.noise import Streams
from ambient_solve.process import GaussianBlur, SoftSettings, log_linear
from arms import ResNet56, frechet, to_uint8

ROOT = Path(__file__).parents[1]
IMAGES, SAMPLES, REFERENCE = 16_000, 250, 4000
STEPS = (5, 10, 25, 50, 100)
LIMIT = 2000
"""Pictures of the arms of `damaged`: 200 of them are clean."""
WIDTH = 1.0
"""Their blur, whose level for Ambient-o is that of its paper for 32 px (arXiv 2506.10038)."""
AMBIENT_LEVEL = 2.32
NETWORK = {"size": [32, 32], "widths": [16, 32, 48], "sigma_min": 0.01}
ADDITIVE = {"network": {**NETWORK, "sigma_max": 80.0}}
SOFT = {
    "network": {**NETWORK, "sigma_max": 4.0},
    "process": {"kind": "soft", "family": "blur", "strongest": 10.0, "curve": 2.0},
    "objective": {"kind": "soft"},
    **{"level_mean": -1.6, "level_std": 2.0},
}
"""Levels of both are log-normal, as in EDM; those of soft nearly uniform over its short range."""
# The preconditioning of the soft prior on a process that hardly blurs: what it gains by that alone.
SPECTRAL = {
    "network": {**NETWORK, "sigma_max": 80.0},
    "process": {"kind": "soft", "family": "blur", "strongest": 0.001, "curve": 2.0},
    "objective": {"kind": "soft"},
}


def damage(clean: float, **kind: Any) -> dict[str, Any]:
    return {"corruption": {"seed": 0, "clean_share": clean, "damages": [kind or {"kind": "noise", "sigma": 0.1}]}}


BLUR = {"kind": "periodic-blur", "width": WIDTH}
ARMS: dict[str, dict[str, dict[str, Any]]] = {
    "clean": {
        f"{name}, seed {seed}": {**kind, **damage(1.0), "seed": seed}
        for seed in range(3)
        for name, kind in {"soft": SOFT, "additive": ADDITIVE, "additive, spectral": SPECTRAL}.items()
        if seed == 0 or kind is not SPECTRAL
    },
    "damaged": {
        f"{name}, seed {seed}": {**kind, "seed": seed}
        for seed in range(3)
        for name, kind in {
            "soft, 10 % clean and 90 % blurred": SOFT | damage(0.1, **BLUR),
            "soft, 10 % clean alone": SOFT | damage(0.1, **BLUR) | {"drop_noisy": True},
            "additive, 10 % clean alone": ADDITIVE | damage(0.1, **BLUR) | {"drop_noisy": True},
            "additive, 90 % blurred as clean": ADDITIVE | damage(0.1, **BLUR),
            "additive, 90 % blurred, Ambient-o": ADDITIVE | damage(0.1, **BLUR, sigma_min=AMBIENT_LEVEL),
        }.items()
    },
}
SAMPLERS: dict[str, dict[str, dict[str, Any]]] = {
    "soft": {
        "deterministic": {"order": 1},
        "deterministic, geometric": {"order": 1},
        "momentum": {"order": 1, "sampler": "momentum"},
        "naive": {"order": 1, "sampler": "naive"},
    },
    "additive": {"DDIM": {"order": 1}, "Heun": {"order": 2}},
}


MAIN = ("deterministic, geometric", "DDIM", "Heun")
"""Samplers that are measured at all `STEPS`, the others at 25."""


class OutOfTime(Exception):
    """The minutes of this call are over."""


def source(limit: int) -> dict[str, Any]:
    return {"path": "faces/utkface64.npz", "shrink": 2, "shuffle": True, "held_out": 1000, "limit": limit}


def train(arm: dict[str, Any], folder: Path, data: Path, part: str, until: float) -> Path:
    """Train an arm, or go on with it; raises `OutOfTime` where it is not finished by then."""
    prior = folder / "prior"
    if (prior / "model.safetensors").is_file():
        return prior
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        **{"crop": 32, "images": IMAGES, "batch": 32, "lr": 2.0e-3, "warmup": 1600, "precision": "fp32"},
        **{"duplicates": False, "tracker": "none", "validate_every": 0, "compile": "never"},
        "sources": [source(LIMIT if part == "damaged" else 0)],
        **arm,
    }
    # A seed decides the weights and the order of a run; the damage is that of all of them.
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    command = [sys.executable, str(ROOT / "trainers" / "train.py"), "--config", str(folder / "config.yaml")]
    with (folder / "log.txt").open("a") as log:
        run = subprocess.Popen([*command, "--data-root", str(data), "--out", str(folder)], stdout=log, stderr=log)
        try:
            run.wait(max(1.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            run.send_signal(signal.SIGINT)  # it writes a checkpoint
            try:
                run.wait(60)
            except subprocess.TimeoutExpired:
                run.kill()
    if not (prior / "model.safetensors").is_file():
        if run.returncode and time.monotonic() < until - 1:
            raise RuntimeError(f"{folder} failed: {(folder / 'log.txt').read_text()[-2000:]}")
        raise OutOfTime
    return prior


def pictures(data: Path, seed: int) -> tuple[Tensor, Tensor]:
    """Faces that the training of a seed may see, and those that it holds out, (N, 3, 32, 32) uint8."""
    read = [p for _, p in read_images(data / "faces" / "utkface64.npz", 3, 2)]
    found = torch.stack(shuffled(read, seed))
    return found[:-1000], found[-1000:]


def linear_process(prior: NetworkPrior) -> SoftSettings:
    """The process of a prior in numbers: of additive noise one that hardly blurs."""
    return prior.soft or SoftSettings(strongest=1e-6, lowest=prior.sigma_min, highest=prior.sigma_max)


@torch.no_grad()
def held_out_error(prior: NetworkPrior, clean: Tensor) -> float:
    """Error of the denoiser over that of the best linear estimate, as the loss counts it; mean over levels."""
    soft, ratios, n = linear_process(prior), [], Streams(range(len(clean)), 1).normal(clean)
    for level in log_linear(7, prior.sigma_min, min(prior.sigma_max, 5.0))[1:-2]:
        z = prior.process.perturb(clean, level, n)
        linear = soft.estimate(z, torch.full((len(z),), level), prior.sigma_data)
        seen = partial(soft.process().corrupt, level=level)
        errors = [float(seen(found - clean).square().mean()) for found in (prior.denoise(z, level), linear)]
        ratios.append(errors[0] / errors[1])
    return float(np.mean(ratios))


def questions(part: str, arm: str) -> Iterator[tuple[str, dict[str, Any], int]]:
    """What is measured of an arm: sampler, its settings, network calls; the first of a kind at all, on every seed."""
    samplers = SAMPLERS[arm.split(",")[0]]
    if part == "damaged":
        name = "deterministic, geometric" if arm.startswith("soft") else "Heun"
        yield from ((name, samplers[name], calls) for calls in (25, 50))
        return
    if "spectral" in arm:
        samplers = {"DDIM": SAMPLERS["additive"]["DDIM"] | {"eta": 0.0}}
    for name, settings in samplers.items():
        if name in ("momentum", "naive") and not arm.endswith("seed 0"):
            continue
        yield from ((name, settings, calls) for calls in STEPS if name in MAIN or calls == 25)


def measure(part: str, arm: str, folder: Path, data: Path, rows: Rows, until: float) -> None:
    """The held-out error of an arm, and the Frechet distance of each sampler at each number of network calls."""
    prior, seed = load_prior(folder, precision="float32"), int(arm.rsplit(" ", 1)[1])
    known, held_out = pictures(data, seed)
    if not rows.has(part, arm, "held out"):
        error = held_out_error(prior, held_out[:500].float() / 127.5 - 1)
        rows.add({"part": part, "arm": arm, "what": "held out", "value": error})
    features = ResNet56(data / "weights" / "resnet56_cifar10.safetensors")
    if not rows.has(part, arm, "floor"):
        floor = frechet(features, known[-REFERENCE:], held_out[:SAMPLES])
        rows.add({"part": part, "arm": arm, "what": "floor", "value": floor})
    for name, settings, calls in questions(part, arm):
        what = f"{name} {calls}"
        if rows.has(part, arm, what):
            continue
        if time.monotonic() > until:
            raise OutOfTime
        steps = (calls + 1) // 2 if settings["order"] == 2 else calls
        if prior.soft is not None:  # its own grid has levels whose laws are equally far apart
            geometric = "geometric" in name or "spectral" in arm
            prior.process.grid = log_linear if geometric else prior.soft.levels
        made = generate(prior, SAMPLES, steps=steps, batch=125, progress=False, **settings)
        rows.add(
            {"part": part, "arm": arm, "what": what, "value": frechet(features, known[-REFERENCE:], to_uint8(made))}
        )


def gaussian_operator(width: float, sigma: float, factor: int) -> LinearPhysics:
    """A Gaussian blur that wraps round, and every `factor`-th pixel of it: what is a state of the soft process."""
    family, shape = GaussianBlur(), (3, 32, 32)

    def back(y: Tensor) -> Tensor:
        large = y.new_zeros(len(y), *shape)
        large[..., ::factor, ::factor] = y
        return family(large, width)

    return LinearPhysics(
        A=lambda x, **_: family(x, width)[..., ::factor, ::factor],
        A_adjoint=lambda y, **_: back(y),
        img_size=shape,
        noise_model=GaussianNoise(sigma),
    )


def tasks(soft: SoftSettings) -> dict[str, LinearPhysics]:
    """Tasks whose measurements are states of the process, but for one, whose noise is lower than that of any."""
    narrow, wide = 1.5, 3.0
    level = {width: soft.level_of(width) for width in (narrow, wide)}
    return {
        f"deblur {narrow:g} px, noise {level[narrow] / 2:.3f}": gaussian_operator(narrow, level[narrow] / 2, 1),
        f"deblur {wide:g} px, noise {level[wide] / 2:.3f}": gaussian_operator(wide, level[wide] / 2, 1),
        f"deblur {wide:g} px, noise 0.005": gaussian_operator(wide, 0.005, 1),
        f"super-resolution x2, noise {level[narrow] / 4:.3f}": gaussian_operator(narrow, level[narrow] / 4, 2),
    }


METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "soft 10": ("soft", {"steps": 10}),
    "soft 50": ("soft", {"steps": 50}),
    "proximal 50": ("proximal", {"steps": 50}),
    "mmps 50": ("mmps", {"steps": 50}),
    "dps 100": ("dps", {"steps": 100}),
}


def restore(out: Path, data: Path, rows: Rows, until: float, count: int = 16) -> None:
    """PSNR, LPIPS, V/B and seconds of each method on held-out faces, four samples each, with the priors of seed 0."""
    truth = pictures(data, 0)[1][:count].float() / 255
    metrics = Metrics(data / "weights" / "alexnet_features_fp16.safetensors")
    priors = {kind: load_prior(out / "clean" / f"{kind}-seed-0" / "prior", precision="float32") for kind in SAMPLERS}
    for task, op in tasks(priors["soft"].soft).items():
        torch.manual_seed(0)
        y = op(truth)
        for name, (algorithm, settings) in METHODS.items():
            if rows.has("restore", task, name):
                continue
            if time.monotonic() > until:
                raise OutOfTime
            kind = "soft" if algorithm == "soft" else "additive"
            solver, started = Solver(priors[kind], algorithm, **settings), time.process_time()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = solver.solve(y, op, n_samples=4, progress=False)
            seconds = (time.process_time() - started) / count
            one, many = found.samples[:, 0].clamp(0, 1), found.mean.clamp(0, 1)
            row = {
                "psnr": float(np.mean([psnr(a, b) for a, b in zip(one, truth, strict=True)])),
                "psnr of mean": float(np.mean([psnr(a, b) for a, b in zip(many, truth, strict=True)])),
                "lpips": float(np.mean([metrics(a, b)["lpips"] for a, b in zip(one, truth, strict=True)])),
                "V/B": variance_ratio(found.samples, truth),
                "misfit": float(found.chi2.mean()),
                "seconds": seconds,
            }
            rows.add({"part": "restore", "arm": task, "what": name, **row})


class Rows:
    """What has been measured, one JSON object a line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []

    def has(self, part: str, arm: str, what: str) -> bool:
        return any((r["part"], r["arm"], r["what"]) == (part, arm, what) for r in self.rows)

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def of(self, part: str) -> dict[str, dict[str, list[float]]]:
        """Values by arm, without its seed, and by question: one for each seed."""
        found: dict[str, dict[str, list[float]]] = {}
        for r in self.rows:
            if r["part"] == part and "value" in r:
                name = r["arm"].rsplit(", seed", 1)[0]
                found.setdefault(name, {}).setdefault(r["what"], []).append(r["value"])
        return found


def cell(values: list[float], digits: int) -> str:
    """Mean of the seeds, and the standard error of that mean where there are several."""
    if not values:
        return ""
    error = f" ± {np.std(values, ddof=1) / len(values) ** 0.5:.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{error}"


def table(rows: Rows) -> str:
    """Markdown of all that has been measured."""
    parts = []
    clean = rows.of("clean")
    if clean:
        lines = ["| prior | held-out error | sampler | " + " | ".join(map(str, STEPS)) + " |", "|---" * 8 + "|"]
        for arm, found in clean.items():
            names = dict.fromkeys(what.rsplit(" ", 1)[0] for what in found if what[-1].isdigit())
            for name in names:
                cells = [cell(found.get(f"{name} {calls}", []), 2) for calls in STEPS]
                lines.append(f"| {arm} | {cell(found['held out'], 3)} | {name} | {' | '.join(cells)} |")
        floor = cell([v for found in clean.values() for v in found["floor"]], 2)
        parts.append("\n".join(lines) + f"\n\nFloor, 250 held-out faces in place of samples: {floor}.")
    damaged = rows.of("damaged")
    if damaged:
        lines = ["| arm | held-out error | Frechet, 25 calls | 50 calls |", "|---|---|---|---|"]
        for arm, found in damaged.items():
            calls = [next((v for k, v in found.items() if k.endswith(f" {n}")), []) for n in (25, 50)]
            lines.append(f"| {arm} | {cell(found['held out'], 3)} | {cell(calls[0], 2)} | {cell(calls[1], 2)} |")
        parts.append("\n".join(lines))
    names = ("psnr", "psnr of mean", "lpips", "V/B", "misfit", "seconds")
    restored = [r for r in rows.rows if r["part"] == "restore"]
    if restored:
        lines = [f"| task | method | {' | '.join(names)} |", "|---" * (2 + len(names)) + "|"]
        for r in restored:
            cells = [f"{r[name]:.3f}" if name in ("lpips", "seconds") else f"{r[name]:.2f}" for name in names]
            lines.append(f"| {r['arm']} | {r['what']} | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with faces/ and weights/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--part", choices=("clean", "damaged", "restore"), default="clean")
    parser.add_argument("--arms", nargs="+", help="only arms that contain one of these words")
    parser.add_argument("--minutes", type=float, default=1e6, help="stop after so many; the same command goes on")
    parser.add_argument("--train", action="store_true", help="train, and measure nothing")
    parser.add_argument("--table", action="store_true", help="only print the table")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
    rows, until = Rows(args.out / "soft.jsonl"), time.monotonic() + 60 * args.minutes
    if not args.table:
        if args.data is None:
            parser.error("--data is needed to train; --table alone prints what has been measured.")
        try:
            for name, arm in ARMS.get(args.part, {}).items():
                if args.arms and not any(word in name for word in args.arms):
                    continue
                folder = args.out / args.part / "".join(c if c.isalnum() else "-" for c in name).replace("--", "-")
                prior = train(arm, folder, args.data, args.part, until)
                if not args.train:
                    measure(args.part, name, prior, args.data, rows, until)
            if args.part == "restore":
                restore(args.out, args.data, rows, until)
        except OutOfTime:
            sys.exit("The minutes are over; the same command goes on.")
    print(table(rows))


if __name__ == "__main__":
    main()
