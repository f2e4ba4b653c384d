"""Statistics of samples that are not kept, against those of samples that are; markers against the paper's example."""

from __future__ import annotations

import json
import math
import weakref

import pytest
import torch
from safetensors import safe_open

from ambient_solve import AmbientSolveError, GaussianPrior, Solver, operators
from ambient_solve.moments import START, PSquare, Running
from helpers import one_sentence, rand, randn

SHAPE = (3, 4, 4)
PAPER = [0.02, 0.15, 0.74, 3.39, 0.83, 22.37, 10.15, 15.43, 38.62, 15.92]
PAPER += [34.60, 10.28, 1.47, 0.40, 0.05, 11.39, 0.27, 0.42, 0.09, 11.37]


def in_chunks(running, samples, size):
    for part in samples.split(size, 1):
        running.add(part)
    return running


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_mean_and_spread_are_those_of_torch(size):
    """Far from 0 and narrow: the root of a difference of squares would be noise."""
    samples = 1000 + 0.1 * randn(2, 100, 5, 3)
    found = in_chunks(Running(), samples, size)
    torch.testing.assert_close(found.mean, samples.mean(1), rtol=3e-7, atol=0)
    exact = samples.double().std(1)
    assert found.count == 100 and found.quantiles is None
    assert ((found.std.double() - exact).abs() / exact).max() < 2e-3
    naive = (samples.square().mean(1) - samples.mean(1).square()).clamp_min(0).sqrt()
    assert ((naive.double() - exact).abs() / exact).max() > 0.5


def test_spread_to_rounding():
    samples = randn(2, 101, 4, dtype=torch.float64)
    for size in (1, 2, 50, 101):
        torch.testing.assert_close(in_chunks(Running(), samples, size).std, samples.std(1), rtol=1e-13, atol=0)
    without_means = sum((p - p.mean(1, keepdim=True)).square().sum(1) for p in samples.split(2, 1))
    assert not torch.allclose((without_means / 100).sqrt(), samples.std(1), rtol=0.1)
    assert in_chunks(Running(), samples[:, :1], 1).std is None


def scalar(values, p):
    """The boxes of Jain and Chlamtac (1985), one number after another; heights and positions of the five markers."""
    q, n = sorted(values[:5]), [1, 2, 3, 4, 5]
    for count, x in enumerate(values[5:], 6):
        q[0], q[4] = min(q[0], x), max(q[4], x)
        k = max(i for i in range(4) if q[i] <= x)
        for i in range(k + 1, 5):
            n[i] += 1
        for i, at in ((1, p / 2), (2, p), (3, (1 + p) / 2)):
            off = 1 + (count - 1) * at - n[i]
            if (off >= 1 and n[i + 1] - n[i] > 1) or (off <= -1 and n[i - 1] - n[i] < -1):
                d = int(math.copysign(1, off))
                new = q[i] + d / (n[i + 1] - n[i - 1]) * (
                    (n[i] - n[i - 1] + d) * (q[i + 1] - q[i]) / (n[i + 1] - n[i])
                    + (n[i + 1] - n[i] - d) * (q[i] - q[i - 1]) / (n[i] - n[i - 1])
                )
                if not q[i - 1] < new < q[i + 1]:
                    new = q[i] + d * (q[i + d] - q[i]) / (n[i + d] - n[i])
                q[i], n[i] = new, n[i] + d
    return q, n


def markers(values, p, start=0):
    square = PSquare((p,), start)
    for x in values:
        square.add(x)
    return square


def test_the_example_of_the_paper():
    """Table I of the paper ends with these heights; the median of all twenty is 4.44 by the rule."""
    square = markers(torch.tensor(PAPER, dtype=torch.float64), 0.5)
    q, n = scalar(PAPER, 0.5)
    assert [round(float(v), 2) for v in square._q] == [round(v, 2) for v in q] == [0.02, 0.49, 4.44, 17.20, 38.62]
    assert square._n.tolist() == n
    assert float(square.values()) == pytest.approx(4.44, abs=5e-3)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_every_entry_follows_the_rule_of_one_number(p):
    """With ties, which real pixels have."""
    samples = (20 * randn(300, 6, seed=2, dtype=torch.float64)).round() / 20
    square = markers(samples, p)
    for j in range(6):
        q, n = scalar(samples[:, j].tolist(), p)
        torch.testing.assert_close(square._q[:, j], torch.tensor(q, dtype=torch.float64), rtol=1e-12, atol=1e-12)
        assert square._n[:, j].tolist() == n


def test_quantiles_of_known_laws():
    """Within twice the error that 2000 samples leave in a quantile anyway, for two laws; exact up to START."""
    probabilities, n = (0.05, 0.5, 0.95), 2000
    for law in (torch.special.ndtri, lambda u: -torch.log1p(-u)):
        samples = law(rand(1, n, 100, seed=5).double()).float()
        found = in_chunks(Running(probabilities), samples, 37).quantiles
        truth = law(torch.tensor(probabilities, dtype=torch.float64))
        kept = samples.quantile(torch.tensor(probabilities), dim=1)
        own = (found - kept).square().mean((1, 2)).sqrt()
        theirs = (kept.double() - truth[:, None, None]).square().mean((1, 2)).sqrt()
        assert (own < 2 * theirs).all(), (own, theirs)
        gaussian = kept[1] + torch.special.ndtri(truth.new_tensor(probabilities)).float()[:, None, None] * samples.std(
            1
        )
        if law is not torch.special.ndtri:  # mean and spread alone do not give quantiles
            assert ((gaussian - kept).square().mean((1, 2)).sqrt()[0] > 5 * theirs[0]).all()
    few = samples[:, :START]
    exact = few.quantile(torch.tensor(probabilities), dim=1)
    torch.testing.assert_close(in_chunks(Running(probabilities), few, 8).quantiles, exact)


