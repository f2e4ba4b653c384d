"""Who works next, and how much a job may ask for: without a server."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from ambient_solve import Solver
from ambient_solve.algorithms import ALGORITHMS
from ambient_solve.app import presets
from ambient_solve.app.desk import MOVE, Desk, Job
from ambient_solve.app.photographs import controls
from ambient_solve.app.photographs.request import RestoreRequest
from ambient_solve.app.scans.job import ScanRequest
from ambient_solve.app.work import MOST, PASSES, QUICK, asked, passes, scan_work
from ambient_solve.errors import AmbientSolveError
from ambient_solve.knobs import knobs
from ambient_solve.operators import inpaint
from test_app import tiny

BIG = 2 * QUICK


def working(log: list, name: str, gate: threading.Event | None = None):
    log.append(name)
    yield name
    while gate is not None and not gate.wait(0.01):
        yield "at work"
    yield f"{name} done"


def in_thread(desk: Desk, job: Job, reports, seen: list | None = None) -> threading.Thread:
    def work() -> None:
        for report in desk.serve(job, reports, lambda words: words):
            if seen is not None:
                seen.append(report)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def until(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_long_job_does_not_hold_up_the_quick_ones_but_other_long_ones():
    desk, gate, log = Desk(), threading.Event(), []
    giant = in_thread(desk, Job(BIG, "hostile"), working(log, "giant", gate))
    until(lambda: log == ["giant"])
    in_thread(desk, Job(0.0, "a"), working(log, "small")).join(60)
    assert log == ["giant", "small"] and giant.is_alive()
    other = in_thread(desk, Job(BIG, "b"), working(log, "long"))
    until(lambda: len(desk.lanes["long"].waiting) == 1)
    assert log == ["giant", "small"]
    gate.set()
    other.join(60)
    assert log == ["giant", "small", "long"] and not giant.is_alive()


def test_the_second_job_of_a_visitor_waits_for_the_first_of_all_others():
    desk, gate, log = Desk(), threading.Event(), []
    threads = [in_thread(desk, Job(0.0, "x"), working(log, "first", gate))]
    until(lambda: log == ["first"])
    for n, (visitor, name) in enumerate([("a", "a1"), ("a", "a2"), ("a", "a3"), ("b", "b1"), ("x", "x2"), ("c", "c1")]):
        threads.append(in_thread(desk, Job(0.0, visitor), working(log, name)))
        until(lambda n=n: len(desk.lanes["quick"].waiting) == n + 1)
    gate.set()
    for thread in threads:
        thread.join(60)
    assert log == ["first", "a1", "b1", "c1", "a2", "x2", "a3"]


def test_nobody_has_two_jobs_at_work():
    desk, gate, log = Desk(), threading.Event(), []
    giant = in_thread(desk, Job(BIG, "x"), working(log, "giant", gate))
    until(lambda: log == ["giant"])
    second = in_thread(desk, Job(0.0, "x"), working(log, "small"))
    in_thread(desk, Job(0.0, "y"), working(log, "other")).join(60)
    assert log == ["giant", "other"]
    gate.set()
    for thread in (giant, second):
        thread.join(60)
    assert log == ["giant", "other", "small"]


def test_who_waits_is_told_and_can_go_away():
    desk, gate, log = Desk(), threading.Event(), []
    first = in_thread(desk, Job(0.0, "x"), working(log, "first", gate))
    until(lambda: log == ["first"])
    waiting = desk.serve(Job(0.0, "y"), working(log, "never"), lambda words: words)
    assert next(waiting) == "Waiting: 1 job before this one"
    waiting.close()
    gate.set()
    first.join(60)
    in_thread(desk, Job(0.0, "z"), working(log, "last")).join(60)
    assert log == ["first", "last"] and desk.lanes["quick"].waiting == []


def test_a_job_that_fails_or_is_closed_gives_its_lane_free():
    desk, log, closed = Desk(), [], []

    def failing():
        yield 1
        raise ZeroDivisionError

    def endless():
        try:
            while True:
                yield 1
        finally:
            closed.append(threading.current_thread().name)

    with pytest.raises(ZeroDivisionError):
        list(desk.serve(Job(), failing(), str))
    running = desk.serve(Job(), endless(), str)
    next(running)
    running.close()
    assert closed and closed[0].startswith("lane"), "it ends where it worked"
    assert list(desk.serve(Job(), working(log, "next"), str)) == ["next", "next done"]


def test_a_job_that_is_found_to_be_long_moves_to_the_other_lane():
    desk, gate, names, job = Desk(), threading.Event(), [], Job(visitor="x")

    def growing():
        names.append(job.lane)
        job.work = BIG
        yield MOVE
        names.append(next(name for name, lane in desk.lanes.items() if lane.working is job))
        yield "moved"
        while not gate.wait(0.01):
            yield "at work"

    seen = []
    mover = in_thread(desk, job, growing(), seen)
    until(lambda: "at work" in seen)
    assert names == ["quick", "long"] and seen[0] == "moved"
    assert list(desk.serve(Job(visitor="y"), working([], "small"), str)) == ["small", "small done"]
    gate.set()
    mover.join(60)
    assert all(lane.working is None and not lane.waiting for lane in desk.lanes.values())


def test_a_forgotten_job_that_is_collected_in_a_lane_does_not_stop_it():
    desk, forgotten = Desk(), []
    running = desk.serve(Job(), iter_forever(), str)
    next(running)
    forgotten.append(running)
    del running
    desk.lanes["quick"].worker.submit(forgotten.clear).result(timeout=60)
    assert desk.lanes["quick"].working is None
    assert list(desk.serve(Job(), working([], "next"), str)) == ["next", "next done"]


def iter_forever():
    while True:
        yield 1


def test_what_waits_after_it_moved_is_closed():
    desk, gate, closed = Desk(), threading.Event(), []
    giant = in_thread(desk, Job(BIG, "x"), working(log := [], "giant", gate))
    until(lambda: log == ["giant"])
    job = Job(visitor="y")

    def growing():
        try:
            job.work = BIG
            yield MOVE
        finally:
            closed.append(True)

    waiting = desk.serve(job, growing(), lambda words: words)
    assert next(waiting).startswith("Waiting: 1 job")
    waiting.close()
    assert closed and desk.lanes["long"].waiting == []
    gate.set()
    giant.join(60)


def test_a_job_ends_when_its_minutes_are_over():
    def slow():
        for n in range(1000):
            time.sleep(0.02)
            yield n

    job = Job(minutes=0.1 / 60)
    seen = list(Desk().serve(job, slow(), str))
    assert job.over and 1 <= len(seen) < 1000 and "0.00166667 minutes" in job.over_words
    assert len(list(Desk().serve(free := Job(), iter(range(9)), str))) == 9 and not free.over, "0 is no limit"


def counted(name: str, **settings) -> int:
    prior, mask = tiny(), (torch.rand(8, 8, generator=torch.Generator().manual_seed(0)) > 0.3).float()
    op = inpaint(mask, 0.05)
    restored = Solver(prior, name, **settings).solve(torch.rand(1, 3, 8, 8) * mask, op, n_samples=1)
    return restored.network_calls + restored.vjps


COUNTED = {*PASSES, "time_travel"}
INNER = [(name, k.name) for name, cls in ALGORITHMS.items() for k in knobs(cls) if k.name in COUNTED]
PLAIN = [name for name in ALGORITHMS if name not in ("tds", "aos", "fps", "soft")]


@pytest.mark.parametrize("name", PLAIN)
def test_no_algorithm_takes_more_passes_than_it_is_counted_for(name):
    assert counted(name, steps=3) <= passes(name, {"steps": 3})
    for owner, knob in INNER:
        if owner == name:
            for value in (1, 7):
                assert counted(name, steps=3, **{knob: value}) <= passes(name, {"steps": 3, knob: value})


def test_every_whole_number_that_multiplies_the_work_is_counted():
    harmless = {"steps", "jump"}  # counted for itself; and how far RePaint jumps, which `resample` repeats
    found = {k.name for cls in ALGORITHMS.values() for k in knobs(cls) if k.type is int}
    assert found <= COUNTED | harmless
    for owner, knob in INNER:
        most = {k.name: k.hi for k in knobs(ALGORITHMS[owner])}
        assert passes(owner, {knob: most[knob]}) > 3 * passes(owner, {knob: 1})


def test_what_the_page_offers_is_taken_and_what_holds_it_for_days_is_not():
    for preset in presets.PRESETS.values():
        for task in controls.TASK_WORDS:
            algorithm, settings = preset.chosen(task)
            samples = preset.samples if task == "jpeg" else 16
            request = RestoreRequest(task, algorithm=algorithm, knobs=settings, samples=samples)
            assert asked(request) * 12_000_000 <= MOST
    assert 4 * passes("proximal", {"steps": 25}) * 256**2 <= QUICK, "Balanced"
    giants = [("repaint", {"resample": 1000, "steps": 1000}), ("langevin", {"repeats": 10_000, "steps": 1000})]
    for algorithm, settings in [*giants, ("mmps", {"iterations": 1000, "steps": 1000})]:
        with pytest.raises(AmbientSolveError, match="fewer samples or levels"):
            scan_work(ScanRequest("prior", (0,), algorithm=algorithm, knobs=settings, samples=16), 320, 320)
    assert scan_work(ScanRequest("l1-wavelet", tuple(range(64))), 1024, 1024) <= MOST
