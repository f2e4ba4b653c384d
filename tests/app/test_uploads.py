"""Untrusted uploads: each picture comes out right side up, each trap is a sentence, and nothing is left behind."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ambient_solve import AmbientSolveError, NetworkConfig, NetworkPrior
from ambient_solve.app.uploads import open_upload, unzip_pictures, zip_folder
from ambient_solve.restore.files import restore_files
from ambient_solve.restore.tasks import Denoise
from helpers import one_sentence


def array(height: int = 24, width: int = 32) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 9, columns * 7, 60 + rows + columns], 2).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **settings: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **settings)
    return stream.getvalue()


def png() -> bytes:
    return encoded(Image.fromarray(array()), "PNG")


def png_of(width: int, height: int, depth: int = 8, rows: bytes = b"") -> bytes:
    """A PNG in colour with this header; without rows it only claims its size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_pictures_of_every_kind(tmp_path):
    x = torch.from_numpy(array()).permute(2, 0, 1)[None].float() / 255
    image, exif = Image.fromarray(array()), Image.Exif()
    exif[0x0112] = 6
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue", "white")]
    clear = Image.fromarray(np.dstack([array(), np.zeros((24, 32, 1), np.uint8)]), "RGBA")
    deep = np.linspace(0, 65535, 24 * 32).reshape(24, 32).astype(np.uint16)
    kinds = {
        "plain.png": (png(), x, 0, ""),
        "turned.png": (encoded(image.rotate(90, expand=True), "PNG", exif=exif), x, 0, ""),
        "print.jpg": (encoded(image.convert("CMYK"), "JPEG", quality=100), x, 0.03, "CMYK"),
        "clear.png": (encoded(clear, "PNG"), torch.ones_like(x), 0, "transparency"),
        "grey.webp": (encoded(image.convert("L"), "WEBP", lossless=True), None, 0, "grey"),
        "deep.png": (encoded(Image.fromarray(deep), "PNG"), torch.linspace(0, 1, 768).reshape(24, 32), 2e-5, "grey"),
        "moving.gif": (encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), None, 0, "is animated"),
        "pages.tif": (encoded(image, "TIFF", save_all=True, append_images=[clear.convert("RGB")]), x, 0, "several"),
    }
    for name, (content, expected, close, note) in kinds.items():
        (tmp_path / name).write_bytes(content)
        picture = open_upload(tmp_path / name)
        assert picture.y.dtype == torch.float32 and picture.y.shape[:2] == (1, 3), name
        assert bool(note) == bool(picture.notes) and note in " ".join(picture.notes), (name, picture.notes)
        if expected is not None:
            assert (picture.y - expected).abs().max() <= close, name
    first = open_upload(tmp_path / "moving.gif").y
    assert first[:, 0].min() == 1 and first[:, 1:].max() == 0  # red
    assert open_upload(tmp_path / "plain.png", channels=1).y.shape == (1, 1, 24, 32)
    deep = [b"".join(b"\0" + (n * np.arange(12)).astype(">u2").tobytes() for _ in range(4)) for n in (5000, 300)]
    (tmp_path / "deep colour.png").write_bytes(png_of(4, 4, 16, deep[0]))
    assert "of which 8 were used" in open_upload(tmp_path / "deep colour.png").notes[0]
    (tmp_path / "12 bits.png").write_bytes(png_of(4, 4, 16, deep[1]))
    with pytest.raises(AmbientSolveError, match="^12 bits.png has 16 bits a color .* Multiply its numbers by 16"):
        open_upload(tmp_path / "12 bits.png")


SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="10" height="10"></svg>'
BAD = {
    "letter.png": (b"This is a letter, not a picture.", "not a picture that can be read"),
    "nothing.png": (b"", "empty"),
    "drawing.svg": (SVG, "SVG.*export it as PNG"),
    "drawing.png": (SVG, "SVG.*export it as PNG"),
    "cut.jpg": (encoded(Image.fromarray(array(200, 300)), "JPEG")[:900], "damaged"),
    "cut.png": (png()[:60], "damaged"),
    "headless.png": (png()[:20], "damaged|not a picture"),
    "huge.png": (png_of(30_000, 30_000), "30 ?000x30 ?000|more than 40 million"),
    "large.png": (png_of(7_000, 7_000), "7000x7000; at most 40 million"),
    "vast.png": (png_of(2**31 - 1, 2**31 - 1), "more than 40 million"),
    "program.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n", "not a picture that can"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_picture_is_a_sentence_without_a_path(tmp_path, monkeypatch, name):
    content, words = BAD[name]
    (tmp_path / name).write_bytes(content)
    if "million" in words:
        monkeypatch.setattr("ambient_solve.app.uploads.read_measurement", lambda *_: pytest.fail("decoded"))
    with pytest.raises(AmbientSolveError, match=words) as error:
        open_upload(tmp_path / name)
    assert one_sentence(error) and name in str(error.value) and str(tmp_path) not in str(error.value)


def test_the_limit_of_pixels_is_that_asked_for(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    assert open_upload(tmp_path / "a.png", max_pixels=24 * 32).y.shape == (1, 3, 24, 32)
    with pytest.raises(AmbientSolveError, match="32x24"):
        open_upload(tmp_path / "a.png", max_pixels=24 * 32 - 1)
    with pytest.raises(AmbientSolveError, match="There is no file absent.png"):
        open_upload(tmp_path / "absent.png")


def packed(*members: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return stream.getvalue()


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info


def liar(says: int) -> bytes:
    """A zip whose picture declares `says` bytes, wherever a zip does, and unpacks to a million."""
    whole = bytearray(packed(("a.png", bytes(10**6))))
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = whole.index(signature) + offset
        whole[at : at + 4] = struct.pack("<I", says)
    return bytes(whole)


def locked() -> bytes:
    whole = bytearray(packed(("a.png", png())))
    whole[6] |= 1
    whole[whole.index(b"PK\x01\x02") + 8] |= 1
    return bytes(whole)


BAD_ZIPS = {
    "no zip": (b"This is a letter." * 10, "no zip file"),
    "half a zip": (packed(("a.png", png()))[:-30], "no zip file"),
    "a step up": (packed(("a.png", png()), ("../b.png", png())), "must not lead out"),
    "a hidden step up": (packed(("sub/../../b.png", png())), "must not lead out"),
    "an absolute name": (packed(("/tmp/b.png", png())), "must not lead out"),
    "a drive": (packed(("C:/b.png", png())), "must not lead out"),
    "a backslash": (packed(("..\\b.png", png())), "must not lead out"),
    "a link": (packed((link("a.png"), b"/etc/hostname")), "a link"),
    "a zip inside": (packed(("a.png", png()), ("more.zip", packed(("b.png", png())))), "archive inside"),
    "too many": (packed(*((f"{i}.png", png()) for i in range(9))), "9 pictures; at most 8"),
    "too large": (packed(("a.png", bytes(10**6)), ("b.png", bytes(10**6))), "unpacks to 2 MB; at most 1 MB"),
    "larger than declared": (liar(1000), "damaged|not as large"),
    "smaller than declared": (liar(1_100_000), "damaged|not as large"),
    "twice the same": (packed(("a.png", png()), ("A.png", png())), "two files called"),
    "a password": (locked(), "password"),
    "an unusual method": (packed(("a.png", png()), method=zipfile.ZIP_LZMA), "ordinary zip"),
    "a program": (packed(("a.png", png()), ("b.png", BAD["program.eps"][0])), "PostScript"),
    "nothing to restore": (packed(("readme.txt", b"hello"), (".hidden.png", png())), "holds no picture"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", BAD_ZIPS)
def test_a_bad_zip_is_a_sentence_and_leaves_nothing(tmp_path, name):
    content, words = BAD_ZIPS[name]
    (tmp_path / "job").mkdir()
    (tmp_path / "in.zip").write_bytes(content)
    before = sorted(p for p in tmp_path.rglob("*"))
    with pytest.raises(AmbientSolveError, match=words) as error:
        unzip_pictures(tmp_path / "in.zip", tmp_path / "job", max_bytes=1_200_000, max_files=8)
    assert one_sentence(error) and "in.zip" in str(error.value) and str(tmp_path) not in str(error.value)
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file() or p.parent == tmp_path) == before


def test_a_liar_is_stopped_at_what_it_declared(tmp_path):
    """A bomb that says it is small: no more than that is ever written."""
    (tmp_path / "in.zip").write_bytes(liar(1000))
    written = []
    plain = Path.open

    class Counted(io.FileIO):
        def write(self, block):
            written.append(len(block))
            return super().write(block)

    def spy(self, mode="r", *rest):
        return Counted(self, "w") if mode == "wb" else plain(self, mode, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", spy)
        with pytest.raises(AmbientSolveError):
            unzip_pictures(tmp_path / "in.zip", tmp_path / "job")
    assert sum(written) <= 1000


def test_a_link_in_the_folder_is_not_followed(tmp_path):
    (tmp_path / "job").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "job" / "sub").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in.zip").write_bytes(packed(("sub/a.png", png())))
    with pytest.raises(AmbientSolveError, match="leads out"):
        unzip_pictures(tmp_path / "in.zip", tmp_path / "job")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_pictures_are_unpacked_and_junk_is_left(tmp_path):
    junk = ("__MACOSX/._a.png", "._a.png", ".DS_Store", "sub/Thumbs.db", "notes.txt", "__MACOSX/sub/._b.zip")
    content = packed(("b/two.JPG", png()), ("a.png", png()), *((name, b"junk") for name in junk))
    (tmp_path / "in.zip").write_bytes(content)
    found = unzip_pictures(tmp_path / "in.zip", tmp_path / "job")
    assert [p.relative_to(tmp_path / "job").as_posix() for p in found] == ["a.png", "b/two.JPG"]
    assert all(p.read_bytes() == png() for p in found)
    assert [p for p in (tmp_path / "job").rglob("*") if p.is_file()].__len__() == 2
    assert unzip_pictures(tmp_path / "in.zip", tmp_path / "job") == found  # again, over itself


def test_the_same_folder_is_the_same_zip(tmp_path):
    (tmp_path / "out" / "a" / ".unfinished").mkdir(parents=True)
    for name in ("a/mean.png", "a/settings.json", "a/.unfinished/mean.png"):
        (tmp_path / "out" / name).write_bytes(png())
    (tmp_path / "out" / "link.png").symlink_to("/etc/hostname")
    first = zip_folder(tmp_path / "out", tmp_path / "out" / "results.zip").read_bytes()
    (tmp_path / "out" / "a" / "mean.png").touch()
    again = zip_folder(tmp_path / "out", tmp_path / "out" / "results.zip")
    assert again.read_bytes() == first and not list(tmp_path.rglob("*.part"))
    with zipfile.ZipFile(again) as archive:
        assert archive.namelist() == ["a/mean.png", "a/settings.json"]
        assert archive.read("a/mean.png") == png() and archive.testzip() is None
    (tmp_path / "bare").mkdir()
    with pytest.raises(AmbientSolveError, match="no file to pack"):
        zip_folder(tmp_path / "bare", tmp_path / "out.zip")


def test_zip_in_zip_out_and_an_interrupted_job_goes_on(tmp_path):
    """The same request in the same folder: what was finished is not done again, and the results are the same bytes."""
    torch.manual_seed(0)
    prior = NetworkPrior(NetworkConfig(widths=(8, 16), groups=4)).eval().requires_grad_(False)
    (tmp_path / "in.zip").write_bytes(packed(*((f"{name}.png", png()) for name in ("a", "b", "sub/c"))))
    settings = {"algorithm": "proximal", "options": {"steps": 2}, "n_samples": 2}

    def start(job: str):
        unzip_pictures(tmp_path / "in.zip", tmp_path / job / "in")
        return restore_files([tmp_path / job / "in"], prior, Denoise(sigma=0.1), out=tmp_path / job / "out", **settings)

    run = start("stopped")
    assert not next(run).skipped
    run.close()
    outcomes = list(start("stopped"))
    assert [o.skipped for o in outcomes] == [True, False, False] and not any(o.error for o in outcomes)
    assert len(list(start("whole"))) == 3
    names, contents = {}, {}
    for job in ("stopped", "whole"):
        path = zip_folder(tmp_path / job / "out", tmp_path / job / "results.zip")
        with zipfile.ZipFile(path) as archive:
            names[job] = archive.namelist()
            contents[job] = [archive.read(n) for n in names[job] if n.endswith(".safetensors")]
    assert names["stopped"] == names["whole"] and {n.split("/mean")[0] for n in names["whole"] if "mean" in n} == {
        *("a", "b", "sub/c")
    }
    assert contents["stopped"] == contents["whole"] and len(contents["whole"]) == 3
