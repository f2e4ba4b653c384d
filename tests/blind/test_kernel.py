"""A blur of which nothing is known: its algebra against dense matrices, and kernels of pictures whose blur is known."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ambient_solve import AmbientSolveError
from ambient_solve.blind import estimate_kernel, kernel
from ambient_solve.blind.edges import DEVIATIONS, SHARES, Inside, differences, posterior_mean, precision


def blurred(x: Tensor, k: Tensor) -> Tensor:
    """Convolution where the kernel fits."""
    return F.conv2d(x[:, None], k.flip(0, 1)[None, None])[:, 0]


def dense(function: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> Tensor:
    """Matrix of a linear function of pictures of this shape."""
    basis = torch.eye(shape[0] * shape[1]).reshape(-1, *shape)
    return function(basis).flatten(1).T


@pytest.fixture
def five() -> Tensor:
    k = torch.rand(5, 5, generator=torch.Generator().manual_seed(0))
    return k / k.sum()


def test_the_blur_is_the_convolution_where_the_kernel_fits_and_its_adjoint_the_transpose(five: Tensor) -> None:
    matrix = dense(lambda x: blurred(x, five), (12, 11))
    blur = Inside(five, (12, 11))
    torch.testing.assert_close(dense(blur.forward, (12, 11)), matrix, atol=1e-6, rtol=0)
    torch.testing.assert_close(dense(blur.adjoint, (8, 7)), matrix.T, atol=1e-6, rtol=0)


def test_the_mean_of_the_differences_solves_their_normal_equations(five: Tensor) -> None:
    generator = torch.Generator().manual_seed(1)
    weight = 10 ** (4 * torch.rand(2, 12, 11, generator=generator))
    g, eta = torch.randn(2, 8, 7, generator=generator), 0.1
    matrix = dense(lambda x: blurred(x, five), (12, 11))
    found = posterior_mean(g, Inside(five, (12, 11)), weight, eta, torch.zeros(2, 12, 11), 400)
    for v, w, right in zip(found, weight, g, strict=True):
        form = matrix.T @ matrix / eta**2 + w.flatten().diag()
        expected = torch.linalg.solve(form.double(), (matrix.T @ right.flatten() / eta**2).double())
        torch.testing.assert_close(v.flatten().double(), expected, atol=1e-4, rtol=1e-3)


def test_the_weight_is_the_posterior_mean_of_the_precision() -> None:
    square = torch.tensor([0.0, 0.01, 0.2]).square()
    s, p = torch.tensor(DEVIATIONS), torch.tensor(SHARES)
    joint = p / s * torch.exp(-square[:, None] / (2 * s**2))
    torch.testing.assert_close(precision(square), (joint / s**2).sum(1) / joint.sum(1))


def test_the_form_of_the_kernel_is_the_expected_squared_residual(five: Tensor) -> None:
    generator = torch.Generator().manual_seed(2)
    mean, g = torch.randn(2, 12, 11, generator=generator), torch.randn(2, 8, 7, generator=generator)
    variance = torch.rand(2, 12, 11, generator=generator)
    form, right = kernel._quadratic(mean, variance, g, 5)
    k = five.flip(0, 1).flatten()
    found = k @ form @ k - 2 * right @ k + g.square().sum()
    # Each residual has the variance of the pixels under the kernel, weighted by its squares.
    expected = (blurred(mean, five) - g).square().sum() + blurred(variance, five.square()).sum()
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def picture(side: int, seed: int) -> Tensor:
    """Disks of all sizes that hide each other, (side, side): edges as photographs have them."""
    generator = torch.Generator().manual_seed(seed)
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    x = torch.full((side, side), 0.5)
    for _ in range(300):
        top, left, size, value = torch.rand(4, generator=generator).tolist()
        inside = (row - side * top) ** 2 + (column - side * left) ** 2 < (3 + 22 * size**4) ** 2
        x = torch.where(inside, value, x)
    return x


def shake() -> Tensor:
    """A path with a corner, (11, 11)."""
    k = torch.zeros(11, 11)
    k[2, 2:8], k[2:9, 7] = 1.0, 1.0
    k[5, 7] = 3.0
    return k / k.sum()


def similarity(a: Tensor, b: Tensor) -> float:
    """Largest normalized correlation over shifts; 1 is equal but for a shift."""
    spectra = [torch.fft.rfft2(k, s=(64, 64)) for k in (a, b)]
    return float(torch.fft.irfft2(spectra[0].conj() * spectra[1], s=(64, 64)).max() / (a.norm() * b.norm()))


def measured(seed: int) -> Tensor:
    y = blurred(picture(106, seed)[None], shake())
    return (y + 0.01 * torch.randn(y.shape, generator=torch.Generator().manual_seed(seed)))[None]


def test_a_camera_shake_is_found_from_the_picture_alone() -> None:
    found = [estimate_kernel(measured(seed), 15, 0.01) for seed in (0, 1)]
    assert all(similarity(f.kernel, shake()) > 0.9 for f in found)
    for f in found:
        assert f.kernel.shape == f.std.shape == (15, 15)
        assert float(f.kernel.min()) == 0 and float(f.kernel.sum()) == pytest.approx(1, abs=1e-5)
        at = torch.arange(15.0)
        assert all(abs(float((f.kernel.sum(axis) * at).sum()) - 7) <= 0.51 for axis in (0, 1))


def test_without_the_variances_of_the_picture_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: the posterior of kernel and picture together prefers a kernel that hardly blurs."""
    whole = kernel._quadratic
    monkeypatch.setattr(kernel, "_quadratic", lambda m, c, g, side: whole(m, 1e-6 * c, g, side))
    assert max(similarity(estimate_kernel(measured(seed), 15, 0.01).kernel, shake()) for seed in (0, 1)) < 0.8


def test_of_a_large_picture_the_part_with_most_detail_is_looked_at() -> None:
    large = torch.full((400, 700), 0.5)
    large[128:384, 384:640] = picture(256, 3)
    assert torch.equal(kernel._detailed(large), large[128:384, 384:640])
    assert differences(large).shape == (2, 399, 699)


@pytest.mark.parametrize(
    ("y", "size", "sigma", "word"),
    [
        (torch.zeros(2, 1, 90, 90), 15, 0.01, "one picture"),
        (torch.zeros(1, 1, 90, 90), 14, 0.01, "odd"),
        (torch.zeros(1, 1, 90, 90), 31, 0.01, "at most 30"),
        (torch.zeros(1, 1, 90, 90), 15, -1.0, "noise level"),
    ],
)
def test_what_cannot_be_estimated_is_refused(y: Tensor, size: int, sigma: float, word: str) -> None:
    with pytest.raises(AmbientSolveError, match=word):
        estimate_kernel(y, size, sigma)
