"""A clip through `VideoSolver`: exact where the denoiser is, guided where it is not, and the same after a stop."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from ambient_solve import DAPS, DPS, MMPS, AmbientSolveError, PnPDM, Proximal, operators
from ambient_solve.priors.base import Prior
from ambient_solve.priors.field import Field, FieldPrior
from ambient_solve.video.guidance import Guidance
from ambient_solve.video.solver import VideoSolver
from ambient_solve.video.state import ClipState
from ambient_solve.video.warped_noise import KINDS
from helpers import one_sentence, rand, randn

pytestmark = pytest.mark.filterwarnings("ignore::ambient_solve.errors.MisfitWarning")
SIDE, FRAMES = 36, 4
SHAPE = (1, SIDE, SIDE)
LAW = Field(length=1.0, features=200)
FOLLOWING = ("nearest", "integral", "field")
MOVE = torch.tensor([1.0, 2.0]).reshape(2, 1, 1).expand(2, SIDE, SIDE)
FLOWS = MOVE.expand(FRAMES - 1, -1, -1, -1)


class Local(Prior):
    """Exactly equivariant: a smaller picture, blurred by its four neighbors; with a slope, it is not."""

    shape, sigma_min, sigma_max, sigma_data = SHAPE, 0.05, 5.0, 0.5

    def __init__(self, slope: float = 0.0) -> None:
        super().__init__()
        self.slope = slope * torch.linspace(-1, 1, SIDE)

    def denoise(self, z, sigma, cond=None):
        around = sum(z.roll((i, j), (-2, -1)) for i, j in ((0, 1), (0, -1), (1, 0), (-1, 0)))
        found = (z + sigma * around / 4) / (1 + sigma)
        return found / (1 + sigma**2) + self.slope * torch.sin(6 * z)


def clip(frames: int = FRAMES) -> Tensor:
    """A scene that moves by MOVE a frame."""
    scene = rand(1, SIDE + 2 * frames, SIDE + 2 * frames)
    return torch.stack([scene[:, t : t + SIDE, 2 * t : 2 * t + SIDE] for t in range(frames)])


def prior_for(kind: str, slope: float = 0.0) -> Prior:
    return FieldPrior(Local(slope), LAW) if kind == "field" else Local(slope)


def flicker(samples: Tensor, edge: int) -> float:
    """Largest root mean square of what differs along the motion, away from the edge of the frame."""
    inside = (Ellipsis, slice(edge, -edge), slice(edge, -edge))
    moved = [(b - a.roll((-1, -2), (-2, -1)))[inside] for a, b in itertools.pairwise(samples.double())]
    return max(float(m.square().mean().sqrt()) for m in moved)


ALGORITHMS = {
    "proximal": Proximal(steps=3),
    "flower": Proximal(steps=3, draw=True),
    "mmps": MMPS(steps=2, iterations=2),
    "daps": DAPS(steps=2, ode_steps=2),
    "pnpdm": PnPDM(steps=2),
    "dps": DPS(steps=3),
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_equivariant_denoiser_gives_a_clip_without_flicker(name):
    """Below 1e-6 without guidance, whatever the algorithm draws: start, fresh noise, posterior draws and probes."""
    op, y = operators.denoise(SHAPE, 0.1), clip()
    found = {}
    for kind in ("integral", "fixed"):
        solver = VideoSolver(Local(), ALGORITHMS[name], noise=kind, flow=FLOWS, guidance=0)
        found[kind] = solver.solve(y, op, n_samples=2)
    samples = found["integral"].samples
    assert samples.shape == (FRAMES, 2, *SHAPE) and float(samples.std(1).mean()) > 0.01
    # Scalars of a whole frame, such as the norms of dps, see what leaves and enters it.
    whole = {"dps": 3e-2, "mmps": 3e-3, "pnpdm": 1e-5}
    assert flicker(samples, 12) < whole.get(name, 1e-6)
    assert flicker(found["fixed"].samples, 12) > 0.01  # the control


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_noise_makes_a_clip(kind):
    op, y = operators.denoise(SHAPE, 0.1), clip()
    law = LAW if kind == "field" else None
    solver = VideoSolver(prior_for(kind), Proximal(steps=3, draw=True), noise=kind, flow=FLOWS, guidance=0)
    result = solver.solve(y, op)
    assert solver.law == law and result.settings["noise"] == kind
    assert (flicker(result.samples, 12) < 1e-5) == (kind in FOLLOWING)
    assert result.network_calls == 3 * FRAMES


class Textured(Prior):
    """Exact for a stationary Gaussian picture on a torus, so that it moves with its input; `stain` spoils that."""

    shape, sigma_min, sigma_max, sigma_data = SHAPE, 0.02, 5.0, 0.2

    def __init__(self, stain: float = 0.0) -> None:
        super().__init__()
        f = torch.fft.fftfreq(SIDE)
        power = torch.exp(-2 * (torch.pi * 1.5) ** 2 * (f[:, None] ** 2 + f**2))
        self.power = 0.04 * power / power.mean()  # variance .04, correlated over 2 pixels
        self.stain = stain * randn(*SHAPE, seed=3)

    def denoise(self, z, sigma, cond=None):
        gain = self.power / (self.power + float(sigma) ** 2)
        return 0.5 + torch.fft.ifft2(gain * torch.fft.fft2(z - 0.5)).real + self.stain

    def draw(self, seed: int) -> Tensor:
        return 0.5 + torch.fft.ifft2(self.power.sqrt() * torch.fft.fft2(randn(*SHAPE, seed=seed))).real


@pytest.mark.parametrize("rule", ["blend", "gradient"])
def test_guidance_takes_the_flicker_of_a_denoiser_that_is_not_equivariant(rule):
    """Ten times less warping error of a bias that stands still, and the misfit grows by less than a tenth."""
    frames, op = 12, operators.denoise(SHAPE, 0.1)
    first = Textured().draw(1) + 0.1 * randn(*SHAPE)
    y = torch.stack([first.roll((-t, -2 * t), (-2, -1)) for t in range(frames)])
    flows, error, misfit = MOVE.expand(frames - 1, -1, -1, -1), {}, {}
    for weight, stain in ((0.0, 0.0), (0.0, 0.05), (0.95, 0.05)):
        guidance = Guidance(weight=weight, rule=rule, length=10.0)
        solver = VideoSolver(Textured(stain), Proximal(steps=8), noise="nearest", flow=flows, guidance=guidance)
        result = solver.solve(y, op)
        inside = (Ellipsis, slice(12, -12), slice(24, -2))  # the equivariant one is a convolution as wide as the frame
        moved = [b - a.roll((-1, -2), (-2, -1)) for a, b in itertools.pairwise(result.samples)]
        error[weight, stain] = float(torch.stack([m[inside].square().mean() for m in moved]).mean())
        misfit[weight, stain] = float(result.chi2.mean())
    # The gradient goes through the Jacobian, which a bias leaves as it is: it takes a part of it.
    assert error[0.0, 0.0] < 1e-4 < 1e-3 < error[0.0, 0.05]
    assert error[0.95, 0.05] < error[0.0, 0.05] / {"blend": 10, "gradient": 3}[rule]
    assert misfit[0.95, 0.05] < 1.1 * misfit[0.0, 0.05]


def test_a_clip_goes_on_from_a_state_with_the_same_bytes(tmp_path):
    op, y = operators.inpaint_box(SHAPE, 12, sigma=0.05), clip()
    for kind in ("integral", "field", "nearest"):
        solver = VideoSolver(prior_for(kind, 0.05), Proximal(steps=3, draw=True), noise=kind, flow="ilk")
        whole = list(solver.stream(y, op, n_samples=2))
        first = next(solver.stream(iter(y), op, n_samples=2))
        first.state.save(tmp_path / "state.safetensors")
        state = ClipState.load(tmp_path / "state.safetensors")
        rest = list(solver.stream(y, op, n_samples=2, state=state))
        assert [f.number for f in rest] == [1, 2, 3]
        for a, b in zip(whole[1:], rest, strict=True):
            assert torch.equal(a.restoration.samples, b.restoration.samples)
        other = list(solver.stream(y[1:], op, n_samples=2))
        assert not torch.equal(other[0].restoration.samples, rest[0].restoration.samples)  # the control


def test_a_stream_asks_for_one_frame_at_a_time_and_keeps_none(tmp_path):
    asked = []

    def frames():
        for t, y in enumerate(clip()):
            asked.append(t)
            yield y

    stream = VideoSolver(Local(), "proximal", steps=2, flow=FLOWS).stream(frames(), operators.denoise(SHAPE, 0.1))
    sizes = []
    for number, frame in enumerate(stream):
        assert asked == list(range(number + 1)) and frame.number == number
        frame.state.save(tmp_path / "state")
        sizes.append((tmp_path / "state").stat().st_size)
    assert max(sizes[1:]) < 1.1 * min(sizes[1:])


def test_every_level_is_reported_and_an_error_in_it_ends_the_run():
    seen = []

    def look(number, state):
        seen.append((number, state.step))
        if number == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        VideoSolver(Local(), "proximal", steps=2, flow=FLOWS).solve(
            clip(), operators.denoise(SHAPE, 0.1), on_level=look
        )
    assert seen == [(0, 1), (0, 2), (1, 1)]


def test_the_noise_starts_anew_at_a_cut_and_no_frame_is_drawn_across_it():
    """Two scenes: the second comes out as if its first frame had no frame before it, but for its own noise."""
    from scipy.ndimage import gaussian_filter

    def scene(seed):
        found = torch.from_numpy(gaussian_filter(randn(SIDE + 8, SIDE + 8, seed=seed).numpy(), 1.5))
        return (found - found.min()) / (found.max() - found.min())

    one, two = scene(0), scene(1)
    y = torch.stack([s[None, t : t + SIDE, :SIDE] for s in (one, two) for t in range(2)])
    result = VideoSolver(Local(), Proximal(steps=3), flow="ilk", guidance=1.0).solve(y, operators.denoise(SHAPE, 0.1))
    alone = VideoSolver(Local(), Proximal(steps=3), flow="ilk", guidance=0.0).solve(y, operators.denoise(SHAPE, 0.1))
    assert result.cuts == (2,) and "1 cuts" in repr(result)
    assert torch.equal(result.samples[2], alone.samples[2])
    assert not torch.equal(result.samples[3], alone.samples[3])  # the control: guided within its scene


def test_a_clip_without_motion_stands_still():
    y = clip(1).expand(3, -1, -1, -1)
    result = VideoSolver(Local(0.05), Proximal(steps=3), guidance=0).solve(y, operators.denoise(SHAPE, 0.1))
    assert torch.allclose(result.samples[0], result.samples[2], atol=1e-4)


def test_operators_of_each_frame_and_of_another_size():
    y = clip()
    boxes = [operators.inpaint_box(SHAPE, (4 * t, 4, 8, 8), sigma=0.1) for t in range(FRAMES)]
    solver = VideoSolver(Local(), Proximal(steps=2), flow="ilk")
    given = [op.A(x[None])[0] for op, x in zip(boxes, y, strict=True)]
    listed = solver.solve(given, boxes)
    assert torch.equal(listed.samples, solver.solve(given, lambda t: boxes[t]).samples)
    small = operators.super_resolution(SHAPE, 2, sigma=0.05)
    assert solver.solve(small.A(y), small).samples.shape == (FRAMES, 1, *SHAPE)
    clipped = operators.clip(SHAPE, sigma=0.05)
    found = VideoSolver(Local(), DPS(steps=4), flow="ilk").solve(
        clipped.A(y), clipped
    )  # not linear: a quick first pass
    assert found.samples.shape == (FRAMES, 1, *SHAPE)


class AnySize(Prior):
    """Shrinks pictures of any size."""

    shape, sigma_min, sigma_max = (1, -1, -1), 0.05, 5.0

    def denoise(self, z, sigma, cond=None):
        return z / (1 + sigma**2)


def two_sizes():
    return [rand(1, 16, 16), rand(1, 18, 18)], lambda t: operators.denoise((1, 16 + 2 * t, 16 + 2 * t), 0.1)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: VideoSolver(Local(), noise="integrl"), "integral"),
        (lambda: VideoSolver(Local(), noise="field"), "FieldPrior"),
        (lambda: VideoSolver(FieldPrior(Local(), LAW), noise="integral"), "take 'field'"),
        (lambda: VideoSolver(Local(), flow="tvl"), "tvl1"),
        (lambda: VideoSolver(Local(), seconds=3), "flickers"),
        (lambda: VideoSolver(Local(), guidance=1.5), "weight"),
        (lambda: VideoSolver(Local(), "proximal").solve([], operators.denoise(SHAPE, 0.1)), "no frame"),
        (lambda: VideoSolver(Local(), "proximal").solve(clip(), [operators.denoise(SHAPE, 0.1)]), "1 operators"),
        (lambda: VideoSolver(AnySize(), "proximal", steps=2).solve(*two_sizes()), "one size"),
    ],
)
def test_what_does_not_fit_is_refused(wrong, words):
    with pytest.raises(AmbientSolveError, match=words) as error:
        wrong()
    assert one_sentence(error)


def test_a_state_that_is_none_is_refused(tmp_path):
    (tmp_path / "state").write_bytes(b"no tensors")
    with pytest.raises(AmbientSolveError, match="begins anew"):
        ClipState.load(tmp_path / "state")
