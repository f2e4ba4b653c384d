"""The page in a real browser: a visit with the mouse, one with keys alone, one on a phone; and axe-core's opinion."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ambient_solve.app import painter
from ambient_solve.verdict.words import HEADLINES
from browsing import choose, open_tab, paint, painted_share, put_in, shot, wait_for_words

pytestmark = pytest.mark.timeout(300)  # seconds: its tests wait for other processes


def test_a_visit_with_the_mouse(visit, picture, tmp_path):
    shot(visit, "first-view")
    put_in(visit, picture)
    assert painted_share(visit) == 0
    paint(visit)
    share = painted_share(visit)
    assert share > 0.02
    visit.click("#editor [data-do=undo]")
    assert painted_share(visit) == 0, "undo takes the stroke away"
    paint(visit)
    visit.click("#run")
    wait_for_words(visit, "Finished: 2 samples")
    visit.wait_for_function("() => [...document.querySelectorAll('#slider img')].every((i) => i.naturalWidth === 128)")
    said = visit.locator("#words").inner_text()
    assert "were not, and are invented" in said and "differ by" in said
    assert visit.locator("#verdict .as-verdict strong").inner_text()[2:] in HEADLINES.values()
    shot(visit, "restored")

    assert visit.locator("#slider img").first.get_attribute("alt") == "Before"
    handle = visit.locator("#slider [data-testid=slider] .icon-wrap")
    handle.scroll_into_view_if_needed()
    before = handle.bounding_box()
    visit.mouse.move(before["x"] + before["width"] / 2, before["y"] + before["height"] / 2)
    visit.mouse.down()
    visit.mouse.move(before["x"] - 80, before["y"] + before["height"] / 2, steps=4)
    visit.mouse.up()
    assert handle.bounding_box()["x"] < before["x"] - 40, "the slider followed the mouse"

    open_tab(visit, "Uncertainty")
    image = visit.locator("#std img").first
    image.wait_for()
    image.scroll_into_view_if_needed()
    box, (width, height) = image.bounding_box(), (512, 4 * 96 + 44)
    visit.mouse.click(box["x"] + box["width"] * (40.5 * 4) / width, box["y"] + box["height"] * (10.5 * 4) / height)
    visit.wait_for_function("() => /Column \\d/.test(document.querySelector('#pixel').innerText)")
    assert "Column 40, row 10, which was measured" in visit.locator("#pixel").inner_text()
    shot(visit, "uncertainty")

    with visit.expect_download() as download:
        visit.click("#download")
    kept = tmp_path / "restored-meadow.png"
    download.value.save_as(kept)
    assert Image.open(kept).size == (128, 96)
    visit.get_by_role("radio", name="Balanced").check()
    visit.wait_for_function("() => document.querySelector('input[aria-label*=\"Samples\"]').value === '4'")
    put_in(visit, kept)
    # The settings came back with the picture: two samples, as it was made.
    visit.wait_for_function("() => document.querySelector('input[aria-label*=\"Samples\"]').value === '2'")


def test_keys_alone_move_the_divider(visit):
    divider = visit.locator("#slider .outer")
    visit.wait_for_selector("#slider .outer[role=slider]")
    for _ in range(80):
        visit.keyboard.press("Tab")
        if visit.evaluate("() => document.activeElement.matches('#slider .outer')"):
            break
    frame, start = visit.locator("#slider .outer").locator("xpath=..").bounding_box(), divider.bounding_box()["x"]
    for _ in range(4):
        visit.keyboard.press("ArrowLeft")
    moved = divider.bounding_box()["x"]
    assert abs((start - moved) / frame["width"] - 0.2) < 0.02, "four steps of a twentieth"
    assert divider.get_attribute("aria-valuenow") == "30"
    visit.keyboard.press("ArrowRight")
    assert divider.bounding_box()["x"] > moved
    visit.keyboard.press("a")
    visit.keyboard.press("End")
    assert divider.get_attribute("aria-valuenow") == "100"


def test_keys_alone_are_enough(visit):
    visit.evaluate("() => document.querySelector('#editor canvas').focus()")
    plain = painted_share(visit)
    for _ in range(6):
        visit.keyboard.press("ArrowDown")
    visit.keyboard.press("Space")
    for _ in range(6):
        visit.keyboard.press("ArrowLeft")
        visit.keyboard.press("Space")
    painted = painted_share(visit)
    assert painted > plain + 0.005
    visit.locator("#editor [data-tool=erase]").focus()
    visit.keyboard.press("Enter")
    visit.locator("#editor canvas").focus()
    visit.keyboard.press("Space")
    assert painted_share(visit) < painted, "a key erases as well"
    seen = []
    for _ in range(60):
        visit.keyboard.press("Tab")
        seen.append(visit.evaluate("() => document.activeElement.innerText || document.activeElement.tagName"))
        if seen[-1] == "Restore":
            break
    assert seen[-1] == "Restore", f"Tab reaches the button, it went {seen}"
    visit.keyboard.press("Enter")
    wait_for_words(visit, "Finished: 2 samples")
    # The run is remembered, and a key brings it back.
    open_tab(visit, "Earlier runs")
    visit.locator("#history button").last.focus()
    visit.keyboard.press("Enter")
    wait_for_words(visit, "Picture and settings are back")


@pytest.mark.parametrize("visit", [(390, 844)], indirect=True)
def test_a_phone_shows_all_of_it_without_scrolling_sideways(visit):
    assert visit.evaluate("() => document.documentElement.scrollWidth - window.innerWidth") <= 0
    for part in ("#file", "#editor canvas", "#run", "#slider", "#preset"):
        box = visit.locator(part).first.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 391, part
    shot(visit, "phone")
    open_tab(visit, "Scans")
    visit.wait_for_selector("#scan-run")
    visit.locator("#scan-mean").scroll_into_view_if_needed()
    visit.wait_for_selector("#scan-mean img")
    assert visit.evaluate("() => document.documentElement.scrollWidth - window.innerWidth") <= 0
    shot(visit, "phone-scan")


def refusal(page) -> str:
    toast = page.locator(".toast-body, [role=alert]").first
    toast.wait_for()
    return toast.inner_text()


def test_what_cannot_be_read_is_a_sentence_on_the_page(visit, tmp_path, picture):
    (tmp_path / "letter.png").write_text("Dear Sir or Madam")
    visit.set_input_files("#file input[type=file]", str(tmp_path / "letter.png"))
    visit.wait_for_selector("text=letter.png")
    assert "letter.png" in refusal(visit) and "Traceback" not in refusal(visit)
    assert "still the example" in wait_for_words(visit, "was not taken")
    assert "letter.png" not in visit.locator("#file").inner_text(), "the box is empty again"
    assert visit.locator("#gallery img").count() == 5, "what was shown before is still there"
    shot(visit, "bad-upload")
    put_in(visit, picture)
    visit.wait_for_function("() => document.querySelectorAll('#gallery img').length === 0")
    visit.click("#run")
    wait_for_words(visit, "Nothing is marked as missing")
    assert visit.locator("#stop").is_disabled() and visit.locator("#download").is_disabled()


def test_where_nothing_is_missing_there_is_nothing_to_paint_with(visit, picture):
    put_in(visit, picture)
    tools, upload = visit.locator("#editor .painter-tools").first, visit.locator("text=Upload a mask")
    assert tools.is_visible() and upload.is_visible()
    choose(visit, "#task", "JPEG")
    tools.wait_for(state="hidden")
    upload.wait_for(state="hidden")
    paint(visit)
    assert painted_share(visit) == 0


def test_masks_grow_shrink_and_fill_as_scipy_has_it(browser):
    from scipy import ndimage

    source = (Path(painter.__file__).parent / "masks.js").read_text()
    page = browser.new_page()
    found = {}
    rng = np.random.default_rng(0)
    mask = ndimage.gaussian_filter(rng.standard_normal((37, 53)), 3) > 0.08
    mask[3:12, 5:20] = True
    mask[5:10, 7:18] = False  # a ring
    mask[28:35, 28:35] = False
    mask[[30, 31, 31, 32], [31, 30, 32, 31]] = True  # and one of four pixels that touch at their corners
    given = [mask.astype(int).ravel().tolist(), 53, 37, 4]
    for name in ("invert", "grow", "shrink", "fill-inside", "fill-outside"):
        # In a scope of its own: the names are declared anew each time.
        run = f"const [m, w, h, by] = given; return Array.from(MASKS['{name}'](Uint8Array.from(m), w, h, by));"
        code = f"(given) => {{ {source}\n{run} }}"
        found[name] = np.array(page.evaluate(code, given), bool).reshape(37, 53)
    page.close()
    assert (found["invert"] == ~mask).all()
    assert (found["grow"] == (ndimage.distance_transform_edt(~mask) <= 4)).all()
    assert (found["shrink"] == (ndimage.distance_transform_edt(mask) > 4)).all()
    filled = ndimage.binary_fill_holes(mask)
    assert (found["fill-inside"] == filled).all() and (found["fill-outside"] == (~filled | mask)).all()
    # Controls: squares in place of discs, and a flood that goes round corners.
    assert (found["grow"] != ndimage.binary_dilation(mask, np.ones((9, 9)))).any()
    assert (filled != mask).any() and (ndimage.binary_fill_holes(mask, np.ones((3, 3))) != filled).any()


def test_the_tools_of_the_mask_change_what_is_painted(visit, picture):
    put_in(visit, picture)
    paint(visit)
    share = painted_share(visit)
    visit.click("#editor summary")
    visit.click("#editor [data-do=grow]")
    grown = painted_share(visit)
    assert grown > share + 0.02
    visit.click("#editor [data-do=shrink]")
    assert painted_share(visit) < grown - 0.02
    visit.click("#editor [data-do=undo]")
    assert painted_share(visit) == grown
    visit.click("#editor [data-do=invert]")
    assert abs(painted_share(visit) - (1 - grown)) < 0.01
    visit.click("#run")
    wait_for_words(visit, "Finished: 2 samples")
    lost = int(visit.locator("#words").inner_text().split(" % were not")[0].split()[-1])
    assert abs(lost / 100 - (1 - grown)) < 0.02, "what was inverted here is what was missing there"


def test_many_pictures_go_through_as_a_zip(visit, picture, tmp_path):
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        archive.write(picture, "one.png")
        archive.write(picture, "two.png")
    choose(visit, "#task", "Noise")
    open_tab(visit, "Many pictures")
    visit.set_input_files("#many input[type=file]", str(tmp_path / "many.zip"))
    visit.wait_for_selector("#many >> text=many")
    visit.click("#run-many")
    wait_for_words(visit, "2 of 2 pictures")
    visit.wait_for_selector("#many-out:not([disabled])")
    with visit.expect_download() as download:
        visit.click("#many-out")
    download.value.save_as(tmp_path / "back.zip")
    names = zipfile.ZipFile(tmp_path / "back.zip").namelist()
    assert sum(name.endswith("mean.png") for name in names) == 2


def test_a_scan_is_reconstructed_looked_at_and_taken_home(visit, picture, tmp_path):
    open_tab(visit, "Scans")
    visit.wait_for_selector("#scan-mean img")
    assert "not for diagnosis" in visit.locator("#scan-notice").inner_text()
    assert "Simulated k-space" in visit.locator("#scan-words").inner_text(), "the example says what it is"
    shot(visit, "scan-first-view")
    visit.set_input_files("#scan input[type=file]", str(picture))
    visit.wait_for_function("() => /simulated k-space/.test(document.querySelector('#scan-about').innerText)")
    choose(visit, "#scan-method", "CG-SENSE")
    visit.click("#scan-run")
    visit.wait_for_function("() => /Finished/.test(document.querySelector('#scan-status').innerText)")
    said = visit.locator("#scan-words").inner_text()
    assert "meadow.png, slice 0" in said and "times its noise" in said and "Simulated k-space" in said
    image = visit.locator("#scan-mean img").first
    image.scroll_into_view_if_needed()
    visit.wait_for_selector("#scan-archive:not([disabled])")
    visit.wait_for_function("() => document.querySelector('#scan-mean img').naturalWidth === 384")
    visit.wait_for_timeout(1000)  # the other pictures of the grid find their places
    box = image.bounding_box()
    visit.mouse.click(box["x"] + box["width"] * 40.5 / 128, box["y"] + box["height"] * 10.5 / 96)
    visit.wait_for_function("() => /Column 40, row 10/.test(document.querySelector('#scan-pixel').innerText)")
    before = image.get_attribute("src")
    window = visit.get_by_label("number input for Window, % of white")
    window.fill("40")
    window.press("Enter")
    visit.wait_for_function("(src) => document.querySelector('#scan-mean img').src !== src", arg=before)
    shot(visit, "scan")
    with visit.expect_download() as download:
        visit.click("#scan-archive")
    download.value.save_as(tmp_path / "scan.zip")
    names = {Path(name).name for name in zipfile.ZipFile(tmp_path / "scan.zip").namelist()}
    assert names == {"report.png", "reconstruction.npz", "settings.json", "mean.nii.gz"}
    (tmp_path / "letter.npz").write_text("Dear Sir or Madam")
    visit.set_input_files("#scan input[type=file]", str(tmp_path / "letter.npz"))
    assert "letter.npz cannot be read" in refusal(visit) and "Traceback" not in refusal(visit)


@pytest.mark.parametrize("tab", ["Photographs", "Video", "Scans"])
def test_axe_finds_nothing_serious(visit, tab):
    open_tab(visit, tab)
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    found = axe.Axe().run(visit, options={"runOnly": ["wcag2a", "wcag2aa"]}).response["violations"]
    faults = [(v["id"], v["impact"], [n["html"][:160] for n in v["nodes"]][:4]) for v in found]
    assert [fault for fault in faults if fault[1] in ("serious", "critical")] == []
