"""What the solver promises whatever the algorithm: invariances, the choice, the record, and sentences for bad input."""

import json

import deepinv
import pytest
import torch

from ambient_solve import (
    ALGORITHMS,
    MMPS,
    AmbientSolveError,
    DenoiserPrior,
    GaussianPrior,
    NetworkConfig,
    NetworkPrior,
    Proximal,
    Solver,
    as_deepinv,
    load_prior,
    operators,
)
from ambient_solve.noise import (
    alpha_bar_from_sigma,
    flow_time_from_sigma,
    sigma_from_alpha_bar,
    sigma_from_flow_time,
)

TINY = NetworkConfig(widths=(8, 16), groups=4, embedding=16)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    prior = NetworkPrior(TINY, "float32")
    for p in prior.parameters():
        torch.nn.init.normal_(p, std=0.05)
    return prior.eval().requires_grad_(False)


def picture(height=24, width=20, channels=3, images=1):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(images, channels, height, width, generator=generator)


# aos makes one mean, with mask-conditioned priors; soft takes states of the process, of which a mask makes none.
SAMPLERS = [name for name in ALGORITHMS if name not in ("aos", "soft")]


def small(name):
    settings = {"tds": {"twist": "isotropic"}, "daps": {"ode_steps": 2}, "pnpdm": {"inner_steps": 2}}
    return {"steps": 4, **settings.get(name, {})}


