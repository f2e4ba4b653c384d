"""Files in, pictures out: what is read, what is refused, what each damage measures, what is saved and skipped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ambient_solve import AmbientSolveError, GaussianPrior, NetworkConfig, NetworkPrior
from ambient_solve.knobs import knobs
from ambient_solve.restore import files
from ambient_solve.restore.files import plan, restore_file, restore_files
from ambient_solve.restore.jpeg_files import jpeg_settings
from ambient_solve.restore.pictures import Picture, read_kernel, read_mask, read_measurement
from ambient_solve.restore.tasks import (
    TASKS,
    Denoise,
    GaussianBlur,
    Inpaint,
    JpegBlocks,
    MotionBlur,
    SuperResolution,
    make_task,
)
from ambient_solve.verdict.judge import ranges_of

FAST = {"algorithm": "proximal", "options": {"steps": 2}, "n_samples": 2}


def tiny(channels: int = 3) -> NetworkPrior:
    torch.manual_seed(0)
    return NetworkPrior(NetworkConfig(channels=channels, widths=(8, 16), groups=4)).eval().requires_grad_(False)


def rgb(path: Path, height: int = 24, width: int = 32, seed: int = 0) -> Path:
    array = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(array).save(path)
    return path


def mask(path: Path, height: int = 24, width: int = 32) -> Path:
    array = np.zeros((height, width), np.uint8)
    array[4:9, 5:12] = 255
    Image.fromarray(array).save(path)
    return path


def as_picture(y: Tensor) -> Picture:
    return Picture(Path("y.png"), y, ())


def test_reads_every_depth_at_its_own_scale(tmp_path):
    values = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    Image.fromarray((values * 65535).round().astype(np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(values).save(tmp_path / "float.tif")
    Image.fromarray((values * 255).round().astype(np.uint8)).save(tmp_path / "grey.png")
    for name, error in (("deep.png", 1e-5), ("float.tif", 1e-7), ("grey.png", 2e-3)):
        picture = read_measurement(tmp_path / name, 3)
        assert picture.y.shape == (1, 3, 3, 4) and picture.y.dtype == torch.float32
        assert np.abs(picture.y[0, 1].numpy() - values).max() < error
        assert len(picture.notes) == 1 and "grey" in picture.notes[0]
        assert read_measurement(tmp_path / name, 1).notes == ()
    Image.fromarray(300 * values).save(tmp_path / "wild.tif")
    with pytest.raises(AmbientSolveError, match="unknown scale"):
        read_measurement(tmp_path / "wild.tif")


def test_transparency_is_laid_over_white_and_said(tmp_path):
    Image.new("RGBA", (5, 4), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    picture = read_measurement(tmp_path / "clear.png")
    assert bool((picture.y == 1).all()) and "transparency" in picture.notes[0]
    rgb(tmp_path / "colour.png")
    assert read_measurement(tmp_path / "colour.png").notes == ()
    assert "converted to grey" in read_measurement(tmp_path / "colour.png", 1).notes[0]


def test_mask_white_is_missing_and_transparent_is_not_painted(tmp_path):
    observed = read_mask(mask(tmp_path / "mask.png"), (24, 32))
    assert observed[4:9, 5:12].sum() == 0 and observed.sum() == 24 * 32 - 35
    strokes = Image.new("RGBA", (32, 24), (255, 255, 255, 0))
    strokes.paste((255, 255, 255, 255), (5, 4, 12, 9))
    strokes.save(tmp_path / "strokes.png")
    assert torch.equal(read_mask(tmp_path / "strokes.png", (24, 32)), observed)


@pytest.mark.parametrize(
    ("fill", "size", "words"),
    [(0, (32, 24), "nothing is missing"), (255, (32, 24), "every pixel is missing"), (0, (9, 9), "9x9, but")],
)
def test_masks_that_cannot_be_meant_are_refused(tmp_path, fill, size, words):
    Image.new("L", size, fill).save(tmp_path / "mask.png")
    with pytest.raises(AmbientSolveError, match=words):
        read_mask(tmp_path / "mask.png", (24, 32))


@pytest.mark.parametrize("boundary", ["valid", "circular"])
def test_a_kernel_file_blurs_as_it_looks(tmp_path, boundary):
    """A point becomes a copy of the kernel, not of its mirror image."""
    kernel = np.zeros((9, 11), np.uint8)
    kernel[2, 2], kernel[4, 5], kernel[6, 8] = 255, 100, 50
    kernel[2, 5] = 30
    Image.fromarray(kernel).save(tmp_path / "kernel.png")
    read = read_kernel(tmp_path / "kernel.png")
    assert read.shape == (5, 7) and read[0, 0] == 1
    op = GaussianBlur(kernel=tmp_path / "kernel.png", boundary=boundary).operator(as_picture(torch.zeros(1, 3, 20, 24)))
    x = torch.zeros(1, 3, *op.img_size[-2:])
    middle = (op.img_size[-2] // 2, op.img_size[-1] // 2)
    x[..., middle[0], middle[1]] = 1
    y = op.A(x)
    assert y.shape[-2:] == (20, 24)
    centre = (10, 12)
    patch = y[0, 0, centre[0] - 2 : centre[0] + 3, centre[1] - 3 : centre[1] + 4]
    assert torch.allclose(patch, read / read.sum(), atol=1e-6)


def test_motion_goes_along_its_angle():
    row = MotionBlur(length=9, angle=0).describe()
    assert torch.nonzero(row.sum(1) > 1e-4).numel() == 1 and (row.sum(0) > 1e-4).sum() >= 9
    assert torch.allclose(MotionBlur(length=9, angle=90).describe(), row.T, atol=1e-3)
    rising = MotionBlur(length=9, angle=45).describe()
    assert rising[0:4, 6:].sum() > 0.2 * rising.sum() and rising[0:4, :4].sum() < 1e-3 * rising.sum()


@pytest.mark.parametrize(
    ("task", "factor"), [(GaussianBlur(width=1.0, sigma=0.01), 1), (SuperResolution(factor=2, sigma=0.01), 2)]
)
def test_what_was_blurred_or_reduced_comes_back_in_its_own_frame(tmp_path, task, factor):
    """Nearer to the truth than the file, and nearer than when it is moved by a pixel."""
    picture = read_measurement(rgb(tmp_path / "a.png"))
    size = task.operator(picture).img_size[-2:]  # a blur needs to know what lies beyond the edge
    f2 = torch.fft.fftfreq(size[0])[:, None] ** 2 + torch.fft.fftfreq(size[1]) ** 2
    spectrum = 1 / (f2 + 0.001) ** 2
    prior = GaussianPrior.stationary(
        torch.zeros(3, *size), (0.2 * spectrum / spectrum.mean()).expand(3, *size), scale=0.5, offset=0.5
    )
    truth = prior.decode(prior.sample(1, torch.Generator().manual_seed(0)))
    low = task.operator(picture).A(truth)
    assert low.shape == (1, 3, 24, 32)
    save(low, tmp_path / "low.png")
    found = restore_file(tmp_path / "low.png", prior, task, algorithm="proximal", options={"steps": 20}, n_samples=4)
    mean = found.restoration.mean
    enlarged = low.repeat_interleave(factor, 2).repeat_interleave(factor, 3)

    beyond = [(a - b) // 2 for a, b in zip(size, mean.shape[-2:], strict=True)]
    truth = truth[..., beyond[0] : size[0] - beyond[0], beyond[1] : size[1] - beyond[1]]

    def error(x: torch.Tensor) -> float:
        return float((x - truth)[..., 4:-4, 4:-4].square().mean())

    assert mean.shape == truth.shape == (1, 3, 24 * factor, 32 * factor) and error(mean) < 0.6 * error(enlarged)
    assert min(error(mean.roll(by, axis)) for by in (-1, 1) for axis in (-2, -1)) > 1.5 * error(mean)


def save(x: torch.Tensor, path: Path) -> None:
    Image.fromarray((x[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()).save(path)


@pytest.mark.parametrize(("quality", "subsampling"), [(10, 2), (37, 0), (90, 2)])
def test_jpeg_quality_is_read_from_the_file(tmp_path, quality, subsampling):
    picture = Image.open(rgb(tmp_path / "a.png"))
    picture.save(tmp_path / "a.jpg", quality=quality, subsampling=subsampling)
    assert jpeg_settings(tmp_path / "a.jpg") == (quality, "4:2:0" if subsampling else "4:4:4")
    op = JpegBlocks().operator(read_measurement(tmp_path / "a.jpg"))
    assert op.quality == quality
    with pytest.raises(AmbientSolveError, match="not stored as JPEG"):
        JpegBlocks().operator(read_measurement(tmp_path / "a.png"))


def test_denoise_of_an_odd_size_saves_and_repeats(tmp_path):
    path = rgb(tmp_path / "odd.png", 67, 101)
    first = restore_file(path, tiny(), Denoise(sigma=0.1), out=tmp_path / "out", **FAST)
    assert first.restoration.mean.shape == (1, 3, 67, 101) and not first.skipped
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {"mean.png", "sample-0.png", "sample-1.png", "std.png", "samples.safetensors", "settings.json"}
    record = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert record["request"]["task"] == "denoise" and record["std_white"] > 0
    again = restore_file(path, tiny(), Denoise(sigma=0.1), **FAST)
    assert torch.equal(again.restoration.samples, first.restoration.samples)


def test_finished_work_is_skipped_and_changed_requests_are_not(tmp_path):
    path, out = rgb(tmp_path / "a.png"), tmp_path / "out"
    run = lambda damage, **more: restore_file(path, tiny(), damage, out=out, **{**FAST, **more})  # noqa: E731
    run(Denoise(sigma=0.1), n_samples=3)
    assert run(Denoise(sigma=0.1), n_samples=3).skipped
    changed = run(Denoise(sigma=0.1), n_samples=2)
    assert not changed.skipped and not (out / "sample-2.png").exists()
    assert not run(Denoise(sigma=0.2)).skipped
    assert not run(Denoise(sigma=0.2), options={"steps": 3}).skipped
    observed = torch.ones(24, 32)
    observed[3:6] = 0
    assert not run(Inpaint(mask=observed)).skipped and run(Inpaint(mask=observed)).skipped
    assert not run(Inpaint(mask=observed.flip(0))).skipped
    rgb(path, seed=1)
    assert not run(Inpaint(mask=observed.flip(0))).skipped
    (out / "settings.json").unlink()
    assert not run(Inpaint(mask=observed.flip(0))).skipped


def test_a_wrong_noise_level_is_warned_of(tmp_path):
    """The misfit of what the sampler returns tells a stated noise that the picture contradicts."""
    Image.fromarray(np.full((24, 32, 3), 128, np.uint8)).save(tmp_path / "flat.png")
    strict = restore_file(tmp_path / "flat.png", tiny(), Denoise(sigma=3.0), **FAST)
    assert strict.chi2 < 0.5 and strict.verdict.level == "wrong" and "noise is probably lower" in strict.warning
    out = tmp_path / "out"
    first, again = (restore_file(tmp_path / "flat.png", tiny(), Denoise(sigma=3.0), out=out, **FAST) for _ in "12")
    assert again.skipped and again.verdict == first.verdict and again.warning == strict.warning
    assert json.loads((out / "settings.json").read_text())["verdict"]["level"] == "wrong"
    rgb(tmp_path / "a.png")
    short = restore_file(
        tmp_path / "a.png", tiny(), JpegBlocks(quality=1, sigma=1e-4), algorithm="dps", options={"steps": 1}
    )
    assert short.chi2 > 2 and short.verdict.level == "wrong" and "does not fit" in short.warning


def test_rounding_enlarges_the_noise_of_a_sample_and_its_misfit_is_no_warning(tmp_path):
    rgb(tmp_path / "a.png", 64, 64)
    Image.open(tmp_path / "a.png").save(tmp_path / "a.jpg", quality=10)
    picture = read_measurement(tmp_path / "a.jpg")
    noise = 0.01 * torch.randn(picture.y.shape, generator=torch.Generator().manual_seed(0))
    left = {}
    for damage in (JpegBlocks(), Denoise(sigma=0.02)):
        op, x = damage.operator(picture), 0.25 + read_measurement(tmp_path / "a.png").y / 2
        left[damage.name] = float((op.A(x + noise) - op.A(x)).square().mean() / noise.square().mean())
    assert left["denoise"] == pytest.approx(1) and left["jpeg"] > 2
    # The misfit that such a sample has is no sign of a wrong statement; of noise it is.
    misfits = {name: ranges_of(name, "daps" if name == "jpeg" else "proximal")["misfit"] for name in left}
    assert misfits["jpeg"][2] > left["jpeg"] and misfits["denoise"][2] < 2


def test_inputs_that_are_no_pictures_are_known_by_their_headers(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    bad = [tmp_path / name for name in ("gone.png", "text.png", "empty.png")]
    assert [str(o.path) for o in files.unreadable(bad)] == list(map(str, bad))
    said = zip(("no file", "not a picture", "0 bytes"), files.unreadable(bad), strict=True)
    assert all(words in outcome.error for words, outcome in said)
    assert files.unreadable([*bad, rgb(tmp_path / "a.png")]) == [], "one that is good is restored"
    assert files.unreadable([tmp_path]) == []


def test_a_folder_of_masks_gives_each_picture_its_own(tmp_path):
    (tmp_path / "masks").mkdir()
    mask(tmp_path / "masks" / "a.png")
    outcomes = list(
        restore_files(
            [rgb(tmp_path / "a.jpg"), rgb(tmp_path / "b.jpg")],
            tiny(),
            Inpaint(mask=tmp_path / "masks"),
            out=tmp_path / "o",
            **FAST,
        )
    )
    assert outcomes[0].restoration is not None and "has no mask for b.jpg" in outcomes[1].error


def test_plan_keeps_names_apart_and_leaves_results_alone(tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "restored" / "x").mkdir(parents=True)
    for name in ("a.png", "b.png", "deep/a.png", "restored/x/mean.png"):
        rgb(tmp_path / "in" / name)
    out = tmp_path / "in" / "restored"
    assert [str(folder.relative_to(out)) for _, folder in plan([tmp_path / "in"], out)] == ["a", "b", "deep/a"]
    rgb(tmp_path / "in" / "a.jpg")
    assert [folder.name for _, folder in plan([tmp_path / "in"], out)] == ["a.jpg", "a.png", "b.png", "a.png"]
    with pytest.raises(AmbientSolveError, match="Two of the pictures"):
        plan([tmp_path / "in/a.png", tmp_path / "in/deep/a.png"], out)


def test_memory_is_checked_before_it_is_gone(tmp_path, monkeypatch):
    """Where not all samples fit they are drawn in groups; where not one fits it is said."""
    path, prior, settings = rgb(tmp_path / "a.png", 64, 64), tiny(), {"options": {"steps": 2}, "n_samples": 5}
    whole = restore_file(path, prior, Denoise(sigma=0.1), **settings).restoration
    calls = []
    draw = NetworkPrior.denoise
    monkeypatch.setattr(NetworkPrior, "denoise", lambda self, z, *rest: calls.append(len(z)) or draw(self, z, *rest))
    monkeypatch.setattr("ambient_solve.restore.memory._free_memory", lambda prior: 8_000_000)
    parts = restore_file(path, prior, Denoise(sigma=0.1), **settings).restoration
    assert max(calls) < 5
    torch.testing.assert_close(whole.samples, parts.samples, atol=2e-3, rtol=1e-2)
    monkeypatch.setattr("ambient_solve.restore.memory._free_memory", lambda prior: 100_000)
    with pytest.raises(AmbientSolveError, match="GB of memory.*smaller"):
        restore_file(path, prior, Denoise(sigma=0.1), **settings)


def test_a_grey_picture_is_one_measurement_not_three(tmp_path):
    """Its noise is the same in the three channels of the colour prior; taken for three it would count too little."""
    from skimage.data import camera

    from ambient_solve import Solver, load_prior, operators

    truth = torch.from_numpy(camera()[100:196, 200:296].copy()).float() / 255
    noisy = (truth + 0.1 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    Image.fromarray((noisy * 255).round().to(torch.uint8).numpy()).save(tmp_path / "grey.png")
    prior = load_prior("photos")
    outcome = restore_file(tmp_path / "grey.png", prior, Denoise(sigma=0.1), options={"steps": 15}, n_samples=1)
    taken_for_three = Solver(prior, steps=15)(noisy.expand(1, 3, -1, -1), operators.denoise((3, 96, 96)))
    errors = [float((x[0] - truth).square().mean()) for x in (outcome.restoration.mean, taken_for_three)]
    assert errors[0] < 0.75 * errors[1] and 0.5 < outcome.chi2 < 1.5
    # It comes back without a tint, which the colour prior alone leaves in it.
    red, green, blue = outcome.restoration.mean[0]
    assert torch.equal(red, green) and torch.equal(red, blue)
    assert float(taken_for_three.std(1).mean()) > 1e-3


def test_a_grey_picture_repeated_in_three_channels_weighs_as_one_and_comes_back_grey():
    y, truth, x = torch.rand(1, 1, 4, 5), torch.rand(1, 1, 4, 5), torch.rand(2, 3, 3, 4, 5)
    colour, grey = (Picture(Path("old.png"), y.expand(1, 3, 4, 5), (), copies) for copies in (1, 3))
    chi2 = ((grey.y - truth) / grey.sigma_of_each(0.1)).square().mean()
    torch.testing.assert_close(grey.whole_chi2(chi2), ((y - truth) / 0.1).square().mean())
    assert torch.equal(grey.untinted(x), x.mean(2, keepdim=True).expand(2, 3, 3, 4, 5))
    assert colour.untinted(x) is x and colour.sigma_of_each(0.1) == 0.1 and colour.whole_chi2(chi2) == chi2


def test_damages_refuse_what_does_not_belong():
    for words, task, options in (
        ("Did you mean 'inpaint'", "inpant", {}),
        ("belongs to super-resolution", "denoise", {"factor": 2}),
        ("above 0", "denoise", {"sigma": 0.0}),
        ("outside", "gaussian-blur", {"width": -1.0}),
        ("not a choice", "gaussian-blur", {"boundary": "round"}),
    ):
        with pytest.raises(AmbientSolveError, match=words):
            make_task(task, **options)
    for task, cls in TASKS.items():
        assert cls.name == task and all(k.help for k in knobs(cls))
    size = as_picture(torch.zeros(1, 3, 8, 8))
    with pytest.raises(AmbientSolveError, match="needs a mask"):
        Inpaint().operator(size)
    with pytest.raises(AmbientSolveError, match="needs the noise level"):
        Denoise().operator(size)
    with pytest.raises(AmbientSolveError, match="larger than"):
        GaussianBlur(width=3).operator(size)


def test_grey_prior_takes_grey_pictures(tmp_path):
    Image.fromarray(np.arange(16 * 16, dtype=np.uint8).reshape(16, 16)).save(tmp_path / "g.png")
    outcome = restore_file(tmp_path / "g.png", tiny(1), Denoise(sigma=0.1), out=tmp_path / "o", **FAST)
    assert outcome.restoration.samples.shape == (1, 2, 1, 16, 16) and outcome.notes == ()
    assert Image.open(tmp_path / "o" / "mean.png").mode == "L"
