"""Priors of latents: TAEF2 as its file describes it, statistics per channel, folders, tiles, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from ambient_solve import AmbientSolveError, LatentPrior, NetworkConfig, NetworkPrior, Solver, load_prior, operators
from ambient_solve.likelihood import Likelihood
from ambient_solve.priors.autoencoder import AUTOENCODER, TAEF2, Autoencoder, Pooled
from ambient_solve.priors.autoencoder_tiled import TiledAutoencoder
from ambient_solve.priors.latent import CODE
from ambient_solve.priors.tiled import TiledPrior
from helpers import one_sentence, rand, randn, relative

SMALL = NetworkConfig(channels=32, widths=(8,), unshuffle=1, embedding=8, sigma_data=1.0, scale=1.0, offset=0.0)


@pytest.fixture(scope="module")
def code() -> TAEF2:
    torch.manual_seed(0)
    return TAEF2("float32").eval().requires_grad_(False)


@pytest.fixture(scope="module")
def folder(code: TAEF2, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    network = NetworkPrior(SMALL).eval().requires_grad_(False)
    path = tmp_path_factory.mktemp("latent")
    prior = LatentPrior(network, code, torch.linspace(-0.5, 0.5, 32), torch.linspace(0.5, 1.0, 32))
    prior.save(path, "# card", torch.float32)
    return path


def refused(make: object, *words: str) -> None:
    with pytest.raises(AmbientSolveError) as error:
        make()  # type: ignore[operator]
    print(f"\n{error.value}")
    assert one_sentence(error) and all(word in str(error.value) for word in words)


# TAEF2 ----------------------------------------------------------------------------------------------------------------


def test_the_module_has_the_tensors_of_the_published_file(code):
    state = code.state_dict()
    assert len(state) == 158 and sum(t.numel() for t in state.values()) == 2_677_027
    assert sum(name.startswith("encoder.") for name in state) == 79
    assert state["decoder.stage3.block1.pool_norm.bias"].shape == (256,) and "encoder.down1.bias" not in state


def test_a_pooled_block_is_its_formula():
    block, x = Pooled().eval(), randn(2, 64, 6, 5)
    with torch.no_grad():
        h = x + F.conv2d(
            F.relu(F.group_norm(F.conv2d(x, block.pool_in.weight), 4, block.pool_norm.weight, block.pool_norm.bias)),
            block.pool_out.weight,
        )
        conv = lambda layer, t: F.conv2d(t, layer.weight, layer.bias, padding=1)  # noqa: E731
        expected = F.relu(h + conv(block.conv3, F.relu(conv(block.conv2, F.relu(conv(block.conv1, h))))))
        torch.testing.assert_close(block(x), expected)


def test_the_decoder_squashes_what_is_beyond_three(code):
    z = randn(1, 32, 2, 2)
    torch.testing.assert_close(code.decode(100 * z.sign()), code.decode(1e4 * z.sign()))
    assert relative(code.decode(0.1 * z), code.decode(0.2 * z)) > 1e-4


def test_shapes_and_arithmetic(code):
    x = rand(2, 3, 24, 16)
    z = code.encode(x)
    assert z.shape == (2, 32, 3, 2) and code.decode(z).shape == x.shape
    torch.manual_seed(0)
    half = TAEF2("bfloat16").eval().requires_grad_(False)
    assert half.encode(x).dtype == torch.float32 and 0 < relative(half.encode(x), z) < 0.05
    refused(lambda: TAEF2("float16"), "bfloat16")


# The prior ------------------------------------------------------------------------------------------------------------


def test_latents_are_normalised_per_channel_and_come_back(code):
    mean, std = torch.linspace(-1, 1, 32), torch.linspace(0.3, 2, 32)
    prior, x = LatentPrior(NetworkPrior(SMALL), code, mean, std), rand(1, 3, 16, 16)
    z = prior.encode(x)
    torch.testing.assert_close(z * std[:, None, None] + mean[:, None, None], code.encode(x))
    torch.testing.assert_close(prior.decode(z), code.decode(code.encode(x)), rtol=1e-4, atol=1e-5)
    assert prior.affine is None and prior.shape == (32, -1, -1) and prior.state_shape((3, 40, 16)) == (32, 5, 2)


def test_a_folder_keeps_all_of_it(folder):
    prior = load_prior(folder, "float32")
    assert isinstance(prior, LatentPrior) and (folder / AUTOENCODER).is_file()
    z = randn(1, 32, 2, 2)
    assert torch.equal(prior.denoise(z, 0.5), NetworkPrior.load(folder, "float32").denoise(z, 0.5))
    assert float(prior.mean[0]) == -0.5 and float(prior.std[-1]) == 1.0
    assert "latent" in repr(prior).lower()


@pytest.mark.filterwarnings("ignore::ambient_solve.MisfitWarning")
def test_a_measurement_of_pictures_is_solved_in_latents(folder):
    op = operators.inpaint_random((3, 16, 24), missing=0.5, sigma=0.05)
    y = op(rand(1, 3, 16, 24))
    for name in ("latino", "psld", "ldps", "daps"):
        options = {"langevin_steps": 2} if name == "daps" else {}
        found = Solver(load_prior(folder, "float32"), name, steps=2, **options).solve(
            y, op, n_samples=1, progress=False
        )
        assert found.samples.shape == (1, 1, 3, 16, 24) and torch.isfinite(found.samples).all()
    refused(lambda: Solver(load_prior(folder), "mmps").solve(y, op), "decode is affine")


def test_what_does_not_fit_is_refused(code, folder, tmp_path):
    network = NetworkPrior(SMALL)
    refused(lambda: LatentPrior(NetworkPrior(NetworkConfig(widths=(8,))), code), "32 channels")
    refused(lambda: LatentPrior(network, code, mean=torch.zeros(3)), "mean", "32 numbers")
    refused(lambda: LatentPrior(network, code, std=torch.zeros(32)), "std", "above 0")
    prior = LatentPrior(network, code)
    refused(lambda: prior.state_shape((3, 20, 16)), "multiples of 8")
    refused(lambda: prior.state_shape((1, 16, 16)), "3 channels")
    refused(lambda: TiledPrior(prior), "not affine")
    other = NetworkPrior(NetworkConfig(channels=12, widths=(8,), unshuffle=1))
    refused(lambda: LatentPrior(other, Twisted()).save(tmp_path), "cannot be saved")


def copied(folder: Path, tmp_path: Path) -> Path:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_a_broken_folder_is_refused(folder, tmp_path):
    place = copied(folder, tmp_path)
    weights = load_file(place / AUTOENCODER)
    some = dict(list(weights.items())[:-2])
    save_file(some, place / AUTOENCODER)
    refused(lambda: load_prior(place), "2 tensors are missing")
    save_file({**weights, "extra": torch.zeros(1)}, place / AUTOENCODER)
    refused(lambda: load_prior(place), "1 tensors are not expected, such as extra")
    name = next(iter(weights))
    save_file({**weights, name: torch.zeros(2)}, place / AUTOENCODER)
    refused(lambda: load_prior(place), "has shape (2,)")
    save_file({**weights, name: weights[name] * float("nan")}, place / AUTOENCODER)
    refused(lambda: load_prior(place), "NaN")
    (place / AUTOENCODER).write_bytes(b"\x80\x04pickle")
    refused(lambda: load_prior(place), "safetensors")
    (place / AUTOENCODER).unlink()
    refused(lambda: load_prior(place), "no autoencoder")


@pytest.mark.parametrize(
    "settings", [{"kind": "vae"}, {"kind": "taef2", "mean": [0], "std": ["a"]}, [], {"kind": "taef2"}]
)
def test_untrusted_statistics_are_refused(folder, tmp_path, settings):
    (copied(folder, tmp_path) / CODE).write_text(json.dumps(settings))
    refused(lambda: load_prior(tmp_path), CODE)


# Tiles ----------------------------------------------------------------------------------------------------------------


class Twisted(Autoencoder):
    """Each square of 2x2 pixels by itself, bent: tiles make no difference at all."""

    channels, factor = 12, 2

    def encode(self, x: Tensor) -> Tensor:
        return F.pixel_unshuffle(x, 2).tan()

    def decode(self, latent: Tensor) -> Tensor:
        return F.pixel_shuffle(latent, 2).atan()


@pytest.mark.parametrize("size", [(20, 12), (26, 34), (8, 40)])
def test_tiles_of_a_local_autoencoder_are_the_whole(size):
    inner, tiled, x = Twisted(), TiledAutoencoder(Twisted(), 6, 2), rand(2, 3, *size)
    torch.testing.assert_close(tiled.encode(x), inner.encode(x))
    torch.testing.assert_close(tiled.decode(inner.encode(x)), x)


def test_tiles_differentiate_as_the_whole_does():
    inner, tiled = Twisted(), TiledAutoencoder(Twisted(), 6, 2)
    z, v = randn(1, 12, 9, 11), randn(1, 3, 18, 22, seed=1)
    whole, parts = (torch.autograd.functional.vjp(code.decode, z, v)[1] for code in (inner, tiled))
    torch.testing.assert_close(parts, whole)


def test_tiles_of_taef2_show_no_seam(code):
    """Where a tile ends the picture differs from the whole no more than inside it; butted tiles are the control."""
    z = 0.5 * randn(1, 32, 24, 24)
    whole = code.decode(z)
    tiled = TiledAutoencoder(code, 16, 8).decode(z)
    butted = whole.clone()
    butted[..., :96, :96], butted[..., :96, 96:] = code.decode(z[..., :12, :12]), code.decode(z[..., :12, 12:])

    def jump(x: Tensor) -> float:
        """The step across column 96 of what is not in the whole, over the usual step."""
        steps = (x - whole).diff(dim=-1).abs().mean((0, 1))[:96]
        return float(steps[:, 95].mean() / whole.diff(dim=-1).abs().mean())

    assert jump(tiled) < 0.2 * jump(butted)


def test_sizes_of_tiles_are_checked():
    refused(lambda: TiledAutoencoder(Twisted(), 8, 5), "overlap")


def test_the_curvature_of_a_measurement_goes_through_tiles():
    """daps differentiates twice, through forward passes that are computed again."""
    op, y = operators.denoise((3, 12, 16), 0.1), rand(1, 3, 12, 16)
    found = []
    for code in (Twisted(), TiledAutoencoder(Twisted(), 4, 2)):
        prior = LatentPrior(NetworkPrior(NetworkConfig(channels=12, widths=(8,), unshuffle=1)), code)
        found.append(
            Likelihood(y, op, prior).curvature(prior.encode(rand(1, 3, 12, 16, seed=1)), randn(1, 12, 6, 8))[0]
        )
    torch.testing.assert_close(found[1], found[0])
