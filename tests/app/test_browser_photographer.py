"""What a photographer does on the page in a real browser: estimates, an original that comes back, a phone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ambient_solve.verdict.words import HEADLINES, RIGHT, WRONG
from browsing import choose, open_tab, put_in, shot, wait_for_words

pytestmark = pytest.mark.timeout(300)  # seconds: its tests wait for other processes


@pytest.fixture
def soft(tmp_path) -> Path:
    """A photograph out of focus, by 1.8 pixels, with noise."""
    from scipy.ndimage import gaussian_filter
    from skimage import data

    clean = data.astronaut()[40:232, 120:312].astype(float)
    blurred = gaussian_filter(clean, (1.8, 1.8, 0), mode="reflect")[8:-8, 8:-8]
    noisy = blurred + 2.5 * np.random.default_rng(0).standard_normal(blurred.shape)
    Image.fromarray(np.clip(noisy, 0, 255).round().astype(np.uint8)).save(tmp_path / "soft.png")
    return tmp_path / "soft.png"


@pytest.fixture
def old(tmp_path) -> Path:
    """An old photograph: two scratches, grain, JPEG."""
    from skimage import data

    x = data.astronaut()[40:168, 120:248].astype(float) + 8 * np.random.default_rng(0).standard_normal((128, 128, 3))
    for row in range(6, 122):
        x[row, 20 + row // 2 : 22 + row // 2] = x[row, 110 - row // 4 : 112 - row // 4] = 255
    Image.fromarray(x.clip(0, 255).astype(np.uint8)).save(tmp_path / "old.jpg", quality=85)
    return tmp_path / "old.jpg"


def test_the_width_of_a_blur_is_estimated_and_drawn_on_the_picture(visit, soft):
    put_in(visit, soft)
    assert "soft.png" in visit.locator("#card").inner_text() and "176x176" in visit.locator("#card").inner_text()
    choose(visit, "#task", "Out of focus")
    visit.locator("#editor .painter-kernel").wait_for()
    before = visit.get_attribute("#editor .painter-kernel img", "src")
    visit.click("#estimate-width")
    said = wait_for_words(visit, "Estimated: width of the blur")
    width = float(visit.get_by_label("number input for Width of the blur").input_value())
    assert 1.6 < width < 2.0 and f"{width:.3g} pixels" in said and "nine times in ten" in said
    visit.wait_for_function("(src) => document.querySelector('#editor .painter-kernel img').src !== src", arg=before)
    assert "width of the blur" in visit.locator("#editor figcaption").inner_text()
    shot(visit, "estimated")
    choose(visit, "#task", "Noise")
    visit.locator("#editor .painter-kernel").wait_for(state="hidden")


def test_a_restored_picture_leads_back_to_its_original(visit, soft, tmp_path):
    put_in(visit, soft)
    choose(visit, "#task", "Noise")
    visit.click("#run")
    wait_for_words(visit, "Finished: 2 samples")
    with visit.expect_download() as download:
        visit.click("#download")
    kept = tmp_path / "soft-restored.png"
    download.value.save_as(kept)
    put_in(visit, kept)
    said = visit.locator("#again").first.inner_text()  # gradio 6.31 gives the name to a group and to what it stands in
    assert "soft-restored.png is a restoration of soft.png" in said
    shot(visit, "put-back")
    visit.click("#run")
    wait_for_words(visit, "Not done. soft-restored.png is itself a restoration")
    visit.click("#use-original")
    wait_for_words(visit, "soft.png is back")
    visit.locator("#again").first.wait_for(state="hidden")
    visit.click("#run")
    wait_for_words(visit, "Finished: 2 samples")


def test_the_slider_goes_from_what_is_supported_to_what_is_plausible(visit, soft):
    put_in(visit, soft)
    choose(visit, "#task", "Noise")
    visit.click("#run")
    wait_for_words(visit, "Finished: 2 samples")
    open_tab(visit, "Invented")
    assert "Only what the data support" in visit.locator("#share-words").inner_text()
    visit.wait_for_selector("#share img")
    before = visit.locator("#slider img").nth(1).get_attribute("src")
    ends = visit.locator("#invented input[type=range]")
    ends.focus()
    visit.keyboard.press("End")
    ends.dispatch_event("pointerup")
    visit.wait_for_function("() => /One plausible/.test(document.querySelector('#share-words').innerText)")
    visit.wait_for_function("(src) => document.querySelectorAll('#slider img')[1].src !== src", arg=before)
    shot(visit, "invented")


def test_a_blur_that_is_stated_wrong_is_red_and_the_right_one_green(visit, soft, tmp_path):
    with Image.open(soft) as image:
        image.crop((30, 20, 110, 100)).save(tmp_path / "part.png")
    put_in(visit, tmp_path / "part.png")
    choose(visit, "#prior", "photos")
    choose(visit, "#task", "Out of focus")
    for width, level in ((4.5, WRONG), (1.8, RIGHT)):
        for control, value in (("Width of the blur", width), ("Noise level", 0.01)):
            number = visit.get_by_label(f"number input for {control}")
            number.fill(str(value))
            number.press("Tab")
        visit.click("#run")
        visit.wait_for_selector(f"#verdict .as-{level}")
        assert HEADLINES[level] in visit.locator("#verdict").inner_text()
        shot(visit, f"verdict-{level}")
        color = visit.locator("#verdict .as-verdict").evaluate("(e) => getComputedStyle(e).borderLeftColor")
        red, green, _ = (int(part) for part in color[4:-1].split(","))
        assert (red > green) == (level == WRONG), color


def test_an_old_photograph_goes_from_upload_to_result_in_three_steps(visit, old):
    put_in(visit, old)
    choose(visit, "#task", "An old photograph")
    visit.locator("#damage-scratches").wait_for()
    visit.click("#run")
    wait_for_words(visit, "Finished: 2 samples")
    assert visit.locator("#verdict").inner_text() and "are invented" in visit.locator("#words").inner_text()
    shot(visit, "old-photograph")


def test_scratches_are_painted_and_a_second_damage_is_ticked(visit, old):
    put_in(visit, old)
    choose(visit, "#task", "An old photograph")
    visit.click("#find")
    said = wait_for_words(visit, "Scratches were found on")
    assert "Correct them with the brush" in said
    choose(visit, "#task", "Noise")
    visit.get_by_role("checkbox", name="JPEG blocks").check()
    visit.locator("#damage-quality").wait_for()
    shot(visit, "several")


@pytest.mark.parametrize("visit", [(390, 844)], indirect=True)
def test_a_phone_has_restore_at_hand_wherever_it_is(visit, soft):
    put_in(visit, soft)
    for top in (0, 700, 1500):
        visit.evaluate("(top) => window.scrollTo(0, top)", top)
        visit.wait_for_timeout(200)
        box = visit.locator("#run").bounding_box()
        assert 0 <= box["y"] and box["y"] + box["height"] <= 844, top
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    assert visit.evaluate("() => document.documentElement.scrollWidth - window.innerWidth") <= 0
    visit.evaluate("() => window.scrollTo(0, 700)")
    shot(visit, "phone-painter")
    open_tab(visit, "Scans")
    visit.wait_for_selector("#scan-run")
    assert not visit.locator("#run").is_visible(), "nor is it in the way of another tab"
