"""Checkpoints of others: the network of guided-diffusion, its size read from its tensors, and files refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ambient_solve import AmbientSolveError, DenoiserPrior, load_prior
from ambient_solve.cli.dispatch import main
from ambient_solve.priors.adm import Adm, AdmAttention, AdmBlock, AdmConfig, read_size
from ambient_solve.priors.convert import KINDS, convert
from ambient_solve.priors.pipeline import PipelinePrior
from helpers import one_sentence, randn, relative

pytest.importorskip("diffusers", reason="needs diffusers: pip install 'ambient-solve[train]'")

SMALL = AdmConfig(3, 6, 8, (1, 2, 2), 1, (1,), 4, True, True, 0)
FFHQ = AdmConfig(3, 6, 128, (1, 1, 2, 2, 4, 4), 1, (4,), 64, True, True, 0)
"""Of the network of DPS for faces: attention at 16 pixels of 256."""
IMAGENET = AdmConfig(3, 6, 256, (1, 1, 2, 2, 4, 4), 2, (3, 4, 5), 64, True, True, 1000)


def shapes(config: AdmConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(t.shape) for name, t in Adm(config).state_dict().items()}


def checkpoint(config: AdmConfig = SMALL) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in shapes(config).items()}


def refused(make, *words: str) -> None:
    with pytest.raises(AmbientSolveError) as error:
        make()
    print(f"\n{error.value}")
    assert one_sentence(error) and all(word in str(error.value) for word in words)


# The network ----------------------------------------------------------------------------------------------------------


def test_names_and_size_are_the_published_ones():
    held = shapes(IMAGENET)
    assert round(sum(math.prod(s) for s in held.values()) / 1e6) == 554  # table 4 of the paper
    for name, shape in (
        ("time_embed.2.weight", (1024, 1024)),
        ("label_emb.weight", (1000, 1024)),
        ("input_blocks.3.0.out_layers.3.weight", (256, 256, 3, 3)),
        ("input_blocks.10.1.qkv.weight", (1536, 512, 1)),
        ("middle_block.2.emb_layers.1.weight", (2048, 1024)),
        ("output_blocks.2.2.in_layers.2.weight", (1024, 1024, 3, 3)),
        ("output_blocks.0.0.skip_connection.weight", (1024, 2048, 1, 1)),
        ("out.2.bias", (6,)),
    ):
        assert held[name] == shape, name


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        FFHQ,
        IMAGENET,
        AdmConfig(3, 3, 8, (1, 2), 2, (), 64, False, False, 0),
        AdmConfig(1, 2, 8, (1, 2, 3, 4), 3, (1, 2, 3), 64, False, True, 7),
        AdmConfig(3, 6, 16, (0.5, 1, 1, 2, 2, 4, 4), 2, (4, 5, 6), 64, True, True, 0),
    ],
)
def test_the_size_follows_from_the_shapes(config):
    assert read_size(shapes(config), config.head_channels) == config


def test_attention_is_its_formula():
    layer, h = AdmAttention(8, 4).eval(), randn(2, 8, 3, 2)
    with torch.no_grad():
        q, k, v = layer.qkv(layer.norm(h.flatten(2))).reshape(2 * 2, 12, 6).split(4, 1)
        weight = torch.einsum("bct,bcs->bts", q, k).div(2.0).softmax(-1)
        mixed = torch.einsum("bts,bcs->bct", weight, v).reshape(2, 8, 6)
        torch.testing.assert_close(layer(h, h), h + layer.proj_out(mixed).reshape(h.shape))


def test_a_block_that_halves_averages_before_its_convolution():
    block, h, e = AdmBlock(4, 4, 6, True, -1).eval(), randn(1, 4, 4, 4), randn(1, 6)
    pool = torch.nn.functional.avg_pool2d
    with torch.no_grad():
        r = block.in_layers[2](pool(block.in_layers[1](block.in_layers[0](h)), 2))
        scale, shift = block.emb_layers(e)[:, :, None, None].chunk(2, 1)
        r = block.out_layers[0](r) * (1 + scale) + shift
        torch.testing.assert_close(block(h, e), pool(h, 2) + block.out_layers[3](block.out_layers[1](r)))


# Folders --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["plain", "module", "nested", "safetensors"])
def test_a_checkpoint_becomes_a_prior(how, tmp_path):
    state, path = checkpoint(), tmp_path / ("net.safetensors" if how == "safetensors" else "net.pt")
    stored = {f"module.{k}": v for k, v in state.items()} if how == "module" else state
    if how == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": stored, "step": 3} if how == "nested" else stored, path)
    made = convert(path, "guided-diffusion", tmp_path / "prior", head_channels=4)
    prior, z = load_prior(tmp_path / "prior"), randn(2, 3, 8, 12)
    assert isinstance(prior, PipelinePrior) and torch.equal(prior.denoise(z, 0.7), made.denoise(z, 0.7))
    network = Adm(SMALL).eval()
    network.load_state_dict(state)
    bar = (1 - torch.linspace(1e-4, 0.02, 1000).double()).cumprod(0)
    t = 300
    sigma = float(((1 - bar[t]) / bar[t]).sqrt())
    with torch.no_grad():
        out = network(z * float(bar[t].sqrt()), torch.full((2,), t))[:, :3]
    assert relative(prior.denoise(z, sigma), z - sigma * out) < 1e-4
    card = (tmp_path / "prior" / "README.md").read_text()
    assert "guided-diffusion" in card and "net" in card and prior.affine == (0.5, 0.5)


def test_classes_are_conditions(tmp_path):
    config = AdmConfig(3, 6, 8, (1, 2), 1, (1,), 4, False, True, 5)
    torch.save(checkpoint(config), tmp_path / "net.pt")
    prior, z = convert(tmp_path / "net.pt", "guided-diffusion", tmp_path / "p", head_channels=4), randn(1, 3, 8, 8)
    assert relative(prior.denoise(z, 1.0, 1), prior.denoise(z, 1.0, 2)) > 1e-4


@pytest.mark.parametrize("name", ["DRUNet", "DnCNN"])
def test_denoisers_of_deepinv_are_read(name, tmp_path):
    import deepinv

    torch.manual_seed(0)
    network = getattr(deepinv.models, name)(3, 3, pretrained=None).eval()
    torch.save(network.state_dict(), tmp_path / "net.pth")
    prior, x = convert(tmp_path / "net.pth", "deepinv", tmp_path / "p"), torch.rand(1, 3, 16, 16)
    assert isinstance(prior, DenoiserPrior)
    with torch.no_grad():
        expected = network(x, torch.tensor([0.1]))
    torch.testing.assert_close(prior.decode(prior.denoise(prior.encode(x), 0.2)), expected, rtol=1e-4, atol=1e-5)


def test_the_command_converts(tmp_path, capsys):
    torch.save(checkpoint(), tmp_path / "net.pt")
    words = ["convert", str(tmp_path / "net.pt"), "--kind", "guided-diffusion", "--out", str(tmp_path / "prior")]
    assert main([*words, "--head-channels", "4"]) == 0
    assert "ambient-solve info" in capsys.readouterr().out and (tmp_path / "prior" / "config.json").is_file()
    assert main(["info", str(tmp_path / "prior")]) == 0
    said = capsys.readouterr().out
    assert "beta_schedule" in said and "Converted by" in said
    assert main([*words[:3], "deepinv", "--out", str(tmp_path / "q")]) == 2
    assert "m_head.weight" in capsys.readouterr().err and not (tmp_path / "q").exists()


# What is refused ------------------------------------------------------------------------------------------------------


class Code:
    """An object whose pickle runs code."""

    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": checkpoint(), "config": Code()}, tmp_path / "net.pt")
    refused(lambda: convert("net.pt", "guided-diffusion", "p"), "objects with code", "never run")
    assert not Path("ran").exists() and not Path("p").exists()
    torch.save(Adm(SMALL), tmp_path / "whole.pt")
    refused(lambda: convert("whole.pt", "guided-diffusion", "p"), "objects with code", "state_dict()")


def test_what_is_no_checkpoint_is_refused(tmp_path):
    path, state = tmp_path / "net.pt", checkpoint()

    def store(changed: object) -> Path:
        torch.save(changed, path)
        return path

    def change(file: Path) -> object:
        return lambda: convert(file, "guided-diffusion", tmp_path / "p", head_channels=4)

    refused(change(tmp_path / "no.pt"), "no file")
    path.write_bytes(b"nothing")
    refused(change(path), "net.pt")
    refused(change(store([1, 2])), "no state dict")
    refused(change(store({k: v for k, v in state.items() if k != "out.0.bias"})), "1 tensors are missing, such as out")
    refused(change(store({**state, "more": torch.zeros(1)})), "1 tensors are not expected, such as more")
    refused(change(store({**state, "out.0.bias": torch.zeros(3)})), "has shape (3,)")
    refused(change(store({**state, "out.0.bias": state["out.0.bias"] * math.nan})), "NaN")
    refused(change(store({k: v for k, v in state.items() if "time_embed" not in k})), "time_embed.0.weight is missing")
    refused(lambda: convert(store(state), "deepinv", tmp_path / "p"), "no DRUNet and no DnCNN", "Restormer", "--kind")
    refused(lambda: convert(path, "edm3", tmp_path / "p"), "edm3")
    refused(
        lambda: convert(path, "deepinv", tmp_path / "p", schedule="linear"), "schedule says nothing", "leave it out"
    )
    refused(lambda: convert(path, "guided-diffusion", tmp_path / "p", head_channels=0), "head_channels = 0")
    assert not (tmp_path / "p").exists()
    assert set(KINDS) == {"guided-diffusion", "edm", "edm2", "score-sde", "deepinv", "spandrel"}


@pytest.mark.parametrize(
    "settings", [{"kind": "guided-diffusion", "schedule": "s"}, {"kind": "guided-diffusion", "head_channels": "many"}]
)
def test_an_untrusted_configuration_is_refused(tmp_path, settings):
    torch.save(checkpoint(), tmp_path / "net.pt")
    convert(tmp_path / "net.pt", "guided-diffusion", tmp_path / "p", head_channels=4)
    (tmp_path / "p" / "config.json").write_text(json.dumps(settings))
    refused(lambda: load_prior(tmp_path / "p"), list(settings)[1])


def test_a_converted_folder_whose_parts_do_not_fit_is_refused(tmp_path):
    torch.save(checkpoint(), tmp_path / "net.pt")
    folder = tmp_path / "p"
    convert(tmp_path / "net.pt", "guided-diffusion", folder, head_channels=4)
    weights, settings = folder / "model.safetensors", (folder / "config.json").read_text()
    state, whole = checkpoint(), weights.read_bytes()
    for changed, words in (
        ({k: v for k, v in state.items() if k != "out.0.bias"}, "1 tensors are missing, such as out.0.bias"),
        ({**state, "more": torch.zeros(1)}, "1 tensors are not expected, such as more"),
        ({**state, "out.0.bias": torch.zeros(3)}, "has shape (3,)"),
    ):
        save_file(changed, weights)
        refused(lambda: load_prior(folder), words)
    weights.write_bytes(whole[:100])
    refused(lambda: load_prior(folder), "safetensors")
    weights.write_bytes(whole)
    (folder / "config.json").write_text(json.dumps({**json.loads(settings), "kind": "deepinv"}))
    refused(lambda: load_prior(folder), "m_head.weight")
    (folder / "config.json").write_text(json.dumps({**json.loads(settings), "kind": "edm3"}))
    refused(lambda: load_prior(folder), "config.json")
    weights.unlink()
    torch.save({"state_dict": state, "config": Code()}, folder / "model.pt")
    (folder / "config.json").write_text(settings)
    refused(lambda: load_prior(folder), "model.safetensors")
