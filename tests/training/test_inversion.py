"""Concepts are learned: only their rows move, runs resume bit for bit, and the loss of damaged pictures is unbiased."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("accelerate", reason="training needs accelerate: pip install 'ambient-solve[train]'")
pytest.importorskip("diffusers", reason="needs diffusers: pip install 'ambient-solve[train]'")
pytest.importorskip("transformers", reason="text encoders need transformers: pip install 'ambient-solve[latent]'")

from ambient_solve import AmbientSolveError, TimeDependentEmbedding, load_prior, with_concepts
from ambient_solve.cli.dispatch import main
from ambient_solve.data.corruption import Corruption, write_corrupted
from ambient_solve.data.damages import make_damage
from ambient_solve.data.images import read_images
from ambient_solve.data.sample import Sample
from ambient_solve.noise import Streams
from ambient_solve.objectives.base import Batch
from ambient_solve.priors.latent_pipeline import words_of
from ambient_solve.priors.parameterization import parameterization
from ambient_solve.priors.text_encoders import encoders_of
from ambient_solve.training.concept_pictures import admissible, concept_samples, latents_of
from ambient_solve.training.inversion import Inversion, draw_batch, invert, lowest_share, new_concept, squared_errors
from helpers import one_sentence, randn
from latents import LinearCode, latent_prior
from pipelines import SCALED, flux, sdxl, stable_diffusion

SIDE = 16


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a small random pipeline and three pictures."""
    root = tmp_path_factory.mktemp("inversion")
    stable_diffusion(root / "pipeline")
    (root / "cat").mkdir()
    draw_pixels = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(draw_pixels.integers(0, 255, (SIDE, SIDE, 3), np.uint8)).save(root / "cat" / f"{i}.png")
    return root


def run(
    made: Path, out: Path, data: str = "", pipeline: str = "pipeline", size: int = 0, **settings
) -> TimeDependentEmbedding:
    settings = {"bands": 4, "steps": 6, "batch": 2, "checkpoint_every": 3, **settings}
    folder = invert(
        data or str(made / "cat"),
        made / pipeline,
        "<cat>",
        out,
        Inversion(**settings),
        init="q",
        size=size,
        device="cpu",
    )
    return TimeDependentEmbedding.load(folder)


def weights(prior) -> dict[str, torch.Tensor]:
    parts = [prior, *(encoder for encoder, _ in encoders_of(words_of(prior).plain).values())]
    return {f"{i}.{k}": t.clone() for i, part in enumerate(parts) for k, t in part.state_dict().items()}


# Only the rows of the concept move ------------------------------------------------------------------------------------


def test_only_the_rows_of_the_concept_move(made, tmp_path, monkeypatch):
    """After 100 steps network, encoders and the whole vocabulary are what they were, to the bit."""
    import ambient_solve.training.inversion as module

    priors, load = [], module.load_prior
    monkeypatch.setattr(module, "load_prior", lambda *a, **k: priors.append(load(*a, **k)) or priors[-1])
    before = weights(load_prior(made / "pipeline"))
    concept = run(made, tmp_path / "run", steps=100)
    after = weights(priors[0])
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    start = new_concept(priors[0], "cat", "q", 4).tables["text_encoder"]
    assert bool(((concept.tables["text_encoder"] - start).abs().amax(1) > 1e-3).all())


def test_the_published_optimizer_moves_frozen_rows(made):
    """The control: one matrix of all rows, the gradients of others zeroed by hand, and AdamW with its weight decay."""
    vocabulary = words_of(load_prior(made / "pipeline")).plain.text_encoder.get_input_embeddings().weight.clone()
    for decay, moves in ((1e-2, True), (0.0, False)):
        matrix = vocabulary.clone().requires_grad_()
        optimizer = torch.optim.AdamW([matrix], lr=2e-3, weight_decay=decay)
        for _ in range(100):
            matrix.grad = torch.zeros_like(matrix)
            matrix.grad[-1] = 1.0
            optimizer.step()
        assert (float((matrix - vocabulary)[:-1].abs().max()) > 0) == moves


