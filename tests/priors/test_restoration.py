"""Restoration networks of others as priors: what they are given, the sizes they take, and files refused."""

from __future__ import annotations

import math

import deepinv
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ambient_solve import AmbientSolveError, DenoiserPrior, load_prior
from ambient_solve.cli.dispatch import main
from ambient_solve.priors.convert import convert
from ambient_solve.priors.restoration import RestorationNetwork
from helpers import one_sentence, rand, relative

spandrel = pytest.importorskip("spandrel", reason="needs spandrel: pip install 'ambient-solve[spandrel]'")


def of(network: nn.Module) -> dict[str, Tensor]:
    """Its tensors, moved so that every weight counts."""
    generator = torch.Generator().manual_seed(0)
    state = {name: t.detach().clone() for name, t in network.state_dict().items()}
    for name, t in state.items():
        if t.is_floating_point() and not name.endswith(("attn_mask", "running_var")):
            t.add_(0.02 * torch.randn(t.shape, generator=generator))
    return state


def swinir() -> dict[str, Tensor]:
    from spandrel.architectures.SwinIR import SwinIR

    size = {"img_size": 16, "window_size": 8, "embed_dim": 12, "depths": [2, 2], "num_heads": [2, 2], "mlp_ratio": 2}
    return of(SwinIR(in_chans=3, upscale=1, upsampler="", **size))


def scunet() -> dict[str, Tensor]:
    from spandrel.architectures.SCUNet import SCUNet

    return of(SCUNet(in_nc=3, config=[1] * 7, dim=64))


def drunet() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return of(deepinv.models.DRUNet(3, 3, nc=(8, 8, 16, 16), nb=2, pretrained=None))


def fdncnn() -> dict[str, Tensor]:
    from spandrel.architectures.DnCNN import DnCNN

    return of(DnCNN(in_nc=4, out_nc=3, nc=8, nb=9, act_mode="R", mode="FDnCNN"))


def dncnn() -> dict[str, Tensor]:
    from spandrel.architectures.DnCNN import DnCNN

    return of(DnCNN(in_nc=1, out_nc=1, nc=8, nb=9, act_mode="R", mode="DnCNN"))


def restormer() -> dict[str, Tensor]:
    torch.manual_seed(0)
    size = {"dim": 8, "num_blocks": (1, 2, 1, 1), "num_refinement_blocks": 1, "heads": (1, 2, 2, 4)}
    return of(deepinv.models.Restormer(pretrained=None, LayerNorm_type="WithBias", **size))


BLIND = {"SwinIR": swinir, "SCUNet": scunet, "DnCNN": dncnn, "Restormer": restormer}
GIVEN = {"DRUNet": drunet, "DnCNN": fdncnn}


def made(state: dict[str, Tensor], folder, kind: str = "spandrel") -> DenoiserPrior:
    torch.save({"params": state}, folder / "net.pth")
    prior = convert(folder / "net.pth", kind, folder / "prior")
    again = load_prior(folder / "prior")
    assert isinstance(again, DenoiserPrior) and isinstance(prior, DenoiserPrior)
    return again


def restored(prior: DenoiserPrior, x: Tensor, sigma: float) -> Tensor:
    """What the prior makes of pictures in [0, 1] with noise in the same units."""
    with torch.no_grad():
        return prior.decode(prior.denoise(prior.encode(x), 2 * sigma))


@pytest.mark.parametrize("name", BLIND)
def test_a_blind_network_is_called_as_it_is(name, tmp_path):
    state, kind = BLIND[name](), "deepinv" if name == "Restormer" else "spandrel"
    prior = made(state, tmp_path, kind)
    x = 0.25 + 0.5 * rand(1, prior.shape[0], 40, 56)
    if kind == "spandrel":
        network = spandrel.ModelLoader().load_from_state_dict(state).model.eval()
    else:
        size = {"dim": 8, "num_blocks": (1, 2, 1, 1), "num_refinement_blocks": 1, "heads": (1, 2, 2, 4)}
        network = deepinv.models.Restormer(pretrained=None, LayerNorm_type="WithBias", **size).eval()
        network.load_state_dict(state)
    with torch.no_grad():
        expected = network(x)
    assert relative(restored(prior, x, 0.05), expected) < 1e-5
    assert torch.equal(restored(prior, x, 0.05), restored(prior, x, 0.15))
    card = (tmp_path / "prior" / "README.md").read_text()
    assert name in card and "It is blind" in card and "no generator" in card and "leaves" in card


@pytest.mark.parametrize("name", GIVEN)
def test_a_network_that_is_given_the_level_is_given_the_one_of_the_sampler(name, tmp_path):
    state = GIVEN[name]()
    prior, x = made(state, tmp_path), rand(2, 3, 32, 40)  # below 32 pixels deepinv's network is padded first
    if name == "DRUNet":  # the network a second time, of another library
        network = deepinv.models.DRUNet(3, 3, nc=(8, 8, 16, 16), nb=2, pretrained=None).eval()
        network.load_state_dict(state)
        expected = lambda s: network(x, s)  # noqa: E731
    else:

        def expected(s: float) -> Tensor:
            h = torch.cat([x, torch.full((2, 1, 32, 40), s)], 1)
            last = max(int(n.split(".")[1]) for n in state)
            for i in range(0, last + 1, 2):
                h = F.conv2d(h, state[f"model.{i}.weight"], state[f"model.{i}.bias"], padding=1)
                h = F.relu(h) if i < last else h
            return h

    with torch.no_grad():
        assert relative(restored(prior, x, 0.05), expected(0.05)) < 1e-5
        assert relative(restored(prior, x, 0.15), expected(0.15)) < 1e-5
        assert relative(restored(prior, x, 0.15), expected(0.05)) > 3e-5
    card = (tmp_path / "prior" / "README.md").read_text()
    assert name in card and "given the noise level" in card and "blind" not in card
    assert prior.sigma_max == pytest.approx(100 / 255)


