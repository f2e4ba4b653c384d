"""The E-step: the Gaussian of iteration 0, restorations of the exact law, a folder that goes on after a stop."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ambient_solve.algorithms import MMPS
from ambient_solve.data.corruption import read_corrupted
from ambient_solve.data.sample import Sample
from ambient_solve.errors import AmbientSolveError
from ambient_solve.likelihood import Likelihood
from ambient_solve.linalg.conjugate_gradient import conjugate_gradient
from ambient_solve.noise import Streams
from ambient_solve.operators.coils import birdcage
from ambient_solve.operators.mri import MultiCoil
from ambient_solve.priors.base import Prior
from ambient_solve.priors.gaussian import GaussianPrior
from ambient_solve.transforms import derandomised, randomised
from helpers import one_sentence, rand, randn

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "trainers"))
expectation, restored, texture = (
    importlib.import_module(name)
    for name in (
        "ambient_solve.training.expectation",
        "ambient_solve.training.restored",
        "ambient_solve.training.texture",
    )
)

SHAPE, D, NOISE = (1, 3, 4), 12, 0.1


def truth() -> GaussianPrior:
    places = torch.cartesian_prod(torch.arange(3.0), torch.arange(4.0))
    covariance = 0.25 * torch.exp(-torch.cdist(places, places) / 3)
    return GaussianPrior(0.3 * torch.cos(torch.arange(12.0)).reshape(SHAPE), covariance)


def incomplete_samples(n: int, seen: int = 3) -> list[Sample]:
    """All but `seen` of the entries of each are missing."""
    generator = torch.Generator().manual_seed(0)
    z = truth().sample(n, generator) + NOISE * torch.randn(n, *SHAPE, generator=generator)
    masks = (torch.rand(n, D, generator=generator).argsort(1) < seen).to(torch.uint8).reshape(n, *SHAPE)
    return [Sample(str(i), m * z[i], NOISE, mask=m, damage="random-mask") for i, m in enumerate(masks)]


SAMPLES = incomplete_samples(7)


# The Gaussian of iteration 0 ---


def coloured_texture(side: int = 8) -> texture.Texture:
    """Two channels that are correlated, over correlated pixels."""
    lag = torch.arange(side).minimum(side - torch.arange(side)).double()
    covariance = torch.exp(-(lag[:, None] ** 2 + lag[None] ** 2).sqrt() / 2)
    spectrum = torch.fft.fft2(covariance).real.clamp_min(1e-3)
    turn = torch.tensor([[math.cos(0.7), -math.sin(0.7)], [math.sin(0.7), math.cos(0.7)]]).double()
    return texture.Texture(torch.tensor([0.2, -0.1]).double(), torch.stack([0.2 * spectrum, 0.04 * spectrum]), turn)


def covariance_of(prior: texture.Texture) -> Tensor:
    d = math.prod(prior.shape)
    return prior.times(torch.eye(d).reshape(d, *prior.shape)).flatten(1)


def textured_samples(prior: texture.Texture, n: int, missing: float = 0.75, sigma: float = 0.05) -> list[Sample]:
    z = prior.draw(torch.empty(n, *prior.shape), Streams(range(n), 1))
    masks = (rand(n, 1, *prior.shape[1:], seed=1) >= missing).to(torch.uint8)
    z = masks * (z + sigma * randn(*z.shape, seed=2))
    return [Sample(str(i), z[i].half(), sigma, mask=m, damage="random-mask") for i, m in enumerate(masks)]


def test_gaussian_of_iteration_0_is_found_with_three_pixels_in_four_missing():
    prior = coloured_texture()
    samples, wanted = textured_samples(prior, 400), covariance_of(prior)
    fitted = texture.fit_texture(samples, seed=0, em_iterations=6, iterations=20)

    def error(found: texture.Texture) -> float:
        return float((covariance_of(found) - wanted).norm() / wanted.norm())

    # Controls: where EM starts, and the same family fitted to the pictures as they are stored, holes as zeros.
    z = torch.stack([s.z for s in samples]).double()
    centred = z - z.mean((0, 2, 3), keepdim=True)
    power = torch.fft.fft2(prior.turn(centred), norm="ortho").abs().square().mean(0)
    stored = texture.Texture(prior.mean, power, prior.mixing)
    first = texture.fit_texture(samples, seed=0, em_iterations=0)
    print(f"\nerror of the covariance: {error(fitted):.3f}; at the start {error(first):.3f}, zeros {error(stored):.3f}")
    assert error(fitted) < 0.2 and error(first) > 0.4 and error(stored) > 0.8
    assert float((fitted.mean - prior.mean).abs().max()) < 0.03


def test_texture_is_the_gaussian_of_its_covariance(tmp_path):
    prior = coloured_texture(4)
    mean = prior.mean.reshape(2, 1, 1).expand(prior.shape)
    dense = GaussianPrior(mean, covariance_of(prior), scale=0.5, offset=0.5)
    z, sigma = randn(3, *prior.shape, seed=3), torch.tensor([0.1, 0.5, 2.0])
    (ours, vjp), (theirs, its) = prior.denoise_vjp(z, sigma), dense.denoise_vjp(z, sigma)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(prior.denoise(z, sigma), theirs)
    torch.testing.assert_close(vjp(z), its(z))
    prior.save(tmp_path / "iteration-0.safetensors")
    assert torch.equal(
        texture.Texture.load(tmp_path / "iteration-0.safetensors").denoise(z, sigma), prior.denoise(z, sigma)
    )


def test_posterior_draws_of_a_texture_have_the_exact_law():
    prior, n = coloured_texture(4), 1500
    (sample,) = textured_samples(prior, 1, missing=0.5, sigma=0.2)
    y, op, sigma_y = expectation.measurement([sample] * n, prior, 0.005)
    draws = prior.posterior_draw(Likelihood(y, op, prior, sigma_y=sigma_y), Streams(range(n), 1), 40)
    dense = GaussianPrior(prior.mean.reshape(2, 1, 1).expand(prior.shape), covariance_of(prior))
    seen = sample.mask.expand(prior.shape).flatten().bool()
    exact = dense.posterior(torch.eye(32)[seen], sample.z.flatten()[seen], 0.2)
    off = (draws.mean(0) - exact.mean).flatten() / (exact.variance.flatten() / n).sqrt()
    found = torch.cov(draws.flatten(1).T.double())
    spread = float((found - exact.covariance).norm() / exact.covariance.norm())
    assert float(off.abs().max()) < 4.5 and spread < 0.15
    # Control: the prior's draws do not.
    assert float((covariance_of(prior) - exact.covariance).norm() / exact.covariance.norm()) > 0.5


# Restorations ---


class ConditionedGaussian(Prior):
    """The minimiser of the objective `Conditional` under the Gaussian above."""

    shape, sigma_min, sigma_max = SHAPE, 0.005, 40.0

    def denoise(self, z: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
        y, mask = cond.flatten(1).double().chunk(2, 1)
        known, precision = mask / NOISE**2, torch.linalg.inv(truth().covariance)
        wanted = precision @ truth().mean.flatten() + known * y + z.flatten(1) / sigma[:, None] ** 2
        system = precision + torch.diag_embed(known + 1 / sigma[:, None].double() ** 2)
        return torch.linalg.solve(system, wanted[..., None])[..., 0].reshape(z.shape).float()


def test_a_conditioned_network_draws_from_the_posterior():
    n, sample = 1500, SAMPLES[0]
    draws = expectation.Conditioned(18).draw(ConditionedGaussian(), [sample] * n, range(n)).flatten(1).double()
    seen = sample.mask.flatten().bool()
    exact = truth().posterior(torch.eye(D)[seen], sample.z.flatten()[seen], NOISE)
    off = (draws.mean(0) - exact.mean.flatten()) / (exact.variance.flatten() / n).sqrt()
    spread = float((torch.cov(draws.T) - exact.covariance).norm() / exact.covariance.norm())
    print(f"\nmean off by at most {float(off.abs().max()):.1f} standard errors, covariance by {spread:.3f}")
    assert float(off.abs().max()) < 5 and spread < 0.15
    # Control: another measurement's posterior is not it.
    other = expectation.Conditioned(18).draw(ConditionedGaussian(), [SAMPLES[1]] * 50, range(50)).flatten(1)
    assert float((other.mean(0) - exact.mean.flatten()).abs().max()) > 0.3


@pytest.mark.parametrize(("sigma_noise", "sigma_min"), [(0.3, 0.0), (0.2, 0.5)])
def test_restored_from_a_level_noisy_pictures_have_the_law_of_clean_ones(sigma_noise, sigma_min):
    n, prior = 1500, truth()
    z = prior.sample(n, torch.Generator().manual_seed(1)) + sigma_noise * randn(n, *SHAPE, seed=4)
    samples = [Sample(str(i), row, sigma_noise, sigma_min) for i, row in enumerate(z)]
    method = expectation.FromLevel(18, rho=2.0)

    def excess(z: Tensor) -> float:
        """The variance in units of the clean pictures', less 1; a standard error is sqrt(2 / (12 n)) = .011."""
        return float(torch.linalg.solve(prior.covariance, torch.cov(z.flatten(1).T.double())).trace() / D) - 1

    found = excess(method.draw(prior, samples, range(n)))
    # Controls: the pictures as they are, and restored as if there were no noise in them.
    unknown = [dataclasses.replace(s, sigma_noise=0.0, sigma_min=max(sigma_min, sigma_noise)) for s in samples]
    low, stored = excess(method.draw(prior, unknown, range(n))), excess(z)
    print(f"\nexcess variance: {found:.3f}; noise unknown {low:.3f}, as stored {stored:.3f}")
    assert abs(found) < 0.05 and min(low, stored) > 0.08
    assert method.sigma_min(samples[0]) == max(sigma_noise, sigma_min) / 2


