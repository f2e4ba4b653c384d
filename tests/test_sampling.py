"""Unconditional sampling: the right law, the published steps, samples that do not know their batch, and the command."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ambient_solve import (
    AmbientPrior,
    AmbientSolveError,
    GaussianPrior,
    MixturePrior,
    NetworkConfig,
    NetworkPrior,
    Prior,
    generate,
    load_prior,
    noise,
    process,
)
from ambient_solve.cli.dispatch import main
from ambient_solve.evaluate.distances import gaussian_report, sliced_wasserstein
from ambient_solve.process import ancestral_noise, karras
from helpers import one_sentence, randn

VARIANCE = 0.3


class White(Prior):
    """`z0 ~ N(0, VARIANCE I)`, entry by entry: what happens to one entry is known in closed form. Counts its calls."""

    sigma_min, sigma_max = 0.01, 40.0

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape, self.calls = shape, []

    def denoise(self, z: Tensor, sigma: float, cond: object = None) -> Tensor:
        self.calls.append(len(z))
        return VARIANCE / (VARIANCE + sigma**2) * z


def gaussian() -> GaussianPrior:
    a = randn(6, 6)
    return GaussianPrior(torch.arange(6) / 3, a @ a.T / 6 + 0.05 * torch.eye(6))


def mixture() -> MixturePrior:
    means = torch.tensor([[-1.0, 0.5], [1.0, 1.0], [0.5, -1.0]])
    return MixturePrior(torch.tensor([0.5, 0.3, 0.2]), means, torch.tensor([0.02, 0.05, 0.01]))


def network(**config) -> NetworkPrior:
    torch.manual_seed(0)
    prior = NetworkPrior(NetworkConfig(channels=1, widths=(8, 8), groups=4, embedding=8, **config), "float32")
    for p in prior.parameters():
        torch.nn.init.normal_(p, std=0.05)
    return prior.eval().requires_grad_(False)


def distance(prior, samples: Tensor) -> tuple[float, float]:
    """Mean sliced Wasserstein distance to exact samples, and that of exact samples among themselves."""
    exact = [prior.sample(len(samples), torch.Generator().manual_seed(s)) for s in range(3)]
    among = [sliced_wasserstein(a, b, 50) for i, a in enumerate(exact) for b in exact[:i]]
    return sum(sliced_wasserstein(samples, e, 50) for e in exact) / 3, sum(among) / len(among)


@pytest.mark.parametrize("make", [gaussian, mixture])
def test_the_law_is_that_of_the_prior(make, monkeypatch):
    prior, n = make(), 2000
    found, floor = distance(prior, generate(prior, n, batch=1000))
    few, _ = distance(prior, generate(prior, n, batch=1000, order=1, steps=8))
    # A grid that does not end at 0 leaves its last noise in.
    monkeypatch.setattr(process.additive, "karras", lambda *a: [s for s in karras(*a) if s > 0.6])
    stopped, _ = distance(prior, generate(prior, n, batch=1000))
    print(f"\n{make.__name__}: {found:.4f}, floor {floor:.4f}; Euler in 8 steps {few:.4f}, stopped at .6 {stopped:.4f}")
    assert found < 1.5 * floor
    assert few > 3 * floor and stopped > 3 * floor


def test_mean_and_every_axis_of_a_gaussian():
    prior = gaussian()
    heun, euler = (generate(prior, 3000, batch=1000, order=order) for order in (2, 1))
    assert gaussian_report(heun, prior.mean, prior.covariance).passed
    assert not gaussian_report(euler, prior.mean, prior.covariance).passed


def test_heun_is_algorithm_1_of_edm():
    """For a linear denoiser every step multiplies by a known number."""

    def shrinks(sigma: float) -> float:
        return VARIANCE / (VARIANCE + sigma**2)

    def slope(sigma: float) -> float:  # (z - D) / sigma, by z
        return (1 - shrinks(sigma)) / sigma

    prior, steps = White(5), 7
    sigmas = karras(steps, prior.sigma_min, prior.sigma_max)
    heun = euler = 1.0
    for sigma, after in zip(sigmas, sigmas[1:], strict=False):
        first = 1 + (after - sigma) * slope(sigma)
        euler *= first
        heun *= 1 + (after - sigma) * (slope(sigma) + slope(after) * first) / 2 if after > 0 else first
    start = prior.sigma_max * prior.noise((3, 5), noise.Streams([4], 3))
    torch.testing.assert_close(generate(prior, 3, steps=steps, seed=4), heun * start)
    assert prior.calls == [3] * (2 * steps - 1)
    torch.testing.assert_close(generate(prior, 3, steps=steps, seed=4, order=1), euler * start)
    assert abs(heun / euler - 1) > 0.1


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_fresh_noise_is_that_of_the_reverse_kernel(eta):
    prior, steps = White(200_000), 12
    sigmas = karras(steps, prior.sigma_min, prior.sigma_max)
    expected = {}
    for candidate in (0.0, 0.5, 1.0):
        variance = prior.sigma_max**2
        for sigma, after in zip(sigmas, sigmas[1:], strict=False):
            fresh, shrunk = ancestral_noise(sigma, after, candidate), VARIANCE / (VARIANCE + sigma**2)
            kept = math.sqrt(after**2 - fresh**2) / sigma
            variance = (shrunk + kept * (1 - shrunk)) ** 2 * variance + fresh**2
        expected[candidate] = variance
    found = float(generate(prior, 1, steps=steps, order=1, eta=eta).var())
    fits = [candidate for candidate, value in expected.items() if abs(found / value - 1) < 0.02]
    assert fits == [eta], f"{found} against {expected}"


def test_a_sample_depends_on_seed_and_index_alone():
    prior = White(2, 3)
    one = {"steps": 5, "order": 1}
    for settings in ({"steps": 5}, {**one, "eta": 1.0}, {**one, "sampler": "momentum"}, {**one, "sampler": "naive"}):
        whole = generate(prior, 7, **settings)
        assert whole.shape == (7, 2, 3) and whole.dtype == torch.float32
        for batch in (1, 2, 5):
            assert torch.equal(generate(prior, 7, batch=batch, **settings), whole)
        assert torch.equal(generate(prior, 3, **settings), whole[:3])
        assert not torch.isclose(generate(prior, 7, seed=1, **settings), whole).any()
        assert len({float(z[0, 0]) for z in whole}) == 7
    torch.testing.assert_close(
        generate(network(), 3, size=8, steps=3, batch=2), generate(network(), 3, size=8, steps=3)
    )


def test_guidance_needs_additive_noise():
    prior = AmbientPrior(network(mask_channels=1, keep_probability=0.5), 0.5)
    prior.process = process.Soft(process.GaussianBlur(), lambda level: level)
    assert generate(prior, 1, size=8, steps=2, order=1).shape == (1, 1, 8, 8)
    with pytest.raises(AmbientSolveError, match="guidance=0, needs additive noise"):
        generate(prior, 1, size=8, steps=2, order=1, guidance=0.1)


@pytest.mark.parametrize(("size", "shape"), [(16, (1, 16, 16)), ((7, 13), (1, 7, 13))])
def test_any_size_of_a_convolutional_prior(size, shape):
    z = generate(network(), 2, size=size, steps=2)
    assert z.shape == (2, *shape) and torch.isfinite(z).all() and not z.requires_grad
    assert generate(network(size=(8, 12)), 1, steps=1).shape == (1, 1, 8, 12)
    assert generate(network(size=(8, 12)), 1, size=(8, 12), steps=1).shape == (1, 1, 8, 12)


REFUSED = {
    "n": ({"n": 0}, "n=0"),
    "fraction": ({"n": 2.0}, "n=2.0"),
    "batch": ({"batch": 0}, "batch=0"),
    "seed": ({"seed": -1}, "seed=-1"),
    "steps": ({"steps": 0}, "steps=0"),
    "order": ({"order": 3}, "order=3"),
    "eta": ({"eta": 1.5, "order": 1}, "eta=1.5"),
    "eta of Heun": ({"eta": 0.5}, "deterministic"),
    "size": ({"size": 0}, "size=0"),
    "size of a vector": ({"size": 8}, "leave size out"),
    "guidance": ({"guidance": 0.1}, "leave guidance out"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_sentence_before_the_first_call(case):
    settings, expected = REFUSED[case]
    prior = White(5)
    with pytest.raises(AmbientSolveError, match=expected) as error:
        generate(prior, **{"n": 2, **settings})
    assert one_sentence(error) and not prior.calls
    for wrong, given, words in ((network(), {}, "any size"), (network(size=(8, 8)), {"size": 9}, "leave size out")):
        with pytest.raises(AmbientSolveError, match=words) as error:
            generate(wrong, 1, **given)
        assert one_sentence(error)
    with pytest.raises(AmbientSolveError, match="a Prior was expected"):
        generate(torch.nn.Identity(), 1)


def test_the_command(tmp_path, capsys):
    network().save(tmp_path / "prior")
    words = ["sample", str(tmp_path / "prior"), "--n", "5", "--size", "12", "--steps", "2", "--seed", "3"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "5 samples" in said and "Note" not in said
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == [*(f"{i:04d}.png" for i in range(5)), "sheet.png"]
    prior = load_prior(tmp_path / "prior")
    wanted = prior.decode(generate(prior, 5, size=12, steps=2, seed=3))[4, 0]
    picture = Image.open(tmp_path / "out" / "0004.png")
    assert torch.equal(torch.from_numpy(np.array(picture)), (wanted.clamp(0, 1) * 255).round().byte())
    record = json.loads(picture.info["ambient_solve"])
    assert (record["seed"], record["sample"], record["steps"], record["order"]) == (3, 4, 2, 2)
    assert min(Image.open(tmp_path / "out" / "sheet.png").size) > 400


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--n", "0"], "n=0"),
        (["--order", "3"], "outside"),
        (["--sampler", "naive"], "order=2"),
        (["--guidance", "0.1"], "leave guidance out"),
        (["--size", "-4"], "size=-4"),
        (["--out", "FILE"], "is a file"),
    ],
)
def test_the_command_refuses_in_a_sentence(tmp_path, capsys, words, expected):
    network().save(tmp_path / "prior")
    (tmp_path / "file").touch()
    out = tmp_path / ("file" if "FILE" in words else "out")
    given = ["sample", str(tmp_path / "prior"), "--steps", "1", *(w for w in words if w not in ("--out", "FILE"))]
    assert main([*given, "--out", str(out)]) == 2
    found = capsys.readouterr()
    assert expected in found.err and found.out == "" and len(found.err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_the_command_says_what_a_mask_conditioned_prior_draws(tmp_path, capsys):
    network(mask_channels=1, keep_probability=0.5).save(tmp_path / "prior")
    words = ["sample", str(tmp_path / "prior"), "--n", "1", "--size", "8", "--steps", "2", "--guidance", "0.05"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    assert "Note: this prior is mask-conditioned" in capsys.readouterr().out


def test_the_command_needs_a_picture(tmp_path, capsys):
    prior = NetworkPrior(NetworkConfig(channels=2, widths=(8,), embedding=8))
    prior.save(tmp_path / "prior")
    assert main(["sample", str(tmp_path / "prior"), "--out", str(tmp_path / "out")]) == 2
    assert "2 channels" in capsys.readouterr().err
