r"""How much is a noisy image worth? Prints docs/benchmarks/theory.md; the exit code is 1 if a criterion fails.

    python benchmarks/theory.py > docs/benchmarks/theory.md
    python benchmarks/theory.py --plots FOLDER

Many noisy samples are worth few clean ones for fine detail: with noise sigma and detail of size delta the price grows
as (sigma / delta)^6 in the hardest case. For the directions in which the data lie it grows as sigma^4 alone, so that a
few clean samples buy the detail and many noisy ones the rest. Weighting each sample by its noise, as the objective
`denoise` does, is never worse than leaving the noisy ones out or counting all alike.

Samples X_i = Y_i + sigma_i Z_i in d dimensions, Y from a law D of k atoms, Z standard normal, each sigma_i known. With
weighted moments D should be found, up to factors of k, to (our reading of "How Much is a Noisy Image Worth?", Daras et
al., 2024, arXiv 2411.02780; what follows tests it)

    W1 <~ (d / n_d)^(1/4) + (1 / n_l)^(1 / (4k - 2)),    n_d = sum_i sigma_i^-4,    n_l = sum_i sigma_i^-(4k - 2)

so that a noisy sample is worth sigma^-4 clean ones for the subspace in which the atoms lie, and sigma^-(4k - 2) for
the fine detail within it: a few clean samples buy the detail, many noisy ones the rest. Here k = 2, where the detail
costs (sigma / delta)^6 for atoms 2 delta apart. The detail depends on sigma / delta alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.polynomial.hermite_e import hermegauss

THEORY = __doc__.split("\n\n", 2)[2]
WEIGHTS = np.array([0.3, 0.7])
TARGET = 0.3
"""The error at which samples are counted: median W1 of 0.3 delta."""
DELTAS = (1.0, 0.7, 0.5, 0.35, 0.25, 0.18, 0.125, 0.09, 0.0625)
SIGMAS = (1.0, 1.5, 2.0, 3.0, 4.0)
SHARES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
DIMENSION = 60
MIXES = (*((2000, 18000, sigma) for sigma in (1.25, 1.5, 2.0, 3.0, 4.0)), (200, 1800, 2.0))
ALONE = ((2000, 0, 2.0), (0, 2000, 2.0))
LEVELS = ((0.5, 0.6), (0.5, 1.0), (0.2, 0.25))
STANDARD_ERRORS = 4.5

Groups = Sequence[tuple[float, float]]
"""Groups of samples of one noise level each: (how many, sigma)."""


@dataclass(frozen=True)
class Check:
    """A criterion: `found` must lie within [low, high]."""

    what: str
    found: float
    low: float
    high: float

    @property
    def passed(self) -> bool:
        return self.low <= self.found <= self.high

    def __str__(self) -> str:
        span = f"{self.low:.4g} to {self.high:.4g}"
        return f"- {'PASS' if self.passed else 'FAIL'}: {self.what}: {self.found:.4g} (wanted: {span})"


@dataclass(frozen=True)
class Part:
    """One question: a table and what is demanded of it."""

    title: str
    head: tuple[str, ...]
    rows: list[tuple]
    checks: list[Check]

    def __str__(self) -> str:
        cells = [["" if v != v else f"{v:.4g}" if isinstance(v, float) else str(v) for v in row] for row in self.rows]
        table = [f"| {' | '.join(row)} |" for row in [self.head, *cells]]
        table.insert(1, "|" + "---|" * len(self.head))
        return "\n".join([f"## {self.title}", "", *table, "", *map(str, self.checks), ""])


def moment_estimates(x: np.ndarray, sigma: float) -> np.ndarray:
    """`sigma^j He_j(x / sigma)`, j = 1, 2, 3 on a new last axis: given Y their means are Y, Y^2, Y^3."""
    return np.stack([x, x**2 - sigma**2, x**3 - 3 * sigma**2 * x], -1)


def moment_law(delta: float, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean (3,) and covariance (3, 3) of the moment estimates of one sample, exact: 80 Gauss-Hermite nodes."""
    nodes, chances = hermegauss(80)
    x = np.array([-delta, delta])[:, None] + sigma * nodes
    p = WEIGHTS[:, None] * chances / chances.sum()
    h = moment_estimates(x, sigma)
    mean = np.einsum("ab,abi->i", p, h)
    return mean, np.einsum("ab,abi,abj->ij", p, h - mean, h - mean)


def moments(delta: float, groups: Groups, normal: np.ndarray) -> np.ndarray:
    """Weighted moment estimates (replicas, 3) from all samples, w_i ~ sigma_i^(-2 j), in their Gaussian limit.

    `normal` (replicas, 3) is the noise of the limit.
    """
    j = np.arange(1, 4)
    groups = [(n, sigma) for n, sigma in groups if n > 0]
    worth = np.array([n * sigma ** (-2.0 * j) for n, sigma in groups])
    covariance = np.zeros((3, 3))
    for (n, sigma), share in zip(groups, worth / worth.sum(0), strict=True):
        mean, one = moment_law(delta, sigma)
        covariance += np.outer(share, share) * one / n
    return mean + normal @ np.linalg.cholesky(covariance).T


