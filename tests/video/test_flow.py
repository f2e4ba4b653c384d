"""Flows against motions that are known, what is hidden, and cuts."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, map_coordinates
from torch import Tensor
from torch.nn import functional as F

from ambient_solve import AmbientSolveError
from ambient_solve.video.flow import CUT, FLOWS, flow_method, motion, occlusion, photometric_error, pull, stays
from ambient_solve.video.warped_noise import first_frame
from helpers import rand

SIDE, EDGE = 64, 16
HERE = torch.stack(torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")).float()
METHODS = [name for name in FLOWS if name != "dis" or importlib.util.find_spec("cv2")]


def texture(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    found = gaussian_filter(rng.standard_normal((SIDE + 2 * EDGE,) * 2), 1.5)
    return (found - found.min()) / np.ptp(found)


def seen(flow: Tensor, seed: int = 0) -> Tensor:
    """The texture at the places where the flow leads, three channels."""
    found = map_coordinates(texture(seed), (HERE + flow + EDGE).double().numpy(), order=3)
    return torch.from_numpy(found).float().expand(3, -1, -1)


STILL = torch.zeros(2, SIDE, SIDE)
MOTIONS = {
    "shift": torch.tensor([1.3, -2.2]).reshape(2, 1, 1).expand(2, SIDE, SIDE),
    "zoom": 0.05 * (HERE - SIDE / 2),
}


def away(found: Tensor, flow: Tensor) -> Tensor:
    """Distance of two flows at the pixels that stay in the frame, and are not at its edge."""
    return (found - flow).norm(dim=0)[8:-8, 8:-8]


@pytest.mark.parametrize("moved", MOTIONS)
@pytest.mark.parametrize("name", METHODS)
def test_a_known_motion_is_found(name, moved):
    flow = MOTIONS[moved]
    found = motion(name, 1, seen(STILL), seen(flow))
    assert float(away(found.flow, flow).max()) < 0.3
    assert (
        float(away(-found.flow, flow).max()) > 1 and float(away(found.flow.flip(0), flow).max()) > 0.5
    )  # the controls
    assert not found.cut and float(found.occluded[8:-8, 8:-8].float().mean()) < 0.01


@pytest.mark.parametrize("name", METHODS)
def test_the_units_of_the_frames_do_not_count(name):
    flow = MOTIONS["shift"]
    one = flow_method(name)(seen(flow), seen(STILL))
    assert torch.allclose(flow_method(name)(255 * seen(flow) - 30, 255 * seen(STILL) - 30), one, atol=0.02)
    assert not flow_method(name)(0 * seen(flow), 0 * seen(STILL)).any()  # frames without texture


def square(at: int) -> tuple[slice, slice]:
    return slice(24, 40), slice(at, at + 16)


def test_what_a_square_uncovers_is_hidden_before():
    """It moves by six pixels to the right: the six columns behind it come into sight, and no others."""
    back, forth = STILL.clone(), STILL.clone()
    back[1][square(26)], forth[1][square(20)] = -6.0, 6.0
    expected = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    expected[24:40, 20:26] = True
    assert torch.equal(occlusion(back, forth), expected)
    assert not torch.equal(occlusion(forth, back), expected)  # the control: what it covers
    assert not occlusion(MOTIONS["shift"], -MOTIONS["shift"]).any()  # what comes into the frame is not hidden


@pytest.mark.parametrize("name", [name for name in METHODS if name != "ilk"])
def test_what_a_square_uncovers_is_found_in_pictures(name):
    before, after = seen(STILL).clone(), seen(STILL).clone()
    patch = torch.from_numpy(texture(1)[:24, :24]).float()
    before[:, 16:40, 16:40], after[:, 16:40, 20:44] = patch, patch
    uncovered = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    uncovered[16:40, 16:20] = True
    near = F.max_pool2d(uncovered[None].float(), 5, 1, 2)[0] > 0
    found = motion(name, 1, before, after)
    assert float(found.occluded[uncovered].float().mean()) > 0.5
    assert float(near[found.occluded].float().mean()) > 0.5 > 4 * float(near.float().mean())
    frame = first_frame("nearest", (SIDE, SIDE)).next(found.flow, found.occluded, cut=found.cut)
    begun = (frame.addresses - HERE.movedim(0, -1)).abs().amax(-1) > SIDE
    assert bool(begun[found.occluded].all()) and float(begun.float().mean()) < 0.3


@pytest.mark.parametrize("name", METHODS)
def test_a_cut_is_found_and_a_moving_scene_is_none(name):
    flow = MOTIONS["shift"]
    noise = 0.05 * torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    scene, moved = seen(STILL) + noise[0], seen(flow) + noise[1]
    other = torch.from_numpy(gaussian_filter(rand(SIDE, SIDE, seed=5).numpy(), 6)).expand(3, -1, -1)
    other = (other - other.min()) / (other.max() - other.min())
    assert not motion(name, 1, scene, moved).cut
    assert motion(name, 1, other, moved).cut and motion(name, 1, moved, other).cut


def test_the_photometric_error_of_flows_and_of_flat_frames():
    flow, flat = MOTIONS["shift"], torch.zeros(3, SIDE, SIDE)
    assert photometric_error(seen(STILL), seen(flow), flow) < 0.1 < photometric_error(seen(STILL), seen(flow), STILL)
    assert photometric_error(flat, flat, STILL) == 0 and photometric_error(flat, flat + 1, STILL) > CUT
    assert photometric_error(flat, flat, STILL + SIDE) > CUT
    assert torch.allclose(pull(seen(STILL), STILL), seen(STILL), atol=1e-5)
    whole = torch.tensor([2.0, -3.0]).reshape(2, 1, 1).expand_as(STILL)
    assert torch.allclose(pull(seen(STILL), whole)[:, :-2, 3:], seen(STILL)[:, 2:, :-3], atol=1e-4)
    assert int(stays(whole).sum()) == (SIDE - 2) * (SIDE - 3)


def test_a_flow_comes_as_a_tensor_or_a_function():
    flow = MOTIONS["shift"]
    given = motion(torch.stack([STILL, flow]), 2, seen(STILL), seen(flow))
    assert torch.equal(given.flow, flow) and given.occluded is None and not given.cut
    called = motion(lambda after, before: flow if after is moved else -flow, 1, seen(STILL), moved := seen(flow))
    assert torch.equal(called.flow, flow) and not called.occluded.any()


@pytest.mark.parametrize(
    ("flow", "words"),
    [
        ("tvl", "tvl1"),
        (torch.zeros(3, 2, 4, 4), "finite flow"),
        (torch.zeros(0, 2, SIDE, SIDE), "none for frame 1"),
        (lambda after, before: after, "finite flow"),
        (lambda after, before: None, "NoneType"),
    ],
)
def test_a_flow_that_does_not_fit_is_refused(flow, words):
    with pytest.raises(AmbientSolveError, match=words):
        motion(flow, 1, seen(STILL), seen(STILL))
    with pytest.raises(AmbientSolveError, match="one size"):
        motion("tvl1", 1, seen(STILL), seen(STILL)[:, 1:])


def test_dis_says_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(AmbientSolveError, match=r"pip install 'ambient-solve\[video\]'"):
        motion("dis", 1, seen(STILL), seen(STILL))
