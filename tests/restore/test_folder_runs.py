"""A folder of pictures: what one of them raises spares the others, what is left out is said, colors stay."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from ambient_solve import GaussianPrior
from ambient_solve.cli.dispatch import main
from ambient_solve.restore.files import plan, restore_files
from ambient_solve.restore.tasks import Denoise
from helpers import rand

FAST = {"algorithm": "proximal", "options": {"steps": 2}, "n_samples": 1}


def picture(path: Path, height: int = 16, width: int = 16, **settings: object) -> Path:
    x = 0.2 + 0.6 * rand(height, width, 3, seed=height)
    Image.fromarray((255 * x).byte().numpy()).save(path, **settings)
    return path


class Choosy(GaussianPrior):
    """A prior that raises for pictures of an odd height whatever a network may raise."""

    error: Exception = RuntimeError("Sizes of tensors must match except in dimension 1.\nExpected size 4 but got 5")

    def denoise(self, z, sigma, cond=None):
        if z.shape[-2] % 2:
            raise self.error
        return z / (1 + sigma**2)

    def state_shape(self, image_shape):
        return image_shape


def choosy() -> Choosy:
    prior = Choosy.stationary(torch.zeros(3, 16, 16), torch.ones(3, 16, 16), scale=0.5, offset=0.5)
    prior.__class__ = Choosy
    return prior


@pytest.mark.parametrize("error", [RuntimeError("one\ntwo"), ZeroDivisionError("x"), MemoryError(), KeyError("k")])
def test_whatever_one_file_raises_the_others_are_restored(tmp_path, error, monkeypatch):
    monkeypatch.setattr(Choosy, "error", error)
    inputs = [picture(tmp_path / name, height) for name, height in (("a.png", 16), ("b.png", 17), ("c.png", 18))]
    outcomes = list(restore_files(inputs, choosy(), Denoise(sigma=0.1), out=tmp_path / "out", **FAST))
    assert [bool(o.error) for o in outcomes] == [False, True, False]
    assert outcomes[1].error.startswith(f"{inputs[1]} cannot be restored: ") and "\n" not in outcomes[1].error
    assert outcomes[1].problem.__cause__ is error
    assert sorted(p.parent.name for p in (tmp_path / "out").rglob("mean.png")) == ["a", "c"]


def test_an_interruption_is_no_error_of_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(Choosy, "error", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        list(restore_files([picture(tmp_path / "a.png", 17)], choosy(), Denoise(sigma=0.1), out=tmp_path / "o", **FAST))


def test_a_unet_takes_sizes_that_its_strides_do_not_divide(tmp_path):
    diffusers = pytest.importorskip("diffusers", reason="needs diffusers: pip install 'ambient-solve[train]'")
    from ambient_solve.priors.pipeline import PipelinePrior

    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=16,
        block_out_channels=(8, 8, 8),
        down_block_types=("DownBlock2D",) * 3,
        up_block_types=("UpBlock2D",) * 3,
        norm_num_groups=4,
        layers_per_block=1,
    )
    prior = PipelinePrior(unet, {"_class_name": "DDPMScheduler"}).eval().requires_grad_(False)
    sizes = {"a.png": (16, 16), "b.png": (17, 16), "c.png": (1, 3), "d.png": (18, 23)}
    inputs = [picture(tmp_path / name, *size) for name, size in sizes.items()]
    for algorithm in ("proximal", "dps"):
        settings = {**FAST, "algorithm": algorithm}
        done = list(restore_files(inputs, prior, Denoise(sigma=0.1), out=tmp_path / algorithm, **settings))
        assert [o.error for o in done] == [""] * 4
        assert [tuple(o.restoration.mean.shape[-2:]) for o in done] == list(sizes.values())
    z = torch.randn(1, 3, 17, 23)
    wide = torch.nn.functional.pad(z, (0, 1, 0, 3), mode="reflect")
    torch.testing.assert_close(prior.denoise(z, 0.5), prior.denoise(wide, 0.5)[..., :17, :23])
    assert torch.equal(prior.denoise(wide, 0.5), prior.denoise(wide, 0.5)), "control: a size that fits is not touched"


@pytest.fixture
def odd(tmp_path):
    folder, outside = tmp_path / "in", tmp_path / "outside"
    for made in (folder, outside):
        made.mkdir()
    picture(folder / "a.png")
    picture(folder / "b.jfif", format="JPEG")
    Image.new("L", (16, 16), 90).save(folder / "c.pgm")
    picture(outside / "d.png")
    (folder / "._a.png").write_bytes(b"\x00\x05\x16\x07" + bytes(60))
    (folder / "e.heic").write_bytes(b"\0\0\0\x18ftypheic")
    os.symlink(outside, folder / "linked")
    os.symlink(folder, folder / "round")
    os.symlink(folder / "nowhere", folder / "broken.png")
    return folder


def test_a_run_reads_what_it_can_and_says_what_it_leaves_out(odd, tmp_path, prior_folder, capsys):
    args = ["restore", str(odd), "--task", "denoise", "--sigma", "0.1", "--samples", "1", "--steps", "2"]
    assert main([*args, "--prior", prior_folder, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    found = sorted(str(p.parent.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("mean.png"))
    assert found == ["a", "b", "c", "linked/d"]
    (words,) = [line for line in said.err.splitlines() if line.startswith("Left out")]
    for part in ("._a.png (macOS", "broken.png (a link to nothing)", "e.heic (HEIC is not read: export it"):
        assert part in words


def test_the_results_are_not_read_through_a_link(odd, tmp_path):
    out = odd / "restored"
    (out / "x").mkdir(parents=True)
    picture(out / "x" / "mean.png")
    os.symlink(out, odd / "again")
    with pytest.warns(UserWarning, match="Left out"):
        found = plan([odd], out)
    assert [path.name for path, _ in found] == ["a.png", "b.jfif", "c.pgm", "d.png"]


def swapped_profile() -> bytes:
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = profile.find(b"rXYZ"), profile.find(b"gXYZ")
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(profile)


def test_a_restored_picture_keeps_its_colors(tmp_path):
    """The numbers stay, and so does the profile that says what they mean; without one there is none."""
    profile = swapped_profile()
    inputs = [picture(tmp_path / "a.png", icc_profile=profile), picture(tmp_path / "b.png")]
    done = list(restore_files(inputs, choosy(), Denoise(sigma=1e-3), out=tmp_path / "out", **FAST))
    assert [o.error for o in done] == ["", ""]
    for name in ("mean.png", "sample-0.png"):
        restored = Image.open(tmp_path / "out" / "a" / name)
        assert restored.info["icc_profile"] == profile
        before = np.asarray(Image.open(inputs[0])).astype(int)
        assert np.abs(np.asarray(restored).astype(int) - before).mean() < 2
        assert "icc_profile" not in Image.open(tmp_path / "out" / "b" / name).info


def gray_profile() -> bytes:
    """A profile of gray values with the curve of gamma 1, which is far from sRGB."""
    import struct

    def tag(kind: bytes, body: bytes) -> bytes:
        return kind + bytes(4) + body

    white = tag(b"XYZ ", struct.pack(">iii", 63190, 65536, 54061))
    tags = {b"wtpt": white, b"kTRC": tag(b"curv", struct.pack(">I", 0) + bytes(4)), b"desc": tag(b"desc", bytes(92))}
    place, table, body = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += name + struct.pack(">II", place + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = bytearray(128)
    head[0:4] = struct.pack(">I", 128 + len(table) + len(body))
    head[8:12], head[12:16], head[16:20], head[20:24] = b"\x02\x10\0\0", b"mntr", b"GRAY", b"XYZ "
    head[36:40], head[68:80] = b"acsp", struct.pack(">iii", 63190, 65536, 54061)
    return bytes(head) + table + body


def test_a_gray_picture_keeps_its_curve_and_is_stored_gray(tmp_path):
    profile = gray_profile()
    Image.fromarray((255 * rand(16, 16)).byte().numpy()).save(tmp_path / "a.png", icc_profile=profile)
    done = list(restore_files([tmp_path / "a.png"], choosy(), Denoise(sigma=1e-3), out=tmp_path / "out", **FAST))
    assert done[0].error == ""
    restored = Image.open(tmp_path / "out" / "a" / "mean.png")
    assert restored.mode == "L" and restored.info["icc_profile"] == profile
