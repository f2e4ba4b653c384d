"""A device that runs out of memory: fewer samples at once, then tiles, and the same samples as with plenty of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from ambient_solve import AmbientSolveError, GaussianPrior, NetworkConfig, NetworkPrior, Solver, operators
from ambient_solve.restore.files import restore_file
from ambient_solve.restore.tasks import Denoise
from helpers import rand


class Limited(GaussianPrior):
    """Independent pixels, on a device that holds so many states and says so as torch does."""

    most, error = 3, torch.OutOfMemoryError("CUDA out of memory.")

    def __init__(self):
        super().__init__(torch.zeros(3, 6, 6), 0.25 * torch.eye(108))
        self.asked = []

    def denoise(self, z, sigma, cond=None):
        self.asked.append(len(z))
        if len(z) > self.most:
            raise self.error
        return z * 0.25 / (0.25 + sigma**2)

    def denoise_vjp(self, z, sigma, cond=None, *, once=False):
        return self.denoise(z, sigma), lambda v: v * 0.25 / (0.25 + sigma**2)


class OfTheProcessor(Limited):
    error = RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory")


@pytest.mark.parametrize("kind", [Limited, OfTheProcessor])
def test_samples_are_drawn_fewer_at_once_where_memory_runs_out(kind):
    op = operators.denoise((3, 6, 6), sigma=0.1)
    y = op(rand(1, 3, 6, 6))
    prior, plenty = kind(), kind()
    plenty.most = 100
    whole = Solver(plenty, "proximal", steps=3).solve(y, op, n_samples=10, seed=2)
    with pytest.warns(UserWarning, match="5 samples at once did not fit.*at_once=3"):
        parts = Solver(prior, "proximal", steps=3).solve(y, op, n_samples=10, seed=2)
    assert prior.asked == [10, 5] + [3] * 9 + [1] * 3 and plenty.asked == [10] * 3
    assert torch.equal(parts.samples, whole.samples) and torch.equal(parts.chi2, whole.chi2)
    assert "3 at once" in parts.settings["memory"] and "memory" not in whole.settings
    with pytest.warns(UserWarning):
        summary = Solver(prior, "proximal", steps=3).summarize(y, op, n_samples=10, seed=2, quantiles=())
    torch.testing.assert_close(summary.mean, whole.mean)
    assert "2 at once" in summary.settings["memory"] and summary.n_samples == 10


def test_memory_that_does_not_hold_one_sample_is_named_and_other_errors_stay():
    op = operators.denoise((3, 6, 6), sigma=0.1)
    prior = Limited()
    with pytest.raises(torch.OutOfMemoryError), pytest.warns(UserWarning):
        Solver(prior, "proximal", steps=3).solve(op(rand(4, 3, 6, 6)), op, n_samples=2)
    assert prior.asked == [8, 4]
    prior.asked, prior.error = [], RuntimeError("something else")
    with pytest.raises(RuntimeError, match="something else"):
        Solver(prior, "proximal", steps=3).solve(op(rand(1, 3, 6, 6)), op, n_samples=8)
    assert prior.asked == [8]  # tried once
    particles = Solver(Limited(), "tds", steps=3, twist="isotropic")
    with pytest.raises(torch.OutOfMemoryError):
        particles.solve(op(rand(1, 3, 6, 6)), op, n_samples=64)


def test_a_budget_is_planned_anew_where_its_trial_does_not_fit():
    op = operators.denoise((3, 6, 6), sigma=0.1)
    y, prior = op(rand(1, 3, 6, 6)), Limited()
    with pytest.warns(UserWarning):
        r = Solver(prior, "proximal", seconds=1).solve(y, op, n_samples=4)
    assert r.samples.shape[1] == 4 and r.settings["memory"].endswith("2 at once were tried next")


@pytest.fixture
def run(monkeypatch, tmp_path):
    """A network, a picture of 40x40 and tiles of 24."""
    monkeypatch.setattr("ambient_solve.restore.memory.TILE", 24)
    monkeypatch.setattr("ambient_solve.restore.memory.OVERLAP", 8)
    array = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    torch.manual_seed(0)
    prior = NetworkPrior(NetworkConfig(widths=(8, 16), groups=4, embedding=16)).eval().requires_grad_(False)
    return lambda **more: restore_file(  # noqa: E731
        tmp_path / "a.png",
        prior,
        Denoise(sigma=0.1),
        algorithm="proximal",
        options={"steps": 2},
        **{"n_samples": 3, **more},
    )


def limit(monkeypatch, most):
    """Let every network hold `most` pixels; what it was asked for."""
    asked, denoise = [], NetworkPrior.denoise

    def limited(self, z, *rest):
        asked.append(tuple(z.shape))
        if len(z) * z.shape[-2] * z.shape[-1] > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return denoise(self, z, *rest)

    monkeypatch.setattr(NetworkPrior, "denoise", limited)
    return asked


def test_a_file_is_restored_one_by_one_then_in_tiles(run, monkeypatch, tmp_path):
    plenty = run().restoration
    asked = limit(monkeypatch, 40 * 40)
    with pytest.warns(UserWarning, match="at_once=1"):
        single = run()
    assert [n for n, *_ in asked] == [3, 2] + [1] * 6 and single.notes == ()
    torch.testing.assert_close(single.restoration.samples, plenty.samples, atol=2e-3, rtol=1e-2)
    assert "1 at once" in single.restoration.settings["memory"]
    asked = limit(monkeypatch, 24 * 24)
    with pytest.warns(UserWarning):
        tiled = run(out=tmp_path / "out")
    assert "tiles of 24 pixels" in tiled.notes[0] and tiled.restoration.samples.shape == plenty.samples.shape
    assert (1, 3, 40, 40) in asked and asked[-1] == (1, 3, 24, 24)
    assert run(out=tmp_path / "out").skipped


def test_a_file_that_does_not_fit_in_tiles_is_refused_in_a_sentence(run, monkeypatch):
    asked = limit(monkeypatch, 24 * 24 - 1)
    with pytest.raises(AmbientSolveError, match="does not suffice for a.png. Make"), pytest.warns(UserWarning):
        run()
    assert asked[-1] == (1, 3, 24, 24)
    monkeypatch.setattr("ambient_solve.restore.memory.TILE", 64)  # it would be a tile itself: no use in trying
    asked.clear()
    with pytest.raises(AmbientSolveError, match="does not suffice"), pytest.warns(UserWarning):
        run()
    assert asked[-1] == (1, 3, 40, 40)
