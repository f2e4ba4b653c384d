"""The numbers of pictures of every depth through every door, and what of a folder is left out."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from ambient_solve.data.corruption import read_corrupted
from ambient_solve.data.images import read_images
from ambient_solve.errors import AmbientSolveError
from ambient_solve.restore.pictures import read_measurement
from helpers import one_sentence

GRAY = np.round(np.linspace(3, 250, 12 * 20)).reshape(12, 20)


def ramp(name: str, folder: Path) -> None:
    """A gray ramp as float, 12-bit, 16-bit, ... file."""
    made = {
        "float.tif": (GRAY / 255).astype(np.float32),
        "deep.png": (257 * GRAY).astype(np.uint16),
        "twelve.png": np.round(4095 / 255 * GRAY).astype(np.uint16),
        "twelve.tif": np.round(4095 / 255 * GRAY).astype(np.uint16),
        "eight of 32.tif": GRAY.astype(np.int32),
        "twelve of 32.tif": np.round(4095 / 255 * GRAY).astype(np.int32),
        "plain.pgm": GRAY.astype(np.uint8),
    }
    Image.fromarray(made[name]).save(folder / name)


RAMPS = ("float.tif", "deep.png", "twelve.png", "twelve.tif", "eight of 32.tif", "twelve of 32.tif", "plain.pgm")


@pytest.mark.parametrize("name", RAMPS)
def test_every_door_reads_the_same_values(tmp_path, name):
    ramp(name, tmp_path)
    ((_, read),) = read_images(tmp_path, channels=1)
    assert (read[0].numpy().astype(int) - GRAY).__abs__().max() <= 1
    measured = read_measurement(tmp_path / name, 1)
    assert np.abs(255 * measured.y[0, 0].numpy() - GRAY).max() < 0.3
    guessed = name.startswith(("twelve", "eight"))
    assert bool(measured.notes) == guessed and (not guessed or "bits" in measured.notes[0])


def test_what_a_data_set_was_taken_for_is_said(tmp_path):
    for name in ("twelve.png", "twelve.tif", "eight of 32.tif", "deep.png"):
        ramp(name, tmp_path)
    said: list[str] = []
    assert len(list(read_images(tmp_path, tell=said.append))) == 4
    assert len(said) == 1 and "1 for 8 bits, 2 for 12 bits, 1 for 16 bits" in said[0]
    said.clear()
    (tmp_path / "plain").mkdir()
    for name in ("deep.png", "plain.pgm", "float.tif"):
        ramp(name, tmp_path / "plain")
    assert len(list(read_images(tmp_path / "plain", tell=said.append))) == 3 and said == [], "control: nothing guessed"


@pytest.mark.parametrize("name", ["float.tif", "twelve.png", "eight of 32.tif"])
def test_a_stored_data_set_reads_them_too(tmp_path, name):
    ramp(name, tmp_path)
    (tmp_path / "manifest.jsonl").write_text(f'{{"file": "{name}", "sigma_noise": 0}}\n')
    (sample,) = read_corrupted(tmp_path, 1)
    assert np.abs(127.5 * (sample.z[0].float().numpy() + 1) - GRAY).max() <= 1


UNKNOWN = {
    "floats to 255": ((GRAY).astype(np.float32), "unknown scale .3 to 250.*divide"),
    "floats from -1": ((GRAY / 127.5 - 1).astype(np.float32), "from -1 to 1.*store .x . 1. / 2"),
    "nan": (np.where(GRAY > 200, np.nan, GRAY / 255).astype(np.float32), "unknown scale"),
    "24 bits": ((65000 * GRAY).astype(np.int32), "unknown scale.*store x / white"),
    "below 0": ((GRAY - 100).astype(np.int32), "unknown scale"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_scale_is_refused_with_what_scales_it(tmp_path, name):
    values, words = UNKNOWN[name]
    Image.fromarray(values).save(tmp_path / "a.tif")
    for door in (lambda: read_measurement(tmp_path / "a.tif"), lambda: list(read_images(tmp_path))):
        with pytest.raises(AmbientSolveError, match=words) as error:
            door()
        assert "a.tif" in str(error.value) and one_sentence(error)


def test_noise_below_black_is_no_other_scale(tmp_path):
    noisy = np.random.default_rng(0).normal(0.3, 0.15, (60, 60)).astype(np.float32)
    assert noisy.min() < -0.1
    Image.fromarray(noisy).save(tmp_path / "a.tif")
    assert torch.equal(read_measurement(tmp_path / "a.tif", 1).y[0, 0], torch.from_numpy(noisy))


def test_colors_of_12_bits_are_not_read_as_black(tmp_path):
    for name, scale in (("dark.png", 16), ("full.png", 257)):
        values = np.repeat((scale * GRAY)[..., None], 3, 2).astype(">u2")
        raw = b"".join(b"\0" + row.tobytes() for row in values)
        chunks = ((b"IHDR", struct.pack(">IIBBBBB", 20, 12, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(raw)))
        parts = (struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks)
        (tmp_path / name).write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts) + b"\0\0\0\0IEND\xaeB`\x82")
    with pytest.raises(AmbientSolveError, match="read as black. Multiply its numbers by 16"):
        read_measurement(tmp_path / "dark.png")
    assert np.abs(255 * read_measurement(tmp_path / "full.png").y[0, 0].numpy() - GRAY).max() < 1


def test_a_data_set_without_any_contrast_is_refused(tmp_path):
    for i in range(3):
        Image.new("L", (8, 8), 0).save(tmp_path / f"{i}.png")
    with pytest.raises(AmbientSolveError, match="All pixels of the 3 pictures of .* are equal") as error:
        list(read_images(tmp_path))
    assert one_sentence(error)
    Image.new("L", (8, 8), 1).save(tmp_path / "3.png")
    assert len(list(read_images(tmp_path))) == 4, "control: a difference is enough"


@pytest.fixture
def odd(tmp_path):
    """A folder with good pictures by many names, and what is none."""
    folder, outside = tmp_path / "in", tmp_path / "outside"
    for made in (folder / "deep", outside):
        made.mkdir(parents=True)
    image = Image.fromarray(GRAY.astype(np.uint8))
    for path in (folder / "a.png", folder / "b.jfif", folder / "c.pgm", folder / "deep" / "d.png", outside / "e.png"):
        image.save(path, "JPEG" if path.suffix == ".jfif" else None)
    (folder / "._a.png").write_bytes(b"\x00\x05\x16\x07" + bytes(60))
    (folder / "f.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (folder / "notes.txt").write_text("no picture")
    os.symlink(outside, folder / "linked")
    os.symlink(folder, folder / "deep" / "round")
    os.symlink(folder / "a.png", folder / "link.png")
    os.symlink(folder / "nowhere", folder / "broken.png")
    return folder


FOUND = ["a.png", "b.jfif", "c.pgm", "deep/d.png", "link.png", "linked/e.png"]


def test_a_folder_is_read_whole_and_what_is_left_out_is_said(odd):
    with pytest.warns(UserWarning) as warned:
        found = [name for name, _ in read_images(odd)]
    assert found == FOUND
    (words,) = [str(w.message) for w in warned if "Left out" in str(w.message)]
    for part in ("._a.png (macOS", "broken.png (a link to nothing)", "f.heic (HEIC is not read: export it as JPEG"):
        assert part in words
    assert "notes.txt" not in words


def test_one_bad_picture_of_a_folder_is_left_out_and_said(odd):
    (odd / "z.png").write_bytes((odd / "a.png").read_bytes()[:60])
    said: list[str] = []
    assert [name for name, _ in read_images(odd, tell=said.append)] == FOUND
    assert len(said) == 2 and "z.png is a damaged picture file" in said[1]


def test_a_color_profile_means_the_same_in_a_data_set(tmp_path):
    """Red and green of the profile change places: without it both pictures have the same colors."""
    plain = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    swapped = bytearray(plain)
    red, green = swapped.find(b"rXYZ"), swapped.find(b"gXYZ")
    swapped[red : red + 4], swapped[green : green + 4] = b"gXYZ", b"rXYZ"
    image = Image.new("RGB", (8, 6), (200, 40, 90))
    image.save(tmp_path / "a.png", icc_profile=bytes(plain))
    image.save(tmp_path / "b.png", icc_profile=bytes(swapped))
    (_, same), (_, other) = read_images(tmp_path)
    assert same[:, 0, 0].tolist() == [200, 40, 90]
    assert (other[:, 0, 0].int() - torch.tensor([40, 200, 90])).abs().max() <= 2
    kept = read_measurement(tmp_path / "b.png")
    assert kept.profile == bytes(swapped) and (255 * kept.y[0, :, 0, 0]).round().tolist() == [200, 40, 90]
    assert read_measurement(tmp_path / "a.png").profile == b""
