"""Pictures that are larger than they look, at every door; and names that would write lines of their own."""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ambient_solve.app.uploads import open_upload, unzip_pictures
from ambient_solve.cli.dispatch import main
from ambient_solve.errors import AmbientSolveError, UnreadableFile, on_a_page, shown
from ambient_solve.restore.files import restore_files
from ambient_solve.restore.pictures import read_kernel, read_mask, read_measurement
from ambient_solve.restore.tasks import make_task
from helpers import one_sentence


def flat(path: Path, width: int, height: int) -> Path:
    """A grey PNG of one value: a few bytes for each row, however wide."""
    rows, deflate = (b"\0" + b"\x80" * width), zlib.compressobj()
    data = b"".join(deflate.compress(rows) for _ in range(height)) + deflate.flush()
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", data), (b"IEND", b""))
    packed = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))
    return path


@pytest.fixture
def decoded(monkeypatch) -> list:
    """The sizes of the pictures of which a pixel was decoded."""
    seen, load = [], Image.Image.load
    from PIL import ImageFile

    whole = ImageFile.ImageFile.load

    def counted(self, *args):
        seen.append(self.size)
        return whole(self, *args)

    assert load is not whole
    monkeypatch.setattr(ImageFile.ImageFile, "load", counted)
    return seen


def test_a_picture_in_a_zip_is_no_larger_than_one_alone(tmp_path, prior_folder, decoded):
    """On the page: refused alone, and in a zip; before it is decoded."""
    pytest.importorskip("gradio")
    from ambient_solve.app.folders import MAX_PIXELS
    from ambient_solve.app.photographs import many
    from test_app_events import values

    wide, small = flat(tmp_path / "wide.png", 9000, 7000), flat(tmp_path / "small.png", 24, 24)
    with pytest.raises(AmbientSolveError, match="wide.png is 9000x7000; at most 12 million pixels"):
        open_upload(wide, max_pixels=MAX_PIXELS)
    with zipfile.ZipFile(tmp_path / "both.zip", "w") as archive:
        archive.write(wide, "wide.png")
        archive.write(small, "small.png")
    given, rows = values(None, prior_folder, samples=1, many=[str(tmp_path / "both.zip")]), []
    for update in many.restore_many(given):
        rows = update.get("table", rows)
    table = {row[0]: row[3] for row in rows}
    assert "9000x7000; at most 12 million pixels" in table["wide.png"] and "s" in table["small.png"]
    assert "/" not in table["wide.png"], "the folder of the server is not shown"
    assert (9000, 7000) not in decoded and (24, 24) in decoded


def test_masks_and_kernels_are_measured_before_they_are_decoded(tmp_path, decoded):
    wide, picture = flat(tmp_path / "wide.png", 7900, 8000), flat(tmp_path / "small.png", 24, 24)
    measured = read_measurement(picture)
    doors = {
        "mask": lambda: read_mask(wide, (24, 24)),
        "inpaint": lambda: make_task("inpaint", mask=str(wide)).operator(measured),
        "blur": lambda: make_task("gaussian-blur", kernel=str(wide)).operator(measured),
        "kernel": lambda: read_kernel(wide, 4_000_000),
        "picture": lambda: read_measurement(wide, 3, 12_000_000),
    }
    for name, door in doors.items():
        with pytest.raises(AmbientSolveError, match="7900x8000") as error:
            door()
        assert one_sentence(error) and (7900, 8000) not in decoded, name
    read_kernel(wide, 64_000_000)
    assert (7900, 8000) in decoded, "control: the count counts"


def test_a_mask_on_its_side_is_turned_upright_first(tmp_path):
    image = Image.fromarray(np.pad(np.full((8, 12), 255, np.uint8), ((0, 8), (0, 12))))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "mask.png", exif=exif)
    assert read_mask(tmp_path / "mask.png", (24, 16)).shape == (24, 16)
    with pytest.raises(AmbientSolveError, match="16x24"):
        read_mask(tmp_path / "mask.png", (16, 24))


