"""Pictures from every source come out the same; what cannot be read is one sentence that names the file."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from ambient_solve.data.images import open_image, read_images, to_tensor
from ambient_solve.errors import AmbientSolveError
from helpers import one_sentence


def gradient(height: int = 12, width: int = 20) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 10, columns * 10, rows + columns], 2).astype(np.uint8)


def test_read_folder_is_recursive_sorted_and_ignores_other_files(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("b/one.png", "a.PNG", "c.bmp"):
        Image.fromarray(gradient()).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    found = dict(read_images(tmp_path))
    assert list(found) == ["a.PNG", "b/one.png", "c.bmp"]
    for picture in found.values():
        assert torch.equal(picture, torch.from_numpy(gradient().transpose(2, 0, 1).copy()))
    ((_, half), *_) = read_images(tmp_path, shrink=2)
    assert half.shape == (3, 6, 10)


def test_read_pack(tmp_path):
    (tmp_path / "pack.npz").write_bytes(pack_bytes(*(png(k) for k in range(3))))
    found = list(read_images(tmp_path / "pack.npz"))
    assert [name for name, _ in found] == ["pack/0", "pack/1", "pack/2"]
    assert torch.equal(found[2][1], torch.from_numpy((gradient() + np.uint8(2)).transpose(2, 0, 1).copy()))
    assert next(read_images(tmp_path / "pack.npz", channels=1))[1].shape == (1, 12, 20)


def test_read_hugging_face_image_folder(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    folder = tmp_path / "photos"
    folder.mkdir()
    for k in range(2):
        Image.fromarray(gradient() + np.uint8(k)).save(folder / f"{k}.png")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"), raising=False)
    found = list(read_images(f"imagefolder:{folder}"))
    assert [p.shape for _, p in found] == [(3, 12, 20)] * 2
    assert torch.equal(found[0][1], torch.from_numpy(gradient().transpose(2, 0, 1).copy()))


def test_grey_alpha_palette_and_16_bit():
    grey = Image.fromarray(gradient()[..., 0])
    assert torch.equal(to_tensor(grey, 3), to_tensor(grey, 1).expand(3, -1, -1))
    assert to_tensor(Image.fromarray(gradient()), 1).shape == (1, 12, 20)
    rgba = Image.fromarray(np.concatenate([gradient(), np.zeros((12, 20, 1), np.uint8)], 2), "RGBA")
    assert (to_tensor(rgba) == 255).all(), "what is transparent shows white"
    rgba.putalpha(255)
    assert torch.equal(to_tensor(rgba), to_tensor(Image.fromarray(gradient())))
    assert (to_tensor(Image.fromarray(gradient()[..., :2], "LA"), 1).float().mean() > 0).all()
    deep = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    assert torch.equal(to_tensor(Image.fromarray(deep), 1)[0], torch.arange(256).reshape(16, 16).to(torch.uint8))
    palette = Image.fromarray(gradient()).convert("P")
    assert torch.equal(to_tensor(palette), to_tensor(palette.convert("RGB")))


def test_16_bit_png_from_disk_keeps_its_range(tmp_path):
    deep = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    ((_, read),) = read_images(tmp_path, channels=1)
    assert torch.equal(read[0], torch.arange(256).reshape(16, 16).to(torch.uint8))


def test_exif_orientation_is_applied(tmp_path):
    image = Image.fromarray(gradient())
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    image.save(tmp_path / "turned.png", exif=exif)
    opened = open_image(tmp_path / "turned.png")
    assert opened.size == (12, 20)
    assert np.array_equal(np.asarray(opened), np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "turned.png"))))
    assert np.array_equal(np.asarray(opened), np.rot90(gradient(), -1))


def bomb(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def truncated() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(stream, "JPEG")
    return stream.getvalue()[:1500]


BAD = {
    "nothing.png": (b"", "empty"),
    "text.png": (b"This is a letter, not a picture.", "not a picture"),
    "cut.jpg": (truncated(), "damaged"),
    "huge.png": (bomb(40_000, 40_000), "million pixels"),
    "large.png": (bomb(9_000, 9_000), "million pixels"),
    "hollow.png": (bomb(10, 10), "damaged"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_picture_is_one_sentence_that_names_the_file(tmp_path, name):
    content, expected = BAD[name]
    (tmp_path / name).write_bytes(content)
    for read in (open_image, lambda path: list(read_images(path.parent))):
        with pytest.raises(AmbientSolveError, match=expected) as error:
            read(tmp_path / name)
        assert name in str(error.value) and one_sentence(error)


def pack_bytes(*encoded: bytes, **replaced: np.ndarray) -> bytes:
    offsets = np.cumsum([0, *map(len, encoded)])
    stream = io.BytesIO()
    np.savez(stream, **{"data": np.frombuffer(b"".join(encoded), np.uint8), "offsets": offsets} | replaced)
    return stream.getvalue()


def png(brighter: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(gradient() + np.uint8(brighter)).save(stream, "PNG")
    return stream.getvalue()


def array_bytes() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.zeros(3))
    return stream.getvalue()


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :]


BAD_PACKS = {
    "a picture that is none": (pack_bytes(png(), b"This is a letter."), "Picture 1 of .*not a picture"),
    "a picture cut short": (pack_bytes(png(), truncated()), "Picture 1 of .*damaged"),
    "a picture too large": (pack_bytes(png(), bomb(9_000, 9_000)), "Picture 1 of .*million pixels"),
    "an empty picture": (pack_bytes(png(), b""), "Picture 1 of .*not a picture"),
    "text": (b"This is a letter, not a pack.", "no .npz file"),
    "nothing": (b"", "no .npz file"),
    "one array": (array_bytes(), "no .npz file"),
    "half a pack": (pack_bytes(png(), png())[:300], "no .npz file"),
    "a flipped bit": (flipped(pack_bytes(png()), 200), "damaged pack"),
    "pickled objects": (pack_bytes(png(), data=np.array([None])), "damaged pack"),
    "offsets beyond the end": (pack_bytes(png(), offsets=np.array([0, 10**6])), "rising positions"),
    "offsets that fall": (pack_bytes(png(), png(), offsets=np.array([0, 50, 20])), "rising positions"),
    "no offsets": (pack_bytes(png(), offsets=np.zeros(0, int)), "rising positions"),
    "pixels": (pack_bytes(png(), data=np.zeros((2, 8, 8))), "rising positions"),
}


@pytest.mark.parametrize("name", BAD_PACKS)
def test_bad_pack_is_one_sentence_that_names_it(tmp_path, name):
    content, expected = BAD_PACKS[name]
    (tmp_path / "pack.npz").write_bytes(content)
    with pytest.raises(AmbientSolveError, match=expected) as error:
        list(read_images(tmp_path / "pack.npz"))
    assert "pack.npz" in str(error.value) and one_sentence(error)


def test_pictures_before_a_bad_one_are_read(tmp_path):
    (tmp_path / "pack.npz").write_bytes(pack_bytes(png(), b"This is a letter."))
    pictures = read_images(tmp_path / "pack.npz")
    assert torch.equal(next(pictures)[1], torch.from_numpy(gradient().transpose(2, 0, 1).copy()))
    with pytest.raises(AmbientSolveError):
        next(pictures)


def test_missing_and_empty_sources_are_one_sentence(tmp_path):
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    for source, expected in (
        (tmp_path / "absent", "nothing to read"),
        (tmp_path / "empty", "holds no picture"),
        (tmp_path / "absent.npz", "no pack"),
        (tmp_path / "other.npz", "no picture pack"),
        (f"imagefolder:{tmp_path / 'absent'}", "no folder"),
    ):
        with pytest.raises(AmbientSolveError, match=expected) as error:
            list(read_images(source))
        assert one_sentence(error)
    with pytest.raises(AmbientSolveError, match="no file"):
        open_image(tmp_path / "absent.png")
