"""The page as a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from test_app_events import ask, connect

pytestmark = pytest.mark.timeout(400)  # seconds: its tests wait for other processes


def test_the_files_of_visitors_go_with_a_page_that_is_told_to_end(prior_folder, tmp_path):
    pytest.importorskip("gradio_client")
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "old.png")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    command = [sys.executable, "-m", "ambient_solve.cli", "app", "--prior", prior_folder, "--device", "cpu"]
    settings = {**os.environ, "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, env=settings, stdout=subprocess.PIPE, text=True)
    try:
        address = next(word for word in process.stdout.readline().split() if word.startswith("http"))
        client = connect(SimpleNamespace(address=address, downloads=tmp_path))
        ask(client, tmp_path / "old.png", 0).result(timeout=120)
        assert [*temporary.glob("ambient-solve-*")]
        client.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(180) == 0
    finally:
        process.kill()
    assert not [*temporary.glob("ambient-solve-*")]
