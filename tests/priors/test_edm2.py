"""The network of EDM2: beside the same network written a second time, as functions of its tensors by name."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ambient_solve import AmbientSolveError, load_prior
from ambient_solve.priors.convert import convert
from ambient_solve.priors.edm2 import Edm2, Edm2Config, Edm2Weight, read_edm2
from ambient_solve.priors.pipeline import PipelinePrior
from helpers import one_sentence, randn, relative

pytest.importorskip("diffusers", reason="needs diffusers: pip install 'ambient-solve[train]'")

SMALL = Edm2Config(8, 3, (8, 16), 2, (1,), 8, 16, 5, 4)
PLAIN = Edm2Config(16, 1, (8, 8, 12), 1, (1, 2), 6, 12, 0, 4)
CONFIGS = {"classes": SMALL, "no classes": PLAIN}


def shapes(config: Edm2Config) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(t.shape) for name, t in Edm2(config).state_dict().items()}


def checkpoint(config: Edm2Config) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    state = {name: torch.randn(shape, generator=generator) for name, shape in shapes(config).items()}
    return {f"unet.{name}": t for name, t in state.items()} | {
        "logvar_fourier.freqs": torch.randn(4),
        "logvar_fourier.phases": torch.randn(4),
        "logvar_linear.weight": torch.randn(1, 4),
    }


# The second time ------------------------------------------------------------------------------------------------------


def weighed(state: dict[str, Tensor], name: str, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
    """A layer: each output's weights have a length of one but for EPS."""
    w = state[f"unet.{name}.weight"]
    rows = w.reshape(len(w), -1)
    length = rows.norm(dim=1) / math.sqrt(rows.shape[1]) + 1e-4
    rows = rows / length[:, None] / math.sqrt(rows.shape[1]) * gain
    return x @ rows.T if w.ndim == 2 else F.conv2d(x, rows.reshape(w.shape), padding=w.shape[-1] // 2)


def silu(x: Tensor) -> Tensor:
    return x * x.sigmoid() / 0.596


def added(a: Tensor, b: Tensor, t: float) -> Tensor:
    return ((1 - t) * a + t * b) / math.sqrt((1 - t) ** 2 + t**2)


def block(state: dict[str, Tensor], name: str, x: Tensor, e: Tensor, head: int) -> Tensor:
    down, skip = name.startswith("enc"), f"unet.{name}.conv_skip.weight" in state
    if name.endswith("_down"):
        x = sum(x[..., i::2, j::2] for i in range(2) for j in range(2)) / 4
    if name.endswith("_up"):
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    if down:
        x = weighed(state, f"{name}.conv_skip", x) if skip else x
        x = x / (x.norm(dim=1, keepdim=True) / math.sqrt(x.shape[1]) + 1e-4)
    h = weighed(state, f"{name}.conv_res0", silu(x))
    h = silu(h * (1 + weighed(state, f"{name}.emb_linear", e, state[f"unet.{name}.emb_gain"]))[:, :, None, None])
    h = weighed(state, f"{name}.conv_res1", h)
    x = weighed(state, f"{name}.conv_skip", x) if skip and not down else x
    x = added(x, h, 0.3)
    if f"unet.{name}.attn_qkv.weight" in state:
        rows = weighed(state, f"{name}.attn_qkv", x).flatten(2)
        mixed = []
        for at in range(0, x.shape[1], head):
            parts = [rows[:, 3 * at + i : 3 * (at + head) : 3] for i in range(3)]
            q, k, v = (p / (p.norm(dim=1, keepdim=True) / math.sqrt(head) + 1e-4) for p in parts)
            weight = (torch.einsum("bcq,bck->bqk", q, k) / math.sqrt(head)).softmax(-1)
            mixed.append(torch.einsum("bqk,bck->bcq", weight, v))
        x = added(x, weighed(state, f"{name}.attn_proj", torch.cat(mixed, 1).reshape(x.shape)), 0.3)
    return x.clamp(-256, 256)


def answer(state: dict[str, Tensor], x: Tensor, noise: float, label: int | None = None, head: int = 4) -> Tensor:
    waves = (state["unet.emb_fourier.freqs"] * noise + state["unet.emb_fourier.phases"]).cos() * math.sqrt(2)
    e = weighed(state, "emb_noise", waves[None])
    if label is not None:
        count = state["unet.emb_label.weight"].shape[1]
        one = torch.eye(count)[label][None] * math.sqrt(count)
        e = added(e, weighed(state, "emb_label", one), 0.5)
    e, names = silu(e), {name.split(".")[2] for name in state if name.startswith("unet.enc.")}
    sides = sorted({int(name.split("x")[0]) for name in names}, reverse=True)
    count = sum("block" in name for name in names) // len(sides)
    h = weighed(state, f"enc.{sides[0]}x{sides[0]}_conv", torch.cat([x, torch.ones(len(x), 1, *x.shape[2:])], 1))
    skips = [h]
    for i, n in enumerate(sides):
        for name in [f"{n}x{n}_down"] * (i > 0) + [f"{n}x{n}_block{j}" for j in range(count)]:
            h = block(state, f"enc.{name}", h, e, head)
            skips.append(h)
    for i, n in enumerate(reversed(sides)):
        for name in [f"{n}x{n}_up"] if i else [f"{n}x{n}_in0", f"{n}x{n}_in1"]:
            h = block(state, f"dec.{name}", h, e, head)
        for j in range(count + 1):
            b = skips.pop()
            both = math.sqrt((h.shape[1] + b.shape[1]) / 2)
            h = both * torch.cat([h / math.sqrt(h.shape[1]), b / math.sqrt(b.shape[1])], 1)
            h = block(state, f"dec.{n}x{n}_block{j}", h, e, head)
    return weighed(state, "out_conv", h, state["unet.out_gain"])


# The network ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_prior_is_the_preconditioning_of_the_paper(config, tmp_path):
    state, label = checkpoint(config), 2 if config.classes else None
    torch.save(state, tmp_path / "net.pt")
    convert(tmp_path / "net.pt", "edm2", tmp_path / "prior", head_channels=4)
    prior = load_prior(tmp_path / "prior")
    assert isinstance(prior, PipelinePrior)
    for sigma in (0.1, 0.7, 30.0):
        z, total = randn(2, config.channels, 8, 16) * math.sqrt(0.25 + sigma**2), sigma**2 + 0.25
        c_skip, c_out, c_in, c_noise = 0.25 / total, 0.5 * sigma / total**0.5, total**-0.5, math.log(sigma) / 4
        expected = c_skip * z + c_out * answer(state, c_in * z, c_noise, label)
        assert relative(prior.denoise(z, sigma, label), expected) < 1e-5
        other = c_skip * z + c_out * answer(state, c_in * z, c_noise + 0.1, label)
        assert relative(prior.denoise(z, sigma, label), other) > 1e-3
    card = (tmp_path / "prior" / "README.md").read_text()
    assert all(word in card for word in ("EDM2", "sigma_data = 0.5", "shares of the paper"))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_every_tensor_counts(config):
    """The control: with one tensor turned, the network answers otherwise than it did."""
    state = {name.removeprefix("unet."): t for name, t in checkpoint(config).items() if not name.startswith("logvar")}
    x, label = randn(1, config.channels, 8, 8), torch.tensor([1]) if config.classes else None
    network = Edm2(config).eval().requires_grad_(False)
    network.load_state_dict(state)
    before = network(x, torch.tensor([0.3]), label)
    for name, t in network.state_dict(keep_vars=True).items():
        kept = t.data.clone()
        t.data.add_(randn(*t.shape, seed=1) if t.ndim else 0.5)
        assert relative(network(x, torch.tensor([0.3]), label), before) > 1e-5, name
        t.data.copy_(kept)


def test_weights_count_by_their_direction_and_preserve_magnitudes():
    layer, x = Edm2Weight(64, 128, 3).requires_grad_(False), randn(1, 64, 64, 64)
    layer.weight.copy_(randn(128, 64, 3, 3, seed=1))
    out = layer(x)
    assert float(out[..., 1:-1, 1:-1].square().mean().sqrt()) == pytest.approx(1.0, abs=0.02)
    layer.weight.mul_(7.0)
    assert relative(layer(x), out) < 2e-4
    assert relative(layer(x, 2.0), 2 * out) < 2e-4


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_size_follows_from_the_shapes(config):
    assert read_edm2(shapes(config), 4) == config


def test_the_published_sizes():
    """XS has 125 million weights, S 280 and L 777 (table 2 of the paper)."""
    for width, millions in ((128, 125), (192, 280), (320, 777)):
        config = Edm2Config(64, 3, tuple(width * m for m in (1, 2, 3, 4)), 3, (2, 3), width, 4 * width, 1000)
        held = shapes(config)
        assert round(sum(math.prod(s) for s in held.values()) / 1e6) == millions
        assert read_edm2(held, 64) == config


# What is refused ------------------------------------------------------------------------------------------------------


def test_what_is_no_such_checkpoint_is_refused(tmp_path):
    def refused(state: dict[str, Tensor], *words: str) -> None:
        torch.save(state, tmp_path / "net.pt")
        with pytest.raises(AmbientSolveError) as error:
            convert(tmp_path / "net.pt", "edm2", tmp_path / "p", head_channels=4)
        print(f"\n{error.value}")
        assert one_sentence(error) and all(word in str(error.value) for word in words)
        assert not (tmp_path / "p").exists()

    state, gain = checkpoint(SMALL), "unet.dec.4x4_in0.emb_gain"
    refused({n: t for n, t in state.items() if n != gain}, "1 tensors are missing", "dec.4x4_in0.emb_gain")
    refused({**state, "unet.more": torch.zeros(1)}, "1 tensors are not expected, such as more")
    refused({**state, gain: torch.zeros(2)}, "has shape (2,)")
    refused({**state, gain: torch.tensor(math.nan)}, "NaN")
    refused({n: t for n, t in state.items() if "_conv.weight" not in n}, "enc.NxN_conv", "--kind")
    refused({n: t for n, t in state.items() if "enc.8x8_block" not in n}, "no network of EDM2")
    refused({n: t for n, t in state.items() if "emb_noise" not in n}, "emb_noise.weight")
    refused({n.replace("8x8", "8x9"): t for n, t in state.items()}, "no network of EDM2")
    refused(checkpoint(Edm2Config(8, 4, (8, 16), 1, (1,), 8, 16)), "4 channels", "codes of an autoencoder")
