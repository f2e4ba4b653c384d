"""A soft process in a training run: read from YAML, fitted to the least damaged pictures, said on the card."""

from __future__ import annotations

import json

import pytest
import torch

pytest.importorskip("accelerate", reason="training needs accelerate: pip install 'ambient-solve[train]'")

from ambient_solve import AmbientSolveError, NetworkConfig, NetworkPrior
from ambient_solve.data.corruption import Corruption, read_corrupted, write_corrupted
from ambient_solve.data.damages import PeriodicBlur
from ambient_solve.data.loader import Levels, Loader
from ambient_solve.data.sample import Sample
from ambient_solve.objectives.base import Batch
from ambient_solve.objectives.soft import SoftMatching
from ambient_solve.process import Additive, GaussianBlur
from ambient_solve.training.card import denoising_psnr, model_card
from ambient_solve.training.checkpoints import ADDED
from ambient_solve.training.config import Config, check, make, planned_process, settings_of
from ambient_solve.training.process import at_their_levels, fitted_process
from helpers import Draws, randn

SOFT = {
    "out": "x",
    "sources": [{"path": "pictures"}],
    "network": {"size": [16, 16], "widths": [8, 16], "groups": 4, "sigma_min": 0.01, "sigma_max": 0.5},
    "process": {"kind": "soft", "strongest": 8.0},
    "objective": {"kind": "soft"},
    "crop": 16,
}


def config(**changes: object) -> Config:
    return make(Config, {**SOFT, **changes}, "test")


def sample(i: int, width: float = 0.0, noise: float = 0.0) -> Sample:
    z = 0.3 * GaussianBlur()(randn(1, 3, 16, 16, seed=i), 0.5 + width)[0] + noise * randn(3, 16, 16, seed=100 + i)
    damage = "periodic-blur" if width else "noise" if noise else "clean"
    return Sample(str(i), z.half(), noise, damage=damage, blur=width)


def test_a_run_without_a_process_is_one_of_additive_noise_as_it_was():
    plain = make(Config, {"out": "x", "sources": [{"path": "pictures"}]}, "test")
    assert planned_process(plain) is None and fitted_process(plain, [sample(0)]) is None
    assert settings_of(plain)["process"] == ADDED["process"], "a run of before goes on"
    assert at_their_levels(plain, [sample(0, 0.7)])[0].sigma_min == 0
    check(plain, 1)


def test_blurred_pictures_are_admitted_where_they_are_states():
    run = config()
    check(run, 1)
    level = planned_process(run).level_of(0.7)
    own = at_their_levels(run, [sample(0), sample(1, 0.7), sample(2, noise=0.1)])
    assert [s.sigma_min for s in own] == [0, level, 0] and 0.01 < level < 0.5
    batch, _ = Loader(own, torch.ones(3).numpy(), Levels(-2.6, 2, 0.01, 0.5), crop=16, buffer=1.2, batch=64, seed=0)(0)
    assert sorted(set(batch.blur.tolist())) == pytest.approx([0, 0.7])
    assert bool((batch.sigma[batch.blur > 0] > level).all()) and float(batch.sigma[batch.blur == 0].min()) < level
    with pytest.raises(AmbientSolveError, match="wraps round its edges, .* set `crop` to its side, 16"):
        at_their_levels(config(crop=8, network={**SOFT["network"], "size": [8, 8]}), own)
    with pytest.raises(AmbientSolveError, match="the process is one of fade"):
        at_their_levels(config(process={"kind": "soft", "family": "fade"}), own)
    with pytest.raises(AmbientSolveError, match="blur of strength 9 is no state"):
        at_their_levels(run, [sample(0, 9.0)])


