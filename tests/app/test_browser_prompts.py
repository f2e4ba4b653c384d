"""Words on the page in a real browser: the field comes and goes with the prior, and what is typed stays text."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from PIL import Image

pytest.importorskip("diffusers", reason="needs diffusers: pip install 'ambient-solve[train]'")
pytest.importorskip("transformers", reason="text encoders need transformers: pip install 'ambient-solve[latent]'")

from ambient_solve.app.rules import Rules
from browsing import choose, open_tab, put_in, samples, wait_for_words
from pipelines import stable_diffusion

pytestmark = pytest.mark.timeout(300)  # seconds: its tests wait for other processes


@pytest.fixture(scope="module")
def server(prior_folder, tmp_path_factory):
    """A page that offers a prior of pixels and one of words."""
    pytest.importorskip("gradio")
    from ambient_solve.app.page import launch

    words = str(stable_diffusion(tmp_path_factory.mktemp("words") / "pipeline"))
    page, address = launch(prior_folder, "cpu", rules=Rules((prior_folder, words)), block=False)
    yield SimpleNamespace(page=page, address=address, prior=prior_folder, words=words)
    page.close()


def test_the_field_comes_and_goes_with_the_prior_and_what_is_typed_stays_text(visit, server, tmp_path):
    Image.new("RGB", (32, 16), (90, 120, 60)).save(tmp_path / "small.png")
    put_in(visit, tmp_path / "small.png")
    assert visit.locator("#prompt").count() == 0
    choose(visit, "#prior", server.words)
    field = visit.locator("#prompt textarea")
    field.wait_for()
    choose(visit, "#task", "Noise")
    field.fill("a <img src=x>")
    visit.click("#run")
    assert "begins no concept" in wait_for_words(visit, "Not done")
    toast = visit.get_by_test_id("toast-text").first
    assert "<img src=x>" in toast.inner_text() and toast.locator("img").count() == 0
    field.fill("a q")
    samples(visit).fill("1")
    visit.click("#run")
    wait_for_words(visit, "Finished: 1 sample")
    open_tab(visit, "Details")
    visit.wait_for_function("() => document.querySelector('#details').innerText.includes('a q')")
    choose(visit, "#prior", server.prior)
    field.wait_for(state="detached")
