"""The page of the app, served for the tests of a file."""

from __future__ import annotations

from types import SimpleNamespace

import pytest


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
