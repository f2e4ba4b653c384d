"""The painter in a real browser: zoomed in on a scratch, by wheel, keys and fingers; and in full screen."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ambient_solve.app import painter
from browsing import paint, painted_share, put_in, shot, wait_for_words

pytestmark = pytest.mark.timeout(300)  # seconds: its tests wait for other processes
SCRATCH = ((812.0, 431.0), (846.0, 449.0))
"""Ends of a scratch in a picture of 2000x1500, (x, y)."""


@pytest.fixture
def large(tmp_path) -> Path:
    rows, columns = np.mgrid[0:1500, 0:2000]
    array = np.stack([rows // 8, columns // 10, 90 + rows // 20], -1).astype(np.uint8)
    Image.fromarray(array).save(tmp_path / "large.png")
    return tmp_path / "large.png"


def scale(page) -> float:
    return float(page.get_attribute("#editor .painter", "data-scale"))


def standing_in_frame(page) -> tuple[float, ...]:
    """Left, top, width and height of the picture in its frame, on the screen."""
    box, frame = (page.locator(what).bounding_box() for what in ("#editor canvas", "#editor .painter-frame"))
    return box["x"] - frame["x"], box["y"] - frame["y"], box["width"], box["height"]


def on_screen(page, place: tuple[float, float]) -> tuple[float, float]:
    """Where a pixel of the picture stands on the screen."""
    box = page.locator("#editor canvas").bounding_box()
    return box["x"] + place[0] * scale(page), box["y"] + place[1] * scale(page)


def test_a_scratch_of_two_pixels_is_painted_in_a_large_picture(visit, large, tmp_path):
    put_in(visit, large)
    frame = visit.locator("#editor .painter-frame")
    frame.scroll_into_view_if_needed()
    standing = frame.bounding_box()
    visit.mouse.move(*on_screen(visit, ((SCRATCH[0][0] + SCRATCH[1][0]) / 2, 440.0)))
    for _ in range(40):
        if scale(visit) > 5:
            break
        visit.mouse.wheel(0, -100)
        visit.wait_for_timeout(30)
    assert scale(visit) > 5 and frame.bounding_box() == standing, "the picture grows inside of its frame"
    while int(visit.input_value("#editor [data-brush]")) > 1:
        visit.keyboard.press("[")
    visit.keyboard.press("]")
    assert visit.input_value("#editor [data-brush]") == "2"
    visit.mouse.move(*on_screen(visit, SCRATCH[0]))
    visit.mouse.down()
    visit.mouse.move(*on_screen(visit, SCRATCH[1]), steps=5)
    visit.mouse.up()
    share = painted_share(visit)
    shot(visit, "scratch")
    visit.keyboard.press("Control+z")
    assert painted_share(visit) == 0, "the keys take the stroke back"
    visit.mouse.move(*on_screen(visit, SCRATCH[0]))
    visit.mouse.down()
    visit.mouse.move(*on_screen(visit, SCRATCH[1]), steps=5)
    visit.mouse.up()
    assert painted_share(visit) == share > 0
    visit.click("#run")
    wait_for_words(visit, "Finished: 2 samples")
    with visit.expect_download() as download:
        visit.click("#archive")
    download.value.save_as(tmp_path / "all.zip")
    with zipfile.ZipFile(tmp_path / "all.zip") as archive, archive.open("large-mask.png") as file:
        rows, columns = np.nonzero(np.asarray(Image.open(file)) > 127)
    (left, top), (right, bottom) = SCRATCH
    line = top + (columns + 0.5 - left) * (bottom - top) / (right - left)
    assert abs(columns.min() - left) <= 3 and abs(columns.max() - right) <= 3
    assert np.abs(rows + 0.5 - line).max() < 2.5, "no pixel lies far from the scratch"
    assert 1.5 < len(rows) / (right - left) < 4, "nor is it wider"


def test_a_picture_that_is_zoomed_is_moved_and_comes_back_whole(visit, picture):
    put_in(visit, picture)
    whole, box = scale(visit), standing_in_frame(visit)
    visit.click("#editor [data-zoom=in]")
    visit.click("#editor [data-zoom=in]")
    assert scale(visit) == pytest.approx(2.25 * whole)
    near = standing_in_frame(visit)
    visit.click("#editor [data-zoom=move]")
    paint(visit)
    moved = standing_in_frame(visit)
    assert (moved[0] - near[0], moved[1] - near[1]) == pytest.approx((80, 40), abs=1)
    assert painted_share(visit) == 0, "what moves the picture does not paint on it"
    visit.locator("#editor canvas").focus()
    visit.keyboard.press("0")
    assert standing_in_frame(visit) == pytest.approx(box)
    visit.click("#editor [data-tool=paint]")
    paint(visit)
    assert painted_share(visit) > 0.02
    visit.click("#editor [data-zoom=full]")
    visit.wait_for_function(
        "() => document.querySelector('#editor .painter').getBoundingClientRect().width === innerWidth"
    )
    assert scale(visit) > 2.5 * whole, "the picture fills the screen"
    visit.keyboard.press("Escape")
    visit.wait_for_function("() => document.querySelector('#editor .painter').getBoundingClientRect().width < 600")
    for _ in range(100):  # until it is laid out anew
        if scale(visit) == pytest.approx(whole):
            break
        visit.wait_for_timeout(100)
    assert scale(visit) == pytest.approx(whole)


@pytest.mark.parametrize("visit", [(390, 844)], indirect=True)
def test_two_fingers_zoom_and_leave_no_paint(visit, picture):
    put_in(visit, picture)
    before = scale(visit)
    visit.evaluate(
        """() => {
          const c = document.querySelector('#editor canvas');
          const box = c.closest('.painter-frame').getBoundingClientRect();
          c.setPointerCapture = () => {};
          const send = (kind, id, x, y) => c.dispatchEvent(new PointerEvent(kind, {
            pointerId: id, pointerType: 'touch', clientX: box.left + x, clientY: box.top + y, bubbles: true }));
          send('pointerdown', 1, 100, 100);
          send('pointermove', 1, 104, 104);
          send('pointerdown', 2, 140, 100);
          send('pointermove', 2, 220, 100);
          send('pointerup', 1, 100, 100);
          send('pointerup', 2, 220, 100);
        }"""
    )
    assert scale(visit) > 1.8 * before and painted_share(visit) == 0


def test_the_view_holds_the_point_under_the_mouse_and_shows_no_empty_border(browser):
    source = (Path(painter.__file__).parent / "view.js").read_text()
    page, rng = browser.new_page(), np.random.default_rng(0)
    for _ in range(20):
        width, height, w, h = (int(n) for n in rng.integers(50, 3000, 4))
        px, py = rng.uniform(0, w), rng.uniform(0, h)
        code = f"""() => {{ {source}
          let view = VIEW.fit({width}, {height}, {w}, {h});
          const seen = [view];
          for (const factor of [3, 2, 1.5, 0.4, 100, 1e-6])
            seen.push(view = VIEW.zoomed(view, factor, {px}, {py}, {width}, {height}, {w}, {h}));
          return seen; }}"""
        views = page.evaluate(code)
        for first, then in zip(views, views[1:], strict=False):
            for at, side, frame, point in (("x", width, w, px), ("y", height, h, py)):
                size = then["scale"] * side
                where = (point - first[at]) / first["scale"]
                if size >= frame:
                    assert then[at] <= 1e-6 and then[at] + size >= frame - 1e-6
                    kept = then[at] + where * then["scale"] == pytest.approx(point, abs=1e-6)
                    assert kept or then[at] == 0 or then[at] + size == pytest.approx(frame)
                else:
                    assert then[at] == pytest.approx((frame - size) / 2)
        assert views[-1] == pytest.approx(views[0]), "out as far as it goes, it is whole again"
    page.close()
