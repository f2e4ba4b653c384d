"""A run that is lengthened, and one that is stopped: nothing is lost, and what is unwise is said."""

from __future__ import annotations

import importlib
import json
import os
import signal

import pytest

pytest.importorskip("accelerate", reason="training needs accelerate: pip install 'ambient-solve[train]'")

from helpers import one_sentence
from test_train_safety import command, root, trainers  # noqa: F401

PARTS = ["prior/model.safetensors", "stats.jsonl", *(f"checkpoint-6/{p}.safetensors" for p in ("model", "ema"))]
PARTS += ["checkpoint-6/optimizer.safetensors"]


def rates(out) -> list[float]:
    return [json.loads(line)["lr"] for line in (out / "stats.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("schedule", ["constant", "inverse_sqrt"])
def test_a_lengthened_run_is_the_long_run_bit_for_bit(root, command, tmp_path, schedule):  # noqa: F811
    long, short = ({"images": n, "schedule": schedule, "lr": 1e-3, "warmup": 4, "decay": 8} for n in (24, 16))
    assert command(long, "--out", str(tmp_path / "long"))[0] == 0
    assert command(short, "--out", str(tmp_path / "short"))[0] == 0
    before = (tmp_path / "short/prior/model.safetensors").read_bytes()
    code, _, error = command(long, "--out", str(tmp_path / "short"))
    assert code == 0 and "The run of 16 images goes on to 24, from step 4 of 6." in error and "warning" not in error
    for part in PARTS:
        assert (tmp_path / "short" / part).read_bytes() == (tmp_path / "long" / part).read_bytes(), part
    assert (tmp_path / "short/prior/model.safetensors").read_bytes() != before
    cards = [(tmp_path / out / "prior/README.md").read_text() for out in ("short", "long")]
    assert "Lengthened after step 4, from 16 images" in cards[0] and "Lengthened" not in cards[1]
    # The same command again changes nothing and says no more of it.
    code, _, error = command(long, "--out", str(tmp_path / "short"))
    assert code == 0 and "goes on to" not in error and "This run is finished, after 6 steps" in error


def test_a_lengthened_cosine_is_warned_of_and_goes_on(root, command, tmp_path):  # noqa: F811
    own = {"lr": 1e-3, "warmup": 4}
    assert command({**own, "images": 16}, "--out", str(tmp_path / "run"))[0] == 0
    code, _, error = command({**own, "images": 32}, "--out", str(tmp_path / "run"))
    assert code == 0 and "warning: the cosine schedule had brought the learning rate to 0.00015" in error
    found = rates(tmp_path / "run")
    # Half way down the longer cosine after four of eight steps: 0.5 (1 + cos(pi k / 8)).
    assert found[3] == pytest.approx(1.46e-4, rel=0.01) and found[4] == pytest.approx(5e-4) and len(found) == 8


def test_a_run_is_not_shortened_nor_changed_while_it_is_lengthened(root, command, tmp_path):  # noqa: F811
    out = tmp_path / "run"
    assert command({"images": 16}, "--out", str(out))[0] == 0
    for settings, said in (
        ({"images": 8}, "images was 16 and is 8, which may grow and not shrink."),
        ({"images": 24, "lr": 1e-4}, "(images, lr)"),
    ):
        code, _, error = command(settings, "--out", str(out))
        assert code == 2 and one_sentence(error) and said in error, error
    assert json.loads((out / "run.json").read_text())["images"] == 16


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_keeps_every_step(root, command, trainers, tmp_path, monkeypatch, sign):  # noqa: F811
    """Between two checkpoints and two rows of statistics; what follows is that of a run that was never stopped."""
    settings = {"stats_every": 3, "checkpoint_every": 6, "validate_every": 3}
    assert command(settings, "--out", str(tmp_path / "whole"))[0] == 0
    loop = trainers("ambient_solve.training.loop")
    rate, stop_at = loop.learning_rate, 1

    def interrupted(config, step, steps):
        if step == stop_at:
            os.kill(os.getpid(), sign)
        return rate(config, step, steps)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "learning_rate", interrupted)
        code, _, error = command(settings, "--out", str(tmp_path / "stopped"))
    assert code == "\nStopped after step 2 of 6; the same command goes on there." and "Stopping after this" in error
    assert [p.name for p in (tmp_path / "stopped").glob("checkpoint*")] == ["checkpoint-2"]
    code, _, error = command(settings, "--out", str(tmp_path / "stopped"))
    assert code == 0 and "Going on at step 2 of 6." in error
    for part in (*PARTS, "progress.png"):
        assert (tmp_path / "stopped" / part).read_bytes() == (tmp_path / "whole" / part).read_bytes(), part
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_second_ctrl_c_ends_at_once(trainers):  # noqa: F811
    stopping = importlib.import_module("ambient_solve.training.stopping")
    with pytest.raises(KeyboardInterrupt), stopping.Stopping(1) as heard:
        signal.raise_signal(signal.SIGINT)
        assert heard.asked
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), stopping.Stopping(2):  # several processes are stopped where they are
        signal.raise_signal(signal.SIGINT)


def test_what_a_run_says_before_its_first_step(root, command, tmp_path):  # noqa: F811
    pytest.importorskip("tensorboard")
    own = {"images": 240, "stats_every": 10, "checkpoint_every": 20, "tracker": "auto", "held_out": 0.1}
    code, _, error = command({**own, "validate_every": 20, "crop": 8}, "--out", str(tmp_path / "run"))
    assert code == 0
    for words in (
        "Held out to measure on: 1 of 8 pictures",
        "Training on 7 pictures: 4 clean, 3 noise.",
        "This run damages its clean pictures itself, once, as `corruption` says: 50 % stay clean",
        f"In {tmp_path / 'run'}:",
        "stats.jsonl       the losses, a row every 10 steps of 60",
        "first at step 20, then rewritten",
        f"tensorboard --logdir {tmp_path / 'run'}",
    ):
        assert error.count(words) == 1, (words, error)
    for name in ("stats.jsonl", "progress.png", "samples-20.png", "checkpoint-60", "prior", "ambient_solve"):
        assert (tmp_path / "run" / name).exists(), name
    code, _, error = command({"images": 4}, "--out", str(tmp_path / "clean"), "--corruption.clean-share", "1")
    assert code == 0 and "Training on 8 pictures: 8 clean." in error and "damages" not in error
