"""Real networks and schedulers of diffusers, small and random: the same denoised pictures from every kind of folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ambient_solve import AmbientSolveError, Solver, generate, load_prior, operators
from ambient_solve.priors.pipeline import PipelinePrior
from ambient_solve.priors.tiled import TiledPrior
from helpers import one_sentence, rand, randn, relative

diffusers = pytest.importorskip("diffusers", reason="needs diffusers: pip install 'ambient-solve[train]'")

SMALL = {
    "sample_size": 16,
    "block_out_channels": (8, 16, 16),
    "down_block_types": ("DownBlock2D",) * 3,
    "up_block_types": ("UpBlock2D",) * 3,
    "norm_num_groups": 4,
    "layers_per_block": 1,
    "add_attention": False,
}


def unet(**settings: object) -> nn.Module:
    torch.manual_seed(0)
    made = diffusers.UNet2DModel(**(SMALL | settings))
    for p in made.parameters():  # larger weights than those of a fresh network: what is wrong is seen
        nn.init.normal_(p, std=0.1)
    return made.eval().requires_grad_(False)


def saved(folder: Path, network: nn.Module, scheduler: object, **how: object) -> Path:
    diffusers.DDPMPipeline(network, scheduler).save_pretrained(folder, **how)
    return folder


def refused(folder: Path | PipelinePrior, *words: str, load=load_prior) -> None:
    with pytest.raises(AmbientSolveError) as error:
        load(folder)
    print(f"\n{error.value}")
    assert one_sentence(error) and all(word in str(error.value) for word in words)


# Sizes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(16, 16), (17, 22), (3, 30)])
def test_any_size_denoises_and_its_jacobian_is_that_of_the_padded_network(size, tmp_path):
    prior = load_prior(saved(tmp_path, unet(), diffusers.DDPMScheduler()))
    z, v, w = (randn(2, 3, *size, seed=s) for s in range(3))
    z0, vjp = prior.denoise_vjp(z, 0.5)
    h = 1e-2
    derivative = (prior.denoise(z + h * w, 0.5) - prior.denoise(z - h * w, 0.5)) / (2 * h)
    assert z0.shape == z.shape
    torch.testing.assert_close((v * derivative).sum(), (vjp(v) * w).sum(), rtol=2e-2, atol=2e-2)
    if size == (16, 16):  # what needs no padding gets none
        x = z * (1 + 0.25) ** -0.5
        out = prior.network(x, prior._time(torch.full((2,), 0.5)), return_dict=False)[0]
        torch.testing.assert_close(z0, z - 0.5 * out)


def test_a_picture_of_an_odd_size_is_restored(tmp_path):
    prior = load_prior(saved(tmp_path, unet(), diffusers.DDPMScheduler()))
    op = operators.inpaint_random((3, 19, 21), missing=0.5, sigma=0.1)
    r = Solver(prior, steps=3).solve(op(rand(1, 3, 19, 21)), op, n_samples=1)
    assert r.samples.shape == (1, 1, 3, 19, 21) and torch.isfinite(r.samples).all()


# Classes -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classes(tmp_path_factory) -> PipelinePrior:
    folder, network = tmp_path_factory.mktemp("classes"), unet(num_class_embeds=10)
    nn.init.normal_(network.class_embedding.weight, std=3.0)
    return load_prior(saved(folder, network, diffusers.DDPMScheduler()))


def test_a_class_is_the_condition(classes):
    z = randn(3, 3, 16, 16)
    one, two = classes.denoise(z, 0.5, 3), classes.denoise(z, 0.5, 4)
    assert relative(one, two) > 1e-3
    torch.testing.assert_close(classes.denoise(z, 0.5, torch.tensor([3, 4, 3]))[1], two[1])
    t = classes._time(torch.full((3,), 0.5))
    labels = torch.full((3,), 3)
    out = classes.network(z * 1.25**-0.5, t, class_labels=labels, return_dict=False)[0]
    torch.testing.assert_close(one, z - 0.5 * out)


def test_every_measurement_has_its_own_class(classes):
    op = operators.denoise((3, 16, 16), sigma=0.2)
    y = op(rand(2, 3, 16, 16))
    solver = Solver(classes, "proximal", steps=3)
    both = solver.solve(y, op, n_samples=2, cond=torch.tensor([1, 7])).samples
    for b, label in enumerate((1, 7)):
        alone = solver.solve(y[b : b + 1], op, n_samples=2, cond=label).samples
        torch.testing.assert_close(both[b : b + 1], alone, atol=1e-5, rtol=1e-4)
    other = solver.solve(y[1:], op, n_samples=2, cond=1).samples
    assert relative(other, both[1:]) > 1e-5  # the control: the class matters


def test_tiles_and_samples_without_a_measurement_have_the_class_of_their_picture(classes):
    tiled, z = TiledPrior(classes, 16, 4), randn(2, 3, 16, 28)
    both = tiled.denoise(z, 0.5, torch.tensor([1, 7]))
    for row, label in enumerate((1, 7)):
        torch.testing.assert_close(
            both[row : row + 1], tiled.denoise(z[row : row + 1], 0.5, label), rtol=1e-4, atol=1e-5
        )
    assert relative(both[1:], tiled.denoise(z[1:], 0.5, 1)) > 1e-3
    one, two = (generate(classes, 1, size=16, steps=3, cond=label) for label in (1, 7))
    assert relative(one, two) > 1e-3


@pytest.mark.parametrize("cond", [None, 10, -1, 2.0, True, torch.tensor([1, 2]), torch.zeros(1, 3, 16, 16)])
def test_a_missing_or_wrong_class_is_a_sentence(classes, cond):
    op = operators.denoise((3, 16, 16), sigma=0.2)
    with pytest.raises(AmbientSolveError, match="a class from 0 to 9") as error:
        Solver(classes, "proximal", steps=3).solve(op(rand(3, 3, 16, 16)), op, cond=cond)
    assert one_sentence(error)


# Channels ------------------------------------------------------------------------------------------------------------


def test_a_learned_variance_is_left_out_and_other_channels_are_refused(tmp_path):
    network = unet(out_channels=6)
    prior = load_prior(saved(tmp_path / "six", network, diffusers.DDPMScheduler()))
    z = randn(2, 3, 16, 16)
    out = network(z * 1.25**-0.5, prior._time(torch.full((2,), 0.5)), return_dict=False)[0]
    torch.testing.assert_close(prior.denoise(z, 0.5), z - 0.5 * out[:, :3])
    for taken, given in ((6, 3), (3, 4), (3, 1)):
        folder = tmp_path / f"{taken}-{given}"
        saved(folder, unet(in_channels=taken, out_channels=given), diffusers.DDPMScheduler())
        refused(folder, f"takes {taken} channels and gives {given}")


# Schedulers ----------------------------------------------------------------------------------------------------------


def own_step(kind: str, network: nn.Module, z: Tensor, sigma: float, **config: object) -> Tensor:
    """The denoised picture, by diffusers' own scaling and step, in the units of the pipeline."""
    scheduler = getattr(diffusers, kind)(**config)
    level = torch.full((len(z),), sigma)
    if kind.startswith("EDM"):
        out = network(scheduler.precondition_inputs(z, sigma), scheduler.precondition_noise(sigma).expand(len(z)))[0]
        return scheduler.precondition_outputs(z, out, sigma)
    if kind == "ScoreSdeVeScheduler":  # its first level is sigma: a step from there to no noise
        scheduler = diffusers.ScoreSdeVeScheduler(**(config | {"sigma_min": sigma}))
        scheduler.set_sigmas(2000)
        first = torch.zeros(())
        step = scheduler.step_pred(network(z, level)[0], first, z, generator=torch.Generator().manual_seed(0))
        return step.prev_sample_mean
    scheduler.set_timesteps(10)
    index = int((scheduler.sigmas[:-1] - sigma).abs().argmin())
    assert abs(float(scheduler.sigmas[index]) - sigma) < 1e-6 * sigma
    t = scheduler.timesteps[index]
    out = network(scheduler.scale_model_input(z, t), t)[0]
    return scheduler.step(out, t, z).pred_original_sample


