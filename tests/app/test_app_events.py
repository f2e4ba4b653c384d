"""What happens on the page of the app: its events, called directly."""

from __future__ import annotations

import re
import shutil
import zipfile
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ambient_solve.app import painter, panels, presets, runs, wiring
from ambient_solve.app.photographs import choices, controls, estimates, events, history, many, results, run
from ambient_solve.app.photographs.job import prepare_request
from ambient_solve.app.photographs.request import RestoreRequest
from ambient_solve.app.photographs.run import Result
from ambient_solve.app.photographs.values import Controls
from ambient_solve.app.rules import Rules
from ambient_solve.app.uploads import open_upload
from ambient_solve.errors import AmbientSolveError
from ambient_solve.restore.recipe import Recipe
from ambient_solve.verdict.judge import concluded
from test_app import HEIGHT, STEPS, WIDTH, tiny


@pytest.fixture
def picture(tmp_path) -> Path:
    array = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "old.png")
    return tmp_path / "old.png"


def values(picture: Path | None, prior_folder: str, **changes) -> Controls:
    standing = {name: k.default for name, k in controls.damage_knobs().items()}
    given = {"file": None if picture is None else str(picture), "task": "denoise", "prior": prior_folder}
    given |= {"device": "cpu", "rules": Rules((prior_folder,)), "algorithm": "proximal", "knobs": STEPS, "seed": 3}
    return Controls.read({**standing, "sigma": 0.1, **given, **changes})


def merged(updates) -> dict:
    return {name: value for update in updates for name, value in update.items()}


def test_the_events_of_a_visit(picture, prior_folder):
    pytest.importorskip("gradio")
    given = values(picture, prior_folder)
    up = merged(events.upload(given))
    session = up["session"]
    assert up["editor"]["picture"].startswith("data:image/jpeg") and up["file"] is None and "32x24" in up["status"]
    given = replace(given, session=session)
    with pytest.raises(AmbientSolveError, match="no result yet"):
        results.click_map(given, (3, 3))
    seen = merged(events.restore(given))
    assert len(session.result.samples) == 2 and [word for _, word in seen["gallery"]] == [
        "mean",
        "sample 1",
        "sample 2",
    ]
    assert seen["details"]["seed"] == 3 and seen["seed"] == 3 and "Finished" in seen["status"]
    drawn = panels.std_map(session.result.samples)
    found = results.click_map(given, (5.5 * drawn.scale, 2.5 * drawn.scale))
    assert (found["row"], found["column"]) == (2, 5) and "Column 5, row 2" in found["pixel"]
    assert results.click_map(given, (5, 24 * drawn.scale + 2)) == {}
    with pytest.raises(AmbientSolveError, match="outside the picture"):
        results.read_pixel(given, HEIGHT, 0)
    shown = np.asarray(results.choose_sample(given, 2)["slider"][1])
    assert (shown == np.asarray(panels.to_image(session.result.samples[1]))).all()
    # The file that was handed out brings the settings back, those of another visit too.
    again = merged(events.upload(values(Path(seen["download"]["value"]), prior_folder)))
    assert (again["task"], again["samples"], again["seed"], again["algorithm"]) == ("denoise", 2, 3, "proximal")
    assert again["knobs"] == STEPS and again["sigma"]["value"] == 0.1
    assert again["preset"] is None
    session.close()
    assert not session.folder.exists()


def test_every_control_is_read_and_nothing_else_is_taken():
    pytest.importorskip("gradio")
    from ambient_solve.app.photographs import layout
    from ambient_solve.app.scans import layout as scan_layout
    from ambient_solve.app.scans.values import ScanControls

    assert Controls.read(dict.fromkeys(layout.READ)).damage == dict.fromkeys(controls.damage_knobs())
    some = {"preset", "many", "row", "column", "visitor", "each_noise"}
    unread = {each.name for each in fields(Controls)} - set(layout.READ)
    assert unread == {"damage", *some}, "read by some events alone, or made of the knobs of a damage"
    assert {each.name for each in fields(ScanControls)} - set(scan_layout.READ) == {"preset", "visitor"}
    assert ScanControls.read(dict.fromkeys(scan_layout.READ)).method is None
    for cls in (Controls, ScanControls):
        with pytest.raises(TypeError, match="slider"):
            cls.read({"slider": None})
        with pytest.raises(FrozenInstanceError):
            cls().seed = 1


