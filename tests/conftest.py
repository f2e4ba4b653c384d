"""The page of the app, served for the tests of a file, and a browser that visits it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from browsing import CHROMIUM, FLAGS, PATIENCE

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: processes side by side have one thread each
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # more threads than cores would spin against each other
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell lets what it starts in the background ignore Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)
pytest_plugins = ["skips"]


@pytest.fixture(scope="module")
def prior_folder(tmp_path_factory) -> str:
    from test_app import tiny

    folder = tmp_path_factory.mktemp("prior") / "tiny"
    tiny().save(folder, card="# tiny\nRandom weights.\n")
    return str(folder)


@pytest.fixture(scope="module")
def server(prior_folder, tmp_path_factory):
    """`page`, its `address`, the folder of its `prior`, and one for what clients download."""
    pytest.importorskip("gradio")
    from ambient_solve.app.page import launch

    page, address = launch(prior_folder, "cpu", block=False)
    downloads = tmp_path_factory.mktemp("downloads")
    yield SimpleNamespace(page=page, address=address, prior=prior_folder, downloads=downloads)
    page.close()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not Path(CHROMIUM).exists():
        pytest.skip("chromium is not installed: apt-get install chromium")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, server, request):
    """A page that has loaded, and what it asked of other hosts, which must be nothing."""
    size = getattr(request, "param", (1400, 950))
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, accept_downloads=True)
    page, outside, broken, address = context.new_page(), [], [], server.address
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
