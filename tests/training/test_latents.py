"""Pictures encoded once for training: normalised latents on disk, which go on where they stopped, and no mirroring."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

pytest.importorskip("accelerate", reason="training needs accelerate: pip install 'ambient-solve[train]'")

from ambient_solve import AmbientSolveError, LatentPrior, NetworkConfig, NetworkPrior, load_prior
from ambient_solve.data.corruption import read_corrupted
from ambient_solve.data.loader import Levels, Loader
from ambient_solve.priors.autoencoder import TAEF2
from ambient_solve.training.latents import assemble, encode_pictures
from helpers import one_sentence, randn

SIDE = 16


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("latents")
    torch.manual_seed(0)
    save_file(TAEF2().state_dict(), root / "code.safetensors")
    (root / "pictures").mkdir()
    draw = np.random.default_rng(0)
    for i in range(3):
        pixels = draw.integers(0, 255, (SIDE, SIDE, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(root / "pictures" / f"{i}.png")
    assert encode_pictures(str(root / "pictures"), root / "code.safetensors", root / "out", mirror=True) == 6
    return root


def test_latents_are_those_of_the_pictures_normalised(made):
    samples = list(read_corrupted(made / "out"))
    z = torch.stack([s.z.float() for s in samples])
    assert z.shape == (6, 32, 2, 2) and all(s.damage == "clean" for s in samples)
    plain = z[::2].transpose(0, 1).flatten(1)
    assert float(plain.mean(1).abs().max()) < 0.02 and float((plain.std(1) - 1).abs().max()) < 0.02
    name = samples[0].name.split("/")[-1]
    x = torch.from_numpy(np.array(Image.open(made / "pictures" / name))).permute(2, 0, 1)[None] / 255
    code = TAEF2.load(made / "out")
    raw = torch.cat([code.encode(x), code.encode(x.flip(-1))])
    ratio = (raw - raw.mean((0, 2, 3), keepdim=True)).flatten(1) @ (
        z[:2] - z[:2].mean((0, 2, 3), keepdim=True)
    ).flatten(1).T
    assert float(ratio[0, 0] / ratio[0, 1].abs()) > 1


def test_an_interrupted_encoding_goes_on(made):
    (made / "out" / "manifest.jsonl").unlink()
    kept = (made / "out" / "000000.safetensors").read_bytes()
    (made / "out" / "000003.safetensors").unlink()
    assert encode_pictures(str(made / "pictures"), made / "code.safetensors", made / "out", mirror=True) == 6
    assert (made / "out" / "000000.safetensors").read_bytes() == kept and len(list(read_corrupted(made / "out"))) == 6
    with pytest.raises(AmbientSolveError, match="already holds") as error:
        encode_pictures(str(made / "pictures"), made / "code.safetensors", made / "out")
    assert one_sentence(error)


def test_the_finished_prior_and_its_autoencoder_are_one_folder(made, tmp_path):
    network = NetworkPrior(NetworkConfig(channels=32, widths=(8,), unshuffle=1, embedding=8, scale=1.0, offset=0.0))
    network.save(tmp_path / "prior")
    prior = assemble(tmp_path / "prior", made / "out")
    assert isinstance(prior, LatentPrior) and isinstance(load_prior(tmp_path / "prior"), LatentPrior)
    assert prior.decode(randn(1, 32, 2, 2)).shape == (1, 3, 16, 16)


def test_a_loader_that_may_not_mirror_does_not(made):
    samples, levels = list(read_corrupted(made / "out")), Levels(0.0, 1.0, 0.02, 80.0)

    def views(mirror: bool) -> list[bool]:
        load = Loader(samples, np.ones(6), levels, crop=2, buffer=1.2, batch=32, seed=0, mirror=mirror)
        return [any(torch.equal(z, s.z.float()) for s in samples) for z in load(0)[0].z]

    assert all(views(False)) and not all(views(True))
