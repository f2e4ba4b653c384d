"""Coil maps, compression, whitening and scale: of the calibration region alone, and right where the truth is known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.operators.coils import birdcage, centre, compress, espirit, normalise, prewhiten
from ambient_solve.operators.kspace_masks import make_mask
from ambient_solve.transforms import from_kspace, to_kspace
from helpers import one_sentence, randn

SIZE, ACS = (72, 64), 20
REAL = Path(__file__).parents[3] / "shared" / "data" / "mri" / "kspace.npz"


def relative(found: Tensor, wanted: Tensor) -> float:
    """Of complex numbers, both parts of them."""
    return float((found - wanted).norm() / wanted.norm())


def phantom(size: tuple[int, int] = SIZE) -> Tensor:
    """A textured ellipse with a smooth phase, (1, 2, H, W)."""
    down, across = (torch.linspace(-1, 1, n) for n in size)
    down = down[:, None]
    inside = (((down / 0.85) ** 2 + (across / 0.7) ** 2) < 1).float()
    texture = 1 + 0.4 * torch.cos(9 * down) * torch.sin(7 * across)
    image = torch.polar(inside * texture, 1.5 * down + across**2)
    return torch.stack([image.real, image.imag])[None]


def scan(coils: int = 6, noise: float = 0.01, size: tuple[int, int] = SIZE) -> tuple[Tensor, Tensor, Tensor]:
    """K-space (coils, H, W) with noise, the maps and the picture behind it."""
    maps, x = birdcage(coils, size), phantom(size)
    k = to_kspace(x, maps[None])[0]
    return k + noise * randn(*k.shape, seed=1, dtype=torch.complex64), maps, x


def aligned(maps: Tensor) -> Tensor:
    """With a first coil that is real, as `espirit` returns them."""
    return maps * maps[0].conj() / maps[0].abs().clamp_min(1e-12)


# Maps ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coils", [2, 6])
@pytest.mark.parametrize("size", [SIZE, (63, 71)])
def test_espirit_finds_the_maps_inside_the_object_and_nothing_outside(coils, size):
    k, maps, x = scan(coils, size=size)
    found = espirit(k, ACS)
    inside, seen = x[0].square().sum(0) > 0, found.abs().square().sum(0) > 0
    assert found.dtype == torch.complex64 and found.shape == k.shape
    sums = found.abs().square().sum(0)[seen]
    torch.testing.assert_close(sums, torch.ones_like(sums), rtol=1e-4, atol=1e-4)
    share, error = (
        float(seen[inside].float().mean()),
        relative(found[:, inside & seen], aligned(maps)[:, inside & seen]),
    )
    print(f"\n{coils} coils: {share:.3f} of the object seen, error {error:.4f}")
    assert share > 0.98 and error < 0.03
    # A shift of k-space is a phase that all coils share. Controls: phases of the wrong sign, coils in another order.
    assert relative(espirit(k.roll(1, -1), ACS)[:, inside & seen], aligned(maps)[:, inside & seen]) < 0.05
    assert relative(found.conj()[:, inside & seen], aligned(maps)[:, inside & seen]) > 0.3
    assert relative(found.roll(1, 0)[:, inside & seen], aligned(maps)[:, inside & seen]) > 0.3


def test_nothing_outside_the_calibration_region_is_read():
    k, _, _ = scan()
    garbage = 100 * randn(*k.shape, seed=7, dtype=torch.complex64)
    rows, columns = (slice(n // 2 - ACS // 2, n // 2 + ACS // 2) for n in SIZE)
    garbage[:, rows, columns] = k[:, rows, columns]
    assert torch.equal(espirit(garbage, ACS), espirit(k, ACS))
    assert normalise(garbage, ACS)[1] == normalise(k, ACS)[1]
    assert relative(compress(garbage, 3, ACS)[:, rows, columns], compress(k, 3, ACS)[:, rows, columns]) < 1e-5
    undersampled = k * make_mask("random", SIZE, 2.5, ACS)
    assert torch.equal(espirit(undersampled, ACS), espirit(k, ACS))
    # Control: a wider region is another answer.
    assert not torch.equal(espirit(garbage, ACS + 2), espirit(k, ACS + 2))


def test_espirit_agrees_with_sigpy():
    app = pytest.importorskip("sigpy.mri.app", reason="sigpy is not installed")
    k, _, _ = scan()
    ours = espirit(k, ACS, crop=0.9)
    theirs = torch.from_numpy(app.EspiritCalib(k.numpy(), ACS, crop=0.9, show_pbar=False).run())
    both = (ours.abs().sum(0) > 0) & (theirs.abs().sum(0) > 0)
    assert float(((ours.abs().sum(0) > 0) == (theirs.abs().sum(0) > 0)).float().mean()) > 0.999
    assert relative(ours[:, both], theirs[:, both]) < 1e-4
    # Control: other windows give other maps.
    assert relative(espirit(k, ACS, kernel=4, crop=0.9)[:, both], theirs[:, both]) > 1e-4


@pytest.mark.skipif(not REAL.exists(), reason="needs shared/data/mri/kspace.npz, which only developers have")
def test_real_scans_are_explained_by_their_maps():
    """What the maps of a real head leave unexplained of its coil images is noise; those of another slice do not do."""
    k = torch.from_numpy(np.load(REAL)["brain8_full"]).movedim(-1, 0).to(torch.complex64)
    maps = espirit(k, 24)[None]
    images = torch.fft.fftshift(torch.fft.ifft2(torch.fft.ifftshift(k, dim=(-2, -1)), norm="ortho"), dim=(-2, -1))
    seen = maps[0].abs().sum(0) > 0

    def unexplained(maps: Tensor) -> float:
        x = from_kspace(k[None], maps)
        again = maps[0] * torch.complex(x[0, 0], x[0, 1])
        return float((again - images)[:, seen].norm() / images[:, seen].norm())

    turned = maps.flip(-1) / maps.flip(-1).abs().square().sum(1, keepdim=True).sqrt().clamp_min(1e-6)
    print(f"\nunexplained {unexplained(maps):.3f}, by maps turned round {unexplained(turned):.3f}")
    assert unexplained(maps) < 0.1 and unexplained(turned) > 0.3


def test_birdcage_maps_are_smooth_and_normalised():
    maps = birdcage(8, SIZE)
    torch.testing.assert_close(maps.abs().square().sum(0), torch.ones(SIZE))
    assert float((maps[:, 1:] - maps[:, :-1]).abs().max()) < 0.1
    peaks = maps.abs().flatten(1).argmax(1)
    assert len(set(peaks.tolist())) == 8  # each coil sees another place best
    assert all(p // SIZE[1] in (0, SIZE[0] - 1) or p % SIZE[1] in (0, SIZE[1] - 1) for p in peaks.tolist())


# Fewer coils, white noise, scale -------------------------------------------------------------------------------------


def test_compression_keeps_the_signal_and_the_noise_white():
    k, _, _ = scan(8, noise=0.0)
    full = [float(compress(k, n, ACS).abs().square().sum() / k.abs().square().sum()) for n in (1, 2, 4, 7)]
    print("\nsignal kept by 1, 2, 4, 7 of 8 coils:", *(f"{f:.4f}" for f in full))
    assert full == sorted(full) and full[2] > 0.97 and full[3] > 0.999
    plain = float(k[:4].abs().square().sum() / k.abs().square().sum())
    assert full[2] > 1.3 * plain  # Control: the first four coils
    # All virtual coils together are a rotation, and slices share one.
    assert torch.equal(compress(k, 8), k) and torch.equal(compress(k, 12), k)
    stack = torch.stack([k, 0.5 * k])
    torch.testing.assert_close(compress(stack, 4)[1], 0.5 * compress(stack, 4)[0])
    # Orthonormal weights: the covariance of white noise stays the identity.
    weights = torch.linalg.lstsq(k.flatten(1).T, compress(k, 4, ACS).flatten(1).T).solution
    torch.testing.assert_close(weights.mH @ weights, torch.eye(4, dtype=weights.dtype), rtol=1e-3, atol=1e-3)


def test_whitened_noise_has_unit_deviation_in_each_part():
    mix = randn(5, 5, seed=2, dtype=torch.complex64) + 2 * torch.eye(5)
    noise, more = (torch.einsum("cd,dn->cn", mix, randn(5, n, seed=s, dtype=torch.complex64)) for s, n in ((3, 4000),
        (4, 40 * 50)))  # fmt: skip
    white = prewhiten(more.reshape(5, 40, 50), noise).flatten(1)
    covariance = white @ white.mH / (2 * white.shape[1])
    band = 4.5 * math.sqrt(1 / 2000 + 1 / 4000)
    assert float((covariance - torch.eye(5)).abs().max()) < band
    assert float((white.real.var(1) - 1).abs().max()) < 1.5 * band
    # Control: each coil by its own deviation leaves the correlations.
    scaled = more / (noise.abs().square().mean(1, keepdim=True) / 2).sqrt()
    assert float((scaled @ scaled.mH / 4000 - torch.eye(5)).abs().max()) > 3 * band
    # The picture is not changed: whitened maps explain whitened k-space.
    k, maps, x = scan(5, noise=0.0)
    together = to_kspace(x, prewhiten(maps, noise)[None])[0]
    assert relative(prewhiten(k, noise), together) < 1e-5


@pytest.mark.parametrize("factor", [1e-6, 1.0, 1e4])
def test_the_scale_is_that_of_the_picture_and_is_kept(factor):
    k, _, x = scan(noise=0.001)
    scaled, scale = normalise(factor * k, ACS)
    torch.testing.assert_close(scaled * scale, factor * k)
    brightest = float(x[0].square().sum(0).sqrt().flatten().quantile(0.99))
    assert 0.7 < scale / (factor * brightest) < 1.1
    assert abs(normalise(scaled, ACS)[1] - 1) < 1e-5
    # Control: the zero-filled picture of an undersampled scan is darker; the scale must not be.
    assert normalise(k * make_mask("random", SIZE, 3, ACS), ACS)[1] == normalise(k, ACS)[1]


# What is refused -----------------------------------------------------------------------------------------------------


def broken(value: float, coil: int = 2) -> Tensor:
    k = scan()[0].clone()
    k[coil, 3, 4] = value
    return k


def empty() -> Tensor:
    """Sampled everywhere but in the middle."""
    k = scan()[0].clone()
    k[:, 20:52, 16:48] = 0
    return k


NOISE = randn(6, 500, seed=5, dtype=torch.complex64)
CASES = {
    "NaN coil": (lambda: espirit(broken(float("nan")), ACS), "Coil 2 of 6"),
    "infinite coil": (lambda: compress(broken(float("inf"), 5), 4), "Coil 5 of 6"),
    "zero calibration": (lambda: espirit(empty(), ACS), "zero everywhere"),
    "zero calibration, scale": (lambda: normalise(empty(), ACS), "zero everywhere"),
    "no calibration": (lambda: espirit(scan()[0], 0), "acs"),
    "small calibration": (lambda: espirit(scan()[0], 6), "too small"),
    "real numbers": (lambda: espirit(scan()[0].real, ACS), "complex"),
    "a stack": (lambda: espirit(scan()[0][None], ACS), "kspace"),
    "noise only": (lambda: espirit(randn(6, *SIZE, dtype=torch.complex64), 12), "mostly noise"),
    "no coils": (lambda: compress(scan()[0], 0), "coils"),
    "other coils": (lambda: prewhiten(scan()[0], NOISE[:4]), "noise scan"),
    "short noise": (lambda: prewhiten(scan()[0], NOISE[:, :6]), "noise scan"),
    "a dead coil": (lambda: prewhiten(scan()[0], NOISE * torch.tensor([1, 1, 0, 1, 1, 1])[:, None]), "records nothing"),
    "no birdcage": (lambda: birdcage(0, SIZE), "coils"),
    "inside": (lambda: birdcage(4, SIZE, 0.5), "distance"),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_sentence(name):
    call, word = CASES[name]
    with pytest.raises(AmbientSolveError, match=word) as error:
        call()
    assert one_sentence(error)


def test_the_region_is_in_the_middle():
    k = torch.zeros(2, 9, 8, dtype=torch.complex64)
    k[:, 4, 4] = 1
    assert centre(k, 1).shape == (2, 1, 1) and bool((centre(k, 1) == 1).all())
    assert centre(k, 4).shape == (2, 4, 4) and centre(k, 99).shape == (2, 9, 8)