def test_measurement_is_what_was_measured():
    prior = GaussianPrior(torch.zeros(2, 4, 4), 0.3 * torch.eye(32), scale=0.5, offset=0.5)
    z0, mask = 0.5 * randn(2, 4, 4, seed=5), (rand(1, 4, 4, seed=6) > 0.5).to(torch.uint8)
    signs = (2 * (rand(2, 4, 4, seed=7) > 0.5).float() - 1).to(torch.int8)
    of_coefficients = (rand(2, 4, 4, seed=8) > 0.5).to(torch.uint8)
    pixels = Sample("pixels", mask * z0, 0.2, mask=mask)
    whole = Sample("whole", z0, 0.0)
    y, op, sigma_y = expectation.measurement([pixels, whole], prior, 0.01)
    assert torch.equal(y[0], mask * prior.decode(z0)) and torch.equal(y[1], prior.decode(z0))
    assert torch.equal(op.A(torch.ones(2, 2, 4, 4)), torch.stack([mask.expand(2, 4, 4), torch.ones(2, 4, 4)]))
    torch.testing.assert_close(sigma_y, torch.tensor([0.1, 0.005]))
    z = derandomised(of_coefficients * randomised(z0, signs.float()), signs.float())
    coefficients = Sample("coefficients", z, 0.1, mask=of_coefficients, signs=signs)
    y, op, _ = expectation.measurement([coefficients], prior, 0.01)
    torch.testing.assert_close(y[0], of_coefficients * randomised(prior.decode(z0), signs.float()))
    # Control: the stored picture is no measurement of pixels.
    assert not torch.allclose(op.A(prior.decode(z0[None])), expectation.measurement([whole], prior, 0.01)[0])


