"""Pictures from every source come out the same; what cannot be read is one sentence that names the file."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps, features

from ambient_solve.data.images import open_image, open_mask, read_images, to_tensor
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


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow decodes no AVIF: pip install 'pillow>=11.3'")
def test_read_a_pack_and_a_folder_of_avif(tmp_path):
    file = io.BytesIO()
    smooth = np.kron(gradient(), np.ones((4, 4, 1), np.uint8))
    Image.fromarray(smooth).save(file, "AVIF", quality=95, subsampling="4:4:4")
    (tmp_path / "pack.npz").write_bytes(pack_bytes(file.getvalue()))
    (tmp_path / "a.avif").write_bytes(file.getvalue())
    found = [*read_images(tmp_path / "pack.npz"), *read_images(tmp_path)]
    assert [name for name, _ in found] == ["pack/0", "a.avif"]
    for _, picture in found:
        error = picture.float() - torch.from_numpy(smooth.transpose(2, 0, 1).copy()).float()
        assert picture.shape == (3, 48, 80) and float(error.square().mean().sqrt()) < 5


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


BAD_PICTURES = {
    "none": (b"This is a letter.", "Picture {i} of .*not a picture"),
    "cut short": (truncated(), "Picture {i} of .*damaged"),
    "too large": (bomb(9_000, 9_000), "Picture {i} of .*million pixels"),
    "empty": (b"", "Picture {i} of .*not a picture"),
}


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_one_bad_picture_of_a_pack_is_left_out_and_said(tmp_path, name):
    content, expected = BAD_PICTURES[name]
    (tmp_path / "pack.npz").write_bytes(pack_bytes(png(), content, png(1)))
    with pytest.warns(UserWarning, match="Left out: " + expected.format(i=1)):
        found = list(read_images(tmp_path / "pack.npz"))
    assert [name for name, _ in found] == ["pack/0", "pack/2"]
    (tmp_path / "pack.npz").write_bytes(pack_bytes(content))
    with pytest.raises(AmbientSolveError, match=expected.format(i=0)) as error:
        list(read_images(tmp_path / "pack.npz"))
    assert one_sentence(error), "control: nothing is left"


def shard(*members: tuple[str, bytes] | tarfile.TarInfo) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            archive.addfile(info, io.BytesIO(member[1]))
    return stream.getvalue()


def test_read_shards_in_their_order_without_unpacking_them(tmp_path, monkeypatch):
    (tmp_path / "set").mkdir()
    for k in (1, 0, 2):
        members = (("b.png", png(2 * k)), ("b.json", b"{}"), ("sub/a.PNG", png(2 * k + 1)))
        (tmp_path / "set" / f"part-{k:03d}.tar").write_bytes(shard(*members))
    monkeypatch.setattr(tarfile.TarFile, "extract", lambda *_: pytest.fail("unpacked"))
    monkeypatch.setattr(tarfile.TarFile, "extractall", lambda *_: pytest.fail("unpacked"))
    before = sorted(tmp_path.rglob("*"))
    names = [f"part-{k:03d}/{name}" for k in range(3) for name in ("b.png", "sub/a.PNG")]
    for source, expected in (
        (tmp_path / "set", names),
        (tmp_path / "set" / "part-{000..002}.tar", names),
        (tmp_path / "set" / "part-{001..002}.tar", names[2:]),
        (tmp_path / "set" / "part-0{0..0}{1..2}.tar", names[2:]),
        (tmp_path / "set" / "part-001.tar", names[2:4]),
    ):
        found = list(read_images(f"webdataset:{source}"))
        assert [name for name, _ in found] == expected
        brightness = [int(p[0, 0, 0]) for _, p in found]
        assert brightness == [names.index(name) for name in expected]
    assert sorted(tmp_path.rglob("*")) == before


def link(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/hostname"
    return info


def claims(size: int) -> bytes:
    """A shard whose picture claims more bytes than there are."""
    whole = bytearray(shard(("a.png", png())))
    info = tarfile.TarInfo("a.png")
    info.size = size
    whole[:512] = info.tobuf()
    return bytes(whole)


BAD_SHARDS = {
    "a picture that is none": (shard(("b.png", b"This is a letter.")), "b.png of .*not a picture"),
    "a picture cut short": (shard(("a.jpg", truncated())), "a.jpg of .*damaged"),
    "a picture too large": (shard(("a.png", bomb(9_000, 9_000))), "a.png of .*million pixels"),
    "a file too large": (claims(10**12), "claims 1000000000000 bytes"),
    "a file that ends early": (claims(10**6), "cannot be read"),
    "a shard that ends early": (shard(("a.png", png()), ("b.png", png()))[:1536], "not all of it"),
    "a shard cut anywhere": (shard(("a.png", png()))[:700], "not all of it"),
    "text": (b"This is a letter, not a shard." * 100, "no .tar shard"),
    "text of whole blocks": (b"a" * 512 + bytes(512), "no .tar shard"),
    "nothing": (b"", "no .tar shard"),
    "no pictures": (shard(("a.json", b"{}")), "hold no picture"),
    "links": (shard(link("a.png")), "hold no picture"),
}


@pytest.mark.parametrize("name", BAD_SHARDS)
def test_bad_shard_is_one_sentence_that_names_it(tmp_path, name):
    content, expected = BAD_SHARDS[name]
    (tmp_path / "shard.tar").write_bytes(content)
    with pytest.raises(AmbientSolveError, match=expected) as error:
        list(read_images(f"webdataset:{tmp_path / 'shard.tar'}"))
    assert "shard.tar" in str(error.value) and one_sentence(error)


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """Data sets as Hugging Face stores them on disk."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"), raising=False)
    kinds = datasets.Features({"label": datasets.Value("int32"), "photo": datasets.Image()})

    def save(name: str, *encoded: bytes | None, features: datasets.Features = kinds, splits: bool = False) -> str:
        rows = {key: list(range(len(encoded))) for key in features if key == "label"}
        rows |= {key: [e and {"bytes": e, "path": None} for e in encoded] for key in features if key != "label"}
        made = datasets.Dataset.from_dict(rows, features=features)
        (datasets.DatasetDict({"train": made, "test": made}) if splits else made).save_to_disk(tmp_path / name)
        return f"dataset:{tmp_path / name}"

    save.features, save.datasets = kinds, datasets
    return save


