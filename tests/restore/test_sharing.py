"""Restoring in several processes: who draws what, that the result is that of one, and what a stop leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ambient_solve import NetworkConfig, NetworkPrior
from ambient_solve.distributed import processes
from ambient_solve.errors import AmbientSolveError
from ambient_solve.restore.files import restore_file, restore_files
from ambient_solve.restore.sharing import PART, PIXELS, Share, groups
from ambient_solve.restore.tasks import Denoise
from helpers import one_sentence

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]  # seconds: its tests wait for other processes
STEPS, SAMPLES, SIDE, GROUP = 8, 8, 64, 4
WORDS = ("--task", "denoise", "--sigma", "0.1", "--algorithm", "proximal", "--steps", str(STEPS), "--device", "cpu")
SETTINGS = {"algorithm": "proximal", "options": {"steps": STEPS}, "n_samples": SAMPLES}


@pytest.fixture(scope="module", autouse=True)
def small_groups():
    """A group is as large in these small pictures as it is at 256x256."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(PIXELS, "cpu", GROUP * SIDE**2)
        yield


@pytest.fixture(scope="module")
def prior(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("prior")
    torch.manual_seed(0)
    made = NetworkPrior(NetworkConfig(widths=(8,), groups=4, embedding=16))
    for p in made.parameters():
        torch.nn.init.normal_(p, std=0.05)
    made.save(folder)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Three: two are dealt out whole to two processes, of the third each draws a half."""
    folder = tmp_path_factory.mktemp("in")
    for i in range(3):
        array = np.random.default_rng(i).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(array).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def alone(prior, pictures, tmp_path_factory) -> dict[str, bytes]:
    """What one process makes of them."""
    out = tmp_path_factory.mktemp("alone")
    outcomes = list(restore_files([pictures], NetworkPrior.load(prior), Denoise(sigma=0.1), out=out, **SETTINGS))
    assert [o.drawn for o in outcomes] == [None] * 3 and not any(o.error for o in outcomes)
    return contents(out)


def contents(out: Path) -> dict[str, bytes]:
    """The samples byte by byte and the pixels of the pictures; what else is in the files tells seconds."""
    assert not [p for p in out.rglob(f"{PART}*")], "nothing unfinished is left behind"
    found = {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*.safetensors"))}
    return found | {str(p.relative_to(out)): Image.open(p).tobytes() for p in sorted(out.rglob("*.png"))}


LAUNCHER = """
import os, sys, torch, ambient_solve.solver  # imported once: the processes are forks that have computed nothing yet
from ambient_solve.cli.dispatch import main
from ambient_solve.restore.sharing import PIXELS
PIXELS["cpu"], world, words = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
started = []
for rank in range(world):
    if not (pid := os.fork()):
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world)}
        os._exit(main(["restore", *words]))
    started.append(pid)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in started))
"""


def start(world: int, *words: str) -> subprocess.Popen:
    """So many processes, in a group of their own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LAUNCHER, str(PIXELS["cpu"]), str(world), *words]
    return subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("pictures", "world"), [(1, 1), (1, 2), (3, 2), (2, 3), (5, 4), (4, 2), (7, 8)])
def test_every_group_is_drawn_by_one_process(pictures, world):
    load = dict.fromkeys(range(world), 0)
    for number in range(pictures):
        for group in range(4):
            (rank,) = [r for r in range(world) if Share(number, pictures, r, world).takes(group)]
            assert not Share(number, pictures, rank, world).empty
            load[rank] += 1
    assert max(load.values()) - min(load.values()) <= 1 or pictures * 4 < world
    # The control: picture by picture, one of two processes would do two thirds of three.
    assert (pictures, world) != (3, 2) or set(load.values()) == {6}


def test_groups_follow_from_the_picture_alone():
    pixels = SIDE**2
    assert groups(8, pixels, "cpu") == [range(0, 4), range(4, 8)]
    assert groups(10, pixels, "cpu") == [range(0, 4), range(4, 8), range(8, 10)]
    assert groups(0, pixels, "cpu") == [range(0, 0)] == groups(0, pixels, "cpu", together=True)  # the solver refuses it
    assert groups(2, 4000 * 4000, "cpu") == [range(0, 1), range(1, 2)]
    assert groups(8, pixels, "cuda") == [range(0, 8)] == groups(8, 4000 * 4000, "cpu", together=True)


