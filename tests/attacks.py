"""What tests of the page do to it as an attacker would: plain requests, only to a server that the test has started."""

from __future__ import annotations

import io
import json
import os
import re
import select
import subprocess
import sys
import time
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
from PIL import Image

BASE = "gradio_api"


def web(server, **settings):
    """A client of the loopback server, which follows nothing and keeps nothing."""
    import httpx

    return httpx.Client(base_url=server.address, timeout=120, trust_env=False, **settings)


def png(side: int = 32, seed: int = 0) -> bytes:
    held = io.BytesIO()
    array = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(array).save(held, "PNG")
    return held.getvalue()


def upload(client, *files: bytes, **settings):
    parts = [("files", (f"{n}.png", data, "image/png")) for n, data in enumerate(files)]
    return client.post(f"{BASE}/upload", files=parts, **settings)


def handle(path: str) -> dict:
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def restore_body(path: str, **changes) -> dict:
    given = {"task": "denoise", "options": {"sigma": 0.1}, "mask": None, "preset": "Fast", "samples": 1, "seed": 0}
    given |= {"prompt": "", "negative": "", "guidance": 1}
    return {"data": [handle(path), *(given | changes).values()]}


def call(client, name: str, body: dict, **settings):
    return client.post(f"{BASE}/call/{name}", json=body, **settings)


def listen(client, name: str, event: str) -> tuple[str, object]:
    """The last that a stream says: what happened, and its data."""
    last = ("", None)
    with client.stream("GET", f"{BASE}/call/{name}/{event}") as stream:
        for line in stream.iter_lines():
            if line.startswith("event: "):
                last = (line[7:], None)
            elif line.startswith("data: "):
                last = (last[0], json.loads(line[6:]))
            if last[0] in ("complete", "error") and line.startswith("data: "):
                break
    return last


def answer(client, name: str, body: dict) -> tuple[str, object]:
    return listen(client, name, call(client, name, body).json()["event_id"])


def model_events(server) -> list:
    """Events that wait for a prior or work on it."""
    queue = server.page._queue
    waiting = [e for q in list(queue.event_queue_per_concurrency_id.values()) for e in list(q.queue)]
    working = [e for job in queue.active_jobs if job for e in job]
    return [e for e in waiting + working if e.concurrency_id == "model"]


def wait_until(condition, seconds: float, step: float = 0.1) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(step)
    return bool(condition())


@contextmanager
def process(prior: str, temporary, *words: str):
    """The command `ambient-solve app` as a process, with its address; what it says is in `said()`."""
    command = [sys.executable, "-m", "ambient_solve", "app", "--prior", prior, "--device", "cpu", *words]
    settings = {**os.environ, "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"}
    settings.pop("GRADIO_TEMP_DIR", None)
    log = open(temporary.parent / f"{temporary.name}.log", "w+b")  # noqa: SIM115 - closed below
    running = subprocess.Popen(command, env=settings, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        ready, _, _ = select.select([running.stdout], [], [], 180)
        first = running.stdout.readline() if ready else ""
        address = re.search(r"http://\S+", first)
        said = lambda: (log.seek(0), log.read().decode())[1]  # noqa: E731
        assert address, f"no address: {first}{said()}"
        yield SimpleNamespace(process=running, address=address[0], said=said)
    finally:
        running.kill()
        running.wait()
        log.close()
