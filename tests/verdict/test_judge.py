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
    "kernel": (-1.0, 0.0, 1.0),
    "fitted noise": (-1.0, 0.0, 1.0),
    "rim": (-1.0, 0.0, 1.0),
    "right 1": (-0.1, 0.0, 0.1),
}
FINE = {"misfit": 1.0, "kernel": 0.0, "fitted noise": 0.0, "rim": 0.5, "right 1": 0.05}


def verdict(family="blur", harmless=(), **numbers) -> Verdict:
    return concluded(FINE | {name.replace("_", " "): v for name, v in numbers.items()}, RANGES, family, 1e6, harmless)


def test_numbers_inside_their_ranges_are_right():
    fine = verdict()
    assert fine.level == RIGHT and fine.causes == () and fine.sentence == "" and fine.badness == 0
    assert all(verdict(misfit=m).level == RIGHT for m in (0.51, 1.0, 1.99))
    assert fine.numbers == FINE and fine.limits["misfit"] == (0.5, 2.0)


def test_a_number_is_doubtful_outside_and_wrong_far_outside():
    assert verdict(fitted_noise=1.01).level == DOUBTFUL
    assert verdict(fitted_noise=-1.01).level == DOUBTFUL
    assert verdict(fitted_noise=FAR + 0.01).level == WRONG
    assert verdict(misfit=2.1).level == DOUBTFUL and verdict(misfit=2.0**FAR * 1.01).level == WRONG
    assert verdict(misfit=math.nan).level == WRONG and verdict(misfit=math.inf).level == WRONG