FOURIER = {"time_embedding_type": "fourier"}
CONTINUOUS = {
    "timestep_type": "continuous",
    "prediction_type": "v_prediction",
    "sigma_min": 0.01,
    "sigma_max": 80.0,
    "use_karras_sigmas": True,
}
OWN = {
    "EDM": ("EDMEulerScheduler", {}, {}),
    "EDM multistep": ("EDMDPMSolverMultistepScheduler", {"sigma_data": 0.7, "sigma_max": 20.0}, {}),
    "EDM v": ("EDMEulerScheduler", {"prediction_type": "v_prediction"}, {}),
    "VE": ("ScoreSdeVeScheduler", {"sigma_max": 50.0}, FOURIER),
    "Euler": ("EulerDiscreteScheduler", {}, {}),
    "Euler, continuous": ("EulerDiscreteScheduler", CONTINUOUS, {}),
}


@pytest.mark.parametrize("name", OWN)
def test_the_denoised_picture_is_that_of_diffusers_own_step(name, tmp_path):
    kind, config, network = OWN[name]
    network = unet(**network)
    scheduler = getattr(diffusers, kind)(**config)
    prior = load_prior(saved(tmp_path, network, scheduler))
    levels = (0.05, 1.0, 15.0)
    if name.startswith("Euler"):
        scheduler.set_timesteps(10)
        levels = scheduler.sigmas[:-1].tolist()
    for sigma in levels:
        z = randn(2, 3, 16, 16) * (0.25 + sigma**2) ** 0.5
        found, wanted = prior.denoise(z, sigma), own_step(kind, network, z, sigma, **config)
        away = relative(found, wanted)
        print(f"\n{name}, sigma {sigma:.3g}: differs by {away:.1e}")
        assert away < 1e-5
        assert relative(found, z) > 1e-4  # the control: something was taken off
    assert prior.sigma_min < prior.sigma_max
    op = operators.denoise((3, 16, 16), sigma=0.2)
    assert torch.isfinite(Solver(prior, "proximal", steps=3).solve(op(rand(1, 3, 16, 16)), op).samples).all()


