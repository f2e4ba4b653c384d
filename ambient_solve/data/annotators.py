r"""The decision rules of the annotators: from a curve over noise levels to the levels at which a sample may be used.

All are pure functions of curves. Annotating by a classifier and a fixed threshold is Ambient Diffusion Omni (Daras et
al., 2025, arXiv 2506.10038); calibration, monotone smoothing, `1 / n_1` and the held-out rule are ours. With p the
clean law and q the damaged one, both plus noise of level sigma,

    P(damaged | z) averaged over damaged z  =  1/2 + Delta / 4,      Delta = integral of (p - q)^2 / (p + q)

for the best classifier of balanced data. More noise never tells p and q better apart, so this curve falls with sigma.
Using n_2 damaged beside n_1 clean samples pays above the level where this bias is smaller than the variance it saves,
which depends on n_1: a fixed threshold does not know it, `1 / n_1` and the held-out loss do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from ambient_solve.data.table import Annotation
from ambient_solve.errors import AmbientSolveError

Epsilon = float | Literal["auto"]


def falling(curve: np.ndarray) -> np.ndarray:
    """The nearest curve that never rises, in squares, along the last axis: isotonic regression by its min-max formula.

    `fit_i = min over a <= i of max over b >= i of the mean of curve_a .. curve_b`.
    """
    total = np.concatenate([np.zeros_like(curve[..., :1]), np.cumsum(curve, -1)], -1)
    fit = np.full(curve.shape, np.inf)
    for a in range(curve.shape[-1]):
        means = (total[..., a + 1 :] - total[..., a : a + 1]) / np.arange(1, curve.shape[-1] - a + 1)
        highest = np.maximum.accumulate(means[..., ::-1], -1)[..., ::-1]
        fit[..., a:] = np.minimum(fit[..., a:], highest)
    return fit


def switch(sigmas: np.ndarray, admitted: np.ndarray) -> np.ndarray:
    """The noise level above which all levels are admitted.

    It lies half way, in log sigma, between the highest refused level and the next.

    Args:
        sigmas: Rising noise levels, (L,).
        admitted: Whether a sample may be used at each, (..., L).

    Returns:
        (...): 0 where no level is refused, infinite where the highest one is.
    """
    refused = ~np.asarray(admitted)
    above_highest = refused.shape[-1] - np.argmax(refused[..., ::-1], -1)
    return _between(sigmas)[np.where(refused.any(-1), above_highest, 0)]


def _between(sigmas: np.ndarray) -> np.ndarray:
    return np.concatenate([[0.0], np.sqrt(sigmas[:-1] * sigmas[1:]), [np.inf]])


def tolerance(epsilon: Epsilon, n_clean: int) -> float:
    """How far from even odds a sample still passes for clean.

    Args:
        epsilon: A number in (0, 1/2), or "auto": `1 / n_clean`, as one-dimensional studies suggest.
        n_clean: Clean samples.

    Returns:
        The tolerance.
    """
    return 1 / n_clean if epsilon == "auto" else float(epsilon)


def check_epsilon(epsilon: Epsilon, owner: str) -> None:
    """Raise unless `epsilon` is "auto" or a number in (0, .5).

    Args:
        epsilon: The value.
        owner: What the error calls the annotator.

    Raises:
        AmbientSolveError: it is neither "auto" nor a number in (0, .5).
    """
    if epsilon != "auto" and not (isinstance(epsilon, (int, float)) and 0 < epsilon < 0.5):
        raise AmbientSolveError(f"{owner}: epsilon={epsilon!r} is neither 'auto' nor between 0 and 0.5; .05 is Omni's.")


def confusion_switch(sigmas: np.ndarray, probability: np.ndarray, epsilon: float) -> np.ndarray:
    """The level above which a classifier cannot distinguish a sample from a clean one: `P(damaged) < 1/2 + epsilon`.

    Args:
        sigmas: Rising noise levels, (L,).
        probability: P(damaged), averaged over noise, (..., L); it is smoothed by `falling`.
        epsilon: Tolerance, in (0, 1/2).

    Returns:
        `sigma_min`, (...).
    """
    return switch(sigmas, falling(probability) < 0.5 + epsilon)


@dataclass(frozen=True)
class Switch:
    """The level above which a group may be used, and how well the data know it.

    Attributes:
        sigma_min: The level: the median of the bootstrap.
        low: Lower end of the interval.
        high: Upper end of the interval.
        decided: Whether it spans a quarter of the levels at most.
    """

    sigma_min: float
    low: float
    high: float
    decided: bool


def held_out_switch(
    sigmas: np.ndarray, without: np.ndarray, with_group: np.ndarray, confidence: float = 0.9, resamples: int = 1000
) -> Switch:
    """The `Switch` of a group: above it, training with the group does not worsen the loss on held-out clean pictures.

    The difference of the losses, in its standard errors, is smoothed by `falling`: it is worse below a level and no
    worse above it. This is the level above which the differences sum to least, so that no single one of many levels
    decides. The interval is that of bootstrap samples of the pictures (Efron, 1979, Annals of Statistics 7(1)); what
    other first weights of the networks would change is not in it.

    Args:
        sigmas: Levels (L,), rising.
        without: Losses (n, L) of n pictures after training without the group.
        with_group: Those of the same pictures under the same noise after training with it.
        confidence: Share of the bootstrap samples whose level lies in the interval.
        resamples: How many of them; the same ones each time.

    Returns:
        The level, with its interval.
    """
    difference = with_group - without
    n = len(difference)
    error = difference.std(0, ddof=1) / np.sqrt(n)
    difference = difference / np.maximum(error, 1e-9 * max(np.abs(difference).max(), 1e-300))
    counts = np.random.default_rng((n, resamples)).multinomial(n, np.full(n, 1 / n), resamples)
    drawn = switch(sigmas, falling(counts @ difference / n) <= 0)
    shares = ((1 - confidence) / 2, 0.5, (1 + confidence) / 2)
    low, middle, high = (float(q) for q in np.quantile(drawn, shares, method="inverted_cdf"))
    between = _between(sigmas)
    apart = int(np.searchsorted(between, high) - np.searchsorted(between, low))
    decided = apart <= max(len(sigmas) // 4, 1)
    return Switch(middle, low, high, decided)


def calibrated(clean: np.ndarray, damaged: np.ndarray) -> np.ndarray:
    """Probabilities from the scores of a classifier on samples it was not trained on.

    Platt's scaling `expit(a s + b)` (1999), both classes weighing the same. The penalty, the square of `a` and `b` over
    the number of samples, and `a >= 0` draw a classifier that has learned nothing to even odds exactly.

    Args:
        clean: Scores of clean samples.
        damaged: Scores of damaged samples.

    Returns:
        P(damaged) of the damaged samples, of the shape of `damaged`.
    """
    middle, scale = np.concatenate([clean, damaged]).mean(), np.concatenate([clean, damaged]).std()
    u, v = ((s.ravel() - middle) / max(scale, 1e-12) for s in (clean, damaged))
    weight = 1 / min(len(clean), len(damaged))

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        a, b = w
        value = np.logaddexp(0, a * u + b).mean() + np.logaddexp(0, -a * v - b).mean() + weight * (w @ w) / 2
        right, wrong = expit(a * u + b), -expit(-a * v - b)
        return value, np.array([(right * u).mean() + (wrong * v).mean(), right.mean() + wrong.mean()]) + weight * w

    a, b = minimize(loss, np.zeros(2), jac=True, method="L-BFGS-B", bounds=[(0, None), (None, None)]).x
    return expit(a * (damaged - middle) / max(scale, 1e-12) + b)


def autocovariance(pictures: Sequence[np.ndarray], reach: int) -> np.ndarray:
    """The autocovariance of pictures: the mean product of entries a lag apart, less the common mean.

    Args:
        pictures: (C, H, W) each, at least `reach` high and wide.
        reach: Largest distance plus 1, in pixels.

    Returns:
        (2 reach - 1, 2 reach - 1), lag 0 in the middle.
    """
    mean, total, pairs = np.mean([p.mean() for p in pictures]), 0.0, 0.0
    for picture in pictures:
        total = total + _products(picture - mean, reach)
        pairs = pairs + _products(np.ones((1, *picture.shape[-2:])), reach)
    return total / pairs


def _products(planes: np.ndarray, reach: int) -> np.ndarray:
    """Sums of products of entries up to `reach - 1` apart, mean over planes; padded, so that no edge meets another."""
    size, near = tuple(n + reach for n in planes.shape[-2:]), range(1 - reach, reach)
    sums = np.fft.irfft2((np.abs(np.fft.rfft2(planes, size)) ** 2).mean(0), size)
    return sums.take(near, 0, mode="wrap").take(near, 1, mode="wrap")


def context_losses(covariance: np.ndarray, sizes: Sequence[int], sigmas: np.ndarray) -> np.ndarray:
    r"""Squared error of the best linear denoiser of one pixel that sees `size` x `size` noisy ones.

    Wiener's formula on the autocovariance r, with C the covariance of the window and c that of window and pixel:
    `r(0) - c' (C + sigma^2 I)^-1 c`.

    Args:
        covariance: `autocovariance` of the pictures, square, lag 0 in the middle.
        sizes: Sides of the windows, in pixels.
        sigmas: Noise levels, (L,).

    Returns:
        (sizes, L).
    """
    middle = len(covariance) // 2
    losses = []
    for size in sizes:
        rows, columns = (axis.ravel() for axis in np.meshgrid(range(size), range(size), indexing="ij"))
        window = covariance[middle + rows[:, None] - rows, middle + columns[:, None] - columns]
        values, vectors = np.linalg.eigh(window)
        # An estimate from finite pictures may have small negative eigenvalues, which no covariance has.
        values = values.clip(0)
        share = (vectors[(size // 2) * size + size // 2] * values)[:, None] ** 2
        losses.append(covariance[middle, middle] - (share / (values[:, None] + sigmas**2)).sum(0))
    return np.array(losses)


def context_levels(sigmas: np.ndarray, losses: np.ndarray, whole: np.ndarray, excess: float) -> np.ndarray:
    """The noise level up to which each context suffices: its loss exceeds that of the whole picture by little.

    Args:
        sigmas: Rising noise levels, (L,).
        losses: Loss of each context, (sizes, L).
        whole: Loss of the whole picture, (L,).
        excess: Largest relative excess of the loss, >= 0.

    Returns:
        (sizes,): infinite where a context always suffices, 0 where it never does.
    """
    refused = losses > (1 + excess) * whole
    return _between(sigmas)[np.where(refused.any(-1), np.argmax(refused, -1), len(sigmas))]


def context_ceiling(levels: np.ndarray, probability: np.ndarray, epsilon: float) -> np.ndarray:
    """The level below which a sample may be used: that of the largest crop that passes for clean.

    Args:
        levels: `context_levels` of the crops, (sizes,).
        probability: P(damaged) for crops of rising size, (..., sizes); a larger crop never shows less, so the curve is
            smoothed to rise.
        epsilon: Tolerance, in (0, 1/2).

    Returns:
        `sigma_max`, (...): all smaller crops pass for clean, too; 0 where not even the smallest does.
    """
    confused = falling(probability[..., ::-1])[..., ::-1] < 0.5 + epsilon
    return np.concatenate([[0.0], np.maximum.accumulate(levels)])[confused.sum(-1)]


def undecided(switches: Mapping[str, Switch], pictures: int) -> list[str]:
    """A warning for each damage whose level the held-out loss does not decide.

    Args:
        switches: What the loss says of each damage.
        pictures: Held-out pictures that the loss was measured on.

    Returns:
        The warnings.
    """
    return [
        f"{damage}: {pictures} held-out pictures cannot say where between sigma = {found.low:.3g} and {found.high:.3g} "
        f"its use begins to pay; {found.sigma_min:.3g} is written, hold out more or train longer to know."
        for damage, found in switches.items()
        if not found.decided
    ]


def too_low(rows: Sequence[Annotation], held_out: Sequence[Annotation]) -> list[str]:
    """A warning for each damage whose median `sigma_min` lies below that of the held-out loss.

    Args:
        rows: The table to judge.
        held_out: The table that the held-out loss gave.

    Returns:
        The warnings.
    """
    found = []
    for damage in sorted({row.damage for row in rows} & {row.damage for row in held_out}):
        ours, theirs = (float(np.median([r.sigma_min for r in t if r.damage == damage])) for t in (rows, held_out))
        if ours < theirs:
            found.append(
                f"{damage}: sigma_min = {ours:.3g}, but below {theirs:.3g} the held-out loss gets worse: use that."
            )
    return found
