"""A wrapped prior hands on whatever `Prior` has: the list is read from the class, so that nothing new is forgotten."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import nn

from ambient_solve.priors.ambient import AmbientPrior
from ambient_solve.priors.base import Prior
from ambient_solve.priors.counted import CountedPrior
from ambient_solve.priors.tiled import TiledPrior
from ambient_solve.priors.wrapped import WrappedPrior
from helpers import rand

OWN = ("forward",)
"""Not handed on: it calls the wrapper's own `denoise`."""


def public(base: type[Prior]) -> dict[str, Any]:
    """Name and definition of what the class and `Prior` below it add to a module; None for a bare attribute."""
    found: dict[str, Any] = {}
    for kind in reversed(base.__mro__[: base.__mro__.index(nn.Module)]):
        found |= dict.fromkeys(inspect.get_annotations(kind))
        found |= {name: what for name, what in vars(kind).items() if callable(what) or isinstance(what, property)}
    return {name: what for name, what in found.items() if not name.startswith("_") and name not in OWN}


def arguments(method: Any) -> tuple[list[object], dict[str, object]]:
    """One object of its own for each parameter of `method`, by place or by name."""
    parameters = list(inspect.signature(method).parameters.values())[1:]
    named = {p.name: object() for p in parameters if p.kind is p.KEYWORD_ONLY}
    return [object() for p in parameters if p.name not in named], named


def recorder(base: type[Prior]) -> Prior:
    """A prior that answers everything with an object of its own, beside what it was given."""

    def method(answer: object) -> Any:
        return lambda self, *given, **named: (answer, given, named)

    def value(answer: object) -> property:
        return property(lambda self: answer)

    body = {name: method(object()) if callable(what) else value(object()) for name, what in public(base).items()}
    return type("Recorder", (base,), body)()


def not_handed_on(base: type[Prior], wrapper: type[WrappedPrior]) -> set[str]:
    """What of `base` a wrapper answers in another way than the prior inside, or with other arguments."""
    inner = recorder(base)
    wrapped, wrong = wrapper(inner), set()
    for name, what in public(base).items():
        if callable(what):
            given, named = arguments(what)
            same = getattr(wrapped, name)(*given, **named) == getattr(inner, name)(*given, **named)
        else:
            same = getattr(wrapped, name, None) is getattr(inner, name)
        wrong |= set() if same else {name}
    return wrong


def test_everything_is_handed_on():
    assert {"shape", "sigma_max", "sigma_jacobian", "affine", "device", "denoise", "noise"} < set(public(Prior))
    assert not_handed_on(Prior, WrappedPrior) == set()


def test_control_what_a_prior_learns_and_the_wrapper_does_not_is_found():
    class More(Prior):
        level: float = 1.0

        def novel(self, z):
            return z

        @property
        def news(self):
            return 1

    class Wrapped(WrappedPrior, More):
        def encode(self, x):
            return self.inner.encode(None)

    assert not_handed_on(More, Wrapped) == {"level", "novel", "news", "encode"}


def test_a_derivative_of_another_denoiser_is_refused():
    with pytest.raises(TypeError, match="together"):
        type("Half", (WrappedPrior,), {"denoise": lambda self, z, sigma, cond=None: 2 * z})


class Rotated(Prior):
    """Colour pictures whose space, device and noise are nothing that another prior would guess."""

    shape, sigma_min, sigma_max, sigma_data, sigma_jacobian = (3, -1, -1), 0.03, 7.0, 0.4, 2.0
    device = torch.device("meta")
    affine = (3.0, 0.25)

    def denoise(self, z, sigma, cond=None):
        return z / 2

    def decode(self, z):
        return 3 * z.flip(1) + 0.25

    def encode(self, x):
        return (x - 0.25).flip(1) / 3

    def noise(self, shape, streams):
        return torch.full(shape, 7.0)


@pytest.mark.parametrize(
    "wrap",
    [
        CountedPrior,
        lambda inner: TiledPrior(inner, 16, 4),
        lambda inner: AmbientPrior(inner, 1.0, policy="per_call"),
    ],
    ids=["counted", "tiled", "ambient"],
)
def test_every_wrapper_lives_in_the_space_of_the_prior_inside(wrap):
    inner, x = Rotated(), rand(2, 3, 8, 8)
    wrapped = wrap(inner)
    for name in ("shape", "sigma_min", "sigma_max", "sigma_data", "affine", "device"):
        assert getattr(wrapped, name) == getattr(inner, name), name
    assert torch.equal(wrapped.decode(x), inner.decode(x)) and torch.equal(wrapped.encode(x), inner.encode(x))
    assert torch.equal(wrapped.noise((2, 3, 8, 8), None), torch.full((2, 3, 8, 8), 7.0))
