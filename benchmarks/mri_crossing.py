"""Priors of scans at several rates, on slices of volumes that none has seen: which is best, at which rate, and why.

    python benchmarks/mri_crossing.py --data DATA --out runs/mri-crossing --priors clean=runs/clean64/prior \\
      R2=runs/r2_64/prior R4=runs/r4_64/prior R6=runs/r6_64/prior R8=runs/r8_64/prior L1=runs/l1_64/prior

Simulated k-space of magnitude slices, 64x64, four birdcage coils with known maps, noise .02 where the calibration
region is at most 1; one line in R is measured, the 4 in the middle always. Every cell restores the same slices:

    A-DPS             given a mask of training, one line in R + 1 of the prior's own rate, as published
    A-DPS, measured   given the mask of the measurement
    proximal          given the mask of the measurement, forward passes only
    one call          of the network at its lowest level: E[z0 | what is measured]

A prior of whole pictures is unconditional, and A-DPS is DPS there. The step `l_ss` of A-DPS is the best of LENGTHS for
each cell, judged by the truth on slices that are not in the table. NRMSE is of the complex picture. "missing" is the
error on the lines that were not measured, over their power: 1 is what leaving them empty gives. What was measured is in
rows.jsonl; the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ambient_solve import AmbientPrior, Solver
from ambient_solve.algorithms.adps import ADPS
from ambient_solve.algorithms.base import Algorithm
from ambient_solve.algorithms.proximal import Proximal
from ambient_solve.data.images import read_images
from ambient_solve.errors import AmbientSolveError
from ambient_solve.evaluate.calibration import variance_ratio
from ambient_solve.mri.prepare import EMPTY, square
from ambient_solve.mri.reconstruction import load_mri_prior
from ambient_solve.mri.scan import calibration_scale
from ambient_solve.mri.simulate import birdcage, simulate
from ambient_solve.operators.kspace_masks import make_mask
from ambient_solve.operators.mri import MultiCoil
from ambient_solve.priors.base import Prior
from ambient_solve.priors.network import NetworkPrior
from ambient_solve.transforms import to_kspace

HELD_OUT = ("colin27_ch2", "mni152_nilearn", "torchio_t2", "datalad_T1w")
SIZE, COILS, ACS, NOISE = 64, 4, 4, 0.02
LENGTHS = (0.3, 1.0, 3.0, 8.0)
"""`l_ss` that are tried in each cell."""
METHODS = ("A-DPS", "A-DPS, measured", "proximal", "one call")


@dataclass(frozen=True)
class Scans:
    """B slices: `truth` (B, 2, H, W), `maps` (B, coils, H, W), `noisy` k-space as deepinv has it, all lines."""

    truth: Tensor
    maps: Tensor
    noisy: Tensor

    def part(self, rows: slice) -> Scans:
        """Some of the slices."""
        return Scans(self.truth[rows], self.maps[rows], self.noisy[rows])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with mri/headslices160.npz")
    parser.add_argument("--out", type=Path, default=Path("runs/mri-crossing"))
    parser.add_argument("--priors", nargs="+", required=True, metavar="NAME=FOLDER", help="R2=... is given R = 2 masks")
    parser.add_argument("--rates", type=int, nargs="+", default=[2, 4, 6, 8])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--slices", type=int, default=20)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--steps", type=int, default=50, help="levels of A-DPS")
    given = parser.parse_args(arguments)
    try:
        priors = {name: load_mri_prior(folder) for name, folder in (text.split("=", 1) for text in given.priors)}
        tuning, scans = held_out(given.data / "mri" / "headslices160.npz", given.slices)
        given.out.mkdir(parents=True, exist_ok=True)
        path = given.out / "rows.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
        for cell in _cells(given, priors):
            if not any(all(row[k] == v for k, v in cell.items()) for row in rows):
                rows.append({**cell, **measure(cell, priors[cell["prior"]], tuning, scans, given)})
                with path.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
                print(rows[-1], file=sys.stderr, flush=True)
    except (AmbientSolveError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    print(tables(rows, given.rates, list(priors)))
    return 0


def held_out(pack: Path, number: int) -> tuple[Scans, Scans]:
    """A fifth as many slices to tune on, and `number` to measure on, the same share of each volume."""
    with np.load(pack, allow_pickle=False) as found:
        labels = found["label"]
    pictures: dict[str, list[Tensor]] = {name: [] for name in HELD_OUT}
    for label, (_, picture) in zip(labels, read_images(pack, 1), strict=True):
        if str(label) in pictures and picture.float().mean() > 255 * EMPTY:
            pictures[str(label)].append(picture[0])
    rng, total = np.random.default_rng(0), number + max(number // 5, 1)
    each = -(-total // len(pictures))
    # Evenly through each volume.
    chosen = [volume[len(volume) * (2 * i + 1) // (2 * each)] for volume in pictures.values() for i in range(each)]
    made = [_scan(chosen[i], rng) for i in rng.permutation(len(chosen))[:total]]
    scans = Scans(*(torch.stack(parts) for parts in zip(*made, strict=True)))
    return scans.part(slice(number, None)), scans.part(slice(0, number))


def _scan(picture: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """One slice: truth, maps, and all of its noisy k-space, normalised."""
    maps = birdcage(COILS, (SIZE, SIZE), rng)
    magnitude = square(picture, SIZE).float() / 255
    scale = calibration_scale(simulate(magnitude, maps, 0.0, rng)[0])
    kspace, x = simulate(magnitude / scale, maps, NOISE, rng)
    truth, noisy = (torch.view_as_real(t).movedim(-1, 0).contiguous() for t in (x, kspace))
    return truth, maps, noisy


def masks(rate: float, number: int, seed: int) -> Tensor:
    """(number, 1, SIZE, SIZE), random lines."""
    drawn = [make_mask("random", (SIZE, SIZE), rate, ACS, seed + i) for i in range(number)]
    return torch.stack(drawn)[:, None]


def _cells(given: argparse.Namespace, priors: dict[str, NetworkPrior]) -> list[dict[str, Any]]:
    """What is to be measured; an unconditional prior knows no masks and gives no single call."""
    return [
        {"rate": rate, "prior": name, "method": method}
        for rate in given.rates
        for name, prior in priors.items()
        for method in given.methods
        if prior.config.mask_channels or method in ("A-DPS", "proximal")
    ]


def measure(
    cell: dict[str, Any], prior: NetworkPrior, tuning: Scans, scans: Scans, given: argparse.Namespace
) -> dict[str, Any]:
    """One cell of the tables."""
    method, started = cell["method"], time.perf_counter()
    own = method == "A-DPS" and prior.config.mask_channels
    trained = float(cell["prior"].removeprefix("R")) + 1 if own else None
    seen = masks(cell["rate"], len(scans.truth), 0)
    if method == "one call":
        samples = _mask_conditioned(prior, scans, seen).restore_once(*_visible(scans, seen), NOISE)[:, None]
        return {**scores(samples, scans, seen), "seconds": time.perf_counter() - started}
    algorithm: Algorithm = Proximal(steps=25)
    if method.startswith("A-DPS"):
        shown = masks(cell["rate"], len(tuning.truth), 1000)
        rules = [ADPS(steps=given.steps, l_ss=length) for length in LENGTHS]
        errors = [nrmse(_solve(prior, rule, tuning, shown, trained, 1), tuning.truth) for rule in rules]
        algorithm = rules[int(np.nanargmin(errors))]
    samples = _solve(prior, algorithm, scans, seen, trained, given.samples)
    l_ss = getattr(algorithm, "l_ss", None)
    return {**scores(samples, scans, seen), "l_ss": l_ss, "seconds": time.perf_counter() - started}


def _mask_conditioned(prior: NetworkPrior, scans: Scans, shown: Tensor) -> AmbientPrior:
    return AmbientPrior(prior, policy="measurement", mask=shown, maps=scans.maps)


def _visible(scans: Scans, mask: Tensor) -> tuple[Tensor, Tensor]:
    op = MultiCoil(scans.maps, mask, NOISE)
    return op.A_adjoint(mask[:, :, None] * scans.noisy), mask


def _solve(
    prior: NetworkPrior, algorithm: Algorithm, scans: Scans, mask: Tensor, trained: float | None, samples: int
) -> Tensor:
    """(B, samples, 2, H, W); a mask-conditioned prior is given `mask`, or fresh ones of the rate `trained`."""
    asked: Prior = prior
    if prior.config.mask_channels:
        asked = _mask_conditioned(prior, scans, mask if trained is None else masks(trained, len(mask), 5000))
    op = MultiCoil(scans.maps, mask, NOISE)
    return Solver(asked, algorithm).solve(mask[:, :, None] * scans.noisy, op, n_samples=samples, seed=0).samples


def nrmse(samples: Tensor, truth: Tensor) -> float:
    """Of (B, S, 2, H, W), the mean over slices and samples of the error over the norm."""
    error = (samples - truth[:, None]).flatten(2).norm(dim=2) / truth.flatten(1).norm(dim=1)[:, None]
    return float(error.mean())


def scores(samples: Tensor, scans: Scans, mask: Tensor) -> dict[str, Any]:
    """NRMSE of single samples and of their mean with its standard error over slices, V / B, what was missing."""
    mean = samples.mean(1)
    each = (mean - scans.truth).flatten(1).norm(dim=1) / scans.truth.flatten(1).norm(dim=1)
    error, power = (to_kspace(x, scans.maps) * (1 - mask) for x in (mean - scans.truth, scans.truth))
    return {
        "single": nrmse(samples, scans.truth),
        "mean": float(each.mean()),
        "error": float(each.std() / len(each) ** 0.5),
        "vb": variance_ratio(samples, scans.truth) if samples.shape[1] > 1 else None,
        "missing": float(error.abs().square().sum() / power.abs().square().sum()),
    }


def tables(rows: Sequence[dict[str, Any]], rates: Sequence[int], priors: Sequence[str]) -> str:
    """Markdown, one table for each number."""
    found = {(row["method"], row["prior"], row["rate"]): row for row in rows}
    titles = {
        "single": "NRMSE of one sample",
        "mean": "NRMSE of the mean of the samples",
        "vb": "V / B, variance of the samples over squared error of their mean; 1 is calibrated",
        "missing": "Error of the mean on lines that were not measured, over their power",
    }
    lines = []
    for field, title in titles.items():
        lines += [
            f"\n## {title}\n",
            f"| | {' | '.join(f'R = {rate}' for rate in rates)} |",
            "|---|" + "---|" * len(rates),
        ]
        for method in METHODS:
            for prior in priors:
                cells = [found.get((method, prior, rate), {}).get(field) for rate in rates]
                if any(value is not None for value in cells):
                    numbers = " | ".join("" if value is None else f"{value:.3f}" for value in cells)
                    lines.append(f"| {method}, {prior} | {numbers} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
