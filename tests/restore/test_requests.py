"""What counts as the same request: a prior that was trained anew, or other data, make new pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ambient_solve import GaussianPrior, MixturePrior, NetworkConfig, NetworkPrior
from ambient_solve.cli.dispatch import main
from ambient_solve.restore.files import restore_file
from ambient_solve.restore.sharing import PIXELS, Share
from ambient_solve.restore.tasks import Denoise
from test_mri import made

SETTINGS = {"algorithm": "proximal", "options": {"steps": 2}, "n_samples": 2}


def network(seed: int, channels: int = 3) -> NetworkPrior:
    torch.manual_seed(seed)
    prior = NetworkPrior(NetworkConfig(channels=channels, widths=(8,), groups=4, embedding=16))
    for p in prior.parameters():
        torch.nn.init.normal_(p, std=0.05)
    return prior.eval().requires_grad_(False)


def one_weight_changed() -> NetworkPrior:
    prior = network(0)
    list(prior.parameters())[-1].flatten()[0] += 0.5
    return prior


def gaussian(variance: float) -> GaussianPrior:
    return GaussianPrior(torch.zeros(3, 8, 8), variance * torch.eye(192), scale=0.5, offset=0.5)


def mixture(shift: float) -> MixturePrior:
    means, variances = torch.stack([shift * torch.ones(3, 8, 8), -torch.ones(3, 8, 8)]), torch.tensor([0.1, 0.2])
    return MixturePrior(torch.ones(2) / 2, means, variances, scale=0.5, offset=0.5)


PRIORS = {
    "network": (lambda: network(0), lambda: network(1)),
    "one weight": (lambda: network(0), one_weight_changed),
    "gaussian": (lambda: gaussian(0.25), lambda: gaussian(0.1)),
    "mixture": (lambda: mixture(1.0), lambda: mixture(0.5)),
}


@pytest.fixture
def picture(tmp_path) -> Path:
    array = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    return tmp_path / "a.png"


@pytest.mark.parametrize("kind", PRIORS)
def test_a_prior_that_changed_makes_new_pictures(picture, tmp_path, kind):
    old, new = PRIORS[kind]
    run = lambda prior, out: restore_file(picture, prior, Denoise(sigma=0.1), out=out, **SETTINGS)  # noqa: E731
    first = run(old(), tmp_path / "out")
    assert run(old(), tmp_path / "out").skipped  # the control: the same prior, loaded again
    second = run(new(), tmp_path / "out")
    assert not second.skipped
    assert torch.equal(second.restoration.samples, run(new(), tmp_path / "new").restoration.samples)
    assert not torch.equal(second.restoration.samples, first.restoration.samples)


def test_groups_that_a_prior_left_unfinished_are_not_taken_for_those_of_another(picture, tmp_path, monkeypatch):
    monkeypatch.setitem(PIXELS, "cpu", 8**2)
    settings = {**SETTINGS, "out": tmp_path / "out"}
    half = restore_file(picture, network(0), Denoise(sigma=0.1), share=Share(0, 1, 0, 2), **settings)
    assert half.drawn == 1
    found = restore_file(picture, network(1), Denoise(sigma=0.1), **settings).restoration
    wanted = restore_file(picture, network(1), Denoise(sigma=0.1), **SETTINGS).restoration
    assert torch.equal(found.samples, wanted.samples)


def test_a_scan_is_reconstructed_anew_with_another_prior_or_noise_scan(tmp_path, monkeypatch, capsys):
    pytest.importorskip("nibabel", reason="needs nibabel")
    monkeypatch.chdir(tmp_path)
    scan, _ = made(noise=400)
    np.save("scan.npy", scan.kspace.numpy())
    arguments = "mri scan.npy --prior prior --samples 2 --steps 2 --noise noise.npy --out out".split()

    def run(seed: int, loud: float) -> bool:
        """Whether it was finished before."""
        network(seed, 2).save(tmp_path / "prior")
        np.save("noise.npy", loud * scan.noise.numpy())
        assert main(arguments) == 0
        return "finished before" in capsys.readouterr().out

    assert not run(0, 1.0) and run(0, 1.0)
    assert not run(1, 1.0) and run(1, 1.0)
    assert not run(1, 2.0)
