"""The rules of the annotators against closed forms, and their table."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.special import expit
from scipy.stats import spearmanr

from ambient_solve.data.annotators import (
    Switch,
    autocovariance,
    calibrated,
    confusion_switch,
    context_ceiling,
    context_levels,
    context_losses,
    falling,
    held_out_switch,
    switch,
    tolerance,
    too_low,
    undecided,
)
from ambient_solve.data.sample import Sample
from ambient_solve.data.table import Annotation, chart, read_table, with_levels, write_table
from ambient_solve.errors import AmbientSolveError
from helpers import one_sentence

# The choice of the switch, on six modes in one dimension (Ambient Omni, theorems 4.1 and 4.2) ---

STEP = 0.01
GRID = np.arange(-8, 8 + 1e-9, STEP)
MODES, WEIGHTS, WIDTH = np.array([-1.5, -1.1, -0.2, 0.2, 1, 1.5]), np.array([0.1, 0.25, 0.2, 0.1, 0.2, 0.15]), 0.06
SIGMAS = np.geomspace(0.05, 3, 16)
CELLS = [(blur, n) for blur in (0.15, 0.3, 0.6) for n in ((50, 450), (200, 1800))]
PADDED = 4096
LAG = np.fft.ifftshift((np.arange(PADDED) - PADDED // 2) * STEP)
KERNELS = np.fft.rfft(np.exp(-0.5 * (LAG / SIGMAS[:, None]) ** 2) / np.sqrt(2 * np.pi) / SIGMAS[:, None])
NEVER = len(SIGMAS)


def mixture(variance: float) -> np.ndarray:
    """The density of the six modes at each level, (L, grid); each has this variance and that of the noise."""
    total = variance + SIGMAS[:, None, None] ** 2
    return (np.exp(-0.5 * (GRID - MODES[:, None]) ** 2 / total) / np.sqrt(2 * np.pi * total) * WEIGHTS[:, None]).sum(1)


def draw(n: int, deviation: float, rng) -> np.ndarray:
    return rng.choice(MODES, n, p=WEIGHTS) + deviation * rng.standard_normal(n)


def kernel_density(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a diffusion model that fits `x` perfectly has at each level: its density, and density times denoiser."""
    place = (x - GRID[0]) / STEP
    at, rest = np.floor(place).astype(int), place % 1
    count = (np.bincount(at, 1 - rest, len(GRID)) + np.bincount(at + 1, rest, len(GRID))) / len(x)
    density, moment = (
        np.fft.irfft(np.fft.rfft(c, PADDED) * KERNELS, PADDED)[:, : len(GRID)] for c in (count, count * GRID)
    )
    return np.maximum(density, 1e-18), moment


