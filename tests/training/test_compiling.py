"""Compiling the network that is trained: where it is chosen, that it changes nothing but the speed, and its refusal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("accelerate", reason="training needs accelerate: pip install 'ambient-solve[train]'")

from ambient_solve.errors import AmbientSolveError
from ambient_solve.objectives.masked import Masked
from ambient_solve.priors.network import NetworkConfig, NetworkPrior
from ambient_solve.training.compiling import CACHE, compiles
from ambient_solve.training.config import Config
from ambient_solve.training.weights import averaged
from helpers import one_sentence, randn

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class Compiler:
    """In place of torch.compile: notes that it was asked, and works or does not."""

    def __init__(self, works: bool) -> None:
        self.works, self.asked = works, 0

    def __call__(self, function):
        self.asked += 1
        if not self.works:
            raise RuntimeError("no compiler was found\nand a long trace")
        return function


@pytest.mark.parametrize(
    ("settings", "device", "processes", "wanted"),
    [
        ({"images": 200_000}, CPU, 1, True),
        ({"images": 199_999}, CPU, 1, False),
        ({"images": 200_000}, CPU, 2, False),
        ({"images": 200_000}, CUDA, 1, False),
        ({"images": 200_000, "objective": Masked()}, CPU, 1, False),
        ({"images": 200_000, "compile": "never"}, CPU, 1, False),
        ({"images": 64, "objective": Masked(), "compile": "always"}, CPU, 2, True),
    ],
)
def test_compiled_where_it_was_measured_to_pay_or_is_asked_for(monkeypatch, settings, device, processes, wanted):
    compiler = Compiler(works=True)
    monkeypatch.setattr(torch, "compile", compiler)
    assert compiles(Config(out="x", **settings), device, processes) is wanted
    assert compiler.asked == wanted, "the compiler is tried where it will be used, and only there"


def test_without_a_compiler_auto_trains_as_before_and_always_says_so(monkeypatch):
    monkeypatch.setattr(torch, "compile", Compiler(works=False))
    assert compiles(Config(out="x", images=200_000), CPU, 1) is False
    with pytest.raises(AmbientSolveError, match=r"no compiler was found\)\. Install a C\+\+ compiler") as error:
        compiles(Config(out="x", compile="always"), CPU, 1)
    assert one_sentence(error)


@pytest.fixture
def prior():
    torch.manual_seed(0)
    torch._dynamo.reset()
    prior = NetworkPrior(NetworkConfig(widths=(8,), groups=4, embedding=16), "float32").train()
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return prior


def test_a_compiled_network_has_the_same_gradients(prior):
    if not compiles(Config(out="x", images=200_000), CPU, 1):
        pytest.skip("There is no C++ compiler.")
    prior.set_precision("float32")  # bfloat16 rounds in another order where operations are fused
    z, sigma = randn(2, 3, 8, 8, seed=1), torch.tensor([0.3, 2.0])

    def gradients() -> list[torch.Tensor]:
        (prior(z, sigma) - z).square().mean().backward()
        found = [p.grad.clone() for p in prior.parameters()]
        prior.zero_grad()
        return found

    plain = gradients()
    prior.network.compile()
    for a, b in zip(plain, gradients(), strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-5)


@torch.no_grad()
def test_nothing_is_compiled_for_the_average(prior):
    prior.network.compile(backend="eager")
    graphs, large = torch._dynamo.utils.counters["stats"], randn(5, 3, 16, 16, seed=2)
    prior(large[:2], 1.0)
    made = graphs["unique_graphs"]
    with averaged(prior, {k: v.clone() for k, v in prior.state_dict().items()}):
        prior(large, 1.0)
    assert graphs["unique_graphs"] == made > 0
    prior(large, 1.0)
    assert graphs["unique_graphs"] > made, "control: outside of it a batch of another size is compiled anew"


ASKS = """
import sys, torch
from ambient_solve.training.compiling import compiles
from ambient_solve.training.config import Config
torch.compile = lambda function: function
compiles(Config(out="x", compile="always"), torch.device("cpu"), 1)
compiles(Config(out="x", compile="always"), torch.device("cpu"), 1)
import os; print(os.environ["TORCHINDUCTOR_CACHE_DIR"])
"""


@pytest.mark.parametrize("given", [None, "mine"])
def test_code_for_vectors_of_one_width_is_never_found_for_another(tmp_path, given):
    """torch finds compiled code without asking for the width, and code for narrow vectors overruns at a wide one."""

    def folder(capability: str) -> Path:
        environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
        environment.pop(CACHE, None)
        if given:
            environment[CACHE] = str(tmp_path / given)
        done = subprocess.run([sys.executable, "-c", ASKS], env=environment, capture_output=True, text=True, check=True)
        return Path(done.stdout.strip())

    plain, native = folder("default"), torch.backends.cpu.get_cpu_capability().lower()
    assert plain.name == "default", "asked twice, and one folder further down"
    if native != "default":
        assert folder(native) == plain.parent / native
    if given:
        assert plain.parent == tmp_path / given
