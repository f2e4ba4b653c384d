"""Unknown damage: blurs and noise of known numbers, estimated from the damaged picture alone.

    python benchmarks/blind.py
    python benchmarks/blind.py PACK.npz --first 620 --restore
    python benchmarks/blind.py PACK.npz --fit

Crops of 128 pixels of photographs are blurred ("valid"), get noise of level .01, and are handed over with a range for
each number: width .3 to 6, length 2 to 40 pixels, direction 0 to 180 degrees. Without a pack they are crops of five
photographs of scikit-image, reduced by two. `--restore` adds the PSNR of a restoration with the estimate, and with the
truth. `--fit` prints the constants of `ambient_solve.blind.photographs` instead, from the first 600 pictures of a pack.
"""

from __future__ import annotations

import argparse
import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from deepinv.physics import Physics
from PIL import Image
from torch import Tensor

from ambient_solve import Solver, load_prior, operators
from ambient_solve.blind import BlurEstimate, Family, SpectralLaw, Unknown, estimate_blur
from ambient_solve.blind.photographs import DISCOUNT
from ambient_solve.data.images import read_images
from ambient_solve.noise import Streams
from ambient_solve.operators.jpeg import quantisation_tables
from ambient_solve.restore.estimate import noise_level
from ambient_solve.restore.jpeg_noise import jpeg_noise
from ambient_solve.restore.unknown import RANGES

SIDE = 128
"""Of a blurred picture."""
BORDER = 40
"""Pixels of a crop beside it, for what blurs into the frame."""
SIGMA = 0.01
"""Noise level."""
FITTED = 600
"""Pictures of a pack that the law is fitted to."""
WIDTHS = (0.8, 3.5)
"""Least and largest true width, evenly in the logarithm."""
LENGTHS = (5.0, 20.0)
"""Those of the length of a movement."""
GOLDEN = 180 * (math.sqrt(5) - 1) / 2
"""Degrees from one true direction to the next."""
NAMES = ("astronaut", "chelsea", "coffee", "rocket", "camera")
"""Photographs that scikit-image ships."""
RUN = {"algorithm": "proximal", "steps": 15}
"""The restoration."""


@dataclass(frozen=True)
class Case:
    """A builder, its true numbers, and how far an estimate may be off: a share, or degrees."""

    builder: Callable[..., Physics]
    truth: dict[str, float]

    def family(self) -> Family:
        """The builder with the ranges of its numbers; the noise level is known unless it is one of them."""
        unknown = {name: Unknown(*RANGES[name], periodic=name == "angle") for name in self.truth}
        return Family(self.builder, **{"sigma": SIGMA, "boundary": "valid", **unknown})


def off(name: str, found: float, true: float) -> float:
    """The error of an estimate: relative, or in degrees."""
    return (found - true + 90) % 180 - 90 if name == "angle" else found / true - 1


def near(name: str, found: float, true: float) -> bool:
    """Within 10 %, or 5 degrees."""
    return abs(off(name, found, true)) <= (5 if name == "angle" else 0.1)


def covered(name: str, interval: tuple[float, float], true: float) -> bool:
    """Whether an interval holds the truth."""
    low, high = interval
    shift = (true - low) % 180 if name == "angle" else true - low
    return 0 <= shift <= high - low


def cases(count: int, noise: bool = False) -> Iterator[tuple[Case, Case]]:
    """A blur and a movement for each picture; with `noise`, its level is to be found too."""
    level = {"sigma": SIGMA} if noise else {}
    for i in range(count):
        share = (i + 0.5) / count
        width, length = (lo * (hi / lo) ** share for lo, hi in (WIDTHS, LENGTHS))
        yield (
            Case(operators.gaussian_blur, {"width": width, **level}),
            Case(operators.line_blur, {"length": length, "angle": i * GOLDEN % 180, **level}),
        )


def crops(pack: Path | None, first: int, count: int) -> Iterator[Tensor]:
    """Clean pictures (3, n, n) in [0, 1] of `SIDE + BORDER` pixels a side."""
    side = SIDE + BORDER
    if pack is None:
        from skimage import data

        for i in range(count):
            image = Image.fromarray(getattr(data, NAMES[i % len(NAMES)])()).convert("RGB").reduce(2)
            shift = i // len(NAMES) * 17
            left, top = (image.width - side) // 2 + shift, (image.height - side) // 2 + shift // 2
            values = np.asarray(image.crop((left, top, left + side, top + side)))
            yield torch.from_numpy(values.copy()).permute(2, 0, 1).float() / 255
        return
    found = 0
    for i, (_, picture) in enumerate(read_images(str(pack))):
        if i < first or min(picture.shape[-2:]) < side:
            continue
        yield middle(picture, side)
        found += 1
        if found == count:
            return


