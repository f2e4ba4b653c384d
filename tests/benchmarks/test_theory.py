"""The benchmark of the theory: its parts against plain computations, its criteria with few replicas, its exit code."""

from __future__ import annotations

import builtins

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

import theory


def test_moment_estimates_are_unbiased_and_their_covariance_is_exact():
    delta, sigma, n = 0.8, 1.5, 400_000
    draw = np.random.default_rng(0)
    y = np.where(draw.random(n) < theory.WEIGHTS[0], -delta, delta)
    x = y + sigma * draw.standard_normal(n)
    mean, covariance = theory.moment_law(delta, sigma)
    true = np.stack([y, y**2, y**3], -1)
    found, raw = theory.moment_estimates(x, sigma) - true, np.stack([x, x**2, x**3], -1) - true
    for estimate, unbiased in ((found, True), (raw, False)):  # the raw moments are the control
        away = np.abs(estimate.mean(0) / estimate.std(0)) * n**0.5
        assert (away < 4.5).all() == unbiased
    np.testing.assert_allclose(mean, [0.4 * delta, delta**2, 0.4 * delta**3], atol=1e-12)
    np.testing.assert_allclose(np.cov(theory.moment_estimates(x, sigma).T), covariance, rtol=0.05)


def test_the_weights_of_the_moments_are_the_best_ones():
    """A tenth of clean samples and nine of noisy: j = 3 with sigma^-6 has less variance than either part or the mix."""
    groups, normal = [(1e5, 1.0), (9e5, 2.0)], np.random.default_rng(1).standard_normal((4000, 3))
    both, clean, noisy = (theory.moments(0.25, g, normal)[:, 2].var() for g in (groups, groups[:1], groups[1:]))
    uniform = 0.01 * clean + 0.81 * noisy  # each part by its share of the samples: the control
    assert both < 0.98 * min(clean, noisy) and uniform > 2 * clean


def test_two_atoms_are_found_from_their_moments():
    draw = np.random.default_rng(2)
    positions, share = np.sort(draw.normal(size=(50, 2)), -1), draw.uniform(0.1, 0.9, 50)
    weights = np.stack([share, 1 - share], -1)
    m = np.stack([(weights * positions**j).sum(-1) for j in (1, 2, 3)], -1)
    found = theory.two_atoms(m)
    np.testing.assert_allclose(found[0], positions, atol=1e-6)
    np.testing.assert_allclose(found[1], weights, atol=1e-6)
    # No law has m2 < m1^2: the one atom at m1.
    np.testing.assert_array_equal(theory.two_atoms(np.array([[0.3, 0.05, 0.1]]))[0], [[0.3, 0.3]])


def test_wasserstein_agrees_with_scipy():
    draw = np.random.default_rng(3)
    positions, share = draw.normal(size=(30, 2)), draw.random(30)
    weights = np.stack([share, 1 - share], -1)
    found = theory.wasserstein(positions, weights, 0.4)
    expected = [
        wasserstein_distance(p, [-0.4, 0.4], w, theory.WEIGHTS) for p, w in zip(positions, weights, strict=True)
    ]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert not np.allclose(theory.wasserstein(positions, weights[:, ::-1], 0.4), expected)


def test_the_detail_depends_on_sigma_over_delta_alone():
    normal = np.random.default_rng(4).standard_normal((500, 3))
    n = [theory.needed(delta, sigma, normal) for delta, sigma in ((0.25, 2.0), (0.125, 1.0), (0.25, 1.0))]
    assert n[0] == pytest.approx(n[1], rel=1e-4) and n[0] > 30 * n[2]


@pytest.mark.parametrize("name", theory.PARTS)
def test_criteria(name):
    """What the benchmark demands, controls included, with few replicas."""
    measure, _, quick = theory.PARTS[name]
    checks = measure(quick).checks
    assert [str(check) for check in checks if not check.passed] == []
    assert any("control" in check.what for check in checks)


def part(found: float, low: float = 0.0, high: float = 1.0) -> theory.Part:
    return theory.Part("title", ("a", "b"), [(0.5, float("nan"))], [theory.Check("what", found, low, high)])


@pytest.mark.parametrize(("found", "code", "word"), [(0.5, 0, "PASS"), (1.5, 1, "FAIL"), (float("nan"), 1, "FAIL")])
def test_a_criterion_that_fails_is_the_exit_code(monkeypatch, capsys, found, code, word):
    monkeypatch.setattr(theory, "PARTS", {"only": (lambda replicas: part(found), 2, 1)})
    assert theory.main([]) == code
    printed = capsys.readouterr().out
    assert "| a | b |\n|---|---|\n| 0.5 |  |\n" in printed and f"- {word}: what" in printed
    assert f"{1 - code} of 1 criteria hold." in printed


def numbers(rows: int, columns: int) -> theory.Part:
    table = 1 + np.arange(rows * columns, dtype=float).reshape(rows, columns)
    return theory.Part("title", (), [tuple(row) for row in table.tolist()], [])


def test_plots(tmp_path, monkeypatch, capsys):
    parts = {"detail": numbers(14, 4), "exchange": numbers(6, 5), "subspace": numbers(8, 9)}
    original = builtins.__import__

    def without(name: str, *rest):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return original(name, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "__import__", without)
        theory.plot(parts, tmp_path / "none")
    assert "pip install matplotlib" in capsys.readouterr().err and not (tmp_path / "none").exists()
    pytest.importorskip("matplotlib")
    theory.plot(parts, tmp_path / "some")
    assert (tmp_path / "some" / "theory.png").read_bytes()[:4] == b"\x89PNG"