def test_the_entries_of_a_zip_are_counted(tmp_path, monkeypatch):
    path = tmp_path / "many.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(10_001):
            archive.writestr(f"{i}.txt", "")
        archive.write(flat(tmp_path / "a.png", 8, 8), "a.png")
    with pytest.raises(AmbientSolveError, match="many.zip holds 10002 entries; at most 10000") as error:
        unzip_pictures(path, tmp_path / "out")
    assert one_sentence(error)
    from ambient_solve.reading import archives

    # The list itself is not read where it is longer than such a list can be.
    monkeypatch.setattr(archives, "MAX_DIRECTORY", 100_000)
    with pytest.raises(AmbientSolveError, match="more than 10000 entries") as error:
        unzip_pictures(path, tmp_path / "out")
    assert one_sentence(error) and not list((tmp_path / "out").rglob("*.png"))
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(tmp_path / "a.png", "a.png")
    assert len(unzip_pictures(path, tmp_path / "out")) == 1


HOSTILE = {
    "erases the screen": "a\x1b[2Jb.png",
    "writes a line": "a\nrestored.png: misfit 1.00, 0.1 s, out.png",
    "goes back": "a\rrestored.png: misfit 1.00.png",
    "turns round": "a\u202egnp.exe.png",
    "isolates": "a\u2066b\u2069.png",
    "is no text": os.fsdecode(b"a\xff.png"),
}


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_a_name_writes_no_line_of_its_own(name, tmp_path, prior_folder, capsys):
    inside = tmp_path / "in"
    inside.mkdir()
    Image.new("RGB", (24, 24), "grey").save(tmp_path / "good.png")
    os.rename(tmp_path / "good.png", inside / name)
    (inside / f"bad {name}").write_bytes(b"Dear Sir")
    args = ["restore", str(inside), "--task", "denoise", "--sigma", "0.1", "--samples", "1", "--steps", "2"]
    assert main([*args, "--prior", prior_folder, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    lines = [line for text in said for line in text.splitlines() if "Note:" not in line]
    assert all(c.isprintable() for line in lines for c in line), lines
    name_shown = shown(inside / name)
    assert [line for line in lines if line.startswith("restored.png")] == []
    assert any(line.startswith(f"{name_shown}: misfit") for line in lines) and any(
        f"bad {shown(name)}" in s for s in lines
    )


def test_what_is_shown():
    assert shown("Ünïcode \u202f \u3000 日本.png") == "Ünïcode \u202f \u3000 日本.png"
    assert shown("a\x1b[2J\n\u202e\x7f\x9b") == "a\\x1b[2J\\n\\u202e\\x7f\\x9b"
    assert shown("a\n\tb\x1b", lines=True) == "a\n\tb\\x1b"
    assert str(AmbientSolveError("There is no file a\nb.")) == "There is no file a\\nb."
    assert on_a_page(UnreadableFile("/srv/x/a\nb.png", "is empty")) == "a\\nb.png is empty"


def test_an_error_of_the_system_does_not_name_a_path(tmp_path, prior_folder, monkeypatch):
    from ambient_solve import load_prior
    from ambient_solve.restore import files

    def refuses(path, *args):
        raise PermissionError(13, "Permission denied", str(path))

    prior, damage = load_prior(prior_folder), make_task("denoise", sigma=0.1)
    monkeypatch.setattr(files, "read_measurement", refuses)
    Image.new("RGB", (24, 24)).save(tmp_path / "a.png")
    (outcome,) = restore_files([tmp_path / "a.png"], prior, damage, out=tmp_path / "out", n_samples=1)
    assert outcome.error == f"{tmp_path / 'a.png'} cannot be restored: Permission denied."
    assert on_a_page(outcome.problem) == "a.png cannot be restored: Permission denied."


def test_the_page_does_not_name_the_folder_of_a_file_that_fails():
    gradio = pytest.importorskip("gradio")
    from ambient_solve.app.wiring import sentences

    def fails():
        raise PermissionError(13, "Permission denied", "/srv/people/a.png")

    with pytest.raises(gradio.Error) as error:
        sentences(fails)()
    assert error.value.message == "a.png: Permission denied."