def test_a_recipe_lights_the_preset_that_it_is():
    pytest.importorskip("gradio")
    for name, preset in presets.PRESETS.items():
        algorithm, knobs = preset.chosen("jpeg")
        recipe = Recipe("photos", "jpeg", {"sigma": 0.02}, algorithm, knobs, preset.samples)
        assert choices.apply(recipe)["preset"] == name
        assert choices.apply(replace(recipe, task="denoise"))["preset"] == (name if algorithm == "auto" else None)
        assert choices.apply(replace(recipe, samples=preset.samples + 1))["preset"] is None


@pytest.mark.parametrize(("finished", "words"), [(1, "1 finished sample kept"), (0, "before the first sample")])
def test_a_stopped_run_ends_and_keeps_what_is_finished(finished, words, picture, prior_folder, monkeypatch):
    pytest.importorskip("gradio")
    monkeypatch.setattr(run, "INTERVAL", 0.0)
    given = values(picture, prior_folder, samples=4)
    given = replace(given, session=merged(events.upload(given))["session"])
    updates, seen = events.restore(given), {}
    while len(seen) == 0 or (finished and given.session.result is None):
        seen |= next(updates)
    asked = runs.stop(given)
    assert "Stopping" in asked["status"] and asked["stop"]["interactive"] is False
    share = re.search(r"valuenow=.(\d+)", asked["status"])[1]
    assert share == re.search(r"valuenow=.(\d+)", seen["status"])[1], "the bar stays where it was"
    rest = list(updates)
    assert len(rest) == 2 and words in rest[0]["status"], "the next report is the last"
    assert rest[1]["stop"]["interactive"] is False and rest[1]["run"]["interactive"] is True
    kept = given.session.result
    assert (0 if kept is None else len(kept.samples)) == finished
    assert "Finished: 4 samples" in merged(events.restore(given))["status"], "the next run is not stopped"


VIEWED = ("share", "gallery", "std", "near", "residual", "steps_strip", "details", "python", "shell")


def is_at_rest(seen: dict) -> bool:
    """Nothing of a result is shown or handed out, and nothing can be stopped."""
    off = [seen[name]["interactive"] is False for name in ("download", "archive")]
    return all(off) and all(seen[name] is None for name in VIEWED) and seen["fit"] == ""


