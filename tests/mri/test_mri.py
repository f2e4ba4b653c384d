"""One scan to a picture: nothing but the calibration region sets maps and scale, units come back, noise is found."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import mri
from ambient_solve.cli.dispatch import main
from ambient_solve.data.corruption import read_corrupted
from ambient_solve.data.loader import Levels, Loader
from ambient_solve.errors import AmbientSolveError
from ambient_solve.linalg.conjugate_gradient import conjugate_gradient
from ambient_solve.mri.classical import cg_sense, l1_wavelet, total_variation, zero_filled
from ambient_solve.mri.prepare import Preparation, prepare
from ambient_solve.mri.problem import Problem, misfit, problem
from ambient_solve.mri.reconstruction import Reconstruction, classical, load_mri_prior, magnitude_metrics, reconstruct
from ambient_solve.mri.report import cyclic, montage, report
from ambient_solve.mri.scan import Scan
from ambient_solve.mri.simulate import birdcage, simulate
from ambient_solve.objectives.kspace import KSpace, gram
from ambient_solve.operators.kspace_masks import make_mask
from ambient_solve.operators.mri import MultiCoil
from ambient_solve.priors.gaussian import GaussianPrior
from ambient_solve.priors.network import NetworkConfig, NetworkPrior
from helpers import one_sentence
from test_mri_data import H, W, apart, disc

COILS, SIGMA = 4, 0.02


def made(seed: int = 0, sigma: float = SIGMA, noise: int = 0, picture: torch.Tensor | None = None):
    """An undersampled slice, of a disc by default, and its maps."""
    rng = np.random.default_rng(seed)
    picture = disc() if picture is None else picture
    size = tuple(picture.shape)
    maps = birdcage(COILS, size, rng)
    full, x = simulate(picture, maps, sigma, rng)
    mask = make_mask("random", size, 3, 8, seed)
    heard = torch.from_numpy(sigma * rng.standard_normal((2, COILS, noise))).float() if noise else None
    heard = torch.complex(*heard) if noise else None
    return Scan((mask * full)[None], mask[None], noise=heard, reference=x.abs()[None]), maps


def test_maps_and_scale_come_from_the_calibration_region_alone():
    scan, _ = made()
    first = problem(scan, sigma=SIGMA)
    half = scan.acs // 2
    outside = torch.ones(H, W)
    outside[:, W // 2 - half : W // 2 - half + scan.acs] = 0  # calibration lines are used in all their length
    other = problem(replace(scan, kspace=scan.kspace * (1 + 2 * outside)), sigma=SIGMA)
    assert torch.equal(first.maps, other.maps) and first.scale == other.scale and not torch.equal(first.y, other.y)
    inside = problem(replace(scan, kspace=scan.kspace * (3 - 2 * outside)))
    assert inside.scale == pytest.approx(3 * first.scale)
    spoilt = scan.kspace.clone()
    spoilt[0, 0, H // 2 - half : H // 2 + half] *= 4
    assert not torch.allclose(problem(replace(scan, kspace=spoilt)).maps, first.maps, atol=0.01)


def test_estimated_maps_are_those_of_the_coils():
    scan, maps = made(sigma=0.001)
    object_ = disc() > 0
    angle = (problem(scan).maps.conj() * maps).sum(0).abs()[object_]
    assert float(angle.mean()) > 0.98
    other = birdcage(COILS, (H, W), np.random.default_rng(9))
    assert float((other.conj() * maps).sum(0).abs()[object_].mean()) < 0.95


@pytest.mark.parametrize("noise", [0, 400])
def test_the_noise_level_is_found(noise):
    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 60), indexing="ij")
    for sigma in (0.01, 0.05):
        scan, _ = made(sigma=sigma, noise=noise, picture=torch.exp(-6 * (x**2 + y**2)))
        p = problem(scan)
        assert p.sigma * p.scale == pytest.approx(sigma, rel=0.15), (noise, sigma)
    loud = replace(scan, kspace=4 * scan.kspace, noise=None)
    q = problem(loud)
    assert q.sigma * q.scale == pytest.approx(4 * 0.05, rel=0.15)
    everything = q.y[..., q.mask > 0]
    assert float(everything.std()) > 3 * q.sigma  # what does not keep to the rim takes signal for noise


def test_a_scan_without_noise_is_refused():
    y, x = torch.meshgrid(torch.linspace(-1, 1, H), torch.linspace(-1, 1, W), indexing="ij")
    smooth = torch.exp(-20 * (x**2 + y**2))
    assert problem(made(sigma=1e-3, picture=smooth)[0]).sigma > 0
    with pytest.raises(AmbientSolveError, match="--sigma") as error:
        problem(Scan(torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(smooth.to(torch.complex64))))[None, None]))
    assert one_sentence(error)


def known(scan: Scan, maps: torch.Tensor, sigma: float = SIGMA) -> Problem:
    """The problem with the maps and the noise level that are true."""
    p = problem(scan, maps=maps)
    return replace(p, sigma=sigma / p.scale, op=MultiCoil(maps, p.mask, sigma / p.scale))


def test_units_come_back():
    scan, _ = made()
    one, thousand = (classical(problem(s), "cg-sense") for s in (scan, replace(scan, kspace=1000 * scan.kspace)))
    assert apart(thousand.mean, 1000 * one.mean) < 1e-3 and thousand.chi2 == pytest.approx(one.chi2, rel=1e-3)
    assert one.settings["scale"] != 1 and thousand.settings["scale"] == pytest.approx(1000 * one.settings["scale"])
    x = zero_filled(problem(scan))[0].norm(dim=0)
    assert apart(one.magnitude, scan.reference[0]) < 0.5 * apart(x * 0, scan.reference[0])


def test_cg_sense_solves_its_equation():
    scan, maps = made()
    p, weight = known(scan, maps), 0.05
    eye = torch.eye(2 * H * W).reshape(-1, 2, H, W)
    dense = p.op.A_adjoint_A(eye).flatten(1).double() + weight * torch.eye(2 * H * W).double()
    exact = torch.linalg.solve(dense, p.op.A_adjoint(p.y).flatten().double()).reshape(1, 2, H, W)
    assert apart(cg_sense(p, weight, 60).double(), exact) < 1e-4
    assert apart(cg_sense(p, 2 * weight, 60).double(), exact) > 1e-2


def test_the_methods_of_sigpy_minimise_what_they_say():
    """Where all is sampled and nothing weighed, the least squares; the objective of L1 is lower than that of others."""
    pytest.importorskip("sigpy", reason="needs sigpy")
    rng = np.random.default_rng(0)
    maps = birdcage(COILS, (H, W), rng)
    p = known(Scan(simulate(disc(), maps, SIGMA, rng)[0][None]), maps)
    for method, iterations in ((l1_wavelet, 30), (total_variation, 100)):
        assert apart(method(p, 0.0, iterations), zero_filled(p)) < 1e-3
        assert apart(method(p, 0.05, iterations), zero_filled(p)) > 0.02
    scan, maps = made()
    q = known(scan, maps)
    truth = scan.reference[0] / q.scale
    errors = [apart(x[0].norm(dim=0), truth) for x in (l1_wavelet(q, 0.5 * q.sigma, 50), cg_sense(q, q.sigma**2))]
    assert errors[0] < 0.9 * errors[1]  # a disc is sparse in wavelets


def test_the_truth_fits_to_the_noise():
    rng = np.random.default_rng(0)
    maps = birdcage(COILS, (H, W), rng)
    full, x = simulate(disc(), maps, SIGMA, rng)
    mask = make_mask("random", (H, W), 3, 8, 0)
    p = known(Scan((mask * full)[None], mask[None]), maps)
    truth = torch.view_as_real(x).permute(2, 0, 1)[None] / p.scale
    assert misfit(p, truth) == pytest.approx(1, abs=0.05)
    assert misfit(p, 1.1 * truth) > 2 and misfit(p, 0 * truth) > 100


def test_samples_of_an_exact_prior_end_at_the_exact_mean():
    """The whole way, units included, against the closed form, up to the chance in 24 samples."""
    scan, maps = made()
    p = known(replace(scan, kspace=50 * scan.kspace, reference=50 * scan.reference), maps, 50 * SIGMA)
    frequency = [torch.fft.fftfreq(n).abs() for n in (H, W)]
    spectrum = 0.002 + 3 * torch.exp(-80 * (frequency[0][:, None] ** 2 + frequency[1] ** 2))
    prior = GaussianPrior.stationary(torch.zeros(2, H, W), spectrum.double())

    def precision(x: torch.Tensor) -> torch.Tensor:
        inner = torch.fft.ifft2(torch.fft.fft2(x) / spectrum).real
        return p.op.A_adjoint_A(x.float()).to(x) / p.sigma**2 + inner

    exact = conjugate_gradient(precision, (p.op.A_adjoint(p.y) / p.sigma**2).double(), 400)
    found = reconstruct(p, prior, algorithm="mmps", options={"steps": 15, "iterations": 5}, n_samples=24)
    chance = float(found.samples.std(0).norm() / 24**0.5 / found.mean.norm())
    assert apart(found.mean / p.scale, exact[0]) < 2 * chance < 0.2
    assert apart(zero_filled(p)[0], exact[0]) > 2.5 * chance  # which is no answer
    assert found.samples.shape == (24, 2, H, W) and found.std.shape == (H, W)
    assert found.chi2 < 1.5 and set(found.metrics) == {"nrmse", "psnr", "ssim"}


def tiny(folder: Path | None = None, mask_channels: int = 1) -> NetworkPrior:
    torch.manual_seed(0)
    config = NetworkConfig(
        channels=2,
        widths=(8, 16),
        groups=4,
        mask_channels=mask_channels,
        scale=1.0,
        offset=0.0,
        sigma_min=0.03,
        sigma_max=20.0,
    )
    prior = NetworkPrior(config).eval().requires_grad_(False)
    if folder is not None:
        prior.save(folder)
    return prior


def test_a_mask_conditioned_network_is_given_the_mask_and_shown_what_it_lets_through(monkeypatch):
    scan, _ = made()
    p, prior, seen = problem(scan), tiny(), []
    denoise = NetworkPrior.denoise
    monkeypatch.setattr(
        NetworkPrior, "denoise", lambda self, z, s, c=None: seen.append((z, c)) or denoise(self, z, s, c)
    )
    found = reconstruct(p, prior, options={"steps": 3}, n_samples=2)
    assert found.settings["algorithm"] == "proximal" and len(found.samples) == 2
    assert found.settings["why"] != "chosen by the caller"
    named = reconstruct(p, prior, algorithm="proximal", options={"steps": 3}, n_samples=2)
    assert named.settings["why"] == "chosen by the caller" and torch.equal(named.samples, found.samples)
    for z, cond in seen:
        assert torch.equal(cond, p.mask.expand(len(z), 1, H, W))
        # What is shown lies in the range of A^H: twice filtered, its missing lines are still explained by the maps.
        basis = conjugate_gradient(p.op.A_adjoint_A, z, 200)
        assert apart(p.op.A_adjoint_A(basis), z) < 0.02
    noise = torch.randn(1, 2, H, W)
    assert apart(p.op.A_adjoint_A(conjugate_gradient(p.op.A_adjoint_A, noise, 200)), noise) > 0.05
    assert len(reconstruct(p, prior, algorithm="aos", n_samples=8).samples) == 1


def test_a_network_may_be_given_another_mask(monkeypatch):
    scan, _ = made()
    p, prior, seen = problem(scan), tiny(), []
    denser = torch.maximum(p.mask, make_mask("random", (H, W), 2, 8, 1))
    denoise = NetworkPrior.denoise
    monkeypatch.setattr(NetworkPrior, "denoise", lambda self, z, s, c=None: seen.append(c) or denoise(self, z, s, c))
    reconstruct(p, prior, options={"steps": 2}, n_samples=1, prior_mask=denser)
    assert all(torch.equal(c[0, 0], denser) for c in seen) and seen


def test_points_held_out_are_predicted_by_the_truth_alone():
    rng = np.random.default_rng(0)
    maps = birdcage(COILS, (H, W), rng)
    full, x = simulate(disc(), maps, SIGMA, rng)
    mask = make_mask("poisson", (H, W), 3, 8, 0)
    whole = known(Scan((mask * full)[None], mask[None]), maps)
    unseen = mask * (torch.arange(H * W).reshape(H, W) % 7 == 0)
    truth = torch.view_as_real(x).permute(2, 0, 1)[None]
    for picture, low, high in ((truth, 0.8, 1.2), (1.1 * truth, 1.2, 1e9), (0 * truth, 3.0, 1e9)):
        found = Reconstruction(whole, picture, 1.0, 0.0, {})
        assert low < mri.held_out_misfit(whole, found, unseen) < high


def test_the_benchmark_takes_the_mean_over_masks_and_names_its_error():
    rows = [{"rate": 4.0, "seed": s, "method": "tv", "nrmse": 0.1 + 0.02 * s} for s in range(2)]
    rows = [{**r, "psnr": 30.0, "ssim": 0.9, "chi2": 1.0, "seconds": 2.0} for r in rows]
    rows.append({"rate": "prospective", "method": "tv", "chi2": 1.25, "unseen": 2.5})
    text = mri.table(rows, [4.0], ["tv"])
    assert "| tv | 0.1100 ± 0.0100 | 30.00 ± 0.00 |" in text and "| tv | 1.25 | 2.50 |" in text


def test_metrics_are_those_of_fastmri():
    x, reference = disc() + 0.1, disc() * 2
    found = magnitude_metrics(x, reference)
    error = (x - reference).square()
    assert found["nrmse"] == pytest.approx(float((error.sum() / reference.square().sum()).sqrt()), rel=1e-5)
    top = float(reference.max())
    assert found["psnr"] == pytest.approx(float(10 * torch.log10(top**2 / error.mean())), rel=1e-5)
    assert magnitude_metrics(reference, reference)["ssim"] == pytest.approx(1)
    assert magnitude_metrics(2 * x, 2 * reference)["psnr"] == pytest.approx(found["psnr"], rel=1e-5)
    assert found["psnr"] != pytest.approx(float(10 * torch.log10(1 / error.mean())), rel=1e-2)  # a range of 1 is wrong


def test_the_report_shows_what_there_is(tmp_path):
    scan, _ = made()
    found = reconstruct(problem(scan), tiny(), options={"steps": 2}, n_samples=2)
    bare = classical(problem(replace(scan, reference=None)), "cg-sense")
    assert report(found).height > report(bare).height  # samples, std, reference and error take a row more
    phase = torch.tensor([[-3.14159, 0.0, 3.14159]])
    colours = cyclic(phase, torch.ones(1, 3)).astype(int)
    assert np.abs(colours[0, 0] - colours[0, 2]).max() <= 1 < np.abs(colours[0, 0] - colours[0, 1]).max()
    tiles = montage(1 + torch.arange(5.0)[:, None, None].expand(5, 4, 6))
    assert tiles.shape == (8, 18)
    blocks = torch.as_tensor(tiles).reshape(2, 4, 3, 6).transpose(1, 2).reshape(6, 24).float()
    assert torch.equal(blocks.amin(1), blocks.amax(1)) and len(set(blocks[:5, 0].tolist())) == 5
    assert (blocks[:4, 0].diff() > 0).all()


def test_the_command_resumes_and_passes_over_a_bad_slice(tmp_path, monkeypatch, capsys):
    pytest.importorskip("nibabel", reason="needs nibabel")
    monkeypatch.chdir(tmp_path)
    tiny(tmp_path / "prior")
    three = torch.cat([made(s)[0].kspace for s in (0, 0, 0)])
    three[1, 2] = complex("nan")
    np.save("scan.npy", three.numpy())
    args = ["mri", "scan.npy", "--prior", "prior", "--samples", "2", "--steps", "2", "--out", "out"]
    assert main(args) == 2
    printed = capsys.readouterr()
    assert "coil 2" in printed.err and one_sentence(printed.err.strip()) and printed.out.count("misfit") == 2
    folder = tmp_path / "out" / "scan"
    assert not (folder / "slice-001").exists()
    with np.load(folder / "slice-002/reconstruction.npz", allow_pickle=False) as arrays:
        assert arrays["samples"].shape == (2, H, W) and arrays["samples"].dtype == np.complex64
        assert np.allclose(arrays["mean"], arrays["samples"].mean(0), atol=1e-5)
        mean = np.abs(arrays["mean"])
    import nibabel

    volume = np.asarray(nibabel.load(folder / "mean.nii.gz").dataobj)
    assert volume.shape == (W, H, 2) and np.allclose(np.rot90(volume[..., 1]), mean, atol=1e-5)
    settings = json.loads((folder / "slice-000/settings.json").read_text())
    assert settings["steps"] == 2 and "not for diagnosis" in settings["notice"] and not settings["simulated_kspace"]
    assert main([*args, "--slices", "0", "2"]) == 0
    assert capsys.readouterr().out.count("finished before") == 2
    assert main([*args, "--slices", "0", "--seed", "1"]) == 0
    assert "finished before" not in capsys.readouterr().out
    for wrong, words in (
        (["mri"], "No scan"),
        (["mri", "scan.npy", "--method", "magic"], "no method"),
        (["mri", "scan.npy", "--prior", "prior", "--slices", "7"], "--slices 7"),
        (["mri", "scan.npy", "--prior", "photos"], "2, real and imaginary"),
    ):
        assert main(wrong) == 2
        assert words in capsys.readouterr().err
    with pytest.raises(AmbientSolveError):
        load_mri_prior("nothing")


@pytest.fixture(scope="module")
def pack(tmp_path_factory) -> Path:
    """Six small pictures of two volumes."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("pack")
    encoded = []
    for i in range(6):
        file = folder / f"{i}.png"
        Image.fromarray((255 * disc(40, 40) * (0.5 + i / 12)).byte().numpy()).save(file)
        encoded.append(np.frombuffer(file.read_bytes(), np.uint8))
    offsets = np.cumsum([0, *map(len, encoded)])
    np.savez(folder / "heads.npz", data=np.concatenate(encoded), offsets=offsets, label=np.array(["a", "b"] * 3))
    return folder / "heads.npz"


