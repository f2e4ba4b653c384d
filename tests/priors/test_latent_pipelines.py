"""Latent pipelines of diffusers, small and random, of the real classes: their denoised latents, words and guidance."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ambient_solve import AmbientSolveError, LatentPrior, Solver, load_prior, operators
from ambient_solve.priors.counted import CountedPrior
from ambient_solve.priors.text import Label, Prompt
from helpers import one_sentence, rand, randn, relative

diffusers = pytest.importorskip("diffusers", reason="needs diffusers: pip install 'ambient-solve[train]'")

from pipelines import BUILDERS, CHANNELS, PLACES, vae  # noqa: E402

WORDED = [name for name in BUILDERS if name not in ("LDMPipeline", "DiTPipeline")]
WORDS = {"DiTPipeline": 3, "LDMPipeline": None}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a pipeline by its name, written at first use."""
    made: dict[str, Path] = {}

    def of(name: str) -> Path:
        if name in WORDED:
            pytest.importorskip("transformers", reason="text encoders need transformers: pip install transformers")
        if name not in made:
            made[name] = BUILDERS[name](tmp_path_factory.mktemp("pipelines") / "pipeline")
        return made[name]

    return of


def opened(name: str, place: Path):
    kind = "StableDiffusionPipeline" if name == "v" else name
    return getattr(diffusers, kind).from_pretrained(place, local_files_only=True)


