"""EM: each iteration raises the likelihood of the measurements, goes on after a stop, and trains what its mode says."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

pytest.importorskip("accelerate", reason="training needs accelerate: pip install 'ambient-solve[train]'")

from ambient_solve.algorithms import DPS, MMPS, Algorithm, PiGDM
from ambient_solve.cli.train import em_command
from ambient_solve.data.corruption import Corruption, read_corrupted, write_corrupted
from ambient_solve.data.damages import Noise
from ambient_solve.errors import AmbientSolveError
from ambient_solve.priors.gaussian import GaussianPrior
from ambient_solve.priors.network import NetworkConfig, NetworkPrior
from helpers import one_sentence
from test_expectation import NOISE, SHAPE, D, files, incomplete_samples, truth

TRAINERS = Path(__file__).resolve().parents[2] / "trainers"
sys.path.insert(0, str(TRAINERS))
em, expectation = (
    importlib.import_module("ambient_solve.training.em"),
    importlib.import_module("ambient_solve.training.expectation"),
)

SEEN, ITERATIONS = 3, 8


# Iterations in an exact family: z0 ~ N(mean, C) in 12 dimensions, 9 of them missing in each sample ---

SAMPLES = incomplete_samples(200, SEEN)


def posterior(prior: GaussianPrior) -> tuple[Tensor, Tensor, float]:
    """Posterior means (n, D), their mean covariance, and the mean log-likelihood of a measurement, all exact."""
    z = torch.stack([s.z for s in SAMPLES]).flatten(1).double()
    seen = torch.stack([s.mask for s in SAMPLES]).flatten(1).nonzero()[:, 1].reshape(len(z), SEEN)
    mean, C = prior.mean.flatten(), prior.covariance
    residual, across = z.gather(1, seen) - mean[seen], C[:, seen].transpose(0, 1)
    K = C[seen[:, :, None], seen[:, None, :]] + NOISE**2 * torch.eye(SEEN).double()
    gain = torch.linalg.solve(K, across, left=False)
    evidence = torch.distributions.MultivariateNormal(torch.zeros(SEEN).double(), K).log_prob(residual)
    return mean + (gain @ residual[..., None])[..., 0], C - (gain @ across.mT).mean(0), float(evidence.mean())


def moments(z: Tensor, within: Tensor | float = 0.0) -> GaussianPrior:
    """The M-step of the family: mean and covariance of `z` (n, D), plus what it varies within each row."""
    z = z.flatten(1).double()
    spread = z - z.mean(0)
    return GaussianPrior(z.mean(0).reshape(SHAPE), spread.T @ spread / len(z) + within + 1e-9 * torch.eye(D))


def exact_step(prior: GaussianPrior) -> GaussianPrior:
    means, covariance, _ = posterior(prior)
    return moments(means, covariance)


def means_step(prior: GaussianPrior) -> GaussianPrior:
    """A plausible wrong E-step: the best guess of every picture."""
    return moments(posterior(prior)[0])


def sampled_step(algorithm: Algorithm):
    rows = [s for s in SAMPLES for _ in range(2)]
    method, iteration = expectation.FromSolver(algorithm), iter(range(1000))

    def step(prior: GaussianPrior) -> GaussianPrior:
        first = 1000 * next(iteration)
        return moments(method.draw(prior, rows, range(first, first + len(rows))))

    return step


def likelihoods(step) -> list[float]:
    prior, found = GaussianPrior(torch.zeros(SHAPE), 0.25 * torch.eye(D)), []
    for _ in range(ITERATIONS):
        found.append(posterior(prior)[2])
        prior = step(prior)
    return [*found, posterior(prior)[2]]


@pytest.fixture(scope="module")
def exact_iterations() -> list[float]:
    return likelihoods(exact_step)


def test_exact_e_step_raises_the_likelihood_in_every_iteration(exact_iterations):
    print("\nmean log-likelihood, exact E-step:", *(f"{x:.3f}" for x in exact_iterations))
    print(f"of the truth: {posterior(truth())[2]:.3f}")
    assert all(after >= before - 1e-6 for before, after in zip(exact_iterations, exact_iterations[1:], strict=False))
    assert exact_iterations[-1] > exact_iterations[0] + 0.5


def test_batched_posterior_is_that_of_the_prior():
    means, covariance, _ = posterior(truth())
    rows = [(s, s.mask.flatten().bool()) for s in SAMPLES]
    each = [truth().posterior(torch.eye(D)[seen], s.z.flatten()[seen], NOISE) for s, seen in rows]
    torch.testing.assert_close(means, torch.stack([p.mean.flatten() for p in each]))
    torch.testing.assert_close(covariance, torch.stack([p.covariance for p in each]).mean(0))


@pytest.fixture(scope="module")
def sampled_iterations() -> list[float]:
    return likelihoods(sampled_step(MMPS(steps=20)))


def test_samples_of_mmps_raise_it_as_far_but_for_the_error_of_drawing(exact_iterations, sampled_iterations):
    print("\nmean log-likelihood, MMPS samples:", *(f"{x:.3f}" for x in sampled_iterations))
    assert all(after > before - 0.02 for before, after in zip(sampled_iterations, sampled_iterations[1:], strict=False))
    assert abs(sampled_iterations[-1] - exact_iterations[-1]) < 0.1


WRONG = {
    "posterior means": means_step,
    "fixed covariance (PiGDM)": sampled_step(PiGDM(steps=20)),
    "no covariance (DPS)": sampled_step(DPS(steps=20)),
    "the published step of MMPS": sampled_step(MMPS(steps=20, covariance_noise=False)),
}


@pytest.mark.parametrize("name", WRONG)
def test_control_an_e_step_without_the_right_spread_ends_lower(sampled_iterations, name):
    found = likelihoods(WRONG[name])
    print(f"\nmean log-likelihood, {name}:", *(f"{x:.3f}" for x in found))
    assert found[-1] < sampled_iterations[-1] - 0.15


# Iterations that are interrupted, and what they are given ---


SETTINGS = {
    "iterations": 2,
    "batch": 4,
    "knobs": {"steps": 3, "iterations": 1},
    "train": {
        "name": "tiny",
        "sources": [{"path": "pictures", "terms": "made by the test"}],
        "corruption": {"clean_share": 0.25, "damages": [{"kind": "random-mask", "missing": 0.75, "sigma": 0.05}]},
        "network": {"channels": 1, "widths": [8], "groups": 4, "embedding": 16, "unshuffle": 1},
        "crop": 8,
        "images": 32,
        "batch": 8,
        "precision": "no",
        "tracker": "none",
        "duplicates": False,
        "stats_every": 2,
        "checkpoint_every": 2,
        "validate_every": 0,
    },
}
NOISY = {"corruption": {"clean_share": 0.25, "damages": [{"kind": "noise", "sigma": 0.3}]}}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The command in this process: `run(out, settings, changes of `train`, options)`."""
    from accelerate.state import AcceleratorState

    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    (tmp_path / "pictures").mkdir()
    draw = np.random.default_rng(0)
    for k in range(12):
        coarse = Image.fromarray(draw.integers(0, 256, (3, 3), dtype=np.uint8))
        coarse.resize((8, 8), Image.Resampling.BICUBIC).save(tmp_path / "pictures" / f"{k:02d}.png")

    def call(out: str, settings: dict, train: dict, *options: str) -> Path:
        import yaml

        written = {**SETTINGS, **settings, "train": {**SETTINGS["train"], **train}}
        (tmp_path / "em.yaml").write_text(yaml.safe_dump(written))
        known = ["--config", str(tmp_path / "em.yaml"), "--data-root", str(tmp_path), "--out", str(tmp_path / out)]
        return em.em(em.read_em([*known, *options]))

    yield call
    AcceleratorState._reset_state(reset_partial_state=True)