def middle(picture: Tensor, side: int) -> Tensor:
    """The middle `side` pixels of a uint8 picture (3, H, W), in [0, 1]."""
    top, left = ((n - side) // 2 for n in picture.shape[-2:])
    return picture[:, top : top + side, left : left + side].float() / 255


def damaged(x: Tensor, case: Case, seed: int) -> tuple[Tensor, Tensor]:
    """The measurement (1, 3, n, n), and the part of the clean picture that it shows."""
    family = case.family()
    kernel, _ = family.kernel(case.truth)
    reach = kernel.shape[-1] // 2
    start = BORDER // 2
    part = x[None, :, start - reach : start + SIDE + reach, start - reach : start + SIDE + reach]
    y = family.at(case.truth, (1, 3, SIDE, SIDE)).A(part)
    return y + SIGMA * Streams([seed], 1).normal(y), x[None, :, start : start + SIDE, start : start + SIDE]


def psnr(solver: Solver, y: Tensor, op: Physics, x: Tensor) -> float:
    """Of the mean of two samples."""
    mean = solver.solve(y, op, n_samples=2).mean
    top, left = ((m - n) // 2 for m, n in zip(mean.shape[-2:], x.shape[-2:], strict=True))
    mean = mean[..., top : top + x.shape[-2], left : left + x.shape[-1]].clamp(0, 1)
    return float(-10 * (mean.cpu() - x).square().mean().log10())


def row(number: int, case: Case, found: BlurEstimate) -> str:
    """One line of the table of a case."""
    cells = [str(number)]
    for name, true in case.truth.items():
        low, high = found.intervals[name]
        digits = 4 if name == "sigma" else 2
        cells.append(f"{true:.{digits}f} | {found.values[name]:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})")
    return "| " + " | ".join(cells)


def report(results: list[tuple[Case, BlurEstimate]]) -> str:
    """How many are near, and how many intervals hold the truth."""
    lines = []
    for name in results[0][0].truth:
        pairs = [(case.truth[name], found.values[name], found.intervals[name]) for case, found in results]
        hits, held = (sum(f(name, p[i], p[0]) for p in pairs) for f, i in ((near, 1), (covered, 2)))
        within = "5 degrees" if name == "angle" else "10 %"
        lines.append(f"{name}: {hits} of {len(pairs)} within {within}; {held} of the 90 % intervals hold the truth")
    return "\n".join(lines)


def blurs(pictures: Sequence[Tensor], restore: bool, noise: bool) -> None:
    """Print the table of each kind of blur."""
    solver = Solver(load_prior("photos"), **RUN) if restore else None
    for column in range(2):
        results, gaps = [], []
        for i, (x, pair) in enumerate(zip(pictures, cases(len(pictures), noise), strict=True)):
            case = pair[column]
            y, clean = damaged(x, case, i)
            found = estimate_blur(y, case.family())
            results.append((case, found))
            line = row(i, case, found)
            if solver is not None:
                both = [psnr(solver, y, case.family().at(v, y.shape), clean) for v in (found.values, case.truth)]
                before = float(-10 * (y - clean).square().mean().log10())
                gaps.append(both[0] - both[1])
                line += f" | {before:.2f} | {both[0]:.2f} | {both[1]:.2f}"
            if i == 0:
                names = [f"{name} | estimated (90 %)" for name in case.truth]
                names += ["before, dB | auto, dB | stated, dB"] if restore else []
                print("\n| picture | " + " | ".join(names) + " |")
                print("|" + "---|" * (1 + 2 * len(case.truth) + 3 * restore))
            print(line + " |", flush=True)
        print("\n" + report(results))
        if gaps:
            print(f"PSNR of auto minus stated: mean {np.mean(gaps):.2f} dB, {sum(g >= -1 for g in gaps)} above -1 dB")


def jpegs(pictures: Sequence[Tensor]) -> None:
    """Print the noise that is found under JPEG compression."""
    print("\n| noise | quality | found | worst error | without the steps |\n|---|---|---|---|---|")
    for sigma in (0.03, 0.05, 0.1):
        for quality in (90, 80):
            steps, found, plain = quantisation_tables(quality)[0], [], []
            for i, x in enumerate(pictures):
                noisy = (x + sigma * Streams([i], 1).normal(x[None])[0]).clamp(0, 1)
                file = io.BytesIO()
                values = (255 * noisy).round().byte().permute(1, 2, 0).numpy()
                Image.fromarray(values).save(file, "JPEG", quality=quality)
                y = torch.from_numpy(np.asarray(Image.open(file)).copy()).permute(2, 0, 1).float() / 255
                found.append(jpeg_noise(y, steps).level or 0.0)
                plain.append(float(noise_level(y[None])[0]))
            worst = max(abs(f / sigma - 1) for f in found)
            middle = f"{np.median(found):.3f} | {worst:.0%} | {np.median(plain):.3f}"
            print(f"| {sigma} | {quality} | {middle} |", flush=True)


def fit(pack: Path) -> None:
    """Print the law of the first pictures of a pack, of the middle of each."""
    law = SpectralLaw.fit((middle(p, SIDE) for _, p in islice(read_images(str(pack)), FITTED)), DISCOUNT)
    for numbers in (law.mean, *law.covariance):
        print("(" + ", ".join(f"{float(n):.4f}" for n in numbers) + "),")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path, nargs="?", help="photographs: a folder or an .npz pack")
    parser.add_argument("--first", type=int, default=FITTED, help="pictures of it that are passed over")
    parser.add_argument("--count", type=int, default=10, help="pictures")
    parser.add_argument("--restore", action="store_true", help="restore them too")
    parser.add_argument("--noise", action="store_true", help="the noise level of the blurred pictures is unknown too")
    parser.add_argument("--fit", action="store_true", help="print the law of its spectra")
    given = parser.parse_args(arguments)
    if given.fit:
        fit(given.pack)
        return
    pictures = list(crops(given.pack, given.first, given.count))
    blurs(pictures, given.restore, given.noise)
    jpegs(pictures)


if __name__ == "__main__":
    main()
