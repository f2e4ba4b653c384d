"""Every type of error: its fields and its sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from ambient_solve import errors
from ambient_solve.errors import (
    AmbientSolveError,
    AmbiguousAxes,
    Diverged,
    Part,
    ShortVideo,
    UnknownKnob,
    UnnamedArray,
    UnreadableFile,
    WrongAxes,
    first_line,
    on_a_page,
    one_line,
    reason,
    without_folder,
)

SCAN = Path("/srv/people/scan.npz")
MEANINGS = {"shw": "slices", "chw": "coils"}
PLAIN = " A three-dimensional scan is transformed along its third axis first."
EXAMPLES = {
    AmbientSolveError: (AmbientSolveError("Give 1.\nOr 2."), {}, "Give 1.\\nOr 2."),
    UnknownKnob: (
        UnknownKnob("MMPS", "step", ("steps", "gamma")),
        {"owner": "MMPS", "name": "step", "known": ("steps", "gamma")},
        "MMPS has no knob 'step'. Did you mean 'steps'? Known: gamma, steps.",
    ),
    Diverged: (Diverged("They are NaN.", 0.5), {"sigma": 0.5}, "They are NaN."),
    UnreadableFile: (
        UnreadableFile(SCAN, "is empty.", "The mask "),
        {"path": SCAN, "reason": "is empty.", "before": "The mask "},
        "The mask /srv/people/scan.npz is empty.",
    ),
    ShortVideo: (
        ShortVideo(SCAN, 7, "breaks off."),
        {"path": SCAN, "frames": 7, "reason": "breaks off."},
        "/srv/people/scan.npz breaks off.",
    ),
    AmbiguousAxes: (
        AmbiguousAxes(Part("kspace", SCAN), (3, 4, 4), {"chw": "", "shw": ""}),
        {"path": Part("kspace", SCAN), "shape": (3, 4, 4), "choices": {"chw": "", "shw": ""}},
        "kspace of /srv/people/scan.npz has the axes (3, 4, 4), and which are slices, coils, height and width is not "
        f'plain; say so, as axes="chw" or axes="shw".{PLAIN}',
    ),
    WrongAxes: (
        WrongAxes(SCAN, "chww", (3, 4, 4)),
        {"path": SCAN, "axes": "chww", "shape": (3, 4, 4)},
        "axes='chww' does not name the axes (3, 4, 4) of /srv/people/scan.npz; give such as \"chw\".",
    ),
    UnnamedArray: (
        UnnamedArray(SCAN, "kspace", "a, b"),
        {"path": SCAN, "wanted": "kspace", "held": "a, b"},
        "/srv/people/scan.npz has no 'kspace'; it holds a, b: name one as /srv/people/scan.npz:KEY.",
    ),
}


def test_every_type_has_an_example():
    types = [t for t in vars(errors).values() if isinstance(t, type) and issubclass(t, AmbientSolveError)]
    assert set(types) == set(EXAMPLES)


@pytest.mark.parametrize("kind", EXAMPLES)
def test_an_error_has_fields_and_a_sentence(kind):
    error, fields, sentence = EXAMPLES[kind]
    assert isinstance(error, AmbientSolveError) and isinstance(error, ValueError)
    assert str(error) == sentence
    assert {name: getattr(error, name) for name in fields} == fields


@pytest.mark.parametrize("kind", [kind for kind in EXAMPLES if issubclass(kind, UnreadableFile)])
def test_a_file_is_called_by_its_name_on_a_page(kind):
    error, _, sentence = EXAMPLES[kind]
    short = without_folder(error)
    assert type(short) is kind and str(short) == on_a_page(error) == sentence.replace("/srv/people/", "")
    assert {**short.fields, "path": 0} == {**error.fields, "path": 0}
    assert str(type(error)(**error.fields)) == sentence, "the fields are all it was made of"


def test_axes_whose_meaning_is_known_are_told_with_it():
    error = AmbiguousAxes(Part("kspace", SCAN), (3, 4, 4), MEANINGS)
    assert str(error).endswith('has the axes (3, 4, 4): say axes="shw" (slices) or axes="chw" (coils).')


def test_what_others_say_is_shortened_in_one_place():
    quoting = RuntimeError(f"cannot open '{SCAN}'\n  at all.")
    assert reason(quoting, SCAN) == "cannot open 'scan.npz' at all"
    assert str(SCAN) in reason(quoting), "control"
    assert first_line(quoting) == f"cannot open '{SCAN}'" and first_line(quoting, 6) == "cannot"
    assert first_line(RuntimeError()) == "RuntimeError"
    assert one_line(quoting) == f"cannot open '{SCAN}' at all."
