"""What the tests of the page do in a browser."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from PIL import Image

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
PATIENCE = 180_000
SHOTS = os.environ.get("AMBIENT_SOLVE_SHOTS")  # a folder, if screenshots are wanted


def shot(page, name: str) -> None:
    if SHOTS:
        page.screenshot(path=str(Path(SHOTS) / f"{name}.png"), full_page=True)


def wait_for_words(page, pattern: str) -> str:
    page.wait_for_function(f"() => /{pattern}/.test(document.querySelector('#status').innerText)")
    return page.locator("#status").inner_text()


def put_in(page, path: Path) -> None:
    page.set_input_files("#file input[type=file]", str(path))
    wait_for_words(page, path.name.replace(".", "[.]"))
    page.wait_for_selector(":is(#editor, #editor *)[data-ready='{}x{}']".format(*Image.open(path).size))


def open_tab(page, words: str) -> None:
    tab = page.locator("button[role=tab]", has_text=words)
    while tab.get_attribute("aria-selected") != "true":
        tab.click()
        page.wait_for_timeout(500)


def choose(page, dropdown: str, words: str) -> None:
    page.click(f"{dropdown} input")
    page.locator("[role=option]", has_text=words).first.click()


def samples(page):
    return page.get_by_label("number input for Samples")


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
    """Share of the picture that is painted over."""
    return page.evaluate(
        """() => {
          const c = document.querySelector('#editor canvas');
          const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
          let n = 0;
          for (let i = 3; i < d.length; i += 4) n += d[i] > 127;
          return n / (c.width * c.height);
        }"""
    )
