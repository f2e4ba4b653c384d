"""The verdict on a statement: whether what was said of the damage fits the measurement, and if not, what is wrong.

    r = Solver(prior).solve(y, op, n_samples=4)
    r.verdict.level, r.verdict.words, r.verdict.advice

Each statistic of the evidence has a range, measured on right statements, and counts by how far it lies outside of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ambient_solve.verdict import words
from ambient_solve.verdict.words import DOUBTFUL, RIGHT, WRONG

if TYPE_CHECKING:
    from ambient_solve.verdict.evidence import Evidence

THRESHOLDS = Path(__file__).with_name("thresholds.json")
"""What counts as wrong; `benchmarks/verdicts.py --record` measures and writes it."""
FAMILIES = {
    "Denoising": "denoise",
    "Inpainting": "inpaint",
    "Blur": "blur",
    "BlurFFT": "blur",
    "Reduction": "super-resolution",
    "Downsampling": "super-resolution",
    "Jpeg": "jpeg",
}
"""The family whose thresholds hold, by the class of the operator."""
DIRECTED = "directed blur"
"""The family of blurs that are not round."""
LEAST = {"misfit": 0.1, "blind": 0.05, "noise": 0.1, "outside": 0.5, "rim": 0.5, "kernel": 3.0}
"""Half a range is never narrower than this, on the scale of `scale`; .02 for the others."""
ROUND = 0.05
"""Most that a round kernel's autocorrelation differs between two directions."""
ONE_SIDED = ("kernel",)
"""Statistics of which only large values say that something is wrong."""
LEVELS = ("misfit", "blind", "noise")
"""Statistics that are 1 where the noise is as stated."""
SMALL = {"outside": 1e-3, "repeated": 1e-2}
"""What is added to a number that may be 0 before its logarithm is taken."""
FIT = (0.5, 2.0)
"""Misfits between which a statement is right of which nothing else was measured."""
FITTING = {"proximal": 0.02, "ddnm": 0.02, "reddiff": 0.02, "daps": 0.1}
"""Least such misfit of algorithms that fit noise that is low."""
FAINT = 0.01
"""Noise level below which a verdict does not say that it is lower: samplers fit it, and little depends on it."""
CORRELATIONS = ("right 1", "down 1", "falling", "rising", "right 2", "down 2")
"""Names of the autocorrelations at LAGS."""
CALIBRATED = 64 * 64 * 3
"""Entries of the measurements on which the thresholds were measured."""
FAR = 1.5
"""Distance from the middle, in units of the range, from which on a statement is wrong and not only doubtful."""
CLOSE = 0.7
"""Causes are named whose statistics lie as far outside as the worst one, times this."""
MOST = 2
"""Most causes that are named."""


@dataclass(frozen=True)
class Verdict:
    """Whether the stated operator and noise fit a measurement.

    Attributes:
        level: "right", "doubtful" or "wrong".
        causes: What is probably wrong, in sentences, the likeliest first; empty where the statement is right.
        numbers: The statistics that it rests on, by name.
        limits: The range of each, measured on right statements; no entry where none is known.
        advice: One sentence that says what to try; empty where the statement is right.
        badness: How far outside of its range the worst statistic lies: above 1 is doubtful, above FAR wrong.
        keys: Of the causes, as `words.CAUSES` has them. by: The worst statistic.
        suggested: Numbers that fit the measurement better than the stated ones, by the name of the knob.
    """

    level: str
    causes: tuple[str, ...] = ()
    numbers: dict[str, float] = field(default_factory=dict)
    limits: dict[str, tuple[float, float]] = field(default_factory=dict)
    advice: str = ""

    badness: float = 0.0
    keys: tuple[str, ...] = ()
    by: str = ""
    suggested: dict[str, float] = field(default_factory=dict)

    @property
    def flags(self) -> str:
        """What to try, as options of `ambient-solve restore`; empty where there is nothing, or no option mends it."""
        return words.flags(self.keys[0], self.suggested) if self.keys else ""

    @property
    def headline(self) -> str:
        """The level as a sentence."""
        return words.HEADLINES[self.level]

    @property
    def words(self) -> str:
        """The level and the causes, in a sentence each."""
        return " ".join([self.headline, *self.causes])

    @property
    def sentence(self) -> str:
        """All of it in words: level, causes and advice; empty where the statement is right."""
        return "" if self.level == RIGHT else f"{self.words} {self.advice}".rstrip()

    def table(self) -> list[tuple[str, str, str]]:
        """The numbers for readers: name, value, and the range of right statements."""
        rows = []
        for name, (low, high) in self.limits.items():
            if name in self.numbers:
                unit, sign = (100, " %") if name == "outside" else (1, "")
                least = 0.0 if name in SMALL else -math.inf
                value, low, high = (f"{unit * max(v, least):.2f}{sign}" for v in (self.numbers[name], low, high))
                rows.append((words.STATISTICS[name], value, f"{low} to {high}"))
        return rows

    def record(self) -> dict[str, Any]:
        """As JSON takes it; a number that is not finite becomes None."""
        found = asdict(self) | {"words": self.words, "flags": self.flags}
        found["numbers"] = {k: v if math.isfinite(v) else None for k, v in self.numbers.items()}
        found["badness"] = self.badness if math.isfinite(self.badness) else None
        return found

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Verdict:
        """What `record` wrote."""
        numbers = {k: math.nan if v is None else v for k, v in record["numbers"].items()}
        limits = {k: (low, high) for k, (low, high) in record["limits"].items()}
        badness = math.inf if record["badness"] is None else record["badness"]
        said = record["level"], tuple(record["causes"]), numbers, limits, record["advice"], badness
        return cls(*said, tuple(record["keys"]), record["by"], dict(record["suggested"]))


