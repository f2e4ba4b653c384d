"""The networks of EDM: each beside the same network written a second time, as functions of its tensors by name."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from ambient_solve import AmbientSolveError, load_prior
from ambient_solve.cli.dispatch import main
from ambient_solve.priors.convert import convert, noise_left
from ambient_solve.priors.edm import Edm, EdmConfig, read_edm
from ambient_solve.priors.pipeline import PipelinePrior
from helpers import one_sentence, randn, relative

pytest.importorskip("diffusers", reason="needs diffusers: pip install 'ambient-solve[train]'")

DDPM = EdmConfig(8, 3, 3, 8, (8, 16), 2, (1,), 8, 32, classes=4, augment=9)
NCSN = EdmConfig(16, 2, 2, 8, (8, 8, 16), 1, (1, 2), 16, 32, taps=4, fourier=True, residual=True)
ADM = EdmConfig(8, 3, 3, 8, (8, 16), 1, (1,), 8, 32, adm=True, classes=5, head_channels=4)
CONFIGS = {"DDPM++": DDPM, "NCSN++": NCSN, "ADM": ADM}
DATA = 0.5
"""sigma_data."""


def shapes(config: EdmConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(t.shape) for name, t in Edm(config).state_dict().items()}


def checkpoint(config: EdmConfig) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    state = {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in shapes(config).items()}
    row = torch.tensor([1.0, 1.0] if config.taps == 2 else [1.0, 3.0, 3.0, 1.0])
    taps = torch.outer(row, row) / row.sum() ** 2
    return {name: taps[None, None] if name.endswith("resample_filter") else t for name, t in state.items()}


# The second time ------------------------------------------------------------------------------------------------------


def by_name(state: dict[str, Tensor], part: str) -> list[str]:
    """Layers of one half in the order in which the picture goes through them."""
    order = ("conv", "in0", "in1", "up", "down", "aux_residual", "block", "aux_norm", "aux_conv")
    names = {name.split(".")[1] for name in state if name.startswith(f"{part}.")}

    def place(name: str) -> tuple[int, int, int]:
        side, _, what = name.partition("_")
        side = int(side.split("x")[0])
        rank = next(i for i, word in enumerate(order) if what.startswith(word))
        return (-side if part == "enc" else side), rank, int(what[5:]) if what.startswith("block") else 0

    return sorted(names, key=place)


def conv(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    weight = state[f"{name}.weight"]
    return F.conv2d(x, weight, state[f"{name}.bias"], padding=weight.shape[-1] // 2)


def moved(x: Tensor, taps: Tensor, up: bool) -> Tensor:
    """Half or double the resolution, place by place."""
    size = taps.shape[-1]
    border = size // 2 - 1
    taps = taps.reshape(size, size)
    if up:
        wide = torch.zeros(*x.shape[:2], 2 * x.shape[2] + 2 * size, 2 * x.shape[3] + 2 * size)
        for i in range(size):
            for j in range(size):
                wide[..., i : i + 2 * x.shape[2] : 2, j : j + 2 * x.shape[3] : 2] += 4 * taps[i, j] * x
        return wide[..., border : border + 2 * x.shape[2], border : border + 2 * x.shape[3]]
    wide = F.pad(x, (border,) * 4)
    rows, columns = x.shape[2] // 2, x.shape[3] // 2
    parts = [
        taps[i, j] * wide[..., i : i + 2 * rows : 2, j : j + 2 * columns : 2] for i in range(size) for j in range(size)
    ]
    return sum(parts)


def norm(state: dict[str, Tensor], name: str, x: Tensor, adm: bool) -> Tensor:
    groups = min(32, x.shape[1] // 4)
    return F.group_norm(x, groups, state[f"{name}.weight"], state[f"{name}.bias"], 1e-5 if adm else 1e-6)


def block(state: dict[str, Tensor], name: str, x: Tensor, e: Tensor, adm: bool, head: int) -> Tensor:
    up, filters = "_up" in name, state.get(f"{name}.conv0.resample_filter")
    h, skip = F.silu(norm(state, f"{name}.norm0", x, adm)), x
    if filters is not None:
        h, skip = moved(h, filters, up), moved(skip, state[f"{name}.skip.resample_filter"], up)
    if f"{name}.skip.weight" in state:
        skip = conv(state, f"{name}.skip", skip)
    h = conv(state, f"{name}.conv0", h)
    shift = F.linear(e, state[f"{name}.affine.weight"], state[f"{name}.affine.bias"])[:, :, None, None]
    if adm:
        c = h.shape[1]
        h = norm(state, f"{name}.norm1", h, adm) * (shift[:, :c] + 1) + shift[:, c:]
    else:
        h = norm(state, f"{name}.norm1", h + shift, adm)
    scale = 1.0 if adm else 1 / math.sqrt(2)
    h = scale * (skip + conv(state, f"{name}.conv1", F.silu(h)))
    if f"{name}.qkv.weight" not in state:
        return h
    rows = conv(state, f"{name}.qkv", norm(state, f"{name}.norm2", h, adm)).flatten(2)
    q, k, v = rows[:, 0::3], rows[:, 1::3], rows[:, 2::3]
    mixed = []
    step = head if adm else h.shape[1]
    for at in range(0, h.shape[1], step):
        part = slice(at, at + step)
        weight = (torch.einsum("bcq,bck->bqk", q[:, part], k[:, part]) / math.sqrt(step)).softmax(-1)
        mixed.append(torch.einsum("bqk,bck->bcq", weight, v[:, part]))
    return scale * (h + conv(state, f"{name}.proj", torch.cat(mixed, 1).reshape(h.shape)))


def answer(state: dict[str, Tensor], x: Tensor, noise: float, label: int | None = None, head: int = 64) -> Tensor:
    """F(x; c_noise, label), by the names of the tensors alone."""
    adm, line = "out_conv.weight" in state, lambda n, v: F.linear(v, state[f"{n}.weight"], state.get(f"{n}.bias"))
    count = state["map_layer0.weight"].shape[1]
    if "map_noise.freqs" in state:
        angles = [2 * math.pi * float(f) * noise for f in state["map_noise.freqs"]]
    else:
        half = count // 2
        angles = [noise * 10_000 ** (-i / (half if adm else half - 1)) for i in range(half)]
    sines, cosines = [math.sin(a) for a in angles], [math.cos(a) for a in angles]
    e = torch.tensor([cosines + sines if adm else sines + cosines])
    known = None
    if label is not None:
        one = torch.zeros(1, state["map_label.weight"].shape[1])
        one[0, label] = 1.0 if adm else math.sqrt(one.shape[1])
        known = line("map_label", one)
    e = e + known if known is not None and not adm else e
    e = line("map_layer1", F.silu(line("map_layer0", e)))
    e = F.silu(e + known if known is not None and adm else e)

    h, shown, skips = x, x, []
    for name in by_name(state, "enc"):
        full = f"enc.{name}"
        if "aux_residual" in name:
            taps = state[f"{full}.resample_filter"]
            weight, border = state[f"{full}.weight"], taps.shape[-1] // 2 - 1
            shown = F.conv2d(shown, weight, state[f"{full}.bias"], padding=1 + border)
            size = taps.shape[-1]
            parts = shown.unfold(2, size, 2).unfold(3, size, 2)
            h = shown = (h + (parts * taps.reshape(size, size)).sum((-1, -2))) / math.sqrt(2)
            skips[-1] = h
        else:
            h = conv(state, full, h) if name.endswith("_conv") else block(state, full, h, e, adm, head)
            skips.append(h)
    for name in by_name(state, "dec"):
        full = f"dec.{name}"
        if "aux_norm" in name:
            h = norm(state, full, h, adm)
        elif "aux_conv" in name:
            return conv(state, full, F.silu(h))
        else:
            h = torch.cat([h, skips.pop()], 1) if "_block" in name else h
            h = block(state, full, h, e, adm, head)
    return conv(state, "out_conv", F.silu(norm(state, "out_norm", h, adm)))


# The network ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("prefix", ["", "model."])
def test_the_prior_is_the_preconditioning_of_the_paper(config, prefix, tmp_path):
    state = checkpoint(config)
    torch.save({f"{prefix}{name}": t for name, t in state.items()}, tmp_path / "net.pt")
    made = convert(tmp_path / "net.pt", "edm", tmp_path / "prior", head_channels=4)
    prior, label = load_prior(tmp_path / "prior"), 2 if config.classes else None
    assert isinstance(prior, PipelinePrior) and (prior.sigma_min, prior.sigma_max) == pytest.approx((0.002, 80.0))
    for sigma in (0.02, 0.7, 30.0):
        z = randn(2, config.channels, 8, 16) * math.sqrt(DATA**2 + sigma**2)
        total = sigma**2 + DATA**2
        c_skip, c_out, c_in, c_noise = DATA**2 / total, sigma * DATA / total**0.5, total**-0.5, math.log(sigma) / 4
        expected = c_skip * z + c_out * answer(state, c_in * z, c_noise, label, 4)
        assert relative(prior.denoise(z, sigma, label), expected) < 2e-6
        assert torch.equal(prior.denoise(z, sigma, label), made.denoise(z, sigma, label))
        other = c_skip * z + c_out * answer(state, c_in * z, c_noise + 0.1, label, 4)
        assert relative(prior.denoise(z, sigma, label), other) > 2e-5


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_every_weight_counts(config):
    """The control: with one tensor of weights changed, the network answers otherwise than it did."""
    state, x = checkpoint(config), randn(1, config.channels, 8, 8)
    label = torch.tensor([1]) if config.classes else None
    network = Edm(config).eval().requires_grad_(False)
    network.load_state_dict(state)
    before = network(x, torch.tensor([0.3]), label)
    assert relative(before, answer(state, x, 0.3, 1 if config.classes else None, config.head_channels)) < 1e-5
    for name, t in network.state_dict(keep_vars=True).items():
        if name.endswith("bias"):
            continue
        kept = t.data.clone()
        t.data.mul_(1.5).add_(0.1)
        gap = relative(network(x, torch.tensor([0.3]), label), before)
        assert (gap > 1e-6) != name.startswith("map_augment"), name
        t.data.copy_(kept)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_size_follows_from_the_shapes(config):
    assert read_edm(shapes(config), config.head_channels) == config


@pytest.mark.parametrize("kind", ["ddpm", "ncsn", "adm"])
def test_names_and_answers_are_those_of_deepinv(kind):
    import deepinv

    torch.manual_seed(0)
    # Below 128 channels its normalisations have other groups than those of the paper's code.
    many = {"img_resolution": 16, "model_channels": 128, "channel_mult": (1, 2), "num_blocks": 1, "pretrained": None}
    many |= {"attn_resolutions": (8,), "label_dim": 3 if kind == "adm" else 0}
    network = deepinv.models.ADMUNet(**many) if kind == "adm" else deepinv.models.NCSNpp(model_type=kind, **many)
    with torch.no_grad():
        for t in network.eval().parameters():  # its last convolutions begin at 0
            t.copy_(0.1 * torch.randn_like(t))
    config = read_edm({name: tuple(t.shape) for name, t in network.state_dict().items()}, 64)
    own, x, times = Edm(config).eval(), randn(1, 3, 16, 16), torch.tensor([0.3])
    own.load_state_dict(network.state_dict())
    labels = torch.tensor([1]) if kind == "adm" else None
    with torch.no_grad():
        expected = network.forward_unet(x, times, None if labels is None else F.one_hot(labels, 3).float())
        assert relative(own(x, times, labels), expected) < 1e-5


def test_the_published_sizes():
    """ImageNet at 64 pixels has 296 million weights, CIFAR-10 under VP 56 million (table 7 of the paper)."""
    imagenet = EdmConfig(64, 3, 3, 192, (192, 384, 576, 768), 3, (1, 2, 3), 192, 768, adm=True, classes=1000)
    cifar = EdmConfig(32, 3, 3, 128, (256, 256, 256), 4, (1,), 128, 512, augment=9)
    for config, millions in ((imagenet, 296), (cifar, 56)):
        held = shapes(config)
        assert round(sum(math.prod(s) for n, s in held.items() if "resample" not in n) / 1e6) == millions
        assert read_edm(held, 64) == config


VP = (0.1, 19.9)
"""beta_min and beta_d of table 1."""


@pytest.mark.parametrize("name", ["vp", "ve"])
def test_the_other_preconditionings_of_table_1(name, tmp_path):
    state = checkpoint(NCSN)
    torch.save(state, tmp_path / "net.pt")
    convert(tmp_path / "net.pt", "edm", tmp_path / "prior", preconditioning=name)
    prior = load_prior(tmp_path / "prior")
    assert (prior.sigma_min, prior.sigma_max) == pytest.approx((0.0105, 152) if name == "vp" else (0.02, 100))
    for sigma in (0.05, 2.0, 60.0):
        z = randn(2, 2, 8, 8) * math.sqrt(DATA**2 + sigma**2)
        if name == "ve":
            expected = z + sigma * answer(state, z, math.log(sigma / 2))
        else:
            slowest, rise = VP
            u = (math.sqrt(slowest**2 + 2 * rise * math.log(1 + sigma**2)) - slowest) / rise
            assert math.sqrt(math.exp(rise * u**2 / 2 + slowest * u) - 1) == pytest.approx(sigma)  # sigma(t) of table 1
            expected = z - sigma * answer(state, z / math.sqrt(1 + sigma**2), 999 * u)
        assert relative(prior.denoise(z, sigma), expected) < 2e-4  # 999 u times frequencies, in float32
        assert relative(prior.denoise(z, 1.1 * sigma), expected) > 1e-3


# What the card says ---------------------------------------------------------------------------------------------------


def test_a_network_that_knows_nothing_but_the_level_leaves_half_of_the_noise(tmp_path, capsys):
    state = checkpoint(DDPM)
    silent = {name: 0 * t if "aux_conv" in name else t for name, t in state.items()}
    save_file({n: t.clone() for n, t in silent.items()}, tmp_path / "silent.safetensors")
    prior = convert(tmp_path / "silent.safetensors", "edm", tmp_path / "a")
    assert noise_left(prior) == pytest.approx(0.5, abs=1e-5)
    loud = {name: 9 * t if "aux_conv" in name else t for name, t in state.items()}
    save_file({n: t.clone() for n, t in loud.items()}, tmp_path / "loud.safetensors")
    assert main(["convert", str(tmp_path / "loud.safetensors"), "--kind", "edm", "--out", str(tmp_path / "b")]) == 0
    said = capsys.readouterr().out
    card = (tmp_path / "b" / "README.md").read_text()
    assert "untrained" in card and "untrained" in said and "untrained" not in (tmp_path / "a" / "README.md").read_text()
    assert all(
        word in card for word in ("preconditioning of EDM", "sigma_data, is 0.5", "8 by 8", "4 channels in a group")
    )


# What is refused ------------------------------------------------------------------------------------------------------


def test_what_is_no_such_checkpoint_is_refused(tmp_path):
    def refused(state: dict[str, Tensor], *words: str) -> None:
        torch.save(state, tmp_path / "net.pt")
        with pytest.raises(AmbientSolveError) as error:
            convert(tmp_path / "net.pt", "edm", tmp_path / "p", head_channels=4)
        print(f"\n{error.value}")
        assert one_sentence(error) and all(word in str(error.value) for word in words)
        assert not (tmp_path / "p").exists()

    for config, last in ((DDPM, "dec.8x8_aux_conv.bias"), (NCSN, "dec.16x16_aux_conv.bias"), (ADM, "out_conv.bias")):
        state = checkpoint(config)
        refused({n: t for n, t in state.items() if n != last}, "1 tensors are missing", last)
        refused({("x" if n == last else n): t for n, t in state.items()}, "missing", "not expected, such as x")
        refused({**state, last: torch.zeros(7)}, "has shape (7,)")
        refused({**state, "map_layer1.bias": state["map_layer1.bias"] * math.nan}, "NaN")
        refused({n: t for n, t in state.items() if "_conv.weight" not in n or "aux" in n}, "enc.NxN_conv", "--kind")
        whole = [
            n for n in state if n.startswith("enc") and "block0" in n and ("qkv" in n or "proj" in n or "norm2" in n)
        ]
        refused({n: t for n, t in state.items() if n not in whole}, "not expected")
    state = checkpoint(DDPM)
    refused({**{f"model.{n}": t for n, t in state.items()}, "u": torch.zeros(1001)}, "iDDPM")
    refused({n.replace("8x8", "9x7"): t for n, t in state.items()}, "no network of EDM")
    refused({"map_layer0.weight": torch.zeros(2, 2)}, "no network of EDM")
    refused({**state, "enc.4x4_down.conv0.resample_filter": torch.ones(1, 1, 3, 3)}, "filter")
    with pytest.raises(AmbientSolveError, match="preconditioning is 'vq'"):
        torch.save(state, tmp_path / "net.pt")
        convert(tmp_path / "net.pt", "edm", tmp_path / "p", preconditioning="vq")
    five = checkpoint(dataclasses.replace(DDPM, channels=5))
    refused(five, "takes 5 channels and gives 3")