def test_an_error_leaves_the_page_at_rest(picture, prior_folder, monkeypatch):
    pytest.importorskip("gradio")
    picture = picture.rename(picture.with_suffix(".jpg"))
    Image.open(picture).convert("RGB").save(picture, "JPEG", quality=30)
    given = values(picture, prior_folder, samples=1)
    given = replace(given, session=merged(events.upload(given))["session"])
    done = merged(events.restore(given))
    assert not is_at_rest(done) and done["download"]["interactive"]
    seen = {}
    with pytest.raises(AmbientSolveError, match="linear"):
        for updates in events.restore(replace(given, task="jpeg")):
            seen |= updates
    assert is_at_rest(seen) and seen["stop"]["interactive"] is False and given.session.result is None
    assert "Not done. proximal needs" in seen["status"] and 'valuenow="0"' in seen["status"]
    # What is wrong before the run begins takes nothing away; what nobody foresaw is not said in words of torch.
    done, seen = merged(events.restore(given)), {}
    monkeypatch.setattr(choices, "prior_of", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        for updates in events.restore(given):
            seen |= updates
    assert (
        set(seen) == {"session", "status", "run", "run_many", "stop"}
        and "terminal" in seen["status"]
        and given.session.result is not None
    )


def test_a_new_picture_takes_the_old_result_away(picture, prior_folder, monkeypatch):
    pytest.importorskip("gradio")
    monkeypatch.setattr(run, "INTERVAL", 0.0)
    given = values(picture, prior_folder, samples=2)
    up = merged(events.upload(given))
    assert is_at_rest(up) and "93 %" not in up["words"], "that of the example"
    given = replace(given, session=up["session"])
    running = events.restore(given)
    assert next(running)["run"]["interactive"] is False, "it is not started twice"
    assert is_at_rest(next(running)), "nor is the last result shown while the next one is made"
    while given.session.result is None:
        next(running)
    Image.new("RGB", (20, 30), "red").save(picture.parent / "red.png")
    other = merged(events.upload(values(picture.parent / "red.png", prior_folder, session=given.session)))
    assert is_at_rest(other) and [image.size for image in other["slider"]] == [(20, 30)] * 2
    left = list(running)
    assert [set(updates) for updates in left] == [{"run", "run_many", "stop"}], (
        "the run of the other picture ends and shows nothing"
    )
    assert given.session.result is None


def test_a_refused_file_is_not_left_in_the_box(picture, prior_folder):
    pytest.importorskip("gradio")
    given = values(picture, prior_folder)
    session = merged(events.upload(given))["session"]
    (picture.parent / "fake.jpg").write_text("no picture")
    seen = {}
    with pytest.raises(AmbientSolveError, match="fake.jpg"):
        for updates in events.upload(values(picture.parent / "fake.jpg", prior_folder, session=session)):
            seen |= updates
    assert seen["file"] is None and "still old.png" in seen["status"] and session.path.name == "old.png"
    assert set(seen) == {"file", "status"}, "the picture that was there, and its result, stay"


def test_what_was_put_in_for_another_task_is_not_used(picture, prior_folder):
    given = values(picture, prior_folder, kernel=str(picture), mask=str(picture))
    assert choices.request_of(replace(given, task="super-resolution")).kernel is None
    assert choices.request_of(replace(given, task="gaussian-blur")).kernel == picture
    assert choices.request_of(replace(given, task="gaussian-blur")).mask is None
    assert choices.request_of(replace(given, task="inpaint")).mask == picture


def test_a_picture_that_is_shown_again_is_not_written_again(tmp_path):
    gr = pytest.importorskip("gradio")
    from gradio import processing_utils

    with gr.Blocks():
        parts = {"slider": gr.ImageSlider(), "gallery": gr.Gallery()}
    for part in parts.values():
        part.GRADIO_CACHE = str(tmp_path)
    image = Image.new("RGB", (8, 6), "red")
    updates = {"slider": (image, image), "gallery": gr.update(value=[(image, "mean")])}
    first = wiring.named(updates, parts)
    path = Path(first[parts["slider"]][1])
    assert Image.open(path).size == (8, 6) and path.parent.parent == tmp_path and len(list(path.parent.iterdir())) == 1
    assert Path(first[parts["gallery"]]["value"][0][0]).is_file() and first[parts["gallery"]]["value"][0][1] == "mean"
    path.write_bytes(b"is being read")
    assert wiring.named(updates, parts)[parts["slider"]] == (str(path), str(path))
    assert path.read_bytes() == b"is being read"
    # Control: gradio's own way writes it again.
    theirs = Path(processing_utils.save_pil_to_cache(image, str(tmp_path)))
    theirs.write_bytes(b"is being read")
    processing_utils.save_pil_to_cache(image, str(tmp_path))
    assert theirs.read_bytes() != b"is being read"


def test_a_fit_that_is_too_good_is_said_where_something_can_be_done_about_it(picture, prior_folder):
    def level(task: str, sigma: float, estimated: float | None = None, **changes) -> str:
        missing = np.zeros((HEIGHT, WIDTH), bool)
        missing[4:9, 5:12] = True
        problem = prepare_request(
            RestoreRequest(task, {"sigma": sigma}, painted=missing, **changes), tiny(), open_upload(picture)
        )
        made = {"operator": type(problem.op).__name__, "algorithm": "mmps"}
        blank = np.zeros((1, HEIGHT, WIDTH, 3))
        result = Result(problem, blank, (misfit,), blank[0], (), made, 0.0, 0, 0)
        return results.shown_verdict(result, estimated).level

    misfit = 0.01
    assert level("denoise", 0.1) == level("denoise", 0.1, 0.2) == level("inpaint", 0.01, keep=False) == "wrong"
    assert level("inpaint", 0.01) == level("denoise", 0.1, 0.1) == level("denoise", 0.001) == "right"
    misfit = 9.0
    assert all(level("inpaint", 0.01, 0.01, keep=keep) == "wrong" for keep in (True, False)), "a bad fit always is"
    misfit = float("nan")
    assert level("inpaint", 0.01) == "wrong"


@pytest.mark.parametrize(
    ("family", "numbers", "words"),
    [
        ("blur", {"better width": 1.52, "narrower": 1.0}, "Set Width of the blur to 1.5, and restore again."),
        (
            *("blur", {"better length": 14.2, "better angle": 28.6, "narrower": 1.0}),
            "Choose \u201cBlurred by a movement\u201d and set Length of the movement to 14, Direction to 29, "
            "and restore again.",
        ),
        ("blur", {"narrower": 1.0}, "Choose \u201cNoise\u201d, and restore again."),
        ("inpaint", {"misfit": 9.0, "kernel": 0.0}, ""),
    ],
)
def test_a_verdict_says_which_controls_to_set(family, numbers, words):
    ranges = {"misfit": (0.5, 1.0, 2.0), "kernel": (-8.0, 1.0, 10.0)}
    assert results.to_set(concluded({"misfit": 1.0, "kernel": 60.0} | numbers, ranges, family)) == words


def test_many_pictures_go_in_as_a_zip_and_come_out_as_one(picture, prior_folder):
    pytest.importorskip("gradio")
    folder = picture.parent / "many"
    folder.mkdir()
    for n in range(3):
        shutil.copyfile(picture, folder / f"scan {n}.png")
    (folder / "scan 1.png").write_bytes(b"no picture")
    with zipfile.ZipFile(picture.parent / "many.zip", "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, path.name)
    given = values(None, prior_folder, many=[str(picture.parent / "many.zip")], samples=1)
    done = merged(many.restore_many(given))
    assert [row[1] == "" for row in done["table"]] == [False, True, False]
    names = zipfile.ZipFile(done["many_out"]["value"]).namelist()
    assert sum(name.endswith("mean.png") for name in names) == 2
    again = merged(many.restore_many(replace(given, session=done["session"])))
    assert [row[3] for row in again["table"]].count("finished before") == 2
    with pytest.raises(AmbientSolveError, match="0 pictures were put in"):
        list(many.restore_many(replace(given, many=None)))
    done["session"].close()


def test_an_earlier_run_comes_back_and_the_oldest_is_forgotten(picture, prior_folder, monkeypatch):
    pytest.importorskip("gradio")
    monkeypatch.setattr(history, "MOST", 3)
    painted = np.zeros((HEIGHT, WIDTH), bool)
    painted[4:9, 5:12] = True
    editor = painter.value(Image.new("RGB", (WIDTH, HEIGHT)), painted)
    given = values(picture, prior_folder, task="inpaint", editor=editor, samples=1, scattered=0.0, sigma=0.02)
    session = merged(events.upload(given))["session"]
    given = replace(given, session=session)
    first = merged(events.restore(replace(given, seed=11, knobs={"steps": 2})))
    pixels = session.result.samples.copy()
    # Another picture, and another damage.
    Image.fromarray(np.full((30, 20, 3), 99, np.uint8)).save(picture.parent / "other.png")
    list(events.upload(values(picture.parent / "other.png", prior_folder, session=session)))
    other = merged(events.restore(values(None, prior_folder, session=session, samples=1)))
    assert [words.partition(":")[0] for _, words in other["history"]] == ["2", "1"]
    found = events.recall(values(None, prior_folder, session=session), 1)
    assert session.path.name == "old.png" and session.result is None
    assert (found["task"], found["seed"], found["knobs"], found["sigma"]["value"]) == (
        "inpaint",
        11,
        {"steps": 2},
        0.02,
    )
    assert (painter.painted(found["editor"]) == painted).all() and found["slider"][0].size == (WIDTH, HEIGHT)
    known = {name: found[name] for name in ("task", "seed", "knobs", "samples", "editor")}
    again = values(None, prior_folder, session=session, **known, sigma=found["sigma"]["value"])
    merged(events.restore(again))
    assert (session.result.samples == pixels).all(), "the run is repeated to the bit"
    # Control: without the settings that came back, it is another result.
    merged(events.restore(replace(again, seed=12)))
    assert (session.result.samples != pixels).any()
    assert len(session.history) == 3 and len(list((session.folder / "history").iterdir())) == 3
    assert max(max(entry.thumbnail.size) for entry in session.history) <= history.SIDE and len(first["history"]) == 1
    with pytest.raises(AmbientSolveError, match="no longer remembered"):
        events.recall(values(None, prior_folder, session=session), 3)
    session.close()
    assert not session.folder.exists()


def test_a_seed_is_drawn_and_shown_unless_it_is_kept(picture, prior_folder):
    pytest.importorskip("gradio")
    given = values(picture, prior_folder, same_seed=False, samples=1)
    given = replace(given, session=merged(events.upload(given))["session"])
    seeds = {merged(events.restore(given))["seed"] for _ in range(3)}
    assert len(seeds) == 3
    (seed,) = {merged(events.restore(replace(given, same_seed=True, seed=s)))["seed"] for s in (9, 9)}
    assert seed == 9


def test_estimates_move_the_controls(tmp_path, prior_folder, monkeypatch):
    pytest.importorskip("gradio")
    from skimage import data

    clean = data.astronaut()[:128, 96:224]
    noisy = np.clip(clean + np.random.default_rng(0).normal(0, 0.1 * 255, clean.shape), 0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(tmp_path / "noisy.png")
    Image.fromarray(clean).save(tmp_path / "a.jpg", quality=35)
    given = values(tmp_path / "noisy.png", prior_folder)
    given = replace(given, session=merged(events.upload(given))["session"])
    found = estimates.estimate(given)["sigma"]["value"]
    assert found == pytest.approx(0.1, abs=0.02) and given.session.estimated == found
    monkeypatch.setattr("ambient_solve.restore.noise.noise_level", lambda y: [2e-4])
    hidden = estimates.estimate(given)
    assert hidden["sigma"]["value"] == 0.002 and "below 0.002 cannot be known" in hidden["status"]
    given = values(tmp_path / "a.jpg", prior_folder, task="jpeg")
    given = replace(given, session=merged(events.upload(given))["session"])
    assert estimates.estimate(given, "quality")["quality"] == 35


def test_choices_show_the_controls_that_belong_to_them():
    pytest.importorskip("gradio")
    shown = choices.choose_task("motion-blur")
    assert shown["length"]["visible"] and shown["angle"]["visible"] and not shown["quality"]["visible"]
    assert not shown["mask"]["visible"] and choices.choose_task("inpaint")["mask"]["visible"]
    assert presets.choose_preset("Faithful")["algorithm"] == "auto" and presets.choose_preset(None) == {}


def test_a_lit_preset_follows_the_task():
    pytest.importorskip("gradio")
    assert presets.choose_preset("Fast")["algorithm"] == "proximal"
    jpeg = choices.choose_task("jpeg", "Fast")
    assert (jpeg["algorithm"], jpeg["knobs"]) == presets.PRESETS["Fast"].chosen("jpeg") and jpeg["algorithm"] == "daps"
    assert jpeg["loaded"] == jpeg["knobs"] and "samples" not in jpeg, "the number of samples is the user's"
    assert "algorithm" not in choices.choose_task("jpeg"), "what was chosen by hand stays"