def variation(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return 0.5 * STEP * np.abs(p - q).sum(-1)


def index(sigma_min: float) -> int:
    """The first of SIGMAS that lies above."""
    return int(np.searchsorted(SIGMAS, sigma_min, side="right"))


def cell(blur: float, n: tuple[int, int], repeats: int = 20) -> dict[str, float]:
    """Mean total variation from the truth over levels, by the rule that chose where the blurred samples are used."""
    truth, damaged = mixture(WIDTH**2), mixture(WIDTH**2 + blur**2)
    triangular = (STEP * (truth - damaged) ** 2 / (truth + damaged + 1e-300)).sum(-1)
    probability = 0.5 + triangular / 4
    alone, all_, held_out = [], [], []
    for repeat in range(repeats):
        rng = np.random.default_rng((repeat, int(100 * blur), n[0]))
        x, bad = draw(n[0], WIDTH, rng), draw(n[1], math.hypot(WIDTH, blur), rng)
        (p, pm), (q, qm), w = kernel_density(x), kernel_density(bad), n[0] / sum(n)
        both, moment = w * p + (1 - w) * q, w * pm + (1 - w) * qm
        alone.append(variation(truth, p))
        all_.append(variation(truth, both))
        # A denoiser averages its samples: it stays between them.
        bound = (min(x.min(), bad.min()), max(x.max(), bad.max()))
        denoisers = (np.clip(pm / p, x.min(), x.max()), np.clip(moment / both, *bound))
        clean, noise = draw(100, WIDTH, rng)[:, None], rng.standard_normal((100, 8))
        at = [np.rint((clean + s * noise - GRID[0]) / STEP).astype(int).clip(0, len(GRID) - 1) for s in SIGMAS]
        losses = (np.stack([((d[k][i] - clean) ** 2).mean(1) for k, i in enumerate(at)], 1) for d in denoisers)
        held_out.append(index(held_out_switch(SIGMAS, *losses).sigma_min))
    alone, all_ = np.array(alone), np.array(all_)

    def error(first: int | list[int]) -> float:
        firsts = [first] * repeats if isinstance(first, int) else first
        return float(np.mean([np.r_[a[:k], b[k:]].mean() for a, b, k in zip(alone, all_, firsts, strict=True)]))

    fixed, auto = (index(confusion_switch(SIGMAS, probability, tolerance(e, n[0]))) for e in (0.05, "auto"))
    return {
        "clean": error(NEVER),
        "all": error(0),
        "oracle": min(error(k) for k in range(NEVER + 1)),
        "fixed": error(fixed),
        "auto": error(auto),
        "held out": error(held_out),
    }


def test_held_out_loss_and_auto_choose_well_where_a_fixed_threshold_does_worse_than_clean_alone():
    worse, lines = [], []
    for blur, n in CELLS:
        found = cell(blur, n)
        best = min(found["oracle"], found["clean"])
        lines.append(f"{blur:4} {n!s:12}" + "".join(f"  {k} {v:.4f} ({v / best:.2f})" for k, v in found.items()))
        assert found["held out"] <= 1.15 * best and found["auto"] <= 1.15 * best, lines[-1]
        worse.append(found["fixed"] > found["clean"])
    print("\n" + "\n".join(lines))
    # Marked in the published table; blurred samples used from too low a level on.
    assert worse == [False, True, False, True, True, True]


# The rules ---


def test_confusion_falls_and_is_smoothed_to_fall():
    rng = np.random.default_rng(0)
    curve = 0.5 + 0.4 / (1 + np.geomspace(0.05, 20, 24)) + 0.03 * rng.standard_normal((50, 24))
    fit = falling(curve)
    assert (np.diff(fit) <= 1e-12).all() and np.allclose(fit.mean(-1), curve.mean(-1))
    # The projection on falling curves: no falling curve is nearer, and the residual is orthogonal to the fit.
    assert np.allclose(((curve - fit) * fit).sum(-1), 0)
    for other in (np.minimum.accumulate(curve, -1), np.sort(curve, -1)[:, ::-1], fit + 0.01):
        assert (((curve - fit) ** 2).sum(-1) < ((curve - other) ** 2).sum(-1)).all()
    assert np.allclose(falling(np.array([3.0, 1, 2, 0, 5])), [3, 2, 2, 2, 2])


def test_switch_is_the_level_above_which_all_are_admitted():
    sigmas = np.array([0.1, 1.0, 10.0])
    admitted = np.array([[1, 1, 1], [0, 1, 1], [1, 0, 1], [1, 1, 0], [0, 0, 0]], bool)
    assert np.allclose(switch(sigmas, admitted)[:3], [0, math.sqrt(0.1), math.sqrt(10)])
    assert np.isinf(switch(sigmas, admitted)[3:]).all()
    # Control: the first admitted level, as released, lets the third sample in below a level that refuses it.
    assert sigmas[admitted[2].argmax()] < switch(sigmas, admitted)[2]


def test_platt_makes_probabilities_true_and_a_useless_classifier_even():
    rng = np.random.default_rng(1)
    clean, damaged = rng.normal(0, 1, (3000, 1)), rng.normal(1, 1, (3000, 1))
    found = calibrated(7 * clean + 2, 7 * damaged + 2)
    assert np.abs(found - expit(damaged - 0.5)).max() < 0.03 < np.abs(expit(7 * damaged + 2) - found).max()
    # A classifier that remembers what it was trained on is sure of itself and knows nothing of others.
    clean, damaged = 8 * rng.standard_normal((2, 200, 3))
    even = calibrated(clean, damaged).mean()
    print(f"\nsure and useless: {even:.4f} calibrated, {np.abs(expit(damaged) - 0.5).mean() + 0.5:.3f} as it says")
    assert abs(even - 0.5) < 1 / 200
    # The wrong way round is even too.
    assert calibrated(np.ones((50, 1)) + clean[:50, :1] / 100, damaged[:50, :1] / 100).max() <= 0.5 + 1e-6
    assert calibrated(-np.ones((50, 1)), np.ones((50, 1))).min() > 0.9


def test_annotation_is_monotone_in_quality_and_ranks_by_argsort_are_not():
    """Blur b of six modes: the closed form of the best classifier, with the noise of few draws on it."""
    rng, sigmas = np.random.default_rng(2), np.geomspace(0.05, 3, 16)
    blurs = rng.uniform(0.02, 1.2, 120)
    p = mixture(WIDTH**2)
    curves = []
    for blur in blurs:
        q = mixture(WIDTH**2 + blur**2)
        curves.append(0.5 + (STEP * (p - q) ** 2 / (p + q + 1e-300)).sum(-1) / 4)
    sigma_min = confusion_switch(sigmas, np.array(curves) + 0.005 * rng.standard_normal((120, 16)), 0.02)
    quality, finite = -blurs, np.minimum(sigma_min, 10)
    found = spearmanr(quality, finite).statistic
    wrong = spearmanr(quality, np.sort(finite)[::-1][np.arange(120)[np.argsort(quality)]]).statistic
    right = spearmanr(quality, np.sort(finite)[::-1][np.argsort(np.argsort(quality))]).statistic
    print(f"\nSpearman {found:.3f}; levels by rank {right:.3f}, by argsort in place of the rank {wrong:.3f}")
    assert found < -0.9 and right < -0.9 < wrong


# The interval of the held-out switch ---

LEVELS = np.geomspace(0.02, 10, 24)


def losses(mean: np.ndarray, spread: float = 1.0, pictures: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Without and with a group: their difference has exactly this mean, in its standard errors, and some noise."""
    noise = np.random.default_rng(seed).standard_normal((pictures, len(mean)))
    noise = (noise - noise.mean(0)) / noise.std(0, ddof=1)
    return np.zeros_like(noise), spread * (noise + mean / math.sqrt(pictures))


@pytest.mark.parametrize("at", [3, 12, 20])
def test_switch_of_a_clear_curve_is_where_its_sign_changes(at):
    """Four standard errors worse below, four better above; whatever the unit of the losses at each level."""
    unit = np.geomspace(100, 0.01, 24)
    found = held_out_switch(LEVELS, *losses(np.where(np.arange(24) < at, 4.0, -4.0), unit))
    truth = math.sqrt(LEVELS[at - 1] * LEVELS[at])
    assert found.decided and found.low <= truth <= found.high and np.isclose(found.sigma_min, truth)
    assert held_out_switch(LEVELS, *losses(np.full(24, 4.0))).sigma_min == math.inf
    assert held_out_switch(LEVELS, *losses(np.full(24, -4.0))) == Switch(0.0, 0.0, 0.0, True)


def test_one_level_of_many_does_not_move_the_switch():
    """The case that one or two standard errors decided: 1.5 of them, at one high level."""
    mean = np.where(np.arange(24) < 10, 3.0, -1.0)
    mean[22] = 1.5
    data, truth = losses(mean), math.sqrt(LEVELS[9] * LEVELS[10])
    difference = (data[1] - data[0]).mean(0) / ((data[1] - data[0]).std(0, ddof=1) / math.sqrt(40))
    old = [switch(LEVELS, difference <= errors) for errors in (1.0, 2.0)]
    found = [held_out_switch(LEVELS, *data, confidence=c) for c in (0.6, 0.8, 0.9, 0.95)]
    print(f"\none or two standard errors: {old[0]:.3g} or {old[1]:.3g}; the interval's: {[s.sigma_min for s in found]}")
    assert all(s.decided and np.isclose(s.sigma_min, truth) for s in found)
    # Control: the rule of single levels goes from one end of the curve to the other.
    assert old[0] > 20 * old[1]


@pytest.mark.parametrize("confidence", [0.8, 0.9])
def test_curve_without_any_effect_is_not_decided_and_said(confidence):
    found = held_out_switch(LEVELS, *losses(np.zeros(24)), confidence=confidence)
    assert not found.decided and found.low <= found.sigma_min <= found.high and found.low < 0.1 < 1 < found.high
    (warning,) = undecided({"jpeg": found, "blur": replace(found, decided=True)}, 40)
    assert warning.startswith("jpeg: 40 held-out pictures cannot say where between") and one_sentence(warning)


def test_two_minima_alike_are_not_decided():
    """Better between, worse above by as much: the sums of two levels tie, and chance would choose."""
    mean = np.concatenate([np.full(8, 4.0), np.full(8, -1.0), np.full(8, 1.0)])
    found = held_out_switch(LEVELS, *losses(mean))
    assert not found.decided and found.high == math.inf
    assert found.low <= math.sqrt(LEVELS[7] * LEVELS[8]) * 1.0001
    # Control: where the gain outweighs the loss clearly, it is decided.
    clear = held_out_switch(LEVELS, *losses(np.concatenate([np.full(8, 4.0), np.full(8, -4.0), np.full(8, 1.0)])))
    assert clear.decided and np.isclose(clear.sigma_min, math.sqrt(LEVELS[7] * LEVELS[8]))


def test_context_of_fields_in_closed_form():
    rng, sigmas = np.random.default_rng(4), np.geomspace(0.05, 5, 20)
    picture = rng.standard_normal((2, 9, 12))
    plane = picture - picture.mean()
    brute = (plane[:, 2:, 2:] * plane[:, :-2, :-2]).mean()
    found = autocovariance([picture], 5)
    assert np.isclose(found[4 + 2, 4 + 2], brute) and np.isclose(found[4, 4], plane.var())
    wrapped = np.fft.irfft2((np.abs(np.fft.rfft2(plane)) ** 2).mean(0), (9, 12)) / (9 * 12)
    assert not np.isclose(wrapped[2, 2], brute), "control: without padding, opposite edges are neighbours"

    white, constant = np.zeros((31, 31)), np.full((31, 31), 0.3)
    white[15, 15] = 0.3
    sizes = (1, 4, 7)
    # White: a pixel knows itself alone. Constant: every pixel of the window counts.
    assert np.allclose(context_losses(white, sizes, sigmas), 0.3 * sigmas**2 / (0.3 + sigmas**2))
    expected = [0.3 * sigmas**2 / (0.3 * size**2 + sigmas**2) for size in sizes]
    assert np.allclose(context_losses(constant, sizes, sigmas), expected)
    distance = np.hypot(*np.meshgrid(np.arange(-15, 16), np.arange(-15, 16)))
    for covariance, levels in ((white, [math.inf] * 3), (constant, [0.0] * 3), (0.3 * np.exp(-distance / 3), None)):
        *losses, whole = context_losses(covariance, (*sizes, 16), sigmas)
        found = context_levels(sigmas, np.array(losses), whole, 0.05).tolist()
        assert found == levels or (levels is None and all(a < b for a, b in pairwise(found)))


def test_ceiling_is_the_level_of_the_largest_crop_that_passes():
    probability = np.array([[0.5, 0.5, 0.5], [0.5, 0.5, 0.8], [0.5, 0.9, 0.9], [0.9, 0.9, 0.9], [0.58, 0.42, 0.9]])
    levels = np.array([0.1, 0.3, 1.0])
    assert context_ceiling(levels, probability, 0.05).tolist() == [1.0, 0.3, 0.1, 0.0, 0.3]


def rows(*levels: float, damage: str = "blur") -> list[Annotation]:
    return [Annotation(f"{damage}/{i}", level, 0.0, damage, "fixed") for i, level in enumerate(levels)]


def test_annotation_below_the_held_out_switch_is_warned_of():
    held_out = rows(1, 1, 1) + rows(0.1, damage="jpeg") + rows(5, damage="other")
    (warning,) = too_low(rows(0.1, 0.5, 2) + rows(0.2, damage="jpeg"), held_out)
    assert warning.startswith("blur: sigma_min = 0.5") and one_sentence(warning)


# The table ---


def sample(name: str, damage: str = "clean", sigma_noise: float = 0.0) -> Sample:
    return Sample(name, torch.zeros(1, 4, 4).half(), sigma_noise, damage=damage)


def test_table_round_trip_and_its_use(tmp_path):
    table = [
        Annotation("a", 0.0, 0.0, "clean", "heldout"),
        Annotation("b", math.inf, 0.2, "cat", "crops", 0.7),
        Annotation("c", 0.3, 0.0, "noise", "classifier", 0.1),
    ]
    write_table(table, tmp_path / "table.jsonl")
    assert read_table(tmp_path / "table.jsonl") == table
    strict = [json.loads(line, parse_constant=None) for line in (tmp_path / "table.jsonl").read_text().splitlines()]
    assert (
        strict[1]["sigma_min"] == "inf"
        and "score" not in strict[0]
        and list(tmp_path.iterdir()) == [tmp_path / "table.jsonl"]
    )
    found = with_levels([sample("c", sigma_noise=0.3), sample("b", "cat")], table)
    assert [(s.name, s.sigma_min, s.sigma_max, s.sigma_noise) for s in found] == [
        ("c", 0.3, 0, 0.3),
        ("b", math.inf, 0.2, 0),
    ]


@pytest.mark.parametrize(
    ("samples", "table", "expected"),
    [
        ([sample("blur/1", "blur")], rows(1), "blur/1 has no row"),
        ([sample("a"), sample("a")], rows(1), "2 samples are named a"),
        ([sample("blur/0", "blur")], rows(1) * 2, "2 rows are named blur/0"),
        ([sample("blur/0", "jpeg")], rows(1), "'blur' in the table and 'jpeg' in the data"),
        ([sample("blur/0")], rows(1), "'clean' in the data"),
    ],
)
def test_table_of_other_data_is_refused(samples, table, expected):
    with pytest.raises(AmbientSolveError, match=expected) as error:
        with_levels(samples, table)
    assert one_sentence(error)


@pytest.mark.parametrize(
    "line",
    [
        "not JSON",
        '["a"]',
        '{"name": "a", "sigma_min": 1, "damage": "blur", "annotator": "x"}',
        '{"name": "a", "sigma_min": -1, "sigma_max": 0, "damage": "blur", "annotator": "x"}',
        '{"name": "a", "sigma_min": NaN, "sigma_max": 0, "damage": "blur", "annotator": "x"}',
        '{"name": "a", "sigma_min": "high", "sigma_max": 0, "damage": "blur", "annotator": "x"}',
    ],
)
def test_bad_row_is_named(tmp_path, line):
    (tmp_path / "t.jsonl").write_text(
        '\n{"name": "b", "sigma_min": "inf", "sigma_max": 0, "damage": "d", "annotator": "x"}\n' + line
    )
    with pytest.raises(AmbientSolveError, match=r"t\.jsonl, line 3") as error:
        read_table(tmp_path / "t.jsonl")
    assert one_sentence(error)
    with pytest.raises(AmbientSolveError, match="no table"):
        read_table(tmp_path / "absent.jsonl")
    with pytest.raises(AmbientSolveError, match="named blur/0"):
        write_table(rows(1) * 2, tmp_path / "t.jsonl")


def test_chart_shows_where_each_damage_may_be_used():
    draws = [np.asarray(chart(t)) for t in (rows(1, 1), rows(0.1, 10), rows(1, 1) + rows(2, damage="jpeg"))]
    assert all(d.shape == draws[0].shape for d in draws) and all((a != b).any() for a, b in pairwise(draws))