def test_interrupted_iterations_end_as_uninterrupted_ones(run, tmp_path, monkeypatch):
    assert run("out", {}, {}) == tmp_path / "out" / "prior"
    whole = files(tmp_path / "out")
    assert {
        "iteration-1/prior/model.safetensors",
        "iteration-2/prior/model.safetensors",
        "prior/model.safetensors",
    } < set(whole)
    assert whole["iteration-1/prior/model.safetensors"] != whole["iteration-2/prior/model.safetensors"]
    assert whole["prior/model.safetensors"] == whole["iteration-2/prior/model.safetensors"]
    (tmp_path / "out").rename(tmp_path / "whole")

    original, drawn = expectation.FromSolver.draw, []

    def draw(self, prior, samples, seeds):
        if len(drawn) == 4:
            drawn.append("stopped")
            raise KeyboardInterrupt
        drawn.append(len(samples))
        return original(self, prior, samples, seeds)

    monkeypatch.setattr(expectation.FromSolver, "draw", draw)
    with pytest.raises(KeyboardInterrupt):
        run("out", {}, {})
    assert (tmp_path / "out" / "iteration-1" / "prior").is_dir() and not (
        tmp_path / "out" / "iteration-2" / "prior"
    ).exists()
    run("out", {}, {})
    assert drawn == [4, 4, 1, 4, "stopped", 4, 1], "three batches an iteration, none of them twice"
    resumed = files(tmp_path / "out")
    same = [name for name in whole if "state.json" not in name and "README" not in name]
    assert set(resumed) == set(whole) and [n for n in same if resumed[n] != whole[n]] == []
    assert len(NetworkPrior.load(tmp_path / "out" / "prior").shape) == 3


