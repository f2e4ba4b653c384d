"""How long a user waits for the page, for the first preview and for the first picture; what fifty jobs leave in memory.

    python benchmarks/app.py [--json out.json] [--jobs 50] [--shots FOLDER]

A server of its own process, the embedded prior, a photograph of 256x256 with scratches (that of the first view), the
preset Fast, in chromium where it is. Times are seconds from the start of the process, or from the click on Restore;
beside them those that the server computed, which leave out the browser and whatever else the machine does. Targets on
two cores: page 6 s, preview 2 s, picture 15 s.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CHROMIUM = shutil.which("chromium")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking")
TARGETS = {"page answers": 6, "first preview": 2, "first result": 15}
PATIENCE = 300


class Server:
    """`ambient-solve app` in a process of its own."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}/"
        self.started = time.perf_counter()
        command = [sys.executable, "-m", "ambient_solve", "app", "--port", str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def wait(self) -> float:
        """Seconds from the start of the process until the page is answered."""
        while time.perf_counter() - self.started < PATIENCE:
            try:
                with urllib.request.urlopen(self.address, timeout=PATIENCE) as answer:
                    if answer.status == 200:
                        return time.perf_counter() - self.started
            except OSError:
                time.sleep(0.02)
            if self.process.poll() is not None:
                raise SystemExit(f"The server ended: {self.process.stderr.read().decode()[-500:]}")
        raise SystemExit("The server does not answer.")

    def computed(self) -> float | None:
        """Seconds that the process has computed, where the system tells: what else the machine does is not in them."""
        status = Path(f"/proc/{self.process.pid}/stat")
        if not status.exists():
            return None
        fields = status.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def now(self) -> tuple[float, float | None]:
        return time.perf_counter(), self.computed()

    def since(self, clock: float, computed: float | None) -> tuple[float, float | None]:
        """Seconds since `now` was asked, and how many of them the server has computed."""
        return time.perf_counter() - clock, None if computed is None else self.computed() - computed

    def megabytes(self) -> float | None:
        """What the process holds in memory, where the system tells it."""
        status = Path(f"/proc/{self.process.pid}/status")
        if not status.exists():
            return None
        return int(re.search(r"VmRSS:\s*(\d+)", status.read_text())[1]) / 1024

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(30)


def visit(server: Server, shots: str | None) -> dict[str, tuple[float, float | None]]:
    """Seconds as a user of a browser counts them, and how many of them the server has computed."""
    from playwright.sync_api import sync_playwright

    found = {}
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        page = browser.new_page(viewport={"width": 1400, "height": 950})
        page.set_default_timeout(1000 * PATIENCE)
        opened = server.now()
        page.goto(server.address)
        page.wait_for_selector("#editor [data-ready], #editor[data-ready]")
        page.wait_for_selector("#run:not([disabled])")
        found["page usable, once opened"] = server.since(*opened)
        source = "() => document.querySelectorAll('#slider img')[1]?.src"
        for run in ("first", "second"):
            before, clicked = page.evaluate(source), server.now()
            page.click("#run")
            page.wait_for_function(f"(before) => ({source})() !== before", arg=before, polling=20)
            found[f"{run} preview"] = server.since(*clicked)
            page.wait_for_function(
                "() => /1 of 2 samples|Finished: 2/.test(document.querySelector('#status').innerText)"
            )
            found[f"{run} result"] = server.since(*clicked)
            page.wait_for_function("() => /Finished: 2/.test(document.querySelector('#status').innerText)")
            found[f"{run} run, both samples"] = server.since(*clicked)
            page.wait_for_function("() => document.querySelector('#stop').disabled")
        if shots:
            Path(shots).mkdir(parents=True, exist_ok=True)
            page.screenshot(path=str(Path(shots) / "app.png"), full_page=True)
        browser.close()
    return found


def load(server: Server, jobs: int) -> dict[str, float]:
    """Memory of the server after 10, 30 and all jobs that ten clients have sent."""
    from gradio_client import Client, handle_file
    from PIL import Image

    from ambient_solve.app.photographs.example import PICTURE

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(10) as pool:
        small = Path(folder) / "small.png"
        Image.open(PICTURE).resize((64, 64)).save(small)
        settings = {"httpx_kwargs": {"timeout": PATIENCE}, "download_files": folder, "verbose": False}
        clients = list(pool.map(lambda _: Client(server.address, **settings), range(10)))
        found, started, sent = {"memory before": server.megabytes()}, time.perf_counter(), 0
        for stop in sorted({min(10, jobs), min(30, jobs), jobs}):
            given = ("denoise", {"sigma": 0.1}, None, "Fast", 1)
            waiting = []
            for seed in range(sent, stop):
                client = clients[seed % 10]
                waiting.append(client.submit(handle_file(str(small)), *given, seed, api_name="/restore"))
            for seed, job in enumerate(waiting, sent):
                if job.result(timeout=PATIENCE)[1]["seed"] != seed:
                    raise SystemExit(f"Job {seed} was given the answer of another.")
            found[f"memory after {stop} jobs"], sent = server.megabytes(), stop
        found[f"seconds of {jobs} jobs"] = time.perf_counter() - started
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="file to write the numbers to")
    parser.add_argument("--jobs", type=int, default=50)
    parser.add_argument("--shots", help="folder for a screenshot")
    args = parser.parse_args()
    server, memory = Server(), {}
    try:
        found = {"page answers": (server.wait(), server.computed())}
        if CHROMIUM:
            found |= visit(server, args.shots)
        tell(found)
        if args.jobs:
            memory = load(server, args.jobs)
    finally:
        server.close()
    for name, value in memory.items():
        print(f"{name:26} {'unknown' if value is None else f'{value:8.1f}'} {'MB' if 'memory' in name else 's'}")
    if args.json:
        Path(args.json).write_text(json.dumps({"cores": cores(), **found, **memory}, indent=2) + "\n")


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def tell(found: dict[str, tuple[float, float | None]]) -> None:
    many = cores()
    print(f"{many} core{'s' * (many > 1)}, load {os.getloadavg()[0]:.1f}" + ("" if CHROMIUM else "; no chromium"))
    print(f"{'':26} {'seconds':>8} {'computed':>9}   target on 2 cores")
    for name, (seconds, computed) in found.items():
        known = "unknown" if computed is None else f"{computed:9.1f}"
        print(f"{name:26} {seconds:8.1f} {known:>9}   {TARGETS.get(name, '')}", flush=True)


if __name__ == "__main__":
    main()
