"""Fifty jobs of ten clients: all answered, none mixed up; memory does not grow; a cancelled job leaves no thread."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ambient_solve.app import panels
from ambient_solve.app.photographs import api, choices, session
from ambient_solve.app.photographs.job import PreparedRequest, prepare_request
from ambient_solve.app.photographs.request import RestoreRequest
from ambient_solve.app.photographs.run import Result
from ambient_solve.app.photographs.session import Session
from ambient_solve.app.presets import PRESETS
from ambient_solve.app.uploads import open_upload
from test_app import last, tiny
from test_app_endpoints import ask, connect

pytestmark = [pytest.mark.slow, pytest.mark.timeout(700)]  # seconds: its tests wait for other processes
STATUS = Path("/proc/self/status")
JOBS, SIDE = 50, 64
WARM, LAST, EVERY = 10, 50, 4
"""Memory is measured between these two jobs after every fourth, of one client, once all threads are there."""
LEAK = 1
"""MB of each job that the control holds on to; half of it is what a job may leave."""
KINDS = (Session, PreparedRequest, Result)


def resident() -> float:
    """Memory of this process in MB, server and clients together, without what the allocator keeps for the next time."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    return next(int(line.split()[1]) / 1024 for line in STATUS.read_text().splitlines() if line.startswith("VmRSS"))


def slope(memory: list[float]) -> float:
    """MB from one measurement to the next: the median slope of all pairs, which a few that stand out do not move."""
    pairs = [(memory[j] - memory[i]) / (j - i) for i in range(len(memory)) for j in range(i + 1, len(memory))]
    return float(np.median(pairs))


def alive() -> int:
    """How many sessions, problems and results there are."""
    gc.collect()
    return sum(type(thing) in KINDS for thing in gc.get_objects())


@pytest.fixture(scope="module")
def picture(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "old.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(path)
    return path


def serve(server, picture, jobs: int) -> dict:
    """Answers by seed, of ten clients at once, with two jobs each, which is less than the page refuses."""
    with ThreadPoolExecutor(10) as pool:
        clients = list(pool.map(lambda _: connect(server), range(min(10, jobs))))
    answers = {}
    for first in range(0, jobs, 20):
        sent = [(n, ask(clients[n % len(clients)], picture, n)) for n in range(first, min(first + 20, jobs))]
        answers |= {seed: job.result(timeout=500) for seed, job in sent}
    for client in clients:
        client.close()
    return answers


def growth(server, picture) -> float:
    """MB that each job adds between the WARMth and the LASTth of one client."""
    client, memory = connect(server), []
    for n in range(LAST + 1):
        ask(client, picture, n).result(timeout=500)
        if n >= WARM and (n - WARM) % EVERY == 0:
            memory.append(resident())
    client.close()
    return slope(memory) / EVERY


def test_the_slope_is_that_of_a_leak_and_not_of_noise():
    random, jobs = np.random.default_rng(0), np.arange(0, LAST - WARM + 1, EVERY)
    noise = random.normal(0, 1, len(jobs))
    noise[2], noise[8] = 60, -60
    assert abs(slope(list(900 + noise))) / EVERY < LEAK / 4
    assert slope(list(900 + noise + LEAK * jobs)) / EVERY == pytest.approx(LEAK, abs=LEAK / 4)


def test_fifty_jobs_of_ten_clients_are_answered_not_mixed_up_and_leave_nothing(server, picture):
    standing = alive()
    answers = serve(server, picture, JOBS)
    left = alive() - standing
    print(f"\n{JOBS} jobs of 10 clients: {left} objects of them left")
    prior, upload = tiny(), open_upload(picture)
    for seed in range(0, JOBS, 7):
        algorithm, own = PRESETS["Fast"].chosen("denoise")
        request = RestoreRequest("denoise", {"sigma": 0.1}, algorithm=algorithm, knobs=own, samples=1, seed=seed)
        want = np.asarray(panels.to_image(last(prepare_request(request, prior, upload)).mean))
        assert (np.asarray(Image.open(answers[seed][0])) == want).all()
        assert (np.asarray(Image.open(answers[(seed + 1) % JOBS][0])) != want).any(), "control: seeds differ"
    assert [record["seed"] for _, (_, record) in sorted(answers.items())] == list(range(JOBS))
    assert left <= 3, "a result of the last job may still be on its way"


@pytest.mark.skipif(not STATUS.exists(), reason="memory is read from /proc, which this system does not have")
def test_memory_does_not_grow_with_the_jobs_and_a_leak_would_be_seen(server, picture, monkeypatch):
    honest = growth(server, picture)
    held, plain, standing = [], session.save, alive()

    def leaking(result, folder):
        held.append((result, np.ones(LEAK * 1024**2, np.uint8)))
        return plain(result, folder)

    monkeypatch.setattr(api, "save", leaking)
    leak = growth(server, picture)
    print(f"\nMB that a job leaves: {honest:.3f}; with a leak of {LEAK} MB: {leak:.3f}")
    assert honest < LEAK / 2 < leak
    assert alive() >= standing + LAST, "control: what is held is counted, too"


def test_a_cancelled_job_stops_and_leaves_no_thread(server, picture):
    calls, client = [], connect(server)
    ask(client, picture, 0).result()
    before, prior = threading.active_count(), choices.prior_of(server.prior, "cpu")
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
