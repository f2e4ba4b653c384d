"""A reduced picture, held against what Pillow, torch, scikit-image, MATLAB's imresize and deepinv make of one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from deepinv.physics import Downsampling, DownsamplingMatlab
from PIL import Image
from torch import Tensor

from ambient_solve import AmbientSolveError, operators
from ambient_solve.linalg.gram import DecomposableGram, DiagonalGram, find_gram
from ambient_solve.operators.reduction import ALIGNMENTS, KERNELS, Reduction
from helpers import rand

PILLOW = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}
FACTORS = (2, 3, 4, 5, 8)


def scene(height: int, width: int) -> Tensor:
    return rand(1, 1, height, width, seed=3)


def by_pillow(x: Tensor, factor: int, filter: str) -> Tensor:
    image = Image.fromarray(x[0, 0].numpy())
    small = image.resize((image.width // factor, image.height // factor), PILLOW[filter])
    return torch.from_numpy(np.asarray(small).copy())[None, None]


@pytest.mark.parametrize("filter", PILLOW)
@pytest.mark.parametrize("factor", FACTORS)
def test_it_is_what_pillow_does_up_to_the_edges(factor, filter):
    x = scene(8 * factor, 11 * factor)
    y = Reduction((1, *x.shape[-2:]), factor, filter).A(x)
    torch.testing.assert_close(y, by_pillow(x, factor, filter), rtol=0, atol=1e-5)


@pytest.mark.parametrize("factor", FACTORS)
def test_it_is_what_others_do(factor):
    """torch everywhere; MATLAB's imresize but for the edges; the box of OpenCV's INTER_AREA and of skimage."""
    from skimage.transform import downscale_local_mean

    x = scene(12 * factor, 12 * factor)
    y = Reduction((1, *x.shape[-2:]), factor).A(x)
    by_torch = torch.nn.functional.interpolate(x, scale_factor=1 / factor, mode="bicubic", antialias=True)
    torch.testing.assert_close(y, by_torch, rtol=0, atol=1e-5)
    matlab = DownsamplingMatlab(factor=factor).A(x)
    torch.testing.assert_close(y[..., 3:-3, 3:-3], matlab[..., 3:-3, 3:-3], rtol=0, atol=1e-4)
    box = Reduction((1, *x.shape[-2:]), factor, "box").A(x)
    means = torch.from_numpy(downscale_local_mean(x[0, 0].numpy(), (factor, factor)))
    torch.testing.assert_close(box[0, 0], means, rtol=0, atol=1e-5)


@pytest.mark.parametrize("filter", KERNELS)
@pytest.mark.parametrize("factor", FACTORS)
def test_the_periodic_operator_is_the_same_inside(factor, filter):
    size = (1, 12 * factor, 12 * factor)
    x, inside = scene(*size[1:]), (..., slice(3, -3), slice(3, -3))
    periodic = operators.super_resolution(size, factor, filter).A(x)
    torch.testing.assert_close(periodic[inside], Reduction(size, factor, filter).A(x)[inside], rtol=0, atol=1e-5)


def place(op, factor: int) -> float:
    """Where the pixel (6, 6) of a small picture lies on an axis of the large one, less 6 times the factor."""
    e = torch.zeros(1, 1, 12, 12)
    e[..., 6, 6] = 1
    weights = op.A_adjoint(e)[0, 0].sum(1)
    return float((weights * torch.arange(len(weights))).sum() / weights.sum()) - 6 * factor


@pytest.mark.parametrize("factor", FACTORS)
def test_the_conventions_by_name(factor):
    """centers is half a small pixel from the edge; corner is deepinv's, whatever its filter; they differ from 3 on."""
    size = (1, 12 * factor, 12 * factor)
    for op in (Reduction(size, factor), operators.super_resolution(size, factor)):
        assert place(op, factor) == pytest.approx((factor - 1) / 2, abs=1e-3)
    for filter, where in (("bicubic", 0.5), ("gaussian", 0.0)):
        theirs = Downsampling(img_size=size, factor=factor, filter=filter, padding="circular")
        corner = operators.super_resolution(size, factor, filter, alignment="corner")
        assert place(corner, factor) == pytest.approx(where, abs=1e-3)
        x = scene(*size[1:])
        torch.testing.assert_close(corner.A(x), theirs.A(x))
    if factor == 2:  # where both conventions agree, the numbers do
        assert operators.super_resolution(size, 2).filter.shape == Downsampling(size, "bicubic", 2).filter.shape
        torch.testing.assert_close(
            operators.super_resolution(size, 2).A(x), operators.super_resolution(size, 2, alignment="corner").A(x)
        )
    with pytest.raises(AmbientSolveError, match="Did you mean 'centers'"):
        operators.super_resolution(size, factor, alignment="centres")
    assert ALIGNMENTS == ("centers", "corner")


@pytest.mark.parametrize("filter", KERNELS)
def test_its_closed_forms_are_those_of_its_matrix(filter):
    op = Reduction((2, 12, 9), 3, filter)
    x, y = rand(1, 2, 12, 9), rand(1, 2, 4, 3, seed=5)
    torch.testing.assert_close((op.A(x) * y).sum(), (x * op.A_adjoint(y)).sum())
    torch.testing.assert_close(op.U(op.mask * op.V_adjoint(x)), op.A(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(op.V(op.mask * op.U_adjoint(y)), op.A_adjoint(y), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(op.V_adjoint(op.V(y)), y, rtol=1e-4, atol=1e-5)
    big = Reduction((1, 60, 72), 3, filter)
    found = find_gram(big.A, big.A_adjoint, torch.zeros(1, 1, 20, 24), big)
    assert isinstance(found, DiagonalGram if filter == "box" else DecomposableGram)
    inverse = found.function(lambda t: 1 / (0.1 + t), u := rand(1, 1, 20, 24))
    torch.testing.assert_close(0.1 * inverse + big.A(big.A_adjoint(inverse)), u, rtol=1e-3, atol=1e-4)


def test_refusals():
    for call, words in (
        (lambda: Reduction((1, 9, 9), 2), "cannot be reduced"),
        (lambda: Reduction((1, 8, 8), 1), "at least 2"),
        (lambda: Reduction((1, 8, 8), 2, "bicubik"), "Did you mean 'bicubic'"),
        (lambda: operators.super_resolution((1, 8, 8), 2, "box", alignment="corner"), "deepinv has no"),
    ):
        with pytest.raises(AmbientSolveError, match=words):
            call()
