"""EM compares its priors on measurements that it did not learn from, keeps the best, and says where it got worse."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("accelerate", reason="training needs accelerate: pip install 'ambient-solve[train]'")

from ambient_solve.algorithms import MMPS
from ambient_solve.data.sample import Sample
from ambient_solve.priors.gaussian import GaussianPrior
from ambient_solve.priors.network import NetworkConfig, NetworkPrior
from helpers import randn
from test_em import SETTINGS, em, expectation, run, stub  # noqa: F401
from test_expectation import NOISE, SHAPE, incomplete_samples, truth

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "trainers"))
compare = importlib.import_module("ambient_solve.training.compare")

GUIDED = expectation.FromSolver(MMPS(steps=20), floor=1e-3)
DAMAGED = {"corruption": {"clean_share": 0.0, "damages": [{"kind": "random-mask", "missing": 0.5, "sigma": 0.05}]}}


def error(prior, samples: list[Sample], method=GUIDED) -> float:
    return compare.held_out_error(prior, method, samples, em.Config(out="x"), 256, 0)


def with_noise_alone(n: int) -> list[Sample]:
    z = truth().sample(n, torch.Generator().manual_seed(8))
    return [Sample(str(i), row + NOISE * randn(*SHAPE, seed=i), NOISE) for i, row in enumerate(z)]


@pytest.mark.parametrize("kind", ["masked", "noisy"])
def test_the_prior_of_the_data_predicts_what_is_hidden_better_than_wrong_ones(kind):
    samples = incomplete_samples(60, 8) if kind == "masked" else with_noise_alone(60)
    right, mean, covariance = truth(), truth().mean, truth().covariance
    wrong = {
        "no correlation": GaussianPrior(mean, torch.diag(covariance.diagonal())),
        "mean shifted by 1": GaussianPrior(mean + 1, covariance),
        "half of the correlation": GaussianPrior(mean, 0.5 * covariance + 0.5 * torch.diag(covariance.diagonal())),
    }
    best = error(right, samples)
    found = {name: error(prior, samples) for name, prior in wrong.items()}
    print(f"\n{kind}: {best:.4f} of the true prior; {found}")
    assert all(value > best for value in found.values())
    assert error(right, samples) == best, "the same entries and noise each time"


def test_what_is_hidden_reaches_no_draw():
    samples, drawn = incomplete_samples(12, 8), []

    class Watched(type(GUIDED).__base__):
        settings = GUIDED.settings

        def draw(self, prior, rows, seeds):
            drawn.append(GUIDED.draw(prior, rows, seeds))
            return drawn[-1]

    first = error(truth(), samples, Watched())
    hidden = [s.mask.bool() & ~compare._shown(s, GUIDED, i).mask.bool() for i, s in enumerate(samples)]
    other = [replace(s, z=torch.where(h, s.z + 1, s.z)) for s, h in zip(samples, hidden, strict=True)]
    second = error(truth(), other, Watched())
    assert torch.equal(drawn[0], drawn[1]) and first != second and sum(int(h.sum()) for h in hidden) > 6
    assert all(0 < int(h.sum()) < int(s.mask.sum()) for s, h in zip(samples, hidden, strict=True) if h.any())


def test_a_tenth_of_the_damaged_is_held_out_at_most_and_clean_ones_are_not():
    clean = [Sample(f"c{k}", torch.zeros(SHAPE)) for k in range(5)]
    samples = [*incomplete_samples(40, 8), *clean]
    learned, apart = compare.hold_out(samples, GUIDED, 16)
    assert apart == samples[36:40] and learned == samples[:36] + clean
    assert compare.hold_out(samples, GUIDED, 2)[1] == samples[38:40]
    assert compare.hold_out(samples, GUIDED, 0)[1] == [] and compare.hold_out(samples[:9], GUIDED, 16)[1] == []


def test_warning_is_a_sentence_about_what_got_worse():
    assert compare.verdict([3.0, 2.0, 1.0], "") == "" and compare.best_of([3.0, 1.0, 1.0]) == 2
    worse = compare.verdict([3.0, 1.0, 2.0], "kept")
    assert "by the last iteration (error 2) than by iteration 1 (1): kept" in worse
    assert "the prior that it began with (1)" in compare.verdict([1.0, 2.0, 3.0], "kept")


CASES = {
    "better each time": ([3.0, 2.0, 1.0], "iteration-2", ""),
    "the first is best": ([3.0, 1.0, 2.0], "iteration-1", "than by iteration 1"),
    "none is better than the start": ([1.0, 2.0, 3.0], "init", "than by the prior that it began with"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("given", [True, False])
def test_best_prior_is_kept_and_a_worse_end_is_said(run, tmp_path, monkeypatch, capsys, case, given):  # noqa: F811
    values, kept, said = CASES[case]
    monkeypatch.setattr(em, "train", stub)
    left = iter(values)
    monkeypatch.setattr(em, "held_out_error", lambda *a: next(left))
    options = []
    if given:
        network = {**SETTINGS["train"]["network"], "widths": (8,)}
        NetworkPrior(NetworkConfig(**network), "float32").save(tmp_path / "init", "card")
        options = ["--init", str(tmp_path / "init")]
    run("out", {}, DAMAGED, *options)
    error = capsys.readouterr().err
    best = {"init": tmp_path / "init" if given else tmp_path / "out" / "iteration-1" / "prior"}
    folder = best.get(kept, tmp_path / "out" / kept / "prior")
    assert (tmp_path / "out" / "prior" / "model.safetensors").read_bytes() == (
        folder / "model.safetensors"
    ).read_bytes()
    assert ("warning" in error) == bool(said) and said in error
    assert json.loads((tmp_path / "out" / "held-out.json").read_text()) == dict(zip("012", values, strict=True))
    # Resumed, nothing is measured again.
    run("out", {}, DAMAGED, *options)


@pytest.mark.parametrize("mode", ["mmps", "conditional", "dataloop"])
def test_every_mode_measures_its_iterations(run, tmp_path, monkeypatch, mode):  # noqa: F811
    monkeypatch.setattr(em, "train", stub)
    noisy = {"corruption": {"clean_share": 0.0, "damages": [{"kind": "noise", "sigma": 0.3}]}}
    options = []
    if mode == "dataloop":
        NetworkPrior(NetworkConfig(**{**SETTINGS["train"]["network"], "widths": (8,)}), "float32").save(tmp_path / "i")
        options = ["--init", str(tmp_path / "i")]
    run("out", {"mode": mode, "steps": 2}, noisy if mode == "dataloop" else DAMAGED, *options)
    found = json.loads((tmp_path / "out" / "held-out.json").read_text())
    # A network that has not learned yet answers alike whatever its weights: the iterations of the stub may tie.
    assert set(found) == {"0", "1", "2"} and all(0 < value < 1e6 for value in found.values())
    names = [json.loads(line)["name"] for line in (tmp_path / "out/iteration-1/restored-0/manifest.jsonl").open()]
    assert len(names) == 11, "the twelfth is held out"


def test_folder_says_what_was_done_to_the_pictures_that_it_restores(run, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(em, "train", stub)
    run("out", {"iterations": 1, "held_out": 0}, DAMAGED)
    found = json.loads((tmp_path / "out/iteration-1/restored-0/corruption.json").read_text())
    assert found["source"] == "pictures" and found["shrink"] == 1 and found["restored in iteration"] == 1
    assert found["damages"][0]["kind"] == "random-mask"
