"""Each kind of damage against an independent reckoning, and what it hides against a thousand looks."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
import torch
from deepinv import physics as dp
from PIL import Image
from safetensors.torch import save_file
from scipy import ndimage
from torch import Tensor

from ambient_solve.data.corruption import Corruption, corrupt
from ambient_solve.data.damages import (
    DAMAGES,
    BoxMask,
    CompressedSensing,
    Custom,
    Damage,
    Downsampling,
    GaussianBlur,
    JpegBlocks,
    KSpaceLines,
    MotionBlur,
    Noise,
    PatchMask,
    PeriodicBlur,
    RandomMask,
    make_damage,
)
from ambient_solve.data.loader import Levels, Loader
from ambient_solve.data.sample import Sample
from ambient_solve.errors import AmbientSolveError
from ambient_solve.knobs import knobs
from ambient_solve.transforms import derandomised, randomised, to_kspace
from helpers import one_sentence, rand, randn


def damaged(damage: Damage, z: Tensor, index: int = 0, seed: int = 0) -> Sample:
    """The float32 sample before it is stored."""
    return damage.apply(Sample("one", z), Corruption(seed).random(index))


def photo(height: int = 24, width: int = 31, channels: int = 3) -> Tensor:
    """Smooth, in [-1, 1]."""
    coarse = 2 * rand(1, channels, 6, 7) - 1
    return torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")[0]


def worst(found: Tensor, wanted: Tensor | np.ndarray) -> float:
    return float((found - torch.as_tensor(wanted)).abs().max())


# What may be asked for ---


@pytest.mark.parametrize("name", DAMAGES)
def test_a_kind_says_what_it_is(name):
    cls = DAMAGES[name]
    assert issubclass(cls, Damage) and not cls.__subclasses__() and cls.name == name and cls.__doc__
    for k in knobs(cls):
        assert k.help and (k.type is str or (k.lo is not None and k.hi is not None and k.lo <= k.default <= k.hi))


def test_a_damage_is_made_of_its_settings():
    noise = make_damage({"kind": "noise", "sigma": "5e-2", "share": 2})
    assert noise == Noise(sigma=0.05, share=2) and make_damage(noise.settings) == noise
    assert make_damage({"kind": "jpeg", "quality": "30"}) == JpegBlocks(quality=30)
    assert noise.settings == {"kind": "noise", "share": 2, "sigma": 0.05, "sigma_01": 0.025}
    assert noise.parameters == {"sigma": 0.05, "sigma_01": 0.025}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"kind": "nosie"}, "Did you mean 'noise'"),
        ({"kind": "jpeg", "qualty": 3}, "no knob 'qualty'. Did you mean 'quality'"),
        ({"kind": "jpeg", "quality": 0}, r"outside \[1, 100\]"),
        ({"kind": "jpeg", "quality": "high"}, "not a number"),
        ({"kind": "jpeg", "quality": 20.5}, "whole number"),
        ({"kind": "noise", "sigma": float("nan")}, "outside"),
        ({"kind": "random-mask", "missing": 1}, "outside"),
        ({"kind": "noise", "share": 0}, "outside"),
        ({"kind": ["noise"]}, "no kind"),
        ({"sigma": 0.2}, "kind: noise"),
        ("noise", "kind: noise"),
        ({"kind": "custom"}, "package.module:function"),
        ({"kind": "custom", "function": "no_such_module:f"}, "PYTHONPATH"),
        ({"kind": "custom", "function": "math:pi"}, "cannot be called"),
    ],
)
def test_a_damage_that_cannot_be_is_one_sentence(settings, expected):
    with pytest.raises(AmbientSolveError, match=expected) as error:
        make_damage(settings)
    assert one_sentence(error)


def halve_and_hide(z: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    return z / 2, torch.from_numpy(rng.random(tuple(z.shape[-2:])) < 0.7)


SOME = {
    "noise": Noise(),
    "random-mask": RandomMask(sigma=0.1),
    "box-mask": BoxMask(),
    "patch-mask": PatchMask(),
    "gaussian-blur": GaussianBlur(sigma_min=1.0),
    "periodic-blur": PeriodicBlur(sigma_min=1.0),
    "motion-blur": MotionBlur(),
    "jpeg": JpegBlocks(),
    "downsampling": Downsampling(),
    "kspace": KSpaceLines(center=2, sigma=0.1),
    "compressed-sensing": CompressedSensing(sigma=0.1),
    "custom": Custom(function="test_damages:halve_and_hide"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_a_function_of_seed_and_index(name):
    channels = 2 if name == "kspace" else 3
    data, settings = (
        [(str(i), 2 * rand(channels, 24, 24, seed=9) - 1) for i in range(8)],
        Corruption(5, 0.25, (SOME[name],)),
    )
    samples = list(corrupt(data, 8, settings))
    alone = settings.damaged(*data[6], 6, settings.plan(8)[6])
    assert [s.damage for s in samples].count("clean") == 2
    assert torch.equal(alone.z, samples[6].z) and alone.damage == samples[6].damage
    assert (alone.mask is None) == (samples[6].mask is None) and alone.z.dtype == torch.float16
    # The pictures are the same: what differs is random, and only a kind without chance damages two alike.
    hit = [s for s in samples if s.damage == name]
    assert torch.equal(hit[0].z, hit[1].z) == (name in ("gaussian-blur", "periodic-blur", "jpeg", "downsampling"))
    assert all(s.mask.dtype == torch.uint8 and s.mask.is_contiguous() for s in samples if s.mask is not None)


# Masks ---


def test_random_mask_hides_exactly_its_share_in_all_channels():
    sample = damaged(RandomMask(missing=0.8), photo())
    assert sample.mask.shape == (1, 24, 31) and int(sample.mask.sum()) == 744 - round(0.8 * 744)
    assert torch.equal(sample.z, photo() * sample.mask) and sample.sigma_noise == 0


@pytest.mark.parametrize(("cls", "inside"), [(BoxMask, 0), (PatchMask, 1)])
def test_a_rectangle_is_hidden_or_left(cls, inside):
    places = set()
    for index in range(40):
        sample = damaged(cls(side=0.25), photo(), index)
        rows, columns = (sample.mask[0] == inside).nonzero().T
        assert len(rows) == 6 * 8 and (int(rows.max() - rows.min()), int(columns.max() - columns.min())) == (5, 7)
        assert torch.equal(sample.z, photo() * sample.mask)
        places.add((int(rows.min()), int(columns.min())))
    # 19 x 24 places, each as likely as the others.
    assert len(places) > 30
    assert min(r for r, _ in places) < 3 and max(r for r, _ in places) > 15
    assert min(c for _, c in places) < 3 and max(c for _, c in places) > 20


def test_nothing_is_left_of_hidden_pixels_not_even_a_sign():
    for sigma in (0.0, 0.3):
        sample = damaged(RandomMask(missing=0.6, sigma=sigma), photo())
        hidden = sample.z.half().numpy()[np.broadcast_to(sample.mask.numpy() == 0, sample.z.shape)]
        assert not hidden.view(np.uint16).any()
    # Control: a product with the mask keeps the sign of what it hides.
    product = (photo() * sample.mask).half().numpy()
    signs = product.view(np.uint16)[np.broadcast_to(sample.mask.numpy() == 0, product.shape)]
    assert (signs == 0x8000).any()


def test_noise_is_added_to_what_is_observed_alone():
    z = torch.zeros(3, 64, 64)
    for damage in (RandomMask(missing=0.5, sigma=0.4), BoxMask(sigma=0.4), PatchMask(sigma=0.4)):
        sample = damaged(damage, z)
        seen = sample.z[sample.mask.expand_as(z) == 1]
        assert sample.sigma_noise == 0.4 and abs(float(seen.std()) / 0.4 - 1) < 0.04
        assert not sample.z[sample.mask.expand_as(z) == 0].any()


def test_no_number_of_looks_at_a_stored_picture_reveals_what_is_hidden():
    """Crops and flips of a stored picture: thousands of training steps show no more than 20 % of its pixels."""
    size, n = 20, 400
    numbered = (torch.arange(n) + 1.0).reshape(1, size, size)  # whole numbers below 2048 are exact in float16
    sample = damaged(RandomMask(missing=0.8), numbered)
    stored = Sample("one", sample.z.half(), mask=sample.mask, damage="random-mask")
    loader = Loader([stored], np.ones(1), Levels(0, 1, 0.1, 80), crop=16, buffer=1.0, batch=100, seed=0)
    shown, visible = set(), set(numbered[stored.mask == 1].tolist())
    for step in range(30):
        batch, _ = loader(step)
        assert torch.equal(batch.z != 0, batch.mask == 1)
        shown |= set(batch.z[batch.z != 0].tolist())
    assert shown == visible and len(shown) == round(0.2 * n)
    # Control: the mask of the picture laid over each augmented view of it, as published code does, shows everything.
    leaked, draw = set(), np.random.default_rng(0)
    for _ in range(3000):
        top, left = draw.integers(0, 5, 2)
        view = numbered[:, top : top + 16, left : left + 16]
        view = (view.flip(-1) if draw.random() < 0.5 else view) * stored.mask[:, :16, :16]
        leaked |= set(view[view != 0].tolist())
    assert len(leaked) > 0.95 * n


# Blur, compression, size ---


def test_gaussian_blur_is_that_of_scipy():
    z, width = photo(), 1.3
    blurred = damaged(GaussianBlur(width=width, sigma_min=2.5), z)
    wanted = {m: ndimage.gaussian_filter(z.numpy(), (0, width, width), mode=m, radius=4) for m in ("mirror", "wrap")}
    assert worst(blurred.z, wanted["mirror"]) < 1e-5 and worst(blurred.z, wanted["wrap"]) > 0.05
    assert (blurred.sigma_min, blurred.sigma_noise, blurred.mask) == (2.5, 0.0, None)


def test_motion_blur_spreads_each_point_along_a_path_of_its_own():
    point = torch.zeros(1, 31, 31)
    point[0, 15, 15] = 1
    paths = [damaged(MotionBlur(length=9), point, index).z for index in range(4)]
    for path in paths:
        rows, columns = path[0].nonzero().T
        assert abs(float(path.sum()) - 1) < 1e-5 and float(path.min()) >= 0
        assert max(abs(int(rows.max()) - 15), abs(int(rows.min()) - 15), abs(int(columns.max()) - 15)) <= 4
    assert min(worst(paths[0], p) for p in paths[1:]) > 0.01
    assert worst(damaged(MotionBlur(length=9), torch.full((3, 24, 31), 0.7)).z, 0.7) < 1e-5


def test_jpeg_is_that_of_pillow():
    picture = ((photo(24, 32) + 1) * 127.5).round().to(torch.uint8)
    z = picture.float() / 127.5 - 1

    def coded(quality: int) -> Tensor:
        stream = io.BytesIO()
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(stream, "JPEG", quality=quality)
        return torch.from_numpy(np.array(Image.open(stream))).permute(2, 0, 1).float()

    found = 127.5 * (damaged(JpegBlocks(quality=25), z).z + 1)
    assert float((found - coded(25)).abs().mean()) < 0.5 and worst(found, coded(25)) < 6
    assert float((found - coded(60)).abs().mean()) > 1
    with pytest.raises(AmbientSolveError, match="1 or 3 channels"):
        damaged(JpegBlocks(), z[:2])


@pytest.mark.parametrize("size", [(24, 32), (25, 31)])
def test_downsampling_is_that_of_pillow(size):
    z = photo(*size)
    found = damaged(Downsampling(factor=3), z).z

    def resized(kind: Image.Resampling) -> Tensor:
        small = (max(round(size[1] / 3), 1), max(round(size[0] / 3), 1))
        planes = [Image.fromarray(p).resize(small, kind).resize(size[::-1], kind) for p in z.numpy()]
        return torch.from_numpy(np.stack([np.asarray(p) for p in planes]))

    assert found.shape == z.shape and worst(found, resized(Image.Resampling.BICUBIC)) < 1e-4
    assert worst(found, resized(Image.Resampling.NEAREST)) > 0.1


# Coefficients and k-space ---


def maps(coils: int = 3, size: tuple[int, int] = (16, 20)) -> Tensor:
    s = randn(coils, *size, dtype=torch.complex64)
    return s / s.abs().square().sum(0).sqrt()


@pytest.mark.parametrize("coils", [1, 3])
def test_k_space_lines_are_those_of_deepinv(coils, tmp_path):
    z, damage = randn(2, 16, 20), KSpaceLines(acceleration=2, center=4)
    if coils > 1:
        save_file(
            {"maps": 5 * maps(coils)}, tmp_path / "maps.safetensors"
        )  # the scale of the maps is not the picture's
        damage = KSpaceLines(acceleration=2, center=4, maps=str(tmp_path / "maps.safetensors"))
    sample = damaged(damage, z)
    lines = sample.mask[0, 0].bool()
    assert (
        int(lines.sum()) == 10
        and lines[8:12].all()
        and torch.equal(sample.mask, lines.expand(1, 16, 20).to(torch.uint8))
    )
    coil = maps(coils) if coils > 1 else torch.ones(1, 16, 20, dtype=torch.complex64)
    mask = sample.mask.float()
    mri = dp.MultiCoilMRI(mask=mask, coil_maps=coil[None], img_size=(16, 20))
    assert worst(sample.maps, coil) < 1e-6 and worst(sample.z, mri.A_adjoint(mri.A(z[None]))[0]) < 1e-5
    # Controls: all lines, or the lines shifted by one.
    for other in (torch.ones_like(mask), mask.roll(1, -1)):
        wrong = dp.MultiCoilMRI(mask=other, coil_maps=coil[None], img_size=(16, 20))
        assert worst(sample.z, wrong.A_adjoint(wrong.A(z[None]))[0]) > 0.1
    assert not torch.equal(damaged(damage, z, 1).mask, sample.mask)


def test_noise_of_a_scanner_is_in_the_measured_lines_alone():
    sample = damaged(KSpaceLines(center=4, sigma=0.3), torch.zeros(2, 64, 64))
    k = to_kspace(sample.z[None], sample.maps[None])[0, 0]
    measured = sample.mask[0].bool()
    assert sample.sigma_noise == 0.3 and float(k[~measured].abs().max()) < 1e-5
    for part in (k.real, k.imag):
        assert abs(float(part[measured].std()) / 0.3 - 1) < 0.1  # 1024 numbers


def test_k_space_asks_for_what_it_needs(tmp_path):
    save_file({"maps": maps(2, (8, 8))}, tmp_path / "small.safetensors")
    save_file({"maps": rand(2, 8, 8)}, tmp_path / "real.safetensors")
    for damage, z, expected in (
        (KSpaceLines(), randn(3, 64, 64), "2 channels"),
        (KSpaceLines(acceleration=8, center=8), randn(2, 64, 64), "leaves none of them to be random"),
        (KSpaceLines(maps=str(tmp_path / "small.safetensors")), randn(2, 64, 64), "8x8"),
        (KSpaceLines(maps=str(tmp_path / "real.safetensors")), randn(2, 8, 8), "complex"),
        (KSpaceLines(maps=str(tmp_path / "gone.safetensors")), randn(2, 8, 8), "gone.safetensors"),
    ):
        with pytest.raises(AmbientSolveError, match=expected) as error:
            Corruption(0, 0.0, (damage,)).damaged("scan 7", z, 0, damage)
        assert str(error.value).startswith("scan 7: ") and one_sentence(error)


def test_compressed_sensing_stores_what_was_measured():
    z = randn(3, 16, 20)
    sample = damaged(CompressedSensing(keep=0.3), z)
    assert sample.signs.dtype == torch.int8 and set(sample.signs.unique().tolist()) == {-1, 1}
    assert int(sample.mask.sum()) == round(0.3 * z.numel()) and abs(float(sample.signs.float().mean())) < 0.1
    measured = sample.mask * randomised(z, sample.signs)
    assert worst(randomised(sample.z, sample.signs), measured) < 1e-5
    # Control: without the signs the coefficients are others.
    assert worst(randomised(sample.z, torch.ones_like(sample.signs)), measured) > 0.1
    noisy = damaged(CompressedSensing(keep=0.3, sigma=0.5), torch.zeros(3, 32, 32))
    k = randomised(noisy.z, noisy.signs)
    assert abs(float(k[noisy.mask == 1].std()) / 0.5 - 1) < 0.1 and float(k[noisy.mask == 0].abs().max()) < 1e-5


@pytest.mark.parametrize("kinds", [("kspace", "noise"), ("compressed-sensing", "noise")])
def test_clean_pictures_stand_beside_coefficients(kinds):
    """A batch stacks them all: a picture that is seen whole is one whose coefficients all are."""
    data = [(str(i), randn(2, 16, 16, seed=i)) for i in range(12)]
    samples = list(corrupt(data, 12, Corruption(0, 0.25, tuple(SOME[k] for k in kinds))))
    whole = [(s, z) for s, (_, z) in zip(samples, data, strict=True) if s.damage == "clean"]
    assert len(whole) == 3
    for sample, z in whole:
        assert bool(sample.mask.all()) and torch.equal(sample.z, z.half())
        if sample.signs is not None:
            assert worst(derandomised(sample.mask * randomised(z, sample.signs), sample.signs), z) < 1e-5
    batch, _ = Loader(samples, np.ones(12), Levels(1, 0.5, 0.5, 80), crop=16, buffer=1.0, batch=32, seed=0)(0)
    assert (batch.maps if kinds[0] == "kspace" else batch.signs) is not None and not bool(batch.mask.all())


def test_two_kinds_of_mask_are_not_mixed():
    for pair in ((RandomMask(), CompressedSensing()), (KSpaceLines(), Custom(function="math:sin"))):
        with pytest.raises(AmbientSolveError, match="One data set can hide") as error:
            Corruption(damages=pair)
        assert one_sentence(error)
    assert Corruption(damages=(RandomMask(), BoxMask(), Noise()))


# Damage of one's own ---


def test_a_function_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "scratches.py").write_text(
        "import torch\n"
        "def darker(z, rng):\n    z -= float(rng.random())\n    return z\n"
        "def masked(z, rng):\n    return z + 1, torch.ones(z.shape[-2:]).tril()\n"
        "def wrong(z, rng):\n    return z[:, 1:]\n"
        "def nothing(z, rng):\n    pass\n"
        "def grey(z, rng):\n    return z, 0.5 * torch.ones(z.shape)\n"
    )
    z = photo()
    kept = z.clone()
    dark = damaged(Custom(function="scratches:darker", sigma_min=1.5), z)
    assert torch.equal(dark.z, kept - float(Corruption().random(0).random())) and torch.equal(z, kept)
    assert (dark.mask, dark.sigma_min, dark.sigma_noise) == (None, 1.5, 0.0)
    masked = damaged(Custom(function="scratches:masked", sigma_noise=0.1), z)
    lower = torch.ones(24, 31).tril()
    assert torch.equal(masked.mask[0], lower.to(torch.uint8)) and torch.equal(masked.z, (z + 1) * lower)
    assert masked.sigma_noise == 0.1
    for name, expected in (("wrong", r"\(3, 23, 31\)"), ("nothing", "NoneType"), ("grey", "values besides")):
        with pytest.raises(AmbientSolveError, match=expected) as error:
            damaged(Custom(function=f"scratches:{name}"), z)
        assert one_sentence(error)
    sys.modules.pop("scratches")
