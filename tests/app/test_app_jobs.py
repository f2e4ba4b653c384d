"""Jobs that nobody listens to, visitors who want all places, and jobs that ask for too much: through a server."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ambient_solve.app import streams
from ambient_solve.app.photographs import choices, events
from ambient_solve.app.presets import PRESETS
from ambient_solve.errors import AmbientSolveError
from attacks import BASE, call, listen, model_events, png, restore_body, upload, wait_until, web
from fairness import beside_a_giant

pytestmark = pytest.mark.slow

LONG = {"preset": "Faithful", "samples": 16}


@pytest.fixture
def slow(server):
    """A prior of which each pass takes a while, so that jobs last; the calls are counted."""
    prior, calls = choices.prior_of(server.prior, "cpu"), []
    denoise = prior.denoise
    vjp = prior.denoise_vjp
    prior.denoise = lambda *a, **k: (calls.append(1), time.sleep(0.1), denoise(*a, **k))[2]
    prior.denoise_vjp = lambda *a, **k: (calls.append(1), time.sleep(0.1), vjp(*a, **k))[2]
    yield calls
    del prior.denoise, prior.denoise_vjp
    assert wait_until(lambda: not model_events(server), 60), "the next test begins with an idle page"


def test_a_job_whose_stream_is_never_opened_ends(server, slow):
    with web(server) as client:
        path = upload(client, png()).json()[0]
        started = time.monotonic()
        event = call(client, "restore", restore_body(path, **LONG)).json()["event_id"]
        assert wait_until(lambda: slow, 60)
        assert model_events(server)
        assert wait_until(lambda: not model_events(server), 60)
        assert time.monotonic() - started > 9, "it had the time to open it"
        seen = len(slow)
        time.sleep(0.5)
        assert len(slow) == seen < 16 * 25 * 2, "nothing works on"
        happened, answered = listen(client, "restore", event)
        assert happened == "error" and "not opened" in answered["error"], "whoever comes late is not left waiting"


def test_a_job_whose_stream_is_closed_ends_and_one_that_is_heard_goes_on(server, slow):
    with web(server) as client:
        path = upload(client, png()).json()[0]
        event = call(client, "restore", restore_body(path, **LONG)).json()["event_id"]
        with client.stream("GET", f"{BASE}/call/restore/{event}") as stream:
            lines, until = stream.iter_lines(), time.monotonic() + 14
            while time.monotonic() < until:
                next(lines)
            assert len(model_events(server)) == 1, "control: longer than an unheard one would"
        assert wait_until(lambda: not model_events(server), 60)


def test_a_visitor_has_three_places_and_an_address_half_of_them(server, slow, monkeypatch):
    with web(server) as client, monkeypatch.context() as patched:
        patched.setattr(streams, "UNHEARD", math.inf)  # a busy machine may need longer to ask for all the places
        path = upload(client, png()).json()[0]
        fn = next(i for i, fn in server.page.fns.items() if fn.api_name == "restore")

        def join(session: str) -> int:
            body = {**restore_body(path, **LONG), "fn_index": fn, "session_hash": session}
            return client.post(f"{BASE}/queue/join", json=body).status_code

        codes = [join("greedy") for _ in range(8)]
        assert codes == [200] * 3 + [503] * 5
        codes = [join(f"many-{n}") for n in range(40)]
        assert codes.count(200) == 32 - 3 and set(codes) == {200, 503}
        assert len(model_events(server)) == 32


def scan(folder: Path) -> bytes:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (256, 256), dtype=np.uint8)).save(folder / "scan.png")
    return (folder / "scan.png").read_bytes()


@pytest.mark.parametrize("knobs", [{"resample": 1000}, {"iterations": 1000}, {"repeats": 10_000}])
def test_a_scan_that_would_hold_the_page_for_hours_is_refused(knobs, tmp_path, monkeypatch):
    from ambient_solve.app.scans import api as scan_api
    from ambient_solve.app.scans import choices as scan_choices
    from test_app_mri import tiny

    (name,) = knobs
    algorithm = {"resample": "repaint", "iterations": "mmps", "repeats": "langevin"}[name]
    monkeypatch.setattr(scan_choices, "priors", lambda: ["brain-mri"])
    monkeypatch.setattr(scan_choices, "prior_of", lambda *_: tiny())
    scan(tmp_path)
    settings = {"algorithm": algorithm, "samples": 16, "knobs": {"steps": 1000, **knobs}}
    given = {"files": [str(tmp_path / "scan.png")], "method": "prior", "prior": "", "kind": "random"}
    running = scan_api.reconstructed({**given, "acceleration": 4.0, "options": settings}, "cpu")
    with pytest.raises(AmbientSolveError, match="fewer samples or levels"):
        next(running)
    few = {"algorithm": algorithm, "samples": 1, "knobs": {"steps": 2}}
    assert next(scan_api.reconstructed({**given, "acceleration": 4.0, "options": few}, "cpu"))[0] is None, "control"


def test_a_job_ends_after_its_minutes_with_what_there_is(prior_folder, tmp_path, monkeypatch):
    pytest.importorskip("gradio")
    from ambient_solve.app import desk
    from ambient_solve.app.photographs import api, run
    from ambient_solve.app.rules import Rules

    (tmp_path / "old.png").write_bytes(png())
    prior = choices.prior_of(prior_folder, "cpu")
    denoise, passed = prior.denoise, []
    # A pass takes a second by the clock of the desk, and every level is reported: nothing depends on the machine.
    monkeypatch.setattr(prior, "denoise", lambda *a, **k: (passed.append(1), denoise(*a, **k))[1])
    monkeypatch.setattr(desk, "time", SimpleNamespace(monotonic=lambda: float(len(passed))))
    monkeypatch.setattr(run, "INTERVAL", 0.0)
    given = {"file": str(tmp_path / "old.png"), "task": "denoise", "options": {}, "mask": None, "preset": "Fast"}

    def ended_after(minutes: float) -> dict:
        rules = Rules((prior_folder,), minutes=minutes)
        return [*api.restored({**given, "samples": 16, "seed": 0}, prior_folder, "cpu", rules)][-1][1]

    steps = PRESETS["Fast"].chosen("denoise")[1]["steps"]
    ended = ended_after(1.3 * steps / 60)
    assert ended["samples"]["finished"] == 1 and "minutes" in ended["ended"]
    whole = ended_after(0)
    assert whole["samples"]["finished"] == 16 and "ended" not in whole
    with pytest.raises(AmbientSolveError, match="No sample was finished"):
        ended_after(1e-6)


def test_the_page_says_that_the_minutes_are_over(prior_folder, tmp_path, monkeypatch):
    pytest.importorskip("gradio")
    from ambient_solve.app.photographs import run
    from ambient_solve.app.rules import Rules
    from test_app_events import merged, values

    (tmp_path / "old.png").write_bytes(png())
    monkeypatch.setattr(run, "INTERVAL", 0.0)
    given = values(tmp_path / "old.png", prior_folder, rules=Rules((prior_folder,), minutes=1e-6))
    given = replace(given, session=merged(events.upload(given))["session"])
    seen = merged(events.restore(given))
    assert "Ended: a job may take" in seen["status"] and "Stopped before the first sample" in seen["status"]
    assert seen["stop"]["interactive"] is False


def test_thirty_small_jobs_are_answered_while_a_giant_is_at_work(server):
    found = beside_a_giant(server.page, server.address)
    print(f"\n{found.words}")
    assert len(found.seconds) == 30 and found.giant_alive and not found.wrong
    assert wait_until(lambda: not model_events(server), 120), "the giant, whose stream is closed, ends"