def test_read_a_saved_data_set_by_its_column_of_pictures(saved):
    found = list(read_images(saved("photos", png(), png(1))))
    assert [name for name, _ in found] == ["dataset/0", "dataset/1"]
    assert torch.equal(found[1][1], torch.from_numpy((gradient() + np.uint8(1)).transpose(2, 0, 1).copy()))
    splits = saved("splits", png(), splits=True)
    assert len(list(read_images(f"{splits}/test"))) == 1


def test_bad_hugging_face_data_is_one_sentence(saved, tmp_path):
    two = saved.datasets.Features({"a": saved.datasets.Image(), "b": saved.datasets.Image()})
    none = saved.datasets.Features({"label": saved.datasets.Value("int32")})
    folders = ("bad", "empty", "plain")
    for folder in folders:
        (tmp_path / folder).mkdir()
    (tmp_path / "bad" / "1.png").write_text("This is a letter.")
    (tmp_path / "plain" / "notes.txt").write_text("This is a letter.")
    for source, expected in (
        (f"imagefolder:{tmp_path / 'bad'}", "1.png is not a picture"),
        (f"imagefolder:{tmp_path / 'empty'}", "empty cannot be read"),
        (f"dataset:{tmp_path / 'plain'}", "plain cannot be read"),
        (f"dataset:{tmp_path / 'absent'}", "no folder"),
        (saved("letters", b"This is a letter."), "Picture 0 of .*not a picture"),
        (saved("bombs", bomb(9_000, 9_000)), "Picture 0 of .*million pixels"),
        (saved("holes", None), "Picture 0 of .*empty"),
        (saved("splits", png(), splits=True), "splits train, test: name one, as dataset:.*splits/train"),
        (saved("two", png(), features=two), "2 columns of pictures among a, b"),
        (saved("none", png(), features=none), "0 columns of pictures among label"),
    ):
        with pytest.raises(AmbientSolveError, match=expected) as error:
            list(read_images(source))
        assert one_sentence(error), source


def test_white_is_missing_in_a_mask(tmp_path):
    missing = np.zeros((12, 20), np.uint8)
    missing[2:5, 3:9] = 255
    Image.fromarray(missing).save(tmp_path / "mask.png")
    Image.fromarray(np.dstack([np.full((12, 20, 3), 255, np.uint8), missing])).save(tmp_path / "brush.png")
    for name in ("mask.png", "brush.png"):
        mask = open_mask(tmp_path / name)
        assert mask.dtype == torch.uint8 and torch.equal(mask[0], torch.from_numpy(missing == 0).to(torch.uint8))


def test_missing_and_empty_sources_are_one_sentence(tmp_path):
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    for source, expected in (
        (tmp_path / "absent", "nothing to read"),
        (tmp_path / "empty", "holds no picture"),
        (tmp_path / "absent.npz", "no pack"),
        (tmp_path / "other.npz", "no picture pack"),
        (f"imagefolder:{tmp_path / 'absent'}", "no folder"),
        (f"webdataset:{tmp_path / 'empty'}", "no .tar shard"),
        (f"webdataset:{tmp_path / 'part-{00..03}.tar'}", "no file .*part-00.tar"),
    ):
        with pytest.raises(AmbientSolveError, match=expected) as error:
            list(read_images(source))
        assert one_sentence(error)
    with pytest.raises(AmbientSolveError, match="no file"):
        open_image(tmp_path / "absent.png")
