"""The page in a real browser: a visit with the mouse, one with keys alone, one on a phone; and axe-core's opinion."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ambient_solve import NetworkConfig, NetworkPrior

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
pytest.importorskip("gradio", reason="gradio is not installed: pip install 'ambient-solve[app]'")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
if not Path(CHROMIUM).exists():
    pytest.skip("chromium is not installed: apt-get install chromium", allow_module_level=True)

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
PATIENCE = 180_000
"""Milliseconds; the machine of the tests may be busy."""
SHOTS = os.environ.get("AMBIENT_SOLVE_SHOTS")
"""A folder for screenshots, if any are wanted."""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    from ambient_solve.app.page import launch

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("prior") / "tiny"
    NetworkPrior(NetworkConfig(widths=(8, 16), groups=4)).save(folder, card="# tiny\nRandom weights.\n")
    page, address = launch(str(folder), "cpu", block=False)
    yield address
    page.close()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, address, request):
    """A page that has loaded, and what it asked of other hosts, which must be nothing."""
    size = getattr(request, "param", (1400, 950))
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, accept_downloads=True)
    page, outside, broken = context.new_page(), [], []
    page.set_default_timeout(PATIENCE)
    page.on("request", lambda r: None if r.url.startswith((address, "data:", "blob:")) else outside.append(r.url))
    page.on("pageerror", lambda error: broken.append(str(error)))
    page.goto(address)
    page.wait_for_selector("#editor [data-ready], #editor[data-ready]")
    yield page
    context.close()
    assert outside == [] and broken == []


@pytest.fixture
def picture(tmp_path) -> Path:
    rows, columns = np.mgrid[0:96, 0:128]
    array = np.stack([rows, 100 + columns, 90 + rows // 2], -1).astype(np.uint8)
    Image.fromarray(array).save(tmp_path / "meadow.png")
    return tmp_path / "meadow.png"


def shot(page, name: str) -> None:
    if SHOTS:
        Path(SHOTS).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(Path(SHOTS) / f"{name}.png"), full_page=True)


def wait_for_words(page, pattern: str) -> str:
    page.wait_for_function(f"() => /{pattern}/.test(document.querySelector('#status').innerText)")
    return page.locator("#status").inner_text()


def put_in(page, path: Path) -> None:
    page.set_input_files("#file input[type=file]", str(path))
    wait_for_words(page, path.name.replace(".", "[.]"))
    width, height = Image.open(path).size
    page.wait_for_selector(f"#editor [data-ready='{width}x{height}'], #editor[data-ready='{width}x{height}']")


def paint(page) -> None:
    canvas = page.locator("#editor canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 40, y - 20)
    page.mouse.down()
    page.mouse.move(x + 40, y + 20, steps=4)
    page.mouse.up()


def painted_share(page) -> float:
    """Share of the canvas that has the colour of the paint, mixed with what is below it."""
    return page.evaluate(
        """() => {
          const c = document.querySelector('#editor canvas');
          const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
          let n = 0;
          for (let i = 0; i < d.length; i += 4) n += d[i] > 150 && d[i + 1] < 90 && d[i + 2] < 150;
          return n / (c.width * c.height);
        }"""
    )


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
    said = visit.locator("#words").inner_text()
    assert "were not, and are invented" in said and "differ by" in said
    shot(visit, "restored")

    assert visit.locator("#slider img").first.get_attribute("alt") == "What was measured"
    handle = visit.locator("#slider [data-testid=slider] .icon-wrap")
    handle.scroll_into_view_if_needed()
    before = handle.bounding_box()
    visit.mouse.move(before["x"] + before["width"] / 2, before["y"] + before["height"] / 2)
    visit.mouse.down()
    visit.mouse.move(before["x"] - 80, before["y"] + before["height"] / 2, steps=4)
    visit.mouse.up()
    assert handle.bounding_box()["x"] < before["x"] - 40, "the slider followed the mouse"

    tab = visit.locator("button[role=tab]", has_text="Uncertainty")
    while tab.get_attribute("aria-selected") != "true":
        tab.click()
        visit.wait_for_timeout(500)
    image = visit.locator("#spread img").first
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
    visit.get_by_label("Balanced").check()
    visit.wait_for_function("() => document.querySelector('input[aria-label*=\"Samples\"]').value === '4'")
    put_in(visit, kept)
    # The settings came back with the picture: two samples, as it was made.
    visit.wait_for_function("() => document.querySelector('input[aria-label*=\"Samples\"]').value === '2'")


def test_a_run_that_is_stopped_keeps_what_is_finished(visit, picture, monkeypatch):
    plain = NetworkPrior.denoise_vjp

    def slow(*args, **settings):
        time.sleep(0.05)  # a browser on a busy machine must find the run still going
        return plain(*args, **settings)

    monkeypatch.setattr(NetworkPrior, "denoise_vjp", slow)
    put_in(visit, picture)
    paint(visit)
    visit.get_by_label("Faithful").check()
    visit.get_by_label("number input for Samples").fill("16")
    visit.get_by_label("number input for Samples").press("Tab")
    visit.click("#run")
    wait_for_words(visit, "Sample [2-9] of 16")
    visit.click("#stop")
    assert "finished sample" in wait_for_words(visit, "Stopped")
    visit.wait_for_timeout(1500)
    assert "Stopped" in visit.locator("#status").inner_text(), "nothing runs on"


def test_keys_alone_are_enough(visit):
    visit.evaluate("() => document.querySelector('#editor canvas').focus()")
    visit.keyboard.press("Space")
    for _ in range(6):
        visit.keyboard.press("ArrowRight")
        visit.keyboard.press("Space")
    seen = []
    for _ in range(60):
        visit.keyboard.press("Tab")
        seen.append(visit.evaluate("() => document.activeElement.innerText || document.activeElement.tagName"))
        if seen[-1] == "Restore":
            break
    assert seen[-1] == "Restore", f"Tab reaches the button, it went {seen}"
    visit.keyboard.press("Enter")
    wait_for_words(visit, "Finished: 2 samples")


@pytest.mark.parametrize("visit", [(390, 844)], indirect=True)
def test_a_phone_shows_all_of_it_without_scrolling_sideways(visit):
    assert visit.evaluate("() => document.documentElement.scrollWidth - window.innerWidth") <= 0
    for part in ("#file", "#editor canvas", "#run", "#slider", "#preset"):
        box = visit.locator(part).first.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 391, part
    shot(visit, "phone")


def test_what_cannot_be_read_is_a_sentence_on_the_page(visit, tmp_path, picture):
    (tmp_path / "letter.png").write_text("Dear Sir or Madam")
    visit.set_input_files("#file input[type=file]", str(tmp_path / "letter.png"))
    visit.wait_for_selector("text=letter.png")
    toast = visit.locator(".toast-body, [role=alert]").first
    toast.wait_for()
    assert "letter.png" in toast.inner_text() and "Traceback" not in toast.inner_text()
    shot(visit, "bad-upload")


def test_axe_finds_nothing_serious(visit):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    found = axe.Axe().run(visit, options={"runOnly": ["wcag2a", "wcag2aa"]}).response["violations"]
    told = [(v["id"], v["impact"], [n["html"][:160] for n in v["nodes"]][:4]) for v in found]
    assert [t for t in told if t[1] in ("serious", "critical")] == []
