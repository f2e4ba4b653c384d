"""`Solver.solve` with a family of operators: estimated, recorded, and the same as with the operator that it finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from ambient_solve import AmbientSolveError, Solver, operators
from ambient_solve.blind import Family, Unknown, estimate_blur
from ambient_solve.priors.base import Prior
from helpers import one_sentence, randn


def photo(side: int = 96) -> torch.Tensor:
    from skimage import data

    picture = Image.fromarray(data.astronaut()).reduce(2)
    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None, :, 20 : 20 + side, 60 : 60 + side] / 255


class Shrinking(Prior):
    """A denoiser without a network: independent pixels of variance .05 about .5, of any size."""

    shape, sigma_min, sigma_max = (1, -1, -1), 0.01, 10.0

    def denoise(self, z: torch.Tensor, sigma: object, cond: object = None) -> torch.Tensor:
        """See `Prior.denoise`."""
        level = torch.as_tensor(sigma, dtype=z.dtype).reshape(-1, 1, 1, 1) ** 2
        return (0.05 * z + 0.5 * level) / (0.05 + level)


@pytest.mark.parametrize("boundary", operators.builders.BOUNDARIES)
def test_a_family_is_estimated_and_then_solved_as_its_operator(boundary):
    op = operators.gaussian_blur((1, 96, 96), 1.6, 0.01, boundary)
    y = op.A(photo().mean(1, keepdim=True))[..., :24, :40]
    y = y + 0.01 * randn(*y.shape)
    family = Family(operators.gaussian_blur, width=Unknown(0.4, 3), sigma=0.01, boundary=boundary)
    found, solver = estimate_blur(y, family), Solver(Shrinking(), "proximal", steps=3)
    solved = solver.solve(y, family, n_samples=2)
    stated = solver.solve(y, family.at(found.values, y.shape), n_samples=2)
    assert solved.settings["estimated"]["width"] == {
        "value": found.values["width"],
        "interval": list(found.intervals["width"]),
    }
    assert "estimated" not in stated.settings and torch.equal(solved.samples, stated.samples)
    border = 0 if boundary == "circular" else 2 * int(np.ceil(3 * found.values["width"]))
    assert solved.samples.shape[-2:] == (24 + border, 40 + border)
    other = solver.solve(y, operators.gaussian_blur((1, 24, 40), 2.9, 0.01), n_samples=2)
    assert other.samples.shape != solved.samples.shape or not torch.equal(other.samples, solved.samples)
    summary = solver.summarize(y, family, n_samples=2)
    assert summary.settings["estimated"] == solved.settings["estimated"]
    *_, last = solver.stream(y, family, n_samples=2)
    assert torch.equal(solver.prior.decode(last.z), solved.samples[0])


def test_a_photograph_that_was_blurred():
    x = photo(128)
    for width in (1.2, 2.4):
        y = operators.gaussian_blur((3, 128, 128), width, 0.01, "valid").A(x)
        y = y + 0.01 * randn(*y.shape)
        found = estimate_blur(y, Family(operators.gaussian_blur, width=Unknown(0.3, 6), sigma=0.01))
        print(width, found.words)
        low, high = found.intervals["width"]
        assert abs(found.values["width"] / width - 1) < 0.1 and low <= width <= high


def test_a_measurement_of_another_size_is_refused():
    family = Family(operators.super_resolution, sigma=Unknown(0.01, 0.1))
    with pytest.raises(AmbientSolveError, match="as large as the measurement") as error:
        family.at({"sigma": 0.1}, (1, 1, 16, 16))
    assert one_sentence(error)
