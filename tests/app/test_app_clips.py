"""The tab for clips without a browser: uploads, requests, runs that are stopped and go on, and what is said of them."""

from __future__ import annotations

import shlex
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ambient_solve.app import painter, work
from ambient_solve.app.clips import choices, events, uploaded
from ambient_solve.app.clips.values import KNOBS, ClipControls
from ambient_solve.app.clips.words import timecode
from ambient_solve.app.rules import Rules
from ambient_solve.cli.dispatch import main
from ambient_solve.errors import AmbientSolveError
from ambient_solve.video.files import read_video, video_facts
from test_app_events import merged
from test_video_files import HEIGHT, RATE, WIDTH, scene, write

pytest.importorskip("gradio")
pytest.importorskip("av", reason="PyAV is not installed")
DAMAGE = {"sigma": 0.05, "width": 1.0, "length": 3.0, "angle": 0.0, "factor": 2}


@pytest.fixture
def clip(tmp_path) -> Path:
    return write(tmp_path / "clip.mp4", scene(4), sound=True)


@pytest.fixture
def given(prior_folder) -> ClipControls:
    rules = Rules(any_prior=True)
    how = {"algorithm": "proximal", "knobs": {"steps": 2}, "noise": "nearest"}
    return ClipControls(prior=prior_folder, device="cpu", rules=rules, damage=DAMAGE, found=False, last=3, **how)


def with_clip(given: ClipControls, path: Path, **changes) -> ClipControls:
    session = merged(uploaded.put_in(replace(given, file=str(path))))["session"]
    return replace(given, session=session, **changes)


def box(top: int = 8, left: int = 8, side: int = 8) -> dict[str, str]:
    """What the painter holds of a painted box."""
    missing = np.zeros((HEIGHT, WIDTH), bool)
    missing[top : top + side, left : left + side] = True
    return painter.value(Image.new("RGB", (WIDTH, HEIGHT)), missing)


def pixels(path: Path) -> torch.Tensor:
    return torch.stack([frame.pixels for frame in read_video(path)]).float()


def test_every_control_of_the_tab_is_read():
    from ambient_solve.app.clips import layout

    read = ClipControls.read(dict.fromkeys(layout.READ))
    assert read.damage == dict.fromkeys(KNOBS) and read.wrong is None
    unread = {each.name for each in fields(ClipControls)} - set(layout.READ)
    assert unread == {"damage", "preset", "row", "column", "visitor"}
    with pytest.raises(TypeError, match="slider"):
        ClipControls.read({"slider": None})


def test_a_clip_that_is_put_in_is_described_and_its_first_frame_shown(given, clip):
    up = merged(uploaded.put_in(replace(given, file=str(clip))))
    assert up["about"] == (
        f"clip.mp4: {WIDTH}x{HEIGHT} pixels, 4 frames, 0:00.4 at 10 frames a second, with sound, which is kept."
    )
    assert up["last"]["value"] == 3 and up["editor"]["visible"] and up["file"] is None
    assert up["part"] == f"4 frames, 0:00.0 to 0:00.4, {WIDTH}x{HEIGHT} pixels."
    session = up["session"]
    kept = session.path
    assert kept.is_file() and kept.parent.parent == session.folder
    again = merged(uploaded.put_in(replace(given, session=session, file=str(clip))))
    assert again["session"].path.is_file() and not kept.exists(), "the clip before has gone"
    shorter = choices.part(replace(given, session=session, first=1, last=2, size=24))
    assert shorter["part"] == f"2 frames, 0:00.1 to 0:00.3, 24x16 pixels, made smaller from {WIDTH}x{HEIGHT}."
    session.close()
    assert not session.folder.exists()