def test_a_ve_pipeline_makes_pictures_in_zero_to_one(tmp_path):
    """diffusers' ScoreSdeVePipeline clamps its state to [0, 1]; all others make z in [-1, 1] of it."""
    prior = load_prior(saved(tmp_path / "ve", unet(**FOURIER), diffusers.ScoreSdeVeScheduler()))
    assert prior.affine == (1.0, 0.0) and (prior.sigma_min, prior.sigma_max) == (0.01, 1348.0)
    edm = load_prior(saved(tmp_path / "edm", unet(), diffusers.EDMEulerScheduler()))
    assert edm.affine == (0.5, 0.5) and (edm.sigma_min, edm.sigma_max) == (0.002, 80.0)


def test_flow_prediction_is_read_and_advised_by_its_own_name(tmp_path):
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
    network = unet()
    prior = load_prior(saved(tmp_path / "p", network, diffusers.UniPCMultistepScheduler(**flow)))
    same = load_prior(saved(tmp_path / "q", network, diffusers.FlowMatchEulerDiscreteScheduler()))
    z = randn(2, 3, 16, 16)
    assert torch.equal(prior.denoise(z, 0.7), same.denoise(z, 0.7)) and prior.prediction == "flow_prediction"
    s, x = 0.7 / 1.7, z / 1.7  # s = t / 1000
    torch.testing.assert_close(
        prior.denoise(z, 0.7), x - s * network(x, torch.full((2,), 1000 * s))[0], rtol=1e-4, atol=1e-5
    )
    path = tmp_path / "p" / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prediction_type": "flow"}))
    refused(tmp_path / "p", "flow_prediction, sample")


def test_a_scheduler_that_is_no_denoisers_is_refused(tmp_path):
    folder = saved(tmp_path, unet(), diffusers.DDPMScheduler())
    (folder / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "CMStochasticIterativeScheduler"}')
    refused(folder, "CMStochasticIterativeScheduler", "EDM")


