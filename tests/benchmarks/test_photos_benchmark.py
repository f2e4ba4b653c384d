"""The photographs benchmark: what it measures, how it tunes the peers, and which rows it keeps."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

import photos
from helpers import AffinePrior
from photos import TASKS, Metrics, Peer, measure, photographs, table, tuned

METRICS = Metrics(None)


def picture(seed: int = 0) -> Tensor:
    return torch.rand(3, photos.SIDE, photos.SIDE, generator=torch.Generator().manual_seed(seed))


def test_the_photographs_are_those_nothing_was_chosen_on():
    shown = dict(photographs(None))
    assert len(shown) == 5 and not {"astronaut", "chelsea", "coffee"} & set(shown)
    for x in shown.values():
        assert x.shape == photos.SIZE and 0 <= x.min() and x.max() <= 1
        assert x.std() > 0.03  # something is in the crop


def test_a_peer_is_tuned_once_for_each_prior_and_task(tmp_path, monkeypatch):
    calls = []

    def run(y: Tensor, op: object, prior: float, a: float, b: float) -> Tensor:
        """Best at a = prior / b, b = 1."""
        calls.append((a, b))
        return picture()[None] + abs(a * b - prior) + abs(b - 1)

    monkeypatch.setattr(photos, "_tuning_photographs", lambda data: picture()[None])
    monkeypatch.setitem(photos.PEERS, "fake", Peer(run, {"a": (0.001, 0.002), "b": (0.5, 1.0)}, {"b": 1.0}))
    path = tmp_path / "tuning.json"
    first = tuned(path, tmp_path, "one", 0.016, "fake", "denoise")
    assert first == {"a": 0.016, "b": 1.0}
    n = len(calls)
    assert tuned(path, tmp_path, "one", 0.016, "fake", "denoise") == first and len(calls) == n
    assert tuned(path, tmp_path, "two", 0.004, "fake", "denoise") == {"a": 0.004, "b": 1.0}
    assert len(json.loads(path.read_text())) == 2


def test_the_mean_of_runs_is_distinguished_from_a_single_picture(monkeypatch):
    """Pictures of squared error .01 whose errors are independent: the mean of 8 has an eighth of it, 9 dB more."""
    x = 0.25 + picture() / 2

    def run(y: Tensor, op: object, prior: object) -> Tensor:
        return x + 0.05 * torch.randn(len(y), *x.shape)

    monkeypatch.setitem(photos.PEERS, "fake", Peer(run, {}))
    one, eight = (measure("a", x, "denoise", "fake", AffinePrior(), METRICS, {}, runs) for runs in (1, 8))
    assert "mean" not in one and one["pictures"] == 1 and eight["pictures"] == 8
    assert abs(one["sample"]["psnr"] - 26.02) < 0.1 and abs(eight["sample"]["psnr"] - 26.02) < 0.1
    assert abs(eight["mean"]["psnr"] - 26.02 - 9.03) < 0.1
    assert abs(eight["V"] / 0.05**2 - 1) < 0.02


@pytest.mark.parametrize("task", ["random 70 % missing", "box 40x40 missing", "motion blur"])
def test_the_misfit_of_the_truth_is_one(task, monkeypatch):
    """Also where pixels are missing: their zeros are no measurements."""
    x = picture()
    monkeypatch.setitem(photos.PEERS, "truth", Peer(lambda y, op, prior: x[None], {}, random=False))
    row = measure("a", x, task, "truth", AffinePrior(0.5, 0.5), METRICS, {}, 1)
    assert abs(row["chi2"] - 1) < 0.05
    if task == "random 70 % missing":
        op = TASKS[task]()
        everywhere = (op(x[None]) - op.A(x[None])).square().mean() / op.noise_model.sigma**2
        assert everywhere < 0.35  # control: over all pixels, a third of that


def row(prior: str, photo: str, psnr: float, method: str = "proximal", **more: object) -> dict:
    quality = {"psnr": psnr, "ssim": 0.5}
    return {
        "prior": prior,
        "photo": photo,
        "task": "denoise",
        "method": method,
        "seconds": 1.0,
        "sample": quality,
    } | more


def test_priors_are_compared_on_the_same_photographs():
    rows = [row("one", "a", 20.0), row("one", "b", 30.0), row("two", "a", 21.0)]
    assert table(rows, ["one"]).splitlines()[2:] == [
        "| denoise | proximal (2) |  | 25.00 |  | 0.500 |  |  |  |  | 1.0 |"
    ]
    one, two = table(rows, ["one", "two"]).splitlines()[2:]
    assert one.startswith("| denoise | proximal (1) | one |  | 20.00 |")  # not 25.00: b was not measured with two
    assert two.startswith("| denoise | proximal (1) | two |  | 21.00 |")
    both = table([*rows, row("two", "b", 34.0)], ["one", "two"]).splitlines()
    assert both[0].endswith("| gain over one, dB |")
    assert both[2].endswith("| 1.0 |  |") and both[3].endswith("| +2.50 ± 1.50 |")  # 1 and 4 dB


def test_the_mean_stands_only_where_every_photograph_has_it():
    spread = {"mean": {"psnr": 28.0, "ssim": 0.7}, "V": 1.0, "ratio": 0.5, "chi2": 1.0}
    full = [row("one", p, 25.0, **spread) for p in "ab"]
    assert "| 28.00 | 25.00 | 0.700 | 0.500 |  |  | 1.00 | 0.50 | 1.0 |" in table(full, ["one"])
    assert "28.00" not in table([full[0], row("one", "b", 25.0)], ["one"])


def fake_run(tmp_path, monkeypatch, *arguments: str) -> int:
    """How many rows a call of the command measures."""
    made = []

    def fake(name: str, x: Tensor, task: str, method: str, prior: object, metrics: object, setting: dict, runs: int):
        made.append(name)
        more = {"setting": setting, "pictures": photos.pictures(method, runs)}
        return {k: v for k, v in row("", name, 20.0, method, **more).items() if k != "prior"}

    monkeypatch.setattr(photos, "measure", fake)
    photos.main(["--out", str(tmp_path), "--tasks", "denoise", "--methods", "measured", "proximal", *arguments])
    return len(made)


def test_a_row_is_measured_once_for_each_prior(tmp_path, monkeypatch, capsys):
    assert fake_run(tmp_path, monkeypatch, "--six") == 4  # two methods on rocket and camera
    assert fake_run(tmp_path, monkeypatch) == 6  # the other three photographs
    assert fake_run(tmp_path, monkeypatch) == 0
    assert fake_run(tmp_path, monkeypatch, "--priors", "photos=photos", "again=photos") == 10  # those of "again"
    path = tmp_path / "rows.jsonl"
    path.write_text(path.read_text().replace('"weights": "', '"weights": "0'))
    with pytest.raises(SystemExit):
        fake_run(tmp_path, monkeypatch)
    assert "with other weights: give the prior another name" in capsys.readouterr().err


def test_peers_without_data_are_refused_in_one_sentence(tmp_path, capsys):
    with pytest.raises(SystemExit):
        photos.main(["--out", str(tmp_path)])
    assert "the peers are tuned on photographs of DATA: give --data" in capsys.readouterr().err
    photos.main(["--out", str(tmp_path), "--table"])  # printing needs no data
