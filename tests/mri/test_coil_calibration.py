"""Another scanner: 16 coils, signal up to the edge of k-space, few calibration lines. Maps, coils and noise fit it."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch

from ambient_solve.cli.dispatch import main
from ambient_solve.errors import AmbientSolveError, DoubtfulResult
from ambient_solve.mri.maps import calibration_region, estimated_maps, prediction
from ambient_solve.mri.noise import background, calibration_level, edges, noise_level
from ambient_solve.mri.problem import problem
from ambient_solve.mri.reconstruction import classical, load_mri_prior, reconstruct, retrospective
from ambient_solve.mri.report import report
from ambient_solve.mri.scan import Scan
from ambient_solve.mri.simulate import birdcage, simulate
from ambient_solve.operators.coils import espirit
from ambient_solve.operators.kspace_masks import make_mask
from helpers import one_sentence, randn
from phantoms import head


@pytest.fixture(scope="module")
def scanned() -> tuple[Scan, float]:
    kspace, sigma = head()
    return Scan(kspace[None]), sigma


@pytest.fixture(scope="module")
def eight(scanned) -> Scan:
    """R = 2, eight lines in the middle."""
    return retrospective(scanned[0], "random", 2, 8, 0)


def test_the_noise_level_is_found_though_k_space_holds_signal_to_its_edge(scanned):
    full, sigma = scanned
    assert edges(full.kspace[0], full.mask[0]) > 4 * sigma  # what was taken for the noise
    for kind, rate, acs in (("random", 2, 8), ("random", 6, 12), ("poisson", 4, 12), ("uniform", 1, 96)):
        mask = make_mask(kind, (96, 96), rate, acs, 0)
        p = problem(Scan(mask * full.kspace, mask[None]))
        print(f"\n{kind}, R = {rate}: {p.level.sigma / sigma:.2f} of the true noise, from the {p.level.source}")
        assert p.level.sigma == pytest.approx(sigma, rel=0.15) and p.sigma * p.scale == pytest.approx(p.level.sigma)


def test_each_estimate_is_right_where_its_assumption_holds():
    """Noise alone: all are right. Signal adds to each in its own place, and the least one holds."""
    size, sigma = (64, 60), 0.02
    noise = sigma * 2**0.5 * randn(6, *size, seed=3, dtype=torch.complex64)
    mask, region = make_mask("random", size, 2, 12, 0), (48, 12)
    found = [edges(noise, mask), background(noise, mask), calibration_level(noise, region)]
    assert found == pytest.approx([sigma] * 3, rel=0.1)
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in size), indexing="ij")
    rng = np.random.default_rng(0)
    whole = simulate(torch.ones(size) + 0.5 * torch.sin(20 * x), birdcage(6, size, rng), sigma, rng)[0]
    assert background(mask * whole, mask) > 2 * sigma  # an object that fills the field of view
    small = simulate(((x**2 + y**2) < 0.4).float(), birdcage(6, size, rng), 0.2 * sigma, rng)[0]
    assert edges(mask * small, mask) > 1.5 * 0.2 * sigma
    for kspace, true in ((whole, sigma), (small, 0.2 * sigma)):
        assert noise_level(mask * kspace, mask, region).sigma == pytest.approx(true, rel=0.15)
    assert background(noise, make_mask("poisson", size, 3, 12, 0)) is None  # no axis is sampled whole
    assert calibration_level(noise, (3, 12)) is None


def test_an_edge_that_was_damped_does_not_stand_for_the_noise():
    """A filter of the readout makes its ends quiet. The background and the calibration lines agree, and are right."""
    size, sigma = (96, 96), 0.02
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in size), indexing="ij")
    picture = ((x**2 + y**2) < 0.4) * (1 + 0.5 * torch.cos(9 * x) * torch.sin(7 * y))
    mask, rng = make_mask("random", size, 3, 12, 0), np.random.default_rng(0)
    kspace = simulate(picture, birdcage(8, size, rng), sigma, rng)[0] / (1 + torch.exp((y.abs() - 0.9) / 0.02))
    assert edges(mask * kspace, mask) < 0.3 * sigma
    found = noise_level(mask * kspace, mask, (48, 12))
    assert found.sigma == pytest.approx(sigma, rel=0.1) and found.source != "edges"


def test_a_stated_level_is_taken(eight, scanned, tmp_path, monkeypatch, capsys):
    p = problem(eight, sigma=3 * scanned[1])
    assert p.sigma * p.scale == pytest.approx(3 * scanned[1]) and p.level.source == "stated"
    assert float(p.op.noise_model.sigma) == pytest.approx(p.sigma)
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(AmbientSolveError, match="sigma") as error:
            problem(eight, sigma=wrong)
        assert one_sentence(error)
    pytest.importorskip("nibabel", reason="needs nibabel")
    monkeypatch.chdir(tmp_path)
    np.save("scan.npy", eight.kspace.numpy())
    words = ["mri", "scan.npy", "--method", "cg-sense", "--out", "out"]
    assert main([*words, "--sigma", str(20 * scanned[1])]) == 0
    said = capsys.readouterr()
    assert "noise level is too high" in said.err and "Warning" not in said.err
    record = json.loads((tmp_path / "out/scan/slice-000/settings.json").read_text())
    assert record["sigma_y"] * record["scale"] == pytest.approx(20 * scanned[1], rel=1e-4) and record["doubts"]
    assert main([*words, "--sigma", str(20 * scanned[1])]) == 0
    again = capsys.readouterr()
    assert "finished before" in again.out and again.err == said.err
    assert main([*words, "--sigma", "-1"]) == 2 and one_sentence(capsys.readouterr().err.strip())


def test_coils_are_kept_by_what_they_hold_above_noise(scanned, eight):
    assert len(problem(eight).maps) == 16  # each of them holds signal
    size, rng = (96, 96), np.random.default_rng(0)
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in size), indexing="ij")
    smooth = torch.exp(-6 * (x**2 + y**2))
    four = simulate(smooth, birdcage(4, size, rng), 0.02, rng)[0]
    more = torch.cat([four, 0.02 * 2**0.5 * randn(8, *size, seed=1, dtype=torch.complex64)])
    kept = [len(problem(Scan(k[None]), n).maps) for k, n in ((more, 0), (more, 12), (more, 3), (four, 0))]
    assert 2 <= kept[0] == kept[3] <= 4 and kept[1:3] == [12, 3]  # coils that hear nothing but noise are left out
    errors = [classical(problem(eight, n), "cg-sense").metrics["nrmse"] for n in (0, 8)]
    print(f"\nR = 2, CG-SENSE: NRMSE {errors[0]:.3f} with 16 coils, {errors[1]:.3f} with 8")
    assert errors[0] < 0.97 * errors[1]


def test_maps_of_eight_lines_serve(eight, scanned):
    """Against the maps of the middle square alone, with a fixed threshold, which failed without a word."""
    p = problem(eight)
    kspace, mask = torch.complex(p.y[0, 0], p.y[0, 1]), p.mask
    assert calibration_region(mask, 8) == (48, 8)
    square = espirit(kspace, 8, kernel=4, crop=0.0)
    good, poor = (prediction(kspace, mask, m, (48, 8), p.sigma) for m in (p.maps, square))
    print(f"\nheld out: misfit {good[0]:.1f} against {poor[0]:.1f}, unexplained {good[1]:.3f} against {poor[1]:.3f}")
    assert poor[0] > 8 * good[0] and good[1] < 0.03 < 0.05 < poor[1]
    made, old = classical(p, "cg-sense"), classical(problem(eight, maps=square), "cg-sense")
    print(f"CG-SENSE: NRMSE {made.metrics['nrmse']:.3f} against {old.metrics['nrmse']:.3f}")
    assert made.metrics["nrmse"] < 0.85 * old.metrics["nrmse"] and not p.doubts


@pytest.mark.parametrize("coils", [2, 4, 8])
@pytest.mark.parametrize("sigma", [0.003, 0.02])
def test_what_held_out_entries_say_of_maps_holds_at_any_noise(coils, sigma):
    """True maps predict to the noise: 1, up to what CG-SENSE cannot know. Maps turned round do not."""
    rng, size = np.random.default_rng(0), (96, 96)
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in size), indexing="ij")
    maps = birdcage(coils, size, rng)
    full = simulate(((x**2 + y**2) < 0.5) * (1 + 0.5 * torch.cos(9 * x) * torch.sin(7 * y)), maps, sigma, rng)[0]
    mask = make_mask("random", size, 2, 16, 0)
    good, bad = (prediction(mask * full, mask, m, (48, 16), sigma) for m in (maps, maps.flip(-1)))
    assert 0.3 < good[0] < 4 and good[1] < 0.1 and bad[0] > 2 * good[0] and bad[1] > 0.15
    assert prediction(full, mask, maps, (3, 16), sigma) == (None, 0.0)


def test_poor_maps_are_said(scanned, tmp_path, monkeypatch, capsys):
    """Calibration lines whose phase jumps from one to the next, as a patient that moves leaves them."""
    pytest.importorskip("nibabel", reason="needs nibabel")
    full, sigma = scanned
    mask = make_mask("random", (96, 96), 2, 8, 0)
    turn = torch.exp(1j * torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (16, 1, 96))))
    moved = (mask * turn * full.kspace[0]).to(torch.complex64)
    assert not estimated_maps(moved / 10, mask, (48, 8), sigma / 10).trusted
    monkeypatch.chdir(tmp_path)
    np.save("moved.npy", moved.numpy()[None])
    assert main(["mri", "moved.npy", "--axes", "schw", "--method", "cg-sense", "--out", "out"]) == 0
    said = capsys.readouterr().err
    assert "coil maps" in said and "poor" in said and "held out" in said and "misfit" in said
    folder = tmp_path / "out/moved/slice-000"
    doubts = json.loads((folder / "settings.json").read_text())["doubts"]
    assert len(doubts) == 2 and all(doubt in said for doubt in doubts)
    with pytest.warns(DoubtfulResult, match="coil maps"):
        made = classical(problem(Scan(moved[None], mask[None])), "cg-sense")
    assert report(made).height > report(type(made)(**{**made.__dict__, "doubts": ()})).height
    with warnings.catch_warnings():  # a zero-filled picture explains nothing, and says so by its name
        warnings.simplefilter("error", DoubtfulResult)
        classical(made.problem, "zero-filled")


def test_a_misfit_near_1_is_no_matter():
    """Also where the picture has as many unknowns as there are numbers, and fits them all."""
    size, rng = (48, 44), np.random.default_rng(0)
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in size), indexing="ij")
    for coils, rate in ((1, 1), (1, 2), (8, 1), (8, 3)):
        full = simulate(torch.exp(-6 * (x**2 + y**2)), birdcage(coils, size, rng), 0.02, rng)[0]
        mask = make_mask("random", size, rate, 10, 0)
        with warnings.catch_warnings():
            warnings.simplefilter("error", DoubtfulResult)
            classical(problem(Scan((mask * full)[None], mask[None])), "cg-sense")
        p = problem(Scan((mask * full)[None], mask[None]), sigma=0.002)
        with pytest.warns(DoubtfulResult, match="too low") if coils > 1 else warnings.catch_warnings():
            classical(p, "cg-sense")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("acs", [8, 12])
def test_the_prior_is_ahead_of_wavelets_on_another_scanner(scanned, acs):
    """At R = 4 to 8, with the maps, the coils and the noise level that are found."""
    pytest.importorskip("sigpy", reason="needs sigpy")
    prior = load_mri_prior("brain-mri")
    for rate in (2, 4, 6, 8):
        p = problem(retrospective(scanned[0], "random", rate, acs, 0))
        found = reconstruct(p, prior, n_samples=2, options={"steps": 25}), classical(p, "l1-wavelet")
        ours, theirs = (made.metrics["nrmse"] for made in found)
        print(f"\n{acs} lines, R = {rate}: brain-mri {ours:.3f}, L1-wavelet {theirs:.3f}, misfit {found[0].chi2:.2f}")
        assert ours < theirs or rate == 2
