"""Which method "auto" is for which problem; nothing else in the library decides it."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from ambient_solve.algorithms import ALGORITHMS, DAPS, LATINO, MMPS, TDS
from ambient_solve.algorithms.auto import check_settings, choose, exact, for_scans
from ambient_solve.errors import AmbientSolveError, UnknownKnob
from ambient_solve.process import Additive

EXACT, LEARNED = (SimpleNamespace(sigma_jacobian=level, process=Additive()) for level in (math.inf, 2.0))


def problem(**other):
    given = {"linear": True, "gaussian": True, "measurements": 2, "n_samples": 64, "affine": True, **other}
    return SimpleNamespace(**{"operator_linear": given["linear"] or not given["affine"], **given})


@pytest.mark.parametrize(
    ("prior", "likelihood", "settings", "particles", "wanted", "word"),
    [
        (LEARNED, problem(), {}, True, MMPS(), "moment matching"),
        (LEARNED, problem(linear=False), {}, True, DAPS(), "non-linear operator"),
        (LEARNED, problem(gaussian=False), {}, True, DAPS(), "photon noise"),
        (EXACT, problem(linear=False), {}, True, DAPS(), "non-linear operator"),
        (EXACT, problem(), {}, True, TDS(steps=41), "particles"),
        (EXACT, problem(measurements=1), {}, True, TDS(steps=62), "particles"),
        (EXACT, problem(measurements=3), {}, True, exact({}), "steps taken twice"),
        (EXACT, problem(n_samples=63), {}, True, exact({}), "steps taken twice"),
        (EXACT, problem(), {}, False, exact({}), "steps taken twice"),
        (EXACT, problem(), {"iterations": 5}, True, exact({"iterations": 5}), "steps taken twice"),
        (LEARNED, problem(), {"iterations": 5}, True, MMPS(iterations=5), "moment matching"),
        (LEARNED, problem(affine=False, linear=False), {}, True, LATINO(), "prior of latents"),
        (EXACT, problem(affine=False, linear=False), {"steps": 7}, True, LATINO(steps=7), "prior of latents"),
        (LEARNED, problem(affine=False, linear=False, gaussian=False), {}, True, DAPS(width=1.0), "decoder"),
        (LEARNED, problem(affine=False, linear=False, operator_linear=False), {}, True, DAPS(width=1.0), "decoder"),
    ],
)
def test_the_choice(prior, likelihood, settings, particles, wanted, word):
    algorithm, why = choose(prior, likelihood, settings, particles=particles)
    assert algorithm == wanted and word in why


def test_the_choice_for_exact_priors_differs_from_the_default():
    assert exact({}) != MMPS() and exact({"steps": 9}).steps == 9


def test_scans_have_a_choice_of_their_own():
    assert for_scans("auto") == "proximal" and {for_scans(name) for name in ALGORITHMS} == set(ALGORITHMS)


def test_settings_are_knobs_of_what_may_be_chosen():
    check_settings({"iterations": 5, "ode_steps": 3})
    with pytest.raises(UnknownKnob) as error:
        check_settings({"zeta": 1.0})
    assert (error.value.owner, error.value.name) == ("'auto'", "zeta") and "ode_steps" in error.value.known
    with pytest.raises(AmbientSolveError, match="outside"):
        check_settings({"iterations": 0})