SMALL = Preparation(size=32, acs=8, acceleration=3.0, kinds=("random", "poisson"), iterations=40)


def test_prepared_pictures_explain_what_was_measured(tmp_path, pack):
    assert prepare([pack], tmp_path / "data", SMALL) == 6
    samples = list(read_corrupted(tmp_path / "data", 2))
    for sample in samples:
        mask, maps, z = sample.mask[None].float(), sample.maps[None], sample.z[None].float()
        assert float(mask.mean()) == pytest.approx(1 / 3, abs=0.03) and sample.damage == "kspace"
        least = gram(z, mask, maps)
        again = conjugate_gradient(lambda p, mask=mask, maps=maps: gram(p, mask, maps), least, 40)
        assert apart(gram(again, mask, maps), least) < 0.01  # z is one of those that explain the data
        assert apart(least, z) > 0.05  # and not A^H y, which the objective would take for a picture
        assert sample.sigma_noise == pytest.approx(0.02, rel=0.3)
        bright = float(z.norm(dim=1).quantile(0.95))
        assert 0.4 < bright < 2.5  # the scale of the calibration region
    loader = Loader(samples, np.ones(6), Levels(-0.9, 1.4, 0.03, 20.0), crop=32, buffer=1.16, batch=4, seed=0)
    batch, streams = loader(0)
    prior = tiny().requires_grad_(True)
    KSpace(cg_iterations=0).loss(prior, batch, streams).mean().backward()
    assert float(prior.network.leave[-1].weight.grad.norm()) > 0


