"""Camera shake of which nothing is known: the kernel that is found, and what a restoration loses against the true one.

    python benchmarks/shakes.py KERNELS.npz --out runs/shakes

Five photographs of scikit-image, 128 pixels a side after the blur, are shaken along each kernel of the file whose name
begins with `--names`, with noise of level .01. Similarity is the largest normalized correlation over shifts, 1 for a
kernel that is right; *a point* is that of a kernel that does not blur. A restoration is the mean of two samples of
`proximal`, its PSNR taken where it fits best, for a picture and its kernel may move against each other. Rows that are
done are kept in `--out`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ambient_solve import Solver, load_prior
from ambient_solve.noise import Streams
from ambient_solve.restore.pictures import Picture
from ambient_solve.restore.shake import LEEWAY, CameraShake

SIDE = 128
"""Of a blurred picture."""
SIGMA = 0.01
"""Noise level."""
SIZE = 27
"""Side of the square that is said to hold every kernel."""
NAMES = ("astronaut", "chelsea", "coffee", "rocket", "camera")
"""Photographs that scikit-image ships."""
SHIFT = 5
"""Pixels by which a restoration may be off."""


def photograph(name: str) -> Tensor:
    """The middle of a photograph, reduced to (3, SIDE + SIZE - 1, SIDE + SIZE - 1) in [0, 1]."""
    from skimage import data

    image = np.asarray(getattr(data, name)())
    image = image if image.ndim == 3 else np.repeat(image[..., None], 3, -1)
    side = min(image.shape[:2])
    top, left = ((n - side) // 2 for n in image.shape[:2])
    x = torch.from_numpy(image[top : top + side, left : left + side].copy()).permute(2, 0, 1).float() / 255
    return F.interpolate(x[None], (SIDE + SIZE - 1,) * 2, mode="bicubic", antialias=True)[0].clamp(0, 1)


def shaken(x: Tensor, kernel: Tensor, seed: int) -> Tensor:
    """The measurement (1, 3, SIDE, SIDE)."""
    y = F.conv2d(x[:, None], kernel.flip(0, 1)[None, None])[:, 0]
    start = (y.shape[-1] - SIDE) // 2
    y = y[None, :, start : start + SIDE, start : start + SIDE]
    return y + SIGMA * Streams([seed], 1).normal(y)


def similarity(a: Tensor, b: Tensor) -> float:
    """Largest normalized correlation over shifts."""
    spectra = [torch.fft.rfft2(k, s=(128, 128)) for k in (a, b)]
    best = torch.fft.irfft2(spectra[0].conj() * spectra[1], s=(128, 128)).max()
    return float(best / (a.norm() * b.norm()))


def psnr(restored: Tensor, x: Tensor) -> float:
    """Of the middle of a picture (3, h, w), for the shift at which it is best."""
    side = SIDE - 4 * SHIFT
    top, start = (restored.shape[-1] - side) // 2, (x.shape[-1] - side) // 2
    inside = restored[:, top : top + side, top : top + side].clamp(0, 1).cpu()
    errors = [
        (inside - x[:, start + i : start + i + side, start + j : start + j + side]).square().mean()
        for i in range(-SHIFT, SHIFT + 1)
        for j in range(-SHIFT, SHIFT + 1)
    ]
    return float(-10 * torch.stack(errors).min().log10())


def measure(solver: Solver, name: str, number: int, kernel: Tensor) -> dict[str, Any]:
    """One row: the photograph `name` under one kernel."""
    x = photograph(name)
    picture = Picture(Path(name), shaken(x, kernel, number), ())
    started = time.process_time()
    task, _ = CameraShake(size=SIZE, sigma=SIGMA).prepared(picture)
    seconds = time.process_time() - started
    found = {"similarity": similarity(task.kernel, kernel), "seconds": seconds}
    tasks = {
        "found": task,
        "found, noise as it is": CameraShake(kernel=task.kernel, sigma=SIGMA),
        "true": CameraShake(kernel=kernel, sigma=SIGMA),
        "true, noise as for one that is found": CameraShake(kernel=kernel, sigma=LEEWAY * SIGMA),
    }
    for way, one in tasks.items():
        mean = solver.solve(picture.y, one.operator(picture), n_samples=2).mean
        found[way] = psnr(mean[0], x)
    start = (x.shape[-1] - SIDE) // 2
    found["before"] = psnr(picture.y[0], x[:, start : start + SIDE, start : start + SIDE])
    return found


def table(rows: Sequence[dict[str, Any]], points: dict[str, float]) -> str:
    """Markdown: a row for each kernel, and one for all."""
    columns = ("found", "found, noise as it is", "true", "true, noise as for one that is found")
    lines = [
        "| kernel | a point | similarity, median (least) | before, dB | " + " | ".join(columns) + " |",
        "|" + "---|" * (4 + len(columns)),
    ]
    for name in [*points, "all"]:
        own = [r for r in rows if name in (r["kernel"], "all")]
        values = [r["similarity"] for r in own]
        point = f"{points[name]:.2f}" if name in points else ""
        cells = [name, point, f"{np.median(values):.2f} ({min(values):.2f})"]
        cells += [f"{np.mean([r[c] for r in own]):.2f}" for c in ("before", *columns)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kernels", type=Path, help="an .npz of kernels (h, w)")
    parser.add_argument("--names", default="levin", help="only those whose names begin so")
    parser.add_argument("--out", type=Path, required=True, help="folder of the rows")
    parser.add_argument("--prior", default="photos")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / "rows.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    done = {(r["kernel"], r["picture"]) for r in rows}
    solver = Solver(load_prior(given.prior), "proximal", steps=15)
    with np.load(given.kernels, allow_pickle=False) as pack:
        kernels = {n: torch.from_numpy(pack[n]).float() for n in pack.files if n.startswith(given.names)}
    for kernel, values in kernels.items():
        for number, name in enumerate(NAMES):
            if (kernel, name) not in done:
                rows.append({"kernel": kernel, "picture": name, **measure(solver, name, number, values)})
                with file.open("a") as stream:
                    stream.write(json.dumps(rows[-1]) + "\n")
    points = {n: float(k.max() / k.norm()) for n, k in kernels.items()}
    print(table(rows, points))
    print(f"\n{np.median([r['seconds'] for r in rows]):.1f} CPU seconds for an estimate, median of {len(rows)}")


if __name__ == "__main__":
    main()
