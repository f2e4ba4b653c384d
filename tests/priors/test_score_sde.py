"""Checkpoints of score_sde: beside their networks as the paper has them, module after module of their list."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ambient_solve import AmbientSolveError, load_prior
from ambient_solve.cli.dispatch import main
from ambient_solve.priors.convert import convert
from ambient_solve.priors.pipeline import PipelinePrior
from helpers import one_sentence, randn, relative

pytest.importorskip("diffusers", reason="needs diffusers: pip install 'ambient-solve[train]'")

MIN, MAX = 0.01, 50.0
"""Levels of VE, of pictures in [0, 1]."""


@dataclass(frozen=True)
class Size:
    width: int = 8
    multiples: tuple[int, ...] = (1, 2, 2)
    blocks: int = 2
    attention: tuple[int, ...] = (1,)
    fourier: bool = False
    residual: bool = False


DDPM = Size(multiples=(1, 2))
NCSN = Size(blocks=1, fourier=True, residual=True)
NCSN_VP = Size(blocks=1, residual=True, multiples=(1, 2))
SIZES = {"DDPM++": DDPM, "NCSN++": NCSN, "NCSN++ of VP": NCSN_VP}


def layers(size: Size) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Kind and size of each module, in the order of the list."""
    c, wide = size.width, [size.width * m for m in size.multiples]
    e, taken = 4 * c, 2 * c if size.fourier else c
    if size.fourier:
        yield "waves", (c,)
    yield "linear", (taken, e)
    yield "linear", (e, e)
    yield "conv", (3, c)
    skips, shown = [c], 3
    for i, n in enumerate(wide):
        for _ in range(size.blocks):
            yield "block", (c, n, e)
            c = n
            skips.append(c)
            if i in size.attention:
                yield "attention", (c,)
        if i + 1 < len(wide):
            yield "down", (c, c, e)
            if size.residual:
                yield "shown", (shown, c)
                shown = c
            skips.append(c)
    yield "block", (c, c, e)
    yield "attention", (c,)
    yield "block", (c, c, e)
    for i, n in reversed(list(enumerate(wide))):
        for _ in range(size.blocks + 1):
            yield "joined", (c + skips.pop(), n, e)
            c = n
        if i in size.attention:
            yield "attention", (c,)
        if i:
            yield "up", (c, c, e)
    yield "norm", (c,)
    yield "conv", (c, 3)


