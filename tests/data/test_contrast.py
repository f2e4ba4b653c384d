"""Whether a data set shows anything, seen through its noise and its gaps."""

from __future__ import annotations

import pytest
import torch

from ambient_solve.data.contrast import Contrast
from ambient_solve.data.sample import Sample
from ambient_solve.errors import AmbientSolveError
from helpers import one_sentence, randn

SHAPE = (3, 24, 24)


def about(samples, sigma_data: float = 0.5) -> str:
    contrast = Contrast()
    for sample in samples:
        contrast.add(sample)
    return contrast.about("photos", sigma_data)


def noisy(z: torch.Tensor, sigma: float, **fields) -> list[Sample]:
    return [Sample(str(k), (z + sigma * randn(*SHAPE, seed=k)).half(), sigma, **fields) for k in range(8)]


FLAT = torch.tensor([1.0, -1, -1])[:, None, None].expand(SHAPE)
"""All red: its channels differ, its pixels do not."""
WAVE = 0.4 * torch.sin(torch.arange(24) / 2).expand(SHAPE)
"""Standard deviation .28."""


@pytest.mark.parametrize("sigma", [0.0, 0.05, 0.2])
def test_noise_on_nothing_is_nothing_and_on_something_is_something(sigma):
    assert about(noisy(WAVE, sigma)) == ""
    with pytest.raises(AmbientSolveError, match="photos: all 8 pictures are each of one value") as error:
        about(noisy(FLAT, sigma))
    assert one_sentence(error)
    # Clean and damaged pictures of one set.
    with pytest.raises(AmbientSolveError, match="one value"):
        about(noisy(FLAT, sigma) + noisy(FLAT, 0.0))
    assert about(noisy(FLAT, sigma) + noisy(WAVE, 0.0)) == ""


def test_what_noise_hides_is_not_judged():
    assert about(noisy(FLAT, 5.0)) == "" == about(noisy(WAVE, 5.0))


def test_only_what_was_observed_counts():
    mask = torch.zeros(1, 24, 24, dtype=torch.uint8)
    mask[:, ::2] = 1
    hidden = [Sample(str(k), (FLAT * mask).half(), mask=mask) for k in range(3)]
    with pytest.raises(AmbientSolveError, match="one value"):
        about(hidden)
    assert about([Sample("a", (WAVE * mask).half(), mask=mask)]) == ""
    # A mask of coefficients says nothing of pixels, and their noise is not that of the pixels.
    assert about([Sample("a", WAVE.half(), 0.5, mask=mask, signs=torch.ones(SHAPE, dtype=torch.int8))]) == ""


def test_pictures_as_they_are_read_and_their_units():
    gray = ((WAVE + 1) * 127.5).round().to(torch.uint8)
    assert about([gray]) == ""
    assert "almost of one value (standard deviation 0.018" in about([gray // 16])
    with pytest.raises(AmbientSolveError, match="its one picture is of one value"):
        about([gray // 255])
    for z, sigma_data, refused in ((gray.float(), 0.5, True), (6 * WAVE, 0.5, False), (100 * WAVE, 50.0, False)):
        if refused:
            with pytest.raises(AmbientSolveError, match="far outside their range"):
                about([z], sigma_data)
        else:
            assert about([z], sigma_data) == ""


def test_one_entry_a_picture_is_not_judged():
    assert about([torch.zeros(1, 1, 1)] * 5) == "" == about([])
