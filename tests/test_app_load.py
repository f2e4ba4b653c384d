"""Fifty jobs of ten clients: all answered, none mixed up, memory flat; a cancelled job leaves no thread."""

from __future__ import annotations

import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ambient_solve.app import api, events, panels
from ambient_solve.app.job import Problem, prepare
from ambient_solve.app.order import Order
from ambient_solve.app.run import Result
from ambient_solve.app.session import Session
from ambient_solve.uploads import open_upload
from test_app import last, tiny
from test_app_events import ask, connect

pytestmark = pytest.mark.timeout(700)  # seconds: its tests wait for other processes
STATUS = Path("/proc/self/status")
JOBS, SIDE, STEPS = 50, 64, 12
GROWTH = 40
"""MB that this process may grow by from the 10th job to the 50th: threads of the clients and buffers that are kept."""
KINDS = (Session, Problem, Result)


def resident() -> float:
    """Memory of this process in MB: server and clients together."""
    gc.collect()
    return next(int(line.split()[1]) / 1024 for line in STATUS.read_text().splitlines() if line.startswith("VmRSS"))


def alive() -> int:
    """How many sessions, problems and results there are."""
    gc.collect()
    return sum(type(thing) in KINDS for thing in gc.get_objects())


@pytest.fixture(scope="module")
def picture(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "old.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(path)
    return path


def serve(server, picture, jobs: int, steps: int = STEPS) -> tuple[dict, dict, dict]:
    """Answers by seed; memory in MB and living objects after 10, 30 and all jobs."""
    with ThreadPoolExecutor(10) as pool:
        clients = list(pool.map(lambda _: connect(server), range(min(10, jobs))))
    answers, memory, objects = {}, {}, {}
    for first, stop in ((0, 10), (10, 30), (30, jobs)):
        sent = [(seed, ask(clients[seed % len(clients)], picture, seed)) for seed in range(first, min(stop, jobs))]
        answers |= {seed: job.result(timeout=500) for seed, job in sent}
        memory[min(stop, jobs)], objects[min(stop, jobs)] = resident(), alive()
    for client in clients:
        client.close()
    return answers, memory, objects


@pytest.mark.skipif(not STATUS.exists(), reason="memory is read from /proc, which this system does not have")
def test_fifty_jobs_of_ten_clients_are_answered_not_mixed_up_and_leave_nothing(server, picture):
    standing = alive()
    answers, memory, objects = serve(server, picture, JOBS)
    told = ", ".join(f"{mb:.0f} MB after {n}" for n, mb in memory.items())
    print(f"\n{JOBS} jobs of 10 clients: {told}; {objects[JOBS] - standing} objects of them left")
    prior, upload = tiny(), open_upload(picture)
    for seed in range(0, JOBS, 7):
        order = Order("denoise", {"sigma": 0.1}, algorithm="proximal", knobs={"steps": STEPS}, samples=1, seed=seed)
        want = np.asarray(panels.to_image(last(prepare(order, prior, upload)).mean))
        assert (np.asarray(Image.open(answers[seed][0])) == want).all()
        assert (np.asarray(Image.open(answers[(seed + 1) % JOBS][0])) != want).any(), "control: seeds differ"
    assert [told["seed"] for _, (_, told) in sorted(answers.items())] == list(range(JOBS))
    assert memory[JOBS] - memory[10] < GROWTH
    assert objects[JOBS] <= standing + 3, "a result of the last job may still be on its way"


@pytest.mark.skipif(not STATUS.exists(), reason="memory is read from /proc, which this system does not have")
def test_a_server_that_held_its_results_would_be_seen(server, picture, monkeypatch):
    held, plain = [], api.save

    def leaking(result, folder):
        held.append((result, np.ones((4096, 1024), np.uint8)))
        return plain(result, folder)

    monkeypatch.setattr(api, "save", leaking)
    standing = alive()
    _, memory, objects = serve(server, picture, 26)
    assert objects[26] >= standing + 26 and memory[26] - memory[10] > GROWTH


def test_a_cancelled_job_stops_and_leaves_no_thread(server, picture):
    calls, client = [], connect(server)
    ask(client, picture, 0).result()
    before, prior = threading.active_count(), events.prior_of(server.prior, "cpu")
    denoise = prior.denoise
    prior.denoise = lambda *a, **k: (calls.append(1), time.sleep(0.02), denoise(*a, **k))[2]
    counts = []
    try:
        for _ in range(3):
            calls.clear()
            job = ask(client, picture, 0, preset="Balanced", samples=16)
            while len(calls) < 10:
                time.sleep(0.02)
            job.cancel()
            time.sleep(1)
            stopped = len(calls)
            time.sleep(0.5)
            assert len(calls) == stopped < 16 * 25
            counts.append(threading.active_count())
    finally:
        del prior.denoise
    print(f"\nthreads: {before} before, {counts} after each of 3 cancelled jobs")
    # Gradio keeps the worker threads that it has started; a thread for every job that was cancelled would add up.
    assert counts[-1] <= counts[0] + 1 and counts[-1] <= before + 2
    assert ask(client, picture, 1).result()[1]["seed"] == 1
