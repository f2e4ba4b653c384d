"""Diffusers networks as priors: every prediction gives the exact denoiser; folders load, and are refused in words."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from ambient_solve.errors import AmbientSolveError
from ambient_solve.priors.pipeline import PipelinePrior
from helpers import one_sentence, randn, relative

VARIANCE = 0.3
DDPM = {"_class_name": "DDPMScheduler", "num_train_timesteps": 1000, "beta_schedule": "linear"}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}


class ExactUNet(nn.Module):
    """What a perfectly trained network says under `z0 ~ N(0, VARIANCE)`, in the units and at the times of diffusers."""

    def __init__(self, prediction: str) -> None:
        super().__init__()
        self.config, self.prediction = SimpleNamespace(in_channels=2), prediction
        self.times: list[float] = []

    def forward(self, x: Tensor, t: Tensor, return_dict: bool = True) -> tuple[Tensor]:
        self.times += t.tolist()
        if self.prediction == "flow":
            s = (t / 1000)[:, None, None, None]
            share = (1 - s) * VARIANCE / ((1 - s) ** 2 * VARIANCE + s**2)
            return (s / ((1 - s) ** 2 * VARIANCE + s**2) * x - share * x,)
        beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
        log_bar = torch.log1p(-beta).cumsum(0)
        low = t.long().clamp(0, 998)
        bar = torch.exp(log_bar[low] + (t - low) * (log_bar[low + 1] - log_bar[low])).float()[:, None, None, None]
        z0 = bar.sqrt() * VARIANCE / (bar * VARIANCE + 1 - bar) * x
        eps = (x - bar.sqrt() * z0) / (1 - bar).sqrt()
        out = {"epsilon": eps, "sample": z0, "v_prediction": bar.sqrt() * eps - (1 - bar).sqrt() * z0}
        return (torch.cat([out[self.prediction], x], 1),)  # as a network that also predicts a variance


def prior_of(prediction: str) -> PipelinePrior:
    scheduler = FLOW if prediction == "flow" else {**DDPM, "prediction_type": prediction}
    return PipelinePrior(ExactUNet(prediction), scheduler)


def error(prior: PipelinePrior, sigma: float) -> float:
    z = randn(3, 2, 8, 8) * (VARIANCE + sigma**2) ** 0.5
    return relative(prior.denoise(z, sigma), z * VARIANCE / (VARIANCE + sigma**2))


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction", "flow"])
@pytest.mark.parametrize("sigma", [0.02, 0.3, 1.0, 5.0, 40.0])
def test_every_prediction_gives_the_exact_denoiser(prediction, sigma):
    # Between two times the level is interpolated: exact to 1e-2 at worst, where the schedule is steepest.
    assert error(prior_of(prediction), sigma) < (2e-2 if sigma < 0.1 else 2e-3)


def test_control_the_state_must_be_rescaled_and_the_prediction_named():
    wrong = PipelinePrior(ExactUNet("epsilon"), {**DDPM, "prediction_type": "v_prediction"})
    assert error(wrong, 1.0) > 0.1
    unscaled = prior_of("epsilon")
    z = randn(3, 2, 8, 8)
    direct = z - unscaled.network(z, unscaled._time(torch.ones(3)))[0][:, :2]
    assert relative(direct, z * VARIANCE / (VARIANCE + 1)) > 0.1


def test_levels_per_sample_and_the_range_of_the_schedule():
    prior = prior_of("epsilon")
    z = randn(2, 2, 8, 8)
    both = prior.denoise(z, torch.tensor([0.1, 3.0]))
    assert torch.allclose(both[1:], prior.denoise(z[1:], 3.0), atol=1e-6)
    assert 0.009 < prior.sigma_min < 0.011 and 100 < prior.sigma_max < 200
    prior.denoise(z, 1e4)
    assert max(prior.network.times) <= 999


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    diffusers = pytest.importorskip("diffusers", reason="needs diffusers: pip install 'ambient-solve[train]'")
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=16,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        norm_num_groups=4,
        layers_per_block=1,
        add_attention=False,
    )
    path = tmp_path_factory.mktemp("pipeline")
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained(path)
    return path


def test_folder_of_diffusers_loads_saves_and_solves(folder, tmp_path):
    from ambient_solve import Solver, load_prior, operators

    prior = load_prior(folder)
    assert isinstance(prior, PipelinePrior)
    prior.save(tmp_path / "again", "# card")
    z = randn(2, 3, 16, 16)
    assert torch.equal(load_prior(tmp_path / "again").denoise(z, 0.5), prior.denoise(z, 0.5))
    op = operators.denoise((3, 16, 16), 0.1)
    assert torch.isfinite(Solver(prior, "proximal", steps=3).solve(op(randn(1, 3, 16, 16)), op).mean).all()


def test_what_is_no_pipeline_is_refused_in_words(folder, tmp_path):
    with pytest.raises(AmbientSolveError) as error:
        PipelinePrior.load(tmp_path)
    assert one_sentence(error) and "save_pretrained" in str(error.value)
    with pytest.raises(AmbientSolveError) as error:
        PipelinePrior(ExactUNet("epsilon"), {"_class_name": "NoScheduler"})
    assert one_sentence(error)
    with pytest.raises(AmbientSolveError) as error:
        PipelinePrior(ExactUNet("epsilon"), {**DDPM, "prediction_type": "noise"})
    assert one_sentence(error)
    (tmp_path / "unet").mkdir()
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(DDPM))
    (tmp_path / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(AmbientSolveError) as error:
        PipelinePrior.load(tmp_path)
    assert one_sentence(error)
