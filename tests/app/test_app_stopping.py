"""A run that is stopped ends within one pass through the network; what it costs is said before it begins."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ambient_solve.app import stopping
from ambient_solve.app.desk import Desk, Job
from ambient_solve.app.photographs import costs, events, price
from ambient_solve.app.photographs.request import RestoreRequest
from ambient_solve.app.photographs.watch import Watch
from ambient_solve.app.stopping import StoppablePrior, Stopped, stoppable
from ambient_solve.priors.ambient import AmbientPrior
from ambient_solve.priors.tiled import TiledPrior
from test_app import tiny
from test_app_events import merged, values


def test_a_level_of_many_tiles_is_left_after_the_tiles_that_are_at_work():
    stop = threading.Event()
    prior = tiny()
    plain, tiles = prior.denoise, []

    def denoise(z, sigma, cond=None):
        tiles.append(len(z))
        if len(tiles) == 3:
            stop.set()
        return plain(z, sigma, cond)

    prior.denoise = denoise
    tiled = TiledPrior(StoppablePrior(prior, stop.is_set), 32, 8, at_once=1)
    with pytest.raises(Stopped):
        tiled.denoise(torch.zeros(1, 3, 120, 120), 1.0)
    assert len(tiles) == 3, "of the 25 tiles"
    tiles.clear()
    stop.clear()
    TiledPrior(prior, 32, 8, at_once=1).denoise(torch.zeros(1, 3, 120, 120), 1.0)
    assert len(tiles) == 25, "control: without it, all of them"


def test_a_prior_that_can_be_stopped_is_the_same_and_one_that_is_known_by_its_class_stays():
    prior, z = tiny(), torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    watched, stop = None, []
    watched = StoppablePrior(prior, lambda: bool(stop))
    (one, pull), (two, draw) = (p.denoise_vjp(z, 0.5) for p in (prior, watched))
    assert torch.equal(one, two) and torch.equal(pull(z), draw(z)) and torch.equal(prior.denoise(z, 0.5), one)
    assert watched.made == 2 and watched.passes() == prior.passes() == 1
    stop.append(1)
    for call in (lambda: watched.denoise(z, 0.5), lambda: watched.denoise_vjp(z, 0.5), lambda: draw(z)):
        with pytest.raises(Stopped):
            call()
    masked = object.__new__(AmbientPrior)
    assert stoppable(masked, lambda: False) is masked


def test_a_run_is_stopped_in_the_middle_of_a_level(tmp_path, prior_folder, monkeypatch):
    pytest.importorskip("gradio")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(tmp_path / "old.png")
    given = values(tmp_path / "old.png", prior_folder, samples=3)
    session = merged(events.upload(given))["session"]
    given, seen = replace(given, session=session), []
    plain = stopping.StoppablePrior.denoise

    def denoise(self, *args, **settings):
        seen.append(1)
        session.stopped = len(seen) >= 5
        return plain(self, *args, **settings)

    monkeypatch.setattr(stopping.StoppablePrior, "denoise", denoise)
    done = merged(events.restore(given))
    assert len(seen) == 5 and "Stopped. 1 finished sample kept" in done["status"], "three levels make a sample"
    assert done["run"]["interactive"] and not done["stop"]["interactive"] and len(session.result.samples) == 1


def test_a_job_that_is_silent_is_said_to_be_at_work(monkeypatch):
    monkeypatch.setattr("ambient_solve.app.desk.TICK", 0.01)
    gate = threading.Event()

    def reports():
        yield "begun"
        assert gate.wait(60)
        yield "done"

    seen = []
    for report in Desk().serve(Job(), reports(), str, lambda: "at work"):
        seen.append(report)
        if seen.count("at work") == 3:
            gate.set()
    assert seen[0] == "begun" and seen[-1] == "done" and set(seen[1:-1]) == {"at work"}


def test_what_is_said_between_reports_counts_the_passes_and_the_time(monkeypatch):
    now, watch = [0.0], Watch(lambda: False)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    prior, z = watch.on(tiny()), torch.zeros(1, 3, 16, 16)
    assert watch.words == "Preparing"
    watch.begin(120.0)
    now[0] = 50.0
    assert watch.words == "Starting; about 70 s left"
    for _ in range(5):
        prior.denoise(z, 1.0)
    assert "part 5 of the next level" in watch.progress().words
    watch.said(0.25, "Sample 1 of 2, level 3 of 6")
    assert watch.progress().words == "Sample 1 of 2, level 3 of 6" and watch.progress().share == 0.25


@pytest.fixture
def paces(monkeypatch) -> dict:
    known: dict = {("p", ""): 1e-6}
    monkeypatch.setattr(price, "_paces", known)
    return known


def test_the_price_follows_the_pixels_the_samples_and_the_steps(paces):
    prior = tiny()

    def asked(size=(256, 256), missing=None, **changes):
        given = {"algorithm": "proximal", "knobs": {"steps": 12}, "samples": 2, "prior": "p"} | changes
        return price.quote(RestoreRequest("denoise", {"sigma": 0.1}, **given), prior, size, missing)

    one = asked()
    assert asked(samples=4).seconds == 2 * one.seconds and asked(size=(256, 512)).seconds == 2 * one.seconds
    assert asked(knobs={"steps": 25}).seconds == pytest.approx(2 * one.seconds)
    # Where tiles overlap the network works twice: 16 tiles of 256 where there are 768x768 pixels.
    assert asked(size=(768, 768)).seconds == pytest.approx(16 * one.seconds)
    assert asked(size=(768, 768)).bytes < 16 * asked(size=(512, 512)).bytes
    assert "about" in one.words and "GB" in one.words and "smaller" not in one.words
    assert "smaller *Working size*" in asked(size=(4000, 3000)).words
    small = price.quote(
        RestoreRequest("denoise", {"sigma": 0.1}, size="reduced", prior="p", samples=1), prior, (3000, 4000)
    )
    assert small.seconds < 0.05 * asked(size=(3000, 4000), samples=1, algorithm="auto", knobs={}).seconds


def test_the_price_of_a_hole_is_that_of_its_surroundings(paces):
    given, prior = RestoreRequest("inpaint", {"sigma": 0.01}, prior="p"), tiny()
    missing = np.zeros((1500, 2000), bool)
    missing[700:710, 900:990] = True
    found = price.quote(given, prior, (1500, 2000), missing)
    before, whole = (
        price.quote(given, prior, (1500, 2000)),
        price.quote(replace(given, size="whole"), prior, (1500, 2000)),
    )
    assert found.seconds < before.seconds < whole.seconds / 20 and before.hole and not found.hole
    assert "missing part of 256x256" in before.words


def test_what_a_run_took_is_the_price_of_the_next(paces, tmp_path, prior_folder):
    pytest.importorskip("gradio")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(tmp_path / "old.png")
    given = values(tmp_path / "old.png", prior_folder, samples=1)
    up = merged(events.upload(given))
    assert "on this machine" in up["price"]
    given = replace(given, session=up["session"])
    merged(events.restore(given))
    result = given.session.result
    assert price.price_of(result.problem) == pytest.approx(result.seconds)
    assert "on this machine" in costs.priced(given)["price"]
    assert costs.priced(replace(given, samples=99))["price"] == "", "what is refused has no price"