def test_preparation_resumes_and_leaves_volumes_out(tmp_path, pack):
    prepare([pack], tmp_path / "whole", SMALL)
    calls = []

    def stop(name: str) -> None:
        calls.append(name)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare([pack], tmp_path / "cut", SMALL, tell=stop)
    with pytest.raises(AmbientSolveError, match="other settings"):
        prepare([pack], tmp_path / "cut", replace(SMALL, seed=1))
    prepare([pack], tmp_path / "cut", SMALL, tell=calls.append)
    assert len(calls) == 6 and len(set(calls)) == 6
    for file in sorted((tmp_path / "whole").glob("*.safetensors")):
        assert (tmp_path / "cut" / file.name).read_bytes() == file.read_bytes()
    assert prepare([pack], tmp_path / "held", SMALL, held_out=("b",)) == 3
    names = {json.loads(row)["name"] for row in (tmp_path / "held" / "manifest.jsonl").read_text().splitlines()}
    assert names == {"heads/0", "heads/2", "heads/4"}
    with pytest.raises(AmbientSolveError, match="already holds"):
        prepare([pack], tmp_path / "whole", SMALL)


def test_the_controls_are_prepared_as_their_names_say(tmp_path, pack):
    prepare([pack], tmp_path / "clean", replace(SMALL, target="clean"))
    prepare([pack], tmp_path / "l1", replace(SMALL, target="l1"))
    prepare([pack], tmp_path / "raw", SMALL)
    clean, l1, raw = ([*read_corrupted(tmp_path / name, 2)] for name in ("clean", "l1", "raw"))
    assert all(s.mask is None and s.maps is None for s in (*clean, *l1))
    assert clean[0].sigma_noise > 0 and l1[0].sigma_noise == 0
    # The same slice: L1 is nearer to what all of k-space shows than the least picture is.
    errors = [[apart(s.z.float(), c.z.float()) for s, c in zip(kind, clean, strict=True)] for kind in (l1, raw)]
    assert np.mean(errors[0]) < np.mean(errors[1]) < 1


def test_real_scans_are_stored_as_they_were_measured(tmp_path):
    (tmp_path / "scans").mkdir()
    scan, _ = made()
    two = torch.cat([scan.kspace, scan.kspace])
    two[1, 0] = complex("nan")
    np.save(tmp_path / "scans/a.npy", two.numpy())
    settings = replace(SMALL, size=30, iterations=60)
    assert prepare([tmp_path / "scans"], tmp_path / "data", settings) == 1  # the bad slice is left out, and said
    (sample,) = read_corrupted(tmp_path / "data", 2)
    assert torch.equal(sample.mask[0].float(), scan.mask[0][3:33])
    part = replace(scan, kspace=scan.kspace[:, :, 3:33], mask=scan.mask[:, 3:33], acs=0, reference=None)
    p = problem(part, 4)
    wanted = p.op.A_adjoint(p.y)
    # Another unitary mix of the same coils: A^H A is the same up to a phase of the picture.
    found = gram(sample.z[None].float(), sample.mask[None].float(), sample.maps[None])
    assert apart(found.norm(dim=1), wanted.norm(dim=1)) < 0.05
