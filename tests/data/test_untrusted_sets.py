"""Data sets of Hugging Face that name files outside of their folder: pictures, links, and the rows themselves."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from ambient_solve.cli.dispatch import main
from ambient_solve.data.images import read_images
from ambient_solve.errors import AmbientSolveError
from helpers import one_sentence

datasets = pytest.importorskip("datasets", reason="needs datasets")
OWN, FOREIGN = 255 / 64, 255 * 63 / 64
"""Mean values of the picture that belongs to the set, black but for one pixel of 64, and of its negative beside it."""


@pytest.fixture
def secret(tmp_path, monkeypatch) -> Path:
    """A picture that lies beside the folders of the data sets."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"), raising=False)
    ImageOps.invert(own_picture()).save(tmp_path / "secret.png")
    return tmp_path / "secret.png"


def own_picture() -> Image.Image:
    picture = Image.new("RGB", (8, 8), "black")
    picture.putpixel((0, 0), (255, 255, 255))
    return picture


def image_folder(folder: Path, link: Path | None = None) -> str:
    folder.mkdir()
    own_picture().save(folder / "own.png")
    if link is not None:
        os.symlink(link, folder / "link.png")
    return f"imagefolder:{folder}"


def saved(folder: Path, name: str) -> str:
    """A data set on disk, of which the one row holds no bytes, but the name of a file: here written past `datasets`."""
    import pyarrow

    kinds = datasets.Features({"photo": datasets.Image()})
    rows = {"photo": [{"bytes": b"\0", "path": None}]}
    datasets.Dataset.from_dict(rows, features=kinds).save_to_disk(folder)
    own_picture().save(folder / "own.png")
    (rows_file,) = folder.glob("data-*.arrow")
    with rows_file.open("rb") as file:
        table = pyarrow.ipc.open_stream(file.read()).read_all()
    field = table.schema.field(0)
    named = table.set_column(0, field, pyarrow.array([{"bytes": None, "path": name}], field.type))
    with pyarrow.ipc.new_stream(str(rows_file), named.schema) as stream:
        stream.write_table(named)
    return f"dataset:{folder}"


def refused(source: str) -> None:
    with pytest.raises(AmbientSolveError, match="leads out of the folder") as error:
        list(read_images(source))
    assert one_sentence(error)


def colours(source: str, **how: bool) -> set[float]:
    return {float(picture.float().mean()) for _, picture in read_images(source, **how)}


def test_an_image_folder_has_no_links_that_lead_outside(secret, tmp_path):
    source = image_folder(tmp_path / "linked", secret)
    refused(source)
    assert colours(source, follow_outside=True) == {OWN, FOREIGN}, "control: where it is trusted"
    os.unlink(tmp_path / "linked" / "link.png")
    os.symlink(tmp_path / "linked" / "own.png", tmp_path / "linked" / "link.png")
    assert colours(source) == {OWN}, "control: a link that stays in the folder"


@pytest.mark.parametrize("name", ["../secret.png", "ABSOLUTE", "link.png", "sub/../../secret.png"])
def test_a_saved_set_names_pictures_of_its_folder(name, secret, tmp_path):
    source = saved(tmp_path / "set", str(secret) if name == "ABSOLUTE" else name)
    os.symlink(secret, tmp_path / "set" / "link.png")
    (tmp_path / "set" / "sub").mkdir()
    refused(source)
    assert colours(source, follow_outside=True) == {FOREIGN}, "control: where it is trusted"
    for own in ("own.png", str(tmp_path / "own" / "own.png")):
        assert colours(saved(tmp_path / "own", own)) == {OWN}, "control: a picture of the folder"


@pytest.mark.parametrize("name", ["../other/ROWS", "ABSOLUTE", "link.arrow"])
def test_a_saved_set_keeps_its_rows_in_its_folder(name, secret, tmp_path):
    saved(tmp_path / "other", "own.png")
    source = saved(tmp_path / "set", "own.png")
    (rows,) = (tmp_path / "other").glob("data-*.arrow")
    os.symlink(rows, tmp_path / "set" / "link.arrow")
    state = tmp_path / "set" / "state.json"
    named = str(rows) if name == "ABSOLUTE" else name.replace("ROWS", rows.name)
    state.write_text(json.dumps({**json.loads(state.read_text()), "_data_files": [{"filename": named}]}))
    refused(source)
    assert colours(source, follow_outside=True) == {OWN}, "control: where it is trusted"


@pytest.mark.parametrize("content", ["[]", "{}", '{"_data_files": [3]}', "[" * 100_000])
def test_a_hostile_state_is_a_sentence(content, secret, tmp_path):
    source = saved(tmp_path / "set", "own.png")
    (tmp_path / "set" / "state.json").write_text(content)
    with pytest.raises(AmbientSolveError) as error:
        list(read_images(source))
    assert one_sentence(error)


def test_the_command_follows_only_where_it_is_asked_to(secret, tmp_path, capsys):
    sources = image_folder(tmp_path / "linked", secret), saved(tmp_path / "set", str(secret))
    for i, source in enumerate(sources):
        args = ["corrupt", source, str(tmp_path / f"out{i}"), "--sigma-noise", "0.1"]
        assert main(args) == 2 and "leads out of the folder" in capsys.readouterr().err
        assert not list(tmp_path.glob(f"out{i}/**/*.safetensors")), "nothing of it is written"
        assert main([*args, "--follow-outside"]) == 0


def test_training_follows_only_where_it_is_asked_to(secret, tmp_path):
    from ambient_solve.training.config import Config, Source
    from ambient_solve.training.sources import pictures_of

    image_folder(tmp_path / "linked", secret)
    saved(tmp_path / "set", str(secret))
    for path, found in (("imagefolder:linked", 2), ("dataset:set", 1)):
        config = Config(out=str(tmp_path / "run"), data_root=str(tmp_path))
        with pytest.raises(AmbientSolveError, match="leads out of the folder"):
            pictures_of(Source(path), config, [])
        pictures = pictures_of(Source(path, follow_outside=True), config, [])
        assert len(pictures) == found and any(float(x.float().mean()) == FOREIGN for _, x in pictures)
