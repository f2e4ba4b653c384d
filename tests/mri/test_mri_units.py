"""Scans in units of 1e-4, 1 and 1e3: noise, reference, deviation and misfit are values in the units of the scan."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ambient_solve.linalg.conjugate_gradient import conjugate_gradient
from ambient_solve.mri.problem import Problem, misfit, problem
from ambient_solve.mri.reconstruction import Reconstruction, classical, reconstruct, reconstruction, retrospective
from ambient_solve.mri.scan import Scan
from ambient_solve.mri.simulate import birdcage, simulate
from ambient_solve.operators.kspace_masks import make_mask
from ambient_solve.priors.gaussian import GaussianPrior
from helpers import randn
from test_mri_data import H, W, apart, disc

COILS, SIGMA, BRIGHTNESS = 4, 0.02, 3.0
UNITS = [1e-4, 1.0, 1e3]


def parts(x: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(x).permute(2, 0, 1)[None].contiguous()


def measured(unit: float, sampled: bool = False, noise: int = 100_000) -> tuple[Scan, torch.Tensor, torch.Tensor]:
    """A scan with a noise scan, its coil maps and its picture (1, 2, H, W), all times `unit`."""
    rng = np.random.default_rng(0)
    maps = birdcage(COILS, (H, W), rng)
    full, x = simulate(BRIGHTNESS * disc(), maps, SIGMA, rng)
    mask = torch.ones(H, W) if sampled else make_mask("random", (H, W), 3, 8, 0)
    heard = torch.complex(*torch.from_numpy(SIGMA * rng.standard_normal((2, COILS, noise))).float()) if noise else None
    scan = Scan(unit * (mask * full)[None], mask[None], noise=None if heard is None else unit * heard)
    return scan, maps, unit * parts(x)


@pytest.mark.parametrize("coils", [0, 3])
@pytest.mark.parametrize("unit", UNITS)
def test_the_level_of_a_noise_scan_is_in_the_units_of_the_normalised_scan(unit, coils):
    """800000 numbers: the level is known to a thousandth. It and the operator's are what the truth leaves over."""
    scan, maps, x = measured(unit)
    p = problem(scan, coils)
    assert p.sigma * p.scale == pytest.approx(SIGMA * unit, rel=0.005)
    assert float(p.op.noise_model.sigma) == pytest.approx(p.sigma)
    assert abs(p.scale / unit - 1) > 0.5, "the unit of the test is the scale itself, in which nothing shows"
    q = problem(scan, maps=maps)
    # Whitened coils are these maps in another basis, up to the chance in the noise scan.
    assert misfit(q, x / q.scale) == pytest.approx(1, abs=0.05) and misfit(q, 1.1 * x / q.scale) > 2


@pytest.mark.parametrize("unit", UNITS)
def test_the_level_found_in_k_space_is_in_the_same_units(unit):
    scan, *_ = measured(unit, noise=0)
    one, p = problem(measured(1.0, noise=0)[0]), problem(scan)
    assert p.sigma == pytest.approx(one.sigma, rel=1e-3) and p.scale == pytest.approx(unit * one.scale, rel=1e-3)


@pytest.mark.parametrize("unit", UNITS)
def test_the_reference_of_a_fully_sampled_scan_is_its_picture_in_its_own_units(unit):
    scan, _, x = measured(unit, sampled=True)
    part = retrospective(scan, "random", 3, 8, 0)
    assert apart(part.reference[0], x[0].norm(dim=0)) < 0.1
    assert apart(part.reference[0] / problem(scan).scale, x[0].norm(dim=0)) > 0.5  # the control: normalised
    found = classical(problem(part), "cg-sense")
    assert found.metrics["nrmse"] == pytest.approx(apart(found.magnitude, part.reference[0]), rel=1e-4)
    assert found.metrics["nrmse"] < 0.25


def test_the_reference_of_a_simulated_scan_stays_what_it_was():
    scan, _, x = measured(1e3, sampled=True)
    scan = replace(scan, simulated=True, reference=x[:, 0].clone())
    assert torch.equal(retrospective(scan, "random", 3, 8, 0).reference, scan.reference)


def of(p: Problem, x: torch.Tensor) -> Reconstruction:
    return reconstruction(p, x, 0.0, {})


@pytest.mark.parametrize("unit", UNITS)
def test_the_deviation_is_that_of_the_magnitude_in_the_units_of_the_scan(unit):
    """Samples whose phases differ and whose magnitudes agree have none; those of different magnitude have theirs."""
    p = problem(measured(unit)[0])
    angle = torch.tensor([0.0, 0.7, 2.0, 3.0])[:, None, None, None]
    turned = torch.cat([angle.cos(), angle.sin()], 1) * (0.5 + disc())
    assert float(of(p, turned).std.abs().max()) < 1e-5 * p.scale
    x = randn(6, 2, H, W)
    found, magnitudes = of(p, x), np.hypot(*x.double().numpy().transpose(1, 0, 2, 3))
    np.testing.assert_allclose(found.std / p.scale, magnitudes.std(0, ddof=1), rtol=1e-4)
    # The control: the deviation of the complex picture, which counts phases too.
    assert float((x.var(0).sum(0).sqrt() / (found.std / p.scale)).median()) > 1.3
    assert of(p, x[:1]).std is None
    np.testing.assert_allclose(found.magnitude / p.scale, np.hypot(*x.double().mean(0).numpy()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("unit", [UNITS[0], UNITS[2]])
def test_samples_come_back_in_the_units_of_the_scan(unit):
    """The mean of a white Gaussian prior's posterior, with maps and noise that are true, in closed form."""
    scan, maps, _ = measured(unit, noise=0)
    p = problem(scan, maps=maps)
    prior = GaussianPrior.stationary(torch.zeros(2, H, W), 0.3 * torch.ones(H, W, dtype=torch.float64))
    exact = conjugate_gradient(
        lambda x: p.op.A_adjoint_A(x) / p.sigma**2 + x / 0.3, p.op.A_adjoint(p.y) / p.sigma**2, 300
    )
    found = reconstruct(p, prior, algorithm="mmps", options={"steps": 15, "iterations": 10}, n_samples=40)
    chance = float(found.samples.std(0).norm() / 40**0.5)
    assert float((found.mean - p.scale * exact[0]).norm()) < 1.5 * chance < 0.3 * float(found.mean.norm())
    assert found.settings["scale"] == p.scale and found.settings["sigma_y"] == p.sigma
