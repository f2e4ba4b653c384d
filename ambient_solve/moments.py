r"""Mean, standard deviation and quantiles of more samples than memory holds: each sample is folded in and forgotten.

Mean and sum of squared deviations are merged by (Chan, Golub and LeVeque, 1979), for `a` and `b` samples, `n = a + b`,

    mean = mean_a + (b / n) (mean_b - mean_a),      M = M_a + M_b + (a b / n) (mean_b - mean_a)^2

which loses nothing to rounding where the deviation is small beside the mean, as sums of squares do.

Quantiles follow the P-square rule (Jain and Chlamtac, 1985, Communications of the ACM 28(10)): markers of heights q_i
and positions n_i (how many samples lie at or below q_i) stand at the probabilities asked for, at 0 and 1, and half way
between. A sample pushes the positions above it up by 1; a marker that is 1 or more from where it should stand,
1 + (n - 1) p_i, steps by d = +-1, and its height to the parabola through the three neighbours

    q_i + d / (n_+ - n_-) [(n_i - n_- + d) (q_+ - q_i) / (n_+ - n_i) + (n_+ - n_i - d) (q_i - q_-) / (n_i - n_-)]

or, where that leaves the interval (q_-, q_+), to the straight line. Five markers for one probability; several
probabilities share markers (Raatikainen, 1987, Simulation 49(4)). Every entry of the image has its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError

START = 50
"""Samples of which quantiles are exact; kept until there are more."""


class Running:
    """Statistics of samples (B, *shape) that come one chunk after another; memory does not depend on their number.

    Args:
        probabilities: Those of the quantiles that are wanted, each between 0 and 1; none need less memory.

    Raises:
        AmbientSolveError: a probability is not strictly between 0 and 1.
    """

    def __init__(self, probabilities: Sequence[float] = ()) -> None:
        self.probabilities = check_probabilities(probabilities)
        self.count = 0
        self._mean, self._squares = torch.zeros(0), torch.zeros(0)
        self._quantiles = PSquare(self.probabilities) if self.probabilities else None

    def add(self, samples: Tensor) -> None:
        """Fold in `samples` (B, S, *shape)."""
        n = samples.shape[1]
        mean = samples.mean(1)
        squares = (samples - mean[:, None]).square().sum(1)
        if not self.count:
            self._mean, self._squares = mean, squares
        else:
            total, delta = self.count + n, mean - self._mean
            self._mean = self._mean + (n / total) * delta
            self._squares = self._squares + squares + (self.count * n / total) * delta**2
        self.count += n
        if self._quantiles is not None:
            for sample in samples.unbind(1):
                self._quantiles.add(sample)

    @property
    def mean(self) -> Tensor:
        """Mean of the samples, (B, *shape)."""
        return self._mean

    @property
    def std(self) -> Tensor | None:
        """Standard deviation over the samples, as `torch.std` has it, (B, *shape); None with one sample."""
        if self.count == 1:
            return None
        return (self._squares / (self.count - 1)).sqrt()

    @property
    def quantiles(self) -> Tensor | None:
        """(Q, B, *shape), in the order of the probabilities; None where none are wanted."""
        return None if self._quantiles is None else self._quantiles.values()


class PSquare:
    """The markers of increasing `probabilities` for every entry of the samples.

    The first `start` samples are kept and their quantiles exact. Starting with as few as there are markers, as the
    paper does, would put the marker of a small probability far too high at first.

    Args:
        probabilities: Of the quantiles, increasing, each between 0 and 1.
        start: Samples of which quantiles are exact.
    """

    def __init__(self, probabilities: Sequence[float], start: int = START) -> None:
        edges = [0.0, *probabilities, 1.0]
        self._wanted = sorted([*edges, *((a + b) / 2 for a, b in zip(edges, edges[1:], strict=False))])
        self._probabilities, self._start = tuple(probabilities), max(start, len(self._wanted))
        self._first: list[Tensor] = []
        self._count = 0

    def add(self, x: Tensor) -> None:
        """One sample, of any shape."""
        self._count += 1
        if self._count <= self._start:
            self._first.append(x.clone())  # a view would keep its whole chunk
            return
        if self._first:
            self._place_markers()
        q, n = self._q, self._n
        q[0], q[-1] = torch.minimum(q[0], x), torch.maximum(q[-1], x)
        n[1:-1] += (x < q[1:-1]).float()
        n[-1] += 1
        for i in range(1, len(q) - 1):
            off = 1 + (self._count - 1) * self._wanted[i] - n[i]
            below, above = n[i] - n[i - 1], n[i + 1] - n[i]
            d = ((off >= 1) & (above > 1)).float() - ((off <= -1) & (below > 1)).float()
            up, down = (q[i + 1] - q[i]) / above, (q[i] - q[i - 1]) / below
            curved = q[i] + d / (above + below) * ((below + d) * up + (above - d) * down)
            straight = q[i] + d * torch.where(d > 0, up, down)
            inside = (q[i - 1] < curved) & (curved < q[i + 1])
            q[i] = torch.where(d == 0, q[i], torch.where(inside, curved, straight))
            n[i] += d

    def _place_markers(self) -> None:
        """At the ranks nearest to where they should stand, no two at the same."""
        first, last = torch.stack(self._first).sort(0).values, len(self._first)
        ranks = [round(1 + (last - 1) * p) for p in self._wanted]
        for i in range(1, len(ranks)):
            ranks[i] = max(ranks[i], ranks[i - 1] + 1)
        for i in reversed(range(len(ranks))):
            ranks[i] = min(ranks[i], last - (len(ranks) - 1 - i))
        self._q = first[[rank - 1 for rank in ranks]]
        self._n = torch.stack([torch.full_like(first[0], rank) for rank in ranks])
        self._first = []

    def values(self) -> Tensor:
        """(Q, *shape); exact for no more than `start` samples."""
        if self._first:
            levels = torch.tensor(self._probabilities).to(self._first[0])
            return torch.stack(self._first).quantile(levels, dim=0)
        return self._q[2:-1:2].clone()


def check_probabilities(given: Sequence[float]) -> tuple[float, ...]:
    """The probabilities of quantiles, checked.

    Args:
        given: Numbers in any order.

    Returns:
        The same, increasing, each once.

    Raises:
        AmbientSolveError: one is not strictly between 0 and 1.
    """
    for p in given:
        if isinstance(p, bool) or not isinstance(p, (int, float)) or not 0 < p < 1:
            raise AmbientSolveError(f"The quantile {p!r} was asked for, a number between 0 and 1 was expected.")
    return tuple(sorted(set(map(float, given))))
