"""Verdicts: which numbers are far, what they are taken for, and that thresholds, files and words agree."""

from __future__ import annotations

import json
import math

import pytest

from ambient_solve.verdict import judge, words
from ambient_solve.verdict.judge import FAR, Verdict, beside_kernel, concluded, findings, ranges_of, thresholds
from ambient_solve.verdict.words import CAUSES, DOUBTFUL, RIGHT, WRONG

UNIT = (-1.0, 0.0, 1.0)
RANGES = {
    "misfit": (0.5, 1.0, 2.0),
    "width": (-1.0, 0.0, 1.0),
    "fitted noise": (-1.0, 0.0, 1.0),
    "rim": (-1.0, 0.0, 1.0),
    "right 1": (-0.1, 0.0, 0.1),
}
FINE = {"misfit": 1.0, "width": 0.0, "fitted noise": 0.0, "rim": 0.5, "right 1": 0.05}


def verdict(family="blur", harmless=(), **numbers) -> Verdict:
    return concluded(FINE | {name.replace("_", " "): v for name, v in numbers.items()}, RANGES, family, 1e6, harmless)


def test_numbers_inside_their_ranges_are_right():
    fine = verdict()
    assert fine.level == RIGHT and fine.causes == () and fine.sentence == "" and fine.badness == 0
    assert all(verdict(misfit=m).level == RIGHT for m in (0.51, 1.0, 1.99))
    assert fine.numbers == FINE and fine.limits["misfit"] == (0.5, 2.0)


def test_a_number_is_doubtful_outside_and_wrong_far_outside():
    assert verdict(width=1.01).level == DOUBTFUL
    assert verdict(width=-1.01).level == DOUBTFUL
    assert verdict(width=FAR + 0.01).level == WRONG
    assert verdict(misfit=2.1).level == DOUBTFUL and verdict(misfit=2.0**FAR * 1.01).level == WRONG
    assert verdict(misfit=math.nan).level == WRONG and verdict(misfit=math.inf).level == WRONG


@pytest.mark.parametrize(
    ("family", "numbers", "key"),
    [
        ("denoise", {"misfit": 4.1}, words.NOISE_HIGHER),
        ("denoise", {"misfit": 0.2}, words.NOISE_LOWER),
        ("blur", {"width": -4.0}, words.BLUR_NARROWER),
        ("blur", {"width": 4.0}, words.BLUR_WIDER),
        ("inpaint", {"rim": 5.0}, words.MASK),
        ("denoise", {"right_1": 0.5}, words.DAMAGE),
        ("denoise", {"fitted_noise": -4.0}, words.DAMAGE),
    ],
)
def test_the_statistic_that_is_farthest_names_the_cause(family, numbers, key):
    found = verdict(family, **numbers)
    assert found.keys[0] == key and found.advice == CAUSES[key].advice
    assert found.causes == ((CAUSES[key].words,) if CAUSES[key].words else ())
    assert found.sentence.startswith(found.headline) and found.sentence.endswith(found.advice)


def test_detail_that_a_wide_blur_does_not_explain_is_not_taken_for_noise():
    assert verdict(misfit=4.1, exponent=0.3).keys == (words.BLUR_NARROWER,)
    assert verdict(misfit=4.1, exponent=0.9).keys == (words.NOISE_HIGHER,)
    assert verdict("denoise", misfit=4.1, exponent=0.3).keys == (words.NOISE_HIGHER,)
    assert verdict("inpaint", misfit=4.1).keys == (words.DAMAGE,) and verdict("inpaint", misfit=0.1).keys != ()


def test_advice_has_the_number_that_the_measurement_says():
    wide = verdict(width=4.0, exponent=2.25)
    assert wide.advice == "State a width of the blur about 1.5 times as large."
    assert "0.5 times" in verdict(width=-4.0, exponent=0.25).advice
    assert "2.0 times" in verdict(misfit=4.1, noise=4.0).advice and "estimate" in verdict(misfit=4.1).advice
    against = verdict(width=4.0, exponent=0.5), verdict(width=-4.0, exponent=-0.1)
    assert all("times" not in found.advice for found in against), "a number that says the opposite is none"


