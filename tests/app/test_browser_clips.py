"""The tab for clips in a real browser: a clip is put in, painted on, restored, played beside itself and taken home."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from browsing import choose, open_tab, shot
from test_video_files import scene, write

pytest.importorskip("av", reason="PyAV is not installed")
pytestmark = pytest.mark.timeout(300)  # seconds: its tests wait for other processes


@pytest.fixture
def clip(tmp_path) -> Path:
    return write(tmp_path / "street.mp4", scene(4)[..., :32], sound=True)


def wait_for(page, pattern: str) -> str:
    page.wait_for_function(f"() => /{pattern}/.test(document.querySelector('#clip-status').innerText)")
    return page.locator("#clip-status").inner_text()


def put_clip(page, path: Path) -> None:
    open_tab(page, "Video")
    page.wait_for_selector("#clip-run")
    page.set_input_files("#clip input[type=file]", str(path))
    wait_for(page, "was read")


def paint_clip(page) -> None:
    page.wait_for_selector("#clip-editor [data-ready], #clip-editor[data-ready]")
    canvas = page.locator("#clip-editor canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 10, y)
    page.mouse.down()
    page.mouse.move(x + 10, y, steps=3)
    page.mouse.up()


@pytest.mark.parametrize("visit", [(1400, 950), (390, 844)], indirect=True)
def test_what_is_painted_once_is_followed_and_the_clip_is_played_and_taken_home(visit, clip, tmp_path):
    put_clip(visit, clip)
    assert "32x32 pixels, 4 frames" in visit.locator("#clip-about").inner_text()
    choose(visit, "#clip-wrong", "Something is to go")
    paint_clip(visit)
    visit.click("#clip-run")
    wait_for(visit, "Finished: 4 of 4 frames")
    assert "4 frames restored" in visit.locator("#clip-words").inner_text()
    visit.wait_for_selector("#clip-player [data-ready='32x32'], #clip-player[data-ready='32x32']")
    player = visit.locator("#clip-player")
    assert "frame 1 of 4" in player.inner_text()
    player.get_by_role("button", name="One frame on").click()
    visit.wait_for_function("() => /frame 2 of 4/.test(document.querySelector('#clip-player').innerText)")
    times = "() => [...document.querySelectorAll('#clip-player video')].map((v) => v.currentTime)"
    before, after = visit.evaluate(times)
    assert before == after == pytest.approx(0.15, abs=0.01)
    line = player.get_by_role("slider", name="Line: where before ends")
    line.focus()
    line.press("Home")
    cut = "() => document.querySelector('#clip-player [data-part=after]').style.clipPath"
    assert visit.evaluate(cut) == "inset(0px 0px 0px 0%)"
    player.get_by_role("button", name="Play", exact=True).click()
    visit.wait_for_function("() => /Pause/.test(document.querySelector('#clip-player').innerText)")
    assert visit.evaluate("() => document.documentElement.scrollWidth - window.innerWidth") <= 0
    for part in ("#clip", "#clip-editor canvas", "#clip-run", "#clip-player .player-frame", "#clip-first"):
        box, (width, _) = visit.locator(part).first.bounding_box(), visit.viewport_size.values()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width + 1, part
    shot(visit, f"clip-{visit.viewport_size['width']}")
    with visit.expect_download() as download:
        visit.click("#clip-download")
    download.value.save_as(tmp_path / "home.mp4")
    from ambient_solve.video.files import read_video, video_facts

    facts = video_facts(tmp_path / "home.mp4")
    assert (facts.frames, facts.size, facts.sound) == (4, (32, 32), True)
    assert all(torch.isfinite(frame.pixels.float()).all() for frame in read_video(tmp_path / "home.mp4"))


def test_a_run_is_stopped_and_goes_on(visit, tmp_path):
    put_clip(visit, write(tmp_path / "long.mp4", scene(24)))
    visit.click("#clip-run")
    wait_for(visit, "Frame [2-9] of 24")
    visit.click("#clip-stop")
    said = wait_for(visit, "are finished and kept")
    assert "of 24 frames" in said and visit.locator("#clip-stop").is_disabled()
    visit.wait_for_selector("#clip-player [data-ready], #clip-player[data-ready]")
    kept = int(said.split("Stopped. ")[1].split()[0])
    last = visit.locator("#clip-last").get_by_role("spinbutton")
    visit.wait_for_selector("#clip-run:not([disabled])")
    visit.click("#clip-run")
    wait_for(visit, f"Frame {kept + 1} of 24|Frame {kept + 2} of 24")
    visit.click("#clip-stop")
    wait_for(visit, "are finished and kept")
    assert last.input_value() == "23"
    first = visit.locator("#clip-first").get_by_role("spinbutton")
    for box, number in ((first, "20"), (last, "21")):
        box.fill(number)
        box.press("Enter")
    visit.wait_for_function("() => /2 frames, 0:02.0 to 0:02.2/.test(document.querySelector('#clip-part').innerText)")
    visit.wait_for_selector("#clip-run:not([disabled])")
    visit.click("#clip-run")
    wait_for(visit, "Finished: 2 of 2 frames")


def test_what_is_no_clip_is_a_sentence(visit, tmp_path):
    (tmp_path / "letter.mp4").write_text("Dear Sir or Madam")
    open_tab(visit, "Video")
    visit.wait_for_selector("#clip-run")
    visit.set_input_files("#clip input[type=file]", str(tmp_path / "letter.mp4"))
    assert "letter.mp4 is not a video that can be read" in wait_for(visit, "not a video")
    assert "letter.mp4" not in visit.locator("#clip").inner_text(), "the box is empty again"
    visit.click("#clip-run")
    assert "Put in a clip first" in wait_for(visit, "Not restored")