def test_the_tab_makes_the_bytes_that_the_command_makes(given, clip, tmp_path):
    """One way through a clip for both; the command is the one that the tab shows."""
    seen = merged(events.restore_clip(values := with_clip(given, clip, wrong="thing", editor=box(), last=2)))
    out = Path(seen["download"]["value"])
    assert "Finished: 3 of 3 frames" in seen["status"] and "3 frames restored" in seen["words"]
    assert seen["run"]["interactive"] and not seen["stop"]["interactive"]
    assert video_facts(out).sound and len(pixels(out)) == 3
    before, after = (Path(seen["player"][name]["path"]) for name in ("before", "after"))
    assert after == out and len(pixels(before)) == 3 and not video_facts(before).sound
    assert float((pixels(before) - pixels(clip)[:3]).abs().mean()) < 4
    program, *words = shlex.split(seen["shell"], comments=True)
    mask = Path(seen["mask_out"]["value"])
    assert program == "ambient-solve" and "--follow" in words and mask.name in words
    words[1], words[words.index(mask.name)] = str(values.session.path), str(mask)
    assert main([*words, "--out", str(tmp_path / "again.mp4"), "--json"]) == 0
    assert (tmp_path / "again.mp4").read_bytes() == out.read_bytes()
    assert main([*words, "--out", str(tmp_path / "other.mp4"), "--seed", "1", "--json"]) == 0  # the control
    assert (tmp_path / "other.mp4").read_bytes() != out.read_bytes()


def test_a_run_that_is_stopped_within_a_frame_keeps_what_is_finished_and_goes_on(given, clip, monkeypatch):
    from ambient_solve.app import stopping

    values, calls = with_clip(given, clip), []
    plain = stopping.StoppablePrior.denoise

    def denoise(self, *args, **settings):
        calls.append(1)
        values.session.stopped = values.session.stopped or len(calls) == 3
        return plain(self, *args, **settings)

    monkeypatch.setattr(stopping.StoppablePrior, "denoise", denoise)
    seen = merged(events.restore_clip(values))
    assert len(calls) == 3, "one frame of two levels, and a level of the second"
    assert "Stopped. 1 of 4 frames are finished and kept; Restore goes on from there." in seen["status"]
    part = Path(seen["download"]["value"])
    assert part.name.startswith("unfinished") and len(pixels(part)) == 1 and seen["run"]["interactive"]
    calls.extend([1] * 10)  # no more stops
    again = merged(events.restore_clip(values))
    assert "Finished: 4 of 4 frames, 1 of them before." in again["status"]
    assert len(calls) == 3 + 10 + 6, "three frames were left"
    other = with_clip(given, clip)
    whole = merged(events.restore_clip(other))
    assert Path(whole["download"]["value"]).read_bytes() == Path(again["download"]["value"]).read_bytes()


def test_another_clip_ends_the_run_of_the_one_before_without_a_word(given, clip, tmp_path):
    values, said = with_clip(given, clip), []
    other = write(tmp_path / "other.mp4", scene(3, seed=8))
    for update in events.restore_clip(values):
        if not said and "latest" in update:
            said.append(merged(uploaded.put_in(replace(values, file=str(other))))["about"])
    assert said[0].startswith("other.mp4") and "words" not in update and "status" not in update
    assert update["run"]["interactive"] and values.session.path.name == "other.mp4"
    assert "Finished: 3 of 3" in merged(events.restore_clip(replace(values, last=2)))["status"]


def test_a_job_that_takes_too_long_is_ended_with_what_it_has(given, clip):
    rules = replace(given.rules, minutes=1e-9)
    seen = merged(events.restore_clip(with_clip(replace(given, rules=rules), clip)))
    assert "a job may take 1e-09 minutes here" in seen["status"] and "1 of 4 frames" in seen["status"]
    assert len(pixels(Path(seen["download"]["value"]))) == 1


def test_progress_is_said_by_frame(given, clip):
    said = [update["status"] for update in events.restore_clip(with_clip(given, clip)) if "status" in update]
    assert any("Frame 2 of 4" in words and 'aria-valuenow="25"' in words for words in said)
    assert 'aria-valuenow="100"' in said[-1]


@pytest.mark.parametrize("wrong", ["scratches", "super-resolution", "gaussian-blur", "motion-blur"])
def test_whatever_is_wrong_is_restored(wrong, given, clip):
    editor = box() if wrong == "scratches" else None
    seen = merged(events.restore_clip(with_clip(given, clip, wrong=wrong, editor=editor, last=1)))
    assert "Finished: 2 of 2 frames" in seen["status"]
    scale = 2 if wrong == "super-resolution" else 1
    assert pixels(Path(seen["player"]["after"]["path"])).shape[-2:] == (scale * HEIGHT, scale * WIDTH)