def test_measurement_of_coils_says_of_the_picture_what_the_scan_said():
    """The posterior depends on y through `A^H y` alone, which the stored least picture gives back, noise and all."""
    prior = GaussianPrior(torch.zeros(2, 8, 8), 0.3 * torch.eye(128))
    maps, mask = birdcage(3, (8, 8)), torch.zeros(1, 8, 8, dtype=torch.uint8)
    mask[..., [1, 3, 4, 6]] = 1
    scanner = MultiCoil(maps, mask.float(), NOISE)
    y = scanner(randn(1, 2, 8, 8, seed=1))
    stored = scanner.A_adjoint(y)
    least = conjugate_gradient(scanner.A_adjoint_A, stored, 100)
    for z, iterations in ((least, 0), (stored, 100)):
        samples = [Sample("scan", z[0], NOISE, mask=mask, maps=maps)] * 2
        found, op, sigma_y = expectation.measurement(samples, prior, 0.01, iterations)
        assert torch.equal(sigma_y, torch.tensor([NOISE, NOISE]))
        torch.testing.assert_close(op.A_adjoint(found), stored.expand(2, -1, -1, -1), atol=1e-3, rtol=1e-3)
    # Control: what coils mix is not undone by itself.
    wrong, op, _ = expectation.measurement([Sample("scan", stored[0], NOISE, mask=mask, maps=maps)], prior, 0.01)
    assert float((op.A_adjoint(wrong) - stored).norm() / stored.norm()) > 0.05


def test_the_gaussian_of_iteration_0_knows_no_scans():
    maps = torch.ones(1, 4, 4, dtype=torch.complex64)
    with pytest.raises(AmbientSolveError, match="--init") as error:
        texture.fit_texture([Sample("scan", randn(2, 4, 4, seed=1), 0.1, maps=maps)], seed=0)
    assert one_sentence(error)