def test_the_process_is_fitted_to_the_least_damaged_pictures():
    clean = [sample(i) for i in range(40)]
    blurred = [sample(i, 3.0) for i in range(40, 600)]
    alone, both = (fitted_process(config(), data) for data in (clean, blurred[:300] + clean + blurred[300:]))
    assert alone.mean != fitted_process(config(), blurred).mean
    few = fitted_process(config(), blurred[:472] + clean)
    assert few == fitted_process(config(), clean + blurred[:472]) and both != alone, "at most 512, the clean ones first"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"objective": {"kind": "denoise"}}, r"Denoise learns from additive noise, .* objective: \{kind: soft\}"),
        ({"objective": {"kind": "masked"}}, "Masked learns from additive noise"),
        ({"process": {"kind": "hard"}}, "'hard' is no choice"),
        ({"process": {"kind": "soft", "strength": 3}}, "'strength' is unknown"),
        ({"process": {"kind": "soft", "curve": 0.0}}, "curve = 0.0 were given; both must exceed 0"),
        ({"init": "photos"}, "starts from no other prior"),
    ],
)
def test_what_cannot_work_is_said_before_training(changes, words):
    with pytest.raises(AmbientSolveError, match=words):
        check(config(**changes), 1)


def test_a_damaged_folder_remembers_its_blur(tmp_path):
    pictures = [(str(i), randn(3, 16, 16, seed=i)) for i in range(4)]
    write_corrupted(pictures, 4, Corruption(0, 0.5, (PeriodicBlur(width=0.7),)), tmp_path / "damaged")
    found = list(read_corrupted(tmp_path / "damaged"))
    assert sorted(s.blur for s in found) == [0, 0, 0.7, 0.7]
    for s, (_, z) in zip(found, pictures, strict=True):
        torch.testing.assert_close(s.z.float(), GaussianBlur()(z[None], s.blur)[0], atol=2e-3, rtol=1e-3)
    # What is stored is what the objective undoes: the loss of the truth is that of rounding to 16 bits.
    rows = [i for i, s in enumerate(found) if s.blur]
    truth = torch.stack([pictures[i][1] for i in rows])
    level = planned_process(config()).level_of(0.7) * 1.01
    zero = torch.zeros(2)
    batch = Batch(torch.stack([found[i].z.float() for i in rows]), zero + level, zero, zero, zero, blur=zero + 0.7)
    objective = SoftMatching().of_process(planned_process(config()).process())
    assert float(objective.loss(lambda z, t: truth, batch, Draws(1)).max()) < 1e-3
    manifest = tmp_path / "damaged" / "manifest.jsonl"
    manifest.write_text(manifest.read_text().replace('"blur": 0.7', '"blur": -1'))
    with pytest.raises(AmbientSolveError, match="blur = -1.0 is no deviation"):
        list(read_corrupted(tmp_path / "damaged"))


def test_the_card_says_what_the_process_is():
    run, data = config(), [sample(i) for i in range(20)]
    soft = fitted_process(run, data)
    prior = NetworkPrior(NetworkConfig(**{**SOFT["network"], "size": (16, 16), "widths": (8, 16)}), "float32", soft)
    found = denoising_psnr(prior, [s.z.float() for s in data], 16)
    assert list(found) == [0.05, 0.1, 0.2, 0.4], "the levels that it has"
    z = torch.stack([s.z.float() for s in data])
    state = prior.process.perturb(z, 0.1, torch.zeros_like(z))
    blurred = float((10 * torch.log10(4 / (state - z).square().flatten(1).mean(1))).mean())
    assert found[0.1][0] < blurred + 0.1, "the states are blurred, not noisy alone"
    card = model_card("soft", settings_of(run), data, 1, 1.0, found, soft=soft)
    assert "Its forward process is soft" in card and "order=1" in card and '"kind": "soft"' in card
    plain = make(Config, {"out": "x", "sources": [{"path": "pictures"}]}, "test")
    other = model_card("plain", settings_of(plain), data, 1, 1.0, {})
    assert "soft" not in other.split("## Training")[0]
    assert json.loads(json.dumps(settings_of(run)))["process"]["strongest"] == 8.0
    assert isinstance(NetworkPrior(NetworkConfig(widths=(8, 16), groups=4)).process, Additive)
