r"""Can a prior learned from incomplete data beat a perfect one? Prints its page; exit code 1 if not so.

    python benchmarks/crossing.py > docs/benchmarks/crossing.md

Single samples of A-DPS with a prior of undersampled data have a lower error than DPS samples with a perfect prior,
where few lines were measured. The prior is no better for it: its samples collapse towards conditional means, and the
mean of eight DPS samples of the perfect prior is nearer at every rate. Conditioned on the mask of the measurement, the
exact prior gives the posterior mean by every method, A-OS in one call.

A-DPS (Aali et al., 2025, arXiv 2403.08728) is reported to beat DPS with a prior of complete scans where few lines of
k-space were measured, and to lose where many were. Here every prior is exact: lines z0 ~ N(0, K) of 96 complex
numbers, one in R of them measured (6 in the middle always), noise .01 for data of deviation .5. A prior "R = 4" is the
exact denoiser E[z0 | M z_sigma] of what a network sees that was trained at that rate, one line in R + 1; the clean
prior sees all. The step of A-DPS is the best of five for each cell, judged by the truth; the other methods are as they
come. What the tables say:

- The crossing is real, with exact priors. Single samples of A-DPS lose to DPS at R = 2 with every prior and win at
  R = 6 and 8 with every prior, the most with the one trained at R = 8, which is the best from R = 4 on.
- It is not a better prior. A mask-conditioned denoiser ignores what it does not see, so that samples collapse towards
  conditional means (V / B far below 1), and squared error rewards means: an exact posterior sample errs by a factor of
  root 2 more than the posterior mean. The mean of a few DPS samples with the clean prior beats A-DPS with any prior at
  every rate, its own mean included, and its samples are calibrated.
- The mask of training is the wrong one to show. It hides lines that were measured, which are lost. Conditioned on the
  mask of the measurement, whatever it was trained on, the exact prior gives the posterior mean by every method, A-OS in
  one call, and no sampler with another mask reaches it. A network may not, with masks unlike those of its training.
- The proximal sampler, without a gradient, errs less than A-DPS in every cell with the same prior, for the same reason:
  its samples vary too little, with the clean prior as well.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from deepinv.physics import GaussianNoise, Inpainting
from torch import Tensor
from tqdm import tqdm

from ambient_solve import MMPS, AmbientPrior, Prior, Proximal, Solver
from ambient_solve.algorithms.adps import ADPS
from ambient_solve.algorithms.aos import AOS
from ambient_solve.algorithms.base import Algorithm
from ambient_solve.evaluate.calibration import variance_ratio
from ambient_solve.noise import Level

TEXT = __doc__.split("\n\n", 2)[2]
LINES, CALIBRATION, NOISE = 96, 6, 0.01
RATES = (2, 4, 6, 8)
STEPS, SAMPLES = 200, 8
LENGTHS = (0.02, 0.05, 0.12, 0.3, 0.7)
"""`l_ss` that are tried in each cell of A-DPS."""


def covariance() -> Tensor:
    """That of the k-space of a line through a picture, (96, 96) float64: smooth, brighter in its middle.

    Real and imaginary part are independent, of deviation .5 in the mean over the lines.
    """
    place = torch.arange(LINES, dtype=torch.float64) - LINES // 2
    window = torch.exp(-((place / 30) ** 4))
    fourier = torch.exp(-2j * torch.pi * place[:, None] * place / LINES) / LINES**0.5
    spectrum = 1 / (1 + (place.abs() / 3) ** 2.2)
    picture = window[:, None] * (fourier.mH * spectrum @ fourier).real * window
    # The window is even, hence so is the picture's covariance, and that of its transform real.
    lines = (fourier @ picture.to(fourier) @ fourier.mH).real
    return 0.25 * lines / lines.diagonal().mean()


def draw_lines(rate: int, generator: torch.Generator) -> Tensor:
    """A mask of 96 // rate lines, the 6 in the middle among them, (96,)."""
    first = (LINES - CALIBRATION) // 2
    mask = torch.zeros(LINES)
    mask[first : first + CALIBRATION] = 1
    others = (1 - mask).nonzero()[:, 0]
    chosen = torch.randperm(len(others), generator=generator)[: LINES // rate - CALIBRATION]
    mask[others[chosen]] = 1
    return mask


@final
class MaskConditionedLines(Prior):
    """The exact mask-conditioned denoiser of lines `z0 ~ N(0, K)`, shape (2, 1, 96), for known masks (groups, 96).

    E[z0 | M z_sigma] = K M (M K M + sigma^2 I)^-1 M z, with M K M = U L U' worked out once. Of N rows, the first
    N / groups are shown the first mask, and so on.
    """

    shape, sigma_min, sigma_max, sigma_data = (2, 1, LINES), 0.004, 10.0, 0.5

    def __init__(self, K: Tensor, masks: Tensor) -> None:
        super().__init__()
        m = masks.double()
        values, vectors = torch.linalg.eigh(m[:, :, None] * K * m[:, None, :])
        visible = m[:, :, None] * vectors
        self.register_buffer("values", values.clamp_min(0))
        self.register_buffer("inward", visible.float())
        self.register_buffer("outward", (visible.mT @ K).float())

    def denoise(self, z: Tensor, sigma: Level, cond: Any = None) -> Tensor:
        """See `Prior.denoise`; `sigma` one level for all rows or one for each."""
        groups = len(self.values)
        level = torch.as_tensor(sigma, dtype=torch.float64).reshape(-1, 1, 1)
        level = level if len(level) == 1 else level.reshape(groups, -1, 1).repeat_interleave(2, 1)
        gain = 1 / (self.values[:, None] + level**2)
        return (z.reshape(groups, -1, LINES) @ self.inward * gain.float() @ self.outward).reshape(z.shape)


class Cell:
    """Measurements at one rate: `groups` masks, and `each` pictures for each mask."""

    def __init__(self, K: Tensor, rate: int, groups: int, each: int) -> None:
        self.K, self.groups, self.each = K, groups, each
        generator = torch.Generator().manual_seed(rate)
        self.masks = torch.stack([draw_lines(rate, generator) for _ in range(groups)])
        # A prior of rate R was used to seeing the lines of rate R + 1: training hid some of those at hand.
        self.training = {r: torch.stack([draw_lines(r + 1, generator) for _ in range(groups)]) for r in RATES}
        rows = groups * each
        unit = torch.randn(rows, 2, 1, LINES, generator=generator, dtype=torch.float64)
        self.truth = (unit @ torch.linalg.cholesky(K + 1e-12 * torch.eye(LINES)).T).float()
        mask = self.per_picture(self.masks).expand(-1, 2, -1, -1)
        self.op = Inpainting((2, 1, LINES), mask=mask, noise_model=GaussianNoise(NOISE))
        self.y = mask * (self.truth + NOISE * torch.randn(self.truth.shape, generator=generator))

    def per_picture(self, masks: Tensor) -> Tensor:
        """(groups, 96) to (groups * each, 1, 1, 96)."""
        return masks.repeat_interleave(self.each, 0)[:, None, None]

    def mask_conditioned(self, masks: Tensor) -> AmbientPrior:
        return AmbientPrior(MaskConditionedLines(self.K, masks), policy="measurement", mask=self.per_picture(masks))

    def solve(self, prior: Prior, algorithm: Algorithm, n: int) -> Tensor:
        """(pictures, n, 2, 1, 96)."""
        return Solver(prior, algorithm).solve(self.y, self.op, n_samples=n, seed=range(len(self.y))).samples

    def exact(self, n: int) -> Tensor:
        """Samples of the posterior: the mean, and a draw of what is left of the covariance."""
        mean = MaskConditionedLines(self.K, self.masks).denoise(self.y, NOISE)
        left = []
        for mask in self.masks.bool():
            seen = self.K[mask]
            inner = torch.linalg.inv(seen[:, mask] + NOISE**2 * torch.eye(int(mask.sum())))
            left.append(self.K - seen.T @ inner @ seen)
        root = torch.linalg.cholesky(torch.stack(left) + 1e-9 * torch.eye(LINES))
        unit = torch.randn(self.groups, self.each * n * 2, LINES, generator=torch.Generator().manual_seed(0))
        return mean[:, None] + (unit.double() @ root.mT).float().reshape(len(mean), n, 2, 1, LINES)

    def nrmse(self, found: Tensor) -> float:
        """Of estimates (pictures, n, 2, 1, 96), over all of them."""
        return float(((found - self.truth[:, None]) ** 2).mean().sqrt() / (self.truth**2).mean().sqrt())

    def adps(self, prior: Prior) -> Tensor:
        """Samples with the best of `LENGTHS`, judged by the truth: the most that the method can give."""
        rules = [ADPS(steps=STEPS, l_ss=l_ss) for l_ss in LENGTHS]
        return self.solve(prior, min(rules, key=lambda rule: self.nrmse(self.solve(prior, rule, 1))), SAMPLES)

    def methods(self) -> dict[str, Callable[[], Tensor]]:
        """What draws samples (pictures, n, 2, 1, 96), by its name in the table."""
        clean, own = MaskConditionedLines(self.K, torch.ones(1, LINES)), self.mask_conditioned(self.masks)
        priors = {rate: self.mask_conditioned(masks) for rate, masks in self.training.items()}
        return {
            "exact posterior": lambda: self.exact(SAMPLES),
            "A-OS": lambda: self.solve(own, AOS(), 1),
            "DPS, clean prior": lambda: self.adps(clean),
            **{f"A-DPS, prior R = {rate}": partial(self.adps, prior) for rate, prior in priors.items()},
            "A-DPS, conditioned on the measured mask": lambda: self.adps(own),
            "proximal, clean prior": lambda: self.solve(clean, Proximal(), SAMPLES),
            **{
                f"proximal, prior R = {rate}": partial(self.solve, prior, Proximal(), SAMPLES)
                for rate, prior in priors.items()
            },
            "proximal, conditioned on the measured mask": lambda: self.solve(own, Proximal(), SAMPLES),
            "mmps, clean prior": lambda: self.solve(clean, MMPS(), SAMPLES),
            "mmps, conditioned on the measured mask": lambda: self.solve(own, MMPS(), SAMPLES),
        }


@dataclass(frozen=True)
class Score:
    """NRMSE of one sample, NRMSE of the mean of all, and `V / B`, 1 where the variance is right."""

    single: float
    mean: float
    calibration: float


def measure(K: Tensor, rate: int, groups: int, each: int) -> dict[str, Score]:
    """The column of one rate."""
    cell, column = Cell(K, rate, groups, each), {}
    for name, method in tqdm(cell.methods().items(), desc=f"R = {rate}"):
        samples = method()
        vb = variance_ratio(samples, cell.truth) if samples.shape[1] > 1 else math.nan
        column[name] = Score(cell.nrmse(samples), cell.nrmse(samples.mean(1, keepdim=True)), vb)
    return column


def criteria(columns: dict[int, dict[str, Score]]) -> list[tuple[str, float, float, float]]:
    """(what, found, low, high): what the docstring says of the table."""
    clean, first, last = "DPS, clean prior", columns[RATES[0]], columns[RATES[-1]]
    exact, own = "exact posterior", "A-DPS, conditioned on the measured mask"
    learned, every = [f"A-DPS, prior R = {rate}" for rate in RATES], columns.values()
    ratios = [column[name].calibration for column in every for name in learned]
    return [
        (
            "R = 2: best A-DPS over DPS, clean prior",
            min(first[n].single for n in learned) / first[clean].single,
            1.1,
            9,
        ),
        ("R = 8: A-DPS, prior R = 8, over DPS, clean prior", last[learned[-1]].single / last[clean].single, 0, 0.9),
        ("R = 8: A-DPS, prior R = 8, over prior R = 2", last[learned[-1]].single / last[learned[0]].single, 0, 0.95),
        (
            "mean of DPS, clean prior, over best mean of A-DPS, largest over R",
            max(c[clean].mean / min(c[n].mean for n in learned) for c in every),
            0,
            1,
        ),
        ("V / B of A-DPS, largest", max(ratios), 0, 0.6),
        ("V / B of DPS, clean prior, smallest (control)", min(c[clean].calibration for c in every), 0.8, 1.2),
        ("V / B of the exact posterior, smallest (control)", min(c[exact].calibration for c in every), 0.9, 1.1),
        ("A-DPS over A-OS, smallest", min(c[n].single / c["A-OS"].single for c in every for n in learned), 1.05, 9),
        (
            "A-DPS, conditioned on the measured mask, over A-OS, largest",
            max(c[own].single / c["A-OS"].single for c in every),
            0.99,
            1.02,
        ),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--masks", type=int, default=6, help="masks of each rate")
    parser.add_argument("--pictures", type=int, default=8, help="pictures for each mask")
    args = parser.parse_args(argv)
    started, K = time.perf_counter(), covariance()
    columns = {rate: measure(K, rate, args.masks, args.pictures) for rate in RATES}
    print(f"# Priors of incomplete data at several rates\n\nPrinted by `python benchmarks/crossing.py`.\n\n{TEXT}")
    for title, field in (
        ("NRMSE of one sample", "single"),
        (f"NRMSE of the mean of {SAMPLES} samples", "mean"),
        ("V / B, variance of the samples over squared error of their mean; 1 is calibrated", "calibration"),
    ):
        print(f"## {title}\n\n| | {' | '.join(f'R = {rate}' for rate in RATES)} |\n|" + "---|" * (1 + len(RATES)))
        for name in columns[RATES[0]]:
            cells = [getattr(column[name], field) for column in columns.values()]
            print(f"| {name} | " + " | ".join("" if math.isnan(v) else f"{v:.3f}" for v in cells) + " |")
        print()
    passed = []
    for what, found, low, high in criteria(columns):
        passed.append(low <= found <= high)
        print(f"- {'PASS' if passed[-1] else 'FAIL'}: {what}: {found:.3f} (wanted: {low:g} to {high:g})")
    print(f"{time.perf_counter() - started:.0f} seconds", file=sys.stderr)
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