@pytest.mark.parametrize("name", SAMPLERS)
def test_four_together_are_four_alone(network, name):
    op = operators.inpaint_random((3, 24, 20), missing=0.5, sigma=0.05)
    y = op(picture(images=4))
    solver = Solver(network, name, **small(name))
    together = solver.solve(y, op, n_samples=2, seed=5).samples
    for b in range(4):
        alone = solver.solve(y[b : b + 1], op, n_samples=2, seed=5).samples
        torch.testing.assert_close(together[b : b + 1], alone, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("name", [n for n in SAMPLERS if not ALGORITHMS[n].interacting])
def test_more_samples_keep_the_first_ones(network, name):
    op = operators.inpaint_random((3, 24, 20), missing=0.5, sigma=0.1)
    y = op(picture())
    solver = Solver(network, name, **small(name))
    two, four = (solver.solve(y, op, n_samples=n).samples for n in (2, 4))
    torch.testing.assert_close(two, four[:, :2], atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["mmps", "proximal", "daps"])
def test_a_few_at_once_are_all_at_once(network, name):
    op = operators.denoise((3, 24, 20), sigma=0.1)
    y = op(picture(images=2))
    solver = Solver(network, name, **small(name))
    whole, parts = solver.solve(y, op, n_samples=5), solver.solve(y, op, n_samples=5, at_once=2)
    torch.testing.assert_close(whole.samples, parts.samples, atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(whole.chi2, parts.chi2, atol=1e-2, rtol=1e-2)
    assert (whole.network_calls, whole.vjps) == (parts.network_calls, parts.vjps) and parts.settings["n_samples"] == 5


@pytest.mark.parametrize("name", ["mmps", "proximal", "daps"])
def test_some_samples_of_a_larger_set(network, name):
    op = operators.denoise((3, 24, 20), sigma=0.1)
    y = op(picture())
    solver = Solver(network, name, **small(name))
    whole, last = solver.solve(y, op, n_samples=5), solver.solve(y, op, n_samples=2, first_sample=3)
    torch.testing.assert_close(whole.samples[:, 3:], last.samples, atol=2e-4, rtol=1e-3)
    assert (whole.samples[:, :2] - last.samples).abs().max() > 0.02  # the control
    with pytest.raises(AmbientSolveError, match="first_sample=-1"):
        solver.solve(y, op, first_sample=-1)


def test_seeds(network):
    op = operators.denoise((3, 24, 20), sigma=0.1)
    y = op(picture(images=2))
    solver = Solver(network, "proximal", steps=4)
    zero = solver.solve(y, op, seed=0).samples
    assert torch.equal(zero, solver.solve(y, op, seed=0).samples)
    assert not torch.allclose(zero, solver.solve(y, op, seed=1).samples)
    each = solver.solve(y, op, seed=[0, 1]).samples
    assert torch.equal(each[0], zero[0]) and not torch.allclose(each[1], zero[1])


@pytest.mark.parametrize("name", SAMPLERS)
def test_y_and_op_are_untouched(network, name):
    blur = operators.gaussian_blur((3, 24, 24), width=1.0, sigma=0.05)
    op = operators.inpaint_random((3, 24, 24), missing=0.5, sigma=0.05) if name == "repaint" else blur
    y = op(picture(24, 24))
    before = y.clone(), {k: v.clone() for k, v in op.state_dict().items()}, {k: str(v) for k, v in vars(op).items()}
    Solver(network, name, **small(name)).solve(y, op, n_samples=2)
    assert torch.equal(y, before[0])
    assert all(torch.equal(v, before[1][k]) for k, v in op.state_dict().items())
    assert {k: str(v) for k, v in vars(op).items()} == before[2]


@pytest.mark.parametrize("size", [(67, 101), (8, 8), (5, 33)])
def test_any_size(network, size):
    op = operators.inpaint_random((3, *size), missing=0.5, sigma=0.05)
    y = op(picture(*size))
    r = Solver(network, "mmps", steps=2).solve(y, op, n_samples=2)
    assert r.samples.shape == (1, 2, 3, *size) and r.samples.dtype == torch.float32
    seen = op.A(torch.ones(1, 3, *size)) > 0
    apart = (op.A(r.samples[0]) - y)[seen.expand(2, -1, -1, -1)].square().mean().sqrt() / 0.05
    print(f"\n{size}: measured pixels are missed by {float(apart):.2f} deviations of the noise")
    assert apart < 3 and not torch.equal(r.samples[0, 0], r.samples[0, 1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_float32_comes_out_whatever_goes_in(network, dtype):
    op = operators.denoise((3, 24, 20), sigma=0.1)
    assert Solver(network, "proximal", steps=2).solve(op(picture()).to(dtype), op).samples.dtype == torch.float32


def test_the_choice_is_recorded(network):
    linear = Solver(network, steps=2).solve(picture(), operators.denoise((3, 24, 20), sigma=0.1))
    assert linear.settings["algorithm"] == "mmps" and "linear" in linear.settings["why"]
    op = operators.jpeg((3, 24, 24), quality=10)
    other = Solver(network, steps=2, langevin_steps=2).solve(op(picture(24, 24)), op)
    assert other.settings["algorithm"] == "daps" and "non-linear" in other.settings["why"]
    chosen = Solver(network, Proximal(steps=2)).solve(picture(), operators.denoise((3, 24, 20), sigma=0.1))
    assert chosen.settings["why"] == "chosen by the caller"


def test_stream_is_solve_and_closing_it_stops(network):
    op = operators.denoise((3, 24, 20), sigma=0.1)
    y = op(picture())
    solver = Solver(network, "proximal", steps=5)
    states = list(solver.stream(y, op, seed=3))
    assert [s.step for s in states] == [1, 2, 3, 4, 5] and states[-1].steps == 5
    assert torch.equal(network.decode(states[-1].z), solver.solve(y, op, n_samples=1, seed=3).samples[:, 0])
    running = solver.stream(y, op)
    next(running)
    running.close()
    assert torch.is_grad_enabled()
    with pytest.raises(StopIteration):
        next(running)


def test_call_is_one_sample(network):
    op = operators.denoise((3, 24, 20), sigma=0.1)
    y = op(picture())
    solver = Solver(network, "proximal", steps=2)
    assert torch.equal(solver(y, op), solver.solve(y, op, n_samples=1).samples[:, 0])


def test_several_samples_by_default_unless_a_method_gives_one_or_asks_for_many(network):
    """The first four of a larger set; the same number whoever chooses the method."""
    op = operators.denoise((3, 24, 20), sigma=0.1)
    y = op(picture())
    for solver in (Solver(network, steps=2), Solver(network, "proximal", steps=2)):
        r = solver.solve(y, op)
        assert r.samples.shape[1] == r.settings["n_samples"] == 4 and bool(r.std.isfinite().all())
        torch.testing.assert_close(r.samples, solver.solve(y, op, n_samples=5).samples[:, :4], atol=2e-4, rtol=1e-3)
    assert {name for name, a in ALGORITHMS.items() if a.samples != 4} == {"aos", "tds", "fps"}
    with pytest.raises(AmbientSolveError, match="n_samples=64"):
        Solver(network, "tds", twist="isotropic").solve(y, op)


def test_restoration(network, tmp_path):
    op = operators.denoise((3, 24, 20), sigma=0.1)
    r = Solver(network, "proximal", steps=2).solve(op(picture()), op, n_samples=3)
    torch.testing.assert_close(r.mean, r.samples.mean(1))
    torch.testing.assert_close(r.quantile(0.5), r.samples.median(1).values)
    assert r.std.shape == r.mean.shape and r.chi2.shape == (1, 3)
    written = {p.name for p in r.save(tmp_path)}
    assert written == {"samples.safetensors", "settings.json", "mean.png", "std.png"} | {
        f"sample-{s}.png" for s in range(3)
    }
    assert json.loads((tmp_path / "settings.json").read_text())["steps"] == 2
    single = Solver(network, "proximal", steps=2).solve(op(picture()), op, n_samples=1)
    assert single.std is None
    assert {p.name for p in single.save(tmp_path / "one")} == {
        "samples.safetensors",
        "settings.json",
        "mean.png",
        "sample-0.png",
    }


def test_a_tolerance_saves_passes_that_are_not_needed():
    """White data seen by a mask: one step of conjugate gradients is exact, the other four change nothing."""
    prior = GaussianPrior(torch.zeros(3, 6, 6), 0.25 * torch.eye(108))
    op = operators.inpaint_random((3, 6, 6), missing=0.5, sigma=0.1)
    y = op(picture(6, 6, images=2))
    full = Solver(prior, "mmps", steps=6, iterations=5).solve(y, op, n_samples=2, seed=1)
    short = Solver(prior, "mmps", steps=6, iterations=5, tolerance=0.01).solve(y, op, n_samples=2, seed=1)
    assert full.vjps == 6 * (5 + 1) and short.vjps == 6 * (1 + 1)
    assert short.network_calls == full.network_calls
    torch.testing.assert_close(short.samples, full.samples, rtol=1e-4, atol=1e-4)
    parts = Solver(prior, "mmps", steps=6, iterations=5, tolerance=0.01).solve(y, op, n_samples=2, seed=1, at_once=1)
    torch.testing.assert_close(parts.samples, short.samples, rtol=1e-4, atol=1e-4)
    assert parts.vjps == short.vjps
    # A correlated prior needs its steps: a rule as loose as the noise itself changes the samples.
    rough = GaussianPrior(torch.zeros(3, 6, 6), torch.linspace(0.001, 4, 108).diag() + 0.3)
    exact, loose = (
        Solver(rough, "mmps", steps=6, iterations=8, tolerance=t).solve(y, op, n_samples=2, seed=1) for t in (0.0, 3.0)
    )
    assert loose.vjps < exact.vjps and not torch.allclose(loose.samples, exact.samples, rtol=1e-2, atol=1e-2)


def test_settings_repeat_the_run(network):
    op = operators.denoise((3, 24, 20), sigma=0.1)
    y = op(picture())
    first = Solver(network, "mmps", steps=3, iterations=2).solve(y, op, seed=4)
    s = first.settings
    again = Solver(network, s["algorithm"], steps=s["steps"], iterations=s["iterations"]).solve(y, op, seed=s["seed"])
    assert torch.equal(first.samples, again.samples)


# deepinv, in both directions.


class Shrink(torch.nn.Module):
    """The exact denoiser of pixels N(0.5, 0.25^2) in [0, 1] units."""

    def forward(self, x, sigma):
        return 0.5 + 0.25**2 / (0.25**2 + sigma.reshape(-1, 1, 1, 1) ** 2) * (x - 0.5)


def test_a_deepinv_denoiser_is_a_prior_in_the_right_units():
    ours = GaussianPrior(torch.zeros(1, 4, 4), 0.25 * torch.eye(16))
    z = torch.randn(3, 1, 4, 4)
    sigma = torch.tensor([0.1, 1.0, 5.0])
    torch.testing.assert_close(DenoiserPrior(Shrink(), channels=1).denoise(z, sigma), ours.denoise(z, sigma))


def test_as_deepinv_inverts_it():
    denoiser = as_deepinv(DenoiserPrior(Shrink(), channels=1))
    x = torch.rand(2, 1, 4, 4)
    for sigma in (0.2, torch.tensor(0.2), torch.tensor([0.1, 0.4]), torch.tensor([0.1, 0.4]).reshape(2, 1, 1, 1)):
        level = torch.as_tensor(sigma).reshape(-1).expand(2)
        torch.testing.assert_close(denoiser(x, sigma), Shrink()(x, level))
    assert isinstance(denoiser, deepinv.models.Denoiser)


# Conversions.


def test_level_conversions_are_inverse_and_right():
    for sigma in (0.01, 1.0, 50.0):
        assert sigma_from_alpha_bar(alpha_bar_from_sigma(sigma)) == pytest.approx(sigma)
        assert sigma_from_flow_time(flow_time_from_sigma(sigma)) == pytest.approx(sigma)
    z0, n, ab, u = torch.randn(4, 100, dtype=torch.float64).unbind()[0:2] + (0.3, 0.3)
    ddpm = ab**0.5 * z0 + (1 - ab) ** 0.5 * n
    torch.testing.assert_close(ddpm / ab**0.5, z0 + sigma_from_alpha_bar(ab) * n)
    torch.testing.assert_close((u * z0 + (1 - u) * n) / u, z0 + sigma_from_flow_time(u) * n)


# Network priors.


def test_save_and_load(network, tmp_path):
    network.save(tmp_path, card="# a card\n")
    loaded = load_prior(tmp_path, precision="float32")
    z = torch.randn(2, 3, 16, 24)
    assert torch.equal(loaded.denoise(z, 0.3), network.denoise(z, 0.3))
    assert (tmp_path / "README.md").read_text() == "# a card\n"


def test_levels_per_sample(network):
    z = torch.randn(3, 3, 16, 16)
    sigma = torch.tensor([0.1, 1.0, 10.0])
    rows = torch.cat([network.denoise(z[i : i + 1], float(sigma[i])) for i in range(3)])
    torch.testing.assert_close(network.denoise(z, sigma), rows, atol=1e-5, rtol=1e-4)


def test_network_vjp_is_the_jacobian(network):
    z, v = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    _, vjp = network.denoise_vjp(z, 0.5)
    w, h = torch.randn(2, 3, 8, 8), 1e-2
    derivative = (network.denoise(z + h * w, 0.5) - network.denoise(z - h * w, 0.5)) / (2 * h)
    torch.testing.assert_close((v * derivative).sum(), (vjp(v) * w).sum(), rtol=1e-2, atol=1e-2)


def test_bfloat16_is_close_to_float32(network):
    z = torch.randn(2, 3, 16, 16)
    full = network.denoise(z, 0.5)
    half = network.set_precision("bfloat16").denoise(z, 0.5)
    network.set_precision("float32")
    assert half.dtype == torch.float32
    assert 0 < (half - full).abs().max() < 0.03 * full.abs().max()


def broken(folder, kind, network):
    network.save(folder)
    if kind == "no weights":
        (folder / "model.safetensors").unlink()
    if kind == "pickle":
        (folder / "model.safetensors").unlink()
        torch.save({}, folder / "model.pt")
    if kind == "pickle renamed":
        torch.save({}, folder / "model.safetensors")
    if kind == "cut":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    if kind == "no config":
        (folder / "config.json").unlink()
    if kind == "unknown entry":
        (folder / "config.json").write_text('{"kind": "NetworkPrior", "wdths": [8, 16]}')
    if kind == "other shape":
        (folder / "config.json").write_text('{"kind": "NetworkPrior"}')


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("no weights", "no weights"),
        ("pickle", "a pickle"),
        ("pickle renamed", "not a readable safetensors"),
        ("cut", "not a readable safetensors"),
        ("no config", "has no config.json"),
        ("unknown entry", "Did you mean 'widths'"),
        ("other shape", "does not fit"),
    ],
)
def test_broken_priors(network, tmp_path, kind, words):
    broken(tmp_path, kind, network)
    with pytest.raises(AmbientSolveError, match=words):
        load_prior(tmp_path)


# Bad input to the solver, each a sentence before the first network call.


class Untouchable(GaussianPrior):
    def denoise(self, z, sigma, cond=None):
        raise AssertionError("the network was called")


def refuse(words, algorithm="auto", y=None, op=None, build=None, **solve):
    prior = Untouchable(torch.zeros(3, 8, 8), torch.eye(192))
    with pytest.raises(AmbientSolveError, match=words):
        op = operators.denoise((3, 8, 8), sigma=0.1) if op is None else op
        y = torch.rand(1, 3, 8, 8) if y is None else y
        Solver(prior, algorithm, **(build or {})).solve(y, op, **solve)


def test_bad_input():
    refuse("Did you mean 'mmps'", algorithm="mpms")
    refuse("Did you mean 'steps'", algorithm="mmps", build={"step": 3})
    refuse("outside", algorithm="mmps", build={"steps": 0})
    refuse("whole number", algorithm="mmps", build={"steps": 2.5})
    refuse("whole number", algorithm="mmps", build={"steps": 3.0})
    refuse("True or False", algorithm="mmps", build={"covariance_noise": "no"})
    refuse("draws all samples", algorithm="tds", build={"twist": "isotropic"}, n_samples=4, at_once=2)
    refuse("n_samples=64", algorithm="tds", build={"twist": "isotropic"})
    refuse("not a number", algorithm="mmps", build={"steps": "many"})
    refuse("Knobs belong to the algorithm object", algorithm=MMPS(), build={"steps": 3})
    refuse("n_samples", n_samples=0)
    refuse("seed", seed=-1)
    refuse("seed", seed=[1, 2])
    refuse("above 0", sigma_y=0.0)
    refuse("above 0", sigma_y=-1.0)
    refuse("NaN", y=torch.full((1, 3, 8, 8), torch.nan))
    refuse("no noise level", op=deepinv.physics.Denoising(deepinv.physics.ZeroNoise()))
    refuse("the prior .* makes", y=torch.rand(1, 3, 9, 9), op=operators.denoise((3, 9, 9), sigma=0.1))
    refuse("deepinv physics was expected", op=lambda x: x)
    refuse("needs a linear operator", algorithm="mmps", op=operators.jpeg((3, 8, 8), quality=10))
    refuse("at most 64 measurements", algorithm="tds", n_samples=2)
    with pytest.raises(AmbientSolveError, match="a Prior was expected"):
        Solver(torch.nn.Identity())


def test_auto_builds_what_it_chose_from_the_knobs_it_knows():
    """On an exact prior "auto" is mmps: a knob that only daps has is one sentence, not an error of dataclasses."""
    prior = GaussianPrior(torch.zeros(3, 6, 6), 0.25 * torch.eye(108))
    op = operators.inpaint_random((3, 6, 6), missing=0.5, sigma=0.1)
    y = op(picture(6, 6))
    assert Solver(prior, iterations=2).solve(y, op).settings["time_travel"] == 1
    with pytest.raises(AmbientSolveError, match="MMPS has no knob 'ode_steps'"):
        Solver(prior, ode_steps=2).solve(y, op)
