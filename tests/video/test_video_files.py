"""Video files in and out, and clips restored from files: with their sound, and with the same bytes after a stop."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ambient_solve import AmbientSolveError
from ambient_solve.cli.dispatch import main
from ambient_solve.priors.base import Prior
from ambient_solve.restore.tasks import make_task
from ambient_solve.video import store
from ambient_solve.video.files import VideoWriter, comment_of, count_frames, read_video, takes_sound, video_facts
from ambient_solve.video.restoring import restore_video
from helpers import one_sentence, rand

av = pytest.importorskip("av", reason="PyAV is not installed")
HEIGHT, WIDTH = 32, 48
RATE = 10


class Shrink(Prior):
    """Shrinks pictures of any size towards their local mean."""

    shape, sigma_min, sigma_max, sigma_data = (3, -1, -1), 0.05, 5.0, 0.3

    def denoise(self, z, sigma, cond=None):
        near = torch.nn.functional.avg_pool2d(z, 3, 1, 1, count_include_pad=False)
        return (z + sigma * near) / (1 + sigma) / (1 + sigma**2)


def scene(frames: int = 6, seed: int = 0) -> Tensor:
    """A blurred texture of one tint that moves by two pixels a frame, (T, 3, H, W) uint8."""
    wide = torch.nn.functional.avg_pool2d(rand(1, HEIGHT + 4, WIDTH + 2 * frames + 4, seed=seed), 5, 1)
    wide = (wide - wide.amin()) / (wide.amax() - wide.amin())
    wide = wide * torch.tensor([1.0, 0.8, 0.6]).reshape(3, 1, 1)
    return torch.stack([(255 * wide[..., 2 * t : 2 * t + WIDTH]).byte() for t in range(frames)])


def write(path: Path, frames: Tensor, sound: bool = False) -> Path:
    """A file of ours, not by way of the code under test."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.height, stream.width = frames.shape[2:]
        stream.pix_fmt, stream.options = "yuv444p", {"crf": "1"}
        if sound:
            audio = container.add_stream("aac", rate=8000, layout="mono")
            tone = np.sin(np.arange(8000 * len(frames) // RATE) / 3).astype(np.float32)[None]
            heard = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
            heard.sample_rate = 8000
            container.mux(audio.encode(heard))
            container.mux(audio.encode(None))
        for frame in frames:
            pixels = np.ascontiguousarray(frame.permute(1, 2, 0).numpy())
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture
def clip(tmp_path) -> Path:
    return write(tmp_path / "clip.mp4", scene())


def restore(path: Path, out: Path, **settings):
    settings = {"noise": "nearest", "flow": "ilk", "algorithm": "proximal", "options": {"steps": 2}} | settings
    damage = settings.pop("damage", None) or make_task("denoise", sigma=0.05)
    return restore_video(path, out, Shrink(), damage, **settings)


def test_what_is_written_is_read_again_with_its_times_and_colors(tmp_path, clip):
    frames = list(read_video(clip))
    assert len(frames) == count_frames(clip) == 6 and [f.number for f in frames] == list(range(6))
    assert [f.time for f in frames] == [Fraction(t, RATE) for t in range(6)]
    away = torch.stack([f.pixels for f in frames]).float() - scene().float()
    assert float(away.abs().mean()) < 1 and float(away.mean((0, 2, 3)).abs().max()) < 0.3  # no color is lost
    with VideoWriter(tmp_path / "again.mp4", clip, "a word") as writer:
        for f in frames[2:]:
            writer.write(f.pixels, f.time)
        assert not (tmp_path / "again.mp4").exists()
    again = list(read_video(tmp_path / "again.mp4"))
    assert [f.time for f in again] == [Fraction(t, RATE) for t in range(4)] and comment_of(
        tmp_path / "again.mp4"
    ) == "a word"
    away = torch.stack([f.pixels for f in again]).float() - torch.stack([f.pixels for f in frames[2:]]).float()
    assert float(away.abs().mean()) < 4 and float(away.mean((0, 2, 3)).abs().max()) < 0.5
    assert [f.number for f in read_video(clip, 1, 3)] == [1, 2]
    assert not list(tmp_path.glob("*.part*"))


def test_odd_sides_are_kept(tmp_path, clip):
    with VideoWriter(tmp_path / "odd.mp4", clip) as writer:
        writer.write(scene()[0, :, :31, :47], Fraction(0))
    assert next(read_video(tmp_path / "odd.mp4")).pixels.shape == (3, 31, 47)


def test_the_sound_is_copied_from_the_first_frame_on(tmp_path):
    path = write(tmp_path / "loud.mp4", scene(20), sound=True)
    restore(path, tmp_path / "out.mp4", first=5, last=15)

    def sound(file):
        with av.open(str(file)) as container:
            return [bytes(p) for p in container.demux(audio=0) if p.size]

    whole, part = sound(path), sound(tmp_path / "out.mp4")
    assert part and len(part) < len(whole) and all(packet in whole for packet in part)
    with av.open(str(tmp_path / "out.mp4")) as container:
        first = next(p for p in container.demux(audio=0) if p.size)
        assert 0 <= float(first.pts * first.time_base) < 0.2


def test_a_clip_that_was_stopped_ends_with_the_same_bytes(tmp_path, clip):
    whole = restore(clip, tmp_path / "whole.mp4")
    assert whole.frames == 6 and whole.begun == 0 and not list(tmp_path.glob("*.part"))

    def stop(number, pixels):
        if number == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore(clip, tmp_path / "stopped.mp4", on_frame=stop)
    assert not (tmp_path / "stopped.mp4").exists() and (tmp_path / "stopped.mp4.part" / "000003.png").exists()
    again = restore(clip, tmp_path / "stopped.mp4")
    assert again.begun == 4 and again.chi2 == whole.chi2
    assert (tmp_path / "stopped.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    done = restore(clip, tmp_path / "stopped.mp4")
    assert done.begun == 6 and done.chi2 == whole.chi2
    assert restore(clip, tmp_path / "stopped.mp4", seed=1).begun == 0  # the control: another request
    assert (tmp_path / "stopped.mp4").read_bytes() != (tmp_path / "whole.mp4").read_bytes()


def test_what_a_power_cut_leaves_between_two_files_is_taken_back(tmp_path, clip, monkeypatch):
    """The record is ahead of the state by a frame, which is restored again."""
    whole = restore(clip, tmp_path / "whole.mp4")

    def cut(self, path):
        if self.number == 3:
            raise KeyboardInterrupt
        saved(self, path)

    saved = store.ClipState.save
    monkeypatch.setattr(store.ClipState, "save", cut)
    with pytest.raises(KeyboardInterrupt):
        restore(clip, tmp_path / "stopped.mp4")
    monkeypatch.setattr(store.ClipState, "save", saved)
    assert restore(clip, tmp_path / "stopped.mp4").begun == 2
    assert (tmp_path / "stopped.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes() and whole.frames == 6


def test_an_unfinished_clip_of_another_request_begins_anew(tmp_path, clip):
    def stop(number, pixels):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore(clip, tmp_path / "out.mp4", on_frame=stop, seed=5)
    assert restore(clip, tmp_path / "out.mp4").begun == 0


def test_sound_that_no_container_of_ours_takes_is_left_out_and_said(tmp_path):
    path = tmp_path / "old.avi"
    with av.open(str(path), "w") as container:
        audio = container.add_stream("pcm_u8", rate=8000, layout="mono")
        stream = container.add_stream("mpeg4", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        heard = av.AudioFrame.from_ndarray(np.full((1, 4000), 128, np.uint8), format="u8", layout="mono")
        heard.sample_rate = 8000
        container.mux(audio.encode(heard))
        container.mux(audio.encode(None))
        for frame in scene(3):
            pixels = np.ascontiguousarray(frame.permute(1, 2, 0).numpy())
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    facts = video_facts(path)
    assert (facts.frames, facts.size, facts.rate, facts.sound) == (3, (HEIGHT, WIDTH), RATE, True)
    assert [takes_sound(path, suffix) for suffix in (".mp4", ".mov", ".mkv")] == [False, True, True]
    told = restore(path, tmp_path / "silent.mp4")
    assert told.frames == 3 and "left out; a name that ends in .mov keeps it" in told.notes[-1]
    assert not video_facts(tmp_path / "silent.mp4").sound
    kept = restore(path, tmp_path / "loud.mov")  # the control
    assert video_facts(kept.path).sound and not any("sound" in note for note in kept.notes)


def test_a_playlist_is_no_video(tmp_path):
    """It names other files, of this machine or of the net, and a page would show them."""
    write(tmp_path / "private.ts", scene(3))
    listed = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{tmp_path}/private.ts\n#EXT-X-ENDLIST\n"
    (tmp_path / "list.m3u8").write_text(listed)
    with av.open(str(tmp_path / "list.m3u8")) as control:
        assert sum(1 for _ in control.decode(video=0)) == 3
    with pytest.raises(AmbientSolveError, match="not a video that can be read"):
        next(read_video(tmp_path / "list.m3u8"))


def test_what_is_not_known_is_estimated_from_the_first_frame(tmp_path):
    noise = 0.1 * torch.randn(2, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))
    noisy = scene(2).float() / 255 + noise
    path = write(tmp_path / "noisy.mp4", (255 * noisy.clamp(0, 1)).byte())
    outcome = restore(path, tmp_path / "out.mp4", damage=make_task("denoise", sigma="auto"))
    said = next(note for note in outcome.notes if "noise level" in note)
    assert abs(float(said.split("estimated: ")[1].split()[0]) - 0.1) < 0.04


def mask_file(path: Path, at: tuple[int, int], size: tuple[int, int] = (HEIGHT, WIDTH)) -> Path:
    picture = np.zeros(size, np.uint8)
    picture[at[0] : at[0] + 8, at[1] : at[1] + 8] = 255
    Image.fromarray(picture).save(path)
    return path


def test_masks_are_a_picture_or_a_video(tmp_path, clip):
    frames = scene()
    box = frames.clone()
    box[..., 8:16, 8:16] = 255
    path = write(tmp_path / "box.mp4", box)
    still = restore(
        path, tmp_path / "a.mp4", damage=make_task("inpaint", mask=mask_file(tmp_path / "mask.png", (8, 8)))
    )
    assert still.frames == 6
    video = torch.zeros_like(frames)
    video[..., 8:16, 8:16] = 255
    write(tmp_path / "mask.mp4", video)
    restore(path, tmp_path / "b.mp4", damage=make_task("inpaint", mask=str(tmp_path / "mask.mp4")))
    a, b = (torch.stack([f.pixels for f in read_video(tmp_path / n)]).float() for n in ("a.mp4", "b.mp4"))
    assert torch.equal(a, b)
    assert float(a[..., 8:16, 8:16].mean()) < 200  # white no more
    moving = video.clone()
    moving[3:] = 0  # nothing is missing in the later frames
    write(tmp_path / "moving.mp4", moving)
    assert restore(path, tmp_path / "c.mp4", damage=make_task("inpaint", mask=str(tmp_path / "moving.mp4"))).frames == 6


def test_frames_are_made_smaller_or_larger(tmp_path, clip):
    outcome = restore(clip, tmp_path / "small.mp4", side=24, last=2)
    assert outcome.frames == 2 and next(read_video(tmp_path / "small.mp4")).pixels.shape == (3, 16, 24)
    restore(clip, tmp_path / "large.mp4", damage=make_task("super-resolution", factor=2, sigma=0.05), last=2)
    assert next(read_video(tmp_path / "large.mp4")).pixels.shape == (3, 2 * HEIGHT, 2 * WIDTH)


def test_a_cut_is_found_and_a_clip_without_motion_ends_well(tmp_path):
    two = write(tmp_path / "two.mp4", torch.cat([scene(3), 255 - scene(6, seed=4)[3:].flip(-1)]))
    assert restore(two, tmp_path / "cut.mp4").cuts == (3,)
    still = write(tmp_path / "still.mp4", scene(1).expand(4, -1, -1, -1))
    outcome = restore(still, tmp_path / "stood.mp4")
    assert outcome.still and "nothing moves" in outcome.doubts[-1]
    moves = restore(write(tmp_path / "moves.mp4", scene(4)), tmp_path / "moved.mp4")
    assert not moves.still and not moves.doubts and moves.moved > 1, "the control moves by two pixels a frame"
    frames = [f.pixels.float() for f in read_video(tmp_path / "stood.mp4")]
    assert outcome.cuts == () and float((frames[3] - frames[0]).abs().mean()) < 2
    gray = write(tmp_path / "gray.mp4", scene(3)[:, :1].expand(-1, 3, -1, -1))
    restore(gray, tmp_path / "stayed.mp4")
    shown = next(read_video(tmp_path / "stayed.mp4")).pixels.float()
    assert float((shown - shown.mean(0)).abs().max()) < 3


WRONG = {
    "missing": (["{tmp}/none.mp4", "--task", "denoise", "--sigma", "0.1"], "There is no file"),
    "no video": (["{tmp}/text.mp4", "--task", "denoise", "--sigma", "0.1"], "not a video that can be read"),
    "no task": (["{tmp}/clip.mp4"], "No task"),
    "jpeg": (["{tmp}/clip.mp4", "--task", "jpeg"], "no JPEG files"),
    "mask of another size": (
        ["{tmp}/clip.mp4", "--task", "inpaint", "--mask", "{tmp}/other.png"],
        "is 20x10, but clip.mp4 is 48x32",
    ),
    "video of masks of another size": (
        ["{tmp}/clip.mp4", "--task", "inpaint", "--mask", "{tmp}/other.mp4"],
        "is 24x16, but clip.mp4 is 48x32",
    ),
    "a mask that ends": (["{tmp}/clip.mp4", "--task", "inpaint", "--mask", "{tmp}/short.mp4"], "ends after 2 frames"),
    "too many frames": (["{tmp}/clip.mp4", "--task", "denoise", "--sigma", "0.1", "--frames", "4:9"], "has 6 frames"),
    "nothing to follow": (["{tmp}/clip.mp4", "--task", "denoise", "--sigma", "0.1", "--follow"], "take inpaint"),
    "masks that need not be followed": (
        ["{tmp}/clip.mp4", "--task", "inpaint", "--mask", "{tmp}/other.mp4", "--follow"],
        "give a picture to be followed",
    ),
    "no range": (["{tmp}/clip.mp4", "--task", "denoise", "--sigma", "0.1", "--frames", "4"], "FIRST:LAST"),
    "onto itself": (
        ["{tmp}/clip.mp4", "--task", "denoise", "--sigma", "0.1", "--out", "{tmp}/clip.mp4"],
        "is the damaged video itself",
    ),
    "no name of a video": (
        ["{tmp}/clip.mp4", "--task", "denoise", "--sigma", "0.1", "--out", "{tmp}/folder"],
        "restored.mp4 was expected",
    ),
    "a knob": (["{tmp}/clip.mp4", "--task", "denoise", "--sigma", "0.1", "--stepps", "4"], "--steps"),
    "a flow": (["{tmp}/clip.mp4", "--task", "denoise", "--sigma", "0.1", "--flow", "raft"], "There is no flow"),
    "field noise": (["{tmp}/clip.mp4", "--task", "denoise", "--sigma", "0.1", "--noise", "field"], "FieldPrior"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_in_a_sentence(name, tmp_path, clip, capsys):
    words, expected = WRONG[name]
    (tmp_path / "text.mp4").write_text("this is no video")
    mask_file(tmp_path / "other.png", (1, 1), (10, 20))
    masks = torch.zeros(6, 3, 16, 24, dtype=torch.uint8)
    masks[..., 4:8, 4:8] = 255
    write(tmp_path / "other.mp4", masks)
    write(tmp_path / "short.mp4", torch.nn.functional.interpolate(masks[:2].float(), scale_factor=2).byte())
    words = [w.replace("{tmp}", str(tmp_path)) for w in words]
    words += [] if "--out" in words else ["--out", str(tmp_path / "out.mp4")]
    assert main(["video", *words, "--flow", "ilk", "--steps", "1"] if "--flow" not in words else ["video", *words]) == 2
    said = capsys.readouterr().err
    assert expected in said and one_sentence(said.strip().splitlines()[-1])
    assert not (tmp_path / "out.mp4").exists()


def test_a_file_that_breaks_off_is_said_and_what_was_finished_is_kept(tmp_path):
    whole = write(tmp_path / "long.mkv", scene(30))
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    try:
        frames = restore(cut, tmp_path / "out.mp4").frames
        assert 0 < frames < 30  # some containers end quietly
    except AmbientSolveError as error:
        assert "breaks off" in str(error)
        assert list((tmp_path / "out.mp4.part").glob("*.png"))


def test_the_command_line_restores_a_clip_and_tells_of_it(tmp_path, clip, capsys):
    words = ["video", str(clip), "--task", "denoise", "--sigma", "0.05", "--out", str(tmp_path / "new.mp4")]
    words += ["--steps", "2", "--frames", "0:3", "--noise", "nearest", "--json"]
    assert main(words) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["frames"] == 3 and row["begun"] == 0 and row["algorithm"] == "proximal" and row["chi2"] > 0
    assert main(words) == 0 and json.loads(capsys.readouterr().out)["begun"] == 3
