"""A seed gives the same problems and the same samples, whatever instructions and libraries a machine has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

SETTINGS = {
    "no vector instructions": {"ATEN_CPU_CAPABILITY": "default"},
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "another LAPACK path": {"MKL_CBWR": "COMPATIBLE", "ATEN_CPU_CAPABILITY": "default"},
    "two threads": {"OMP_NUM_THREADS": "2"},
}
SCRIPT = """
import json, torch
from ambient_solve import MMPS, TDS, NetworkConfig, NetworkPrior, Proximal, Solver, generate, operators
from ambient_solve.evaluate.distances import mcgdiff_problem, principal_axes
from ambient_solve.evaluate.exactness import gaussian_operator, gaussian_prior
from ambient_solve.evaluate.two_sample import c2st
from ambient_solve.operators.coils import compress
from ambient_solve.priors.gaussian import dense


def gen(seed):
    return torch.Generator().manual_seed(seed)

prior, op = gaussian_prior(), gaussian_operator("blur")
x = prior.decode(prior.sample(2, gen(0)))
y = op.A(x)
posterior = prior.posterior(dense(op, prior.shape), y[0], 0.05)
mixture = mcgdiff_problem(8, 2, 0)
torch.manual_seed(0)
network = NetworkPrior(NetworkConfig(channels=1, widths=(8, 16), groups=4, embedding=8), "float32")
for p in network.parameters():
    p.data = 0.1 * torch.randn(p.shape, generator=gen(p.numel()))
network.eval().requires_grad_(False)
mask = operators.inpaint_random((1, 16, 16), missing=0.5, sigma=0.05)
hidden = mask.A(torch.rand(1, 1, 16, 16, generator=gen(1)))
found = {
    "truth": x,
    "posterior": posterior.sample(2, gen(1)),
    "matrix": mixture.A,
    "mixture": mixture.posterior.sample(3, gen(1)),
    "axes": principal_axes(gaussian_prior().covariance)[1].abs(),
    "mmps": Solver(prior, MMPS(steps=12)).solve(y, op, n_samples=2).samples,
    "tds": Solver(prior, TDS(steps=12)).solve(y, op, n_samples=4).samples,
    "network": Solver(network, Proximal(steps=8)).solve(hidden, mask, n_samples=2).samples,
    "generated": generate(network, 2, size=16),
    "coils": torch.view_as_real(compress(torch.randn(6, 8, 8, dtype=torch.complex64, generator=gen(2)), 3)),
    "c2st": torch.tensor([c2st(torch.randn(60, 4, generator=gen(3)), torch.randn(60, 4, generator=gen(4))).accuracy]),
    "blur": operators.motion_blur((3, 24, 24)).A(torch.rand(1, 3, 24, 24, generator=gen(5)))[:, :, ::6, ::6],
}
print(json.dumps({name: tensor.flatten().tolist()[:200] for name, tensor in found.items()}))
"""


def run(settings: dict[str, str]) -> dict[str, torch.Tensor]:
    root = str(Path(__file__).parents[2])
    env = {k: v for k, v in os.environ.items() if k not in ("ATEN_CPU_CAPABILITY", "MKL_CBWR")}
    env |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": root} | settings
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return {name: torch.tensor(values) for name, values in json.loads(done.stdout).items()}


@pytest.fixture(scope="module")
def here():
    return run({})


@pytest.mark.parametrize("name", SETTINGS)
def test_another_machine_draws_the_same(name, here):
    there = run(SETTINGS[name])
    away = {key: float((there[key] - here[key]).abs().max()) for key in here}
    print(f"\n{name}, largest difference:", {key: f"{value:.1e}" for key, value in away.items()})
    assert max(away.values()) < 1e-3


def test_other_noise_would_show(here):
    """The control: what is compared depends on the noise."""
    one, other = here["mmps"].reshape(2, 2, 36)[0]
    assert float((one - other).abs().max()) > 0.1
