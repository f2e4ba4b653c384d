"""A mask of the first frame that follows what it covers: with the motion given exactly, and with one that is found."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ambient_solve import AmbientSolveError
from ambient_solve.restore.tasks import make_task
from ambient_solve.video.clip import Clip
from ambient_solve.video.following import followed_masks
from helpers import rand

SIDE, BOX, STEP, FRAMES = 64, 14, 3, 6


def texture(height: int, width: int, seed: int) -> Tensor:
    wide = torch.nn.functional.avg_pool2d(rand(1, 3, height + 2, width + 2, seed=seed), 3, 1)[0]
    return (wide - wide.amin()) / (wide.amax() - wide.amin())


def passing() -> tuple[list[Tensor], list[Tensor]]:
    """A box of one texture that passes before another, and where it is, (H, W) bool."""
    behind, box = texture(SIDE, SIDE, 1), texture(BOX, BOX, 2)
    frames, places = [], []
    for t in range(FRAMES):
        frame, place = behind.clone(), torch.zeros(SIDE, SIDE, dtype=torch.bool)
        left = 8 + STEP * t
        frame[:, 24 : 24 + BOX, left : left + BOX] = box
        place[24 : 24 + BOX, left : left + BOX] = True
        frames.append(frame)
        places.append(place)
    return frames, places


class Known:
    """The flow of a clip whose every frame is the one before, moved by `step` (3, 3); none between other pictures."""

    def __init__(self, frames: list[Tensor], step: Tensor) -> None:
        self.frames, self.step = frames, step

    def number(self, frame: Tensor) -> int | None:
        return next((t for t, known in enumerate(self.frames) if torch.equal(known, frame)), None)

    def __call__(self, after: Tensor, before: Tensor) -> Tensor:
        times = self.number(before), self.number(after)
        if None in times:
            return torch.zeros(2, SIDE, SIDE)
        back = torch.linalg.matrix_power(torch.linalg.inv(self.step), times[1] - times[0])
        return ((back - torch.eye(3, dtype=torch.float64)) @ PLACES)[:2].reshape(2, SIDE, SIDE).float()


PLACES = torch.cartesian_prod(*[torch.arange(SIDE, dtype=torch.float64)] * 2).T
PLACES = torch.cat([PLACES, torch.ones_like(PLACES[:1])])


def test_a_motion_that_is_known_carries_the_mask_exactly():
    scene, mask = texture(SIDE, SIDE + STEP * FRAMES, 3), torch.ones(SIDE, SIDE)
    mask[20:26, 20:40] = 0
    mask[45:48, 50] = 0  # of another part, which leaves the frame
    frames = [scene[..., STEP * (FRAMES - t) : STEP * (FRAMES - t) + SIDE] for t in range(FRAMES)]
    step = torch.eye(3, dtype=torch.float64)
    step[1, 2] = STEP
    found = list(followed_masks(mask, frames, Known(frames, step), margin=0))
    assert len(found) == FRAMES and not any(cut for _, cut in found)
    for t, (moved, _) in enumerate(found):
        wanted = torch.ones(SIDE, SIDE)
        wanted[20:26, 20 + STEP * t : 40 + STEP * t] = 0
        wanted[45:48, 50 + STEP * t : 51 + STEP * t] = 0
        assert torch.equal(moved, wanted), t
        assert t == 0 or not torch.equal(moved, mask), "the control: it does not stand still"
    grown, _ = list(followed_masks(mask, frames, Known(frames, step), margin=1))[1]
    assert int((grown == 0).sum()) == 8 * 22 + 5 * 3


def test_a_part_turns_and_grows_with_what_it_covers():
    angle, middle = 0.06, SIDE / 2
    turn = torch.tensor([[1.0, -angle, 0.0], [angle, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64) * 1.02
    turn[:2, 2], turn[2, 2] = middle - turn[:2, :2] @ torch.full((2,), middle, dtype=torch.float64), 1.0
    far = torch.linalg.matrix_power(torch.linalg.inv(turn), 5)
    frames = [texture(SIDE, SIDE, 20)]
    while len(frames) < 6:
        back = torch.linalg.matrix_power(torch.linalg.inv(turn), len(frames)) @ PLACES
        grid = (2 * back[:2] / (SIDE - 1) - 1).flip(0).T.reshape(1, SIDE, SIDE, 2).float()
        frames.append(torch.nn.functional.grid_sample(frames[0][None], grid, "bilinear", "border", True)[0])
    mask = torch.ones(SIDE, SIDE)
    mask[10:20, 14:44] = 0
    *_, (last, _) = followed_masks(mask, frames, Known(frames, turn), margin=0)
    there = (far @ PLACES)[:2].reshape(2, SIDE, SIDE)
    wanted = (there[0] > 9.5) & (there[0] < 19.5) & (there[1] > 13.5) & (there[1] < 43.5)
    apart = ((last == 0) ^ wanted).sum() / wanted.sum()
    assert apart < 0.25, "but for the pixels of its edge"
    assert ((mask == 0) & wanted).sum() / wanted.sum() < 0.6, "the control: a mask that stands still misses it"


@pytest.mark.parametrize(("flow", "wide"), [("tvl1", 0), ("tvl1", 2), ("dis", 1)])
def test_a_thing_that_passes_before_another_is_followed(flow, wide):
    if flow == "dis":
        pytest.importorskip("cv2", reason="OpenCV is not installed")
    frames, places = passing()
    painted = torch.nn.functional.max_pool2d(places[0].float()[None], 2 * wide + 1, 1, wide)[0]
    found = [mask == 0 for mask, _ in followed_masks(1 - painted, frames, flow)]
    for missing, place in zip(found[1:], places[1:], strict=True):
        covered, most = (missing & place).sum() / place.sum(), missing.sum() / place.sum()
        assert covered > 0.98 and most < 2.5, (float(covered), float(most))
    stands = (places[0] & places[-1]).sum() / places[-1].sum()
    assert stands < 0.1, "the control: a mask that stands still misses it"


def test_nothing_is_missing_once_another_scene_begins():
    frames, places = passing()
    other = [1 - texture(SIDE, SIDE, 9).flip(-1)] * 2
    found = list(followed_masks(1 - places[0].float(), [*frames[:2], *other], "tvl1"))
    assert [cut for _, cut in found] == [False, False, True, False]
    assert [bool((mask == 0).any()) for mask, _ in found] == [True, True, False, False]


def test_what_cannot_be_followed_is_said():
    with pytest.raises(AmbientSolveError, match="take inpaint"):
        Clip("a.mp4", make_task("denoise", sigma=0.1), follow="dis")
    with pytest.raises(AmbientSolveError, match="There is no flow"):
        list(followed_masks(torch.ones(8, 8), [rand(3, 8, 8)] * 2, "nowhere"))
    with pytest.raises(AmbientSolveError, match="one size"):
        list(followed_masks(torch.ones(8, 8), [rand(3, 8, 8), rand(3, 8, 9)], "ilk"))
