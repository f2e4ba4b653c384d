"""A mask-conditioned prior: what it draws, what it restores, and whose mask a sample gets."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from deepinv.physics import MultiCoilMRI
from torch import Tensor

from ambient_solve import (
    AmbientPrior,
    AmbientSolveError,
    GaussianPrior,
    NetworkConfig,
    NetworkPrior,
    Prior,
    Solver,
    generate,
    operators,
)
from ambient_solve.noise import Streams
from ambient_solve.priors.ambient import MaskConditionedGaussian
from ambient_solve.priors.base import start
from helpers import one_sentence, rand, randn, relative

D, SIGMA_MAX = 16, 40.0


def correlated() -> GaussianPrior:
    """`C_ij = exp(-|i - j| / 3)`, trace 16."""
    i = torch.arange(float(D))
    return GaussianPrior(torch.zeros(D), torch.exp(-(i[:, None] - i).abs() / 3), sigma_min=0.002, sigma_max=SIGMA_MAX)


def pictures() -> GaussianPrior:
    """Correlated pictures (2, 3, 4) with a mean."""
    a = randn(24, 24, seed=1, dtype=torch.float64)
    return GaussianPrior(randn(2, 3, 4, seed=2), a @ a.T / 24 + 0.1 * torch.eye(24), sigma_min=0.01, sigma_max=40.0)


class Spy(Prior):
    """A mask-conditioned denoiser that keeps what it was given, and returns a curved function of what it was shown."""

    sigma_min, sigma_max = 0.01, 40.0

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape, self.seen, self.conds = shape, [], []

    def denoise(self, z: Tensor, sigma: float, cond: Tensor | None = None) -> Tensor:
        self.seen.append(z.detach())
        self.conds.append(cond)
        return 0.5 * torch.tanh(z) + 0.1 * cond


def conditional_means(prior: GaussianPrior, seen: Tensor, masks: Tensor, noise2: float = 0.0) -> tuple[Tensor, Tensor]:
    """`E[z0 | z_k + noise]` for each row and `tr Cov[z0 | ...]`, entry lists instead of masks: an independent way."""
    c, mean = prior.covariance, prior.mean.flatten()
    rows, traces = [], []
    for z, mask in zip(seen.flatten(1).double(), masks.flatten(1).bool(), strict=True):
        k = mask.nonzero()[:, 0]
        gain = c[:, k] @ torch.linalg.inv(c[k][:, k] + noise2 * torch.eye(len(k)))
        rows.append(mean + gain @ (z[k] - mean[k]))
        traces.append((c - gain @ c[k]).trace())
    return torch.stack(rows).reshape(seen.shape), torch.stack(traces)


# The law of the samplers.


@pytest.mark.parametrize("keep_probability", [0.9, 0.6, 0.2])
def test_a_fixed_mask_draws_the_conditional_mean_given_what_it_shows(keep_probability):
    """Sample by sample: the visible block follows its exact flow, the hidden one is its conditional mean."""
    exact, n, steps = correlated(), 300, 30
    prior = AmbientPrior(MaskConditionedGaussian(exact), keep_probability)
    found = generate(prior, n, batch=n, steps=steps).double()

    noisy, masks = start(prior, (n, D), SIGMA_MAX, Streams([0], n)).double(), prior._masks.double()
    visible = torch.zeros(n, D).double()
    for row, (z, mask) in enumerate(zip(noisy, masks.bool(), strict=True)):
        # The flow from sigma to 0 of N(0, L): each axis is scaled by sqrt(L / (L + sigma^2)).
        scale, axes = torch.linalg.eigh(exact.covariance[mask][:, mask])
        visible[row, mask] = axes @ ((scale / (scale + SIGMA_MAX**2)).sqrt() * (axes.T @ z[mask]))
    wanted, hidden = conditional_means(exact, visible, masks)
    law = D - float(hidden.mean())
    # `wanted` has this trace in expectation: taking its own as a control leaves the error of the sampler alone.
    trace = float(found.square().sum(1).mean() - wanted.square().sum(1).mean()) + law
    fresh = generate(AmbientPrior(prior.inner, keep_probability, policy="per_call"), n, batch=n, steps=steps)
    whole = generate(AmbientPrior(prior.inner, 1.0), n, batch=n, steps=steps)
    redrawn, all_seen = (float(z.square().sum(1).mean()) for z in (fresh, whole))
    away = relative(found, wanted)
    print(
        f"\nkept {keep_probability}: trace {trace:.2f}, law {law:.2f}, per call {redrawn:.2f}, all seen {all_seen:.2f}"
    )
    assert away < 0.02 and abs(trace / law - 1) < 0.04
    # Controls: a mask at each call, and no mask; the latter is nearly right where nearly all is seen.
    assert redrawn < 0.75 * law and relative(fresh, wanted) > 0.2
    assert relative(whole, wanted) > (0.02 if keep_probability > 0.8 else 0.2) and (
        keep_probability > 0.8 or all_seen > 1.15 * law
    )


def test_masks_depend_on_seed_and_sample_alone():
    prior = AmbientPrior(Spy(2, 5, 4), 0.5, mask_channels=2)

    def masks(seed: int, n: int, first: int = 0) -> Tensor:
        prior.begin((n, 2, 5, 4), Streams([seed], n, first_sample=first))
        return prior._masks

    whole = masks(3, 6)
    assert whole.shape == (6, 2, 5, 4) and set(whole.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(masks(3, 2, first=4), whole[4:]) and torch.equal(masks(3, 3), whole[:3])
    assert not torch.equal(masks(4, 6), whole) and len({tuple(m.flatten().tolist()) for m in whole}) == 6
    assert abs(float(AmbientPrior(Spy(9000), 0.3).draw_masks((1, 9000), Streams([0], 1)).mean()) - 0.3) < 0.02
    # The fresh noise of a step draws no mask: that of the run stays.
    streams = Streams([3], 6)
    prior.begin((6, 2, 5, 4), streams)
    of_the_run = prior._masks
    prior.noise((6, 2, 5, 4), streams)
    assert prior._masks is of_the_run and not torch.equal(prior.draw_masks((6, 2, 5, 4), streams), of_the_run)
    # The noise is the same under every policy, and a mask of the run's own stays as it is.
    other = AmbientPrior(Spy(2, 5, 4), 0.5, policy="per_call")
    unit = (p.noise((2, 2, 5, 4), Streams([0], 2)) for p in (prior, other, prior.with_mask(torch.ones(5, 4))))
    first, second, third = unit
    assert torch.equal(first, second) and torch.equal(first, third)


def test_what_the_network_is_shown():
    z, spy = randn(4, 3, 5, 4), Spy(3, 5, 4)
    fixed, fresh = AmbientPrior(spy, 0.5), AmbientPrior(spy, 0.5, policy="per_call")
    for prior in (fixed, fresh):
        prior.begin((4, 3, 5, 4), Streams([0], 4))
        prior.denoise(z, 1.0), prior.denoise(z, 1.0)
        (a, b), seen = spy.conds[-2:], spy.seen[-2:]
        assert a.shape == (4, 1, 5, 4) and torch.equal(seen[0], z * a) and torch.equal(seen[1], z * b)
        assert torch.equal(a, b) == (prior is fixed)
    given = (rand(5, 4) < 0.5).float()
    for mask in (given, given[None], given.expand(3, 5, 4), given.expand(1, 3, 5, 4)):
        fixed.with_mask(mask).denoise(z, 1.0)
        assert torch.equal(spy.conds[-1], given.expand(4, 1, 5, 4)) and torch.equal(spy.seen[-1], z * given)
    fixed.denoise(z, 1.0, given[None, None])  # the caller's own, whatever the policy's
    assert torch.equal(spy.seen[-1], z * given)


def test_masks_of_several_measurements_are_image_major():
    spy, masks = Spy(1, 5, 4), (rand(2, 1, 5, 4, seed=3) < 0.5).float()
    AmbientPrior(spy, 0.5, policy="measurement", mask=masks).denoise(randn(6, 1, 5, 4), 1.0)
    assert torch.equal(spy.conds[-1], masks[[0, 0, 0, 1, 1, 1]])


def test_k_space_shows_the_adjoint_of_what_was_measured():
    z, mask = randn(4, 2, 8, 6), (rand(2, 1, 8, 6, seed=1) < 0.5).float()
    maps = torch.complex(randn(2, 3, 8, 6, seed=2), randn(2, 3, 8, 6, seed=3))
    spy = Spy(2, 8, 6)
    AmbientPrior(spy, policy="measurement", mask=mask, maps=maps).denoise(z, 1.0)
    for row, image in enumerate((0, 0, 1, 1)):
        op = MultiCoilMRI(mask=mask[image : image + 1], coil_maps=maps[image : image + 1], img_size=(2, 8, 6))
        wanted = op.A_adjoint(op.A(z[row : row + 1]))
        torch.testing.assert_close(spy.seen[0][row : row + 1], wanted, atol=1e-4, rtol=1e-4)
    assert torch.equal(spy.conds[0], mask[[0, 0, 1, 1]]) and relative(spy.seen[0], z) > 0.1


# One step, and the exact mask-conditioned denoiser.


@pytest.mark.parametrize("sigma", [None, 0.4])
def test_restore_once_is_the_conditional_mean(sigma):
    exact = pictures()
    prior, masks = AmbientPrior(MaskConditionedGaussian(exact), 0.5), (rand(5, 1, 3, 4, seed=4) < 0.5).float()
    z = exact.sample(5, torch.Generator().manual_seed(1)) + (sigma or 0) * randn(5, 2, 3, 4)
    filled = torch.where(masks.bool(), z, torch.tensor(7.0))
    found = prior.restore_once(filled, masks, sigma)
    wanted, _ = conditional_means(exact, z, masks.expand(-1, 2, -1, -1), (sigma or exact.sigma_min) ** 2)
    assert relative(found, wanted) < 1e-5
    # Controls: hidden entries shown, noise not given, the mean of the data forgotten, entries kept as they were seen.
    assert relative(prior.inner.denoise(filled, sigma or exact.sigma_min, torch.ones_like(masks)), wanted) > 0.05
    assert relative(prior.restore_once(filled, masks, 1.0), wanted) > 0.05
    assert relative(found, filled) > 0.05
    assert relative(found, exact.mean.expand(5, 2, 3, 4)) > 0.05


def test_the_exact_mask_conditioned_denoiser_at_any_level():
    exact = pictures()
    conditioned, sigma = MaskConditionedGaussian(exact), torch.tensor([0.05, 0.5, 5.0])
    z, masks = randn(3, 2, 3, 4), (rand(3, 2, 3, 4, seed=5) < 0.5).float()
    found = conditioned.denoise(z * masks, sigma, masks)
    for row in range(3):
        wanted, _ = conditional_means(exact, z[row : row + 1], masks[row : row + 1], float(sigma[row]) ** 2)
        assert relative(found[row : row + 1], wanted) < 1e-5
    assert relative(conditioned.denoise(z, 0.5), exact.denoise(z, 0.5)) < 1e-6
    nothing = torch.zeros_like(z)
    torch.testing.assert_close(conditioned.denoise(nothing, 0.5, nothing), exact.mean.expand_as(z).float())


def test_gradients_flow_through_the_masking():
    """`J' v = M J_c' v`, J_c' v the exact `(C + sigma^2 I)_kk^-1 C_k. v`."""
    exact = pictures()
    mask, z, v, sigma = (rand(3, 4, seed=6) < 0.5).float(), randn(2, 2, 3, 4), randn(2, 2, 3, 4, seed=7), 0.7
    prior = AmbientPrior(MaskConditionedGaussian(exact), 0.5).with_mask(mask)
    _, vjp = prior.denoise_vjp(z, sigma)
    k = mask.expand(2, 3, 4).flatten().nonzero()[:, 0]
    c, wanted = exact.covariance, torch.zeros(2, 24).double()
    wanted[:, k] = (torch.linalg.inv(c[k][:, k] + sigma**2 * torch.eye(len(k))) @ c[k] @ v.flatten(1).double().T).T
    assert relative(vjp(v), wanted) < 1e-5
    assert relative(exact.denoise_vjp(z, sigma)[1](v), wanted) > 0.1