def test_pictures_of_any_size_are_extended_and_cut_again():
    seen = []

    class Seen(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return x[:, :1]

    x, sigma = rand(2, 1, 5, 9), torch.tensor([0.1, 0.2])
    network = RestorationNetwork(Seen(), takes_level=True, multiple=4, least=12)
    assert torch.equal(network(x, sigma), x) and seen[-1].shape == (2, 2, 12, 12)
    assert torch.equal(seen[-1][:, 1], sigma[:, None, None].expand(-1, 12, 12))
    picture = seen[-1][:, 0]
    assert torch.equal(picture[:, 5:9, :9], x[:, 0, :4].flip(1)) and torch.equal(picture[:, 9], picture[:, 8])
    assert RestorationNetwork(Seen(), takes_level=False, multiple=4, square=True)(x, sigma).shape == x.shape
    assert seen[-1].shape == (2, 1, 12, 12)
    RestorationNetwork(Seen(), takes_level=False)(x, sigma)
    assert torch.equal(seen[-1], x)


def test_a_gradient_goes_through(tmp_path):
    prior, z = made(drunet(), tmp_path), torch.zeros(1, 3, 12, 12)
    back = prior.denoise_vjp(z, 0.1)[1]
    v = rand(1, 3, 12, 12, seed=1)
    step = 1e-2 * rand(1, 3, 12, 12, seed=2)
    with torch.no_grad():
        change = prior.denoise(z + step, 0.1) - prior.denoise(z - step, 0.1)
    assert float((v * change).sum() / 2) == pytest.approx(float((back(v) * step).sum()), rel=0.05)


def test_what_is_lost_is_said_on_the_console(tmp_path, capsys):
    torch.save(dncnn(), tmp_path / "net.pth")
    assert main(["convert", str(tmp_path / "net.pth"), "--kind", "spandrel", "--out", str(tmp_path / "p")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "It is blind" in said and "no posterior mean" in said and "lean on the measurement" in said


def test_what_is_no_such_checkpoint_is_refused(tmp_path):
    def refused(state: dict[str, Tensor], *words: str, kind: str = "spandrel") -> None:
        torch.save(state, tmp_path / "net.pth")
        with pytest.raises(AmbientSolveError) as error:
            convert(tmp_path / "net.pth", kind, tmp_path / "p")
        print(f"\n{error.value}")
        assert one_sentence(error) and all(word in str(error.value) for word in words)
        assert not (tmp_path / "p").exists()

    state = drunet()
    refused({n: t for n, t in state.items() if n != "m_body.0.res.2.weight"}, "no network that spandrel knows")
    refused({n: t for n, t in state.items() if n != "m_up1.1.res.2.weight"}, "m_up1.1.res.2.weight")
    refused({**state, "more": torch.zeros(1)}, "more")
    refused({**state, "m_tail.weight": torch.zeros(3, 7, 3, 3)}, "m_tail.weight")
    refused({**state, "m_tail.weight": state["m_tail.weight"] * math.nan}, "NaN")
    refused({"weight": torch.zeros(1)}, "no network that spandrel knows", "--kind")
    refused(restormer(), "--kind deepinv")
    whole = restormer()
    refused({n: t for n, t in whole.items() if n != "latent.0.norm1.body.bias"}, "latent.0.norm1", kind="deepinv")
    refused({n: t for n, t in whole.items() if n != "output.weight"}, "no whole Restormer", kind="deepinv")
    refused({**whole, "output.weight": torch.zeros(4, 16, 3, 3)}, "4 channels of 3", kind="deepinv")
    refused({**whole, "more": torch.zeros(1)}, "not expected, such as more", kind="deepinv")
    from spandrel.architectures.SCUNet import SCUNet
    from spandrel.architectures.SwinIR import SwinIR

    refused(of(SCUNet(in_nc=3, config=[1] * 7, dim=32)), "fails on a picture")  # which no head of 32 channels fits
    size = {"img_size": 16, "window_size": 8, "embed_dim": 12, "depths": [2], "num_heads": [2], "mlp_ratio": 2}
    refused(of(SwinIR(in_chans=3, upscale=2, upsampler="pixelshuffle", **size)), "SwinIR", "enlarged by 2")


def test_without_spandrel_it_says_how_to_get_it(tmp_path, monkeypatch):
    import sys

    torch.save(dncnn(), tmp_path / "net.pth")
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(AmbientSolveError, match="pip install 'ambient-solve"):
        convert(tmp_path / "net.pth", "spandrel", tmp_path / "p")