# Folders -------------------------------------------------------------------------------------------------------------


def test_a_latent_pipeline_is_refused_as_one_of_pixels(tmp_path):
    """Loaded as a prior of pixels it made noise of the right shape."""
    vae = diffusers.VQModel(block_out_channels=(8,), norm_num_groups=4, latent_channels=3)
    diffusers.LDMPipeline(vae, unet(), diffusers.DDIMScheduler()).save_pretrained(tmp_path)
    refused(tmp_path, "LDMPipeline", "vqvae", "a code of the picture", load=PipelinePrior.load)
    (tmp_path / "model_index.json").write_text("[1]")
    refused(tmp_path, "not the index of a pipeline")


def test_pipelines_of_words_are_refused_as_ones_of_pixels(tmp_path):
    network = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        cross_attention_dim=8,
        attention_head_dim=4,
        layers_per_block=1,
    )
    network.save_pretrained(tmp_path / "p" / "unet")
    diffusers.DDPMScheduler().save_pretrained(tmp_path / "p" / "scheduler")
    index = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    index["text_encoder"] = ["transformers", "CLIPTextModel"]
    (tmp_path / "p" / "model_index.json").write_text(json.dumps(index))
    refused(tmp_path / "p", "StableDiffusionPipeline", "text_encoder", load=PipelinePrior.load)
    refused(tmp_path / "p", "no folder 'text_encoder'")
    (tmp_path / "p" / "model_index.json").unlink()
    refused(tmp_path / "p", "UNet2DConditionModel", "words")
    network.save_pretrained(tmp_path / "bare")
    refused(tmp_path / "bare", "UNet2DConditionModel", "words")
    index = {"_class_name": "DiTPipeline", "transformer": ["diffusers", "DiTTransformer2DModel"]}
    (tmp_path / "p" / "model_index.json").write_text(json.dumps(index))
    refused(tmp_path / "p", "DiTPipeline", "transformer", load=PipelinePrior.load)


def test_half_precision_variants_and_pieces_are_read(tmp_path):
    network, scheduler = unet(), diffusers.DDPMScheduler()
    z = randn(2, 3, 16, 16)
    wanted = load_prior(saved(tmp_path / "plain", network, scheduler)).denoise(z, 0.5)
    half = load_prior(saved(tmp_path / "half", unet().half(), scheduler, variant="fp16"))
    assert {p.dtype for p in half.parameters()} == {torch.float32}
    assert 0 < relative(half.denoise(z, 0.5), wanted) < 1e-2
    pieces = load_prior(saved(tmp_path / "pieces", network, scheduler, max_shard_size="20KB"))
    assert len([*(tmp_path / "pieces" / "unet").glob("*-of-*.safetensors")]) > 1
    assert torch.equal(pieces.denoise(z, 0.5), wanted)


def test_a_bare_unet_says_what_it_lacks_and_loads_with_it(tmp_path):
    network = unet()
    network.save_pretrained(tmp_path)
    refused(tmp_path, "without its scheduler", "scheduler_config.json")
    diffusers.DDPMScheduler().save_pretrained(tmp_path)  # as google/ddpm-cifar10-32 has it, with an index or without
    z = randn(2, 3, 16, 16)
    out = load_prior(tmp_path)
    prior = PipelinePrior(network, {**diffusers.DDPMScheduler().config, "_class_name": "DDPMScheduler"})
    assert torch.equal(out.denoise(z, 0.5), prior.denoise(z, 0.5))
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    weights.rename(tmp_path / "diffusion_pytorch_model.bin")
    refused(tmp_path, "a pickle")


# NaN -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_no_numbers_are_refused(value, tmp_path):
    network = unet()
    network.conv_in.weight[0, 0, 0, 0] = value
    refused(saved(tmp_path, network, diffusers.DDPMScheduler()), "conv_in.weight", "NaN or infinite")
    shutil.rmtree(tmp_path / "unet")
    unet().save_pretrained(tmp_path / "unet")
    assert torch.isfinite(load_prior(tmp_path).denoise(randn(1, 3, 16, 16), 0.5)).all()  # the control
