"""What users hand to the solver in one form or another: the same samples, or a sentence before any network call."""

from __future__ import annotations

import math

import deepinv
import pytest
import torch
from torch import Tensor, nn

from ambient_solve import (
    ALGORITHMS,
    AmbientSolveError,
    DenoiserPrior,
    GaussianPrior,
    MixturePrior,
    NetworkConfig,
    NetworkPrior,
    Prior,
    Solver,
    generate,
    load_prior,
    operators,
)
from ambient_solve.priors.tiled import TiledPrior
from helpers import one_sentence, rand, randn

SHAPE = (3, 8, 12)
FAST = {
    "tds": {"twist": "isotropic"},
    "daps": {"ode_steps": 2, "langevin_steps": 3},
    "pnpdm": {"inner_steps": 2},
    "sitcom": {"iterations": 2},
}


def network() -> NetworkPrior:
    torch.manual_seed(0)
    prior = NetworkPrior(NetworkConfig(widths=(8, 16), groups=4, embedding=16), "float32")
    for p in prior.parameters():
        nn.init.normal_(p, std=0.05)
    return prior.eval().requires_grad_(False)


def measured() -> tuple[Tensor, deepinv.physics.Physics]:
    torch.manual_seed(0)
    op = operators.inpaint_random(SHAPE, missing=0.5, sigma=0.1)
    return op(rand(1, *SHAPE)), op


def samples(prior: object, name: str = "mmps", **solve: object) -> Tensor:
    y, op = measured()
    return Solver(prior, name, steps=3, **FAST.get(name, {})).solve(y, op, n_samples=2, **solve).samples


SAMPLERS = [name for name in ALGORITHMS if name not in ("aos", "soft")]


# The modes of torch --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_default_type_of_double_changes_nothing(name):
    prior, (y, op) = network(), measured()
    solver = Solver(prior, name, steps=3, **FAST.get(name, {}))
    wanted = solver.solve(y, op, n_samples=2)
    torch.set_default_dtype(torch.float64)
    try:
        found = solver.solve(y, op, n_samples=2)
        generated = generate(prior, 1, size=8, steps=2)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found.samples, wanted.samples) and torch.equal(found.chi2, wanted.chi2)
    assert torch.equal(generated, generate(prior, 1, size=8, steps=2))


OPERATORS = {
    "jpeg": lambda: operators.jpeg(SHAPE, quality=20),
    "super-resolution": lambda: operators.super_resolution(SHAPE, 2, sigma=0.05),
    "photons": lambda: deepinv.physics.Denoising(deepinv.physics.PoissonNoise(0.1)),
    "reflect": lambda: deepinv.physics.Blur(torch.ones(1, 1, 3, 3) / 9, padding="reflect"),
}


@pytest.mark.parametrize("operator", OPERATORS)
def test_what_is_made_under_a_default_type_of_double_works(operator):
    """Operator, picture and network made there; and the same solved there as here."""
    op, prior = OPERATORS[operator](), network()
    torch.manual_seed(0)
    y, settings = op(rand(1, *SHAPE)), {"steps": 3}
    sigma_y = 0.1 if operator == "reflect" else None
    wanted = Solver(prior, **settings).solve(y, op, sigma_y=sigma_y).samples
    torch.set_default_dtype(torch.float64)
    try:
        found = Solver(prior, **settings).solve(y, op, sigma_y=sigma_y).samples
        made, x = OPERATORS[operator](), torch.rand(1, *SHAPE)
        other = Solver(load_prior("photos"), **settings).solve(made(x), made, sigma_y=sigma_y).samples
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found, wanted)
    assert other.dtype == torch.float32 and torch.isfinite(other).all()


@pytest.mark.parametrize("name", SAMPLERS)
def test_inference_mode_changes_nothing(name):
    prior = network()
    wanted = samples(prior, name)
    with torch.inference_mode():
        found = samples(prior, name)
        assert torch.is_inference_mode_enabled()
    assert torch.equal(found, wanted) and not found.is_inference()