@dataclass(frozen=True)
class Finding:
    """A statistic that lies outside of its range: on which side, -1 or 1, and how far, in units of its range."""

    statistic: str
    side: int
    distance: float


def statistics(chi2: Sequence[float], evidence: Evidence | None, image: int) -> dict[str, float]:
    """The numbers of one measurement, means over its samples.

    Args:
        chi2: Misfit of each sample.
        evidence: Of all measurements; None where nothing but the misfit is known.
        image: Which of them.

    Returns:
        By name; what has no meaning for the measurement is left out.
    """
    found = {"misfit": sum(chi2) / len(chi2)}
    if evidence is None:
        return found
    mean = lambda values: values[image].double().mean(0).tolist()  # noqa: E731
    inner = mean(evidence.misfit)
    found["misfit"] = inner if math.isfinite(inner) else found["misfit"]
    for name in ("outside", "blind", "rim", "white", "repeated", "sigma"):
        found[name] = mean(getattr(evidence, name))
    compared = None if evidence.spectra is None else evidence.spectra.compared(image)
    if compared is not None:
        found |= compared.numbers
    found |= beside_kernel(mean(evidence.lags), mean(evidence.kernel))
    return {name: value for name, value in found.items() if name == "misfit" or math.isfinite(value)}


def beside_kernel(lags: Sequence[float], kernel: Sequence[float]) -> dict[str, float]:
    """The autocorrelation of a residual beside what a sampler that fits the noise leaves of the operator's kernel.

    Such a sampler takes a part of the noise out at the frequencies that the operator lets through: `-c` times the
    kernel's own autocorrelation, by least squares, whose size `c` is a statistic of its own.

    Args:
        lags: Of the residual.
        kernel: Of the operator.

    Returns:
        The rest at each lag, and `c`, by name.
    """
    square = sum(k * k for k in kernel)
    c = -sum(k * v for k, v in zip(kernel, lags, strict=True)) / square if square > 1e-12 else 0.0
    rest = {name: v + c * k for name, v, k in zip(CORRELATIONS, lags, kernel, strict=True)}
    return rest | ({"fitted noise": c} if square > 1e-12 else {})


def family_of(operator: str, evidence: Evidence | None, image: int) -> str:
    """The family whose thresholds hold for a measurement.

    Args:
        operator: Name of the class of the operator.
        evidence: Knows a blur that is not round.
        image: Which measurement.

    Returns:
        Its name; "" of an operator that was not measured.
    """
    other = "blur" if evidence is not None and evidence.spectra is not None else ""
    family = FAMILIES.get(operator, other)
    if family != "blur" or evidence is None:
        return family
    right, down, falling, rising = evidence.kernel[image].double().mean(0).tolist()[:4]
    return DIRECTED if max(abs(right - down), abs(falling - rising)) > ROUND else family


def scale(statistic: str, value: float) -> float:
    """A number on the scale on which distances count: ratios of misfits, and of shares of values outside.

    Args:
        statistic: Its name.
        value: The number.

    Returns:
        It on that scale.
    """
    if statistic in LEVELS:
        return math.log(max(value, 1e-9))
    return math.log(SMALL[statistic] + max(value, 0.0)) if statistic in SMALL else value


def unscale(statistic: str, value: float) -> float:
    """The inverse of `scale`.

    Args:
        statistic: Its name.
        value: On that scale.

    Returns:
        The number.
    """
    if statistic in LEVELS:
        return math.exp(value)
    return math.exp(value) - SMALL[statistic] if statistic in SMALL else value