def predicted(name: str, pipe, x: Tensor, t: Tensor, words: object) -> Tensor:
    """What the network of a pipeline predicts, called as its own pipeline calls it."""
    rows = len(x)
    if name == "LDMPipeline":
        return pipe.unet(x, t).sample
    if name == "DiTPipeline":
        labels = torch.full((rows,), words)
        return pipe.transformer(x, timestep=t.expand(rows), class_labels=labels).sample[:, :CHANNELS]
    if name in ("StableDiffusionPipeline", "v"):
        tokens = pipe.encode_prompt(words, "cpu", rows, False)[0]
        return pipe.unet(x, t, encoder_hidden_states=tokens).sample
    if name == "FluxPipeline":
        tokens, pooled, ids = pipe.encode_prompt(words, None, num_images_per_prompt=rows)
        side = x.shape[-1]
        places = pipe._prepare_latent_image_ids(rows, side // 2, side // 2, "cpu", x.dtype)
        out = pipe.transformer(
            hidden_states=pipe._pack_latents(x, rows, CHANNELS, side, side), timestep=t.expand(rows) / 1000,
            guidance=torch.ones(rows), pooled_projections=pooled, encoder_hidden_states=tokens, txt_ids=ids,
            img_ids=places,
        ).sample  # fmt: skip
        return pipe._unpack_latents(out, side * 2, side * 2, 2)
    if name == "StableDiffusion3Pipeline":
        tokens, _, pooled, _ = pipe.encode_prompt(
            words, None, None, num_images_per_prompt=rows, do_classifier_free_guidance=False
        )
        return pipe.transformer(
            hidden_states=x, timestep=t.expand(rows), encoder_hidden_states=tokens, pooled_projections=pooled
        ).sample
    tokens, _, pooled, _ = pipe.encode_prompt(words, num_images_per_prompt=rows, do_classifier_free_guidance=False)
    size = (x.shape[-2] * 2, x.shape[-1] * 2)
    ids = pipe._get_add_time_ids(size, (0, 0), size, tokens.dtype, text_encoder_projection_dim=8)
    known = {"text_embeds": pooled, "time_ids": ids.repeat(rows, 1)}
    return pipe.unet(x, t, encoder_hidden_states=tokens, added_cond_kwargs=known).sample


@torch.no_grad()
def by_scheduler(name: str, pipe, z: Tensor, words: object, guidance: float = 1.0, negative: str = "") -> tuple:
    """The level, and the denoised latent as a step of the pipeline's own scheduler finds it."""
    scheduler = pipe.scheduler
    scheduler.set_timesteps(10)
    flow = name in ("StableDiffusion3Pipeline", "FluxPipeline")
    t = scheduler.timesteps[-1 if flow else 4]
    if flow:
        s = float(scheduler.sigmas[-2])
        sigma, x = s / (1 - s), z * (1 - s)
    else:
        bar = float(scheduler.alphas_cumprod[int(t)])
        sigma = math.sqrt((1 - bar) / bar)
        x = z * math.sqrt(bar)
    out = predicted(name, pipe, x, t, words)
    if guidance != 1:
        other = predicted(name, pipe, x, t, negative)
        out = other + guidance * (out - other)
    if flow:  # the last step ends at 0: it is the denoised latent itself
        return sigma, scheduler.step(out, t, x).prev_sample
    x = z if name == "StableDiffusionXLPipeline" else x  # Euler's own state is that of EDM
    return sigma, scheduler.step(out, t, x).pred_original_sample


@pytest.mark.parametrize("name", BUILDERS)
def test_the_denoised_latent_is_that_of_the_schedulers_own_step(name, folder):
    prior, pipe = load_prior(folder(name)), opened(name, folder(name))
    words, z = WORDS.get(name, "a cat"), 2 * randn(2, CHANNELS, PLACES, PLACES)
    sigma, expected = by_scheduler(name, pipe, z, words)
    assert isinstance(prior, LatentPrior)
    assert relative(prior.denoise(z, sigma, words), expected) < 1e-5
    assert relative(prior.denoise(z, 1.3 * sigma, words), expected) > 1e-3  # the control: another level


@pytest.mark.parametrize("name", BUILDERS)
def test_the_code_is_that_of_the_pipeline(name, folder):
    """The mode, shifted and scaled as the pipeline does; nothing is drawn."""
    prior, pipe = load_prior(folder(name)), opened(name, folder(name))
    x, code = rand(1, 3, 16, 24), pipe.vqvae if name == "LDMPipeline" else pipe.vae
    with torch.no_grad():
        found = code.encode(2 * x - 1)
        raw = found.latents if name == "LDMPipeline" else found.latent_dist.mean
        shift = getattr(code.config, "shift_factor", None) or 0.0
        expected = (raw - shift) * code.config.scaling_factor
        torch.testing.assert_close(prior.encode(x), expected)
        torch.testing.assert_close(prior.decode(expected), code.decode(raw).sample / 2 + 0.5)
    assert torch.equal(prior.encode(x), prior.encode(x)) and prior.state_shape((3, 16, 16)) == (4, 8, 8)


@pytest.mark.parametrize("name", ["StableDiffusionPipeline", "v", "StableDiffusion3Pipeline"])
def test_guidance_is_the_rule_of_the_pipelines(name, folder):
    prior, pipe = load_prior(folder(name)), opened(name, folder(name))
    z = 2 * randn(2, CHANNELS, PLACES, PLACES)
    sigma, expected = by_scheduler(name, pipe, z, "a cat", 4.0, "blurry")
    found = prior.denoise(z, sigma, Prompt("a cat", "blurry", 4.0))
    assert relative(found, expected) < 1e-5
    assert relative(prior.denoise(z, sigma, Prompt("a cat", "blurry", 3.0)), expected) > 1e-4


@pytest.mark.parametrize("name", [n for n in BUILDERS if n != "LDMPipeline"])
def test_a_condition_changes_the_latent_and_scale_one_costs_one_pass(name, folder):
    prior, z = load_prior(folder(name)), randn(2, CHANNELS, PLACES, PLACES)
    one, two = (3, 4) if name == "DiTPipeline" else ("a cat", "a dog")
    assert relative(prior.denoise(z, 1.0, one), prior.denoise(z, 1.0, two)) > 1e-4
    mixed = prior.denoise(z, 1.0, [one, two])  # one for each measurement
    torch.testing.assert_close(mixed[1:], prior.denoise(z[1:], 1.0, two), rtol=1e-4, atol=1e-5)
    network, calls = prior.inner.inner.network, []
    hook = network.register_forward_hook(lambda *_: calls.append(1))
    given = Label(3, 2.0) if name == "DiTPipeline" else Prompt("a cat", guidance=2.0)
    for cond, passes in ((one, 1), (given, 1 if name == "FluxPipeline" else 2)):
        counted, before = CountedPrior(prior, cond), len(calls)
        counted.denoise(z, 1.0)
        counted.denoise_vjp(z, 1.0)[1](z)
        assert len(calls) - before == 2 * passes and (counted.network_calls, counted.vjps) == (2 * passes, passes)
    hook.remove()
    guided = prior.denoise(z, 1.0, given)
    assert relative(guided, prior.denoise(z, 1.0, one)) > 1e-5


def test_guidance_is_differentiated_through_both_passes(folder):
    prior, cond = load_prior(folder("DiTPipeline")), Label(3, 3.0)
    z, v, w = (randn(1, CHANNELS, PLACES, PLACES, seed=s) for s in range(3))
    _, vjp = prior.denoise_vjp(z, 1.0, cond)
    h = 1e-2
    derivative = (prior.denoise(z + h * w, 1.0, cond) - prior.denoise(z - h * w, 1.0, cond)) / (2 * h)
    torch.testing.assert_close((v * derivative).sum(), (vjp(v) * w).sum(), rtol=2e-2, atol=2e-2)


@pytest.mark.filterwarnings("ignore::ambient_solve.MisfitWarning")
@pytest.mark.parametrize("name", ["StableDiffusionPipeline", "DiTPipeline"])
def test_pictures_are_restored_with_a_condition_for_each(name, folder):
    prior, op = load_prior(folder(name)), operators.inpaint_random((3, 16, 16), missing=0.5, sigma=0.1)
    y, cond = op(rand(2, 3, 16, 16)), [3, 4] if name == "DiTPipeline" else ["a cat", Prompt("a dog", guidance=2.0)]
    for algorithm in ("latino", "ldps"):
        found = Solver(prior, algorithm, steps=2).solve(y, op, n_samples=2, cond=cond, progress=False)
        assert found.samples.shape == (2, 2, 3, 16, 16) and torch.isfinite(found.samples).all()
        alone = Solver(prior, algorithm, steps=2).solve(y[1:], op, n_samples=2, cond=cond[1:], progress=False)
        torch.testing.assert_close(found.samples[1:], alone.samples, rtol=1e-3, atol=1e-3)


def test_other_autoencoders_of_diffusers_are_read():
    from ambient_solve.priors.autoencoder_diffusers import DiffusersAutoencoder

    tiny = DiffusersAutoencoder(
        diffusers.AutoencoderTiny(
            encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1), latent_channels=4,
        ).eval()
    )  # fmt: skip
    x = rand(1, 3, 16, 16)
    z = tiny.encode(x)
    assert z.shape == (1, 4, 8, 8) and tiny.decode(z).shape == x.shape
    with pytest.raises(AmbientSolveError, match="AutoencoderKL, VQModel, AutoencoderTiny") as error:
        DiffusersAutoencoder(diffusers.AutoencoderKLTemporalDecoder(block_out_channels=(32,), layers_per_block=1))
    assert one_sentence(error)


