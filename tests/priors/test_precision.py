"""bfloat16 is used where its error is small beside the spread of the posterior; weights are converted to it once."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from ambient_solve import NetworkConfig, NetworkPrior, Solver, load_prior, operators
from ambient_solve.priors import network as module
from ambient_solve.priors.precision import LEVELS, SHARE, compare
from helpers import rand, randn

CPU = torch.device("cpu")
MULTIPLIES = module.multiplies_bfloat16


@pytest.fixture(autouse=True)
def native(monkeypatch):
    """A machine that multiplies bfloat16 natively; the numbers are the same on any."""
    monkeypatch.setattr(module, "multiplies_bfloat16", lambda device: True)


def made(gain: float = 1.0, mask_channels: int = 0, frozen: bool = True) -> NetworkPrior:
    """Random weights; a last layer with a large `gain` answers with large numbers that nearly cancel."""
    torch.manual_seed(0)
    prior = NetworkPrior(NetworkConfig(widths=(8, 16), groups=4, embedding=16, mask_channels=mask_channels))
    for p in prior.parameters():
        torch.nn.init.normal_(p, std=0.1)
    last = prior.network.leave[-1]
    last.bias.data.zero_()
    last.weight.data *= gain
    return prior.eval().requires_grad_(not frozen)


def ideal(z, sigma, data=0.5):
    return z * data**2 / (data**2 + sigma**2)


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_the_share_of_the_spread_is_measured(share):
    """Of white data: the spread is that of the posterior, exactly; the error is put in at one level."""
    sigma = LEVELS[1] * 0.5
    spread = sigma * 0.5 / math.hypot(sigma, 0.5)

    def half(z, level):
        return ideal(z, level) + (share * spread if level == sigma else 0.0)

    verdict = compare(ideal, half, (1, 3, 16, 16), 0.5, CPU)
    assert verdict.share == pytest.approx(share, rel=1e-4) and verdict.sigma == sigma
    assert verdict.fine == (share <= SHARE) and str(verdict).startswith("bfloat16" if verdict.fine else "float32")


def test_nonsense_is_not_fine():
    shape = (1, 1, 8, 8)
    assert compare(ideal, ideal, shape, 0.5, CPU).share == 0
    assert not compare(ideal, lambda z, sigma: z * torch.nan, shape, 0.5, CPU).fine
    # Negative "variance": no spread that an error could be small beside.
    assert not compare(lambda z, sigma: -z, lambda z, sigma: -z + 1e-6, shape, 0.5, CPU).fine


def test_a_network_that_bfloat16_spoils_is_computed_in_float32():
    good, bad = made(), made(gain=300.0)
    z = randn(2, 3, 16, 16)
    for prior, same in ((good, "bfloat16"), (bad, "float32")):
        found = prior.denoise(z, 0.5)
        assert prior.arithmetic.startswith(f"{same}: bfloat16 errs by")
        other = {"bfloat16": "float32", "float32": "bfloat16"}[same]
        assert torch.equal(found, copy.deepcopy(prior).set_precision(same).denoise(z, 0.5))
        assert not torch.equal(found, copy.deepcopy(prior).set_precision(other).denoise(z, 0.5))
    op = operators.denoise((3, 16, 16), sigma=0.1)
    for prior in (good, bad):
        r = Solver(prior, "proximal", steps=2).solve(op(rand(1, 3, 16, 16)), op, n_samples=1)
        assert r.settings["arithmetic"] == prior.arithmetic
    asked = made(gain=300.0).set_precision("bfloat16")
    asked.denoise(z, 0.5)
    assert asked.arithmetic == ""  # who asks for it gets it


def test_it_is_measured_once_and_again_for_other_weights(monkeypatch):
    calls = []
    monkeypatch.setattr(module, "compare", lambda *given: calls.append(1) or compare(*given))
    prior, z = made(), randn(1, 3, 16, 16)
    state = torch.get_rng_state()
    for _ in range(3):
        prior.denoise(z, 0.5)
    assert len(calls) == 1 and torch.equal(torch.get_rng_state(), state)
    before = prior.denoise(z, 0.5)
    prior.load_state_dict(made(gain=2.0).state_dict())
    assert not torch.equal(prior.denoise(z, 0.5), before) and len(calls) == 2
    training = made(frozen=False)
    training.denoise(z, 0.5)
    assert len(calls) == 2 and training.arithmetic == ""


def test_a_mask_is_given_while_it_is_measured():
    prior = made(mask_channels=1)
    prior.denoise(randn(1, 3, 16, 16), 0.5, torch.ones(1, 1, 16, 16))
    assert prior.arithmetic.startswith("bfloat16")


@pytest.mark.parametrize("size", [(16, 16), (13, 22)])
def test_weights_converted_once_are_those_that_autocast_converts(size):
    """Bit for bit, forward and backward; and nothing of them is saved, copied or listed."""
    frozen = made().set_precision("bfloat16")
    plain = made(frozen=False).set_precision("bfloat16")  # converted in every call, for its gradients
    z, v = randn(2, 3, *size), randn(2, 3, *size, seed=1)
    with torch.no_grad():
        assert torch.equal(frozen.denoise(z, 0.5), plain.denoise(z, 0.5))
    pulls = [prior.denoise_vjp(z, 0.5)[1](v) for prior in (frozen, plain)]
    assert torch.equal(*pulls) and not torch.equal(pulls[0], 0 * v)
    assert frozen._copied and not plain._copied
    assert frozen.state_dict().keys() == plain.state_dict().keys()
    assert all(p.dtype == torch.float32 for p in frozen.parameters())
    twin = copy.deepcopy(frozen)
    assert not twin._copied and torch.equal(twin.denoise(z, 0.5), frozen.denoise(z, 0.5))
    with torch.no_grad():
        twin.network.enter.weight.mul_(1.5)
    assert not torch.equal(twin.denoise(z, 0.5), frozen.denoise(z, 0.5))


def test_where_no_gradient_is_asked_for_float32_is_channels_last_and_the_same_to_rounding():
    frozen, trained = made().set_precision("float32"), made(frozen=False).set_precision("float32")
    z = randn(2, 3, 13, 22)
    with torch.no_grad():
        found, plain = frozen.denoise(z, 0.5), trained.denoise(z, 0.5)
    torch.testing.assert_close(found, plain, atol=1e-5, rtol=1e-5)
    (_, copied), *none = frozen._copied.values()
    assert not none and not trained._copied
    assert copied.enter.weight.is_contiguous(memory_format=torch.channels_last)
    assert frozen.network.enter.weight.is_contiguous()
    frozen._copied.clear()
    value, pull = frozen.denoise_vjp(z, 0.5)
    assert torch.equal(value, plain) and float(pull(z).abs().max()) > 0 and not frozen._copied, "a gradient: as it was"


def test_a_first_call_inside_of_a_functional_transform():
    prior, z = made(), randn(1, 3, 16, 16)
    z0, pull = torch.func.vjp(lambda z: prior.denoise(z, 0.5), z)
    torch.testing.assert_close(prior.denoise(z, 0.5), z0)
    assert prior.arithmetic.startswith("bfloat16") and torch.isfinite(pull(z)[0]).all()


def test_the_embedded_prior_is_fine():
    prior = load_prior("photos")
    prior.denoise(randn(1, 3, 32, 32), 0.5)
    assert prior.arithmetic.startswith("bfloat16") and prior._judged[1].share < SHARE / 3


@pytest.mark.parametrize("unit", ["_is_amx_tile_supported", "_is_avx512_bf16_supported"])
def test_either_unit_of_a_cpu_multiplies_bfloat16(monkeypatch, unit):
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert not MULTIPLIES(CPU)
    monkeypatch.setattr(torch.cpu, unit, lambda: True)
    assert MULTIPLIES(CPU)