def stub(config) -> Path:
    """A training that takes no time: random weights that depend on where it starts and on what it learns from."""
    folder = Path(config.out) / "prior"
    sums = [s.z.float().sum() for s in read_corrupted(Path(config.data_root) / config.sources[0].path.split(":")[1], 1)]
    torch.manual_seed(int(1000 * abs(float(sum(sums)))))
    network = dataclasses.replace(config.network, mask_channels=config.objective.mask_channels)
    NetworkPrior(network, "float32").save(folder, "card")
    CONFIGS.append(config)
    return folder


CONFIGS: list = []


def test_iterations_do_not_go_on_with_other_pictures(run, tmp_path, monkeypatch):
    monkeypatch.setattr(em, "train", stub)
    run("out", {"iterations": 1}, {})
    moved, kept = tmp_path / "pictures/03.png", tmp_path / "03.png"
    kept.write_bytes(moved.read_bytes())
    Image.open(moved).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(moved)
    with pytest.raises(
        AmbientSolveError, match="have changed since iteration 1: in pictures 1 picture is changed"
    ) as error:
        run("out", {"iterations": 2}, {})
    assert one_sentence(error) and not (tmp_path / "out/iteration-2").exists()
    moved.write_bytes(kept.read_bytes())
    run("out", {"iterations": 2}, {})


def test_each_mode_trains_what_it_says(run, tmp_path, monkeypatch):
    monkeypatch.setattr(em, "train", stub)
    CONFIGS.clear()
    run("mmps", {}, {})
    first, second = CONFIGS
    assert first.init == "" and second.init == str(tmp_path / "mmps" / "iteration-1" / "prior")
    assert first.sources[0].path == "corrupted:restored-0" and first.sources[0].terms == "made by the test"
    assert first.objective.mask_channels == 0 and not (tmp_path / "mmps" / "iteration-1" / "run.json").exists()

    CONFIGS.clear()
    run("conditional", {"mode": "conditional", "steps": 2}, {})
    first, second, last = CONFIGS
    assert (first.objective.missing, first.objective.sigma_y, first.objective.channels) == (0.75, 0.05, 1)
    assert first.objective == second.objective and last.objective.mask_channels == 0
    assert NetworkPrior.load(tmp_path / "conditional" / "iteration-2" / "prior").config.mask_channels == 2
    rows = (tmp_path / "conditional" / "iteration-2" / "restored-0" / "manifest.jsonl").read_text()
    assert (
        '"algorithm": "conditional"' in rows
        and NetworkPrior.load(tmp_path / "conditional" / "prior").config.mask_channels == 0
    )

    CONFIGS.clear()
    start = tmp_path / "start"
    NetworkPrior(NetworkConfig(**{**SETTINGS["train"]["network"], "widths": (8,)}), "float32").save(start)
    run("loop", {"mode": "dataloop", "steps": 2, "rho": 3.0}, NOISY, "--init", str(start))
    levels = [
        {
            (s.damage, round(s.sigma_min, 6))
            for s in read_corrupted(tmp_path / "loop" / f"iteration-{k}" / "restored-0", 1)
        }
        for k in (1, 2)
    ]
    assert levels == [{("clean", 0.0), ("restored", 0.1)}, {("clean", 0.0), ("restored", round(0.1 / 3, 6))}]
    assert CONFIGS[0].init == str(start)


