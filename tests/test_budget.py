"""A budget: never exceeded, used up to one level, the run of these very steps, a sentence where it is too small."""

from __future__ import annotations

import dataclasses
import time

import pytest
import torch

from ambient_solve import ALGORITHMS, MMPS, AmbientSolveError, GaussianPrior, Proximal, Solver, operators
from ambient_solve.budget import BOUNDED, Budget, Cost, _largest, _total
from ambient_solve.knobs import knobs
from ambient_solve.likelihood import Likelihood
from ambient_solve.noise import Streams
from ambient_solve.priors.counted import CountedPrior
from helpers import one_sentence, rand

SHAPE = (1, 4, 4)


class MaskConditioned(GaussianPrior):
    """An analytic prior that is shown what a mask leaves, as `aos` wants it."""

    mask = (rand(*SHAPE, seed=7) > 0.5).float()

    def shown(self, z, cond=None):
        return self.mask * z


def prior(jacobian=float("inf")):
    made = MaskConditioned(torch.zeros(SHAPE), 0.25 * torch.eye(16))
    made.sigma_jacobian = jacobian
    return made


def mask():
    return operators.inpaint(MaskConditioned.mask, sigma=0.1, channels=1)


def settings(name):
    return {"twist": "isotropic"} if name == "tds" else {}


def samples(name):
    return 1 if name == "aos" else 2


def solve(solver, name="mmps", **given):
    op = mask()
    return solver.solve(op.A(rand(1, *SHAPE)), op, n_samples=samples(name), **given)


def spent(result):
    return result.network_calls + result.vjps


@pytest.mark.parametrize("jacobian", [float("inf"), 1.0, 0.0])
@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name != "soft"])
def test_calls_are_kept_and_used(name, jacobian):
    conditioned = prior(jacobian)
    for calls in (97, 150):
        result = solve(Solver(conditioned, name, calls=calls, **settings(name)), name)
        steps = result.settings["steps"]
        assert spent(result) <= calls and f"calls={calls}" in result.settings["plan"]
        if name != "aos":  # which has one level only
            one_more = solve(Solver(conditioned, name, steps=steps + 1, **settings(name)), name)
            assert spent(one_more) > calls, "another level would have fitted"


def test_costly_knobs_count():
    """A plan from the passes of one kind of level alone is wrong here: time travel leaves the last level out."""
    conditioned = prior(1.0)
    for algorithm in (MMPS(time_travel=3, iterations=5), MMPS(covariance_noise=False), Proximal()):
        result = solve(Solver(conditioned, algorithm, calls=100))
        assert (
            spent(result) <= 100 < spent(solve(Solver(conditioned, replace(algorithm, result.settings["steps"] + 1))))
        )
    costs = dict.fromkeys(("at high noise", "at most levels", "down to 0"), Cost(1, 6))
    assert _largest(lambda n: _total(MMPS(), n, conditioned, costs).calls, 100, 2, 1000) == 14


def replace(algorithm, steps):
    return dataclasses.replace(algorithm, steps=steps)


def test_calls_hold_where_levels_may_end_early():
    """The stand-in converges at once, the real covariance may not: planned without the rule that ends a level."""
    spectrum = torch.linspace(0.01, 4, 16).diag()
    conditioned = MaskConditioned(torch.zeros(SHAPE), spectrum)
    assert BOUNDED["tolerance"] == 0.0
    easy = solve(Solver(conditioned, "mmps", tolerance=0.5, iterations=6, calls=100))
    hard = solve(Solver(conditioned, "mmps", iterations=6, calls=100))
    assert easy.settings["steps"] == hard.settings["steps"] and spent(easy) < spent(hard) <= 100


def test_the_run_is_that_of_these_steps_and_the_plan_costs_no_call():
    class Counting(MaskConditioned):
        calls = 0

        def denoise_vjp(self, z, sigma, cond=None, *, once=False):
            type(self).calls += 1
            return super().denoise_vjp(z, sigma, cond, once=once)

    counting = Counting(torch.zeros(SHAPE), 0.25 * torch.eye(16))
    planned = solve(Solver(counting, "mmps", calls=60), seed=3)
    assert Counting.calls == planned.network_calls
    plain = solve(Solver(counting, "mmps", steps=planned.settings["steps"]), seed=3)
    assert torch.equal(planned.samples, plain.samples) and torch.equal(planned.chi2, plain.chi2)
    assert "plan" not in plain.settings and planned.network_calls == plain.network_calls
    op = mask()
    y = op.A(rand(1, *SHAPE))
    states = list(Solver(counting, "mmps", calls=60).stream(y, op, n_samples=2, seed=3))
    assert len(states) == states[-1].steps == planned.settings["steps"]
    parts = Solver(counting, "mmps", calls=60).solve(y, op, n_samples=5, at_once=2, seed=3)
    assert parts.settings["steps"] == planned.settings["steps"]
    torch.testing.assert_close(parts.samples[:, :2], planned.samples, rtol=1e-4, atol=1e-4)


