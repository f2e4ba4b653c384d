"""Runs on the page in a real browser, however slow the machine."""

from __future__ import annotations

import threading
import time

import pytest

from ambient_solve import NetworkPrior
from ambient_solve.app import presets
from ambient_solve.app.photographs import run
from browsing import PATIENCE, paint, put_in, samples, wait_for_words

pytestmark = pytest.mark.timeout(300)  # seconds: its tests wait for other processes


def test_a_run_that_is_stopped_keeps_what_is_finished(visit, picture, monkeypatch):
    plain, finished, first, asked = NetworkPrior.denoise_vjp, run._finished, threading.Event(), threading.Event()

    def finish(*args):
        result = finished(*args)
        first.set()
        return result

    def held(*args, **settings):
        # However long a busy browser takes: the second sample waits until it has asked.
        return plain(*args, **settings) if not first.is_set() or asked.wait(PATIENCE / 1000) else None

    monkeypatch.setattr(run, "_finished", finish)
    monkeypatch.setattr(NetworkPrior, "denoise_vjp", held)
    put_in(visit, picture)
    paint(visit)
    visit.get_by_role("radio", name="Faithful").check()
    samples(visit).fill("16")
    visit.click("#run")
    wait_for_words(visit, "of 16 samples finished|Sample 2 of 16")
    visit.click("#stop")
    wait_for_words(visit, "Stopping")
    asked.set()
    assert "1 finished sample kept" in wait_for_words(visit, "Stopped")
    visit.wait_for_timeout(1500)
    assert "Stopped" in visit.locator("#status").inner_text(), "nothing runs on"


def test_a_number_that_is_typed_outlives_a_late_answer(visit, monkeypatch):
    plain, answered = presets.choose_preset, threading.Event()

    def late(*args):
        time.sleep(1)
        answered.set()
        return plain(*args)

    monkeypatch.setattr(presets, "choose_preset", late)
    visit.get_by_role("radio", name="Faithful").check()
    samples(visit).fill("16")
    assert answered.wait(PATIENCE / 1000)
    visit.wait_for_timeout(500)
    assert samples(visit).input_value() == "16"