@pytest.mark.parametrize(
    ("family", "numbers", "key"),
    [
        ("denoise", {"misfit": 4.1}, words.NOISE_HIGHER),
        ("denoise", {"misfit": 0.2}, words.NOISE_LOWER),
        ("blur", {"kernel": 4.0}, words.NO_BLUR),
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


ROUND = {"kernel": 4.0, "better width": 1.52, "narrower": 1.0}
LINE = {"kernel": 4.0, "better length": 14.2, "better angle": 28.6, "narrower": 1.0}
STATED = {"stated length": 15.0, "stated angle": 0.0}


@pytest.mark.parametrize(
    ("family", "numbers", "key", "flags"),
    [
        ("blur", ROUND, words.BLUR_NARROWER, "--width 1.5 or --width auto"),
        ("blur", ROUND | {"narrower": 0.0}, words.BLUR_WIDER, "--width 1.5 or --width auto"),
        ("blur", {"kernel": 4.0, "narrower": 1.0}, words.NO_BLUR, "--task denoise --sigma auto"),
        (
            *("blur", LINE, words.MOVEMENT),
            "--task motion-blur --length 14 --angle 29 or --task motion-blur --length auto --angle auto",
        ),
        (
            *("directed blur", ROUND | STATED, words.ROUND_BLUR),
            "--task gaussian-blur --width 1.5 or --task gaussian-blur --width auto",
        ),
        (
            *("directed blur", LINE | STATED, words.DIRECTION),
            "--length 14 --angle 29 or --length auto --angle auto",
        ),
        (
            *("directed blur", LINE | STATED | {"stated angle": 20.0}, words.SHORTER),
            "--length 14 --angle 29 or --length auto --angle auto",
        ),
        (
            *("directed blur", LINE | {"stated length": 9.0, "stated angle": 205.0}, words.LONGER),
            "--length 14 --angle 29 or --length auto --angle auto",
        ),
        (
            *("directed blur", ROUND | STATED | {"better width": 0.5, "sharp": 1.0}, words.KERNEL),
            "--task motion-blur --length auto --angle auto",
        ),
        (
            *("directed blur", LINE, words.KERNEL),
            "--task motion-blur --length 14 --angle 29 or --task motion-blur --length auto --angle auto",
        ),
    ],
)
def test_the_blur_that_fits_better_is_named_with_its_numbers(family, numbers, key, flags):
    found = verdict(family, **numbers)
    assert found.level == WRONG and found.keys == (key,) and found.flags == flags
    assert all(f"{value:g}" in found.advice for value in found.suggested.values())
    assert verdict(family, **numbers | {"kernel": 0.5}).level == RIGHT, "evidence that right statements have too"
    assert verdict(family, **numbers | {"kernel": -40.0}).level == RIGHT, "no other blur fits"


def test_options_are_those_of_the_command_line():
    from ambient_solve.restore.tasks import make_task

    for key in CAUSES:
        for numbers in ({}, ROUND, LINE, {"sigma": 0.1, "noise": 4.0}, {"sigma": 0.1, "noise": 0.25}):
            for given in words.flags(key, words.suggested(key, numbers)).split(", ")[0].split(" or "):
                parts = given.split()
                options = dict(zip([p.removeprefix("--") for p in parts[::2]], parts[1::2], strict=True))
                task = options.pop("task", None)
                for name, value in options.items():
                    where = {"width": "gaussian-blur", "sigma": "denoise", "quality": "jpeg"}.get(name, "motion-blur")
                    number = value if value == "auto" else int(value) if name == "quality" else float(value)
                    assert getattr(make_task(task or where, **{name: number}), name) == number


def test_advice_has_the_number_that_the_measurement_says():
    higher = verdict(misfit=4.1, noise=4.0, sigma=0.02)
    assert higher.suggested == {"sigma": 0.04} and "0.04" in higher.advice
    assert higher.flags == "--sigma 0.04 or --sigma auto"
    lower = verdict("denoise", misfit=0.25, sigma=0.2)
    assert lower.keys == (words.NOISE_LOWER,) and lower.suggested == {"sigma": 0.1}
    against = verdict(misfit=4.1, noise=0.5, sigma=0.02)
    assert against.suggested == {} and against.flags == "--sigma auto", "a number that says the opposite is none"
    assert verdict("inpaint", rim=5.0).flags == "" and verdict().flags == ""


def test_causes_that_are_as_far_are_named_too_and_no_others():
    both = verdict(fitted_noise=3.0, misfit=2.0**2.8)
    assert both.keys == (words.BLUR_WIDER, words.NOISE_HIGHER) and len(both.causes) == 2
    assert verdict(fitted_noise=3.0, misfit=2.0**1.2).keys == (words.BLUR_WIDER,)
    assert verdict(fitted_noise=3.0, right_1=0.25).keys == (words.BLUR_WIDER,), "a named cause says more"


def test_a_telling_statistic_names_the_cause_alone():
    ranges = RANGES | {"noise": (0.8, 1.0, 1.25)}
    numbers = FINE | ROUND | {"kernel": 1.5, "noise": 1.0, "misfit": 40.0, "right 1": 0.9}
    found = concluded(numbers, ranges, "blur", 1e6)
    assert found.keys == (words.BLUR_NARROWER,) and found.by == "right 1" and found.level == WRONG
    found = concluded(numbers | {"kernel": 0.0, "noise": 4.0, "right 1": 0.0}, ranges, "blur", 1e6)
    assert found.keys == (words.NOISE_HIGHER,)


def test_what_is_harmless_is_not_said():
    assert verdict(misfit=0.2, harmless=(words.NOISE_LOWER,)).level == RIGHT
    both = verdict(**{"misfit": 0.2} | ROUND | {"kernel": 1.2}, harmless=(words.NOISE_LOWER,))
    assert both.keys == (words.BLUR_NARROWER,) and both.level == DOUBTFUL


def test_nobody_is_told_that_faint_noise_is_lower():
    assert verdict(misfit=0.2, sigma=0.005).level == RIGHT
    assert verdict(misfit=0.2, sigma=0.02).level == WRONG and verdict(misfit=9.0, sigma=0.005).level == WRONG


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
    for found in (verdict(), verdict(misfit=math.nan), verdict(fitted_noise=3.0, misfit=6.0), verdict(**ROUND)):
        again = Verdict.from_record(json.loads(json.dumps(found.record())))
        assert again.level == found.level and again.causes == found.causes and again.sentence == found.sentence
        assert again.limits == found.limits and again.badness == found.badness and again.flags == found.flags


def test_where_nothing_was_measured_the_misfit_alone_counts():
    assert ranges_of("", "mmps") == {"misfit": (*judge.FIT[:1], 1.0, *judge.FIT[1:])}
    assert judge.judge([0.1], None, 0, "Several", "mmps").level == WRONG
    assert judge.judge([0.1], None, 0, "Several", "proximal").level == RIGHT, "it fits the noise where that is low"
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
    every = [(f, name, side) for f in measured for name in words.STATISTICS for side in (-1, 1)]
    keys = {words.cause(*one, {}) for one in every}
    assert keys | {*words.BLURS} == set(CAUSES) and keys >= {*words.NOISES, words.MASK, words.VALUES, words.QUALITY}


def test_causes_are_sentences():
    for cause in CAUSES.values():
        assert all(text == "" or (text.endswith(".") and text[0].isupper()) for text in cause) and cause.advice