def test_a_band_learns_at_its_own_levels_alone(made):
    """The gradient of a batch is 0 in the rows of bands that it did not draw."""
    prior = load_prior(made / "pipeline")
    concept = new_concept(prior, "cat", "q", 4).requires_grad_(True)
    knowing, rule = with_concepts(prior, [concept]), prior.inner.inner.rule
    latents = latents_of(prior, concept_samples(str(made / "cat"), SIDE))
    for step in range(3):
        batch, streams, _, bands = draw_batch(latents, rule, Inversion(bands=4, batch=2), step)
        squared_errors(lambda z, s: knowing.denoise(z, s, "a <cat>"), batch, streams).mean().backward()
        moved = concept.tables["text_encoder"].grad.abs().amax(1) > 0
        assert moved.tolist() == [j in bands for j in range(4)]
        concept.zero_grad()


@pytest.mark.parametrize("build", [sdxl, flux])
def test_every_text_encoder_learns(build, made, tmp_path):
    build(made / build.__name__)
    concept = run(made, tmp_path / "run", pipeline=build.__name__, size=SIDE, steps=2)
    start = new_concept(load_prior(made / build.__name__), "cat", "q", 4)
    assert len(concept.tables) == 2
    assert all(not torch.equal(concept.tables[k], start.tables[k]) for k in concept.tables)


# The run --------------------------------------------------------------------------------------------------------------


def test_a_run_resumes_bit_for_bit(made, tmp_path):
    whole = run(made, tmp_path / "whole")
    run(made, tmp_path / "cut")
    for last in ("checkpoint-6", "concept"):
        shutil.rmtree(tmp_path / "cut" / last)
    assert [p.name for p in (tmp_path / "cut").glob("checkpoint-*")] == ["checkpoint-3"]
    again = run(made, tmp_path / "cut")
    assert torch.equal(again.tables["text_encoder"], whole.tables["text_encoder"])
    rows = [(tmp_path / name / "stats.jsonl").read_text() for name in ("whole", "cut")]
    assert rows[0] == rows[1] and len(rows[0].splitlines()) == 6
    longer = run(made, tmp_path / "cut", steps=8)  # only `steps` may grow
    assert not torch.equal(longer.tables["text_encoder"], whole.tables["text_encoder"])
    with pytest.raises(AmbientSolveError, match="another configuration") as error:
        run(made, tmp_path / "cut", bands=5)
    assert one_sentence(error)


def test_accumulation_changes_nothing_but_rounding(made, tmp_path):
    one = run(made, tmp_path / "one", batch=4, steps=3)
    two = run(made, tmp_path / "two", batch=4, steps=3, accumulate=4)
    torch.testing.assert_close(one.tables["text_encoder"], two.tables["text_encoder"], rtol=1e-3, atol=1e-4)