def two_atoms(m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions and weights, (replicas, 2) each, of the two atoms with the moments `m` (replicas, 3).

    Where no law has these moments (m2 < m1^2) it is the one atom at m1.
    """
    m1, m2, m3 = m.T
    variance = m2 - m1**2
    real = variance > 0
    variance = np.where(real, variance, 1.0)
    skew = np.where(real, (m3 - 3 * m1 * m2 + 2 * m1**3) / variance, 0.0)
    root = np.sqrt(skew**2 + 4 * variance)
    low, high = (skew - root) / 2, (skew + root) / 2
    below = high / root
    positions = m1[:, None] + np.where(real, [low, high], 0.0).T
    return positions, np.stack([below, 1 - below], -1)


def wasserstein(positions: np.ndarray, weights: np.ndarray, delta: float) -> np.ndarray:
    """W1 (replicas,) of each pair of atoms to the true ones: the area between the distribution functions."""
    true = np.broadcast_to([-delta, delta], positions.shape)
    points = np.concatenate([positions, true], -1)
    mass = np.concatenate([weights, np.broadcast_to(-WEIGHTS, positions.shape)], -1)
    order = np.argsort(points, -1)
    points, mass = (np.take_along_axis(a, order, -1) for a in (points, mass))
    return (np.abs(np.cumsum(mass, -1)[:, :-1]) * np.diff(points, axis=-1)).sum(-1)


def error(delta: float, groups: Groups, normal: np.ndarray) -> float:
    """Median W1 over the replicas."""
    return float(np.median(wasserstein(*two_atoms(moments(delta, groups, normal)), delta)))


def needed(delta: float, sigma: float, normal: np.ndarray, have: Groups = ()) -> float:
    """How many samples of level `sigma` reach a median W1 of TARGET delta beside those at hand."""
    low, high = 0.0, 14.0  # log10
    for _ in range(30):
        middle = (low + high) / 2
        missed = error(delta, [*have, (10**middle, sigma)], normal) > TARGET * delta
        low, high = (middle, high) if missed else (low, middle)
    return 10**high


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Exponent of the power law through the points."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def fine_detail(replicas: int) -> Part:
    draw = np.random.default_rng(0)
    normal = draw.standard_normal((replicas, 3))
    by_delta = [needed(delta, 1.0, normal) for delta in DELTAS]
    normal = draw.standard_normal((replicas, 3))
    by_sigma = [needed(0.25, sigma, normal) for sigma in SIGMAS]
    # The Gaussian limit against real samples, where they are fewest.
    x = np.where(draw.random((1000, 1 + int(by_delta[2]))) < WEIGHTS[0], -DELTAS[2], DELTAS[2])
    sampled = two_atoms(moment_estimates(x + draw.standard_normal(x.shape), 1.0).mean(1))
    limit = float(np.median(wasserstein(*sampled, DELTAS[2]))) / (TARGET * DELTAS[2])
    rows = [(d, 1.0, 1 / d, n) for d, n in zip(DELTAS, by_delta, strict=True)]
    rows += [(0.25, s, s / 0.25, n) for s, n in zip(SIGMAS, by_sigma, strict=True)]
    checks = [
        Check("exponent over the last four delta", -slope(DELTAS[-4:], by_delta[-4:]), 5.4, 6.6),
        Check("exponent over sigma", slope(SIGMAS, by_sigma), 5.4, 6.6),
        Check("exponent over the first four delta: too far apart (control)", -slope(DELTAS[:4], by_delta[:4]), 0, 5.4),
        Check("real samples over their Gaussian limit, median W1 at delta = 0.5", limit, 0.9, 1.1),
    ]
    title = "Fine detail: samples until the median W1 is 0.3 delta, about (sigma / delta)^6"
    return Part(title, ("delta", "sigma", "sigma / delta", "samples"), rows, checks)


def exchange_rate(replicas: int) -> Part:
    normal, delta, sigma = np.random.default_rng(1).standard_normal((replicas, 3)), 0.25, 2.0
    clean = needed(delta, 1.0, normal)
    rows = []
    for share in SHARES:
        noisy = needed(delta, sigma, normal, have=[(share * clean, 1.0)])
        linear = (1 - share) * sigma**6 * clean
        rows.append((share, share * clean, noisy, linear, noisy / linear))
    ratios = [row[-1] for row in rows]
    checks = [
        Check("smallest ratio to the price of sigma^6", min(ratios), 0.5, 2.0),
        Check("largest ratio to the price of sigma^6", max(ratios), 0.5, 2.0),
        Check("smallest ratio to a price of sigma^4 (control)", min(ratios) * sigma**2, 2.0, np.inf),
    ]
    title = f"Exchange rate: of {clean:.3g} clean samples (delta = 0.25) only a share is there; the rest has sigma = 2"
    head = ("share", "clean", "noisy needed", "(1 - share) sigma^6 n_clean", "ratio")
    return Part(title, head, rows, checks)


def shrinking_separation(replicas: int) -> Part:
    normal = np.random.default_rng(2).standard_normal((replicas, 3))
    counts = [10.0**e for e in range(5, 11)]
    fixed = [error(0.0, [(n, 1.0)], normal) for n in counts]
    pair = [error(0.25, [(n, 1.0)], normal) for n in counts]
    moving = [error(n ** (-1 / 6), [(n, 1.0)], normal) for n in counts]
    checks = [
        Check("slope with delta = n^(-1/6)", slope(counts, moving), -1.1 / 6, -0.9 / 6),
        Check("slope with one fixed atom is not -1/6 (control)", slope(counts, fixed), -0.7, -0.3),
        Check("slope with two fixed atoms is not -1/6 (control)", slope(counts[2:], pair[2:]), -0.7, -0.3),
    ]
    title = "The rate is one of the worst case: W1 falls as n^(-1/6) only if the atoms move together"
    head = ("n", "one fixed atom", "two fixed atoms, delta = 0.25", "two atoms, delta = n^(-1/6)")
    return Part(title, head, list(zip(counts, fixed, pair, moving, strict=True)), checks)


def covariance_error(second: np.ndarray) -> float:
    """Operator norm of the distance to `v v'`, v the first axis."""
    true = np.zeros_like(second)
    true[0, 0] = 1.0
    return float(np.abs(np.linalg.eigvalsh(second - true)).max())


def subspace_errors(clean: int, noisy: int, sigma: float, replicas: int) -> list[float]:
    """Mean error, weighted, uniform, of the clean and of the noisy part, of the estimate of `E[Y Y'] = v v'`.

    The estimate is the weighted mean of `X X' - sigma_i^2 I`; nan for a part without samples.
    """
    draw, levels = np.random.default_rng((3, clean, noisy, round(100 * sigma))), np.array([1.0, sigma])
    counts = np.array([clean, noisy])
    weightings = counts * np.array([levels**-4, [1, 1], [1, 0], [0, 1]])
    with np.errstate(invalid="ignore"):
        shares = weightings / weightings.sum(1, keepdims=True)
    errors = np.full((replicas, 4), np.nan)
    for row in errors:
        second = []
        for n, level in zip(counts, levels, strict=True):
            x = level * draw.standard_normal((n, DIMENSION), dtype=np.float32)
            x[:, 0] += draw.choice([-1.0, 1.0], n).astype(np.float32)
            second.append((x.T @ x).astype(float) / max(n, 1) - level**2 * np.eye(DIMENSION))
        for k, share in enumerate(shares):
            if np.isfinite(share).all():
                row[k] = covariance_error(share[0] * second[0] + share[1] * second[1])
    return errors.mean(0).tolist()


def subspace(replicas: int) -> Part:
    rows = []
    for clean, noisy, sigma in MIXES + ALONE:
        errors, rate = subspace_errors(clean, noisy, sigma, replicas), (DIMENSION / (clean + noisy * sigma**-4)) ** 0.5
        rows.append((clean, noisy, sigma, *errors, errors[0] / rate, errors[1] / rate))
    ratio, ratio_uniform = np.array(rows)[:, 7:].T
    weighted, uniform, clean = np.array(rows)[: len(MIXES), 3:6].T
    best = np.minimum(uniform, clean)
    checks = [
        Check("weighted / sqrt(d / n_d), largest distance from the mean", abs(ratio / ratio.mean() - 1).max(), 0, 0.15),
        Check("the same, uniform (control)", abs(ratio_uniform / ratio_uniform.mean() - 1).max(), 0.15, np.inf),
        Check("largest weighted error over min(uniform, clean only)", (weighted / best).max(), 0, 1),
        Check("largest uniform error over clean only (control)", (uniform / clean).max(), 1, np.inf),
    ]
    title = f"Subspace, d = {DIMENSION}: error of the covariance, about sqrt(d / n_d) with weights sigma^-4"
    head = ("clean", "noisy", "sigma", "weighted", "uniform", "clean only", "noisy only")
    return Part(title, (*head, "weighted / sqrt(d / n_d)", "uniform / sqrt(d / n_d)"), rows, checks)


def training_target(draws: int) -> Part:
    import torch

    from ambient_solve.noise import Streams
    from ambient_solve.objectives.base import Batch
    from ambient_solve.objectives.denoise import unbiased_target
    from ambient_solve.priors.gaussian import MixturePrior

    prior = MixturePrior(torch.tensor([0.5, 0.5]), torch.tensor([[-1.0], [1.0]]), torch.tensor([0.01, 0.01]))
    z0, rows = prior.sample(draws, torch.Generator().manual_seed(4)).T, []
    for sigma_noise, sigma in LEVELS:
        y = z0 + sigma_noise * Streams([5], 1).normal(z0)
        for given in (sigma_noise, 0.0):
            level, noise = torch.tensor([sigma]), torch.tensor([given])
            batch = Batch(z=y, sigma=level, sigma_noise=noise, sigma_min=noise, sigma_max=0 * noise)
            z, tau = unbiased_target(batch, Streams([6], 1))
            product = (tau - prior.denoise(z.T, sigma).T) * z
            bias = abs(float(product.mean() / product.std())) * draws**0.5
            v = sigma_noise**2 * sigma**2 / (sigma**2 - sigma_noise**2)
            rows.append((sigma_noise, sigma, given, float((tau - z0).var()), v, float((tau - z0).var()) / v, bias))
    ratio, bias = np.array(rows)[:, 5:].T
    # tau - z0 is Gaussian: its sampled variance has a relative standard error of sqrt(2 / n).
    width = STANDARD_ERRORS * (2 / draws) ** 0.5
    checks = [
        Check("Var(tau - z0) over the formula, largest distance from 1", abs(ratio[::2] - 1).max(), 0, width),
        Check("the same, noisy samples taken for clean (control)", abs(ratio[1::2] - 1).min(), 4 * width, np.inf),
        Check("E[(tau - D) z] in standard errors, largest", bias[::2].max(), 0, STANDARD_ERRORS),
        Check("the same, noisy samples taken for clean (control)", bias[1::2].min(), 2 * STANDARD_ERRORS, np.inf),
    ]
    title = "The target of `Denoise`: Var(tau - z0) = sigma_n^2 sigma^2 / (sigma^2 - sigma_n^2), E[tau | z] = D"
    head = ("sigma_n", "sigma", "sigma_n given", "Var(tau - z0)", "formula", "ratio", "E[(tau - D) z], standard errors")
    return Part(title, head, rows, checks)


def plot(parts: dict[str, Part], folder: Path) -> None:
    """Write theory.png: samples over sigma / delta, the exchange rate, the subspace."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("No plots: they need matplotlib (pip install matplotlib).", file=sys.stderr)
        return
    detail, exchange, mixes = (np.array(parts[name].rows, float) for name in ("detail", "exchange", "subspace"))
    figure = Figure(figsize=(15, 4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    left.loglog(detail[:, 2], detail[:, 3], "o", label="measured")
    left.loglog(detail[:, 2], detail[8, 3] * (detail[:, 2] / detail[8, 2]) ** 6, label="slope 6")
    left.set(xlabel="sigma / delta", ylabel="samples until W1 = 0.3 delta")
    middle.plot(exchange[:, 0], exchange[:, 2], "o", label="measured")
    middle.plot(exchange[:, 0], exchange[:, 3], label="(1 - share) sigma^6 n_clean")
    middle.set(xlabel="share of the clean samples at hand", ylabel="samples of sigma = 2 still needed")
    for column, label in enumerate(("weighted", "uniform", "clean only", "noisy only"), 3):
        right.semilogy(mixes[:5, 2], mixes[:5, column], "o-", label=label)
    right.set(xlabel="sigma of the noisy samples", ylabel="error of the covariance")
    for axes in (left, middle, right):
        axes.legend()
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "theory.png", dpi=120)


PARTS = {
    "detail": (fine_detail, 8_000, 1_500),
    "exchange": (exchange_rate, 8_000, 1_500),
    "separation": (shrinking_separation, 8_000, 1_500),
    "subspace": (subspace, 12, 5),
    "target": (training_target, 1_000_000, 100_000),
}
"""(what measures it, replicas or draws, the same for --quick)."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plots", type=Path, help="also write plots into this folder")
    parser.add_argument("--quick", action="store_true", help="fewer replicas")
    args = parser.parse_args(argv)
    started = time.perf_counter()
    print(f"# How much is a noisy image worth?\n\nPrinted by `python benchmarks/theory.py`.\n\n{THEORY}")
    parts = {}
    for name, (measure, full, quick) in PARTS.items():
        parts[name] = measure(quick if args.quick else full)
        print(parts[name], flush=True)
    if args.plots:
        plot(parts, args.plots)
    failed = [check for part in parts.values() for check in part.checks if not check.passed]
    total = sum(len(part.checks) for part in parts.values())
    print(f"{total - len(failed)} of {total} criteria hold.")
    print(f"{time.perf_counter() - started:.0f} seconds", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