def test_two_processes_stopped_and_gone_on_as_three_make_what_one_makes(prior, pictures, alone, tmp_path):
    words = (str(pictures), *WORDS, "--samples", str(SAMPLES), "--prior", str(prior), "--out", str(tmp_path / "out"))
    running = start(2, *words)
    try:
        until = time.monotonic() + 60
        while not list((tmp_path / "out").rglob("*.safetensors")) and time.monotonic() < until:
            time.sleep(0.01)
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.communicate()
    finished = len(list((tmp_path / "out").rglob("settings.json")))
    assert list((tmp_path / "out").rglob("*.safetensors")) and finished < 3
    again = start(3, *words)
    said = again.communicate(timeout=120)[1]
    assert again.returncode == 0, said
    assert contents(tmp_path / "out") == alone
    record = json.loads((tmp_path / "out" / "2" / "settings.json").read_text())
    assert record["n_samples"] == SAMPLES and len(record["chi2"][0]) == SAMPLES
    # The control: another seed is another picture.
    other = restore_file(
        pictures / "2.png",
        NetworkPrior.load(prior),
        Denoise(sigma=0.1),
        seed=1,
        out=tmp_path / "other",
        **SETTINGS,
    )
    assert other.drawn is None and contents(tmp_path / "other")["samples.safetensors"] != alone["2/samples.safetensors"]


def test_a_shared_picture_is_saved_by_whoever_is_last(prior, pictures, alone, tmp_path, monkeypatch):
    loaded = NetworkPrior.load(prior)
    half = lambda rank, **more: restore_file(  # noqa: E731
        pictures / "2.png",
        loaded,
        Denoise(sigma=0.1),
        out=tmp_path / "2",
        share=Share(2, 3, rank, 2),
        **SETTINGS | more,
    )
    first = half(1)
    assert (first.drawn, first.restoration) == (4, None) and first.chi2 > 0
    assert not (tmp_path / "2" / "settings.json").exists()
    # What is stored for another request does not count.
    assert half(0, seed=1).drawn == 4 and half(0, seed=1).drawn == 4
    assert half(1).drawn == 4
    drawn = []
    denoise = NetworkPrior.denoise
    monkeypatch.setattr(NetworkPrior, "denoise", lambda self, z, *rest: drawn.append(len(z)) or denoise(self, z, *rest))
    last = half(0)
    assert last.drawn is None and last.restoration.samples.shape[1] == SAMPLES and drawn == [4] * STEPS
    assert contents(tmp_path / "2")["samples.safetensors"] == alone["2/samples.safetensors"]
    assert half(0).skipped and half(1).skipped and drawn == [4] * STEPS
    torch.testing.assert_close(load_file(tmp_path / "2" / "samples.safetensors")["samples"], last.restoration.samples)


def test_one_process_goes_on_within_a_picture(prior, pictures, alone, tmp_path, monkeypatch):
    loaded = NetworkPrior.load(prior)
    calls, denoise = [], NetworkPrior.denoise

    def interrupted(self, z, *rest):
        calls.append(len(z))
        if len(calls) == STEPS + 3:
            raise KeyboardInterrupt
        return denoise(self, z, *rest)

    monkeypatch.setattr(NetworkPrior, "denoise", interrupted)
    again = lambda: restore_file(pictures / "0.png", loaded, Denoise(sigma=0.1), out=tmp_path / "0", **SETTINGS)  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        again()
    assert calls == [4] * (STEPS + 3) and not (tmp_path / "0" / "settings.json").exists()
    assert again().restoration.samples.shape[1] == SAMPLES and calls == [4] * (2 * STEPS + 3)  # the second group anew
    assert contents(tmp_path / "0")["samples.safetensors"] == alone["0/samples.safetensors"]


def test_a_bad_file_stops_no_other_process(prior, pictures, tmp_path):
    """Under torchrun, which ends all processes as soon as one has failed: the first is done long before the second."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_text("not a picture")
    for name in ("b", "c", "d"):
        (tmp_path / "in" / f"{name}.png").write_bytes((pictures / "0.png").read_bytes())
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "ambient_solve", "restore", str(tmp_path / "in"), *WORDS, "--samples", "1"]
    command += ["--prior", str(prior), "--out", str(tmp_path / "out")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode != 0 and ended.stderr.count("a.png is not a picture") == 1, ended.stderr
    assert sorted(p.parent.name for p in (tmp_path / "out").rglob("mean.png")) == ["b", "c", "d"]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 1, 0)),
        ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, (3, 4, 1)),
        ({"RANK": "4", "WORLD_SIZE": "4"}, None),
        ({"RANK": "-1", "WORLD_SIZE": "4"}, None),
    ],
)
def test_ranks_are_read_as_torchrun_sets_them(environment, expected):
    if expected:
        assert processes(environment) == expected
        return
    with pytest.raises(AmbientSolveError, match="RANK below WORLD_SIZE") as error:
        processes(environment)
    assert one_sentence(error)