class Clock:
    """A clock that only passes of the network move, by 10 ms forward and 30 ms backward."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def timed(self, start=0.0):
        clock = self

        class Slow(MaskConditioned):
            first = start

            def denoise_vjp(self, z, sigma, cond=None, *, once=False):
                clock.now += 0.01 + self.first
                self.first = 0.0
                z0, vjp = super().denoise_vjp(z, sigma, cond, once=once)

                def slow(v):
                    clock.now += 0.03
                    return vjp(v)

                return z0, slow

        return Slow(torch.zeros(SHAPE), 0.25 * torch.eye(16))


def test_seconds(monkeypatch):
    """Of 10 s the trial takes 3 levels (one untimed) of .13 s, a tenth is kept back: (10 - .39) .9 / .13 = 66.5."""
    clock = Clock(monkeypatch)
    began = clock.now
    result = solve(Solver(clock.timed(), "mmps", seconds=10))
    assert result.settings["steps"] == 66 and result.seconds == pytest.approx(66 * 0.13)
    assert clock.now - began == pytest.approx(69 * 0.13) and clock.now - began < 10
    assert "3 forward + 12 backward" in result.settings["plan"] and "steps=66" in result.settings["plan"]
    # What only the first call takes is not multiplied by the number of levels, but it is taken off the budget.
    began = clock.now
    assert solve(Solver(clock.timed(start=2.0), "mmps", seconds=10)).settings["steps"] == int(7.61 * 0.9 / 0.13)
    assert clock.now - began < 10
    # Three parts share the seconds.
    op, began = mask(), clock.now
    y = op.A(rand(1, *SHAPE))
    parts = Solver(clock.timed(), "mmps", seconds=10).solve(y, op, n_samples=5, at_once=2)
    assert parts.settings["steps"] == 22 and 8 < clock.now - began < 10


def test_two_levels_are_the_least(monkeypatch):
    with pytest.raises(AmbientSolveError, match="needs calls=10 for the least of 2 noise levels") as error:
        solve(Solver(prior(), "mmps", calls=9))
    assert one_sentence(error)
    assert solve(Solver(prior(), "mmps", calls=10)).settings["steps"] == 2
    assert solve(Solver(prior(), "aos", calls=1), "aos").settings["steps"] == 1
    clock = Clock(monkeypatch)
    with pytest.raises(AmbientSolveError, match="needs seconds=") as error:
        solve(Solver(clock.timed(), "mmps", seconds=0.5))
    assert one_sentence(error)
    enough = float(str(error.value).split("needs seconds=")[1].split(" ")[0])
    assert 0.65 < enough < 0.9
    assert solve(Solver(clock.timed(), "mmps", seconds=enough)).settings["steps"] >= 2


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"seconds": 5, "calls": 40}, "one of the two"),
        ({"seconds": 0}, "above 0"),
        ({"seconds": float("nan")}, "above 0"),
        ({"seconds": float("inf")}, "above 0"),
        ({"seconds": "5"}, "above 0"),
        ({"seconds": True}, "above 0"),
        ({"calls": 0}, "whole number"),
        ({"calls": 40.0}, "whole number"),
        ({"calls": True}, "whole number"),
        ({"calls": 40, "steps": 25}, "chooses steps"),
        ({"calls": 40, "algorithm": "mmps", "steps": 25}, "chooses steps"),
        ({"calls": 40, "algorithm": MMPS(steps=9)}, "chooses steps"),
    ],
)
def test_bad_budgets(given, words):
    with pytest.raises(AmbientSolveError, match=words) as error:
        Solver(prior(), **given)
    assert one_sentence(error)


def test_auto_is_planned_too_and_an_object_keeps_its_other_knobs():
    auto = solve(Solver(prior(), calls=100))
    assert auto.settings["algorithm"] == "mmps" and auto.settings["time_travel"] == 1 and spent(auto) <= 100
    kept = solve(Solver(prior(), Proximal(zeta=0.3), calls=30))
    assert kept.settings["zeta"] == 0.3 and kept.settings["steps"] == 30


def test_every_knob_of_the_registry_that_ends_levels_early_is_known():
    names = {k.name for cls in ALGORITHMS.values() for k in knobs(cls)}
    assert BOUNDED.keys() <= names
    likelihood = Likelihood(torch.zeros(1, *SHAPE), mask(), prior())
    plan = Budget(calls=20).plan(Proximal(), CountedPrior(prior()), likelihood, Streams([0], 1), 1, 0.0)
    assert plan.algorithm == Proximal(steps=20)
