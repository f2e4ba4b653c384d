"""Eleven ways to curate a pool of the testbed, which benchmarks/testbed.py measures, and the worth of a kind.

- *everything-as-clean*; *random-subset*, as many pictures as are clean; *stated-clean*, those said to be clean;
- *oracle-clean* and *oracle-levels* know the truth: the clean pictures alone, and all with the noise that they hold or
  the levels of Ambient Omni for their damage at 32 pixels (arXiv 2506.10038);
- *de-duplication* leaves one of each group of near-duplicates; *sharpness-filter* keeps the sharper half;
- *classifier-filter* keeps the three tenths that look most like those stated to be clean, by a logistic regression on
  the power in eight bands of frequency, the estimated noise and the range;
- *noise-estimate* gives each picture the noise that is estimated from it alone;
- *held-out-loss* groups pictures by what can be seen of them (noisy, soft, odd), and gives each group the level above
  which training with it does not worsen the loss on held-out pictures that are stated to be clean;
- *changing-admission* begins with everything, goes on with the table of held-out-loss and ends with what that takes for
  clean; each stage ends when the loss on held-out pictures rises at some level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor

from ambient_solve.data.duplicates import duplicate_groups
from ambient_solve.data.sample import Sample
from ambient_solve.data.seeds import generator
from ambient_solve.restore.estimate import noise_level
from ambient_solve.testbed.entry import Choice
from ambient_solve.testbed.pool import Pool, read_truth
from ambient_solve.training.annotate import HeldOutLoss

ADDED = 0.3
"""Noise that is added to find out by how much the estimate is too low, in units of z."""
NOISY = 0.1
"""Estimated noise, in units of z, from which a picture counts as noisy; well above what clean ones seem to hold."""
KEPT = 0.3
"""Share of the pictures that the classifier keeps."""
STEPS = 150
"""Steps of each of the small networks of held-out-loss."""
HELD_OUT = 12
"""Pictures that end the stages of changing-admission."""
LEVELS = {"gaussian-blur": {0.8: 1.89, 1.2: 2.5}, "jpeg": {10: 1.8, 25: 1.27}, "downsampling": {2: 1.9}}
"""sigma_min of a damage by its strength: arXiv 2506.10038 at 32 pixels, and the nearest where it has none."""
FOREIGN = 0.15
"""sigma_max of pictures of another domain: below it small contexts suffice."""
CURVE = (0.25, 0.5, 1.0)
"""Shares of the clean pictures alone, by which worth is read off; bad pictures are added to the middle one."""
MIDDLE = 0.5


@cache
def noise_of(pool: Pool) -> np.ndarray:
    """Noise estimated from each picture alone, in units of z.

    Of pictures as small as these the estimate is too low, by a factor that noise added to those
    stated to be clean shows.
    """

    def estimate(z: Tensor) -> float:
        return 2 * float(noise_level((z.float()[None] + 1) / 2)[0])

    trusted = [s.z.float() for s in pool.samples if pool.stated[s.name] == "clean"]
    rng, ratios = generator(15), []
    for z in trusted:
        noise = torch.from_numpy(rng.standard_normal(tuple(z.shape))).float()
        ratios.append(ADDED / max(estimate(z + ADDED * noise), 1e-3))
    return float(np.median(ratios)) * np.array([estimate(s.z) for s in pool.samples])


def sharpness(samples: Sequence[Sample]) -> np.ndarray:
    """Variance of the Laplacian of each picture, over its own variance."""
    found = []
    for s in samples:
        x = s.z.float().numpy().mean(0)
        edges = 4 * x[1:-1, 1:-1] - x[:-2, 1:-1] - x[2:, 1:-1] - x[1:-1, :-2] - x[1:-1, 2:]
        found.append(edges.var() / (x.var() + 1e-3))
    return np.array(found)


@cache
def likeness(pool: Pool) -> np.ndarray:
    """How much each picture looks like those that are stated to be clean: the probability of a logistic regression."""
    features = []
    for s in pool.samples:
        x = s.z.float().numpy().mean(0)
        power = np.abs(np.fft.fft2(x - x.mean())) ** 2
        f = np.hypot(*np.meshgrid(np.fft.fftfreq(len(x)), np.fft.fftfreq(len(x))))
        bands = [np.log(power[(f > lo) & (f <= lo + 0.0625)].mean() + 1e-6) for lo in np.arange(0, 0.5, 0.0625)]
        features.append([*bands, x.mean(), x.std(), np.abs(x).max()])
    x = np.column_stack([np.array(features), np.log(noise_of(pool) + 1e-3)])
    x = np.column_stack(
        [(x - x.mean(0)) / x.std(0).clip(1e-9), ((x - x.mean(0)) / x.std(0).clip(1e-9)) ** 2, 0 * x[:, :1] + 1]
    )
    y = np.array([pool.stated[s.name] == "clean" for s in pool.samples])
    weight = np.where(y, 0.5 / y.mean(), 0.5 / (1 - y.mean()))

    def loss(w: np.ndarray) -> float:
        return float((weight * np.logaddexp(0, np.where(y, -1, 1) * (x @ w))).mean() + 0.01 * w @ w)

    return expit(x @ minimize(loss, np.zeros(x.shape[1]), method="L-BFGS-B").x)


def everything(pool: Pool, folder: Path) -> list[Choice]:
    return [Choice(s.name) for s in pool.samples]


def random_subset(pool: Pool, folder: Path) -> list[Choice]:
    order = generator(13).permutation(len(pool.samples))[: pool.record["kinds"]["clean"]]
    return [Choice(pool.samples[i].name) for i in order]


def stated_clean(pool: Pool, folder: Path) -> list[Choice]:
    return [Choice(name) for name, stated in pool.stated.items() if stated == "clean"]


def oracle_clean(pool: Pool, folder: Path) -> list[Choice]:
    return [Choice(name) for name, row in read_truth(pool).rows.items() if row["kind"] == "clean"]


def oracle_levels(pool: Pool, folder: Path) -> list[Choice]:
    return [oracle_choice(name, row) for name, row in read_truth(pool).rows.items()]


def oracle_choice(name: str, row: dict) -> Choice:
    """How a picture is used whose truth is known."""
    if row["kind"] == "foreign":
        return Choice(name, sigma_min=float("inf"), sigma_max=FOREIGN)
    strength = next((row["parameters"][k] for k in ("width", "quality", "factor") if k in row["parameters"]), None)
    level = LEVELS.get(row["damage"], {}).get(strength, 0.0)
    return Choice(name, 0.5 if row["kind"] == "duplicate" else 1.0, row["sigma_noise"], level)


def de_duplication(pool: Pool, folder: Path) -> list[Choice]:
    pictures = [(s.name, ((s.z.float() + 1) * 127.5).round().clamp(0, 255).byte()) for s in pool.samples]
    again = {name for group in duplicate_groups(pictures) for name in group[1:]}
    return [Choice(s.name) for s in pool.samples if s.name not in again]


def sharpness_filter(pool: Pool, folder: Path) -> list[Choice]:
    score = sharpness(pool.samples)
    return [Choice(s.name) for s, v in zip(pool.samples, score, strict=True) if v >= np.median(score)]


def classifier_filter(pool: Pool, folder: Path) -> list[Choice]:
    score = likeness(pool)
    least = np.quantile(score, 1 - KEPT)
    return [Choice(s.name) for s, v in zip(pool.samples, score, strict=True) if v >= least]


def noise_estimate(pool: Pool, folder: Path) -> list[Choice]:
    found = noise_of(pool)
    return [
        Choice(s.name, sigma_noise=float(v) if v > NOISY else 0.0) for s, v in zip(pool.samples, found, strict=True)
    ]


def held_out_loss(pool: Pool, folder: Path) -> list[Choice]:
    noise, sharp, alike = noise_of(pool), sharpness(pool.samples), likeness(pool)
    trusted = np.array([pool.stated[s.name] == "clean" for s in pool.samples]) & (noise <= NOISY)
    trusted &= alike >= np.quantile(alike[trusted], 0.25)
    group = np.where(noise > NOISY, "noisy", np.where(sharp < np.quantile(sharp[trusted], 0.25), "soft", "plain"))
    group = np.where((group == "plain") & (alike < np.quantile(alike[trusted], 0.1)), "odd", group)
    group = np.where(trusted, "clean", group)
    levels = np.where(noise > NOISY, noise, 0.0)
    samples = [
        replace(s, damage=str(g), sigma_noise=float(v)) for s, g, v in zip(pool.samples, group, levels, strict=True)
    ]
    few = {g for g in set(group) if (group == g).sum() < 4}
    method = HeldOutLoss(steps=STEPS, batch=16, width=8, levels=8, highest=4.0, held_out=0.35)
    rows = {row.name: row for row in method.annotate([s for s in samples if s.damage not in few], folder / "held-out")}
    found = []
    for s in samples:
        row = rows.get(s.name)
        found.append(Choice(s.name, 0.0) if row is None else Choice(s.name, 1.0, s.sigma_noise, row.sigma_min))
    return found


def changing_admission(pool: Pool, folder: Path) -> list[Choice]:
    table = held_out_loss(pool, folder)
    plain = [c for c in table if c.weight and not c.sigma_noise and not c.sigma_min]
    alike = dict(zip((s.name for s in pool.samples), likeness(pool), strict=True))
    apart = [c.id for c in plain if pool.stated[c.id] == "clean"]
    apart = set(sorted(apart, key=lambda name: -alike[name])[: 2 * HELD_OUT : 2])
    first = [Choice(s.name, held_out=s.name in apart) for s in pool.samples]
    second = [replace(c, stage=1, weight=0.0 if c.id in apart else c.weight) for c in table]
    return [*first, *second, *(replace(c, stage=2) for c in plain if c.id not in apart)]


ARMS: dict[str, tuple[str, Callable[[Pool, Path], list[Choice]]]] = {
    "everything-as-clean": ("select", everything),
    "random-subset": ("select", random_subset),
    "stated-clean": ("select", stated_clean),
    "oracle-clean": ("select", oracle_clean),
    "oracle-levels": ("annotate", oracle_levels),
    "de-duplication": ("select", de_duplication),
    "sharpness-filter": ("select", sharpness_filter),
    "classifier-filter": ("select", classifier_filter),
    "noise-estimate": ("annotate", noise_estimate),
    "held-out-loss": ("annotate", held_out_loss),
    "changing-admission": ("annotate", changing_admission),
}


def worth_arms(pool: Pool) -> dict[str, list[Choice]]:
    """A few clean pictures alone, and the middle number of them with all pictures of one kind, at their true levels."""
    truth = read_truth(pool).rows
    clean = sorted(name for name, row in truth.items() if row["kind"] == "clean")
    clean = [clean[i] for i in generator(14).permutation(len(clean))]
    arms = {f"clean-{round(s * len(clean))}": [Choice(n) for n in clean[: round(s * len(clean))]] for s in CURVE}
    base = [Choice(n) for n in clean[: round(MIDDLE * len(clean))]]
    for kind in pool.record["kinds"]:
        rows = [(n, row) for n, row in truth.items() if row["kind"] == kind]
        if kind not in ("clean", "mislabeled"):
            arms[f"with-{kind}"] = base + [oracle_choice(n, row) for n, row in rows]
    return arms


def filled(rows: Sequence[Choice], pool: Pool) -> list[Choice]:
    """A table with a row for every picture, those that it lacks with weight 0."""
    known = {c.id for c in rows}
    return [*rows, *(Choice(s.name, 0.0) for s in pool.samples if s.name not in known)]
