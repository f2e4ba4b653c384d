"""Real k-space, undersampled: the learned prior against zero-filling, CG-SENSE, L1-wavelet and TV.

    python benchmarks/mri.py --data DATA --out runs/mri-table                            # the classical methods
    python benchmarks/mri.py --data DATA --out runs/mri-table --priors runs/mri_r4/prior --algorithms proximal adps

A fully sampled slice of eight coils is undersampled afterwards, with several masks at each rate; coil maps come from
the calibration lines that are left, the noise level from k-space itself. The reference is the picture that all of
its k-space gives, with maps from all of it. NRMSE, PSNR and SSIM are of magnitudes, in the range of the reference, as
fastMRI has them.

A second slice was undersampled by the scanner, and has no reference: a tenth of its points is held out, and each method
is judged by how well its picture predicts them. What was measured is in rows.jsonl; the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ambient_solve.algorithms import ALGORITHMS
from ambient_solve.errors import AmbientSolveError
from ambient_solve.figures.sheet import Row, Tile, contact_sheet, picture_tile
from ambient_solve.knobs import knobs
from ambient_solve.mri.classical import CLASSICAL
from ambient_solve.mri.problem import Problem, misfit, problem
from ambient_solve.mri.reconstruction import (
    Reconstruction,
    classical,
    load_mri_prior,
    magnitude_metrics,
    reconstruct,
    retrospective,
)
from ambient_solve.mri.scan import Scan, read_scan
from ambient_solve.operators.mri import MultiCoil

ACS = 12
"""Calibration lines at every rate: 22 of 180 lines are left at R = 8."""
HELD_OUT = 0.1
METRICS = {"nrmse": 4, "psnr": 2, "ssim": 4, "chi2": 2, "seconds": 1}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with mri/kspace.npz")
    parser.add_argument("--out", type=Path, default=Path("runs/mri-table"))
    parser.add_argument("--rates", type=float, nargs="+", default=[2, 4, 6, 8])
    parser.add_argument("--kind", default="random", help="the masks, as operators.masks names them")
    parser.add_argument("--seeds", type=int, default=5, help="masks at each rate")
    parser.add_argument("--classical", nargs="*", default=list(CLASSICAL), help="classical methods")
    parser.add_argument("--weights", type=float, nargs="*", default=[], help="more weights for them, times the default")
    parser.add_argument("--priors", nargs="*", default=[], help="names or folders")
    parser.add_argument("--algorithms", nargs="*", default=["auto"], help='such as proximal "adps l_ss=2"')
    parser.add_argument("--samples", type=int, default=8)
    given = parser.parse_args(arguments)
    path = given.data / "mri" / "kspace.npz"
    try:
        full, prospective = (read_scan(f"{path}:{name}") for name in ("brain8_full", "brain8_prospective"))
        arms = dict(_arms(given))
        given.out.mkdir(parents=True, exist_ok=True)
        rows = _measured(given.out / "rows.jsonl")
        for row in _retrospective(full, given, arms, rows):
            _keep(row, rows, given.out)
        for row in _prospective(prospective, given, arms, rows):
            _keep(row, rows, given.out)
    except AmbientSolveError as error:
        print(error, file=sys.stderr)
        return 2
    print(table(rows, given.rates, list(arms)))
    return 0


def _arms(given: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    """Each method by its name in the tables: a function of a problem."""
    for method in given.classical:
        yield method, lambda p, method=method: classical(p, method)
        for factor in given.weights if method != "zero-filled" else ():
            yield f"{method} x{factor:g}", lambda p, m=method, f=factor: classical(p, m, factor=f)
    for name in given.priors:
        prior = load_mri_prior(name)
        for text in given.algorithms:
            algorithm, *rest = shlex.split(text)
            known = {k.name: k.type for k in knobs(ALGORITHMS[algorithm])} if algorithm in ALGORITHMS else {}
            options = {k: known.get(k, str)(v) for k, v in (word.split("=", 1) for word in rest)}
            settings = {"algorithm": algorithm, "options": options, "n_samples": given.samples}
            label = f"{Path(name).parent.name if Path(name).name == 'prior' else Path(name).name}, {text}"
            yield label, lambda p, prior=prior, settings=settings: reconstruct(p, prior, **settings)


def _retrospective(
    full: Scan, given: argparse.Namespace, arms: dict[str, Any], rows: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """One row for each rate, mask and method that is missing in `rows`; for priors one of a single sample too."""
    for rate in given.rates:
        for seed in range(given.seeds):
            done = {r["method"] for r in rows if r.get("rate") == rate and r.get("seed") == seed}
            if set(arms) <= done:
                continue
            p = problem(retrospective(full, given.kind, rate, ACS, seed))
            for name in (name for name in arms if name not in done):
                made = arms[name](p)
                key = {"rate": rate, "seed": seed}
                yield {**key, "method": name, **made.metrics, "chi2": made.chi2, "seconds": made.seconds}
                if len(made.samples) > 1:
                    yield {**key, "method": f"{name}, one sample", **one_sample(made), "seconds": made.seconds}


def one_sample(made: Reconstruction) -> dict[str, float]:
    """The metrics of the first sample alone."""
    x = made.samples[:1]
    metrics = magnitude_metrics(x[0].norm(dim=0), made.problem.scan.reference[0])
    return {**metrics, "chi2": misfit(made.problem, x / made.problem.scale)}


def _prospective(
    scan: Scan, given: argparse.Namespace, arms: dict[str, Any], rows: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """The misfit of each method on all points, and on those that it did not see; the pictures go to prospective.png."""
    done = {r["method"] for r in rows if r.get("rate") == "prospective"}
    if set(arms) <= done:
        return
    whole = problem(scan)
    half = scan.acs // 2
    inner = torch.zeros_like(scan.mask[0])
    height, width = inner.shape
    inner[height // 2 - half : height // 2 + half, width // 2 - half : width // 2 + half] = 1
    drawn = torch.from_numpy(np.random.default_rng(0).random(tuple(inner.shape), dtype=np.float32)) < HELD_OUT
    kept = scan.mask[0] * torch.maximum(inner, (~drawn).float())
    fewer = problem(replace(scan, kspace=kept * scan.kspace, mask=kept[None], acs=0))
    tiles = []
    for name, arm in arms.items():
        made, blind = arm(whole), arm(fewer)
        unseen = held_out_misfit(whole, blind, scan.mask[0] - kept)
        top = float(made.magnitude.flatten().quantile(0.998))
        caption = f"{name}: {made.chi2:.2f}, unseen {unseen:.2f}"
        tiles.append(Tile(picture_tile((made.magnitude / top)[None]).picture, caption))
        if name not in done:
            yield {"rate": "prospective", "method": name, "chi2": made.chi2, "unseen": unseen, "seconds": made.seconds}
    # In rows of three: methods and captions stay readable.
    blank = Tile(np.full((8, 8, 3), 255, np.uint8))
    tiles += [blank] * (-len(tiles) % 3)
    sheet = [
        Row("", "misfit of all points, and of those that were held out", tiles[i : i + 3])
        for i in range(0, len(tiles), 3)
    ]
    contact_sheet("undersampled by the scanner, no reference", [""] * 3, sheet, side=360).save(
        given.out / "prospective.png"
    )


def held_out_misfit(whole: Problem, blind: Reconstruction, unseen: torch.Tensor) -> float:
    """Mean squared error at the points `unseen` (H, W), in units of the noise: 1 is a perfect prediction.

    The prediction takes the maps that the reconstruction had: what it got wrong about the coils counts.
    """
    p = blind.problem
    y = unseen * whole.y * whole.scale / p.scale
    predicted = MultiCoil(p.maps, unseen).A(blind.mean[None] / p.scale)
    return float((predicted - y).square().sum() / (2 * len(p.maps) * unseen.sum() * p.sigma**2))


def table(rows: Sequence[dict[str, Any]], rates: Sequence[float], methods: Sequence[str]) -> str:
    """Markdown: mean over the masks, and the standard error where there are several."""
    methods = [m for name in methods for m in (name, f"{name}, one sample")]
    lines = []
    for rate in rates:
        lines += [
            f"\nR = {rate:g}\n",
            "| method | NRMSE | PSNR | SSIM | misfit | seconds |",
            "|---|---|---|---|---|---|",
        ]
        for method in methods:
            own = [r for r in rows if r.get("rate") == rate and r["method"] == method]
            if own:
                cells = [_cell([r[metric] for r in own], digits) for metric, digits in METRICS.items()]
                lines.append(f"| {method} | {' | '.join(cells)} |")
    lines += ["\nUndersampled by the scanner\n", "| method | misfit | misfit of points held out |", "|---|---|---|"]
    for row in rows:
        if row["rate"] == "prospective" and row["method"] in methods:
            lines.append(f"| {row['method']} | {row['chi2']:.2f} | {row['unseen']:.2f} |")
    return "\n".join(lines)


def _cell(values: Sequence[float], digits: int) -> str:
    error = np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else None
    return f"{np.mean(values):.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def _measured(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _keep(row: dict[str, Any], rows: list[dict[str, Any]], out: Path) -> None:
    rows.append(row)
    with (out / "rows.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(row, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