BAD = {
    "algorithm": ({"algorithm": "mmsp"}, {}, "Did you mean 'mmps'"),
    "knob": ({"knobs": {"step": 3}}, {}, "Did you mean 'steps'"),
    "setting": ({"iteration": 2}, {}, "'iteration' is unknown. Did you mean 'iterations'"),
    "mode": ({"mode": "map"}, {}, "mode = 'map' is no choice"),
    "iterations": ({"iterations": 0}, {}, "iterations = 0 must be at least 1"),
    "rho": ({"rho": 1.0}, {}, "rho > 1"),
    "mask-conditioned objective": ({}, {"objective": {"kind": "masked"}}, "M-step learns from restored pictures"),
    "nothing damaged": ({}, {"corruption": {"clean_share": 1.0}}, "nothing to restore"),
    "start": ({"init": "photos"}, {}, "photos has network.channels"),
    "draws of a dataloop": ({"mode": "dataloop", "init": "photos", "draws": 2}, NOISY, "draws = 1"),
    "no prior for a dataloop": ({"mode": "dataloop"}, NOISY, "--init"),
    "box": (
        {"mode": "conditional"},
        {"corruption": {"clean_share": 0.0, "damages": [{"kind": "box-mask", "side": 0.5}]}},
        "one kind of measurement",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_settings_are_one_sentence(run, tmp_path, monkeypatch, case):
    monkeypatch.setattr(em, "train", stub)
    settings, train, expected = BAD[case]
    with pytest.raises(AmbientSolveError, match=expected) as error:
        run("bad", settings, train)
    assert one_sentence(error)
    assert not (tmp_path / "bad" / "em.json").exists(), "a run that never started must not claim its folder"


def test_folder_of_another_run_is_refused(run, monkeypatch):
    monkeypatch.setattr(em, "train", stub)
    run("out", {"iterations": 1}, {})
    with pytest.raises(AmbientSolveError, match=r"other settings \(draws\)"):
        run("out", {"iterations": 1, "draws": 2}, {})
    run("out", {"iterations": 2}, {})


def test_configuration_that_comes_with_it_is_valid():
    settings = em.read_em(
        ["--config", str(TRAINERS / "configs" / "em_masked.yaml"), "--out", "unused", "--iterations", "3"]
    )
    em.check_em(settings)
    assert settings.iterations == 3 and settings.train.corruption.damages[0].missing == 0.75


def test_a_part_of_stored_data_is_the_first_of_it_or_drawn_from_all_of_it(tmp_path):
    pictures = [(str(i), (torch.eye(8) * 200 + i).to(torch.uint8)[None]) for i in range(20)]
    write_corrupted(pictures, 20, Corruption(clean_share=0.0, damages=(Noise(sigma=0.1),)), tmp_path / "data")

    def names(**settings: object) -> list[str]:
        source = em.Source("corrupted:data", limit=5, **settings)
        network = NetworkConfig(channels=1)
        config = em.Config(out=str(tmp_path), data_root=str(tmp_path), sources=(source,), network=network)
        return [sample.name for sample in em.read_data(config, True).samples]

    assert names() == ["0", "1", "2", "3", "4"]
    drawn = names(shuffle=True)
    assert drawn == names(shuffle=True) and len(set(drawn)) == 5 and drawn != names() and max(map(int, drawn)) > 5


def test_no_two_e_steps_draw_with_the_same_noise(tmp_path):
    """Of one prior and the same pictures: by iteration, by source, by seed and by draw; resumed, with the same one."""

    def draws(name: str, number: int, seed: int = 0) -> list[Tensor]:
        """The restorations (pictures, draws) of each source in an E-step."""
        network = NetworkConfig(channels=1)
        train = em.Config(out="", network=network, sources=(em.Source("a"), em.Source("b")))
        settings = em.EM(out=str(tmp_path / name), train=train, knobs={"steps": 4}, draws=2, seed=seed)
        em._expect(settings, number, "", [SAMPLES[:6], SAMPLES[:6]])
        folders = sorted(p.parent for p in (tmp_path / name).rglob(f"*{number}/restored-*/manifest.jsonl"))
        return [torch.stack([s.z.float() for s in read_corrupted(f, 1)]).reshape(6, 2, -1) for f in folders]

    first, second = draws("run", 1), draws("run", 2)
    other, again = draws("other", 1, seed=1), draws("again", 1)
    assert len(first) == len(second) == 2
    every = torch.cat([*first, *second, *other], 1)  # (pictures, 12 draws, entries)
    apart = (every[:, :, None] - every[:, None]).abs().amax((0, 3)) + torch.eye(12)
    assert float(apart.min()) > 0.2
    # Noise that is shared would leave a correlation; that of 72 entries, most of them hidden, is within a half.
    centred = (every - every.mean(1, keepdim=True)).transpose(0, 1).flatten(1)
    assert float((torch.corrcoef(centred) - torch.eye(12)).max()) < 0.6
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_without_a_configuration_it_is_a_sentence_and_help_needs_none(capsys):
    with pytest.raises(SystemExit) as stop:
        em_command([])
    assert stop.value.code == 2 and one_sentence(capsys.readouterr().err.strip())
    with pytest.raises(SystemExit) as stop:
        em_command(["--help"])
    assert stop.value.code == 0 and "--init" in capsys.readouterr().out