# With the solver.


@pytest.fixture(scope="module")
def network() -> NetworkPrior:
    torch.manual_seed(0)
    prior = NetworkPrior(
        NetworkConfig(widths=(8, 16), groups=4, embedding=16, mask_channels=1, keep_probability=0.6), "float32"
    )
    for p in prior.parameters():
        torch.nn.init.normal_(p, std=0.05)
    return prior.eval().requires_grad_(False)


@pytest.mark.parametrize("policy", ["fixed", "per_call", "measurement"])
def test_a_solver_run_does_not_know_its_batch(network, policy):
    op = operators.inpaint_random((3, 12, 10), missing=0.5, sigma=0.05)
    y = op(rand(4, 3, 12, 10))
    mask = op.mask if policy == "measurement" else None
    solver = Solver(AmbientPrior(network, 0.6, policy=policy, mask=mask), "dps", steps=4)
    together = solver.solve(y, op, n_samples=3, seed=5).samples
    torch.testing.assert_close(
        solver.solve(y, op, n_samples=3, seed=5, at_once=2).samples, together, atol=1e-4, rtol=1e-3
    )
    for b in range(4):
        alone = solver.solve(y[b : b + 1], op, n_samples=3, seed=5).samples
        torch.testing.assert_close(alone, together[b : b + 1], atol=1e-4, rtol=1e-3)
    # Control: the mask matters, so that another sample's would show.
    other = Solver(AmbientPrior(network, 0.3), "dps", steps=4).solve(y, op, n_samples=3, seed=5).samples
    assert not torch.allclose(other, together, atol=1e-2)


