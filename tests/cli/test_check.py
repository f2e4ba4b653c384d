"""`ambient-solve check` on a toy scale: its page, its figure, its verdict in words, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from ambient_solve.algorithms.ddnm import DDNM
from ambient_solve.cli.check import OPERATORS, Check, build_operator, figure
from ambient_solve.errors import AmbientSolveError
from ambient_solve.evaluate.exactness import Estimate, Exactness
from ambient_solve.evaluate.simulation import Calibration, Exact
from ambient_solve.evaluate.two_sample import TwoSample
from ambient_solve.evaluate.verdict import Found
from ambient_solve.priors.network import NetworkConfig, NetworkPrior
from helpers import one_sentence

TOY = {"problems": 20, "samples": 9, "draws": 20}


@pytest.fixture(scope="module")
def prior(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("prior")
    torch.manual_seed(0)
    NetworkPrior(NetworkConfig(widths=(8, 16), groups=4)).save(folder, card="# tiny\nRandom weights.\n")
    return folder


def calibration(**changes) -> Calibration:
    """That of an exact sampler, as `check_sampler` makes it."""
    ranks = {name: torch.arange(200) % 20 for name in ("mean", "tarp")}
    exact = Exact(ratios=torch.ones(5, dtype=torch.float64), bias=0.02, two_sample=TwoSample(0.5, 0.5))
    settings = {"problems": 200, "n_samples": 19, "ranks": ranks, "exact": exact, "seconds": 1.0}
    settings |= {"p_values": {"mean": 0.5, "tarp": 0.5, "chi2": 0.5}, "coverage": {0.5: 0.5, 0.9: 0.9}}
    settings |= {"variance_ratio": 1.0, "chi2": 1.0, "chi2_error": 0.01, "network_calls": 25, "vjps": 100}
    return Calibration(**(settings | changes))


def found(gaussian: float = 1.0, mixture: float = 1.0, **sets: Calibration) -> Found:
    """Distances in floors, and calibrations by problem."""
    zero, one = Estimate(0.0, 0.01), Estimate(1.0, 0.01)
    excess, distance = Estimate(0.08 * (gaussian - 1), 0.001), Estimate(0.08 * gaussian, 0.001)
    exactness = Exactness(zero, one, distance, excess, floor=Estimate(0.08, 0.001), z=2.0)
    made = Found("mmps", "Gaussians and mixtures", 19, sets=sets or {"mask": calibration()})
    made.gaussian["mask"], made.mixture[(8, 1)] = exactness, (0.3 * mixture, 0.3)
    return made


def test_the_verdict_says_what_is_wrong_and_where():
    assert found().verdict == "exact within sampling error (200 problems, 19 samples of each)"
    few = found(mask=calibration(problems=20)).verdict
    assert few == "exact within sampling error (20 problems, 19 samples of each, few: small errors would not show)"
    # Odd numbers that no test has rejected are chance.
    assert found(mask=calibration(variance_ratio=0.8)).verdict.startswith("exact within")
    bad = {"mean": 1e-9, "tarp": 0.5, "chi2": 0.5}
    narrow = calibration(p_values=bad, variance_ratio=0.6, coverage={0.5: 0.35, 0.9: 0.78}, chi2=0.3)
    worse = dataclasses.replace(narrow, variance_ratio=0.4)
    assert found(mask=narrow, blur=worse).verdict == (
        "heuristic: overconfident (V/B 0.40, 90 % intervals hold 78 %, blur); fits the noise (misfit 0.30, mask)"
    )
    wide = calibration(p_values=bad, variance_ratio=1.7, chi2=2.0, exact=None)
    assert "too wide (V/B 1.70" in found(mask=wide).verdict and "misses the meas" in found(mask=wide).verdict
    skewed = Exact(ratios=torch.tensor([0.2, 1.0, 1.8]), bias=0.4, two_sample=TwoSample(0.9, 0.0))
    words = found(mask=calibration(p_values=bad, exact=skewed)).verdict
    assert "biased (0.40 posterior deviations, mask)" in words and "0.2 to 1.8 of the exact" in words
    assert "not uniform (p = 1e-09 in mean, mask)" in found(mask=calibration(p_values=bad)).verdict
    assert "far from the posterior (3.3 floors, mask)" in found(gaussian=3.3).verdict
    assert found(gaussian=float("nan")).verdict.startswith("heuristic: far from the posterior (nan")
    elsewhere = found(mixture=7.0).verdict
    assert elsewhere.startswith("exact on Gaussians within sampling error, else heuristic: far from the posterior")
    assert "(7.0 floors with 1 of 8 coordinates measured, mixture)" in elsewhere


def test_many_tests_do_not_make_a_heuristic():
    """One p of .005 among three tests of four problems is chance; the p-value of each problem counts them."""
    sets = {name: calibration(p_values={"mean": 0.005, "tarp": 0.5}) for name in "abcd"}
    assert sets["a"].p == pytest.approx(0.01) and found(**sets).verdict.startswith("exact")
    assert calibration(p_values={"mean": 0.9, "tarp": 0.8}).p == 1.0


def test_the_figure_shows_red_where_a_test_has_rejected():
    red, blue = (torch.tensor(c) for c in ((212, 72, 66), (72, 108, 168)))
    count = lambda image, colour: int((torch.tensor(list(image.getdata())) == colour).all(1).sum())  # noqa: E731
    good = figure(found())
    bad = figure(found(mask=calibration(p_values={"mean": 1e-9, "tarp": 0.5, "chi2": 0.5})))
    assert good.size == bad.size and count(good, red) == 0 < count(bad, red) and count(good, blue) > count(bad, blue)


def test_the_page_of_a_heuristic(capsys, tmp_path):
    code = Check(algorithm="pigdm", out=tmp_path / "new", **TOY).run({"steps": "6"})
    out, err = capsys.readouterr()
    assert code == 0 and err == ""
    for words in ("super-resolution", "distance / floor", "4 of 80 measured", "mixture", "c2st", "Verdict: heuri"):
        assert words in out
    assert max(len(line) for line in out.splitlines() if "Verdict" not in line) <= 132
    assert min(Image.open(tmp_path / "new" / "check.png").size) > 500


def test_json_is_one_object(capsys, tmp_path):
    code = Check(algorithm="ddnm", out=tmp_path, json=True, **(TOY | {"draws": 0})).run({"steps": "4"})
    found = json.loads(capsys.readouterr().out)
    assert (
        code == 0
        and found["algorithm"] == "ddnm"
        and found["verdict"].startswith("heuristic")
        and not found["gaussian"]
    )
    assert set(found["calibration"]) == {"mask", "blur", "super-resolution", "dense", "mixture"}
    row = found["calibration"]["blur"]
    assert len(row["ranks"]["tarp"]) == 20 and len(row["ratios"]) == 36 and row["network_calls"] == 4
    assert row["coverage"].keys() == {f"0.{i}" for i in range(1, 9)}  # 9 samples reach 80 %


def test_numbers_that_json_does_not_have(capsys, tmp_path, monkeypatch):
    made = found(mask=calibration(variance_ratio=float("inf")))
    monkeypatch.setattr(Check, "_analytic", lambda self, options: made)
    assert Check(out=tmp_path, json=True).run() == 0
    assert json.loads(capsys.readouterr().out)["calibration"]["mask"]["variance_ratio"] is None


def test_an_algorithm_that_fails_is_named(capsys, tmp_path, monkeypatch):
    iterate, dense = DDNM.iterate, []

    def diverging(self, prior, likelihood, z, sigmas, streams):
        broken = likelihood.measurements == 12 if dense else True
        for state in iterate(self, prior, likelihood, z, sigmas, streams):
            yield dataclasses.replace(state, z=state.z * torch.nan) if broken else state

    monkeypatch.setattr(DDNM, "iterate", diverging)
    check = Check(algorithm="ddnm", out=tmp_path, **(TOY | {"draws": 0}))
    with pytest.raises(AmbientSolveError, match="NaN or infinite: .* or ddnm diverged"):
        check.run({"steps": "2"})
    dense.append("only this one")
    assert check.run({"steps": "2"}) == 0
    out = capsys.readouterr().out
    assert "Not checked, dense: At the noise level" in out and "super-resolution" in out


def test_a_trained_prior(capsys, prior, tmp_path):
    toy = {"prior": str(prior), "size": 8, "problems": 10, "samples": 3, "out": tmp_path}
    code = Check(operator="gaussian-blur", sigma=0.1, batch=5, **(toy | {"size": 16})).run({"steps": "2"})
    out = capsys.readouterr().out
    assert code == 0 and "gaussian-blur" in out and "log p" not in out and "Gaussian  " not in out
    assert "Verdict: " in out and (tmp_path / "check.png").is_file()
    assert "Denoising: the squared distance of the mean of 3 samples" in out
    assert Check(json=True, **toy).run({"steps": "2"}) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["denoising"]["n_samples"] == 3 and found["denoising"]["excess"] > 0
    assert list(found["calibration"]) == ["inpaint"] and found["calibration"]["inpaint"]["problems"] == 10


@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_measures(name):
    op = build_operator(name, (3, 16, 16), 0.07)
    assert float(op.noise_model.sigma) == pytest.approx(0.07) and op.A(torch.rand(2, 3, 16, 16)).shape[:2] == (2, 3)
    assert float(build_operator(name, (3, 16, 16), 0.0).noise_model.sigma) > 0


REFUSED = {
    "algorithm": ({"algorithm": "mmsp"}, {}, "Did you mean 'mmps'"),
    "knob": ({"algorithm": "dps"}, {"zetta": "1"}, "Did you mean --zeta"),
    "knob of another": ({"algorithm": "pigdm"}, {"zeta": "1"}, "belongs to"),
    "knob out of range": ({}, {"eta": "7"}, "outside"),
    "few problems": ({"problems": 9}, {}, "--problems 9 was given, at least 10"),
    "few samples": ({"samples": 2}, {}, "--samples 2 was given, at least 3"),
    "few draws": ({"draws": 3}, {}, "--draws 3 was given, at least 20"),
    "seed": ({"seed": -1}, {}, "--seed -1"),
    "operator unknown": ({"prior": "photos", "operator": "inpant"}, {}, "Did you mean 'inpaint'"),
    "operator without prior": ({"operator": "inpaint"}, {}, "add --prior"),
    "size without prior": ({"size": 16}, {}, "--size belongs"),
    "sigma": ({"prior": "photos", "sigma": -0.1}, {}, "--sigma -0.1"),
    "prior unknown": ({"prior": "photso"}, {}, "no prior 'photso'"),
    "device": ({"prior": "photos", "device": "gpu"}, {}, "not there"),
    "out is a file": ({"out": Path(__file__)}, {}, "is a file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_ends_in_a_sentence(case, tmp_path):
    settings, texts, expected = REFUSED[case]
    with pytest.raises(AmbientSolveError) as error:
        Check(**({"out": tmp_path / "new"} | settings)).run(texts)
    assert expected in str(error.value) and one_sentence(error) and not (tmp_path / "new").exists()


def test_an_image_that_is_too_small_for_the_operator(prior, tmp_path):
    with pytest.raises(AmbientSolveError, match="spans 13 pixels"):
        Check(prior=str(prior), operator="gaussian-blur", size=8, out=tmp_path).run()
