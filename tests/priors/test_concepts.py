"""Concepts at many resolutions: index maps, tokens against an overwritten vocabulary, batches, and what is cached."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ambient_solve import (
    AmbientSolveError,
    Prompt,
    Solver,
    TimeDependentEmbedding,
    load_prior,
    operators,
    with_concepts,
)
from ambient_solve.priors.concepts import MODES, Placeholder, band_of, concepts_in, token_name
from ambient_solve.priors.latent_pipeline import words_of
from ambient_solve.priors.parameterization import parameterization
from ambient_solve.priors.text_encoders import encoders_of
from helpers import AffinePrior, one_sentence, rand, randn, relative

diffusers = pytest.importorskip("diffusers", reason="needs diffusers: pip install 'ambient-solve[train]'")
pytest.importorskip("transformers", reason="text encoders need transformers: pip install 'ambient-solve[latent]'")

from pipelines import BUILDERS, CHANNELS, PLACES, SCALED  # noqa: E402

WORDED = ["StableDiffusionPipeline", "StableDiffusionXLPipeline", "StableDiffusion3Pipeline", "FluxPipeline"]
T = 1000


def rule():
    return parameterization({"_class_name": "DDIMScheduler", **SCALED})


# Index maps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bands", [1, 3, 7, 10, 64])
def test_a_level_of_the_schedule_is_in_the_band_of_its_time(bands):
    """`floor(K t / T)` in whole numbers, at every time, the edges of the bands included."""
    shares = rule().share(rule().levels)
    found = [band_of(share, bands) for share in shares]
    assert found == [bands * t // T for t in range(T)]
    assert [band_of(share - 1 / T, bands) for share in shares] != found or bands == 1  # the control: one step beside


def test_the_published_table():
    """Every mode, resolution and time, and the boundaries of ten bands."""
    shares = rule().share(rule().levels)
    assert [band_of(shares[t], 10) for t in (0, 1, 99, 100, 999)] == [0, 0, 0, 1, 9]
    for i in range(10):
        for t in (0, 1, *(t for edge in range(100, T, 100) for t in (edge - 1, edge, edge + 1)), 998, 999):
            j = t * 10 // T
            rows = {mode: Placeholder("c", mode, i).row(band_of(shares[t], 10)) for mode in MODES}
            assert rows == {"fixed": i, "fully": max(i, j), "semi": j if j > i else None}


def test_levels_between_those_of_the_schedule_fall_into_the_band_between():
    levels, bands = rule().levels, [0, 0, 1, 1]
    middle = math.sqrt(levels[99] * levels[100])
    sigma = np.array([levels[0] / 10, levels[99], levels[100], middle])
    shares = rule().share(sigma)
    assert [band_of(s, 10) for s in shares[:3]] == bands[:3] and 0.099 < shares[3] < 0.1
    assert band_of(float(rule().share(np.array([1e6]))[0]), 10) == 9


def test_other_schedules_are_cut_by_their_own_time():
    flow = parameterization({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0})
    times = np.arange(1, T)
    shares = flow.share(times / T / (1 - times / T))
    assert [band_of(s, 10) for s in shares] == [10 * t // T for t in times]
    edm = parameterization({"_class_name": "EDMEulerScheduler", "sigma_min": 0.01, "sigma_max": 100.0})
    assert [band_of(s, 4) for s in edm.share(np.array([0.01, 0.099, 0.1, 1.0, 10.0, 100.0]))] == [0, 0, 1, 2, 3, 3]


@pytest.mark.parametrize(
    ("text", "mode", "i"),
    [
        ("<cat|3|>", "fixed", 3), ("<cat[3]>", "fully", 3), ("<cat(3)>", "semi", 3), ("<cat>", "fully", 0),
        ("<cat[ 9 ]>", "fully", 9), ("<cat(0.6)>", "semi", 6), ("<cat[0.0]>", "fully", 0), ("<cat|.99|>", "fixed", 9),
    ],
)  # fmt: skip
def test_a_prompt_names_a_resolution(text, mode, i):
    assert concepts_in(f"a photo of {text}, blue", {"cat": 10}) == [
        "a photo of ",
        Placeholder("cat", mode, i),
        ", blue",
    ]


@pytest.mark.parametrize("bands", [7, 10, 100])
def test_the_share_of_a_resolution_is_exact(bands):
    """S*(tau) has `i = floor(K tau)`; floats would give 28 for tau = 0.29 and K = 100."""
    for hundredth in range(100):
        (found,) = concepts_in(f"<c[0.{hundredth:02d}]>", {"c": bands})
        assert found == Placeholder("c", "fully", math.floor(bands * Fraction(hundredth, 100)))
    assert math.floor(100 * 0.29) == 28  # the control


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a <dog(3)>", ["<dog>", "<cat>", "with_concepts", "--concept"]), ("a <cat(10)>", ["'10'", "0 to 9"]),
        ("a <cat[1.0]>", ["'1.0'", "0 to 9"]), ("a <cat(-1)>", ["'-1'", "0 to 9"]), ("<cat|x|>", ["'x'"]),
        ("a <cat(3>", ["begins no concept", "<cat(3)>"]), ("a <cat 3>", ["begins no concept"]),
    ],
)  # fmt: skip
def test_a_prompt_that_names_what_there_is_not_is_refused(text, words):
    with pytest.raises(AmbientSolveError) as error:
        concepts_in(text, {"cat": 10})
    assert one_sentence(error) and all(word in str(error.value) for word in words), error.value


def test_words_without_concepts_are_words():
    assert concepts_in("I <3 cats, a > b", {}) == ["I <3 cats, a > b"] and concepts_in("", {}) == []


# Tokens ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prior_of(tmp_path_factory):
    """A prior by the class of its pipeline, read once."""
    made: dict = {}

    def of(name: str):
        if name not in made:
            made[name] = load_prior(BUILDERS[name](tmp_path_factory.mktemp("pipelines") / "pipeline"))
        return made[name]

    return of


def concept_for(prior, name: str = "cat", bands: int = 4, seed: int = 0) -> TimeDependentEmbedding:
    sizes = {k: e.get_input_embeddings().weight.shape[1] for k, (e, _) in encoders_of(words_of(prior).plain).items()}
    tables = {k: 0.5 * randn(bands, n, seed=seed + i) for i, (k, n) in enumerate(sizes.items())}
    return TimeDependentEmbedding(name, tables).requires_grad_(False)


def level(prior, band: int, bands: int) -> float:
    """A noise level in the middle of a band."""
    grid = np.exp(np.linspace(math.log(prior.sigma_min), math.log(prior.sigma_max), 4001))
    inside = [s for s in grid if band_of(float(prior.inner.inner.rule.share(np.array([s]))[0]), bands) == band]
    return float(inside[len(inside) // 2])


def flat(embedded) -> torch.Tensor:
    """What a network is conditioned on, in one row."""
    return torch.cat([t.flatten() for t in (embedded.tokens, embedded.pooled) if t is not None])[None]


@torch.no_grad()
def overwritten(prior, concept, row: int | None) -> torch.Tensor:
    """What the published code does: the row of a word of the vocabulary is overwritten, and put back."""
    encoders, kept = encoders_of(words_of(prior).plain), []
    for key, (encoder, tokenizer) in encoders.items():
        weight = encoder.get_input_embeddings().weight
        number = tokenizer("q", add_special_tokens=False).input_ids[-1]
        kept.append((weight, number, weight[number].clone()))
        weight[number] = 0.0 if row is None else concept.tables[key][row]
    words_of(prior)._known.clear()
    found = flat(words_of(prior).embed([Prompt("a q")], False, 1.0))
    for weight, number, before in kept:
        weight[number] = before
    words_of(prior)._known.clear()
    return found


@pytest.mark.parametrize("name", WORDED)
@pytest.mark.parametrize("mode", MODES)
def test_a_token_is_an_overwritten_row_of_the_vocabulary(name, mode, prior_of):
    prior = prior_of(name)
    concept = concept_for(prior)
    knowing = words_of(with_concepts(prior, [concept]))
    text = {"fixed": "a <cat|1|>", "fully": "a <cat[1]>", "semi": "a <cat(1)>"}[mode]
    for band in range(4):
        row = Placeholder("cat", mode, 1).row(band)
        found = flat(knowing.embed([Prompt(text)], False, level(prior, band, 4)))
        assert relative(found, overwritten(prior, concept, row)) < 1e-6
        assert relative(found, overwritten(prior, concept, 3 if row != 3 else 0)) > 1e-2  # the control: another row


def test_clip_still_finds_the_end_of_a_text(prior_of):
    """Old configurations have it found by the largest number, which that of an added token must not be."""
    prior = prior_of("StableDiffusionXLPipeline")
    model = words_of(prior).plain.text_encoder_2.text_model
    before, model.eos_token_id = model.eos_token_id, 2
    try:
        concept = concept_for(prior)
        found = words_of(with_concepts(prior, [concept])).embed([Prompt("a <cat>")], False, level(prior, 2, 4))
        assert relative(flat(found), overwritten(prior, concept, 2)) < 1e-6
    finally:
        model.eos_token_id = before


@pytest.mark.parametrize("name", WORDED)
def test_concepts_in_one_batch_are_each_as_alone(name, prior_of):
    """Two concepts, other numbers of bands, other resolutions, other levels; in one prompt, and in one batch."""
    prior = prior_of(name)
    knowing = with_concepts(prior, [concept_for(prior), concept_for(prior, "dog", 7, seed=9)])
    prompts = ["a <cat[1]>", "a <dog(2)>", "a <cat|3|> on <dog[5]>", "a cat"]
    sigma = torch.tensor([level(prior, 0, 4), level(prior, 5, 7), level(prior, 2, 4), 1.0])
    z = randn(4, CHANNELS, PLACES, PLACES)
    together = knowing.denoise(z, sigma, prompts)
    for i, prompt in enumerate(prompts):
        alone = knowing.denoise(z[i : i + 1], float(sigma[i]), prompt)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-5)
        other = knowing.denoise(z[i : i + 1], float(sigma[i]), prompts[i - 1])
        assert relative(other, alone) > 1e-5  # the control: the condition of another row


def test_nothing_of_the_prior_is_changed(prior_of):
    prior, z = prior_of("StableDiffusionXLPipeline"), randn(1, CHANNELS, PLACES, PLACES)
    pipe = words_of(prior).plain
    before = {k: t.clone() for e, _ in encoders_of(pipe).values() for k, t in e.state_dict().items()}
    size, expected = len(pipe.tokenizer), prior.denoise(z, 1.0, "a cat")
    knowing = with_concepts(prior, [concept_for(prior)])
    with torch.no_grad():
        knowing.denoise(z, 1.0, "a <cat>")
    assert torch.equal(knowing.denoise(z, 1.0, "a cat"), expected)
    assert torch.equal(prior.denoise(z, 1.0, "a cat"), expected) and len(pipe.tokenizer) == size
    after = {k: t for e, _ in encoders_of(pipe).values() for k, t in e.state_dict().items()}
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    with pytest.raises(AmbientSolveError, match="knows none"):
        prior.denoise(z, 1.0, "a <cat>")
    shared = encoders_of(words_of(knowing)._pipeline)["text_encoder"][0]
    ours = {p.data_ptr() for e, _ in encoders_of(pipe).values() for p in e.parameters()}
    assert {p.data_ptr() for p in shared.parameters()} <= ours  # no weight is held twice


@pytest.mark.parametrize(("prompt", "most"), [("a <cat[0]>", 4), ("a <cat(2)>", 2), ("a <cat|2|>", 1)])
def test_a_prompt_is_encoded_once_a_band(prompt, most, prior_of):
    prior = prior_of("StableDiffusionPipeline")
    knowing, calls = with_concepts(prior, [concept_for(prior)]), []
    encoder = words_of(knowing)._pipeline.text_encoder
    encoder.register_forward_hook(lambda *_: calls.append(1))
    z = randn(1, CHANNELS, PLACES, PLACES)
    for sigma in np.geomspace(prior.sigma_max, prior.sigma_min, 50):
        knowing.denoise(z, float(sigma), prompt)
    assert len(calls) == most  # the published code encodes it 50 times


@pytest.mark.filterwarnings("ignore::ambient_solve.MisfitWarning")
def test_a_concept_conditions_a_restoration(prior_of):
    prior, op = prior_of("StableDiffusionPipeline"), operators.inpaint_random((3, 16, 16), missing=0.5, sigma=0.1)
    knowing, y = with_concepts(prior, [concept_for(prior)]), op(rand(2, 3, 16, 16))
    solver = Solver(knowing, "ldps", steps=3)
    found = solver.solve(y, op, n_samples=2, cond=["a <cat>", Prompt("a <cat(1)>", guidance=2.0)], progress=False)
    alone = solver.solve(y[1:], op, n_samples=2, cond=Prompt("a <cat(1)>", guidance=2.0), progress=False)
    torch.testing.assert_close(found.samples[1:], alone.samples, rtol=1e-3, atol=1e-3)
    plain = solver.solve(y[1:], op, n_samples=2, cond=Prompt("a ", guidance=2.0), progress=False)
    assert relative(plain.samples, alone.samples) > 1e-5


# Files ----------------------------------------------------------------------------------------------------------------


def test_a_concept_is_read_as_it_was_written(tmp_path, prior_of):
    concept = concept_for(prior_of("StableDiffusionXLPipeline"))
    concept.save(tmp_path / "a", {"steps": 3})
    read = TimeDependentEmbedding.load(tmp_path / "a")
    assert (read.name, read.bands) == ("cat", 4) and not any(p.requires_grad for p in read.parameters())
    assert all(torch.equal(read.tables[k], concept.tables[k]) for k in concept.tables)
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["concept.json", "concept.safetensors"]


def refused(make, *words: str) -> None:
    with pytest.raises(AmbientSolveError) as error:
        make()
    print(f"\n{error.value}")
    assert one_sentence(error) and all(word in str(error.value) for word in words)


def test_files_that_are_no_concept_are_refused(tmp_path, prior_of):
    concept, place = concept_for(prior_of("StableDiffusionPipeline")), tmp_path / "a"
    load = TimeDependentEmbedding.load
    refused(lambda: load(tmp_path), "no concept", "concept.json")
    concept.save(place)
    record = json.loads((place / "concept.json").read_text())
    for changed, words in (({"kind": "x"}, "kind = 'concept'"), ({"bands": 5}, "4 bands"), ({"token": "cat"}, "<cat>")):
        (place / "concept.json").write_text(json.dumps({**record, **changed}))
        refused(lambda: load(place), words)
    (place / "concept.json").write_text(json.dumps(record))
    save_file({"text_encoder": torch.full((4, 8), float("nan"))}, place / "concept.safetensors")
    refused(lambda: load(place), "no embedding")
    save_file({"text_encoder": torch.zeros(4)}, place / "concept.safetensors")
    refused(lambda: load(place), "(K, features)")
    (place / "concept.safetensors").write_bytes(b"no")
    refused(lambda: load(place), "cannot be read")


def test_what_does_not_fit_is_refused(prior_of):
    prior, other = prior_of("StableDiffusionPipeline"), prior_of("StableDiffusionXLPipeline")
    concept = concept_for(prior)
    refused(lambda: with_concepts(other, [concept]), "text_encoder_2", "same text encoders")
    refused(lambda: with_concepts(prior, [concept, concept]), "Two concepts", "<cat>")
    refused(lambda: with_concepts(AffinePrior(), [concept]), "takes no words")
    refused(lambda: TimeDependentEmbedding("a b", {"text_encoder": torch.zeros(2, 3)}), "'a b'")
    refused(lambda: token_name("cat"), "between < and >")
    z, knowing = randn(1, CHANNELS, PLACES, PLACES), with_concepts(prior, [concept])
    refused(lambda: knowing.denoise(z, 1.0, "a <cat>" + " b" * 80), "84 tokens", "takes 77", "shorten")
    refused(lambda: knowing.denoise(z, 1.0, "a" * 5000), "5000 characters")
    refused(lambda: knowing.denoise(z, 1.0, "a \ue000cat/0\ue001"), "no text")
    refused(lambda: words_of(knowing).check(Prompt("a", negative="<dog>")), "<dog>", "<cat>")
