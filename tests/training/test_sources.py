"""The data of a run: one set of pictures listed at several scales, drawn by area, small ones left out."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("accelerate", reason="training needs accelerate: pip install 'ambient-solve[train]'")

from ambient_solve.data.corruption import Corruption, corrupt
from ambient_solve.data.loader import Levels, Loader
from ambient_solve.data.sample import Sample
from ambient_solve.errors import AmbientSolveError
from ambient_solve.priors.network import NetworkConfig, NetworkPrior
from helpers import one_sentence, randn

TRAINERS = Path(__file__).resolve().parents[2] / "trainers"
SIDES = [(24, 24), (24, 48), (96, 24), (48, 48), (18, 40)] * 4
NOISE = {"seed": 3, "clean_share": 0.5, "damages": [{"kind": "noise", "sigma": 0.2}]}


@pytest.fixture
def trainers(monkeypatch):
    monkeypatch.syspath_prepend(str(TRAINERS))
    return importlib.import_module


@pytest.fixture
def read(trainers, tmp_path):
    """`read(sources, settings)`: the checked configuration, and its data; 20 gray pictures of the sides SIDES.

    The last pixel is brighter: pictures without any contrast are refused.
    """
    (tmp_path / "pictures").mkdir()
    for i, (height, width) in enumerate(SIDES):
        picture = Image.new("RGB", (width, height), (10 * i,) * 3)
        picture.putpixel((width - 1, height - 1), (10 * i + 40,) * 3)
        picture.save(tmp_path / "pictures" / f"{i:02d}.png")
    config = trainers("ambient_solve.training.config")

    def call(*sources: dict, **settings):
        values = {"out": str(tmp_path / "out"), "data_root": str(tmp_path), "crop": 8, "corruption": NOISE}
        values |= {"held_out": 0.0, **settings}
        values |= {"duplicates": False, "sources": [{"path": "pictures", **source} for source in sources]}
        made = config.make(config.Config, values, "test")
        config.check(made, 1)
        return made, trainers("ambient_solve.training.sources").read_data(made, False)

    return call


def test_two_scales_of_a_picture_are_both_clean_or_have_independent_noise(read):
    _, data = read({"shrink": 1, "held_out": 4, "shuffle": True}, {"shrink": 2, "held_out": 4, "shuffle": True})
    large, small = data.samples[:16], data.samples[16:]
    assert len({s.name for s in data.samples}) == 32 and len(data.held_out) == 8
    shades = [{int(p[0, 0, 0]) for p in data.held_out[k : k + 4]} for k in (0, 4)]
    assert shades[0] == shades[1] and len(shades[0]) == 4  # the same pictures are held out
    noisy = []
    for one, half in zip(large, small, strict=True):
        assert one.sigma_noise == half.sigma_noise and one.z.shape[-1] // 2 == half.z.shape[-1]
        if one.sigma_noise:
            a, b = ((s.z.float() - s.z.float().mean()).flatten() for s in (one, half))
            noisy.append(float(torch.corrcoef(torch.stack([a[: len(b)], b]))[0, 1]))
    # 8 correlations of 270 numbers and more: each has a standard error below .061. With one draw for both they are 1.
    assert len(noisy) == 8 and max(map(abs, noisy)) < 0.25


def test_the_noise_of_a_listing_is_its_own():
    pictures = [(str(i), torch.full((3, 9, 9), 128, dtype=torch.uint8)) for i in range(6)]
    first, again, other = (
        torch.stack([s.z for s in corrupt(pictures, 6, Corruption(1, 0.0), source=k)]).float() for k in ("a", "a", "b")
    )
    assert torch.equal(first, again) and abs(float(torch.corrcoef(torch.stack([first, other]).flatten(1))[0, 1])) < 0.12


def test_drawn_by_area_every_pixel_counts_the_same(read):
    _, data = read({"share": 3, "by_area": True}, {"share": 1, "shrink": 2})
    area = np.array([height * width for height, width in SIDES])
    assert data.share[:20] == pytest.approx(3 * area / area.sum())
    assert data.share[20:] == pytest.approx(np.full(20, 1 / 20))


def test_small_pictures_are_left_out_and_change_nothing_else(read):
    whole, data = (read({"held_out": 5}, crop=crop, drop_small=crop > 18)[1] for crop in (18, 24))
    large = [s for s in whole.samples if min(s.z.shape[-2:]) >= 24]
    assert len(large) == len(data.samples) == 12 and len(data.held_out) == 4 and data.share.sum() == pytest.approx(1)
    for one, other in zip(large, data.samples, strict=True):
        assert one.name == other.name and torch.equal(one.z, other.z)
    with pytest.raises(AmbientSolveError, match="smaller than the crop"):
        read({"held_out": 5}, crop=24)


@pytest.mark.parametrize("other", [{"held_out": 3}, {"shuffle": True}, {"limit": 7}])
def test_a_picture_is_not_held_out_at_one_scale_and_learned_at_another(read, other):
    read({"held_out": 4}, {"held_out": 4, "shrink": 2})
    with pytest.raises(AmbientSolveError, match="listed several times") as error:
        read({"held_out": 4}, {"held_out": 4, "shrink": 2, **other})
    assert one_sentence(error)


def test_a_picture_at_two_scales_is_no_duplicate_of_itself(trainers, monkeypatch, tmp_path):
    config, sources = trainers("ambient_solve.training.config"), trainers("ambient_solve.training.sources")
    seen = []
    monkeypatch.setattr(sources, "duplicate_groups", lambda named: seen.extend(name for name, _ in named) or [])
    values = {"out": str(tmp_path), "sources": [{"path": "a", "shrink": 1}, {"path": "a", "shrink": 2}, {"path": "b"}]}
    pictures = [[("0", torch.zeros(3, 8, 8))]] * 3
    nothing = [[], [], []]
    sources._report_duplicates(config.make(config.Config, values, "test"), pictures, nothing, nothing)
    assert sorted(seen) == ["a/0", "b/0"]


def crops(flat: float, noise: float = 0.0) -> torch.Tensor:
    """The deviations of 600 crops of a picture, four fifths of which are flat."""
    z = torch.zeros(3, 16, 80)
    z[..., 64:] = torch.sign(randn(3, 16, 16))
    sample = Sample("half sky", (z + noise * randn(3, 16, 80, seed=1)).half(), noise)
    loader = Loader(
        [sample], np.ones(1), Levels(1.0, 0.5, 0.9, 80.0), crop=16, buffer=1.2, batch=600, seed=0, flat=flat
    )
    return loader(0)[0].z.flatten(1).std(1)


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_a_flat_crop_is_drawn_once_more(noise):
    """49 of 65 places show nothing: of two draws both do in 57 % of cases; a standard error is 2 %."""
    flat = [float((crops(flat, noise) < noise + 0.03).float().mean()) for flat in (0.0, 0.05)]
    assert flat[0] == pytest.approx(49 / 65, abs=0.08) and flat[1] == pytest.approx((49 / 65) ** 2, abs=0.08)


def test_more_blocks_change_nothing_at_first(trainers):
    before = NetworkConfig(widths=(8, 16, 24), blocks=(1, 2, 1), groups=4, embedding=32)
    torch.manual_seed(0)
    saved = NetworkPrior(before, "float32")
    for parameter in saved.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    z = randn(2, 3, 16, 24)
    for blocks in (2, (1, 4, 1), (3, 2, 2)):
        after = NetworkConfig(widths=(8, 16, 24), blocks=blocks, groups=4, embedding=32)
        prior = NetworkPrior(after, "float32")
        trainers("ambient_solve.training.growth").deepened(prior.network, saved.network.state_dict(), before, after)
        assert torch.allclose(prior.denoise(z, 0.5), saved.denoise(z, 0.5), atol=1e-6)
        for parameter in prior.parameters():  # not because the new blocks do nothing
            torch.nn.init.normal_(parameter, std=0.1)
        assert not torch.allclose(prior.denoise(z, 0.5), saved.denoise(z, 0.5), atol=1e-2)


def test_blocks_cannot_be_taken_away(trainers, tmp_path):
    NetworkPrior(NetworkConfig(widths=(8, 16), blocks=2, groups=4, embedding=32)).save(tmp_path)
    config = trainers("ambient_solve.training.config")
    network = {"widths": [8, 16], "blocks": [2, 1], "groups": 4, "embedding": 32}
    made = config.make(config.Config, {"out": "x", "init": str(tmp_path), "network": network}, "test")
    with pytest.raises(AmbientSolveError, match="no block can be taken away") as error:
        trainers("ambient_solve.training.weights").starting_prior(made, None, torch.device("cpu"))
    assert one_sentence(error)


def test_blocks_of_each_level_and_no_normalisation_are_saved_and_loaded(tmp_path):
    config = NetworkConfig(widths=(8, 12), blocks=(2, 1), groups=0, embedding=16)
    prior = NetworkPrior(config, "float32").eval().requires_grad_(False)
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    prior.save(tmp_path)
    loaded, z = NetworkPrior.load(tmp_path, "float32"), randn(1, 3, 8, 12)
    assert loaded.config == config and torch.equal(loaded.denoise(z, 0.5), prior.denoise(z, 0.5))
    assert not any(isinstance(module, torch.nn.GroupNorm) for module in loaded.modules())
    assert NetworkConfig(widths=(8, 12), blocks=1).depths == (1, 1)
