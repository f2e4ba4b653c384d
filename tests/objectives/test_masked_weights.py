"""How much the entries count that a masked objective hides."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ambient_solve.noise import Streams
from ambient_solve.objectives.base import edm_weight
from ambient_solve.objectives.denoise import WEIGHTS, Denoise, unbiased_target
from ambient_solve.objectives.masked import Masked
from test_masked import some_batch


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("weight", WEIGHTS)
def test_hidden_entries_weigh_as_at_the_floor_and_stand_for_all_that_is_not_seen(weight, whole):
    sigma, noise = torch.full((12,), 0.173), torch.full((12,), 0.15)
    batch = some_batch()
    batch = replace(batch, sigma=sigma, sigma_noise=noise, mask=None if whole else batch.mask)
    last_cond: list[Tensor] = []

    def counted(seen: bool, floor: float) -> float:
        """Loss of an error of 1 on what is (not) seen, over its share of all entries, observed or not."""

        def denoise(z, s, cond):
            last_cond[:] = [cond]
            _, tau = unbiased_target(batch, Streams(range(12), 1))
            return tau + (cond if seen else 1 - cond)

        total = Masked(0.5, 0.3, weight=weight, floor=floor).loss(denoise, batch, Streams(range(12), 1))
        share = last_cond[0] if seen else 1 - last_cond[0]
        return float((total / share.mean((1, 2, 3))).mean())

    v = float(noise[0] ** 2 * sigma[0] ** 2 / (sigma[0] ** 2 - noise[0] ** 2))
    level = float(edm_weight(torch.tensor(0.4), 0.5))
    wanted = {"laws": level * (1 - (0.15 / 0.173) ** 2) ** 2, "omni": level, "inverse_variance": 1 / (1 / level + v)}
    assert counted(False, 0.4) == pytest.approx(wanted[weight], rel=1e-4)
    assert counted(True, 0.4) == pytest.approx(float(Denoise(weight).weights(sigma, noise)[0]), rel=1e-4)
    assert counted(False, 0.4) < counted(True, 0.4)
    # Control: without a floor the hidden weigh as the seen.
    assert counted(False, 0.0) == pytest.approx(counted(True, 0.0), rel=1e-4)