@pytest.mark.parametrize("algorithm", ["auto", "mmps", "proximal", "pigdm", "ddnm", "daps"])
def test_every_solver_takes_it(network, algorithm):
    op = operators.inpaint_random((3, 12, 10), missing=0.5, sigma=0.05)
    spy = Spy(3, 12, 10)
    for inner in (network, spy):
        r = Solver(AmbientPrior(inner, 0.6), algorithm, steps=3).solve(op(rand(2, 3, 12, 10)), op, n_samples=2)
        assert r.samples.shape == (2, 2, 3, 12, 10) and torch.isfinite(r.samples).all()
    assert all(torch.equal(m, spy.conds[0]) for m in spy.conds) and len(spy.conds) >= 3


def test_the_measurement_policy_sees_what_the_operator_sees(network):
    op, spy = operators.inpaint_random((3, 12, 10), missing=0.5, sigma=0.05), Spy(3, 12, 10)
    mask = op.mask.reshape(3, 12, 10)
    Solver(AmbientPrior(spy, 0.6).with_mask(op.mask), "dps", steps=3).solve(op(rand(2, 3, 12, 10)), op, n_samples=2)
    assert len(spy.conds) == 3
    for z, cond in zip(spy.seen, spy.conds, strict=True):
        assert torch.equal(cond, mask[:1].expand(4, 1, 12, 10)) and not (z * (1 - mask)).any() and (z * mask).any()


