"""Pictures that cannot be read: left out of every kind of data set where that was asked for, and named."""

from __future__ import annotations

import pytest
from PIL import Image

from ambient_solve.data.images import read_images
from ambient_solve.data.skipped import NAMED, about_skipped
from ambient_solve.errors import AmbientSolveError, UnreadableFile
from helpers import one_sentence
from test_images import gradient, pack_bytes, png, shard

LETTER = b"This is a letter."


def sources(tmp_path) -> dict[str, str]:
    """The same two pictures with a bad file between them, as a folder, a pack and a shard."""
    (tmp_path / "folder").mkdir()
    for name, content in (("a.png", png(0)), ("b.png", LETTER), ("c.png", png(2))):
        (tmp_path / "folder" / name).write_bytes(content)
    (tmp_path / "pack.npz").write_bytes(pack_bytes(png(0), LETTER, png(2)))
    (tmp_path / "set.tar").write_bytes(shard(("a.png", png(0)), ("b.png", LETTER), ("c.png", png(2))))
    return {
        "b.png": str(tmp_path / "folder"),
        "Picture 1 of": str(tmp_path / "pack.npz"),
        "b.png of": f"webdataset:{tmp_path / 'set.tar'}",
    }


def test_the_others_are_read_with_the_names_they_have(tmp_path):
    for named, source in sources(tmp_path).items():
        said: list[str] = []
        found = list(read_images(source, tell=said.append))
        assert [int(p[0, 0, 0]) for _, p in found] == [0, 2] and len(said) == 1
        assert named in said[0] and "Left out: " in said[0] and found[1][0].rpartition("/")[2] in ("c.png", "2")


def test_a_picture_too_small_to_be_divided_is_left_out_too(tmp_path):
    Image.fromarray(gradient()).save(tmp_path / "a.png")
    Image.fromarray(gradient()[:3, :3]).save(tmp_path / "b.png")
    said: list[str] = []
    assert [name for name, _ in read_images(tmp_path, shrink=4, tell=said.append)] == ["a.png"]
    assert "b.png is 3x3, too small" in said[0]


def test_what_is_wrong_with_the_whole_data_set_is_refused_all_the_same(tmp_path):
    (tmp_path / "pack.npz").write_bytes(b"PK")
    for source in (tmp_path / "pack.npz", tmp_path / "none", f"webdataset:{tmp_path / 'none.tar'}"):
        with pytest.raises(AmbientSolveError):
            list(read_images(source))


def test_the_first_are_named_and_all_are_counted():
    errors = [UnreadableFile(f"{k}.png", "is no picture.") for k in range(NAMED + 2)]
    said = about_skipped("photos", errors, 10)
    assert said.splitlines()[0] == f"{NAMED + 2} of {NAMED + 12} pictures of photos cannot be read and are left out:"
    assert said.count(".png") == NAMED and said.endswith("and 2 more.") and about_skipped("photos", [], 10) == ""
    assert "more" not in about_skipped("photos", errors[:NAMED], 1)
    for errors_, words in ((errors, "None of the 7 pictures of photos"), (errors[:1], "0.png is no picture.")):
        with pytest.raises(AmbientSolveError, match=words) as error:
            about_skipped("photos", errors_, 0)
        assert one_sentence(error)


def test_a_name_that_commands_a_terminal_is_spelled_out():
    said = about_skipped("photos", [UnreadableFile("\x1b[2J.png", "is no picture.")], 1)
    assert "\x1b" not in said and said.count("\n") == 1