def test_a_chunk_does_not_matter_to_quantiles():
    samples = randn(2, 123, 4)
    found = [in_chunks(Running((0.3, 0.6)), samples, size).quantiles for size in (1, 10, 123)]
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


# The solver.


class Watched(Solver):
    """Counts how many earlier restorations are alive when the next one is made."""

    def __init__(self, *given, **settings):
        super().__init__(GaussianPrior(torch.zeros(SHAPE), 0.25 * torch.eye(48)), *given, **settings)
        self.made, self.most = [], 0

    def _solve(self, run, progress):
        self.most = max(self.most, sum(ref() is not None for ref in self.made))
        part = super()._solve(run, progress)
        self.made.append(weakref.ref(part))
        return part


def problem():
    op = operators.inpaint_random(SHAPE, missing=0.5, sigma=0.1)
    return op.A(rand(2, *SHAPE, seed=4)), op


def test_the_same_as_with_all_samples():
    y, op = problem()
    solver = Watched("mmps", steps=4)
    kept = solver.solve(y, op, n_samples=61, seed=7)
    for at_once in (8, 61, 100):
        found = solver.summarize(y, op, n_samples=61, at_once=at_once, seed=7, quantiles=(0.9, 0.5))
        torch.testing.assert_close(found.mean, kept.mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.std, kept.std, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.chi2, kept.chi2.mean(1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.sample, kept.samples[:, 0], rtol=1e-4, atol=1e-5)
        for p in (0.5, 0.9):
            assert (found.quantile(p) - kept.quantile(p)).abs().max() < 0.3 * kept.std.max()
            assert found.quantile(p).shape == found.mean.shape
        assert (found.network_calls, found.vjps) == (kept.network_calls, kept.vjps)
        assert found.n_samples == found.settings["n_samples"] == 61 and found.settings["steps"] == 4
    other = solver.summarize(y, op, n_samples=61, seed=8)
    assert not torch.allclose(other.mean, kept.mean, rtol=1e-4, atol=1e-5)


def test_memory_does_not_grow_with_the_number_of_samples():
    y, op = problem()
    alive = {}
    for n in (8, 40):
        solver = Watched("proximal", steps=2)
        solver.summarize(y, op, n_samples=n, at_once=2)
        alive[n] = solver.most
    solver = Watched("proximal", steps=2)
    solver.solve(y, op, n_samples=8, at_once=2)
    assert alive[40] == alive[8] <= 1 < solver.most


def test_what_is_kept_has_a_bound():
    running = Running((0.5,))
    sizes = {}
    for n in range(1, 400):
        running.add(randn(1, 1, 6, seed=n))
        square = running._quantiles
        sizes[n] = len(square._first) + (0 if square._first else len(square._q) + len(square._n))
    assert max(sizes.values()) == START and sizes[399] == 10
    chunk = randn(1, 30, 6)
    running = Running((0.5,))
    running.add(chunk)
    assert all(x.untyped_storage().nbytes() < chunk.untyped_storage().nbytes() for x in running._quantiles._first)


def test_saved(tmp_path):
    y, op = problem()
    found = Watched("proximal", steps=2).summarize(y[:1], op, n_samples=5)
    written = {p.name for p in found.save(tmp_path)}
    assert written == {"summary.safetensors", "settings.json", "mean.png", "std.png", "sample.png"}
    record = json.loads((tmp_path / "settings.json").read_text())
    assert record["n_samples"] == 5 and record["probabilities"] == [0.05, 0.5, 0.95]
    alone = Watched("proximal", steps=2).summarize(y, op, n_samples=1, quantiles=())
    assert alone.std is None and alone.quantiles is None
    names = {p.name for p in alone.save(tmp_path / "b")}
    assert names >= {"000-mean.png", "001-sample.png"} and not any("std" in name for name in names)
    with safe_open(tmp_path / "b" / "summary.safetensors", framework="pt") as file:
        assert set(file.keys()) == {"mean", "chi2", "sample"}


def test_bad_input():
    y, op = problem()
    solver = Watched("proximal", steps=2)
    found = solver.summarize(y, op, n_samples=3)
    for words, call in {
        "0.25 was not followed, known: 0.05, 0.5, 0.95": lambda: found.quantile(0.25),
        "quantile 1.5": lambda: solver.summarize(y, op, n_samples=3, quantiles=(1.5,)),
        "quantile 'a'": lambda: solver.summarize(y, op, n_samples=3, quantiles=("a",)),
        "at_once=0": lambda: solver.summarize(y, op, n_samples=3, at_once=0),
        "n_samples": lambda: solver.summarize(y, op, n_samples=0),
        "draws all samples": lambda: Watched("tds").summarize(y, op, n_samples=9, at_once=4),
    }.items():
        with pytest.raises(AmbientSolveError, match=words) as error:
            call()
        assert one_sentence(error)
