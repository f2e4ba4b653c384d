"""Restored pictures as files: what of their source they keep, and that they are known when they are put in again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from ambient_solve.app import painter
from ambient_solve.app.photographs import events, many, output, results, uploaded
from ambient_solve.errors import AmbientSolveError
from ambient_solve.restore.recipe import read_png
from test_app import HEIGHT, WIDTH
from test_app_events import merged, values

CAMERA, EXPOSURE, PLACE = 0x010F, 0x829A, 0x8825
ROUNDED = {"PNG": 0.0, "TIFF": 0.0, "JPEG": 24.0, "WebP": 40.0}
"""Largest error of a noisy picture in each format, in gray levels."""


@pytest.fixture
def profile() -> bytes:
    made = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = made.find(b"rXYZ"), made.find(b"gXYZ")
    made[red : red + 4], made[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(made)


@pytest.fixture
def photograph(tmp_path, profile) -> Path:
    """A photograph that lies on its side, with a camera, an exposure, a place, a profile and a resolution."""
    rng = np.random.default_rng(0)
    array = np.kron(rng.integers(40, 216, (WIDTH // 8, HEIGHT // 8, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
    exif = Image.Exif()
    exif[CAMERA], exif[output.ORIENTATION] = "Leica", 6
    exif.get_ifd(output.EXIF_IFD).update({EXPOSURE: 0.5, output.PIXELS[0]: HEIGHT, output.PIXELS[1]: WIDTH})
    exif.get_ifd(PLACE)[1] = "N"
    path = tmp_path / "old.jpg"
    Image.fromarray(array).save(path, quality=95, exif=exif.tobytes(), icc_profile=profile, dpi=(300, 300))
    return path


@pytest.mark.parametrize("kind", output.KINDS)
def test_a_file_keeps_what_its_source_says_of_the_photograph(kind, photograph, profile, tmp_path):
    x = np.asarray(Image.open(photograph).rotate(-90, expand=True), np.float32) / 255
    path = output.write(x, tmp_path / "a.b", kind, photograph, recipe="{}", profile=profile)
    assert path.name == "a.b" + output.KINDS[kind]
    with Image.open(path) as image:
        exif, inner = image.getexif(), image.getexif().get_ifd(output.EXIF_IFD)
        assert (image.format.lower(), image.size) == (kind.lower(), x.shape[1::-1])
        assert image.info["icc_profile"] == profile
        assert exif[CAMERA] == "Leica" and float(inner[EXPOSURE]) == 0.5 and exif.get_ifd(PLACE)[1] == "N"
        assert exif.get(output.ORIENTATION, 1) == 1, "its pixels stand upright"
        assert (inner[output.PIXELS[0]], inner[output.PIXELS[1]]) == image.size
        if kind != "WebP":  # which has no place for it
            assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        error = np.abs(np.asarray(image.convert("RGB"), float) - 255 * x)
    assert error.max() <= ROUNDED[kind] + 0.5
    assert output.source_of(path) == output.RestoredFrom("old.jpg", output.file_hash(photograph))
    assert output.source_of(photograph) is None, "control: the photograph itself was made of nothing"


@pytest.mark.parametrize("kind", output.KINDS)
def test_transparency_is_kept_but_where_something_was_filled_in(kind, tmp_path):
    array = np.full((HEIGHT, WIDTH, 4), 90, np.uint8)
    array[..., 3] = 255
    array[:4], array[10:14, 3:9, 3] = (0, 0, 0, 100), 0
    Image.fromarray(array, "RGBA").save(tmp_path / "a.png")
    filled = np.zeros((HEIGHT, WIDTH), bool)
    filled[10:14, 3:9] = True
    x = np.full((HEIGHT, WIDTH, 3), 0.5)
    made = Image.open(output.write(x, tmp_path / "b", kind, tmp_path / "a.png", filled=filled))
    if kind == "JPEG":
        assert made.mode == "RGB"
        return
    alpha = np.asarray(made.convert("RGBA"))[..., 3]
    assert (alpha[:4] == 100).all() and (alpha[4:] == 255).all()
    untouched = output.write(x, tmp_path / "c", kind, tmp_path / "a.png")
    assert (np.asarray(Image.open(untouched).convert("RGBA"))[10:14, 3:9, 3] == 0).all()
    double = output.write(np.full((2 * HEIGHT, 2 * WIDTH, 3), 0.5), tmp_path / "d", kind, tmp_path / "a.png")
    assert Image.open(double).size == (2 * WIDTH, 2 * HEIGHT)


@pytest.mark.parametrize("text", ["", "{", '{"name": 3}', '{"name": "a", "sha256": 5}', '{"name": "a", "sha256": "b"}'])
def test_a_record_that_is_none_is_not_believed(text, tmp_path):
    exif = Image.Exif()
    exif[output.SOFTWARE] = output.WRITTEN_BY + text
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", exif=exif.tobytes())
    assert output.source_of(tmp_path / "a.png") is None
    exif[output.SOFTWARE] = output.WRITTEN_BY + '{"name": "../../a b.png", "sha256": "' + 64 * "0" + '"}'
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", exif=exif.tobytes())
    assert "/" not in output.source_of(tmp_path / "a.png").name


def test_a_restored_picture_offers_its_original_and_is_not_restored_twice_by_accident(photograph, prior_folder):
    pytest.importorskip("gradio")
    given = values(photograph, prior_folder, samples=1)
    session = merged(events.upload(given))["session"]
    given = replace(given, session=session)
    first = merged(events.restore(given))
    restored = Path(first["download"]["value"])
    assert read_png(restored) is not None
    kept = restored.rename(photograph.parent / restored.name)
    back = merged(events.upload(replace(given, file=str(kept))))
    assert back["again"]["visible"] and "is a restoration of old.jpg" in back["again_words"]
    assert back["use_original"]["visible"] and back["use_original"]["value"] == "Use old.jpg"
    with pytest.raises(AmbientSolveError, match="itself a restoration of old.jpg: press 'Use old.jpg'"):
        list(events.restore(given))
    again = uploaded.use_original(given)
    assert session.path.read_bytes() == photograph.read_bytes() and session.path.name == "old.jpg"
    assert again["again"]["visible"] is False and "old.jpg" in again["card"]["value"]
    assert "Finished" in merged(events.restore(given))["status"]
    # Put in again, and restored once more because that is what the visitor wants.
    merged(events.upload(replace(given, file=str(kept))))
    assert uploaded.restore_again(given)["again"]["visible"] is False
    assert "Finished" in merged(events.restore(given))["status"]
    # Another visit, which has never seen the original.
    other = merged(events.upload(values(kept, prior_folder)))
    assert other["use_original"]["visible"] is False and "Put in old.jpg" in other["again_words"]
    with pytest.raises(AmbientSolveError, match="known here"):
        uploaded.use_original(replace(given, session=other["session"]))
    # And among many it is left out.
    table = merged(many.restore_many(values(None, prior_folder, many=[str(photograph), str(kept)], samples=1)))["table"]
    assert [row[3].startswith("left out: it is itself a restoration") for row in table] == [True, False]


def test_the_picture_that_is_shown_is_the_one_that_is_handed_out(photograph, prior_folder):
    pytest.importorskip("gradio")
    given = values(photograph, prior_folder, samples=2)
    session = merged(events.upload(given))["session"]
    given = replace(given, session=session)
    merged(events.restore(given))
    samples = session.result.samples

    def handed_out(updates: dict) -> np.ndarray:
        return np.asarray(Image.open(updates["download"]["value"]).convert("RGB"), float) / 255

    chosen = results.choose_sample(given, 2)
    assert chosen["invented"] == 100 and np.abs(handed_out(chosen) - np.clip(samples[1], 0, 1)).max() < 0.51 / 255
    half = results.choose_fidelity(replace(given, invented=50))
    assert np.abs(handed_out(half) - np.clip((samples[1] + samples.mean(0)) / 2, 0, 1)).max() < 0.51 / 255
    none = results.choose_fidelity(replace(given, invented=0))
    assert np.abs(handed_out(none) - np.clip(samples.mean(0), 0, 1)).max() < 0.51 / 255
    for kind, suffix in output.KINDS.items():
        assert results.choose_kind(replace(given, kind=kind))["download"]["value"].endswith(f"old-restored{suffix}")
    with pytest.raises(AmbientSolveError, match="no format 'GIF'"):
        results.choose_kind(replace(given, kind="GIF"))


def test_an_uploaded_mask_is_painted_beside_what_is_painted_already(photograph, prior_folder, tmp_path):
    pytest.importorskip("gradio")
    given = values(photograph, prior_folder, task="inpaint")
    session = merged(events.upload(given))["session"]
    mask, drawn = np.zeros((HEIGHT, WIDTH), np.uint8), np.zeros((HEIGHT, WIDTH), bool)
    mask[2:6, 3:12], drawn[15:18, 20:24] = 255, True
    Image.fromarray(mask).save(tmp_path / "mask.png")
    editor = painter.value(Image.new("RGB", (WIDTH, HEIGHT)), drawn)
    given = replace(given, session=session, mask=str(tmp_path / "mask.png"), editor=editor)
    shown = uploaded.draw_mask(given)
    assert (painter.painted(shown["editor"]) == ((mask > 0) | drawn)).all() and shown["mask"] is None
    assert "mask.png is painted on the picture, 6.2 % of it" in shown["status"]
    Image.fromarray(mask[:8]).save(tmp_path / "small.png")
    with pytest.raises(AmbientSolveError, match="small.png is 32x8, but old.jpg is 32x24"):
        uploaded.draw_mask(replace(given, mask=str(tmp_path / "small.png")))


def test_what_is_transparent_is_painted_as_missing(prior_folder, tmp_path):
    pytest.importorskip("gradio")
    array = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)
    array[..., 3] = 255
    array[4:9, 5:12, 3] = 0
    Image.fromarray(array, "RGBA").save(tmp_path / "cut.png")
    up = merged(events.upload(values(tmp_path / "cut.png", prior_folder, task="denoise")))
    assert (painter.painted(up["editor"]) == (array[..., 3] == 0)).all()
    assert up["task"] == "inpaint" and up["painting"]["visible"] and "transparent" in up["status"]
    array[..., 3] = 255
    Image.fromarray(array, "RGBA").save(tmp_path / "whole.png")
    up = merged(events.upload(values(tmp_path / "whole.png", prior_folder, task="denoise")))
    assert "task" not in up and painter.painted(up["editor"]) is None