def test_the_numbers_are_found_in_the_first_frame(given, clip):
    seen = merged(events.restore_clip(with_clip(given, clip, found=True, last=1)))
    assert "Noise level estimated" in seen["words"] and "Finished" in seen["status"]


def test_a_scene_cut_and_a_clip_without_motion_are_said(given, tmp_path):
    two = write(tmp_path / "two.mp4", torch.cat([scene(3), 255 - scene(6, seed=4)[3:].flip(-1)]))
    seen = merged(events.restore_clip(with_clip(given, two, wrong="thing", editor=box(), last=4)))
    assert "Another scene begins at frame 3 (0:00.3)" in seen["words"]
    assert "set *First frame* to 3, paint there" in seen["words"]
    still = write(tmp_path / "still.mp4", scene(1).expand(3, -1, -1, -1))
    seen = merged(events.restore_clip(with_clip(given, still, last=2)))
    assert "Nothing moves in this part" in seen["words"] and "scene begins" not in seen["words"]


def refused(update) -> tuple[str, dict]:
    """The sentence, and what the page shows."""
    seen = {}
    with pytest.raises(AmbientSolveError) as error:
        for each in update:
            seen |= each
    return str(error.value), seen


def test_what_cannot_be_taken_is_said_and_what_was_there_stays(given, clip, tmp_path):
    (tmp_path / "letter.mp4").write_text("Dear Sir or Madam")
    words, seen = refused(uploaded.put_in(replace(given, file=str(tmp_path / "letter.mp4"))))
    assert words == "letter.mp4 is not a video that can be read." and seen["file"] is None
    values = with_clip(given, clip, wrong="scratches")
    words, seen = refused(uploaded.put_in(replace(values, file=str(tmp_path / "letter.mp4"))))
    assert "The clip is still clip.mp4" in seen["status"] and str(tmp_path) not in seen["status"]
    Image.new("L", (20, 10), 255).save(tmp_path / "mask.png")
    words, seen = refused(uploaded.put_in(replace(values, mask=str(tmp_path / "mask.png"))))
    assert "is 20x10, but clip.mp4 is 48x32" in words and seen["mask"] is None
    write(tmp_path / "masks.mp4", torch.zeros(4, 3, 16, 24, dtype=torch.uint8))
    words, _ = refused(uploaded.put_in(replace(values, mask=str(tmp_path / "masks.mp4"))))
    assert "masks.mp4 is 24x16, but the clip is 48x32" in words
    words, seen = refused(events.restore_clip(values))
    assert "Nothing is painted" in words and seen["run"]["interactive"]
    assert "Put in a clip first" in refused(events.restore_clip(given))[0]
    assert "not earlier" in refused(events.restore_clip(with_clip(given, clip, first=2, last=1)))[0]


