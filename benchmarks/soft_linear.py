"""Soft priors that are learned and used in closed form: linear denoisers of faces at 32 px, seconds of one CPU core.

    python benchmarks/soft_linear.py --data DATA --part damaged
    python benchmarks/soft_linear.py --data DATA --part restore

A linear denoiser has one number for each frequency and level, and the minimizer of each objective over such denoisers
is known: the gain `g P / (g^2 P + s^2)`, with P the power of the faces that the objective uses at that level, seen
through what it takes their damage for. There is no optimizer and no budget: what differs is what each objective makes
of its data.

*damaged*: 10 % of the faces are clean, the others have a Gaussian blur. The number is the Wasserstein distance of the
samples' power (100 levels, an exact recursion) to that of 1000 held-out faces, over the deviation of those; five draws
of the faces, with the standard error of their mean.

*restore*: Gaussian faces, drawn from the power of real ones, whose denoisers are exact for both processes. `soft` on
the soft one beside the others on additive noise; PSNR of one sample and of the mean of four, claimed over actual
squared error (V/B, 1 is right), misfit, and seconds of one core.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from deepinv.physics import GaussianNoise, LinearPhysics
from torch import Tensor

from ambient_solve import Prior, Solver
from ambient_solve.data.images import read_images, shuffled
from ambient_solve.evaluate.calibration import variance_ratio
from ambient_solve.evaluate.metrics import psnr
from ambient_solve.noise import Level, per_sample
from ambient_solve.process import GaussianBlur, SoftSettings, karras, log_linear, noise_shares

F64 = torch.float64
FAMILY = GaussianBlur()
SIDE, STEPS, DRAWS = 32, 100, 5
AMBIENT_LEVEL = {1.0: 2.32}
"""Level of Ambient-o for a blur at 32 px, by its width, from its paper (arXiv 2506.10038)."""
SOFT = SoftSettings(strongest=10.0, curve=2.0, lowest=0.01, highest=4.0)
LOW, HIGH = 0.01, 80.0
Power = Callable[[float], Tensor]
"""Level to the power that an objective has learned there, (32, 32)."""


def gains(level: float | None) -> Tensor:
    """Of a level of the soft process; None is additive noise."""
    like = torch.zeros(1, 1, SIDE, SIDE, dtype=F64)
    return torch.ones(SIDE, SIDE, dtype=F64) if level is None else FAMILY.gains(like, SOFT.strength(level))


def power_of(pictures: Tensor) -> Tensor:
    """Mean power of each frequency, about 0."""
    return FAMILY.analyze(pictures).abs().square().mean((0, 1))


def made(learned: Power, soft: bool) -> Tensor:
    """Power of the samples of a linear denoiser; the mean color of the soft one is that of its law."""
    levels = log_linear(STEPS, SOFT.lowest, SOFT.highest) if soft else karras(STEPS, LOW, HIGH)
    sampler = "momentum" if soft else "deterministic"
    variance = levels[0] ** 2 * torch.ones(SIDE, SIDE, dtype=F64)
    if soft:
        variance[0, 0] += learned(levels[0])[0, 0]
    for t, after in zip(levels, levels[1:], strict=False):
        g, g_next, power = gains(t if soft else None), gains(after if soft else None), learned(t)
        shrink = g * power / (g**2 * power + t**2)
        kept, fresh = noise_shares(sampler, t, after)
        variance = (g_next * shrink + kept * (1 - g * shrink)) ** 2 * variance + fresh**2
    return variance


def arms_of(own: Tensor, width: float) -> dict[str, tuple[Power, bool]]:
    """What each objective learns of faces, a tenth of them clean, the others blurred and stored in 16 bits."""
    few, many = own[: len(own) // 10], own[len(own) // 10 :]
    blurred = FAMILY(many, width).half().double()
    clean, stored, gain = power_of(few), power_of(blurred), FAMILY.gains(own[:1], width).square()
    naive, start = 0.1 * clean + 0.9 * stored, SOFT.level_of(width)
    # Where the process blurs more, R y has the power of a state without its noise, g_t^2 P, of which P is learned.
    both, everything = 0.1 * clean + 0.9 * stored / gain, power_of(own)
    return {
        "soft, 10 % clean and 90 % blurred": (lambda t: both if t >= start else clean, True),
        "soft, 10 % clean alone": (lambda t: clean, True),
        "soft, blurred taken for clean": (lambda t: naive, True),
        "soft, all clean": (lambda t: everything, True),
        "additive, 10 % clean alone": (lambda t: clean, False),
        "additive, blurred taken for clean": (lambda t: naive, False),
        "additive, blurred above their level (Ambient-o)": (
            lambda t: naive if t >= AMBIENT_LEVEL[width] else clean,
            False,
        ),
        "additive, all clean": (lambda t: everything, False),
    }


def damaged(faces: Tensor, width: float, number: int) -> dict[str, list[float]]:
    """The distance of each arm to held-out faces, one for each draw of the faces."""
    held_out, pool = faces[-1000:], faces[:-1000]
    right, found = power_of(held_out).sqrt(), {}
    for draw in range(DRAWS):
        own = pool[torch.randperm(len(pool), generator=torch.Generator().manual_seed(draw))[:number]]
        for name, (learned, soft) in arms_of(own, width).items():
            distance = float((made(learned, soft).sqrt() - right).norm() / right.norm())
            found.setdefault(name, []).append(distance)
    return found


class Faces(Prior):
    """Gaussian faces of a known power, and their exact denoiser; of the soft process where that is asked for."""

    shape = (3, SIDE, SIDE)

    def __init__(self, power: Tensor, soft: SoftSettings | None) -> None:
        super().__init__()
        self.power, self.soft = power.float(), soft
        self.sigma_min, self.sigma_max = LOW, HIGH if soft is None else soft.highest
        self.sigma_jacobian = float("inf")
        if soft is not None:
            self.process = soft.process()

    @property
    def affine(self) -> tuple[float, float]:
        return 0.5, 0.5

    def denoise(self, z: Tensor, sigma: Level, cond: object = None) -> Tensor:
        g = torch.ones(()) if self.soft is None else FAMILY.gains(z, self.soft.strength(sigma))
        level = per_sample(torch.as_tensor(sigma), z)
        return FAMILY.synthesize(g * self.power / (g**2 * self.power + level**2) * FAMILY.analyze(z))


def gaussian_operator(width: float, sigma: float, factor: int) -> LinearPhysics:
    """Every `factor`-th pixel of a Gaussian blur that wraps round."""

    def back(y: Tensor) -> Tensor:
        large = y.new_zeros(len(y), 3, SIDE, SIDE)
        large[..., ::factor, ::factor] = y
        return FAMILY(large, width)

    A = lambda x, **_: FAMILY(x, width)[..., ::factor, ::factor]  # noqa: E731
    shape = (3, SIDE, SIDE)
    return LinearPhysics(A=A, A_adjoint=lambda y, **_: back(y), img_size=shape, noise_model=GaussianNoise(sigma))


METHODS = {
    "soft, 10 levels": ("soft", {"steps": 10}),
    "soft, 50 levels": ("soft", {"steps": 50}),
    "soft, 200 levels": ("soft", {"steps": 200}),
    "proximal, 50 levels": ("proximal", {"steps": 50}),
    "mmps, 25 levels": ("mmps", {"steps": 25}),
    "dps, 200 levels": ("dps", {"steps": 200}),
}


def restore(power: Tensor, number: int) -> list[str]:
    """Rows of a table: each method on each task."""
    white = torch.randn(number, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    truth = 0.5 + 0.5 * FAMILY.synthesize(power.float().sqrt() * FAMILY.analyze(white))
    narrow, wide = (SOFT.level_of(width) / 2 for width in (1.5, 3.0))
    tasks = {
        f"deblur 1.5 px, noise {narrow:.3f}": gaussian_operator(1.5, narrow, 1),
        f"deblur 3 px, noise {wide:.3f}": gaussian_operator(3.0, wide, 1),
        "deblur 3 px, noise 0.005": gaussian_operator(3.0, 0.005, 1),
        f"super-resolution x2 after 1.5 px, noise {narrow / 2:.3f}": gaussian_operator(1.5, narrow / 2, 2),
    }
    priors, lines = {True: Faces(power, SOFT), False: Faces(power, None)}, []
    for task, op in tasks.items():
        torch.manual_seed(0)
        y = op(truth)
        for name, (algorithm, settings) in METHODS.items():
            solver, started = Solver(priors[algorithm == "soft"], algorithm, **settings), time.process_time()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = solver.solve(y, op, n_samples=4, progress=False)
            seconds = (time.process_time() - started) / number
            one, many = (
                np.mean([psnr(a, b) for a, b in zip(x, truth, strict=True)]) for x in (found.samples[:, 0], found.mean)
            )
            ratio, misfit = variance_ratio(found.samples, truth), float(found.chi2.mean())
            lines.append(f"| {task} | {name} | {one:.2f} | {many:.2f} | {ratio:.2f} | {misfit:.2f} | {seconds:.3f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with faces/")
    parser.add_argument("--part", choices=("damaged", "restore"), default="damaged")
    parser.add_argument("--number", type=int, default=0, help="faces: of all arms (200), or to restore (12)")
    args = parser.parse_args()
    read = [p for _, p in read_images(args.data / "faces" / "utkface64.npz", 3, 2)]
    faces = torch.stack(shuffled(read, 0))[-3000:].double() / 127.5 - 1
    faces = faces - faces.mean((0, 2, 3), keepdim=True)
    if args.part == "damaged":
        print("| linear denoisers of 200 faces | distance to held-out faces |\n|---|---|")
        for name, values in damaged(faces, 1.0, args.number or 200).items():
            print(f"| {name} | {np.mean(values):.3f} ± {np.std(values, ddof=1) / len(values) ** 0.5:.3f} |")
    else:
        print("| task | method | PSNR | PSNR of mean | V/B | misfit | seconds |\n|---|---|---|---|---|---|---|")
        print("\n".join(restore(power_of(faces), args.number or 12)))


if __name__ == "__main__":
    main()