class Shrink(nn.Module):
    """The exact denoiser of pixels N(0.5, 0.25^2) in [0, 1], whose type is that of its one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.variance = nn.Parameter(torch.tensor(0.25**2))

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        assert x.dtype == sigma.dtype == self.variance.dtype
        return 0.5 + self.variance / (self.variance + sigma.reshape(-1, 1, 1, 1) ** 2) * (x - 0.5)


def test_the_weights_may_be_made_in_inference_mode():
    """`load_prior` and `DenoiserPrior` make ordinary ones; others serve where nothing is differentiated."""
    with torch.inference_mode():
        photos, inside, wrapped = load_prior("photos"), network(), DenoiserPrior(Shrink())
    for prior in (photos, wrapped):
        assert torch.isfinite(samples(prior)).all()
    with pytest.raises(AmbientSolveError, match="inference_mode.*proximal") as error:
        samples(inside)
    assert one_sentence(error)
    torch.testing.assert_close(samples(inside, "proximal"), samples(network(), "proximal"), atol=1e-4, rtol=1e-4)


# Wrappers of torch ---------------------------------------------------------------------------------------------------

WRAPPERS = {
    "data-parallel": nn.DataParallel,
    "compiled": lambda prior: torch.compile(prior, backend="aot_eager"),
    "both": lambda prior: torch.compile(nn.DataParallel(prior), backend="eager"),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapped_prior_gives_the_same_samples_and_is_called(wrapper):
    prior = network()
    wrapped, calls = WRAPPERS[wrapper](prior), []
    hook = prior.register_forward_hook(lambda *_: calls.append(1)) if wrapper == "data-parallel" else None
    for name in ("mmps", "proximal"):
        torch.testing.assert_close(samples(wrapped, name), samples(prior, name), rtol=1e-4, atol=1e-5)
    if hook is not None:
        assert len(calls) == 6, "by way of the wrapper, which calls forward"
        hook.remove()
    found, wanted = (generate(p, 1, size=8, steps=2) for p in (wrapped, prior))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_wrapper_around_no_prior_is_a_sentence():
    for given in (nn.DataParallel(nn.Identity()), torch.compile(nn.Identity()), None, lambda z, sigma: z):
        with pytest.raises(AmbientSolveError, match="a Prior was expected") as error:
            Solver(given)
        assert one_sentence(error)


# Denoisers of others -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_denoiser_of_any_type_is_called_in_its_own(dtype):
    exact = GaussianPrior(torch.zeros(1, 4, 4), 0.25 * torch.eye(16))
    prior = DenoiserPrior(Shrink().to(dtype), channels=1)
    z = randn(3, 1, 4, 4)
    z0, vjp = prior.denoise_vjp(z, 0.5)
    close = {"rtol": 2e-2, "atol": 2e-2} if dtype is torch.bfloat16 else {}
    torch.testing.assert_close(z0, exact.denoise(z, 0.5), **close)
    torch.testing.assert_close(vjp(z), exact.denoise_vjp(z, 0.5)[1](z), **close)
    assert z0.dtype == vjp(z).dtype == torch.float32


def test_a_function_is_a_denoiser():
    module = Shrink().requires_grad_(False)
    wanted = samples(DenoiserPrior(module))
    assert torch.equal(samples(DenoiserPrior(lambda x, sigma: module(x, sigma))), wanted)


@pytest.mark.parametrize(
    ("denoiser", "words"),
    [
        (3, "denoiser is a int"),
        (lambda x, sigma: x[:, :1], r"gave a tensor \(2, 1, 8, 12\)"),
        (lambda x, sigma: (x, sigma), "gave a tuple"),
        (nn.Linear(2, 2), "weight are NaN"),
    ],
)
def test_what_is_no_denoiser_is_a_sentence(denoiser, words):
    if isinstance(denoiser, nn.Linear):
        nn.init.constant_(denoiser.weight, torch.nan)
    with pytest.raises(AmbientSolveError, match=words) as error:
        samples(DenoiserPrior(denoiser))
    assert one_sentence(error)


# Priors of one's own -------------------------------------------------------------------------------------------------


def own(**fields: object) -> Prior:
    body = {"denoise": lambda self, z, sigma, cond=None: 0.9 * z, **fields}
    return type("Own", (Prior,), body)()


WHOLE = {"shape": (3, -1, -1), "sigma_min": 0.01, "sigma_max": 80.0}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shape": None}, "shape"),
        ({"sigma_min": None}, "Own has no sigma_min"),
        ({"sigma_max": None}, "Own has no sigma_max"),
        ({"shape": "photos"}, "Own.shape is 'photos'"),
        ({"sigma_max": 0.001}, "0 < sigma_min < sigma_max"),
        ({"sigma_max": math.inf}, "0 < sigma_min < sigma_max"),
    ],
)
def test_a_prior_that_does_not_say_its_shape_or_levels_is_a_sentence(change, words):
    prior = own(**{k: v for k, v in (WHOLE | change).items() if v is not None})
    for use in (Solver, lambda p: generate(p, 1, size=8), lambda p: TiledPrior(p, 16, 4)):
        with pytest.raises(AmbientSolveError, match=words) as error:
            use(prior)
        assert one_sentence(error)
    assert torch.isfinite(samples(own(**WHOLE), "proximal")).all()  # the control


def test_the_jacobian_of_a_network_is_not_trusted_at_high_noise_unless_it_is_said():
    assert own(**WHOLE).sigma_jacobian == 5.0 and own(**WHOLE, sigma_data=2.0).sigma_jacobian == 20.0
    prior = own(**WHOLE, sigma_jacobian=3.0)
    assert prior.sigma_jacobian == 3.0
    other = own(**WHOLE)
    other.sigma_jacobian = 4.0
    assert other.sigma_jacobian == 4.0
    exact = GaussianPrior(torch.zeros(1, 2, 2), torch.eye(4)), MixturePrior.ring(modes=3)
    assert all(p.sigma_jacobian == math.inf for p in exact)


# Numbers that are none -----------------------------------------------------------------------------------------------


class Broken(nn.Module):
    """A denoiser that gives NaN below some level."""

    def __init__(self, below: float) -> None:
        super().__init__()
        self.below = below

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return torch.where(sigma.reshape(-1, 1, 1, 1) < self.below, torch.nan, 0.5 + 0.1 * (x - 0.5))


@pytest.mark.parametrize("name", ["mmps", "proximal", "daps"])
def test_a_denoiser_that_gives_nan_ends_the_run_in_a_sentence(name):
    for below in (0.01, 100.0):
        with pytest.raises(AmbientSolveError, match="NaN or infinite") as error:
            samples(DenoiserPrior(Broken(below)), name)
        assert one_sentence(error) and "DenoiserPrior" in str(error.value)
    with pytest.raises(AmbientSolveError, match="NaN or infinite"):
        generate(DenoiserPrior(Broken(100.0)), 1, size=8, steps=2)
    assert torch.isfinite(samples(DenoiserPrior(Broken(0.0)), name)).all()


def test_a_folder_of_weights_that_are_no_numbers_is_refused(tmp_path):
    prior = network()
    first = next(prior.parameters())
    first[(0,) * first.ndim] = torch.nan
    prior.save(tmp_path)
    with pytest.raises(AmbientSolveError, match="1 of the .* are NaN or infinite") as error:
        load_prior(tmp_path)
    assert one_sentence(error)