@pytest.mark.parametrize("sigma_noise", [0.0, NOISE])
def test_what_no_operator_describes_stays_annotated_when_a_picture_is_restored(tmp_path, sigma_noise):
    """A mask and noise are undone, a blur is not: the restoration is no clean picture, and is stored as none."""
    seen = torch.ones(SHAPE, dtype=torch.uint8)
    seen[..., 0] = 0

    def sample(sigma_min: float) -> Sample:
        z = (seen * randn(*SHAPE, seed=11)).half()
        return Sample("blurred", z, sigma_noise, sigma_min, mask=seen, damage="gaussian-blur")

    levels = {0.0: 0.0, sigma_noise: 0.0, 1.5: 1.5, math.inf: math.inf}
    for method in (expectation.FromSolver(MMPS(steps=4)), expectation.Conditioned(3)):
        assert all(method.restores(sample(low)) for low in levels)
        assert {low: method.sigma_min(sample(low)) for low in levels} == levels
    method, kept = METHODS["guided"][0], [low for low in levels if math.isfinite(low)]
    write([sample(low) for low in kept], tmp_path / "out", method)
    back = list(read_corrupted(tmp_path / "out", 1))[::2]
    assert [s.sigma_min for s in back] == [levels[low] for low in kept]
    assert all(s.damage == "restored" and s.sigma_noise == 0 and s.mask is None for s in back)
    # Control: what only noise had damaged may be used as clean.
    assert [s.sigma_min for s in back if s.sigma_min == 0] == [0.0] * (len(kept) - 1)


METHODS = {
    "guided": (expectation.FromSolver(MMPS(steps=4)), truth()),
    "conditional": (expectation.Conditioned(3), ConditionedGaussian()),
    "from level": (expectation.FromLevel(3), truth()),
}


@pytest.mark.parametrize("name", METHODS)
def test_restoration_depends_on_its_own_seed_only(name):
    method, prior = METHODS[name]
    rows = SAMPLES[:5]
    if name == "from level":
        rows = [Sample(s.name, s.z, 0.1 * (1 + i), 1.0) for i, s in enumerate(rows)]
    together = method.draw(prior, rows, [10, 11, 12, 13, 14])
    torch.testing.assert_close(method.draw(prior, [rows[3], rows[1]], [13, 11]), together[[3, 1]], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(method.draw(prior, rows, [10, 99, 12, 13, 14])[1], together[1], atol=1e-3)


# Iterations that are interrupted ---


def write(samples: list[Sample], folder: Path, method: expectation.Expectation) -> None:
    restored.write_restored(
        samples, folder, method, truth(), draws=2, batch=4, seed=(0, 1, 0), record={"iteration": 1}, title="restore"
    )


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_interrupted_e_step_goes_on_and_draws_nothing_twice(tmp_path, monkeypatch):
    method, drawn = METHODS["guided"][0], []
    original = expectation.FromSolver.draw

    def draw(self, prior, samples, seeds):
        if len(drawn) == stop:
            raise KeyboardInterrupt
        drawn.append([s.name for s in samples])
        return original(self, prior, samples, seeds)

    monkeypatch.setattr(expectation.FromSolver, "draw", draw)
    clean = Sample("clean", randn(*SHAPE, seed=9).half())
    blurred = Sample("blurred", randn(*SHAPE, seed=10).half(), sigma_min=1.5, damage="gaussian-blur")
    samples, stop = [*SAMPLES[:4], clean, blurred, *SAMPLES[4:7]], -1
    write(samples, tmp_path / "whole", method)
    assert len(drawn) == 4 and sum(map(len, drawn)) == 14
    drawn, stop = [], 2
    with pytest.raises(KeyboardInterrupt):
        write(samples, tmp_path / "stopped", method)
    with pytest.raises(AmbientSolveError, match="interrupted"):
        list(read_corrupted(tmp_path / "stopped"))
    (tmp_path / "stopped" / "000003-0.part").write_bytes(b"torn")
    drawn, stop = [], -1
    write(samples, tmp_path / "stopped", method)
    assert len(drawn) == 2
    (tmp_path / "stopped" / "000003-0.part").unlink(missing_ok=True)
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")

    back = list(read_corrupted(tmp_path / "whole", 1))
    assert len(back) == 2 * len(samples) and [s.name for s in back[::2]] == [s.name for s in samples]
    assert all(s.mask is None and s.sigma_noise == 0 for s in back)
    assert torch.equal(back[8].z, clean.z) and torch.equal(back[9].z, clean.z) and back[8].damage == "clean"
    # What no operator describes stays annotated, and is not declared restored.
    assert torch.equal(back[10].z, blurred.z) and back[10].sigma_min == 1.5 and back[10].damage == "gaussian-blur"
    assert not torch.equal(back[0].z, back[1].z), "two draws of one picture"
    row = json.loads((tmp_path / "whole" / "manifest.jsonl").read_text().splitlines()[0])["restored"]
    assert row == {
        "iteration": 1,
        **method.settings,
        "draw": 0,
        "of": "random-mask",
        "sigma_noise": NOISE,
        "observed": 0.25,
    }