def test_a_clip_that_breaks_off_is_restored_as_far_as_it_goes(given, tmp_path):
    content = write(tmp_path / "whole.avi", scene(60)).read_bytes()  # its head says how many there are
    (tmp_path / "cut.avi").write_bytes(content[: len(content) // 2])
    readable = sum(1 for _ in read_video(tmp_path / "cut.avi"))
    assert 2 < readable < 20
    values = with_clip(given, tmp_path / "cut.avi", first=readable - 2, last=19)
    words, seen = refused(events.restore_clip(values))
    assert f"only {readable} frames can be read" in words and seen["last"] == readable - 1
    assert "Finished: 2 of 2" in merged(events.restore_clip(replace(values, last=seen["last"])))["status"]


def test_masks_are_painted_found_or_given_for_each_frame(given, clip, tmp_path):
    values = with_clip(given, clip, wrong="scratches")
    missing = np.zeros((HEIGHT, WIDTH), np.uint8)
    missing[4:8, 10:20] = 255
    Image.fromarray(missing).save(tmp_path / "mask.png")
    seen = merged(uploaded.put_in(replace(values, mask=str(tmp_path / "mask.png"))))
    assert (painter.painted(seen["editor"]) == (missing > 0)).all()
    request = choices.request_of(replace(values, editor=seen["editor"]))
    assert (np.asarray(Image.open(request.damage.mask)) == missing).all() and not request.follow
    assert choices.request_of(replace(values, editor=seen["editor"], wrong="thing")).follow
    write(tmp_path / "masks.mp4", torch.from_numpy(missing).expand(4, 3, -1, -1))
    merged(uploaded.put_in(replace(values, mask=str(tmp_path / "masks.mp4"))))
    request = choices.request_of(replace(values, wrong="thing"))
    assert Path(request.damage.mask).name == "masks.mp4" and not request.follow, "there is one for each frame"
    assert "in place of masks.mp4" in uploaded.paint(values)["status"]
    assert not choices.request_of(replace(values, editor=seen["editor"])).damage.mask.endswith(".mp4")


def test_scratches_that_stand_still_are_found(given, tmp_path):
    wide = torch.nn.functional.avg_pool2d(torch.rand(1, 1, 104, 240, generator=torch.Generator().manual_seed(3)), 9, 1)
    wide = 0.35 + 0.3 * (wide[0] - wide.amin()) / (wide.amax() - wide.amin())
    frames = torch.stack([wide[:, :, 8 * t : 8 * t + 128].expand(3, -1, -1) for t in range(6)]).clone()
    passing = frames.clone()
    frames[..., 10:90, 40:42] = 1.0  # stands still
    for t in range(6):
        passing[t, :, 10:90, 20 + 15 * t : 22 + 15 * t] = 1.0  # a mast that passes
    for name, made, share in (("still", frames, 0.9), ("passing", passing, 0.0)):
        path = write(tmp_path / f"{name}.mp4", (255 * made).byte())
        seen = uploaded.draw_scratches(with_clip(given, path, wrong="scratches", last=5))
        found = painter.painted(seen["editor"]) if "editor" in seen else np.zeros((96, 128), bool)
        assert found[10:90, 40:42].mean() >= share if share else not found.any(), name
        assert found.mean() < 0.1


def test_the_work_of_a_clip_grows_with_what_is_asked_for(given, clip):
    values = with_clip(given, clip, wrong="super-resolution")
    request = choices.request_of(values)
    size = (HEIGHT, WIDTH)
    whole = work.clip_work(request, *size)
    assert whole == 4 * 4 * HEIGHT * WIDTH * work.passes("proximal", {"steps": 2})
    assert work.clip_work(choices.request_of(replace(values, last=0)), *size) == whole / 4
    assert work.clip_work(choices.request_of(replace(values, size=24)), *size) == whole / 4
    long = replace(request, last=10**6, options={"steps": 100})
    with pytest.raises(AmbientSolveError, match="frames"):
        work.clip_work(long, 1080, 1920)


def test_a_prior_that_is_not_offered_is_refused(given, clip):
    values = with_clip(replace(given, rules=Rules()), clip)
    assert "not offered here" in refused(events.restore_clip(values))[0]


def test_what_is_shown_depends_on_what_is_wrong(given):
    seen = choices.choose_wrong(replace(given, wrong="gaussian-blur", found=True))
    assert not any(seen[name]["visible"] for name in KNOBS) and seen["found"]["visible"]
    seen = choices.choose_wrong(replace(given, wrong="gaussian-blur"))
    assert [name for name in KNOBS if seen[name]["visible"]] == ["sigma", "width"]
    seen = choices.choose_wrong(replace(given, wrong="super-resolution", found=True))
    assert [name for name in KNOBS if seen[name]["visible"]] == ["factor"] and not seen["painting"]["visible"]
    seen = choices.choose_wrong(replace(given, wrong="scratches"))
    assert seen["painting"]["visible"] and seen["find"]["visible"] and seen["sigma"]["value"] == 0.01


def test_times_are_those_of_a_clock():
    assert [timecode(n, RATE) for n in (0, 3, 605)] == ["0:00.0", "0:00.3", "1:00.5"]