def tensors(kind: str, size: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    if kind == "waves":
        return {"W": size}
    if kind == "linear":
        return {"weight": size[::-1], "bias": size[1:]}
    if kind == "norm":
        return {"weight": size, "bias": size}
    if kind in ("conv", "shown"):
        name = "Conv2d_0." if kind == "shown" else ""
        return {f"{name}weight": (size[1], size[0], 3, 3), f"{name}bias": size[1:]}
    if kind == "attention":
        (c,) = size
        found = {"GroupNorm_0.weight": (c,), "GroupNorm_0.bias": (c,)}
        return found | {f"NIN_{i}.{n}": s for i in range(4) for n, s in (("W", (c, c)), ("b", (c,)))}
    c, n, e = size
    found = {f"GroupNorm_{i}.{what}": (k,) for i, k in ((0, c), (1, n)) for what in ("weight", "bias")}
    found |= {"Conv_0.weight": (n, c, 3, 3), "Conv_0.bias": (n,), "Dense_0.weight": (n, e), "Dense_0.bias": (n,)}
    found |= {"Conv_1.weight": (n, n, 3, 3), "Conv_1.bias": (n,)}
    if c != n or kind in ("up", "down"):
        found |= {"Conv_2.weight": (n, c, 1, 1), "Conv_2.bias": (n,)}
    return found


def checkpoint(size: Size) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    state = {"sigmas": torch.linspace(math.log(MAX), math.log(MIN), 10).exp()}
    for i, (kind, shape) in enumerate(layers(size)):
        for name, s in tensors(kind, shape).items():
            state[f"all_modules.{i}.{name}"] = 0.2 * torch.randn(s, generator=generator)
    return state


# The network ----------------------------------------------------------------------------------------------------------


def filtered(x: Tensor, before: int, after: int, gain: float) -> Tensor:
    """The filter (1, 3, 3, 1) along both axes, with zeros around."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8 * math.sqrt(gain)
    x = F.pad(x, (before, after, before, after))
    rows = sum(taps[i] * x[..., i : x.shape[-2] - 3 + i, :] for i in range(4))
    return sum(taps[i] * rows[..., i : rows.shape[-1] - 3 + i] for i in range(4))


def resized(x: Tensor, up: bool, fir: bool) -> Tensor:
    if not fir:
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3) if up else F.avg_pool2d(x, 2)
    if not up:
        return filtered(x, 1, 1, 1.0)[..., ::2, ::2]
    wide = torch.zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    wide[..., ::2, ::2] = x
    return filtered(wide, 2, 1, 4.0)


def answer(state: dict[str, Tensor], size: Size, x: Tensor, time: float) -> Tensor:
    """What the network is before it is divided by a level; `time` is ln(sigma) for waves, else 999 t."""
    modules, number = list(layers(size)), 0

    def own(name: str) -> Tensor:
        return state[f"all_modules.{number}.{name}"]

    def norm(name: str, h: Tensor) -> Tensor:
        return F.group_norm(h, min(h.shape[1] // 4, 32), own(f"{name}weight"), own(f"{name}bias"), 1e-6)

    def conv(name: str, h: Tensor, stride: int = 1, padding: int = 1) -> Tensor:
        return F.conv2d(h, own(f"{name}weight"), own(f"{name}bias"), stride=stride, padding=padding)

    if size.fourier:
        angles = time * own("W")[None] * 2 * math.pi
    else:
        half = size.width // 2
        angles = time * torch.exp(-math.log(10_000) * torch.arange(half) / (half - 1))[None]
    e, h, skips, shown, linear = torch.cat([angles.sin(), angles.cos()], 1), x, [], x, 0
    for number, (kind, _) in enumerate(modules):  # noqa: B007 - `own` reads it
        if kind == "linear":
            e = F.linear(F.silu(e) if linear else e, own("weight"), own("bias"))
            linear += 1
        elif kind == "norm":
            h = F.silu(norm("", h))
        elif kind == "conv":
            h = conv("", h)
            skips = skips or [h]
        elif kind == "shown":
            wide = filtered(shown, 2, 2, 1.0)
            h = shown = (conv("Conv2d_0.", wide, 2, 0) + h) / math.sqrt(2)
            skips[-1] = h
        elif kind == "attention":
            r = norm("GroupNorm_0.", h).flatten(2).transpose(1, 2)
            q, k, v = (r @ own(f"NIN_{i}.W") + own(f"NIN_{i}.b") for i in range(3))
            r = (q @ k.transpose(1, 2) / math.sqrt(h.shape[1])).softmax(-1) @ v
            r = r @ own("NIN_3.W") + own("NIN_3.b")
            h = (h + r.transpose(1, 2).reshape(h.shape)) / math.sqrt(2)
            if number < middle(modules):
                skips[-1] = h
        elif kind in ("block", "joined", "up", "down"):
            h = torch.cat([h, skips.pop()], 1) if kind == "joined" else h
            r, skip = F.silu(norm("GroupNorm_0.", h)), h
            if kind in ("up", "down"):
                r, skip = (resized(t, kind == "up", size.residual) for t in (r, skip))
            r = conv("Conv_0.", r) + F.linear(F.silu(e), own("Dense_0.weight"), own("Dense_0.bias"))[:, :, None, None]
            r = conv("Conv_1.", F.silu(norm("GroupNorm_1.", r)))
            skip = conv("Conv_2.", skip, padding=0) if f"all_modules.{number}.Conv_2.weight" in state else skip
            h = (skip + r) / math.sqrt(2)
            if kind in ("block", "down") and number < middle(modules):
                skips.append(h)
    return h


def middle(modules: list[tuple[str, tuple[int, ...]]]) -> int:
    """The number of the first module of the three in the middle."""
    return next(i for i, (kind, _) in enumerate(modules) if kind == "joined") - 3


def expected(state: dict[str, Tensor], size: Size, z: Tensor, sigma: float, process: str) -> Tensor:
    """D(z; sigma) of pictures in [-1, 1], by the score of the paper."""
    if process == "ve":  # pictures in [0, 1], where z and the level are half of it; the score is F / level
        x, level = (z + 1) / 2, sigma / 2
        score = answer(state, size, 2 * x - 1, math.log(level)) / level
        return 2 * (x + level**2 * score) - 1
    low, high = 0.1, 20.0
    t = bisected(lambda t: math.exp(t * low + t * t * (high - low) / 2) - 1 - sigma**2)
    mean = math.exp(-t * low / 2 - t * t * (high - low) / 4)
    std = math.sqrt(1 - mean**2)
    score = -answer(state, size, mean * z, 999 * t) / std
    return (mean * z + std**2 * score) / mean


def bisected(f) -> float:
    low, high = 0.0, 1.5
    for _ in range(60):
        at = (low + high) / 2
        low, high = (at, high) if f(at) < 0 else (low, at)
    return low


PAIRS = [("DDPM++", "vp"), ("NCSN++", "ve"), ("NCSN++ of VP", "vp")]


@pytest.mark.parametrize(("name", "process"), PAIRS)
def test_the_prior_is_the_score_of_the_paper(name, process, tmp_path):
    size, state = SIZES[name], checkpoint(SIZES[name])
    torch.save({f"module.{n}": t for n, t in state.items()}, tmp_path / "net.pth")
    convert(tmp_path / "net.pth", "score-sde", tmp_path / "prior", preconditioning=process)
    prior = load_prior(tmp_path / "prior")
    assert isinstance(prior, PipelinePrior)
    ends = (2 * MIN, 2 * MAX) if process == "ve" else (0.0105, 152)
    assert (prior.sigma_min, prior.sigma_max) == pytest.approx(ends)
    for sigma in (0.1, 2.0, 60.0):
        z = randn(2, 3, 16, 8) * math.sqrt(0.25 + sigma**2)
        assert relative(prior.denoise(z, sigma), expected(state, size, z, sigma, process)) < 2e-4
        assert relative(prior.denoise(z, sigma), expected(state, size, z, 1.1 * sigma, process)) > 1e-3
    card = (tmp_path / "prior" / "README.md").read_text()
    assert f"preconditioning of {process.upper()}" in card and "score_sde" in card


@pytest.mark.parametrize("name", SIZES)
def test_every_weight_counts(name, tmp_path):
    """The control: with one tensor of weights changed, the prior answers otherwise."""
    size, state, z = SIZES[name], checkpoint(SIZES[name]), randn(1, 3, 8, 8)
    process = "ve" if size.fourier else "vp"
    torch.save(state, tmp_path / "net.pth")
    prior = convert(tmp_path / "net.pth", "score-sde", tmp_path / "prior", preconditioning=process)
    before = prior.denoise(z, 1.0)
    for own, t in prior.network.state_dict(keep_vars=True).items():
        if own.endswith("bias"):
            continue
        kept = t.data.clone()
        t.data.mul_(1.5).add_(0.1)
        assert relative(prior.denoise(z, 1.0), before) > 1e-6, own
        t.data.copy_(kept)


def test_the_averaged_weights_of_a_checkpoint_of_training_are_taken(tmp_path):
    state, size = checkpoint(NCSN), NCSN
    shadow = [2 * t for n, t in state.items() if n not in ("sigmas", "all_modules.0.W")]
    whole = {"model": {f"module.{n}": t for n, t in state.items()}, "step": 3, "optimizer": {"state": {}}}
    torch.save({**whole, "ema": {"decay": 0.999, "shadow_params": shadow}}, tmp_path / "net.pth")
    prior = convert(tmp_path / "net.pth", "score-sde", tmp_path / "prior", preconditioning="ve")
    twice = {n: t if n in ("sigmas", "all_modules.0.W") else 2 * t for n, t in state.items()}
    z = randn(1, 3, 8, 8)
    assert relative(prior.denoise(z, 1.0), expected(twice, size, z, 1.0, "ve")) < 1e-4
    assert relative(prior.denoise(z, 1.0), expected(state, size, z, 1.0, "ve")) > 1e-2
    torch.save({**whole, "ema": {"shadow_params": shadow[1:]}}, tmp_path / "net.pth")
    with pytest.raises(AmbientSolveError, match="do not fit the names"):
        convert(tmp_path / "net.pth", "score-sde", tmp_path / "prior", preconditioning="ve")


def test_the_command_converts(tmp_path, capsys):
    torch.save(checkpoint(DDPM), tmp_path / "net.pth")
    words = ["convert", str(tmp_path / "net.pth"), "--kind", "score-sde", "--out", str(tmp_path / "prior")]
    assert main([*words, "--preconditioning", "vp"]) == 0
    assert "preconditioning of VP" in " ".join(capsys.readouterr().out.split())
    assert main(["info", str(tmp_path / "prior")]) == 0
    assert main(words) == 2 and "--preconditioning vp or ve" in capsys.readouterr().err
    settings = tmp_path / "prior" / "config.json"
    for changed in ({"preconditioning": "edm"}, {"preconditioning": "ve", "sigma_max": "high"}, {"preconditioning": 3}):
        settings.write_text(json.dumps({"kind": "score-sde", **changed}))
        with pytest.raises(AmbientSolveError, match=list(changed)[-1]):
            load_prior(tmp_path / "prior")


def test_what_is_no_such_checkpoint_is_refused(tmp_path):
    def refused(state: dict[str, Tensor], *words: str, process: str | None = "vp") -> None:
        torch.save(state, tmp_path / "net.pth")
        with pytest.raises(AmbientSolveError) as error:
            convert(tmp_path / "net.pth", "score-sde", tmp_path / "p", preconditioning=process)
        print(f"\n{error.value}")
        assert one_sentence(error) and all(word in str(error.value) for word in words)
        assert not (tmp_path / "p").exists()

    for size in SIZES.values():
        state, last = checkpoint(size), len(list(layers(size))) - 1
        refused({n: t for n, t in state.items() if n != f"all_modules.{last}.bias"}, "1 tensors are missing")
        refused(
            {n: t for n, t in state.items() if not n.startswith(f"all_modules.{last}.")}, "is a missing where a conv"
        )
        refused({n: t for n, t in state.items() if ".4." not in n}, "modules are missing")
        refused({**state, f"all_modules.{last + 1}.weight": torch.zeros(3)}, f"module {last + 1} is not expected")
        refused({**state, f"all_modules.{last}.more": torch.zeros(3)}, "1 tensors are not expected")
        refused({**state, "more": torch.zeros(3)}, "more is none of its tensors")
        refused({**state, f"all_modules.{last}.bias": torch.zeros(5)}, "has shape (5,)")
        refused({**state, f"all_modules.{last}.bias": torch.full((3,), math.nan)}, "NaN")
        refused(state, "--preconditioning vp or ve", process=None)
        refused(state, "--preconditioning vp or ve", process="edm")
    state = checkpoint(NCSN)
    at = next(i for i, (kind, _) in enumerate(layers(NCSN)) if kind == "shown")
    skip = {f"all_modules.{at}.Conv_0.weight": torch.zeros(8, 3, 1, 1), f"all_modules.{at}.Conv_0.bias": torch.zeros(8)}
    without = {n: t for n, t in state.items() if not n.startswith(f"all_modules.{at}.")}
    refused({**without, **skip}, "combination with the picture", "256 pixels")
    refused({n.replace("Conv2d_0", "Conv_0"): t for n, t in state.items()}, "256 pixels")
    refused({n.replace("NIN_2.b", "NIN_2.c"): t for n, t in state.items()}, "no whole attention")
    refused({"weight": torch.zeros(2)}, "none of its tensors")
