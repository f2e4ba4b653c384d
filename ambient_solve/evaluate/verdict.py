"""What a check of an algorithm found, and the verdict on it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from ambient_solve.errors import AmbientSolveError
from ambient_solve.verdict.words import FITS_NOISE, MISSES

if TYPE_CHECKING:
    from ambient_solve.evaluate.denoising import DenoisingCheck
    from ambient_solve.evaluate.exactness import Exactness
    from ambient_solve.evaluate.simulation import Calibration


DENOISING = "denoising"
"""The name of the problem whose posterior mean is one call of the denoiser."""
MIXTURE = "mixture"
"""The name of the problem whose prior is a mixture."""
FEW = 100
"""Problems below which a verdict says that small errors would not show."""
ALPHA = 0.01
"""The p-value, times the number of tests, below which a test rejects the samples."""
FARTHEST_Z = 4.4
"""The z-score above which an error on a Gaussian is no accident."""
BIASED = 0.1
"""The error of the mean, in posterior standard deviations, that counts as bias if it is no accident."""
FARTHEST = 1.05
"""The distance from a Gaussian posterior, in distances of two exact sets, that counts if it is no accident."""
FARTHEST_MIXTURE = 3.0
"""The same for a mixture, of which exact particles reach two."""


class Fault(NamedTuple):
    """A `kind` of error, how large it is, in `words`, and the problem that has it."""

    kind: str
    size: float
    words: str
    name: str


@dataclass
class Found:
    """What a check has found: `Calibration` by problem, and where known the distances from the posterior."""

    algorithm: str
    prior: str
    samples: int
    sets: dict[str, Calibration] = field(default_factory=dict)
    gaussian: dict[str, Exactness] = field(default_factory=dict)
    mixture: dict[tuple[int, int], tuple[float, float]] = field(default_factory=dict)
    denoising: DenoisingCheck | None = None
    refused: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, calibrate: Callable[[], Calibration]) -> None:
        """Calibrate an algorithm, or note why it refuses the operator.

        Args:
            name: Key of the result.
            calibrate: Measures it.
        """
        try:
            self.sets[name] = calibrate()
        except AmbientSolveError as error:
            self.refused[name] = str(error)

    def measure(self, name: Any, distances: Callable[[], Any], into: dict[Any, Any]) -> None:
        """Measure distances, and keep their mean over the problems, unless the algorithm refuses the operator.

        Args:
            name: Key of the result.
            distances: Measures one result, or a list of one for each problem.
            into: Where the result is stored.
        """
        try:
            rows = distances()
        except AmbientSolveError as error:
            self.refused.setdefault(str(name), str(error))
        else:
            several = isinstance(rows, list)
            into[name] = tuple(sum(values) / len(rows) for values in zip(*rows, strict=True)) if several else rows

    @property
    def verdict(self) -> str:
        """Exact within sampling error, or what is wrong and where it is worst, in one line."""
        wrong = [Fault(*f, name) for name, c in self.sets.items() if c.p * len(self.sets) < ALPHA for f in faults(c)]
        for name, e in self.gaussian.items():
            ratio = e.distance.value / e.floor.value
            if not (e.excess.value <= FARTHEST_Z * e.excess.error or ratio <= FARTHEST):
                wrong.append(Fault("far from the posterior", ratio, f"{ratio:.1f} floors", name))
            if not (e.z <= FARTHEST_Z or e.bias <= BIASED):
                wrong.append(Fault("biased", e.bias, f"{e.bias:.2f} posterior deviations", name))
        for (d, dy), (distance, floor) in self.mixture.items():
            if not distance <= FARTHEST_MIXTURE * floor:
                seen = f"{distance / floor:.1f} floors with {dy} of {d} coordinates measured"
                wrong.append(Fault("far from the posterior", distance / floor, seen, MIXTURE))
        if self.denoising is not None and not (self.denoising.z <= FARTHEST_Z or self.denoising.bias <= BIASED):
            bias = self.denoising.bias
            wrong.append(Fault("biased", bias, f"{bias:.2f} posterior deviations", DENOISING))
        if not wrong:
            several = " and ".join(f"{n} problems" for n in {c.problems for c in self.sets.values()})
            few = "" if min(c.problems for c in self.sets.values()) >= FEW else ", few: small errors would not show"
            return f"exact within sampling error ({several}, {self.samples} samples of each{few})"
        worst: dict[str, Fault] = {}
        for fault in wrong:
            if fault.kind not in worst or fault.size > worst[fault.kind].size:
                worst[fault.kind] = fault
        what = "; ".join(f"{f.kind} ({f.words}, {f.name})" for f in worst.values())
        mixtures_only = {f.name for f in wrong} == {MIXTURE} and (self.gaussian or len(self.sets) > 1)
        return f"{'exact on Gaussians within sampling error, else ' if mixtures_only else ''}heuristic: {what}"

    def record(self) -> dict[str, Any]:
        """Everything but the figure, as JSON takes it."""
        sets = {}
        for name, c in self.sets.items():
            row = {f.name: getattr(c, f.name) for f in dataclasses.fields(c) if f.name not in ("ranks", "exact")}
            row["ranks"] = {key: ranks.tolist() for key, ranks in c.ranks.items()}
            if c.exact is not None:
                row |= {"bias": c.exact.bias, "ratios": c.exact.ratios.tolist(), "c2st": c.exact.two_sample.accuracy}
            sets[name] = row
        return {
            "algorithm": self.algorithm,
            "prior": self.prior,
            "verdict": self.verdict,
            "calibration": sets,
            "gaussian": {name: dataclasses.asdict(e) for name, e in self.gaussian.items()},
            "mixture": {
                f"{d},{dy}": dict(zip(("distance", "floor"), v, strict=True)) for (d, dy), v in self.mixture.items()
            },
            "denoising": None if self.denoising is None else self.denoising.record(),
            "refused": self.refused,
            "notes": self.notes,
        }


def finite(value: Any) -> Any:
    """`value` with None for the numbers that JSON does not have."""
    if isinstance(value, dict):
        return {str(key): finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def faults(c: Calibration) -> list[tuple[str, float, str]]:
    """What is wrong with samples that a test has rejected: the kind, its size, and the numbers in words."""
    found, held = [], c.coverage.get(0.9)
    intervals = "" if held is None else f", 90 % intervals hold {100 * held:.0f} %"
    if not 0.9 < c.variance_ratio < 1.1:
        kind, size = "overconfident" if c.variance_ratio < 1 else "too wide", abs(math.log(c.variance_ratio))
        found.append((kind, size, f"V/B {c.variance_ratio:.2f}{intervals}"))
    if abs(c.chi2 - 1) > 5 * c.chi2_error:
        kind = FITS_NOISE if c.chi2 < 1 else MISSES
        found.append((kind, abs(c.chi2 - 1), f"misfit {c.chi2:.2f}"))
    if c.exact is not None:
        low, high = float(c.exact.ratios.min()), float(c.exact.ratios.max())
        if c.exact.bias > BIASED:
            found.append(("biased", c.exact.bias, f"{c.exact.bias:.2f} posterior deviations"))
        if low < 0.7 or high > 1.4:
            size = max(high, 1 / max(low, 1e-9))
            found.append(("wrong variance along some axes", size, f"{low:.2g} to {high:.2g} of the exact"))
    worst = min(c.p_values, key=c.p_values.get)
    p = c.p_values[worst]
    return found or [("ranks are not uniform", -math.log(max(p, 1e-300)), f"p = {p_words(p)} in {worst}")]


def p_words(p: float) -> str:
    """A p-value as the page shows it."""
    return f"{p:.2f}" if p >= 0.01 else f"{p:.0e}" if p > 1e-99 else "0"
