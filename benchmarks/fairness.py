"""Thirty visitors with small pictures beside one with a giant: how long each of them waits.

python benchmarks/fairness.py   # prints the seconds; fails where one waits 30 s or more

The page runs here, on a loopback port, with a tiny prior of random weights. The giant is 1024x1024 with the preset
Faithful and 16 samples, the most that the page lets a visitor ask for; it goes on until all others are answered.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

VISITORS, PATIENCE = 30, 30.0
GIANT = {"preset": "Faithful", "samples": 16}


@dataclass(frozen=True)
class Found:
    """Seconds that each visitor waited; those whose answer was wrong; and whether the giant was still at work."""

    seconds: dict[int, float]
    wrong: list[int]
    giant_alive: bool

    @property
    def words(self) -> str:
        """What was found, in a line."""
        took = sorted(self.seconds.values())
        return (
            f"{len(took)} small jobs beside a giant: the first answered after {took[0]:.1f} s, the middle one after "
            f"{took[len(took) // 2]:.1f} s, the last after {took[-1]:.1f} s"
        )


def png(side: int, seed: int) -> bytes:
    """A picture of noise."""
    held, random = io.BytesIO(), np.random.default_rng(seed)
    Image.fromarray(random.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(held, "PNG")
    return held.getvalue()


def ask(client: Any, picture: bytes, seed: int, preset: str = "Fast", samples: int = 1) -> str:
    """Put a picture in and ask for its restoration; returns the name of the job."""
    path = client.post("gradio_api/upload", files={"files": ("a.png", picture, "image/png")}).json()[0]
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    body = {"data": [file, "denoise", {"sigma": 0.1}, None, preset, samples, seed, "", "", 1]}
    return client.post("gradio_api/call/restore", json=body).json()["event_id"]


def last(client: Any, job: str, ended: threading.Event | None = None) -> Any:
    """What the job answers at last; nothing where `ended` came before."""
    with client.stream("GET", f"gradio_api/call/restore/{job}") as stream:
        happened = ""
        for line in stream.iter_lines():
            if ended is not None and ended.is_set():
                return None
            happened = line[7:] if line.startswith("event: ") else happened
            if line.startswith("data: ") and happened in ("complete", "error"):
                return json.loads(line[6:]) if happened == "complete" else None
    return None


def beside_a_giant(page: Any, address: str) -> Found:
    """Let the visitors come at once while the giant is at work."""
    import httpx

    from ambient_solve.app.desk import DESK, LONG

    took: dict[int, float] = {}
    wrong: list[int] = []
    ended = threading.Event()
    settings = {"base_url": address, "timeout": 600, "trust_env": False}

    def hold() -> None:
        with httpx.Client(**settings) as client:
            last(client, ask(client, png(1024, 0), 0, **GIANT), ended)

    def visit(n: int) -> None:
        with httpx.Client(**settings) as client:
            started = time.perf_counter()
            answer = last(client, ask(client, png(32, n), n))
            took[n] = time.perf_counter() - started
            if answer is None or answer[1]["seed"] != n:
                wrong.append(n)

    giant = threading.Thread(target=hold)
    giant.start()
    while DESK.lanes[LONG].working is None:
        time.sleep(0.05)
    visitors = [threading.Thread(target=visit, args=(n,)) for n in range(VISITORS)]
    for thread in visitors:
        thread.start()
    for thread in visitors:
        thread.join()
    alive = giant.is_alive() and DESK.lanes[LONG].working is not None
    ended.set()
    giant.join()
    return Found(took, wrong, alive)


def main() -> int:
    """See above."""
    import torch

    from ambient_solve import NetworkConfig, NetworkPrior
    from ambient_solve.app.page import launch

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        NetworkPrior(NetworkConfig(widths=(8, 16), groups=4)).save(Path(folder) / "tiny", card="# tiny\nRandom.\n")
        page, address = launch(str(Path(folder) / "tiny"), "cpu", block=False)
        found = beside_a_giant(page, address)
        page.close()
    print(found.words)
    return int(max(found.seconds.values()) >= PATIENCE or bool(found.wrong) or not found.giant_alive)


if __name__ == "__main__":
    sys.exit(main())
