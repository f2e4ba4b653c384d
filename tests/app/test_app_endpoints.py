"""The endpoints of the page, asked by a program through a loopback server."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ambient_solve.app import panels, presets
from ambient_solve.app.photographs.job import prepare_request
from ambient_solve.app.photographs.request import RestoreRequest
from ambient_solve.app.uploads import open_upload
from ambient_solve.restore.recipe import read_png
from test_app import HEIGHT, WIDTH, last, tiny


@pytest.fixture
def picture(tmp_path) -> Path:
    array = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "old.png")
    return tmp_path / "old.png"


def connect(server):
    from gradio_client import Client

    settings = {"timeout": 300}  # the machine may be busy
    return Client(server.address, verbose=False, httpx_kwargs=settings, download_files=server.downloads)


def ask(client, picture: Path, seed: int, **changes):
    from gradio_client import handle_file

    given = {"task": "denoise", "options": {"sigma": 0.1}, "mask": None, "preset": "Fast", "samples": 1} | changes
    return client.submit(handle_file(str(picture)), *given.values(), seed, api_name="/restore")


def test_the_endpoint_gives_what_the_solver_gives(server, picture):
    from gradio_client import handle_file

    client = connect(server)
    path, record = ask(client, picture, 7).result()
    algorithm, settings = presets.PRESETS["Fast"].chosen("denoise")
    request = RestoreRequest("denoise", {"sigma": 0.1}, algorithm=algorithm, knobs=settings, samples=1, seed=7)
    want = last(prepare_request(request, tiny(), open_upload(picture)))
    assert (np.asarray(Image.open(path)) == np.asarray(panels.to_image(want.mean))).all()
    assert record["misfit"] == pytest.approx(want.misfit) and record["seed"] == 7
    assert read_png(path).seed == 7
    named = client.view_api(return_format="dict")["named_endpoints"]
    assert set(named) == {"/restore", "/estimate", "/mri"}, "events of the page are no endpoints"
    assert "misfit" in named["/restore"]["description"]
    assert client.predict(handle_file(str(picture)), api_name="/estimate")["noise_level"] > 0


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("text.png", b"not a picture at all", "text.png"),
        ("drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG|svg"),
        ("cut.jpg", None, "cut.jpg"),
    ],
)
def test_a_bad_upload_is_a_sentence_and_the_server_goes_on(server, picture, name, data, words):
    client, path = connect(server), picture.parent / name
    if data is None:
        Image.open(picture).resize((300, 200)).save(path)
        data = path.read_bytes()[:2000]
    path.write_bytes(data)
    with pytest.raises(Exception, match=words) as error:
        ask(client, path, 0).result()
    assert "Traceback" not in str(error.value)
    with pytest.raises(Exception, match="knobs of denoise"):
        ask(client, picture, 0, options={"mask": "/etc/passwd"}).result()
    assert ask(client, picture, 0).result()[1]["seed"] == 0


def test_the_page_is_bound_to_this_machine_and_asks_nobody(server):
    assert re.match(r"http://127\.0\.0\.1:\d+/", server.address)
    assert not server.page.analytics_enabled and server.page.share is False and server.page.allowed_paths == []
    assert server.page.max_file_size == 2 * 1024**3
