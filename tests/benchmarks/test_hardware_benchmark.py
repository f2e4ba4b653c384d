"""The benchmark of the hardware: what it compares, in turns, and that its processes make the same samples."""

from __future__ import annotations

import sys

import pytest
import torch

import hardware
from ambient_solve import NetworkConfig, NetworkPrior


@pytest.fixture
def tiny(monkeypatch):
    def load(name):
        torch.manual_seed(0)
        prior = NetworkPrior(NetworkConfig(widths=(8,), groups=4, embedding=16))
        return prior.eval().requires_grad_(False)

    monkeypatch.setattr(hardware, "load_prior", load)


def test_what_is_compared_takes_turns():
    calls, now = [], [0.0]

    def spend(name, seconds):
        calls.append(name)
        now[0] += seconds

    found = hardware.turns([lambda: spend("a", 1.0), lambda: spend("b", 2.0)], 3, lambda: now[0])
    assert calls == ["a", "b"] * 4 and found == [[1.0] * 3, [2.0] * 3]  # the first of each is not measured
    assert hardware.three([3.0, 1.0, 2.0, 10.0]) == "1, 2.5, 10"


def test_the_other_runs_the_same_network_in_float32(tiny, monkeypatch):
    monkeypatch.setattr("ambient_solve.priors.network.multiplies_bfloat16", lambda device: True)
    ours, theirs = hardware.load_prior("photos"), hardware.as_deepinv_runs_it(hardware.load_prior("photos"))
    assert ours.match_layout(torch.device("cpu")) == (True, torch.channels_last)
    assert theirs.match_layout(torch.device("cpu")) == (False, torch.contiguous_format)
    lines = hardware.network(1, sides=(16,), steps=1)
    assert [line.split("|")[1].strip() for line in lines[2:6]] == ["1 x 16 px"] * 2 + ["8 x 16 px"] * 2
    assert all("+" in line or "-" in line for line in lines[-3:])


def test_samples_and_profile_are_tables(tiny, monkeypatch):
    monkeypatch.setattr(hardware, "TOGETHER", 3)
    lines = hardware.samples(1, sides=(16,), steps=1)
    assert "3 samples" in lines[0] and len(lines) == 4
    lines = hardware.profile(16, steps=1, rows=4)
    rows = [[cell.strip() for cell in line.split("|")[1:4]] for line in lines if "%" in line]
    shares = [float(share.rstrip("%")) for _, share, _ in rows]
    # Which operations these are is the machine's affair.
    assert len(rows) == 8 and all(name.startswith("aten::") and int(calls) > 0 for name, _, calls in rows)
    for part in (shares[:4], shares[4:]):
        assert part == sorted(part, reverse=True) and 10 < sum(part) <= 100.1


def test_the_peak_is_that_of_the_process():
    small, large = (
        hardware.peak([sys.executable, "-c", f"x = bytearray({n} * 2**20); x[::4096] = bytes([1]) * len(x[::4096])"])
        for n in (1, 200)
    )
    assert 190 < large - small < 215 and small < 60  # and not what this process holds
    with pytest.raises(SystemExit, match="failed"):
        hardware.peak([sys.executable, "-c", "raise SystemExit(3)"])