# What is refused ------------------------------------------------------------------------------------------------------


def refused(make, *words: str) -> None:
    with pytest.raises(AmbientSolveError) as error:
        make()
    print(f"\n{error.value}")
    assert one_sentence(error) and all(word in str(error.value) for word in words)


def test_conditions_that_are_none_are_refused(folder):
    z = randn(1, CHANNELS, PLACES, PLACES)
    words, classes = load_prior(folder("StableDiffusionPipeline")), load_prior(folder("DiTPipeline"))
    refused(lambda: words.denoise(z, 1.0, "a" + " b" * 80), "83 tokens", "takes 77", "shorten")
    refused(lambda: words.denoise(z, 1.0, 3), "cond='3'", "Prompt")
    refused(lambda: words.denoise(z, 1.0, ["a", "b"]), "one for each measurement")
    refused(lambda: classes.denoise(z, 1.0), "cond=None", "0 to 9")
    refused(lambda: classes.denoise(z, 1.0, 10), "cond=10", "0 to 9")
    refused(lambda: Prompt("a", guidance=-1.0), "guidance=-1.0")
    refused(lambda: Prompt(3), "words")  # type: ignore[arg-type]


def test_folders_that_do_not_fit_are_refused(folder, tmp_path):
    place = tmp_path / "p"
    shutil.copytree(folder("DiTPipeline"), place)
    index = json.loads((place / "model_index.json").read_text())
    (place / "model_index.json").write_text(json.dumps({**index, "vae": ["mymodule", "AutoencoderKL"]}))
    refused(lambda: load_prior(place), "mymodule", "never run")
    (place / "model_index.json").write_text(json.dumps(index))
    weights = place / "vae" / "diffusion_pytorch_model.safetensors"
    kept = weights.read_bytes()
    weights.rename(weights.with_name("diffusion_pytorch_model.bin"))
    refused(lambda: load_prior(place), "a pickle, which is never read")
    weights.with_name("diffusion_pytorch_model.bin").unlink()
    weights.write_bytes(kept[:100])
    refused(lambda: load_prior(place), "cannot be read as a DiTPipeline")
    vae(latent_channels=3).save_pretrained(place / "vae")
    refused(lambda: load_prior(place), "4 channels", "makes 3")
    shutil.rmtree(place / "vae")
    refused(lambda: load_prior(place), "no folder 'vae'")