def test_the_command_and_its_sheet(made, tmp_path, capsys):
    argv = ["invert", str(made / "cat"), "--pipeline", str(made / "pipeline"), "--token", "<cat>", "--init", "q"]
    argv += ["--out", str(tmp_path / "run"), "--bands", "4", "--steps", "2", "--samples-every", "2"]
    argv += ["--sample-steps", "2", "--device", "cpu"]
    assert main(argv) == 0, capsys.readouterr().err
    assert str(tmp_path / "run" / "concept") in capsys.readouterr().out
    assert Image.open(tmp_path / "run" / "sheet.png", formats=("PNG",)).size[0] > 4 * 192
    record = json.loads((tmp_path / "run" / "concept" / "concept.json").read_text())
    assert record["token"] == "<cat>" and record["finest"] == 0 and record["learned"]["pictures"] == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"--token": "cat"}, "between < and >"), ({"--init": " "}, "init="), ({"--pipeline": ""}, "No pipeline"),
        ({"--size": "64", "--sigma": "0.1"}, "smaller than the 64"),
        ({"--batch": "3", "--accumulate": "2"}, "multiple"),
        ({"--pipeline": "photos"}, "takes no words"),
    ],
)  # fmt: skip
def test_what_cannot_be_learned_is_refused(change, words, made, tmp_path, capsys):
    given = {"--pipeline": str(made / "pipeline"), "--token": "<cat>", "--init": "q", "--out": str(tmp_path / "run")}
    argv = [word for pair in {**given, "--steps": "1", "--device": "cpu", **change}.items() for word in pair]
    assert main(["invert", str(made / "cat"), *argv]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert words in said[-1]


# Damaged pictures -----------------------------------------------------------------------------------------------------


VARIANCES = torch.tensor([1.0, 0.01])
"""Of a coarse coordinate and of a fine one; the concept fixes both."""


class Given:
    """Noise that is known, in place of streams."""

    def __init__(self, noise: torch.Tensor) -> None:
        self.noise = noise

    def normal(self, like: torch.Tensor) -> torch.Tensor:
        return self.noise


def saving(sigma_noise: float, said: float, bands: range, count: int = 40_000) -> tuple[torch.Tensor, torch.Tensor]:
    """What knowing the concept saves of the loss, and v / (v + sigma^2), in each band and coordinate.

    The pictures hold noise `sigma_noise`, and are stated to hold `said`.
    """
    rule, v = parameterization({"_class_name": "DDIMScheduler", **SCALED}), VARIANCES[None, :, None, None]
    found, expected = [], []
    for j in bands:
        x = randn(count, 2, 1, 1, seed=3 * j) * v.sqrt()
        y = x + sigma_noise * randn(count, 2, 1, 1, seed=3 * j + 1)
        sigma = torch.from_numpy(rule.level((j + np.linspace(0, 1, count, endpoint=False)) / 10)).float()
        zero, s2 = torch.zeros(count), sigma[:, None, None, None] ** 2
        batch = Batch(y, sigma, zero + said, zero, zero)
        blind = lambda z, s, s2=s2: v / (v + s2) * z  # noqa: E731
        knowing = lambda z, s, x=x: x  # noqa: E731
        losses = [squared_errors(d, batch, Given(randn(*y.shape, seed=3 * j + 2))) for d in (blind, knowing)]
        weight = (s2 + said**2 * s2 / (s2 - said**2)) / s2  # the weight of a noisy target is undone
        found.append(((losses[0] - losses[1]) * weight).mean((0, 2, 3)))
        expected.append((v / (v + s2)).mean((0, 2, 3)))
    return torch.stack(found), torch.stack(expected)


def test_locality_in_closed_form():
    """High-noise embeddings carry coarse information alone, by exactly v / (v + sigma^2)."""
    found, expected = saving(0.0, 0.0, range(10))
    assert bool(((found / expected - 1).abs() < 0.05).all())
    assert bool((expected[6:, 1] < 0.002).all()) and bool((expected[0] > 0.2).all())


def test_locality_is_the_same_of_noisy_pictures():
    """The target is unbiased; the control takes noisy pictures for clean ones."""
    found, expected = saving(0.4, 0.4, range(2, 8), 400_000)
    assert bool(((found / expected - 1).abs() < 0.05).all())
    naive, _ = saving(0.4, 0.0, range(2, 8))
    assert float((naive / expected - 1).abs().max()) > 0.1


def test_the_loss_of_clean_latents_is_that_of_the_noise():
    """`|D - z0|^2 / sigma^2 = |eps - eps_theta|^2`, plainly averaged."""
    z, sigma = randn(4, 4, 2, 2), torch.tensor([0.1, 1.0, 3.0, 20.0])
    zero, streams = torch.zeros(4), lambda: Streams(range(4), 1)
    noise, denoise = streams().normal(z), lambda x, s: 0.3 * x
    noisy = z + sigma[:, None, None, None] * noise
    predicted = (noisy - denoise(noisy, sigma)) / sigma[:, None, None, None]
    found = squared_errors(denoise, Batch(z, sigma, zero, zero, zero), streams())
    torch.testing.assert_close(found, (noise - predicted) ** 2, rtol=1e-4, atol=1e-5)


def samples(count: int = 2, side: int = 4, **damage) -> list[Sample]:
    return [Sample(f"{i}", randn(32, side, side, seed=i), **damage) for i in range(count)]


def test_the_noise_of_a_latent_is_that_of_the_picture_where_the_code_is_linear():
    """An encoder with orthonormal rows keeps white noise as it is: here 0.4 in [-1, 1] units is 0.2."""
    prior = latent_prior(LinearCode())
    found = latents_of(prior, samples(sigma_noise=0.4, side=16))
    assert found.mask is None and bool((found.sigma_noise / 0.2 - 1).abs().max() < 0.03)
    clean = latents_of(prior, samples())
    assert not clean.sigma_noise.any() and not clean.sigma_min.any()


def test_a_place_counts_where_all_of_its_pixels_were_observed(made):
    prior, mask = load_prior(made / "pipeline"), torch.ones(1, SIDE, SIDE, dtype=torch.uint8)
    factor = prior.autoencoder.factor
    mask[:, 3, 4] = 0
    found = latents_of(prior, [Sample("a", randn(3, SIDE, SIDE).half(), mask=mask), Sample("b", randn(3, SIDE, SIDE))])
    expected = torch.ones(2, 1, SIDE // factor, SIDE // factor)
    expected[0, 0, 3 // factor, 4 // factor] = 0
    assert torch.equal(found.mask, expected)
    assert float(found.sigma_min[0]) > 0 and float(found.sigma_min[1]) == 0
    counted = squared_errors(
        lambda z, s: torch.zeros_like(z), Batch(found.z, torch.ones(2), *[torch.zeros(2)] * 3, found.mask),
        Streams(range(2), 1),
    )  # fmt: skip
    assert bool((counted[expected.expand_as(counted) == 0] == 0).all()) and counted[0].any()
    with pytest.raises(AmbientSolveError, match="observed whole") as error:
        latents_of(prior, [Sample("a", randn(3, SIDE, SIDE), mask=0 * mask)])
    assert one_sentence(error)


def test_a_damaged_picture_is_used_above_its_level_alone():
    rule = parameterization({"_class_name": "DDIMScheduler", **SCALED})
    z, zero = randn(3, 4, 2, 2), torch.zeros(3)
    latents = Batch(z, zero, torch.tensor([0.0, 0.5, 0.0]), torch.tensor([0.0, 0.0, 3.0]), zero)
    levels, settings = [[], [], []], Inversion(batch=50)
    for step in range(20):
        batch, *_ = draw_batch(latents, rule, settings, step)
        for row, sigma in zip(batch.z, batch.sigma, strict=True):
            (which,) = [i for i in range(3) if torch.equal(row, z[i])]
            levels[which].append(float(sigma))
    assert min(levels[0]) < 0.1 and 0.5 < min(levels[1]) < 0.9 and 3 < min(levels[2]) < 4
    assert 0.3 < len(levels[0]) / 1000 < 0.7  # below 0.5 it is alone, above 3 one of three
    only = Batch(z[2:], zero[2:], zero[2:], torch.tensor([3.0]), zero[2:])
    assert rule.level(np.array([lowest_share(only, rule)]))[0] == pytest.approx(3.0, rel=0.02)
    assert admissible(only, np.array([2.9, 3.1]), 2.0).tolist() == [[False], [True]]
    with pytest.raises(AmbientSolveError, match="No picture may be used") as error:
        lowest_share(Batch(z[2:], zero[2:], zero[2:], torch.tensor([1e9]), zero[2:]), rule)
    assert one_sentence(error)


def test_a_concept_is_learned_from_damaged_pictures(made, tmp_path):
    """Bands under the level of all pictures take the embedding of the lowest band that learned."""
    pictures = list(read_images(made / "cat"))
    plan = Corruption(clean_share=0.0, damages=(make_damage({"kind": "noise", "sigma": 1.0}),))
    write_corrupted(pictures, 3, plan, tmp_path / "damaged")
    manifest = tmp_path / "damaged" / "manifest.jsonl"
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    kept = [{k: v for k, v in row.items() if k != "sigma_min_01"} | {"sigma_min": 2.0} for row in rows]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in kept))
    concept = run(made, tmp_path / "run", f"corrupted:{tmp_path / 'damaged'}", bands=10)
    record = json.loads((tmp_path / "run" / "concept" / "concept.json").read_text())
    table = concept.tables["text_encoder"]
    finest = record["finest"]
    assert 0 < finest < 9 and bool((table[:finest] == table[finest]).all()) and not torch.equal(table[-1], table[0])
    run(made, tmp_path / "same", str(tmp_path / "damaged"), bands=10)  # a damaged folder is known by its manifest
    again = TimeDependentEmbedding.load(tmp_path / "same" / "concept")
    assert torch.equal(again.tables["text_encoder"], table)