def test_a_copy_serves_another_run():
    """Two runs at once: each keeps its masks where it has a prior of its own."""
    op = operators.inpaint_random((3, 6, 5), missing=0.5, sigma=0.05)
    y, prior = op(rand(1, 3, 6, 5)), AmbientPrior(Spy(3, 6, 5), 0.5)
    alone = [Solver(prior, "proximal", steps=4).solve(y, op, seed=s, n_samples=1).samples for s in (0, 1)]
    runs = [Solver(p, "proximal", steps=4).stream(y, op, seed=s) for s, p in enumerate((prior, copy.copy(prior)))]
    for states in zip(*runs, strict=True):
        last = states
    for state, wanted in zip(last, alone, strict=True):
        assert torch.equal(prior.decode(state.z), wanted[:, 0])


def test_units_and_sizes_are_those_of_the_network(network):
    prior = AmbientPrior(network, 0.6)
    assert prior.affine == network.affine and prior.shape == (3, -1, -1)
    assert generate(prior, 2, size=(7, 9), steps=2).shape == (2, 3, 7, 9)
    torch.testing.assert_close(prior.encode(prior.decode(randn(2, 3, 4, 4))), randn(2, 3, 4, 4))


ones = torch.ones
REFUSED = {
    "keep_probability 0": (lambda spy: AmbientPrior(spy, 0.0), "keep_probability=0.0"),
    "keep_probability none": (lambda spy: AmbientPrior(spy), "keep_probability=None"),
    "keep_probability of a mask": (
        lambda spy: AmbientPrior(spy, 7, policy="measurement", mask=ones(8, 6)),
        "keep_probability=7",
    ),
    "keep_probability above 1": (lambda spy: AmbientPrior(spy, 1.5), "keep_probability=1.5"),
    "keep_probability in words": (lambda spy: AmbientPrior(spy, "half"), "keep_probability='half'"),
    "policy": (lambda spy: AmbientPrior(spy, 0.5, policy="fixd"), "Did you mean 'fixed'"),
    "mask_channels": (lambda spy: AmbientPrior(spy, 0.5, mask_channels=3), "mask_channels=3"),
    "measurement without a mask": (lambda spy: AmbientPrior(spy, 0.5, policy="measurement"), "without a mask"),
    "mask without measurement": (lambda spy: AmbientPrior(spy, 0.5, mask=ones(8, 6)), "with a mask"),
    "maps without a mask": (lambda spy: AmbientPrior(spy, 0.5, maps=ones(1, 8, 6)), "without a mask"),
    "mask of another size": (lambda spy: AmbientPrior(spy, 0.5).with_mask(ones(8, 7)), r"shape \(8, 7\)"),
    "mask of a line": (lambda spy: AmbientPrior(spy, 0.5).with_mask(ones(6)), r"shape \(6,\)"),
    "mask of three channels": (lambda spy: AmbientPrior(spy, 0.5).with_mask(ones(3, 8, 6)), "channel"),
    "mask of each channel": (lambda spy: AmbientPrior(spy, 0.5).with_mask(rand(2, 8, 6).round()), "channel"),
    "mask of numbers": (lambda spy: AmbientPrior(spy, 0.5).with_mask(0.5 * ones(8, 6)), "besides 0"),
    "real maps": (lambda spy: AmbientPrior(spy, 0.5).with_mask(ones(8, 6), ones(1, 8, 6)), "complex"),
    "no run": (lambda spy: AmbientPrior(spy, 0.5).denoise(ones(2, 2, 8, 6), 1.0), "start a run"),
    "rows": (lambda spy: AmbientPrior(spy, 0.5).with_mask(ones(2, 1, 8, 6)).denoise(ones(3, 2, 8, 6), 1.0), "2 masks"),
    "guidance without keep_probability": (
        lambda spy: generate(AmbientPrior(spy, policy="measurement", mask=ones(8, 6)), 2, guidance=0.1),
        "leave guidance out",
    ),
    "masks of several": (lambda spy: generate(AmbientPrior(spy, 0.5).with_mask(ones(2, 1, 8, 6)), 2), "2 masks"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_nonsense_is_refused_in_one_sentence(case):
    build, expected = REFUSED[case]
    spy = Spy(2, 8, 6)
    with pytest.raises(AmbientSolveError, match=expected) as error:
        build(spy)
    assert one_sentence(error) and not spy.seen


def test_a_mask_of_another_size_is_found_before_the_first_call():
    spy = Spy(1, -1, -1)
    with pytest.raises(AmbientSolveError, match="do not fit") as error:
        generate(AmbientPrior(spy, 0.5).with_mask(ones(8, 6)), 1, size=8)
    assert one_sentence(error) and not spy.seen


def test_hidden_entries_of_a_mask_conditioned_network_are_preconditioned_as_pure_noise():
    config = NetworkConfig(widths=(8,), groups=4, embedding=8, mask_channels=1, keep_probability=0.5)
    conditioned, blind = (
        NetworkPrior(config, "float32"),
        NetworkPrior(replace(config, keep_probability=None), "float32"),
    )
    z, mask = randn(2, 3, 8, 8), (rand(2, 1, 8, 8) > 0.5).float()
    s, data = 0.1, config.sigma_data
    c_skip, c_out = data**2 / (s**2 + data**2), s * data / (s**2 + data**2) ** 0.5
    # A network that answers 0, then 1, everywhere.
    zero = conditioned.denoise(z, s, mask)
    assert torch.allclose(zero, mask * c_skip * z, atol=1e-6)
    for prior in (conditioned, blind):
        torch.nn.init.ones_(prior.network.leave[-1].bias)
    assert torch.allclose(
        conditioned.denoise(z, s, mask) - zero, (mask * c_out + (1 - mask) * data).expand_as(z), atol=1e-6
    )
    # Control: without masks of pixels every entry is that of its level.
    assert torch.allclose(blind.denoise(z, s, mask), c_skip * z + c_out, atol=1e-6)