def test_causes_that_are_as_far_are_named_too_and_no_others():
    both = verdict(fitted_noise=3.0, misfit=2.0**2.8)
    assert both.keys == (words.BLUR_WIDER, words.NOISE_HIGHER) and len(both.causes) == 2
    assert verdict(fitted_noise=3.0, misfit=2.0**1.2).keys == (words.BLUR_WIDER,)
    assert verdict(fitted_noise=3.0, right_1=0.25).keys == (words.BLUR_WIDER,), "a named cause says more"


def test_a_telling_statistic_names_the_cause_alone():
    ranges = RANGES | {"noise": (0.8, 1.0, 1.25)}
    numbers = FINE | {"width": -1.5, "noise": 1.0, "misfit": 40.0, "right 1": 0.9}
    found = concluded(numbers, ranges, "blur", 1e6)
    assert found.keys == (words.BLUR_NARROWER,) and found.by == "right 1" and found.level == WRONG
    found = concluded(numbers | {"width": 0.0, "noise": 4.0, "right 1": 0.0}, ranges, "blur", 1e6)
    assert found.keys == (words.NOISE_HIGHER,)


def test_what_is_harmless_is_not_said():
    assert verdict(misfit=0.2, harmless=(words.NOISE_LOWER,)).level == RIGHT
    both = verdict(misfit=0.2, width=-1.2, harmless=(words.NOISE_LOWER,))
    assert both.keys == (words.BLUR_NARROWER,) and both.level == DOUBTFUL


def test_few_entries_leave_room_for_their_sampling_deviation():
    numbers = FINE | {"right 1": 0.13}
    assert [f.statistic for f in findings(numbers, RANGES, judge.CALIBRATED)] == ["right 1"]
    assert findings(numbers, RANGES, 1000) == [] and findings(FINE | {"right 1": 0.9}, RANGES, 1000)
    assert findings(FINE | {"misfit": 2.2}, RANGES, 1000) == [] and findings(FINE | {"misfit": 2.2}, RANGES)


def test_the_kernel_is_taken_out_of_a_correlation():
    kernel, extra = [0.8, 0.7, 0.5, 0.5, 0.3, 0.2], 0.05
    fitted = beside_kernel([-0.1 * k for k in kernel], kernel)
    assert fitted.pop("fitted noise") == pytest.approx(0.1) and max(map(abs, fitted.values())) < 1e-12
    other = beside_kernel([-0.1 * k + extra * (i == 2) for i, k in enumerate(kernel)], kernel)
    assert max(other, key=other.get) in ("falling", "fitted noise") and other["falling"] > 0.7 * extra
    flat = beside_kernel([0.1] * 6, [0.0] * 6)
    assert "fitted noise" not in flat and set(flat.values()) == {0.1}


def test_a_record_comes_back():
    for found in (verdict(), verdict(misfit=math.nan), verdict(fitted_noise=3.0, misfit=6.0)):
        again = Verdict.from_record(json.loads(json.dumps(found.record())))
        assert again.level == found.level and again.causes == found.causes and again.sentence == found.sentence
        assert again.limits == found.limits and again.badness == found.badness


def test_where_nothing_was_measured_the_misfit_alone_counts():
    assert ranges_of("", "mmps") == {"misfit": (*judge.FIT[:1], 1.0, *judge.FIT[1:])}
    assert judge.judge([0.9, 1.1], None, 0, "MRI", "mmps").level == RIGHT
    assert judge.judge([9.0], None, 0, "MRI", "mmps").level == WRONG


def test_every_family_was_measured_with_every_word():
    measured = thresholds()["ranges"]
    assert set(measured) == {*judge.FAMILIES.values(), judge.DIRECTED}
    for family, algorithms in measured.items():
        for algorithm, ranges in algorithms.items():
            assert set(ranges) <= set(words.STATISTICS), (family, algorithm)
            assert all(low < middle < high for low, middle, high in ranges.values())
        other = ranges_of(family, "an algorithm that was not measured")
        assert all(
            other[name][0] <= one[name][0] and other[name][2] >= one[name][2]
            for one in algorithms.values()
            for name in other
        )
    keys = {words.cause(family, name, side) for family in measured for name in words.STATISTICS for side in (-1, 1)}
    assert keys == set(CAUSES)


def test_causes_are_sentences():
    for cause in CAUSES.values():
        assert all(text == "" or (text.endswith(".") and text[0].isupper()) for text in cause) and cause.advice