def findings(
    numbers: Mapping[str, float], ranges: Mapping[str, Sequence[float]], entries: float = math.inf
) -> list[Finding]:
    """The statistics outside of their ranges, the farthest first.

    Args:
        numbers: Of `statistics`.
        ranges: Least, middle and largest of right statements, by statistic.
        entries: Of the measurement: of few, the sampling deviation is added to the range.

    Returns:
        Distances above 1; a misfit that is no number is infinitely far.
    """
    found = []
    for name, three in ranges.items():
        if name not in numbers:
            continue
        value, low, middle, high = (scale(name, v) for v in (numbers[name], *three))
        side = -1 if value <= middle else 1
        if side < 0 and name in ONE_SIDED:
            continue
        room = (high - middle if side > 0 else middle - low) + slack(name, entries)
        distance = abs(value - middle) / max(room, 1e-9) if math.isfinite(value) else math.inf
        if distance > 1:
            found.append(Finding(name, side, distance))
    return sorted(found, key=lambda f: -f.distance)


def slack(statistic: str, entries: float) -> float:
    """What the sampling deviation of few entries adds to a range that was measured on CALIBRATED ones.

    Args:
        statistic: Its name.
        entries: Of the measurement.

    Returns:
        An addition on the scale of `scale`.
    """
    variance = 2.0 if statistic in LEVELS else 1.0 if statistic in CORRELATIONS else 0.0
    return 3 * max(0.0, math.sqrt(variance / max(entries, 1)) - math.sqrt(variance / CALIBRATED))


@lru_cache(maxsize=1)
def thresholds() -> dict[str, Any]:
    """What `benchmarks/verdicts.py` has measured."""
    return json.loads(THRESHOLDS.read_text())


def ranges_of(family: str, algorithm: str) -> dict[str, tuple[float, float, float]]:
    """The ranges of the statistics of right statements.

    Args:
        family: See `family_of`.
        algorithm: Name of the algorithm; the ranges of one that was not measured hold those of all that were.

    Returns:
        Least, middle and largest, by statistic; the misfit's alone where nothing was measured.
    """
    known = thresholds()["ranges"].get(family)
    if known is None:
        return {"misfit": (FITTING.get(algorithm, FIT[0]), 1.0, FIT[1])}
    if algorithm in known:
        return {name: tuple(three) for name, three in known[algorithm].items()}
    every = list(known.values())
    shared = [name for name in every[0] if all(name in one for one in every)]
    ends = {name: [one[name] for one in every] for name in shared}
    return {n: (min(e[0] for e in of), of[0][1], max(e[2] for e in of)) for n, of in ends.items()}


def concluded(
    numbers: Mapping[str, float],
    ranges: Mapping[str, Sequence[float]],
    family: str,
    entries: float = math.inf,
    harmless: Collection[str] = (),
) -> Verdict:
    """The verdict that numbers lead to.

    Args:
        numbers: Of `statistics`.
        ranges: Of right statements; see `ranges_of`.
        family: See `family_of`.
        entries: Of the measurement.
        harmless: Keys of the causes in `words` of which nothing is to be said; that the noise is lower never is where
            it is FAINT.

    Returns:
        The verdict.
    """
    limits = {name: (low, high) for name, (low, _, high) in ranges.items()}
    shown = {name: value for name, value in numbers.items() if name in limits}
    found = [(words.cause(family, f.statistic, f.side, numbers), f) for f in findings(numbers, ranges, entries)]
    harmless = {*harmless, words.NOISE_LOWER} if numbers.get("sigma", math.inf) < FAINT else harmless
    found = [(key, f) for key, f in found if key not in harmless]
    if not found:
        return Verdict(RIGHT, numbers=shown, limits=limits)
    worst = found[0][1]
    telling = [key for name in words.TELLING for key, f in found if f.statistic == name]
    keys = telling[:1] or list(dict.fromkeys(key for key, f in found if f.distance >= CLOSE * worst.distance))
    keys = [key for key in keys if key != words.DAMAGE] or [words.DAMAGE]
    said = tuple(words.CAUSES[key].words for key in keys[:MOST] if words.CAUSES[key].words)
    better = words.suggested(keys[0], numbers)
    level, advice = WRONG if worst.distance > FAR else DOUBTFUL, words.advice(keys[0], better)
    return Verdict(level, said, shown, limits, advice, worst.distance, tuple(keys[:MOST]), worst.statistic, better)


def judge(
    chi2: Sequence[float],
    evidence: Evidence | None,
    image: int,
    operator: str,
    algorithm: str,
    harmless: Collection[str] = (),
) -> Verdict:
    """The verdict on one measurement.

    Args:
        chi2: Misfit of each of its samples.
        evidence: Of all measurements; None where nothing but the misfit is known.
        image: Which of them, from 0.
        operator: Name of the class of the operator that was stated.
        algorithm: Name of the algorithm that drew the samples.
        harmless: Keys of the causes in `words` of which nothing is to be said.

    Returns:
        The verdict.
    """
    family = family_of(operator, evidence, image)
    entries = math.inf if evidence is None else float(evidence.entries[image].mean())
    numbers, ranges = statistics(chi2, evidence, image), ranges_of(family, algorithm)
    return concluded(numbers, ranges, family, entries, harmless)
